//! One snapshot for all clients with the same filter and values that arrive at about the same time:
//! read once, encoded once.
//!
//! Invariants:
//!
//! - There is one query at a time for a filter and its values, in a task of its own. A client that asks
//!   may leave; the query ends when no client waits for it. The number of queries of all filters is
//!   limited; the others wait in a queue, which is bounded and fair: see [`super::queue`].
//! - A snapshot is given to further clients as long as the feed's journal reaches back to its time, so
//!   that the changes since then are in memory, and no collection was dropped or renamed since then: of
//!   documents that are gone, a page would hear only at its second snapshot, which may have to wait. A
//!   client that must know what came at a position gets a snapshot that was read after that position.
//! - The documents of all snapshots together stay within `snapshot.max_bytes`, or are those of the
//!   newest snapshot. Snapshots that are not being sent are dropped first, then those whose clients
//!   read most slowly: these clients begin again. A snapshot that was just read is kept for a moment
//!   before others take its room.
//! - A lasting failure is not tried again for a minute.
//! - A client that has to begin again waits, longer each time: see [`brake`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::brake::Brake;
use super::kept::Kept;
use super::queue::{Asker, Place, Queue, Ticket};
use super::{Bounds, SnapshotError, SnapshotQuery, read_each};
use crate::event::Position;
use crate::feed::Feed;
use crate::feed::journal::Located;
use crate::feed::routes::{Route, RouteKey, encode_document};
use crate::metrics::Metrics;
use crate::tasks::Tasks;
use crate::trace::SpanSide;
use crate::upstream::connect::Server;

/// How long it is not asked again for what will not pass.
const VERDICT: Duration = Duration::from_secs(60);
/// How many are remembered before those that are of no more use are looked for.
const SWEEP_AT: usize = 256;
/// How many queries wait in line for each that may be under way.
const LINE: usize = 256;
/// First and longest pause after a failure that will pass.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// How often the log is told of trouble, at most.
const TELL: Duration = Duration::from_secs(5);

/// The documents of one moment, encoded.
#[derive(Debug)]
pub struct Taken {
    /// Where the changes go on.
    pub position: Position,
    /// Each in relaxed Extended JSON, as the data of a `document` event.
    pub documents: Vec<Arc<Bytes>>,
    pub(super) bytes: usize,
    /// Clients that are being sent it.
    pub(super) readers: AtomicUsize,
    pub(super) at: Instant,
    pub(super) last_read: Mutex<Instant>,
}

/// Why a client gets no snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// More than the settings allow.
    TooLarge,
    /// MongoDB will not give one: no rights, a sharded cluster, no snapshot reads.
    Unavailable,
    /// Too many wait in line, and its asker has most of them.
    Busy,
}

/// What is there for who asks.
#[derive(Debug)]
pub enum SnapshotAnswer {
    Taken(Arc<Taken>),
    Refused(Refused),
    /// It is being read.
    Asked(PendingQuery),
}

/// Waits for a query. When it has ended, ask once more, unless it was put out.
#[derive(Debug)]
pub struct PendingQuery {
    ended: watch::Receiver<()>,
    ticket: Arc<Ticket>,
}

impl PendingQuery {
    /// Resolves when the query has ended. May be dropped and called again.
    pub async fn ended(&mut self) {
        // Nothing is ever sent: the sender goes with the query.
        let _ = self.ended.changed().await;
    }

    /// Whether [`PendingQuery::ended`] would resolve at once.
    pub fn has_ended(&self) -> bool {
        self.ended.has_changed().is_err()
    }

    /// Whether it had to make room for the queries of others: it has no result.
    pub fn was_put_out(&self) -> bool {
        self.ticket.is_put_out()
    }
}

/// Reads and shares snapshots. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Snapshots(Arc<State>);

#[derive(Debug)]
struct State {
    server: Server,
    bounds: Bounds,
    metrics: Arc<Metrics>,
    tasks: Tasks,
    queue: Arc<Queue>,
    slots: Mutex<Slots>,
    kept: Kept,
    /// By stream: the furthest place that one of its snapshots was of.
    furthest: Mutex<HashMap<String, Position>>,
    /// When something was last said in the log.
    told: Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Slots {
    by_key: HashMap<Arc<RouteKey>, Slot>,
    /// Those of no use are looked for when so many are here, and then at every doubling.
    sweep_at: usize,
}

/// A query that clients wait for.
#[derive(Debug)]
struct Query {
    /// Goes with the query.
    ended: watch::Sender<()>,
    ticket: Arc<Ticket>,
}

/// What is known of a filter with its values.
#[derive(Debug, Default)]
struct Slot {
    /// The one that waits or is under way.
    query: Weak<Query>,
    taken: Weak<Taken>,
    refused: Option<(Instant, Refused)>,
    brake: Brake,
}

impl Slot {
    fn is_of_use(&self) -> bool {
        self.query.strong_count() > 0
            || self.taken.strong_count() > 0
            || self.refused().is_some()
            || self.brake.is_of_use()
    }

    fn refused(&self) -> Option<Refused> {
        self.refused.filter(|(at, _)| at.elapsed() < VERDICT).map(|(_, refused)| refused)
    }
}

impl Snapshots {
    /// `max_concurrent`: queries at a time, for all filters.
    pub fn new(
        server: Server,
        bounds: Bounds,
        max_concurrent: usize,
        metrics: Arc<Metrics>,
        tasks: Tasks,
    ) -> Snapshots {
        Snapshots(Arc::new(State {
            server,
            bounds,
            metrics,
            tasks,
            queue: Queue::new(max_concurrent, max_concurrent.saturating_mul(LINE)),
            slots: Mutex::default(),
            kept: Kept::new(bounds.bytes),
            furthest: Mutex::default(),
            told: Mutex::default(),
        }))
    }

    /// What a route's clients would see now, or saw a moment ago, but not before `beyond`. Who has
    /// waited for a query takes what came of it, also where the journal goes on too fast. `asker` is
    /// asked for only where there has to be a query.
    pub fn ask(
        &self,
        feed: &Arc<Feed>,
        route: &Arc<Route>,
        beyond: Option<&Position>,
        has_waited: bool,
        asker: impl FnOnce() -> Asker,
    ) -> SnapshotAnswer {
        let state = &self.0;
        let mut slots = state.slots.lock();
        let slot = slots.of(route);
        let is_late = |taken: &Arc<Taken>| beyond.is_none_or(|beyond| taken.position > *beyond);
        let taken = slot.taken.upgrade().filter(is_late);
        if let Some(taken) = taken.filter(|taken| has_waited || is_joinable(feed, taken)) {
            if !has_waited {
                state.count(route, "shared");
            }
            return SnapshotAnswer::Taken(taken);
        }
        if let Some(refused) = slot.refused() {
            return SnapshotAnswer::Refused(refused);
        }
        let asker = asker();
        let query = slot.query.upgrade().filter(|query| !query.ticket.is_put_out());
        if let Some(query) = query {
            state.queue.share(&query.ticket, asker);
            return SnapshotAnswer::Asked(query.pending());
        }
        let ticket = Ticket::new(asker);
        let place = state.queue.enter(&ticket);
        if ticket.is_put_out() {
            state.count(route, "busy");
            return SnapshotAnswer::Refused(Refused::Busy);
        }
        let query = Arc::new(Query { ended: watch::Sender::new(()), ticket });
        let pending = query.pending();
        slot.query = Arc::downgrade(&query);
        let task = state.clone().run(feed.clone(), route.clone(), query, place);
        state.tasks.spawn("snapshot", task);
        SnapshotAnswer::Asked(pending)
    }

    /// How far the positions are that clients of a stream have from its snapshots; its feed may not
    /// have read as far yet.
    pub fn furthest(&self, stream: &str) -> Option<Position> {
        self.0.furthest.lock().get(stream).cloned()
    }

    /// When a client of this route may begin again that had a snapshot, or was about to.
    pub fn brake(&self, route: &Arc<Route>) -> Instant {
        self.0.slots.lock().of(route).brake.next(Instant::now())
    }
}

impl State {
    /// Reads until there is a result, or nobody waits for it.
    async fn run(
        self: Arc<State>,
        feed: Arc<Feed>,
        route: Arc<Route>,
        query: Arc<Query>,
        mut place: Place,
    ) {
        let (mut pause, longest) = RETRY;
        loop {
            let attempt = tokio::select! {
                biased;
                () = query.ended.closed() => None,
                attempt = self.attempt(&feed, &route, place) => Some(attempt),
            };
            match attempt {
                Some(Ok(Some(taken))) => return self.keep(&route, taken),
                Some(Ok(None)) => return self.count(&route, "busy"),
                Some(Err(error)) if error.is_passing() => {
                    self.count(&route, "failed");
                    if self.may_tell() {
                        let stream = &route.filter().name;
                        warn!(%stream, "a snapshot could not be read, and is tried again: {error}");
                    }
                }
                Some(Err(error)) => return self.refuse(&route, &error),
                None => {}
            }
            if attempt_is_over(&query, &self, &route) {
                return;
            }
            // Spread, since others failed at the same moment.
            let wait = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
            tokio::select! {
                () = query.ended.closed() => {}
                () = sleep(wait) => pause = (pause * 2).min(longest),
            }
            place = self.queue.enter(&query.ticket);
        }
    }

    /// `None`: it was put out of the queue.
    async fn attempt(
        &self,
        feed: &Feed,
        route: &Route,
        place: Place,
    ) -> Result<Option<Taken>, SnapshotError> {
        if !place.turn().await {
            return Ok(None);
        }
        self.kept.has_room().await;
        let began = Instant::now();
        let span = self.metrics.tracer.root(SpanSide::Internal, "snapshot");
        span.set_with("sidestream.stream", || route.filter().name.clone());
        let taken = self.take(feed, route).await;
        match &taken {
            Ok(taken) => span.set("sidestream.documents", taken.documents.len() as i64),
            Err(error) => span.fail(error.kind()),
        }
        drop((place, span));
        self.metrics.snapshot_seconds.observe(began.elapsed().as_secs_f64());
        taken.map(Some)
    }

    async fn take(&self, feed: &Feed, route: &Route) -> Result<Taken, SnapshotError> {
        let filter = route.filter();
        let Some(collection) = filter.snapshot() else {
            return Err(SnapshotError::Unsupported("the filter has no snapshot".to_string()));
        };
        if feed.is_sharded() {
            return Err(SnapshotError::Sharded);
        }
        let client = self.server.client().await;
        let (database, projection) = (filter.namespace.database.as_str(), &filter.projection);
        let (predicate, projection) = (route.predicate(), projection.as_ref());
        let wanted = SnapshotQuery { database, collection, predicate, projection };
        let (mut documents, mut bytes) = (Vec::new(), size_of::<Taken>());
        let position = read_each(&client, wanted, self.bounds, |document| {
            let json = encode_document((database, collection), document, projection);
            bytes += json.len() + size_of::<Bytes>() + 4 * size_of::<usize>();
            documents.push(Arc::new(json));
        });
        let position = position.await?;
        let (at, readers) = (Instant::now(), AtomicUsize::new(0));
        Ok(Taken { position, documents, bytes, readers, at, last_read: Mutex::new(at) })
    }

    fn keep(&self, route: &Route, taken: Taken) {
        self.count(route, "taken");
        {
            let mut furthest = self.furthest.lock();
            let known = furthest.entry(route.filter().name.clone());
            let known = known.or_insert_with(|| taken.position.clone());
            if *known < taken.position {
                *known = taken.position.clone();
            }
        }
        let taken = Arc::new(taken);
        let mut slots = self.slots.lock();
        let slot = slots.of(route);
        if let Some(old) = slot.taken.upgrade() {
            self.kept.replace(&old);
        }
        slot.taken = Arc::downgrade(&taken);
        self.kept.keep(taken);
    }

    fn refuse(&self, route: &Route, error: &SnapshotError) {
        let (refused, outcome) = match error {
            SnapshotError::TooLarge(_) => (Refused::TooLarge, "too-large"),
            _ => (Refused::Unavailable, "unavailable"),
        };
        self.count(route, outcome);
        if self.may_tell() {
            let stream = &route.filter().name;
            warn!(%stream, "there is no snapshot, and its clients are told to come again later: {error}");
        }
        self.slots.lock().of(route).refused = Some((Instant::now(), refused));
    }

    /// There may be many at a time, for one reason.
    fn may_tell(&self) -> bool {
        let mut told = self.told.lock();
        let is_due = told.is_none_or(|told| told.elapsed() >= TELL);
        if is_due {
            *told = Some(Instant::now());
        }
        is_due
    }

    fn count(&self, route: &Route, outcome: &str) {
        let labels = [route.filter().name.as_str(), outcome];
        self.metrics.snapshots_total.with_label_values(&labels).inc();
    }
}

/// Whether nobody waits any more; then nobody can begin to. Under the lock under which one would.
fn attempt_is_over(query: &Query, state: &State, route: &Route) -> bool {
    let mut slots = state.slots.lock();
    let is_over = query.ended.receiver_count() == 0;
    if is_over {
        slots.of(route).query = Weak::new();
    }
    is_over
}

impl Query {
    fn pending(&self) -> PendingQuery {
        PendingQuery { ended: self.ended.subscribe(), ticket: self.ticket.clone() }
    }
}

impl Slots {
    fn of(&mut self, route: &Route) -> &mut Slot {
        if self.by_key.len() >= self.sweep_at.max(SWEEP_AT) {
            self.by_key.retain(|_, slot| slot.is_of_use());
            self.sweep_at = 2 * self.by_key.len();
        }
        self.by_key.entry(route.key().clone()).or_default()
    }
}

/// Whether what came after it is in memory, and continues it.
fn is_joinable(feed: &Feed, taken: &Taken) -> bool {
    match feed.locate(&taken.position) {
        Some(Located::At(cursor)) => !feed.has_dropped_since(cursor),
        _ => false,
    }
}

/// One client's place among the documents of a snapshot. It does not hold them.
#[derive(Debug)]
pub struct Reading {
    taken: Weak<Taken>,
    next: usize,
}

impl Reading {
    /// Begins at the first document, and counts as a reader of the snapshot until it is dropped.
    pub fn new(taken: &Arc<Taken>) -> Reading {
        taken.readers.fetch_add(1, Ordering::Relaxed);
        *taken.last_read.lock() = Instant::now();
        Reading { taken: Arc::downgrade(taken), next: 0 }
    }

    /// The next documents, at most `max`, and `bytes` or a single one; empty behind the last. `None`:
    /// they had to make room for others.
    pub fn next(&mut self, max: usize, bytes: usize) -> Option<Vec<Arc<Bytes>>> {
        let taken = self.taken.upgrade()?;
        *taken.last_read.lock() = Instant::now();
        let (mut found, mut size) = (Vec::new(), 0);
        for document in taken.documents.iter().skip(self.next).take(max) {
            found.push(document.clone());
            size += document.len();
            if size >= bytes {
                break;
            }
        }
        self.next += found.len();
        Some(found)
    }

    /// How many documents were given.
    pub fn given(&self) -> usize {
        self.next
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(taken) = self.taken.upgrade() {
            taken.readers.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
