//! One client: the streams that it listens to, and what ends them: its caller's right, draining,
//! and its lifetime.
//!
//! Knows neither HTTP nor bytes: it yields frames, and a transport makes bytes of them.
//!
//! Law of this file:
//!
//! - What ends a connection ([`Control`]) is looked at before its next frame, and by a transport also
//!   while a write waits.
//! - While a recheck of the caller's right is due and has not been tried, nothing is given: it may
//!   have been written after the caller has signed out.
//! - Whatever awaits here may be dropped at any await, and called again.
//!
//! There are many connections, almost all of them with one stream, and idle: what few of them have
//! is boxed.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use crate::access::Caller;
use crate::filter::Access;
use crate::session::catalog::Catalog;
use crate::session::control::{Control, Ended};
use crate::session::query::Query;
use crate::session::subscription::{FrameKind, From, Subscription};

/// What a transport has to send: of which stream, and what.
#[derive(Debug)]
pub struct Frame {
    /// The number of the stream on its connection, from 0.
    pub stream: u16,
    pub kind: FrameKind,
}

/// One stream of a connection.
#[derive(Debug)]
pub struct Member {
    pub subscription: Subscription,
    /// The client's parameters, for when the filter's file is edited.
    pub query: Query,
}

/// See the file's head.
pub struct Connection {
    catalog: Arc<Catalog>,
    member: Member,
    /// For a transport whose write waits: it has to ask all the while whether the connection is over.
    pub control: Control,
}

impl Connection {
    pub fn new(catalog: Arc<Catalog>, control: Control, member: Member) -> Connection {
        Connection { catalog, member, control }
    }

    /// What can be given without waiting, to go into the same write.
    pub fn next_ready(&mut self) -> Option<Frame> {
        if self.control.over().is_some() || self.control.is_recheck_due() {
            return None;
        }
        let kind = self.member.subscription.next_ready()?;
        Some(Frame { stream: 0, kind })
    }

    /// The next thing to give.
    ///
    /// # Errors
    /// Why the connection ends; its client was told, as far as it should know.
    pub async fn next(&mut self) -> Result<Frame, Ended> {
        loop {
            match self.step().await {
                Step::Ended(ended) => {
                    let tells = matches!(ended, Ended::Unauthorized | Ended::FilterChanged);
                    if !tells || std::mem::replace(&mut self.control.has_said_why, true) {
                        return Err(ended);
                    }
                    return Ok(Frame { stream: 0, kind: FrameKind::End(ended.reason()) });
                }
                Step::CallerChanged => self.hold_against_caller(),
                Step::Kind(Some(kind)) => return Ok(Frame { stream: 0, kind }),
                Step::Kind(None) => match self.reopen() {
                    Some(next) => self.member.subscription = next,
                    None => self.control.end(Ended::FilterChanged),
                },
            }
        }
    }

    async fn step(&mut self) -> Step {
        let Connection { member, control, .. } = self;
        let mut next = pin!(member.subscription.next());
        poll_fn(|cx| {
            // First: a stream that always has something to send must end all the same.
            if let Poll::Ready(ended) = control.poll_ended(cx) {
                return Poll::Ready(Step::Ended(ended));
            }
            if control.has_caller_changed() {
                return Poll::Ready(Step::CallerChanged);
            }
            if control.is_recheck_due() {
                return Poll::Pending;
            }
            next.as_mut().poll(cx).map(Step::Kind)
        })
        .await
    }

    /// Counts an event that was written of a stream.
    pub fn count_sent(&self, _stream: u16) {
        self.member.subscription.count_sent();
    }

    /// Opens a stream again after its filter was edited, if that is still possible.
    fn reopen(&self) -> Option<Subscription> {
        let Member { subscription, query } = &self.member;
        let caller = self.control.caller();
        let claims = caller.as_ref().map(|caller| caller.claims.document());
        let found = self.catalog.find(&subscription.filter().name).ok()?;
        let bound = found.filter.bind(&query.pairs(), claims).ok()?;
        let from = From::FilterChanged { was_ready: subscription.was_ready() };
        Some(self.catalog.subscribe(&found, bound, from))
    }

    /// More or less is known of the caller than before. That is fine as long as it opens the same
    /// stream with the same values: what is open is never quietly narrowed or widened.
    fn hold_against_caller(&mut self) {
        let Some((before, now)) = self.control.take_change() else { return };
        let Member { subscription, query } = &self.member;
        let bind = |caller: &Caller| {
            let found = self.catalog.find(&subscription.filter().name).ok()?;
            found.filter.bind(&query.pairs(), Some(caller.claims.document())).ok()
        };
        let is_protected = !matches!(subscription.filter().access, Access::Public);
        let fits = match (bind(&before), bind(&now)) {
            (Some(before), Some(now)) => before.values == now.values,
            _ => false,
        };
        if is_protected && !fits {
            self.control.end(Ended::Unauthorized);
        }
    }
}

/// What a look at everything gave.
enum Step {
    Ended(Ended),
    CallerChanged,
    /// `None`: the stream's filter is no longer the one in force.
    Kind(Option<FrameKind>),
}
