//! The bounded ring of recent events of one upstream: written once, read by every cursor.
//!
//! Pure data. [`crate::feed`] keeps it under one lock with the routes, and decides who may use it.
//! Events are numbered: a number has a meaning within one process only, a [`Position`] everywhere.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::event::{ChangeEvent, Position};

/// The limits of the journal.
#[derive(Debug, Clone, Copy)]
pub struct JournalLimits {
    pub window: Duration,
    pub max_bytes: usize,
}

/// Where a client's position is, relative to the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Located {
    /// Everything after it begins with the event of this number.
    At(u64),
    /// Older than what is kept.
    Gone,
    /// The token of an event in a collection that nothing is known of: of another deployment, of
    /// another collection, or of one that had no events lately.
    Unknown,
}

/// Complete for everything after `floor` and up to `head`.
#[derive(Debug)]
pub struct Journal {
    events: VecDeque<Arc<ChangeEvent>>,
    first: u64,
    floor: Position,
    head: Position,
    bytes: usize,
    limits: JournalLimits,
}

impl Journal {
    /// An empty journal of a stream that was opened at `start`.
    pub fn starting_at(start: Position, limits: JournalLimits) -> Journal {
        Journal {
            events: VecDeque::new(),
            first: 0,
            floor: start.clone(),
            head: start,
            bytes: 0,
            limits,
        }
    }

    /// Drops everything and begins again. Numbers continue, so no old number means a new event.
    pub fn restart_at(&mut self, start: Position) {
        self.first = self.end();
        self.events.clear();
        self.bytes = 0;
        self.floor = start.clone();
        self.head = start;
    }

    /// Appends the next event and drops events beyond the limits.
    pub fn push(&mut self, event: Arc<ChangeEvent>) -> u64 {
        self.bytes += event.size();
        self.head = event.token().clone();
        let read_at = event.read_at();
        self.events.push_back(event);
        let number = self.end() - 1;
        while self.bytes > self.limits.max_bytes && self.events.len() > 1 {
            self.evict_first();
        }
        self.expire(read_at);
        number
    }

    /// Notes that everything up to `head` has been read.
    pub fn advance(&mut self, head: Position) {
        if head > self.head {
            self.head = head;
        }
    }

    /// Drops the events before this number.
    pub fn evict_before(&mut self, number: u64) {
        while self.first < number && !self.events.is_empty() {
            self.evict_first();
        }
    }

    /// Drops events that have been here for longer than the window.
    pub fn expire(&mut self, now: Instant) {
        while let Some(event) = self.events.front() {
            if now.saturating_duration_since(event.read_at()) <= self.limits.window {
                break;
            }
            self.evict_first();
        }
    }

    fn evict_first(&mut self) {
        if let Some(event) = self.events.pop_front() {
            self.bytes -= event.size();
            self.first += 1;
            self.floor = event.token().clone();
        }
    }

    /// The position up to which everything has been read.
    pub fn head(&self) -> &Position {
        &self.head
    }

    /// The oldest position after which the journal is complete.
    pub fn floor(&self) -> &Position {
        &self.floor
    }

    /// The number of the oldest event that is kept.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The number that the next event will have.
    pub fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// What the events take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The event of a number; `None` when it is no longer kept.
    pub fn get(&self, number: u64) -> Option<&Arc<ChangeEvent>> {
        self.events.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// The events from a number on; `None` when that one is no longer kept.
    pub fn from(
        &self,
        number: u64,
    ) -> Option<impl Iterator<Item = (u64, &Arc<ChangeEvent>)> + use<'_>> {
        let skip = usize::try_from(number.checked_sub(self.first)?).ok()?;
        if skip > self.events.len() {
            return None;
        }
        Some(
            self.events
                .iter()
                .skip(skip)
                .enumerate()
                .map(move |(offset, event)| (number + offset as u64, event)),
        )
    }

    /// Where reading goes on for a client that has everything up to `position`. By the order alone:
    /// whether an event of that token is here makes no difference, so that nobody can ask for a
    /// document by its token.
    pub fn locate(&self, position: &Position) -> Located {
        if *position < self.floor {
            return Located::Gone;
        }
        let after = self.events.partition_point(|event| event.token() <= position);
        Located::At(self.first + after as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Timestamp, rawdoc};

    fn token(time: u32) -> String {
        format!("82{time:08X}000000012B022C0100296E04")
    }

    fn event(time: u32) -> Arc<ChangeEvent> {
        let raw = rawdoc! { "_id": { "_data": token(time) }, "operationType": "insert" };
        Arc::new(ChangeEvent::parse(raw).unwrap())
    }

    fn before(time: u32) -> Position {
        Position::before(Timestamp { time, increment: 1 })
    }

    fn journal(max_bytes: usize) -> Journal {
        let limits = JournalLimits { window: Duration::from_secs(60), max_bytes };
        Journal::starting_at(before(10), limits)
    }

    #[test]
    fn a_position_is_at_the_first_event_after_it() {
        let mut journal = journal(1 << 20);
        for time in [20, 30, 40] {
            journal.push(event(time));
        }
        assert_eq!(journal.locate(&before(9)), Located::Gone);
        assert_eq!(journal.locate(&before(10)), Located::At(0));
        assert_eq!(journal.locate(&before(25)), Located::At(1));
        assert_eq!(journal.locate(event(30).token()), Located::At(2));
        assert_eq!(journal.locate(event(40).token()), Located::At(3));
        assert_eq!(journal.locate(&before(99)), Located::At(3));
        // Of events that there never were, or are not read yet: by the order, like the others.
        assert_eq!(journal.locate(event(35).token()), Located::At(2));
        assert_eq!(journal.locate(event(50).token()), Located::At(3));
    }

    #[test]
    fn what_is_evicted_is_gone_and_not_skipped() {
        let size = event(20).size();
        let mut journal = journal(size * 2);
        for time in [20, 30, 40, 50] {
            journal.push(event(time));
        }
        assert_eq!((journal.first(), journal.end(), journal.bytes()), (2, 4, size * 2));
        assert_eq!(journal.locate(event(20).token()), Located::Gone);
        assert_eq!(journal.locate(event(30).token()), Located::At(2));
        assert!(journal.from(1).is_none());
        let numbers: Vec<u64> = journal.from(2).unwrap().map(|(number, _)| number).collect();
        assert_eq!(numbers, [2, 3]);
    }

    #[test]
    fn a_restart_never_reuses_a_number() {
        let mut journal = journal(1 << 20);
        journal.push(event(20));
        journal.restart_at(before(30));
        assert_eq!((journal.first(), journal.end()), (1, 1));
        assert_eq!(journal.locate(event(20).token()), Located::Gone);
        assert_eq!(journal.push(event(40)), 1);
    }
}
