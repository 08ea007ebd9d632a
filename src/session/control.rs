//! What ends a connection, independently of its streams: its caller's right, draining, its maximum
//! lifetime.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::access::{Caller, Right, RightEnd};
use crate::drain::Drain;
use crate::session::listeners::Listener;
use crate::upstream::snapshot::Refused;

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    ClientGone,
    /// The client took nothing for `clients.send_timeout`.
    Stalled,
    Draining,
    /// `clients.max_duration`
    Expired,
    /// The filter changed, and the client's parameters no longer fit, or it is gone.
    FilterChanged,
    /// The caller's right has ended.
    Unauthorized,
    /// The authentication service has not answered for so long that the caller's right is in doubt.
    /// Its client is not told of an end, since coming back helps.
    AuthUnavailable,
    /// By an operator, who wants it to come back.
    Operator,
    /// There are more documents than the settings let a stream begin with.
    SnapshotTooLarge,
    /// MongoDB does not give the documents that a stream begins with.
    SnapshotUnavailable,
    /// Too many streams wait for theirs.
    SnapshotBusy,
}

impl Ended {
    /// How long a client should stay away, where it is long.
    pub fn retry(self) -> Option<Duration> {
        match self {
            Ended::SnapshotTooLarge | Ended::SnapshotUnavailable => Some(Duration::from_secs(60)),
            // Spread, since many are told so.
            Ended::SnapshotBusy => Some(Duration::from_millis(fastrand::u64(5_000..20_000))),
            _ => None,
        }
    }

    /// For the metric `streams_ended_total{reason}`, and for `end` events.
    pub fn reason(self) -> &'static str {
        match self {
            Ended::ClientGone => "client-closed",
            Ended::Stalled => "stalled",
            Ended::Draining => "drained",
            Ended::Expired => "expired",
            Ended::FilterChanged => "filter-changed",
            Ended::Unauthorized => "unauthorized",
            Ended::AuthUnavailable => "auth-unavailable",
            Ended::Operator => "operator",
            Ended::SnapshotTooLarge => "snapshot-too-large",
            Ended::SnapshotUnavailable => "snapshot-unavailable",
            Ended::SnapshotBusy => "snapshot-busy",
        }
    }
}

impl From<Refused> for Ended {
    fn from(refused: Refused) -> Ended {
        match refused {
            Refused::TooLarge => Ended::SnapshotTooLarge,
            Refused::Unavailable => Ended::SnapshotUnavailable,
            Refused::Busy => Ended::SnapshotBusy,
        }
    }
}

/// Watches over one connection. Once it is over, it stays so.
pub struct Control {
    drain: Drain,
    /// Wakes it when a drain begins, or when an operator ends it.
    listener: Arc<Listener>,
    /// This connection's own time within the drain, or its lifetime.
    last_call: Option<Box<LastCall>>,
    /// Of a connection with a protected stream.
    right: Option<Box<Watched>>,
    over: Option<Ended>,
    /// Whether the client was told why.
    pub(super) has_said_why: bool,
}

struct LastCall {
    why: Ended,
    time: Pin<Box<Sleep>>,
}

/// A caller's right, and its end.
struct Watched {
    right: Arc<Right>,
    /// Who it was when the streams were last held against it.
    caller: Arc<Caller>,
    ended: Pin<Box<dyn Future<Output = RightEnd> + Send>>,
}

impl Control {
    /// `lifetime` is `clients.max_duration`; zero: no limit. `right` is that of the caller of
    /// protected streams, and `listener` the connection's own.
    pub fn new(
        drain: &Drain,
        lifetime: Duration,
        right: Option<Right>,
        listener: Arc<Listener>,
    ) -> Control {
        if let Some(right) = &right {
            listener.set_caller(right.caller());
        }
        Control {
            drain: drain.clone(),
            listener,
            last_call: (!lifetime.is_zero()).then(|| Box::new(LastCall::at_end_of(lifetime))),
            right: right.map(|right| Box::new(Watched::new(right))),
            over: None,
            has_said_why: false,
        }
    }

    /// Resolves when the connection has to end, at once if it had to before.
    pub async fn ended(&mut self) -> Ended {
        poll_fn(|cx| self.poll_ended(cx)).await
    }

    /// What operators see of the connection.
    pub fn listener(&self) -> &Arc<Listener> {
        &self.listener
    }

    /// Why it is over, once [`Control::ended`] has said so.
    pub fn over(&self) -> Option<Ended> {
        self.over
    }

    /// Ends the connection; what ended it first, stays.
    pub(super) fn end(&mut self, why: Ended) {
        self.over.get_or_insert(why);
    }

    /// Ready when the connection is over, and from then on.
    pub(super) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if self.over.is_none()
            && let Poll::Ready(why) = self.poll_over(cx)
        {
            self.over = Some(why);
        }
        self.over.map_or(Poll::Pending, Poll::Ready)
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if let Some(watched) = &mut self.right
            && let Poll::Ready(why) = watched.poll_ended(&self.listener, cx)
        {
            return Poll::Ready(match why {
                RightEnd::Refused => Ended::Unauthorized,
                RightEnd::Unanswered => Ended::AuthUnavailable,
            });
        }
        // Before the looks: what is said after them wakes the task.
        self.listener.register(cx.waker());
        if self.listener.is_ended() {
            return Poll::Ready(Ended::Operator);
        }
        let is_for_drain =
            self.last_call.as_ref().is_some_and(|last_call| last_call.why == Ended::Draining);
        if !is_for_drain && self.drain.has_begun() {
            let time = Box::pin(sleep(self.drain.turn()));
            self.last_call = Some(Box::new(LastCall { why: Ended::Draining, time }));
        }
        match &mut self.last_call {
            Some(last_call) => last_call.time.as_mut().poll(cx).map(|()| last_call.why),
            None => Poll::Pending,
        }
    }

    /// Whether a recheck of the right is due and has not been tried; see
    /// [`Right::is_recheck_due`].
    pub(super) fn is_recheck_due(&self) -> bool {
        self.right.as_ref().is_some_and(|watched| watched.right.is_recheck_due())
    }

    /// Watches over the caller of a protected stream from now on.
    pub fn set_right(&mut self, right: Right) {
        self.listener.set_caller(right.caller());
        self.listener.hold(false);
        self.right = Some(Box::new(Watched::new(right)));
    }

    pub(super) fn has_right(&self) -> bool {
        self.right.is_some()
    }

    /// The right has ended, and something is left that needs none.
    pub(super) fn forget_right(&mut self) {
        self.listener.hold(false);
        (self.right, self.over) = (None, None);
    }

    /// Whose connection it is, where anybody asked.
    pub fn caller(&self) -> Option<Arc<Caller>> {
        self.right.as_ref().map(|watched| watched.right.caller())
    }

    /// Whether a recheck has brought other claims that were not looked at.
    pub(super) fn has_caller_changed(&self) -> bool {
        self.right.as_deref().is_some_and(Watched::has_changed)
    }

    /// Who the caller was when this was last asked, and who it is now.
    pub(super) fn take_change(&mut self) -> Option<(Arc<Caller>, Arc<Caller>)> {
        let watched = self.right.as_mut()?;
        let now = watched.right.caller();
        self.listener.set_caller(now.clone());
        Some((std::mem::replace(&mut watched.caller, now.clone()), now))
    }
}

impl LastCall {
    /// Spread, so that clients that came together do not come back together.
    fn at_end_of(lifetime: Duration) -> LastCall {
        let time = lifetime.mul_f64(1.0 - fastrand::f64() / 10.0);
        LastCall { why: Ended::Expired, time: Box::pin(sleep(time)) }
    }
}

impl Watched {
    fn new(right: Right) -> Watched {
        let right = Arc::new(right);
        let caller = right.caller();
        let watched = right.clone();
        let ended = Box::pin(async move { watched.ended().await });
        Watched { right, caller, ended }
    }

    /// Holds what is written past the connection's task, from before anybody is asked if the right still holds
    /// until the answer is there and other claims were looked at.
    fn poll_ended(&mut self, listener: &Listener, cx: &mut Context<'_>) -> Poll<RightEnd> {
        if self.right.ends_by_time() {
            return self.ended.as_mut().poll(cx);
        }
        listener.hold(true);
        let ended = self.ended.as_mut().poll(cx);
        let is_known = !self.right.is_recheck_due() && !self.has_changed();
        if ended.is_pending() && is_known {
            listener.hold(false);
        }
        ended
    }

    fn has_changed(&self) -> bool {
        !Arc::ptr_eq(&self.caller, &self.right.caller())
    }
}
