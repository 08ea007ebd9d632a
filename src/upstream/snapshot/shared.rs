//! One snapshot for all clients with the same filter and values that arrive at about the same time:
//! read once, encoded once.
//!
//! Invariants:
//!
//! - There is one query at a time for a filter and its values in a feed, in a task of its own. A client
//!   that asks may leave; the query ends when no client waits for it. The number of queries of all filters is
//!   limited; the others wait in a queue, which is bounded and fair: see [`super::queue`].
//! - Clients are given the first documents while the others are read: see [`super::taken`].
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
use std::sync::{Arc, Weak};
use std::time::Duration;

use mongodb::Client;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::brake::{Brake, Round};
use super::encoding::Encoding;
use super::kept::Kept;
use super::queue::{Asker, Place, Queue, Ticket};
use super::taken::{Chunk, Taken};
use super::{Bounds, Missing, SnapshotError, SnapshotQuery, ask_primary, read_each};
use crate::event::Position;
use crate::feed::Feed;
use crate::feed::journal::Located;
use crate::feed::routes::{DocumentWriter, Route, RouteKey};
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

/// How often it is looked whether the feed has come far enough.
const LOOK: Duration = Duration::from_millis(50);
/// How often the log is told of trouble, at most.
const TELL: Duration = Duration::from_secs(5);

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
    /// And the query that reads it, where more of its documents are to come: it ends when nobody holds
    /// on to it.
    Taken(Arc<Taken>, Option<PendingQuery>),
    Refused(Refused),
    /// Nothing of it was read yet.
    Asked(PendingQuery),
}

/// Waits for a query. At news of it, ask once more, unless it was put out.
#[derive(Debug)]
pub struct PendingQuery {
    news: watch::Receiver<()>,
    ticket: Arc<Ticket>,
}

impl PendingQuery {
    /// Resolves when there are more documents since [`PendingQuery::note`], or the query has ended. May
    /// be dropped and called again.
    pub async fn changed(&mut self) {
        // The sender goes with the query.
        if self.news.changed().await.is_ok() {
            self.news.mark_changed();
        }
    }

    /// Whether [`PendingQuery::changed`] would resolve at once.
    pub fn has_changed(&self) -> bool {
        self.news.has_changed().unwrap_or(true)
    }

    /// All documents so far are about to be looked at.
    pub fn note(&mut self) {
        self.news.mark_unchanged();
    }

    /// Whether nothing more comes of it.
    pub fn has_ended(&self) -> bool {
        self.news.has_changed().is_err()
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
    /// By the feed's address, too: beside one that its clients have left, a query may wait for ever. It
    /// holds the feed, so no other one has the address meanwhile.
    by_key: HashMap<(usize, RouteKey), Slot>,
    /// Those of no use are looked for when so many are here, and then at every doubling.
    sweep_at: usize,
}

/// A query that clients wait for.
#[derive(Debug)]
struct Query {
    /// Told when there are more documents. Goes with the query.
    news: watch::Sender<()>,
    ticket: Arc<Ticket>,
}

/// What is known of a filter with its values, in a feed.
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
        let slot = slots.of(feed, route);
        let is_late = |taken: &Taken| beyond.is_none_or(|beyond| taken.position() > beyond);
        let is_of_use = |taken: &Arc<Taken>| !taken.has_failed() && is_late(taken);
        let taken = slot.taken.upgrade().filter(is_of_use);
        if let Some(taken) = taken.filter(|taken| has_waited || is_joinable(feed, taken)) {
            if !has_waited {
                state.count(route, "shared");
            }
            let is_growing = taken.completed_at().is_none();
            let query = slot.query.upgrade().filter(|_| is_growing);
            return SnapshotAnswer::Taken(taken, query.map(|query| query.pending()));
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
        let query = Arc::new(Query { news: watch::Sender::new(()), ticket });
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

    /// When a client of this route may begin again that had a snapshot, or was about to, and in which
    /// round that is; `had` is the one in which it last did.
    pub fn brake(&self, feed: &Feed, route: &Route, had: Round) -> (Instant, Round) {
        self.0.slots.lock().of(feed, route).brake.next(had, Instant::now())
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
                () = query.news.closed() => None,
                attempt = self.attempt(&feed, &route, &query, place) => Some(attempt),
            };
            match attempt {
                Some(Ok(true)) => return,
                Some(Ok(false)) => return self.count(&route, "busy"),
                Some(Err(error)) if error.is_passing() => {
                    self.count(&route, "failed");
                    if self.may_tell() {
                        let stream = &route.filter().name;
                        warn!(%stream, "a snapshot could not be read, and is tried again: {error}");
                    }
                }
                Some(Err(_)) => return,
                None => {}
            }
            if attempt_is_over(&query, &self, (&feed, &route)) {
                return;
            }
            // Spread, since others failed at the same moment.
            let wait = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
            tokio::select! {
                () = query.news.closed() => {}
                () = sleep(wait) => pause = (pause * 2).min(longest),
            }
            place = self.queue.enter(&query.ticket);
        }
    }

    /// Whether it had its turn: not where it was put out of the queue.
    async fn attempt(
        &self,
        feed: &Feed,
        route: &Route,
        query: &Query,
        place: Place,
    ) -> Result<bool, SnapshotError> {
        if !place.turn().await {
            return Ok(false);
        }
        self.kept.has_room().await;
        let began = Instant::now();
        let span = self.metrics.tracer.root(SpanSide::Internal, "snapshot");
        span.set_with("sidestream.stream", || route.filter().name.clone());
        let (taken, before) = (None, Weak::new());
        let mut growing = Growing { state: self, feed, route, query, taken, before };
        let read = self.read(feed, route, &mut growing).await;
        drop(place);
        self.metrics.snapshot_seconds.observe(began.elapsed().as_secs_f64());
        match &read {
            Ok(()) => span.set("sidestream.documents", growing.count() as i64),
            Err(error) => span.fail(error.kind()),
        }
        if let Err(SnapshotError::Driver(error)) = &read {
            self.server.note(error).await;
        }
        read.inspect_err(|error| growing.fail(error)).map(|()| true)
    }

    async fn read(
        &self,
        feed: &Feed,
        route: &Route,
        growing: &mut Growing<'_>,
    ) -> Result<(), SnapshotError> {
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
        let writer = DocumentWriter::new((database, collection), projection);
        let mut encoding = Encoding::new(writer, |position, chunks| growing.add(position, chunks));
        let found = read_each(&client, wanted, self.bounds, &mut encoding).await?;
        let rest = encoding.rest();
        if let Some(missing) = found.missing {
            self.has_been_missing(feed, &client, &found.position, missing).await?;
        }
        growing.complete(&found.position, rest);
        Ok(())
    }

    /// Waits until the feed has read past a time, and holds that no collection was dropped from the
    /// position on: there, the collection may have had documents.
    ///
    /// The feed hears only of drops that a majority has. A server that is cut off from the others may have
    /// dropped it alone, and takes that back when there is another primary: no event tells. So a majority
    /// must have something of that time, or later, in the same election term as at the position. Then it
    /// has all that the server had which found nothing:
    ///
    /// - That server had waited for what a majority had at the position. Whatever it had beyond that is of
    ///   this term or a later one.
    /// - It is of none later: a primary begins behind all that a majority ever has of the terms before it,
    ///   which here reaches to the time.
    /// - What is of this term comes from one primary, in one order: who has the later has the earlier.
    async fn has_been_missing(
        &self,
        feed: &Feed,
        client: &Client,
        position: &Position,
        Missing { term, time }: Missing,
    ) -> Result<(), SnapshotError> {
        // A feed that was opened at the time is right there, and what happened at it still comes.
        let before = Position::before(time);
        let waiting = async {
            while feed.now().is_none_or(|(head, _)| head <= before) {
                sleep(LOOK).await;
            }
            loop {
                let now = ask_primary(client).await?;
                if now.majority_time >= time {
                    return Ok::<_, SnapshotError>(now.majority_term);
                }
                sleep(LOOK).await;
            }
        };
        let Ok(now) = tokio::time::timeout(self.bounds.time, waiting).await else {
            return Err(SnapshotError::Silent);
        };
        if now? != term {
            return Err(SnapshotError::Passed("there was an election meanwhile".to_string()));
        }
        match feed.locate(position) {
            Some(Located::At(cursor)) if !feed.has_dropped_since(cursor) => Ok(()),
            _ => Err(SnapshotError::Passed("a collection was dropped meanwhile".to_string())),
        }
    }

    /// Remembers, and tells, that it is of no use to try again.
    fn refuse(&self, feed: &Feed, route: &Route, error: &SnapshotError) -> Refused {
        let (refused, outcome) = match error {
            SnapshotError::TooLarge(_) => (Refused::TooLarge, "too-large"),
            _ => (Refused::Unavailable, "unavailable"),
        };
        self.count(route, outcome);
        if self.may_tell() {
            let stream = &route.filter().name;
            warn!(%stream, "there is no snapshot, and its clients are told to come again later: {error}");
        }
        self.slots.lock().of(feed, route).refused = Some((Instant::now(), refused));
        refused
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

    fn note_furthest(&self, stream: &str, position: &Position) {
        let mut furthest = self.furthest.lock();
        let known = furthest.entry(stream.to_owned()).or_insert_with(|| position.clone());
        if *known < *position {
            *known = position.clone();
        }
    }

    fn count(&self, route: &Route, outcome: &str) {
        let labels = [route.filter().name.as_str(), outcome];
        self.metrics.snapshots_total.with_label_values(&labels).inc();
    }
}

/// Whether nobody waits any more; then nobody can begin to. Under the lock under which one would.
fn attempt_is_over(query: &Query, state: &State, (feed, route): (&Feed, &Route)) -> bool {
    let mut slots = state.slots.lock();
    let is_over = query.news.receiver_count() == 0;
    if is_over {
        slots.of(feed, route).query = Weak::new();
    }
    is_over
}

/// The snapshot that a query reads. One that is not complete in the end has failed.
struct Growing<'a> {
    state: &'a State,
    feed: &'a Feed,
    route: &'a Route,
    query: &'a Query,
    /// From when on clients have something of it.
    taken: Option<Arc<Taken>>,
    /// The one in whose place it came.
    before: Weak<Taken>,
}

impl Growing<'_> {
    fn count(&self) -> usize {
        self.taken.as_ref().map_or(0, |taken| taken.count())
    }

    /// Gives clients what there is so far.
    fn add(&mut self, position: &Position, chunks: Vec<Chunk>) {
        match &self.taken {
            Some(taken) => taken.add(chunks),
            None => {
                let taken = Arc::new(Taken::new(position.clone()));
                taken.add(chunks);
                let now = Arc::downgrade(&taken);
                let mut slots = self.state.slots.lock();
                let slot = slots.of(self.feed, self.route);
                self.before = std::mem::replace(&mut slot.taken, now);
                self.taken = Some(taken);
            }
        }
        self.query.news.send_replace(());
    }

    /// All that it has, with these.
    fn complete(&mut self, position: &Position, chunks: Vec<Chunk>) {
        // Known before a client can have the position.
        self.state.note_furthest(&self.route.filter().name, position);
        self.add(position, chunks);
        let Some(taken) = &self.taken else { return };
        self.state.count(self.route, "taken");
        taken.complete();
        if let Some(before) = self.before.upgrade() {
            self.state.kept.replace(&before);
        }
        self.state.kept.keep(taken.clone());
        self.query.news.send_replace(());
    }

    /// Others know of it before the clients that have a part of it.
    fn fail(&self, error: &SnapshotError) {
        let refused =
            (!error.is_passing()).then(|| self.state.refuse(self.feed, self.route, error));
        if let Some(taken) = &self.taken {
            taken.fail(refused);
        }
    }
}

impl Drop for Growing<'_> {
    fn drop(&mut self) {
        let Some(taken) = self.taken.take().filter(|taken| taken.completed_at().is_none()) else {
            return;
        };
        taken.fail(None);
        let mut slots = self.state.slots.lock();
        slots.of(self.feed, self.route).taken = std::mem::take(&mut self.before);
        drop(slots);
        self.query.news.send_replace(());
    }
}

impl Query {
    fn pending(&self) -> PendingQuery {
        PendingQuery { news: self.news.subscribe(), ticket: self.ticket.clone() }
    }
}

impl Slots {
    fn of(&mut self, feed: &Feed, route: &Route) -> &mut Slot {
        if self.by_key.len() >= self.sweep_at.max(SWEEP_AT) {
            self.by_key.retain(|_, slot| slot.is_of_use());
            self.sweep_at = 2 * self.by_key.len();
        }
        let address = std::ptr::from_ref(feed).addr();
        self.by_key.entry((address, route.key().clone())).or_default()
    }
}

/// Whether what came after it is in memory, and continues it.
fn is_joinable(feed: &Feed, taken: &Taken) -> bool {
    match feed.locate(taken.position()) {
        Some(Located::At(cursor)) => !feed.has_dropped_since(cursor),
        _ => false,
    }
}
