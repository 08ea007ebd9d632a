//! The cursor of one client in one stream: every event after its position that its filter matches,
//! each once and in order, until a reset or the end of the stream.
//!
//! Invariants:
//!
//! - Register on the route first, then read the journal from the position, then follow.
//! - `position` is what the client has: the last event that it was given, or later. Nothing at or
//!   before it is given again.
//! - Between a gap in the history and its reset nothing is given, not even a position.
//! - A [`FrameKind::Position`] contains no document key, and lies after everything that was given.
//! - A stream with a snapshot gives documents where another one would give `Reset`, and no position
//!   from then on until the documents are complete.
//! - [`Subscription::next`] may be dropped at any await: what it took from a channel or a route is
//!   in `ready` before it awaits again.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bson::Timestamp;
use bytes::Bytes;
use prometheus::IntCounter;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::event::Position;
use crate::event::seal::Ids;
use crate::feed::journal::Located;
use crate::feed::routes::{Delivery, Kind, Read, ResetReason, Route};
use crate::feed::{Back, Feed};
use crate::filter::{Bound, BoundValues, Filter};
use crate::metrics::Metrics;
use crate::session::beginning::{self, Beginning};
use crate::session::control::Ended;
use crate::session::listeners::{Listener, Listeners, Place};
use crate::upstream::replay::{Look, Replay, Replayer};
use crate::upstream::snapshot::Snapshots;

/// How many deliveries one wake-up takes.
const BATCH: usize = 64;
/// A position without a document is taken on trust; further ahead than this it is of another
/// deployment. Replicas differ by what one of them has not read yet.
const FUTURE_SLACK_SECONDS: u32 = 300;

/// How many documents came before a [`FrameKind::Ready`], where a snapshot did.
pub type Documents = Option<u32>;

/// What a client is to be given.
#[derive(Debug)]
pub enum FrameKind {
    Delivery(Arc<Delivery>),
    /// Everything up to here has been read, and nothing was for this client.
    Position(Position),
    /// Nothing to say, and still here.
    Keepalive,
    /// Load the data again, then continue from this position.
    Reset(ResetReason, Option<Position>),
    /// Everything that the client had missed has been sent: the moment to load its data. Comes once
    /// for each stream that a client opens, and behind the documents of each snapshot.
    Ready(Position, Documents),
    /// The documents that match come next, and are all that there is; `None`: for the first time.
    Snapshot(Option<ResetReason>),
    /// The data of one of them.
    Document(Arc<Bytes>),
    /// The stream is over, and the client should know why.
    End(Ended),
}

impl FrameKind {
    /// What the client has then, and comes back with.
    pub fn position(&self) -> Option<Position> {
        match self {
            FrameKind::Delivery(delivery) => delivery.id(),
            FrameKind::Position(position) | FrameKind::Ready(position, _) => Some(position.clone()),
            FrameKind::Reset(_, position) => position.clone(),
            FrameKind::Snapshot(_)
            | FrameKind::Document(_)
            | FrameKind::Keepalive
            | FrameKind::End(_) => None,
        }
    }
}

/// What a client came with.
#[derive(Debug, Clone)]
pub enum From {
    Now,
    Position(Position),
    /// An id that is none.
    Invalid,
    /// Everything of the last so many seconds, counted from the newest cluster time that was read.
    Ago(u32),
    /// Goes on from now, after the filter file of its stream was edited; and whether the client was
    /// told before that its stream is ready.
    FilterChanged {
        was_ready: bool,
    },
}

/// What all subscriptions share.
#[derive(Debug, Clone)]
pub struct Shared {
    pub replayer: Replayer,
    pub snapshots: Snapshots,
    pub metrics: Arc<Metrics>,
    pub heartbeat: Duration,
    /// How clients see positions.
    pub ids: Ids,
    /// Who listens.
    pub listeners: Arc<Listeners>,
}

#[derive(Debug)]
enum Phase {
    /// The feed has not been read yet, so the present position is unknown.
    Waiting(watch::Receiver<bool>, Begin),
    /// Reading routes and journal from this number on.
    Following(u64),
    /// Reading what the journal does not have.
    Replaying(Box<Replay>),
    /// The documents come first.
    Beginning(Box<Beginning>),
}

/// How a stream begins when its feed was read.
#[derive(Debug, Clone, Copy)]
enum Begin {
    /// At its position.
    There,
    /// See [`From::Ago`].
    Ago(u32),
    /// With a reset: what its page has loaded meanwhile may be older than "now".
    Reset(ResetReason),
}

/// What ended a wait.
enum Woke {
    Wake,
    Beat,
    Live,
}

/// One stream of one client: its cursor in the feed.
#[derive(Debug)]
pub struct Subscription {
    shared: Arc<Shared>,
    feed: Arc<Feed>,
    route: Arc<Route>,
    epoch: u64,
    /// What an operator sees of it.
    listener: Arc<Listener>,
    phase: Phase,
    position: Option<Position>,
    ready: VecDeque<FrameKind>,
    /// Whether [`FrameKind::Ready`] is out, or in `ready`.
    was_ready: bool,
    /// When there has to be a sign of life.
    beat: Instant,
    /// Never later than `beat`, and set anew only when it has run out: setting a timer takes a lock
    /// that all clients share, and events come more often than heartbeats. Boxed, since a
    /// subscription moves.
    timer: Pin<Box<Sleep>>,
    /// This stream's own counter.
    events_sent: IntCounter,
}

impl Subscription {
    /// Joins the route of a filter with these values.
    pub fn new(
        shared: Arc<Shared>,
        feed: Arc<Feed>,
        filter: &Arc<Filter>,
        bound: Bound,
        from: From,
        listener: Arc<Listener>,
    ) -> Subscription {
        let joined = feed.join(filter, bound);
        listener.listen_on(joined.route.clone());
        shared.metrics.subscriptions.with_label_values(&[&filter.name]).inc();
        let events_sent = shared.metrics.events_sent_total.with_label_values(&[&filter.name]);
        let beat = Instant::now() + shared.heartbeat;
        let mut subscription = Subscription {
            beat,
            timer: Box::pin(sleep_until(beat)),
            events_sent,
            phase: Phase::Waiting(feed.watch_was_live(), Begin::There),
            shared,
            feed,
            route: joined.route,
            epoch: joined.epoch,
            listener,
            position: None,
            ready: VecDeque::new(),
            was_ready: matches!(from, From::FilterChanged { was_ready: true }),
        };
        match from {
            From::Now => subscription.go_to_now(),
            From::Position(position) => subscription.go_to(position),
            From::Ago(seconds) => subscription.go_back(seconds),
            From::Invalid => subscription.reset(ResetReason::InvalidToken),
            From::FilterChanged { .. } => subscription.reset(ResetReason::FilterChanged),
        }
        subscription
    }

    /// Counts an event that was written to this client.
    pub fn count_sent(&self) {
        self.events_sent.inc();
    }

    pub fn filter(&self) -> &Arc<Filter> {
        self.route.filter()
    }

    /// What an operator sees of it.
    pub fn listener(&self) -> &Arc<Listener> {
        &self.listener
    }

    /// What it listens with.
    pub fn values(&self) -> &BoundValues {
        self.route.values()
    }

    /// Whether the client was told that its stream is ready.
    pub fn was_ready(&self) -> bool {
        self.was_ready
    }

    /// Tells all subscriptions of this route that its filter is no longer in force.
    pub fn retire(&self) {
        self.route.retire();
    }

    /// What can be sent without waiting, to go into the same write.
    pub fn next_ready(&mut self) -> Option<FrameKind> {
        if self.ready.is_empty() && !self.route.is_retired() {
            self.collect();
        }
        let frame = self.ready.pop_front()?;
        self.note(&frame);
        Some(frame)
    }

    /// The next thing to send. Returns `None` when the filter is no longer the one in force.
    pub async fn next(&mut self) -> Option<FrameKind> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                self.note(&frame);
                return Some(frame);
            }
            if self.route.is_retired() {
                return None;
            }
            if self.feed.epoch() != self.epoch {
                self.epoch = self.feed.epoch();
                // One that waits to be reset for another reason misses nothing more by this.
                let begins = match &self.phase {
                    Phase::Waiting(_, begin) => !matches!(begin, Begin::There),
                    Phase::Beginning(beginning) => !beginning.has_begun(),
                    Phase::Following(_) | Phase::Replaying(_) => false,
                };
                if !begins {
                    self.reset(ResetReason::HistoryLost);
                }
                continue;
            }
            self.note_place();
            let route = self.route.clone();
            let woken = route.wake.notified();
            tokio::pin!(woken);
            // From here on a wake-up is kept, also one that comes before the await.
            woken.as_mut().enable();
            if self.collect() {
                if self.ready.is_empty() {
                    // A long way with nothing for this client must not hold up the others.
                    tokio::task::yield_now().await;
                }
                continue;
            }
            if self.route.is_retired() || self.feed.epoch() != self.epoch {
                continue;
            }
            // Almost all subscriptions wait here: what held the last frames is given back.
            self.ready = VecDeque::new();
            let beat = self.timer.as_mut();
            let woke = match &mut self.phase {
                Phase::Following(_) => tokio::select! {
                    () = &mut woken => Woke::Wake,
                    () = beat => Woke::Beat,
                },
                Phase::Waiting(was_live, _) => tokio::select! {
                    () = &mut woken => Woke::Wake,
                    () = beat => Woke::Beat,
                    // Boxed, as below: almost all clients wait elsewhere.
                    () = Box::pin(live(was_live)) => Woke::Live,
                },
                Phase::Replaying(replay) => tokio::select! {
                    () = &mut woken => Woke::Wake,
                    () = beat => Woke::Beat,
                    () = Box::pin(replay.changed()) => Woke::Wake,
                },
                Phase::Beginning(beginning) => tokio::select! {
                    () = &mut woken => Woke::Wake,
                    () = beat => Woke::Beat,
                    () = Box::pin(beginning.changed()) => Woke::Wake,
                },
            };
            match woke {
                Woke::Wake => {}
                Woke::Beat if Instant::now() < self.beat => self.timer.as_mut().reset(self.beat),
                Woke::Beat => self.heartbeat(),
                Woke::Live => self.go_live(),
            }
        }
    }

    /// Tells operators how far it is: all that it gave before was written.
    fn note_place(&self) {
        self.listener.note(match &self.phase {
            Phase::Waiting(..) | Phase::Beginning(_) => Place::Waiting,
            Phase::Following(cursor) => Place::Following(*cursor),
            // It has one: a replay goes on from there.
            Phase::Replaying(_) => {
                Place::Replaying(self.position.as_ref().map_or(0, |had| had.time().time))
            }
        });
    }

    /// Takes what is there without waiting; says whether there was anything to do.
    fn collect(&mut self) -> bool {
        match &mut self.phase {
            Phase::Waiting(..) => false,
            Phase::Following(cursor) => {
                let read = self.route.read(cursor, BATCH);
                if self.is_broken() {
                    return false;
                }
                match read {
                    Read::UpToDate => return self.say_ready(),
                    Read::Deliveries(found) => self.queue(found),
                    Read::Behind => return self.catch_up(),
                }
                true
            }
            Phase::Replaying(replay) => {
                let look = replay.look();
                !self.is_broken() && self.take(look)
            }
            Phase::Beginning(beginning) => {
                let look = beginning.look(&self.shared.snapshots, &self.feed, &self.route);
                !self.is_broken() && self.begin(look)
            }
        }
    }

    /// Does what a look at a replay calls for; says whether there was anything to do.
    fn take(&mut self, look: Look) -> bool {
        match look {
            Look::Nothing => return false,
            Look::Deliveries(found) => self.queue(found),
            Look::Met(position) => self.meet(position),
            Look::Again => self.go_on(),
            Look::Lost(reason) => self.reset(reason),
        }
        true
    }

    /// Does what a look at a snapshot calls for; says whether there was anything to do.
    fn begin(&mut self, look: beginning::Look) -> bool {
        let Phase::Beginning(beginning) = &self.phase else { return false };
        let reason = beginning.reason;
        match look {
            beginning::Look::Nothing => return false,
            beginning::Look::Begins => self.ready.push_back(FrameKind::Snapshot(reason)),
            beginning::Look::Documents(found) => {
                self.ready.extend(found.into_iter().map(FrameKind::Document));
            }
            beginning::Look::Done { position, cursor, documents } => {
                self.was_ready = true;
                self.position = Some(position.clone());
                let documents = Some(u32::try_from(documents).unwrap_or(u32::MAX));
                self.ready.push_back(FrameKind::Ready(position.clone(), documents));
                match cursor {
                    Some(cursor) => self.phase = Phase::Following(cursor),
                    None => self.replay(position),
                }
            }
            beginning::Look::Gone => {
                let beyond = beginning.beyond.clone();
                self.begin_again(reason, beyond, true);
            }
            beginning::Look::Refused(refused) => {
                self.ready.push_back(FrameKind::End(refused.into()))
            }
        }
        true
    }

    /// From the documents that match now, those of a moment behind a place.
    fn begin_again(
        &mut self,
        reason: Option<ResetReason>,
        beyond: Option<Position>,
        is_braked: bool,
    ) {
        let at = match is_braked {
            true => self.shared.snapshots.brake(&self.route),
            false => Instant::now(),
        };
        self.position = None;
        self.phase = Phase::Beginning(Box::new(Beginning::new(reason, beyond, at)));
    }

    /// After a replay that the journal goes on from. Its end may be an event of another collection,
    /// whose token is none of this filter's: it is located as the sidecar's own, and kept as a place
    /// that shows no collection.
    fn meet(&mut self, position: Position) {
        let located = self.feed.locate(&position);
        self.reach(self.feed.without_collection(position));
        match located {
            Some(Located::At(cursor)) => self.phase = Phase::Following(cursor),
            _ => self.go_on(),
        }
    }

    /// After a replay, or a part of one: from where the client is now.
    fn go_on(&mut self) {
        match self.position.clone() {
            Some(position) => match self.feed.locate_for(self.route.filter(), &position) {
                Some(Located::At(cursor)) => self.phase = Phase::Following(cursor),
                _ => self.replay(position),
            },
            None => self.reset(ResetReason::HistoryLost),
        }
    }

    /// The route no longer has what comes next: look in the journal, else in the oplog. Says whether
    /// there was anything to do.
    fn catch_up(&mut self) -> bool {
        let Phase::Following(cursor) = &mut self.phase else {
            return false;
        };
        let back = self.feed.look_back(&self.route, cursor, BATCH);
        if self.is_broken() {
            return false;
        }
        match back {
            Back::Deliveries(found) => self.queue(found),
            Back::Asked => return false,
            Back::Gone => {
                self.shared.metrics.slow_clients_total.inc();
                match self.position.clone() {
                    Some(position) => self.replay(position),
                    None => self.reset(ResetReason::HistoryLost),
                }
            }
        }
        true
    }

    /// Whether the history broke since the last look: the reset has to come next. Asked after every
    /// look at the feed or the route, since what lies behind the break shows there at once; a client
    /// that were given its id and then cut off would come back behind the break, and never know.
    fn is_broken(&self) -> bool {
        self.feed.epoch() != self.epoch
    }

    fn queue(&mut self, found: Vec<Arc<Delivery>>) {
        for delivery in found {
            let is_new = self.position.as_ref().is_none_or(|had| delivery.token > *had);
            if is_new {
                if let Kind::Reset(reason) = delivery.kind
                    && self.has_snapshot()
                {
                    return self.begin_again(Some(reason), Some(delivery.token.clone()), true);
                }
                self.position = Some(delivery.token.clone());
                self.ready.push_back(FrameKind::Delivery(delivery));
            }
        }
    }

    fn has_snapshot(&self) -> bool {
        self.filter().snapshot().is_some()
    }

    fn reach(&mut self, position: Position) {
        if self.position.as_ref().is_none_or(|had| position > *had) {
            self.position = Some(position);
        }
    }

    fn go_to(&mut self, position: Position) {
        self.position = Some(position.clone());
        match self.feed.locate_for(self.route.filter(), &position) {
            Some(Located::At(cursor)) if self.is_plausible(&position) => {
                self.shared.metrics.replays_total.with_label_values(&["memory"]).inc();
                self.phase = Phase::Following(cursor);
            }
            Some(Located::At(_)) => self.reset(ResetReason::InvalidToken),
            // The journal still reads what was before the start, and may get there.
            _ if !self.feed.was_live() => {
                self.phase = Phase::Waiting(self.feed.watch_was_live(), Begin::There);
            }
            _ => self.replay(position),
        }
    }

    /// The journal has caught up: to where the client wanted to go.
    fn go_live(&mut self) {
        let begin = match &self.phase {
            Phase::Waiting(_, begin) => *begin,
            Phase::Following(_) | Phase::Replaying(_) | Phase::Beginning(_) => Begin::There,
        };
        match (begin, self.position.clone()) {
            (Begin::Reset(reason), _) => self.reset(reason),
            (Begin::Ago(seconds), _) => self.go_back(seconds),
            (Begin::There, Some(position)) => self.go_to(position),
            (Begin::There, None) => self.go_to_now(),
        }
    }

    fn go_back(&mut self, seconds: u32) {
        match self.feed.now() {
            Some((head, _)) if self.feed.was_live() => {
                let time = head.time().time.saturating_sub(seconds);
                self.go_to(Position::before(Timestamp { time, increment: 1 }));
            }
            _ => self.wait_to(Begin::Ago(seconds)),
        }
    }

    fn is_plausible(&self, position: &Position) -> bool {
        let Timestamp { time: ahead, .. } = position.time();
        self.feed
            .now()
            .is_none_or(|(head, _)| ahead <= head.time().time.saturating_add(FUTURE_SLACK_SECONDS))
    }

    fn replay(&mut self, position: Position) {
        let replay = self.shared.replayer.start(&self.feed, &self.route, position);
        self.phase = Phase::Replaying(Box::new(replay));
    }

    fn go_to_now(&mut self) {
        match self.find_now() {
            Some(_) if self.has_snapshot() => self.begin_again(None, None, false),
            Some(first) => self.begin_at(first),
            None => self.wait_to(Begin::Reset(ResetReason::Started)),
        }
    }

    fn reset(&mut self, reason: ResetReason) {
        let Some(first) = self.find_now() else { return self.wait_to(Begin::Reset(reason)) };
        if self.has_snapshot() {
            return self.begin_again(Some(reason), None, reason != ResetReason::Started);
        }
        self.shared.metrics.resets_total.with_label_values(&[reason.name()]).inc();
        self.ready.push_back(FrameKind::Reset(reason, Some(first.clone())));
        self.begin_at(first);
    }

    /// A reset before the feed was read would be answered with data that is older than "now".
    fn wait_to(&mut self, begin: Begin) {
        self.phase = Phase::Waiting(self.feed.watch_was_live(), begin);
    }

    /// Nothing has been missed at this place, since nothing was asked for before.
    fn begin_at(&mut self, first: Position) {
        if !std::mem::replace(&mut self.was_ready, true) {
            self.ready.push_back(FrameKind::Ready(first, None));
        }
    }

    /// Up to date for the first time; says whether there was anything to do.
    fn say_ready(&mut self) -> bool {
        let Phase::Following(cursor) = self.phase else { return false };
        if self.was_ready {
            return false;
        }
        // None: something has come just now, and is sent first.
        let found = self.feed.position_without_document(&self.route, cursor);
        let Some((position, next)) = found.filter(|_| !self.is_broken()) else { return false };
        self.phase = Phase::Following(next);
        // What the client has may be further: its own id, of a replica that had read more.
        let position = self.position.take().map_or(position.clone(), |had| had.max(position));
        self.position = Some(position.clone());
        self.begin_at(position);
        true
    }

    /// Moves to where nothing has been missed because nothing was asked for yet; `None` before the
    /// feed was read for the first time. Returns the position to give the client, so that being cut
    /// off before its first event costs nothing.
    ///
    /// Where the newest thing read is an event, the position lies before its time: a client that
    /// comes back with it may be given that event, which it never had.
    fn find_now(&mut self) -> Option<Position> {
        self.position = None;
        if !self.feed.was_live() {
            return None;
        }
        let (head, end) = self.feed.now()?;
        self.phase = Phase::Following(end);
        // It may be newer than `head`: then what came in between is not for this route.
        let first = self.feed.position_without_document(&self.route, end);
        let first = first.map_or_else(|| Position::before(head.time()), |(first, _)| first);
        self.position = Some(first.clone().max(self.feed.without_collection(head)));
        Some(first)
    }

    fn heartbeat(&mut self) {
        let found = match &mut self.phase {
            Phase::Following(cursor) => {
                let found = self.feed.position_without_document(&self.route, *cursor);
                found.map(|(position, next)| {
                    // Else it would seem to lag behind, when the journal has nothing so old any more.
                    *cursor = next;
                    position
                })
            }
            Phase::Waiting(..) | Phase::Replaying(_) | Phase::Beginning(_) => None,
        };
        match found {
            _ if self.is_broken() => {}
            Some(position) if self.position.as_ref().is_none_or(|had| position > *had) => {
                self.position = Some(position.clone());
                self.ready.push_back(FrameKind::Position(position));
            }
            _ => self.ready.push_back(FrameKind::Keepalive),
        }
    }

    fn note(&mut self, frame: &FrameKind) {
        let reason = match frame {
            FrameKind::Delivery(delivery) => match delivery.kind {
                Kind::Reset(reason) => Some(reason),
                Kind::Event(_) => None,
            },
            FrameKind::Snapshot(reason) => *reason,
            _ => None,
        };
        if let Some(reason) = reason {
            self.shared.metrics.resets_total.with_label_values(&[reason.name()]).inc();
        }
        self.beat = Instant::now() + self.shared.heartbeat;
    }
}

async fn live(was_live: &mut watch::Receiver<bool>) {
    // The feed outlives its subscriptions, so there is no error to hear of.
    let _ = was_live.wait_for(|was| *was).await;
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.shared.metrics.subscriptions.with_label_values(&[&self.route.filter().name]).dec();
        self.feed.leave(&self.route);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bson::rawdoc;

    use super::*;
    use crate::event::ChangeEvent;
    use crate::feed::journal::Limits;
    use crate::feed::{FeedKey, Status};
    use crate::upstream::connect::Server;
    use crate::upstream::snapshot::Bounds;

    fn before(time: u32) -> Position {
        Position::before(Timestamp { time, increment: 1 })
    }

    // A client that is cut off between such an id and the reset would have lost what lies between.
    #[tokio::test]
    async fn nothing_comes_between_a_break_of_the_history_and_its_reset() {
        let text = "collection: shop.orders\naccess: public\n";
        let filter = Arc::new(
            crate::filter::parse_filter("orders", Path::new("orders.yaml"), text).unwrap(),
        );
        let limits = Limits { window: Duration::from_secs(60), max_bytes: 1 << 20 };
        let feed = Arc::new(Feed::new(FeedKey::of(&filter), limits, 16));
        feed.read_also(std::slice::from_ref(&filter));
        let (generation, _) = feed.collections();
        feed.opened_at(&before(10));
        feed.set_status(Status::Live);
        let metrics = Arc::new(Metrics::default());
        let replayer = Replayer::new(Server::default(), limits, 1, metrics.clone());
        let tasks = crate::tasks::Tasks::new(&metrics);
        let bounds = Bounds { documents: 1, bytes: 1, time: Duration::from_secs(1) };
        let snapshots = Snapshots::new(Server::default(), bounds, 1, metrics.clone(), tasks);
        let shared = Arc::new(Shared {
            replayer,
            snapshots,
            metrics,
            heartbeat: Duration::from_secs(60),
            ids: Ids::Token,
            listeners: Arc::default(),
        });
        let bound = filter.bind(&[], None).unwrap();
        let listener = shared.listeners.add("sse");
        let mut subscription =
            Subscription::new(shared, feed.clone(), &filter, bound, From::Now, listener);
        assert!(matches!(subscription.next().await, Some(FrameKind::Ready(..))));

        feed.restart_at(&before(20));
        subscription.heartbeat();
        assert!(subscription.ready.is_empty());
        let raw = rawdoc! {
            "_id": { "_data": "8200000021000000012B022C0100296E04" },
            "operationType": "insert",
            "ns": { "db": "shop", "coll": "orders" },
            "documentKey": { "_id": 1 },
            "fullDocument": { "_id": 1 },
        };
        assert!(feed.append(generation, ChangeEvent::parse(raw).unwrap()));
        assert!(subscription.next_ready().is_none());
        let next = subscription.next().await;
        assert!(
            matches!(next, Some(FrameKind::Reset(ResetReason::HistoryLost, Some(_)))),
            "{next:?}"
        );
    }
}
