//! Whose snapshot query may be under way, and which ones wait: fair by asker, and bounded.
//!
//! Invariants:
//!
//! - Turns go round the askers that have queries waiting. However many one of them has, it delays
//!   another by one query for each turn, not by its whole line.
//! - Beyond `max_waiting`, the newest query of the asker that has most goes. So one asker may have all
//!   places that nobody else wants, as when all clients come through one balancer, and it is never the
//!   reason to refuse another.
//! - A query that several askers wait for is that of the one with the fewest: nobody can use up the
//!   places of those who happen to want the same.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Who waits for a query: a caller who is known, else a client's network, as a keyed digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker(pub u64);

/// Where a query is, in [`Ticket::standing`].
const OUTSIDE: u8 = 0;
const WAITING: u8 = 1;
const UNDER_WAY: u8 = 2;
const PUT_OUT: u8 = 3;

/// What the queue knows of one query. Changed under the queue's lock only.
#[derive(Debug)]
pub(super) struct Ticket {
    standing: AtomicU8,
    asker: AtomicU64,
    /// Told when `standing` changes from [`WAITING`].
    moved: Notify,
}

impl Ticket {
    /// A ticket that is not in the queue yet; [`Queue::enter`] takes it.
    pub fn new(asker: Asker) -> Arc<Ticket> {
        let (standing, asker) = (AtomicU8::new(OUTSIDE), AtomicU64::new(asker.0));
        Arc::new(Ticket { standing, asker, moved: Notify::new() })
    }

    /// Whether it had to go to make room for another asker's. It does not come back.
    pub fn is_put_out(&self) -> bool {
        self.standing() == PUT_OUT
    }

    fn standing(&self) -> u8 {
        self.standing.load(Ordering::Acquire)
    }

    fn move_to(&self, standing: u8) {
        self.standing.store(standing, Ordering::Release);
        self.moved.notify_one();
    }

    fn asker(&self) -> Asker {
        Asker(self.asker.load(Ordering::Relaxed))
    }
}

/// The queries of one asker that wait, oldest first; never empty.
#[derive(Debug)]
struct Line {
    asker: Asker,
    tickets: VecDeque<Arc<Ticket>>,
}

#[derive(Debug)]
struct Lines {
    /// How many more queries may be under way.
    free: usize,
    waiting: usize,
    /// In the order of their turns. Searched one by one: there are at most as many as may wait.
    lines: VecDeque<Line>,
}

/// Queries that are under way, and those that wait to be.
#[derive(Debug)]
pub(super) struct Queue {
    max_waiting: usize,
    lines: Mutex<Lines>,
}

/// A query's place in the queue, and its turn once it has one. Given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    queue: Arc<Queue>,
    ticket: Arc<Ticket>,
}

impl Queue {
    /// `turns`: queries under way at a time. At most `max_waiting` others wait.
    pub fn new(turns: usize, max_waiting: usize) -> Arc<Queue> {
        let lines = Lines { free: turns, waiting: 0, lines: VecDeque::new() };
        Arc::new(Queue { max_waiting, lines: Mutex::new(lines) })
    }

    /// Has a query wait. It may be put out at once.
    pub fn enter(self: &Arc<Queue>, ticket: &Arc<Ticket>) -> Place {
        let mut lines = self.lines.lock();
        ticket.move_to(WAITING);
        lines.push(ticket.clone());
        lines.give_turns();
        if lines.waiting > self.max_waiting {
            lines.put_out_one();
        }
        Place { queue: self.clone(), ticket: ticket.clone() }
    }

    /// Another asker waits for this query as well.
    pub fn share(&self, ticket: &Arc<Ticket>, asker: Asker) {
        let mut lines = self.lines.lock();
        if ticket.standing() != WAITING || ticket.asker() == asker {
            return;
        }
        if lines.count_of(asker) + 1 < lines.count_of(ticket.asker()) {
            lines.take_out(ticket);
            ticket.asker.store(asker.0, Ordering::Relaxed);
            lines.push(ticket.clone());
        }
    }
}

impl Lines {
    fn count_of(&self, asker: Asker) -> usize {
        let line = self.lines.iter().find(|line| line.asker == asker);
        line.map_or(0, |line| line.tickets.len())
    }

    fn push(&mut self, ticket: Arc<Ticket>) {
        self.waiting += 1;
        let asker = ticket.asker();
        match self.lines.iter_mut().find(|line| line.asker == asker) {
            Some(line) => line.tickets.push_back(ticket),
            None => self.lines.push_back(Line { asker, tickets: [ticket].into() }),
        }
    }

    fn give_turns(&mut self) {
        while self.free > 0
            && let Some(mut line) = self.lines.pop_front()
        {
            if let Some(ticket) = line.tickets.pop_front() {
                self.free -= 1;
                self.waiting -= 1;
                ticket.move_to(UNDER_WAY);
            }
            // The others have theirs first.
            if !line.tickets.is_empty() {
                self.lines.push_back(line);
            }
        }
    }

    /// Of several askers that have equally many, it is the one whose turn is last, as a new one's is.
    fn put_out_one(&mut self) {
        let newest = self.lines.iter_mut().max_by_key(|line| line.tickets.len());
        if let Some(ticket) = newest.and_then(|line| line.tickets.back().cloned()) {
            self.take_out(&ticket);
            ticket.move_to(PUT_OUT);
        }
    }

    fn take_out(&mut self, ticket: &Arc<Ticket>) {
        let asker = ticket.asker();
        let Some(at) = self.lines.iter().position(|line| line.asker == asker) else { return };
        let tickets = &mut self.lines[at].tickets;
        if let Some(place) = tickets.iter().position(|other| Arc::ptr_eq(other, ticket)) {
            tickets.remove(place);
            self.waiting -= 1;
        }
        if tickets.is_empty() {
            self.lines.remove(at);
        }
    }
}

impl Place {
    /// Waits for the query's turn; `false`: it was put out.
    pub async fn turn(&self) -> bool {
        loop {
            match self.ticket.standing() {
                UNDER_WAY => return true,
                WAITING => self.ticket.moved.notified().await,
                _ => return false,
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lines = self.queue.lines.lock();
        match self.ticket.standing() {
            WAITING => lines.take_out(&self.ticket),
            UNDER_WAY => lines.free += 1,
            _ => return,
        }
        self.ticket.standing.store(OUTSIDE, Ordering::Release);
        lines.give_turns();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has a query of this asker wait.
    fn enter(queue: &Arc<Queue>, asker: u64) -> Place {
        queue.enter(&Ticket::new(Asker(asker)))
    }

    fn has_turn(place: &Place) -> bool {
        place.ticket.standing() == UNDER_WAY
    }

    #[test]
    fn turns_go_round_the_askers() {
        let queue = Queue::new(1, 100);
        let first = enter(&queue, 1);
        let crowd: Vec<Place> = (0..9).map(|_| enter(&queue, 1)).collect();
        let (second, third) = (enter(&queue, 2), enter(&queue, 3));
        assert!(has_turn(&first));
        drop(first);
        assert!(has_turn(&crowd[0]), "it was first");
        drop(crowd);
        assert!(has_turn(&second));
        // Again, with the crowd's next behind both of the others.
        let mut crowd: VecDeque<Place> = (0..9).map(|_| enter(&queue, 1)).collect();
        drop(second);
        assert!(has_turn(&third));
        let fourth = enter(&queue, 4);
        drop(third);
        assert!(has_turn(&crowd[0]) && !has_turn(&fourth));
        crowd.pop_front();
        assert!(has_turn(&fourth));
        drop((crowd, fourth));
        let lines = queue.lines.lock();
        assert_eq!((lines.free, lines.waiting, lines.lines.len()), (1, 0, 0));
    }

    #[tokio::test]
    async fn who_has_most_makes_room() {
        let queue = Queue::new(1, 4);
        let under_way = enter(&queue, 1);
        let crowd: Vec<Place> = (0..4).map(|_| enter(&queue, 1)).collect();
        let put_out =
            |places: &[Place]| places.iter().map(|it| it.ticket.is_put_out()).collect::<Vec<_>>();
        // Nobody else wants them: all are its own, and the newest goes.
        assert!(enter(&queue, 1).ticket.is_put_out());
        assert_eq!(put_out(&crowd), [false; 4]);
        let others = [enter(&queue, 2), enter(&queue, 3)];
        assert_eq!(put_out(&crowd), [false, false, true, true]);
        assert!(!crowd[3].turn().await);
        let one_more = enter(&queue, 4);
        assert_eq!(put_out(&crowd), [false, true, true, true]);
        // All have one: nobody has too many, and the newest has to go.
        let late = enter(&queue, 5);
        assert!(late.ticket.is_put_out() && put_out(&others) == [false; 2]);
        drop((late, crowd, under_way));
        assert!(others[0].turn().await && !has_turn(&others[1]));
        drop(others);
        assert!(one_more.turn().await);
    }

    #[test]
    fn a_query_is_that_of_the_asker_with_the_fewest() {
        let queue = Queue::new(1, 3);
        let _under_way = enter(&queue, 9);
        let crowd: Vec<Place> = (0..3).map(|_| enter(&queue, 1)).collect();
        queue.share(&crowd[2].ticket, Asker(2));
        let _other = enter(&queue, 3);
        let put_out: Vec<bool> = crowd.iter().map(|place| place.ticket.is_put_out()).collect();
        assert_eq!(put_out, [false, true, false]);
        // It is not moved back to where there are no fewer.
        queue.share(&crowd[2].ticket, Asker(1));
        assert_eq!(crowd[2].ticket.asker(), Asker(2));
    }
}
