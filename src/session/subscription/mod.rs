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
//! - The numbers of a journal mean nothing in another feed: a stream that moves to one takes its
//!   position along, and what it waits for; see [`Subscription::move_to`].
//! - [`Subscription::next`] may be dropped at any await: what it took from a channel or a route is
//!   in `ready` before it awaits again.

mod follower;
mod frames;
mod moving;
mod places;
mod reading;

use std::future::{Future, poll_fn};
use std::num::NonZeroU8;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use prometheus::IntCounter;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::event::Position;
use crate::event::seal::Ids;
use crate::feed::Feed;
use crate::feed::routes::{DeliveryKind, ResetReason, Route, Seat};
use crate::filter::{Bound, BoundValues, Filter};
use crate::metrics::Metrics;
use crate::session::beginning::Beginning;
use crate::session::listeners::{Listed, Listener, Listeners, Progress};
use crate::upstream::replay::{Replay, Replayer};
use crate::upstream::snapshot::Snapshots;

pub use follower::{Follower, Look, Outlet, Unread};
use frames::Queue;
pub use frames::{Documents, FrameKind};
use places::Begun;

/// What a client came with.
#[derive(Debug, Clone)]
pub enum From {
    Now,
    Position(Position),
    /// An id that is none.
    Invalid,
    /// Everything of the last so many seconds, counted from the newest cluster time that was read.
    Ago(u32),
    /// Goes on from now, after the filter file of its stream was edited.
    FilterChanged {
        /// Whether the client was told before that its stream is ready.
        was_ready: bool,
        /// A snapshot has to be of a moment behind this place.
        beyond: Option<Position>,
    },
}

/// What all subscriptions of one stream share: a reference in each of them, instead of three.
#[derive(Debug)]
pub struct Source {
    pub shared: Arc<Shared>,
    /// What the stream is read from.
    pub feed: Arc<Feed>,
    /// The stream's own counter, from its first subscription on.
    events_sent: OnceLock<IntCounter>,
}

impl Source {
    /// Of a stream that is read from this feed.
    pub fn new(shared: Arc<Shared>, feed: Arc<Feed>) -> Source {
        Source { shared, feed, events_sent: OnceLock::new() }
    }

    /// Counts events that were written, by their clients.
    pub fn count_sent(&self, events: u64) {
        // There since the first one was opened.
        if let Some(counter) = self.events_sent.get() {
            counter.inc_by(events);
        }
    }

    /// For its first subscription.
    fn count_events_of(&self, filter: &Filter) {
        let counters = &self.shared.metrics.events_sent_total;
        self.events_sent.get_or_init(|| counters.with_label_values(&[&filter.name]));
    }
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
    /// What the times of heartbeats are counted from.
    pub began: Instant,
}

impl Shared {
    /// When a sign of life is due behind what is sent at this moment; see [`Subscription::beat`].
    fn beat_after(&self, now: Instant) -> u64 {
        let beat = (now + self.heartbeat).saturating_duration_since(self.began);
        // There are enough for five centuries.
        u64::try_from(beat.as_nanos()).unwrap_or(u64::MAX)
    }
}

#[derive(Debug)]
enum Phase {
    /// The feed has not been read yet, so the present position is unknown.
    /// Boxed, since a stream does so only while MongoDB has not been read yet.
    Waiting(Box<Waiting>),
    /// Reading routes and journal from here on.
    Following(Cursor),
    /// Reading what the journal does not have.
    Replaying(Box<Replay>),
    /// The documents come first.
    Beginning(Box<Beginning>),
}

/// A place in the journal.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    number: u64,
    /// Whether the route was read to its end in the round that the seat has noted: until that is over,
    /// there is nothing else, and the route's lock is left to others.
    is_at_end: bool,
}

impl Cursor {
    /// Where nothing has been read.
    fn at(number: u64) -> Cursor {
        Cursor { number, is_at_end: false }
    }
}

/// What a stream waits for, and what it does then.
#[derive(Debug)]
struct Waiting {
    was_live: watch::Receiver<bool>,
    begin: Begin,
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

impl Phase {
    fn wait_for(feed: &Feed, begin: Begin) -> Phase {
        Phase::Waiting(Box::new(Waiting { was_live: feed.watch_was_live(), begin }))
    }
}

/// What a look without waiting gave.
pub enum Now {
    Frame(FrameKind),
    /// The filter is no longer the one in force.
    Retired,
    /// Much was looked at, with nothing for this client: others may have their turn.
    Busy,
    /// There is nothing yet.
    Nothing,
}

/// What a look at what is read gave.
enum Collected {
    /// What comes first. There may be more in `ready`, behind it.
    Frame(FrameKind),
    /// There was something to do; what is to be given is in `ready`.
    Work,
    Nothing,
}

/// What ended a wait.
enum Woke {
    Wake,
    Beat,
    Live,
}

/// What wakes a connection for its next sign of life. Never later than that is due, and set anew only when
/// it has run out: setting a timer takes a lock that all clients share, and events come more often than
/// heartbeats. Boxed, since a connection moves.
pub type Timer = Pin<Box<Sleep>>;

/// One stream of one client: its cursor in the feed.
#[derive(Debug)]
pub struct Subscription {
    source: Arc<Source>,
    route: Arc<Route>,
    /// What an operator sees of its connection, and where it is there.
    listener: Arc<Listener>,
    listed: Listed,
    begun: Begun,
    /// How far its client is, where one id says it of several streams: the number of a place that the
    /// connection keeps. Here, since there is a byte left.
    pub(super) place: Option<NonZeroU8>,
    epoch: u32,
    /// Among those that wait for the route.
    seat: Seat,
    phase: Phase,
    position: Option<Position>,
    ready: Queue,
    /// When there has to be a sign of life, in nanoseconds after [`Shared::began`]: half as large as an
    /// [`Instant`].
    beat: u64,
}

impl Subscription {
    /// Joins the route of a filter with these values.
    pub fn new(
        source: Arc<Source>,
        filter: &Arc<Filter>,
        bound: Bound,
        from: From,
        (listener, listed): (Arc<Listener>, Listed),
    ) -> Subscription {
        source.count_events_of(filter);
        let Source { shared, feed, .. } = &*source;
        let joined = feed.join(filter, bound);
        let listed = listener.listen_on(joined.route.clone(), listed);
        let metrics = &shared.metrics;
        metrics.subscriptions.with_label_values(&[&filter.name]).inc();
        let mut subscription = Subscription {
            beat: 0,
            phase: Phase::wait_for(feed, Begin::There),
            source,
            route: joined.route,
            epoch: joined.epoch,
            seat: Seat::default(),
            listener,
            listed,
            position: None,
            ready: Queue::default(),
            begun: Begun::new(matches!(from, From::FilterChanged { was_ready: true, .. })),
            place: None,
        };
        subscription.beat_after(Instant::now());
        match from {
            From::Now => subscription.go_to_now(),
            From::Position(position) => subscription.go_to(position),
            From::Ago(seconds) => subscription.go_back(seconds),
            From::Invalid => subscription.reset(ResetReason::InvalidToken),
            From::FilterChanged { beyond, .. } => {
                subscription.reset_beyond(ResetReason::FilterChanged, beyond);
            }
        }
        subscription
    }

    /// Counts an event that was written to this client.
    pub fn count_sent(&self) {
        self.source.count_sent(1);
    }

    /// The filter that its route was bound from; a newer one may be in force.
    pub fn filter(&self) -> &Arc<Filter> {
        self.route.filter()
    }

    /// What an operator sees of its connection, and where it is there: for another subscription that takes
    /// its place.
    pub fn listener(&self) -> (Arc<Listener>, Listed) {
        (self.listener.clone(), self.listed)
    }

    /// What it listens with.
    pub fn values(&self) -> &BoundValues {
        self.route.values()
    }

    /// What the client has, or where it begins; `None`: not known yet, or the documents come first.
    pub fn position(&self) -> Option<&Position> {
        self.position.as_ref()
    }

    /// Whether the client was told that its stream is ready.
    pub fn was_ready(&self) -> bool {
        self.begun.was_ready()
    }

    /// Tells all subscriptions of this route that its filter is no longer in force.
    pub fn retire(&self) {
        self.route.retire();
    }

    /// What can be sent without waiting, to go into the same write.
    pub fn next_ready(&mut self) -> Option<FrameKind> {
        let frame = match self.ready.pop_front() {
            Some(frame) => frame,
            None if self.route.is_retired() => return None,
            None => {
                self.watch();
                match self.collect() {
                    Collected::Frame(frame) => frame,
                    Collected::Work | Collected::Nothing => self.ready.pop_front()?,
                }
            }
        };
        self.note(&frame);
        Some(frame)
    }

    /// From here on the route's wake-up is kept.
    fn watch(&mut self) {
        if self.route.wakers.watch(&mut self.seat)
            && let Phase::Following(cursor) = &mut self.phase
        {
            cursor.is_at_end = false;
        }
    }

    /// What there is without waiting. With `Nothing`, the caller waits for the route's wake-up
    /// ([`Subscription::poll_woken`]), which is kept from here on.
    pub fn now(&mut self) -> Now {
        self.watch();
        loop {
            if let Some(frame) = self.ready.pop_front() {
                self.note(&frame);
                return Now::Frame(frame);
            }
            if self.route.is_retired() {
                return Now::Retired;
            }
            if self.source.feed.epoch() != self.epoch {
                self.epoch = self.source.feed.epoch();
                if self.has_missed() {
                    self.reset(ResetReason::HistoryLost);
                }
                continue;
            }
            self.note_place();
            match self.collect() {
                Collected::Frame(frame) => {
                    self.note(&frame);
                    return Now::Frame(frame);
                }
                Collected::Work if self.ready.is_empty() => return Now::Busy,
                Collected::Work => continue,
                Collected::Nothing => {}
            }
            if self.route.is_retired() || self.source.feed.epoch() != self.epoch {
                continue;
            }
            // Almost all subscriptions wait here: what held the last frames is given back.
            self.ready.shrink();
            return Now::Nothing;
        }
    }

    /// The next thing to send. Returns `None` when the filter is no longer the one in force. The timer is for
    /// its sign of life; `None`: somebody else asks when it is time for one. What comes while it waits may go
    /// by way of the outlet.
    #[allow(
        clippy::manual_async_fn,
        reason = "a function would keep room for each of its arguments twice"
    )]
    pub fn next(
        &mut self,
        mut timer: Option<&mut Timer>,
        outlet: Option<&Arc<dyn Outlet>>,
    ) -> impl Future<Output = Option<FrameKind>> + Send {
        async move {
            loop {
                if let Some(frame) = self.ready.pop_front() {
                    self.note(&frame);
                    return Some(frame);
                }
                match self.now() {
                    Now::Frame(frame) => return Some(frame),
                    Now::Retired => return None,
                    Now::Busy => {
                        tokio::task::yield_now().await;
                        continue;
                    }
                    Now::Nothing => {}
                }
                let woke = match outlet {
                    Some(outlet) if self.is_following() => {
                        self.wait_beside(outlet, timer.as_deref_mut()).await
                    }
                    _ => self.wait(timer.as_deref_mut()).await,
                };
                match woke {
                    Woke::Wake => {}
                    Woke::Beat if Instant::now() < self.beat() => {
                        let beat = self.beat();
                        if let Some(timer) = &mut timer {
                            timer.as_mut().reset(beat);
                        }
                    }
                    Woke::Beat => self.heartbeat(),
                    Woke::Live => self.go_live(),
                }
            }
        }
    }

    /// Waits for what there is to wait for.
    async fn wait(&mut self, mut timer: Option<&mut Timer>) -> Woke {
        let Subscription { route, seat, phase, .. } = self;
        // Boxed: almost all clients wait for nothing of this.
        let mut other: Option<Pin<Box<dyn Future<Output = Woke> + Send + '_>>> = match phase {
            Phase::Following(_) => None,
            Phase::Waiting(waiting) => Some(Box::pin(async {
                live(&mut waiting.was_live).await;
                Woke::Live
            })),
            Phase::Replaying(replay) => Some(Box::pin(async {
                replay.changed().await;
                Woke::Wake
            })),
            Phase::Beginning(beginning) => Some(Box::pin(async {
                beginning.changed().await;
                Woke::Wake
            })),
        };
        poll_fn(move |cx| {
            if route.wakers.poll_woken(seat, cx).is_ready() {
                return Poll::Ready(Woke::Wake);
            }
            if timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready()) {
                return Poll::Ready(Woke::Beat);
            }
            other.as_mut().map_or(Poll::Pending, |other| other.as_mut().poll(cx))
        })
        .await
    }

    /// For [`Subscription::next`], where there is no other.
    pub fn timer(&self) -> Timer {
        Box::pin(sleep_until(self.beat()))
    }

    /// When there has to be a sign of life.
    pub fn beat(&self) -> Instant {
        self.source.shared.began + Duration::from_nanos(self.beat)
    }

    /// The next sign of life is due a heartbeat after this moment.
    fn beat_after(&mut self, now: Instant) {
        self.beat = self.source.shared.beat_after(now);
    }

    /// Has a sign of life ready if it is time for one; says whether it is a position.
    pub fn beat_if_due(&mut self, now: Instant) -> bool {
        if now < self.beat() {
            return false;
        }
        self.beat_after(now);
        self.heartbeat();
        matches!(self.ready.back(), Some(FrameKind::Position(_)))
    }

    /// Whether it waits for nothing but its route's wake-up.
    pub fn is_following(&self) -> bool {
        matches!(self.phase, Phase::Following(_))
    }

    /// Whether it has given everything that there was at the last look.
    pub fn has_caught_up(&self) -> bool {
        self.ready.is_empty()
            && matches!(self.phase, Phase::Following(Cursor { is_at_end: true, .. }))
    }

    /// Ready when its route has been woken since the last look; see [`Subscription::now`].
    pub fn poll_woken(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.route.wakers.poll_woken(&mut self.seat, cx)
    }

    /// Tells operators how far it is: all that it gave before was written.
    fn note_place(&self) {
        let progress = match &self.phase {
            Phase::Waiting(_) | Phase::Beginning(_) => Progress::Waiting,
            Phase::Following(cursor) => Progress::Following(cursor.number),
            // It has one: a replay goes on from there.
            Phase::Replaying(_) => {
                Progress::Replaying(self.position.as_ref().map_or(0, |had| had.time().time))
            }
        };
        self.listener.note(self.listed, progress);
    }

    fn heartbeat(&mut self) {
        let found = match &mut self.phase {
            Phase::Following(cursor) => {
                let found = self.source.feed.position_without_document(&self.route, cursor.number);
                found.map(|(position, next)| {
                    // Else it would seem to lag behind, when the journal has nothing so old any more.
                    cursor.number = next;
                    position
                })
            }
            Phase::Waiting(_) | Phase::Replaying(_) | Phase::Beginning(_) => None,
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
                DeliveryKind::Reset(reason) => Some(reason),
                DeliveryKind::Event(_) => None,
            },
            FrameKind::Snapshot(reason) => *reason,
            _ => None,
        };
        if let Some(reason) = reason {
            self.source.shared.metrics.resets_total.with_label_values(&[reason.name()]).inc();
        }
        self.beat_after(Instant::now());
    }
}

async fn live(was_live: &mut watch::Receiver<bool>) {
    // The feed outlives its subscriptions, so there is no error to hear of.
    let _ = was_live.wait_for(|was| *was).await;
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let Source { shared, feed, .. } = &*self.source;
        shared.metrics.subscriptions.with_label_values(&[&self.route.filter().name]).dec();
        self.route.wakers.leave(&mut self.seat);
        self.listener.leave(&self.route, self.listed);
        feed.leave(&self.route);
    }
}

#[cfg(test)]
pub(crate) mod tests;
