//! One upstream as its readers see it: the journal and the routes under one lock.
//!
//! Law of this file:
//!
//! - One writer: the upstream's task appends. Appending and joining take the same lock, so a route
//!   that joins is complete from the number that it was told, with nothing in between.
//! - What events are for their routes is found out without the lock, between two holds of it: one
//!   puts them into the journal and says whom they may concern, the next hands out what was made of
//!   them. Until then nobody is told a position behind them.
//! - Lock order: the feed, then a route. Nothing awaits while a lock is held.
//! - The lock is taken for some events together, per join and per heartbeat, not per delivery: a
//!   subscription that is up to date reads its route alone.

mod collections;
pub mod journal;
mod key;
mod lookback;
pub mod routes;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::watch;

pub use key::{Absence, Collections, FeedKey, Status};
pub use lookback::Back;
use lookback::LookBack;

use crate::event::{ChangeEvent, Position};
use crate::feed::collections::KnownCollections;
use crate::feed::journal::{Journal, Limits, Located};
use crate::feed::routes::{LargeDeliveries, Offer, Route, RouteTable};
use crate::filter::{Bound, Filter};

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
}

/// Events that are in the journal, and the routes that they may concern.
#[must_use]
pub(crate) struct Offered<'f> {
    feed: &'f Feed,
    offers: Vec<Offer>,
}

impl Offered<'_> {
    /// Finds out what the events are for their routes, hands that out, and wakes who wants it.
    pub fn hand_out(mut self) {
        let made: Vec<_> = std::mem::take(&mut self.offers)
            .into_iter()
            .map(|offer| match offer.is_large() {
                true => apart(|| offer.make()),
                false => offer.make(),
            })
            .collect();
        {
            let mut inner = self.feed.inner.lock();
            for made in made {
                inner.routes.hand_out(made);
            }
            inner.handed_out = None;
        }
        std::mem::forget(self);
    }
}

impl Drop for Offered<'_> {
    /// In a panic: nobody will be told of these events, so everybody is told of that.
    fn drop(&mut self) {
        let head = self.feed.inner.lock().journal.as_ref().map(|journal| journal.head().clone());
        if let Some(head) = head {
            self.feed.restart_at(&head);
        }
        self.feed.inner.lock().handed_out = None;
    }
}

/// What takes long, without keeping the tasks of this thread waiting.
fn apart<T>(work: impl FnOnce() -> T) -> T {
    let is_threaded = Handle::try_current()
        .is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
    if is_threaded { tokio::task::block_in_place(work) } else { work() }
}

/// The journal and the routes of one upstream: one writer, any number of readers.
#[derive(Debug)]
pub struct Feed {
    key: FeedKey,
    limits: Limits,
    /// Deliveries that a route keeps for slow readers.
    keep: usize,
    inner: Mutex<Inner>,
    /// Whose tokens are taken.
    known: Arc<KnownCollections>,
    lookback: LookBack,
    /// What was made of large events for those who lag behind.
    large_deliveries: LargeDeliveries,
    /// Rises when the history breaks: every subscription has to be told.
    epoch: AtomicU64,
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
    pub epoch: u64,
}

impl Feed {
    pub fn new(key: FeedKey, limits: Limits, keep: usize) -> Feed {
        Feed {
            key,
            limits,
            keep,
            inner: Mutex::new(Inner {
                journal: None,
                routes: RouteTable::new((limits.max_bytes / SHARE).max(LEAST_HELD)),
                collections: Collections::These(BTreeSet::new()),
                is_alone: false,
                generation: 0,
                handed_out: None,
            }),
            known: Arc::default(),
            lookback: LookBack::new(limits.max_bytes),
            large_deliveries: LargeDeliveries::default(),
            relisted: watch::Sender::new(0),
            epoch: AtomicU64::new(0),
            is_sharded: AtomicBool::new(false),
            status: watch::Sender::new(Status::Starting),
            was_live: watch::Sender::new(false),
        }
    }

    /// A feed for a replay of this one: it reads the same collections of the same deployment.
    pub fn beside(&self, limits: Limits, keep: usize) -> Feed {
        let feed = Feed::new(self.key.clone(), limits, keep);
        feed.set_sharded(self.is_sharded.load(Ordering::Relaxed));
        Feed { known: self.known.clone(), ..feed }
    }

    pub fn key(&self) -> &FeedKey {
        &self.key
    }

    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

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

    // The writer's side.

    /// What the cursor was opened on; said before its events come.
    pub fn set_sharded(&self, is_sharded: bool) {
        self.is_sharded.store(is_sharded, Ordering::Relaxed);
    }

    /// Whether events of one cluster time can come from several servers.
    pub fn is_sharded(&self) -> bool {
        self.is_sharded.load(Ordering::Relaxed)
    }

    /// The cursor is open and reads what comes after `start`: either for the first time or again
    /// without a break.
    pub fn opened_at(&self, start: &Position) {
        let mut inner = self.inner.lock();
        if inner.journal.is_none() {
            inner.journal = Some(Journal::starting_at(start.clone(), self.limits));
        }
    }

    /// What was between the last event and `start` can no longer be read.
    pub fn restart_at(&self, start: &Position) {
        let mut inner = self.inner.lock();
        let Inner { journal, routes, .. } = &mut *inner;
        match journal {
            Some(journal) => {
                journal.restart_at(start.clone());
                self.epoch.fetch_add(1, Ordering::AcqRel);
                routes.restart_at(journal.end());
            }
            None => *journal = Some(Journal::starting_at(start.clone(), self.limits)),
        }
    }

    /// Makes sure that the collections of these filters are read, from the newest position on.
    ///
    /// Takes effect at once: whatever a cursor with the old list reads from now on is not taken,
    /// so the new cursor misses nothing between.
    pub fn read_also(&self, filters: &[Arc<Filter>]) {
        let mut inner = self.inner.lock();
        let Inner { journal, routes, collections, generation, .. } = &mut *inner;
        let mut is_new = false;
        for filter in filters {
            is_new |= collections.add(filter.namespace.collection.as_deref());
        }
        if !is_new {
            return;
        }
        *generation += 1;
        if let Some(journal) = journal {
            let head = journal.head().clone();
            journal.restart_at(head);
            routes.trim(journal.first());
        }
        self.relisted.send_replace(*generation);
    }

    /// What the next cursor has to read, and the generation in whose name it speaks.
    pub fn collections(&self) -> (u64, Collections) {
        let inner = self.inner.lock();
        let alone = if inner.is_alone { inner.collections.alone() } else { None };
        (inner.generation, alone.unwrap_or_else(|| inner.collections.clone()))
    }

    /// Notes whether the rights allow a change stream of its one collection, and none of the
    /// database.
    pub fn set_alone(&self, is_alone: bool) {
        self.inner.lock().is_alone = is_alone;
    }

    /// Whether a collection can be added to what is read only at the cost of what is read.
    pub fn would_lose_by(&self, collection: Option<&str>) -> bool {
        let inner = self.inner.lock();
        inner.is_alone && inner.collections.clone().add(collection)
    }

    /// Whether more than one collection is read.
    pub fn reads_several(&self) -> bool {
        self.inner.lock().collections.alone().is_none()
    }

    /// Rises when a collection is added to what is read.
    pub fn generation(&self) -> u64 {
        self.inner.lock().generation
    }

    /// Follows the generation of the list.
    pub fn watch_generation(&self) -> watch::Receiver<u64> {
        self.relisted.subscribe()
    }

    /// Appends the next event and wakes the clients that want it; see [`Feed::append_all`].
    #[must_use]
    pub fn append(&self, generation: u64, event: ChangeEvent) -> bool {
        self.append_all(generation, [event])
    }

    /// Appends the next events and wakes the clients that want them. Says whether they were taken:
    /// not before [`Feed::opened_at`], and not from a cursor with an old list. One that was read
    /// before is taken and changes nothing, whatever a cursor does: history never goes back.
    #[must_use]
    pub fn append_all(
        &self,
        generation: u64,
        events: impl IntoIterator<Item = ChangeEvent>,
    ) -> bool {
        let offered = self.take_in(generation, events);
        let was_taken = offered.is_some();
        if let Some(offered) = offered {
            offered.hand_out();
        }
        was_taken
    }

    /// The first half of [`Feed::append_all`]; the other is [`Offered::hand_out`], before anything
    /// else is appended.
    pub(crate) fn take_in(
        &self,
        generation: u64,
        events: impl IntoIterator<Item = ChangeEvent>,
    ) -> Option<Offered<'_>> {
        let is_sharded = self.is_sharded.load(Ordering::Relaxed);
        let mut inner = self.inner.lock();
        if inner.generation != generation {
            return None;
        }
        let Inner { journal, routes, handed_out, .. } = &mut *inner;
        let journal = journal.as_mut()?;
        *handed_out = Some((journal.head().clone(), journal.end()));
        let mut offers = Vec::new();
        for mut event in events {
            if event.token() <= journal.head() {
                continue;
            }
            if is_sharded {
                event.note_shards();
            }
            if let (Some(uuid), Some(name)) = (event.token().collection_uuid(), event.collection())
            {
                self.known.note(uuid, name);
            }
            let event = Arc::new(event);
            let number = journal.push(event.clone());
            offers.push(routes.offer(number, event));
        }
        Some(Offered { feed: self, offers })
    }

    /// Everything up to `head` has been read. Says whether that was taken, as for
    /// [`Feed::append`].
    #[must_use]
    pub fn advance(&self, generation: u64, head: Position) -> bool {
        let mut inner = self.inner.lock();
        if inner.generation != generation {
            return false;
        }
        match &mut inner.journal {
            Some(journal) => {
                journal.advance(head);
                true
            }
            None => false,
        }
    }

    /// Lets go of what is too old; called now and then.
    pub fn expire(&self) {
        let mut inner = self.inner.lock();
        let Inner { journal, routes, .. } = &mut *inner;
        if let Some(journal) = journal {
            journal.expire(Instant::now());
            routes.trim(journal.first());
        }
    }

    /// Tells the subscriptions of a filter that it is no longer the one in force.
    pub fn retire(&self, filter: &Arc<Filter>) {
        self.inner.lock().routes.retire(filter);
    }

    /// Tells all subscriptions that nothing more comes.
    pub fn retire_all(&self) {
        self.inner.lock().routes.retire_all();
    }

    /// Lets go of the events before this number.
    pub fn evict_before(&self, number: u64) {
        let mut inner = self.inner.lock();
        let Inner { journal, routes, .. } = &mut *inner;
        if let Some(journal) = journal {
            journal.evict_before(number);
            routes.trim(journal.first());
        }
    }

    // The readers' side.

    /// Joins the route of a filter with these values.
    pub fn join(&self, filter: &Arc<Filter>, bound: Bound) -> Joined {
        let mut inner = self.inner.lock();
        let complete_from = inner.journal.as_ref().map_or(0, Journal::end);
        let route = inner.routes.join(filter, bound, complete_from, self.keep);
        Joined { route, epoch: self.epoch() }
    }

    /// Joins the route that is to this feed what `other` is to its own.
    pub fn join_as(&self, other: &Route) -> Arc<Route> {
        let mut inner = self.inner.lock();
        let complete_from = inner.journal.as_ref().map_or(0, Journal::end);
        inner.routes.join_as(other, complete_from, self.keep)
    }

    pub fn leave(&self, route: &Arc<Route>) {
        self.inner.lock().routes.leave(route);
    }

    /// Where reading goes on after a position; `None` before the cursor was open.
    pub fn locate(&self, position: &Position) -> Option<Located> {
        self.inner.lock().journal.as_ref().map(|journal| journal.locate(position))
    }

    /// The same for a client of this filter. Its token is placed by the order, unless it is of a
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
        if !head.names_document() {
            return Some((head.clone(), end));
        }
        // With several shards, another one may still have an event of the same time that sorts
        // before this one: only what lies before that time is certain.
        let past = if self.is_sharded.load(Ordering::Relaxed) { None } else { head.past_event() };
        Some((past.unwrap_or_else(|| Position::before(head.time())), end))
    }

    /// How far behind the wall clock the newest position is, in seconds. An idle deployment writes
    /// a no-op every ten seconds, so up to ten are normal.
    pub fn lag_seconds(&self) -> Option<f64> {
        let head = self.inner.lock().journal.as_ref()?.head().time();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
        Some((now - f64::from(head.time)).max(0.0))
    }

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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use bson::{Timestamp, rawdoc};

    use super::*;

    /// The operation of this index within one transaction.
    fn operation(index: u8) -> ChangeEvent {
        let token = format!("8266F3AAAA000000012B042C01002B{index:02X}6E5A1004D3F046645F0004");
        let raw = rawdoc! {
            "_id": { "_data": token },
            "operationType": "insert",
            "ns": { "db": "shop", "coll": "orders" },
            "documentKey": { "_id": 1 },
            "fullDocument": { "_id": 1 },
        };
        ChangeEvent::parse(raw).unwrap()
    }

    // A file that is changed, and changed back while somebody has not taken notice yet.
    #[test]
    fn nobody_joins_a_route_that_was_retired() {
        let text = "collection: shop.orders\naccess: public\n";
        let read = || {
            Arc::new(crate::filter::parse_filter("orders", Path::new("orders.yaml"), text).unwrap())
        };
        let (old, new) = (read(), read());
        let limits = Limits { window: Duration::from_secs(60), max_bytes: 1 << 20 };
        let feed = Feed::new(FeedKey::of(&old), limits, 16);
        let join = |filter: &Arc<Filter>| feed.join(filter, filter.bind(&[], None).unwrap()).route;
        let slow = join(&old);
        feed.retire(&old);
        let first = join(&new);
        assert!(slow.is_retired() && !first.is_retired());
        feed.leave(&slow);
        assert!(Arc::ptr_eq(&first, &join(&new)));
        assert_eq!(feed.route_count(), 1);
    }

    #[test]
    fn nobody_is_told_a_position_behind_what_is_not_handed_out() {
        let text = "collection: shop.orders\naccess: public\n";
        let filter = Arc::new(
            crate::filter::parse_filter("orders", Path::new("orders.yaml"), text).unwrap(),
        );
        let limits = Limits { window: Duration::from_secs(60), max_bytes: 1 << 20 };
        let feed = Feed::new(FeedKey::of(&filter), limits, 16);
        feed.read_also(std::slice::from_ref(&filter));
        let (generation, _) = feed.collections();
        feed.opened_at(&Position::before(Timestamp { time: 1, increment: 1 }));
        let join = || feed.join(&filter, filter.bind(&[], None).unwrap()).route;
        let route = join();
        assert!(feed.append(generation, operation(2)));
        let told = |cursor| feed.position_without_document(&route, cursor);
        let (before, 1) = told(1).unwrap() else { panic!("one event") };

        let offered = feed.take_in(generation, [operation(4), operation(6)]).unwrap();
        assert_eq!(feed.now(), Some((operation(6).token().clone(), 3)));
        assert_eq!(told(1), Some((before, 1)));
        // One that comes now begins behind them, and is told so when that is sure.
        let newcomer = join();
        assert_eq!(feed.position_without_document(&newcomer, 3), None);
        offered.hand_out();
        assert_eq!(told(1), None);
        assert!(
            matches!(route.read(&mut 1, 9), routes::Read::Deliveries(found) if found.len() == 2)
        );
        let (after, 3) = told(3).unwrap() else { panic!("three events") };
        assert!(after > *operation(6).token());
        assert_eq!(feed.position_without_document(&newcomer, 3), Some((after, 3)));

        // Should anything go wrong in between, everybody is told.
        let epoch = feed.epoch();
        drop(feed.take_in(generation, [operation(8)]));
        assert_eq!(feed.epoch(), epoch + 1);
        assert_eq!(feed.locate(operation(6).token()), Some(Located::Gone));
        assert!(feed.append(generation, operation(10)));
        let (_, 5) = told(5).unwrap() else { panic!("five events") };
    }

    // A cursor that resumes behind the first event, on a server whose majority lags, finds nothing
    // at first and says only that it is still there.
    #[test]
    fn a_position_within_a_transaction_skips_nothing_of_the_rest() {
        let text = "collection: shop.orders\naccess: public\n";
        let filter = Arc::new(
            crate::filter::parse_filter("orders", Path::new("orders.yaml"), text).unwrap(),
        );
        let limits = Limits { window: Duration::from_secs(60), max_bytes: 1 << 20 };
        let feed = Feed::new(FeedKey::of(&filter), limits, 16);
        feed.read_also(std::slice::from_ref(&filter));
        let (generation, _) = feed.collections();
        feed.opened_at(&Position::before(Timestamp { time: 1, increment: 1 }));
        let route = feed.join(&filter, filter.bind(&[], None).unwrap()).route;

        assert!(feed.append(generation, operation(2)));
        assert!(feed.advance(generation, operation(2).token().clone()));
        let (told, next) = feed.position_without_document(&route, 1).unwrap();
        assert_eq!(next, 1);
        assert!(!told.names_document());
        assert!(*operation(2).token() < told && told < *operation(4).token());
        assert!(feed.append(generation, operation(4)));
        assert_eq!(feed.locate(&told), Some(Located::At(1)));
        // Read once more, they change nothing.
        for again in [2, 3, 4] {
            assert!(feed.append(generation, operation(again)));
            assert_eq!(feed.now(), Some((operation(4).token().clone(), 2)));
        }

        feed.set_sharded(true);
        let (told, _) = feed.position_without_document(&route, 2).unwrap();
        assert_eq!(told, Position::before(Timestamp { time: 0x66F3_AAAA, increment: 1 }));
    }
}
