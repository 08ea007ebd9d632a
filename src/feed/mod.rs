//! One upstream as its readers see it: the journal and the routes, under one lock.
//!
//! Invariants:
//!
//! - There is one writer: only the upstream's task appends. Appending and joining take the same
//!   lock, so a route that joins has every event from the number that it receives.
//! - Events are evaluated without the lock, between two short holds of it. The first puts the
//!   events into the journal and finds the routes that they may concern; the second hands out the
//!   deliveries. Until then, no client receives a position after these events.
//! - Lock order: the feed, then a route. Nothing awaits while a lock is held.
//! - The lock is taken once for several events, and for each join and heartbeat, but not for each
//!   delivery: a subscription that is up to date reads its route only.

mod collections;
pub mod journal;
mod key;
mod lookback;
pub mod routes;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::watch;

pub use key::{Absence, Collections, FeedKey, Status};
pub use lookback::Back;
use lookback::LookBack;

use crate::event::{ChangeEvent, Position};
use crate::feed::collections::KnownCollections;
use crate::feed::journal::{Journal, JournalLimits, Located};
use crate::feed::routes::{Delivery, LargeDeliveries, Route, RouteTable, Tally};
use crate::filter::{Bound, Filter};
use crate::tasks::Tasks;

/// Of what the journal may hold, the routes' deliveries may take so much beside it, and always
const SHARE: usize = 4;
/// so much.
const LEAST_HELD: usize = 1 << 20;

#[derive(Debug)]
struct Inner {
    /// `None` until the cursor was open for the first time.
    journal: Option<Journal>,
    routes: RouteTable,
    collections: Collections,
    /// Whether its one collection is read by a change stream of its own: the rights allow no more.
    is_alone: bool,
    /// Rises with every change of `collections`: what a cursor with an older list says is void.
    generation: u64,
    /// While what is in the journal is not all handed out: head and end before it.
    handed_out: Option<(Position, u64)>,
    /// The number of the newest event that dropped or renamed a collection.
    last_drop: Option<u64>,
}

/// The journal and the routes of one upstream: one writer, any number of readers.
#[derive(Debug)]
pub struct Feed {
    key: FeedKey,
    limits: JournalLimits,
    inner: Mutex<Inner>,
    /// Whose tokens are taken.
    known: Arc<KnownCollections>,
    lookback: LookBack,
    tasks: Tasks,
    /// What was made of large events for those who lag behind.
    large_deliveries: LargeDeliveries,
    /// Rises when the history breaks: every subscription has to be told.
    epoch: AtomicU32,
    /// Whether events of one cluster time can come from several servers.
    is_sharded: AtomicBool,
    /// The generation of the list, for the upstream's task to follow.
    relisted: watch::Sender<u64>,
    status: watch::Sender<Status>,
    /// Whether the cursor has ever read everything there was.
    was_live: watch::Sender<bool>,
}

/// Where a subscription stands after it joined.
#[derive(Debug)]
pub struct Joined {
    pub route: Arc<Route>,
    pub epoch: u32,
}

impl Feed {
    /// `keep` is how many deliveries a route keeps.
    pub fn new(key: FeedKey, limits: JournalLimits, keep: usize) -> Feed {
        Feed {
            key,
            limits,
            inner: Mutex::new(Inner {
                journal: None,
                routes: RouteTable::new((limits.max_bytes / SHARE).max(LEAST_HELD), keep),
                collections: Collections::These(BTreeSet::new()),
                is_alone: false,
                generation: 0,
                handed_out: None,
                last_drop: None,
            }),
            known: Arc::default(),
            lookback: LookBack::new(limits.max_bytes),
            tasks: Tasks::default(),
            large_deliveries: LargeDeliveries::default(),
            relisted: watch::Sender::new(0),
            epoch: AtomicU32::new(0),
            is_sharded: AtomicBool::new(false),
            status: watch::Sender::new(Status::Starting),
            was_live: watch::Sender::new(false),
        }
    }

    /// A feed for a replay of this one: it reads the same collections of the same deployment.
    pub fn beside(&self, limits: JournalLimits, keep: usize) -> Feed {
        let feed = Feed::new(self.key.clone(), limits, keep);
        feed.set_sharded(self.is_sharded.load(Ordering::Relaxed));
        Feed { known: self.known.clone(), ..feed }.within(&self.tasks)
    }

    /// The same, with its tasks in this set.
    #[must_use]
    pub fn within(self, tasks: &Tasks) -> Feed {
        Feed { tasks: tasks.clone(), ..self }
    }

    /// The database, or the collection, that it reads, and with which images.
    pub fn key(&self) -> &FeedKey {
        &self.key
    }

    /// Counts how often the numbers began anew: a cursor of an earlier epoch is of no use.
    pub fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    /// As of now; it may have changed when it is looked at.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Tells those who wait for it, if it is another one.
    pub fn set_status(&self, status: Status) {
        if status == Status::Live {
            self.was_live.send_if_modified(|was| !std::mem::replace(was, true));
        }
        self.status.send_if_modified(|current| {
            let is_new = *current != status;
            *current = status;
            is_new
        });
    }

    /// Whether the cursor has ever caught up; then the feed can say where "now" is.
    pub fn was_live(&self) -> bool {
        *self.was_live.borrow()
    }

    /// Turns true once, when the cursor has caught up for the first time.
    pub fn watch_was_live(&self) -> watch::Receiver<bool> {
        self.was_live.subscribe()
    }

    /// Joins the route of a filter with these values.
    pub fn join(&self, filter: &Arc<Filter>, bound: Bound) -> Joined {
        let mut inner = self.inner.lock();
        let complete_from = inner.journal.as_ref().map_or(0, Journal::end);
        let route = inner.routes.join(filter, bound, complete_from);
        Joined { route, epoch: self.epoch() }
    }

    /// Joins the route that is to this feed what `other` is to its own.
    pub fn join_as(&self, other: &Route) -> Arc<Route> {
        let mut inner = self.inner.lock();
        let complete_from = inner.journal.as_ref().map_or(0, Journal::end);
        inner.routes.join_as(other, complete_from)
    }

    /// One subscription less; the last one takes the route along.
    pub fn leave(&self, route: &Arc<Route>) {
        self.inner.lock().routes.leave(route);
    }

    /// Where reading goes on after a position; `None` before the cursor was open.
    pub fn locate(&self, position: &Position) -> Option<Located> {
        self.inner.lock().journal.as_ref().map(|journal| journal.locate(position))
    }

    /// Whether a collection was dropped or renamed at this place of the journal or behind it.
    pub fn has_dropped_since(&self, number: u64) -> bool {
        self.inner.lock().last_drop.is_some_and(|last| last >= number)
    }

    /// [`Feed::locate`] for a client of this filter. Its token is placed by the order, unless it is of a
    /// collection that is not known to be the filter's.
    pub fn locate_for(&self, filter: &Filter, position: &Position) -> Option<Located> {
        match self.locate(position)? {
            Located::At(_) if !self.knows(filter, position) => Some(Located::Unknown),
            located => Some(located),
        }
    }

    /// A place that was read, as one that is not of a collection; as it is where that is not exact.
    pub fn without_collection(&self, position: Position) -> Position {
        match self.is_sharded.load(Ordering::Relaxed) {
            true => position,
            false => position.past_event().unwrap_or(position),
        }
    }

    /// Whether a position may have been given to clients of this filter, as far as its collection
    /// tells.
    pub fn knows(&self, filter: &Filter, position: &Position) -> bool {
        position
            .collection_uuid()
            .is_none_or(|uuid| self.known.holds(uuid, filter.namespace.collection.as_deref()))
    }

    /// Notes what MongoDB told of a collection: 32 hexadecimal digits, in capitals, and its name.
    pub fn note_collection(&self, uuid: &str, name: &str) {
        self.known.note(uuid, name);
    }

    /// The newest position, and the number that the next event will have.
    pub fn now(&self) -> Option<(Position, u64)> {
        self.inner.lock().journal.as_ref().map(|journal| (journal.head().clone(), journal.end()))
    }

    /// Read past up to here, and kept from here on.
    pub fn span(&self) -> Option<(Position, Position)> {
        let inner = self.inner.lock();
        inner.journal.as_ref().map(|journal| (journal.floor().clone(), journal.head().clone()))
    }

    /// Events from a number on, at most `max`, with the number after them; `None` when the first
    /// of them is gone.
    fn events_from(&self, number: u64, max: usize) -> Option<Vec<(u64, Arc<ChangeEvent>)>> {
        let inner = self.inner.lock();
        let events = inner.journal.as_ref()?.from(number)?;
        Some(events.take(max).map(|(number, event)| (number, event.clone())).collect())
    }

    /// A position past everything that a cursor on this route has to know, that names no document,
    /// and the number from which on it has to look; `None` while something is still to be sent.
    pub fn position_without_document(&self, route: &Route, cursor: u64) -> Option<(Position, u64)> {
        let inner = self.inner.lock();
        let journal = inner.journal.as_ref()?;
        if !route.is_up_to_date(cursor) {
            return None;
        }
        let (head, end) = match &inner.handed_out {
            Some((head, end)) => (head, *end),
            None => (journal.head(), journal.end()),
        };
        if cursor > end {
            return None;
        }
        Some((self.without_document(head), end))
    }

    /// A place up to which everything was read, as one that names no document.
    pub fn without_document(&self, position: &Position) -> Position {
        // With several shards, another one may still have an event of the same time that sorts
        // before this one: only what lies before that time is certain.
        match self.is_sharded.load(Ordering::Relaxed) && position.names_document() {
            true => Position::before(position.time()),
            false => position.without_document(),
        }
    }

    /// How far behind the wall clock the newest position is, in seconds. An idle deployment writes
    /// a no-op every ten seconds, so up to ten are normal.
    pub fn lag_seconds(&self) -> Option<f64> {
        let head = self.inner.lock().journal.as_ref()?.head().time();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
        Some((now - f64::from(head.time)).max(0.0))
    }

    /// The cluster time of the event of a number, or of the oldest that is kept, in seconds; `None`
    /// where nothing is kept.
    pub fn time_at(&self, number: u64) -> Option<u32> {
        let inner = self.inner.lock();
        let journal = inner.journal.as_ref()?;
        let event = journal.get(number.max(journal.first()))?;
        Some(event.token().time().time)
    }

    /// What a stream has cost so far, and how many different values its clients listen with.
    pub fn tally(&self, stream: &str) -> (Tally, usize) {
        self.inner.lock().routes.tally(stream)
    }

    /// The newest events of a stream from a number on, as its clients see them, the oldest first: at most
    /// so many of those that are held for them.
    pub fn latest(&self, stream: &str, from: u64, most: usize) -> Vec<Arc<Delivery>> {
        self.inner.lock().routes.latest(stream, from, most)
    }

    /// How many routes it has: one for each filter and set of values in use.
    pub fn route_count(&self) -> usize {
        self.inner.lock().routes.len()
    }

    /// The number of the oldest event that is kept, and the number that the next one will have.
    pub fn numbers(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        inner.journal.as_ref().map_or((0, 0), |journal| (journal.first(), journal.end()))
    }

    /// What the journal holds, in bytes.
    pub fn journal_bytes(&self) -> usize {
        self.inner.lock().journal.as_ref().map_or(0, Journal::bytes)
    }
}
