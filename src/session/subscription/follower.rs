//! What follows a route for a stream whose task waits: events that need nothing of that are sent without it.
//!
//! To wake a task for an event, and let it look at all that may have happened to its connection, is most of what
//! an event to a client costs beside the write. Where many wait for the same event, one loop writes to all of
//! them instead.
//!
//! Invariants:
//!
//! - A stream reads its route itself, or has a follower that does; never both. Its task takes the follower
//!   back before it does anything else, and when it is dropped.
//! - A follower gives events, each once and in order. For anything else, its task is woken, and finds the
//!   stream where it was before that.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;

use super::reading::BATCH;
use super::{Cursor, Phase, Source, Subscription, Timer, Woke};
use crate::event::Position;
use crate::feed::routes::{Delivery, DeliveryKind, Read, Route, Seat};
use crate::session::listeners::{Listed, Listener, Progress};

/// A few cost little either way.
const MANY: u32 = 16;

/// What sends a stream's events while its task waits.
pub trait Outlet: Send + Sync {
    /// Has the follower's events sent from now on, and the task woken where that does not do.
    ///
    /// # Errors
    /// The follower, if there is something for the task.
    fn follow(self: Arc<Self>, follower: Follower, task: &Waker) -> Result<(), Follower>;

    /// Ends that: nothing is sent from here on.
    fn stop(&self) -> Option<Follower>;

    /// Whether its client has not taken all that was sent. Until then, it follows nothing.
    fn is_behind(&self) -> bool;
}

/// A stream that has been told that it is ready, and has had everything up to its position.
#[derive(Debug)]
pub struct Follower {
    source: Arc<Source>,
    route: Arc<Route>,
    listener: Arc<Listener>,
    position: Position,
    /// That of [`Cursor`], by its parts, as they are smaller.
    number: u64,
    is_at_end: bool,
    beat: u64,
    seat: Seat,
    epoch: u32,
    listed: Listed,
    /// Whether there is something that only the task can do.
    is_for_task: bool,
}

/// What a look at the route gave.
pub enum Look {
    /// Those that [`Unread`] has. They count as given from here on.
    Events,
    /// Nothing yet; see [`Follower::poll_woken`].
    Nothing,
    /// Something for the task.
    Other,
}

/// What was read of a route last: those who wait for the same event are nearly always at the same place, and
/// take turns at its lock if each of them reads.
#[derive(Debug, Default)]
pub struct Unread {
    of: Option<Place>,
    events: Vec<Arc<Delivery>>,
    /// Counts what was read, to tell it from what was before.
    serial: u64,
}

/// Where and when it was read, and what is behind it.
#[derive(Debug)]
struct Place {
    route: Arc<Route>,
    from: u64,
    round: u32,
    to: Cursor,
    /// Of the last event. Not in the same memory, since each client counts what it has of that.
    position: Option<Position>,
}

impl Unread {
    /// In order.
    pub fn events(&self) -> &[Arc<Delivery>] {
        &self.events
    }

    /// Never the same for others.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Reads what is there, unless it has just done so. `None`: something for the task.
    ///
    /// Signs of life move each client on to where the journal was then, past events of other routes: what
    /// was read from one place is what there is from any other one before its first event.
    fn read(&mut self, route: &Arc<Route>, from: u64, round: u32, most: usize) -> Option<&Place> {
        let first = self.events.first().map_or(u64::MAX, |first| first.number);
        let is_known = |place: &Place| {
            (place.from..=first).contains(&from)
                && place.round == round
                && Arc::ptr_eq(&place.route, route)
        };
        if !self.of.as_ref().is_some_and(is_known) {
            self.of = None;
            let mut to = Cursor::at(from);
            (self.events, to.is_at_end) = match route.read(&mut to.number, BATCH) {
                Read::Deliveries { found, are_all } => (found, are_all),
                Read::UpToDate => (Vec::new(), true),
                Read::Behind => return None,
            };
            let is_plain = |it: &Arc<Delivery>| matches!(it.kind, DeliveryKind::Event(_));
            let is_rising = self.events.windows(2).all(|pair| pair[0].token < pair[1].token);
            let bytes: usize = self.events.iter().map(|delivery| delivery.json.len()).sum();
            if bytes > most || !is_rising || !self.events.iter().all(is_plain) {
                return None;
            }
            self.serial += 1;
            let position = self.events.last().map(|last| last.token.apart());
            self.of = Some(Place { route: route.clone(), from, round, to, position });
        }
        self.of.as_ref()
    }
}

impl Follower {
    /// Of what its stream shares with the others.
    pub fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// Whether there is something, if it is events of at most so many bytes together.
    pub fn look(&mut self, unread: &mut Unread, most: usize) -> Look {
        if self.route.wakers.watch(&mut self.seat) {
            self.is_at_end = false;
        }
        if self.is_for_task || self.route.is_retired() || self.is_stopped() {
            return Look::Other;
        }
        if self.is_at_end {
            self.listener.note(self.listed, Progress::Following(self.number));
            return Look::Nothing;
        }
        let (from, round) = (self.number, self.seat.round());
        let place = unread.read(&self.route, from, round, most);
        // Once more: it may have been stopped before what was just read was written.
        let Some(Place { to, position, .. }) = place.filter(|_| !self.is_stopped()) else {
            return Look::Other;
        };
        let (to, position) = (*to, position.clone());
        // Where it has some of them already, its task sorts that out.
        if unread.events.first().is_some_and(|first| first.token <= self.position) {
            return Look::Other;
        }
        (self.number, self.is_at_end) = (to.number.max(from), to.is_at_end);
        match position {
            Some(position) => {
                self.position = position;
                Look::Events
            }
            None => self.look(unread, most),
        }
    }

    /// Whether the history has a break, or the caller's right is in question.
    fn is_stopped(&self) -> bool {
        self.source.feed.epoch() != self.epoch || self.listener.is_held()
    }

    /// Ready when there is something new; else this is woken then.
    pub fn poll_woken(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.route.wakers.poll_woken(&mut self.seat, cx)
    }

    /// Its client was sent something at this moment.
    pub fn note_sent(&mut self, now: Instant) {
        self.beat = self.source.shared.beat_after(now);
    }

    /// Leaves what is next to the task.
    pub fn leave_to_task(&mut self) {
        self.is_for_task = true;
    }
}

impl Subscription {
    /// Whether so many listen to its route that a loop for all of them is worth its memory.
    pub fn has_many_beside(&self) -> bool {
        self.route.subscriber_count() >= MANY
    }

    /// Only what has everything, and is told of nothing but events.
    fn lend(&mut self) -> Option<Follower> {
        let Phase::Following(cursor) = &self.phase else { return None };
        if !self.begun.was_ready() || !self.ready.is_empty() {
            return None;
        }
        Some(Follower {
            source: self.source.clone(),
            route: self.route.clone(),
            listener: self.listener.clone(),
            position: self.position.clone()?,
            number: cursor.number,
            is_at_end: cursor.is_at_end,
            beat: self.beat,
            seat: std::mem::take(&mut self.seat),
            epoch: self.epoch,
            listed: self.listed,
            is_for_task: false,
        })
    }

    fn take_back(&mut self, follower: Follower) {
        let Follower { position, number, is_at_end, beat, seat, .. } = follower;
        let cursor = Cursor { number, is_at_end };
        (self.position, self.phase) = (Some(position), Phase::Following(cursor));
        (self.beat, self.seat) = (beat, seat);
    }

    /// Waits, and lets an outlet send what comes meanwhile.
    pub(super) async fn wait_beside(
        &mut self,
        outlet: &Arc<dyn Outlet>,
        mut timer: Option<&mut Timer>,
    ) -> Woke {
        let mut lent = Lent { subscription: self, outlet };
        poll_fn(move |cx| {
            // What its client does not have is no place that an operator is told.
            if lent.take_back() && !lent.outlet.is_behind() {
                return Poll::Ready(Woke::Wake);
            }
            if timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready()) {
                return Poll::Ready(Woke::Beat);
            }
            lent.give(cx).map(|()| Woke::Wake)
        })
        .await
    }
}

/// A subscription whose follower may be out.
struct Lent<'a> {
    subscription: &'a mut Subscription,
    outlet: &'a Arc<dyn Outlet>,
}

impl Lent<'_> {
    /// Ready when there is something for the task.
    fn give(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(follower) = self.subscription.lend() {
            match self.outlet.clone().follow(follower, cx.waker()) {
                Ok(()) => return Poll::Pending,
                Err(follower) => self.subscription.take_back(follower),
            }
        }
        self.subscription.poll_woken(cx)
    }

    /// Says whether there is something for the task.
    fn take_back(&mut self) -> bool {
        let Some(follower) = self.outlet.stop() else { return false };
        let is_for_task = follower.is_for_task;
        self.subscription.take_back(follower);
        is_for_task
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.take_back();
    }
}
