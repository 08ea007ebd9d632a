//! One client: its streams, and what ends them.
//!
//! Knows neither HTTP nor bytes: it yields frames, and a transport encodes them. A connection has
//! one stream, or several under names of their own ([`Many`]).
//!
//! Invariants:
//!
//! - The conditions that end a connection ([`Control`]) are checked before each frame that its task gives,
//!   and by a transport also while a write waits. They wake the task, which takes back what an outlet sends.
//! - From when the task finds a recheck of the caller's right due until it has been tried, nothing is sent,
//!   by an outlet either: an event may have been written after the caller signed out.
//! - Every future here may be dropped at any await, and called again.
//!
//! There are many connections, and almost all of them are idle and have one stream. State that few
//! of them need is boxed.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::time::Instant;

use crate::access::Caller;
use crate::filter::Access;
use crate::session::bookmark::Bookmark;
use crate::session::bookmark::Label;
use crate::session::catalog::Catalog;
use crate::session::control::{Control, Ended};
use crate::session::many::Many;
use crate::session::query::Query;
use crate::session::subscription::{FrameKind, From, Outlet, Subscription, Timer};

/// What a transport has to send: of which stream, and what.
#[derive(Debug)]
pub struct Frame {
    /// The number of the stream on its connection, from 0. Any, where the frame is of none.
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

/// The streams of a connection.
enum Streams {
    /// What it waits with may be elsewhere; see [`Connection::take_timer`].
    One(Member, Option<Box<Idle>>),
    /// In place: it is no larger.
    Many(Many),
}

/// What a stream waits with that has its connection for itself. Boxed, as a poll needs nothing of it.
struct Idle {
    timer: Timer,
    /// What sends its events meanwhile, if that is worth it.
    outlet: Option<Arc<dyn Outlet>>,
}

/// One client with its streams: yields their frames in order until it ends.
pub struct Connection {
    catalog: Arc<Catalog>,
    streams: Streams,
    /// For a transport whose write waits: it has to ask all the while whether the connection is over.
    pub control: Control,
}

/// What a look at everything gave.
enum Step {
    Ended(Ended),
    CallerChanged,
    /// Of this stream. `None`: its filter is no longer the one in force, or is read from another feed.
    Kind(u16, Option<FrameKind>),
}

impl Connection {
    /// With one stream, whose positions are its own.
    pub fn new(catalog: Arc<Catalog>, control: Control, member: Member) -> Connection {
        let idle = Idle { timer: member.subscription.timer(), outlet: None };
        Connection { catalog, streams: Streams::One(member, Some(Box::new(idle))), control }
    }

    /// With streams under names.
    pub fn with_many(catalog: Arc<Catalog>, control: Control, many: Many) -> Connection {
        Connection { catalog, streams: Streams::Many(many), control }
    }

    /// Gives away what wakes it for its next sign of life, to somebody who has something else to be
    /// woken for: one timer is enough. Whoever has it calls [`Connection::beat`] when that is due.
    pub fn take_timer(&mut self) -> Option<Timer> {
        match &mut self.streams {
            Streams::One(_, idle) => idle.take().map(|idle| idle.timer),
            Streams::Many(many) => many.timer.take(),
        }
    }

    /// Has a sign of life ready where it is time for one; says when to ask again.
    pub fn beat(&mut self) -> Instant {
        match &mut self.streams {
            Streams::One(member, ..) => {
                member.subscription.beat_if_due(Instant::now());
                member.subscription.beat()
            }
            Streams::Many(many) => many.beat().1,
        }
    }

    /// Whether its events are to be sent while its task waits: it has one stream, which many listen to.
    pub fn wants_outlet(&self) -> bool {
        match &self.streams {
            Streams::One(member, Some(idle)) if idle.outlet.is_none() => {
                member.subscription.has_many_beside()
            }
            Streams::One(..) | Streams::Many(_) => false,
        }
    }

    /// Has events sent by this while its task waits; see [`Connection::wants_outlet`].
    pub fn set_outlet(&mut self, by: Arc<dyn Outlet>) {
        if let Streams::One(_, Some(idle)) = &mut self.streams {
            idle.outlet = Some(by);
        }
    }

    /// Where streams have names: those, to add to and take from.
    pub fn many(&mut self) -> Option<&mut Many> {
        match &mut self.streams {
            Streams::One(..) => None,
            Streams::Many(many) => Some(many),
        }
    }

    /// A stream's name, where streams have names.
    pub fn label(&self, stream: u16) -> Option<Label<'_>> {
        match &self.streams {
            Streams::One(..) => None,
            Streams::Many(many) => many.label(stream),
        }
    }

    /// How far all its streams are, where one id says it.
    pub fn bookmark(&self) -> Option<Bookmark> {
        match &self.streams {
            Streams::Many(many) if many.has_one_id => Some(many.bookmark()),
            Streams::One(..) | Streams::Many(_) => None,
        }
    }

    /// How many streams there are.
    pub fn len(&self) -> usize {
        match &self.streams {
            Streams::One(..) => 1,
            Streams::Many(many) => many.len(),
        }
    }

    /// Whether its streams have given everything that there was at the last look.
    pub fn has_caught_up(&self) -> bool {
        match &self.streams {
            Streams::One(member, ..) => member.subscription.has_caught_up(),
            Streams::Many(many) => many.members().all(|(stream, _)| stream.has_caught_up()),
        }
    }

    /// Whether no stream is left; never so on a connection with one stream.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What can be given without waiting, to go into the same write.
    pub fn next_ready(&mut self) -> Option<Frame> {
        if self.control.over().is_some() || self.control.is_recheck_due() {
            return None;
        }
        let frame = match &mut self.streams {
            Streams::One(member, ..) => {
                let kind = member.subscription.next_ready()?;
                Frame { stream: 0, kind }
            }
            Streams::Many(many) => many.next_ready()?,
        };
        self.note_end(&frame);
        Some(frame)
    }

    /// A stream that ends by itself is the end of a connection that has no other.
    fn note_end(&mut self, frame: &Frame) {
        let FrameKind::End(ended) = frame.kind else { return };
        match &mut self.streams {
            Streams::One(..) => self.control.end(ended),
            Streams::Many(many) => {
                many.end(frame.stream);
                if many.is_over() {
                    self.control.end(ended);
                }
            }
        }
    }

    /// The next thing to give.
    ///
    /// # Errors
    /// Why the connection ends; its client was told, as far as it should know.
    pub async fn next(&mut self) -> Result<Frame, Ended> {
        loop {
            if let Streams::Many(many) = &mut self.streams
                && let Some(stream) = many.pop_unauthorized()
            {
                let kind = FrameKind::End(Ended::Unauthorized);
                return Ok(Frame { stream, kind });
            }
            match self.step().await {
                // The streams that need no right go on.
                Step::Ended(Ended::Unauthorized)
                    if self.control.has_right() && self.outlives_right() =>
                {
                    self.control.forget_right();
                }
                Step::Ended(ended) => return self.last(ended).ok_or(ended),
                Step::CallerChanged => self.hold_against_caller(),
                Step::Kind(stream, Some(kind)) => {
                    let frame = Frame { stream, kind };
                    self.note_end(&frame);
                    return Ok(frame);
                }
                Step::Kind(stream, None) => {
                    if let Some(frame) = self.retire(stream) {
                        return Ok(frame);
                    }
                }
            }
        }
    }

    async fn step(&mut self) -> Step {
        let Connection { streams, control, .. } = self;
        let mut next = pin!(async {
            match streams {
                Streams::One(member, idle) => {
                    let (timer, outlet) = match idle.as_deref_mut() {
                        Some(Idle { timer, outlet }) => (Some(timer), outlet.as_ref()),
                        None => (None, None),
                    };
                    Step::Kind(0, member.subscription.next(timer, outlet).await)
                }
                Streams::Many(many) => {
                    let (stream, kind) = many.next().await;
                    Step::Kind(stream, kind)
                }
            }
        });
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
            next.as_mut().poll(cx)
        })
        .await
    }

    /// Whether there are streams that need no right; the others are done with.
    fn outlives_right(&mut self) -> bool {
        match &mut self.streams {
            Streams::One(..) => false,
            Streams::Many(many) => many.end_protected(),
        }
    }

    /// The last frames: what a client should know of the end, of each stream that it concerns.
    fn last(&mut self, ended: Ended) -> Option<Frame> {
        let tells = matches!(ended, Ended::Unauthorized | Ended::FilterChanged);
        if !tells || self.control.has_said_why {
            return None;
        }
        let stream = match &mut self.streams {
            Streams::One(..) => {
                self.control.has_said_why = true;
                0
            }
            Streams::Many(many) => many.pop()?,
        };
        Some(Frame { stream, kind: FrameKind::End(ended) })
    }

    /// A filter is no longer the one in force, or is read from another feed: goes on there, under the
    /// new one, or ends the stream. Says what the client is to be told.
    fn retire(&mut self, stream: u16) -> Option<Frame> {
        let retired = match &mut self.streams {
            Streams::One(member, ..) => &mut member.subscription,
            Streams::Many(many) => many.subscription(stream)?,
        };
        if self.catalog.follow(retired) {
            return None;
        }
        let caller = self.control.caller();
        let (subscription, query) = match &self.streams {
            Streams::One(member, ..) => (&member.subscription, &member.query),
            Streams::Many(many) => many.member(stream)?,
        };
        if let Some(next) = reopen(&self.catalog, subscription, query, caller.as_deref()) {
            match &mut self.streams {
                Streams::One(member, ..) => *member = next,
                Streams::Many(many) => many.replace(stream, next),
            }
            return None;
        }
        match &mut self.streams {
            Streams::One(..) => {
                self.control.end(Ended::FilterChanged);
                None
            }
            Streams::Many(many) => {
                many.end(stream);
                if many.is_over() {
                    self.control.end(Ended::FilterChanged);
                }
                let kind = FrameKind::End(Ended::FilterChanged);
                Some(Frame { stream, kind })
            }
        }
    }

    /// More or less is known of the caller than before. That is fine as long as it opens the same
    /// streams with the same values: what is open is never quietly narrowed or widened.
    fn hold_against_caller(&mut self) {
        let Some((before, now)) = self.control.take_change() else { return };
        let catalog = &self.catalog;
        let fits = |(subscription, query)| fits(catalog, subscription, query, (&before, &now));
        let all_fit = match &self.streams {
            Streams::One(member, ..) => fits((&member.subscription, &member.query)),
            Streams::Many(many) => many.members().all(fits),
        };
        if !all_fit {
            self.control.end(Ended::Unauthorized);
        }
    }

    /// Counts an event that was written of a stream.
    pub fn count_sent(&mut self, stream: u16) {
        match &mut self.streams {
            Streams::One(member, ..) => member.subscription.count_sent(),
            Streams::Many(many) => {
                // Else it has ended meanwhile.
                if let Some((subscription, _)) = many.member(stream) {
                    subscription.count_sent();
                }
            }
        }
    }
}

/// Opens a stream again after its filter was edited, if that is still possible.
fn reopen(
    catalog: &Catalog,
    subscription: &Subscription,
    query: &Query,
    caller: Option<&Caller>,
) -> Option<Member> {
    let claims = caller.map(|caller| caller.claims.document());
    let found = catalog.find(&subscription.filter().name).ok()?;
    let pairs = query.pairs(subscription.filter(), subscription.values());
    let bound = found.filter.bind(&pairs, claims).ok()?;
    let from = From::FilterChanged { was_ready: subscription.was_ready(), beyond: None };
    let query = Query::beside(&pairs, &found.filter, bound.values());
    let listener = subscription.listener();
    Some(Member { subscription: catalog.subscribe(&found, bound, from, listener), query })
}

fn fits(
    catalog: &Catalog,
    subscription: &Subscription,
    query: &Query,
    (before, now): (&Caller, &Caller),
) -> bool {
    if matches!(subscription.filter().access, Access::Public) {
        return true;
    }
    let pairs = query.pairs(subscription.filter(), subscription.values());
    let bind = |caller: &Caller| {
        let found = catalog.find(&subscription.filter().name).ok()?;
        found.filter.bind(&pairs, Some(caller.claims.document())).ok()
    };
    match (bind(before), bind(now)) {
        (Some(before), Some(now)) => before.values() == now.values(),
        _ => false,
    }
}
