//! Several streams on one connection, each under a name. Each keeps its own order, resets and end.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::num::NonZeroU8;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::bookmark::{Bookmark, Label, Labels, place_of};
use super::connection::{Frame, Member};
use super::query::Query;
use super::subscription::{FrameKind, Now, Subscription, Timer};
use crate::event::Position;
use crate::filter::Access;

/// `None` once the stream has ended: its last frames still name it.
type Slot = Option<Subscription>;

/// What the streams of a connection share.
#[derive(Default)]
struct Shared {
    /// By the numbers of the streams.
    labels: Labels,
    /// Where streams are, as an id of the connection says it; see [`Subscription::place`]. Those that wait
    /// are told of the same place.
    places: Vec<Position>,
    /// Boxed, and not there where there is nothing of it.
    rare: Option<Box<Rare>>,
}

/// What few connections have.
#[derive(Default)]
struct Rare {
    /// Of the streams whose values do not say it.
    queries: Vec<(u16, Query)>,
    /// Numbers of streams that have ended, for others.
    free: VecDeque<u16>,
    /// Those of streams that have ended with the caller's right, and whose client was not told yet.
    unauthorized: VecDeque<u16>,
}

impl Shared {
    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }
}

/// What ended a wait.
enum Woke {
    /// A stream has this for its client.
    Frame(usize, FrameKind),
    /// The filter of a stream is no longer the one in force.
    Retired(usize),
    /// A stream has something to look at.
    Route,
    Timer,
}

/// Why a look at all of them gave nothing.
enum Idle {
    /// Some have more to look at, and others may have their turn.
    Busy,
    /// All of them wait for their routes' wake-ups, as almost always.
    AllFollow,
    /// Some wait for something else.
    SomeWait,
}

/// The next frame of a stream that waits for more than its route's wake-up, and its place.
type Other<'a> = (usize, Pin<Box<dyn Future<Output = Option<FrameKind>> + Send + 'a>>);

/// The streams of a connection that carries several.
pub struct Many {
    /// By number. That of an ended stream is given again only when its last frame is long gone.
    slots: Vec<Slot>,
    shared: Box<Shared>,
    /// Whether one id says how far all of them are; else each has its own.
    pub has_one_id: bool,
    /// Whether the connection stays open without a stream.
    pub stays_open: bool,
    /// Where the next look begins, so that each has its turn.
    turn: u16,
    heartbeat: Duration,
    /// When there has to be a sign of life of the connection.
    beat: Instant,
    /// For that, and for those of the streams. It may be elsewhere; see
    /// [`Connection::take_timer`](super::connection::Connection::take_timer).
    pub(super) timer: Option<Timer>,
}

impl Many {
    /// `has_one_id`: each frame's id says how far all streams are.
    pub fn new(has_one_id: bool, stays_open: bool, heartbeat: Duration) -> Many {
        let beat = Instant::now() + heartbeat;
        let timer = Some(Box::pin(sleep_until(beat)));
        Many {
            slots: Vec::new(),
            shared: Box::default(),
            has_one_id,
            stays_open,
            turn: 0,
            heartbeat,
            beat,
            timer,
        }
    }

    /// Adds a stream under a name that no other has; `position` is where it goes on.
    pub fn add(&mut self, label: Label<'_>, member: Member, position: Option<&Position>) {
        let Member { subscription, query } = member;
        let slot = Some(subscription);
        let at = match self.shared.rare.as_mut().and_then(|rare| rare.free.pop_front()) {
            Some(free) => {
                self.slots[usize::from(free)] = slot;
                usize::from(free)
            }
            None => {
                // There are many connections, with few streams each.
                self.slots.reserve_exact(1);
                self.slots.push(slot);
                self.slots.len() - 1
            }
        };
        self.shared.labels.put(at, &label);
        self.keep_query(number(at), query);
        if let Some(place) = position.and_then(place_of) {
            self.go_to(at, place);
        }
    }

    fn keep_query(&mut self, stream: u16, query: Query) {
        if let Some(rare) = &mut self.shared.rare {
            rare.queries.retain(|(of, _)| *of != stream);
        }
        if query != Query::SAID {
            self.shared.rare().queries.push((stream, query));
        }
    }

    fn query(&self, stream: u16) -> &Query {
        let mut queries = self.shared.rare.iter().flat_map(|rare| &rare.queries);
        let found = queries.find(|(of, _)| *of == stream);
        found.map_or(&Query::SAID, |(_, query)| query)
    }

    /// Notes how far a stream's client is. Where another stream is there, they share the place.
    fn go_to(&mut self, at: usize, place: Position) {
        let before = index_of(&self.slots[at]);
        self.leave_place(at);
        let Many { slots, shared, .. } = self;
        let is_used = |index: usize| slots.iter().any(|slot| index_of(slot) == Some(index));
        let places = &mut shared.places;
        let index = places.iter().position(|known| *known == place);
        let index = index.or_else(|| {
            // Nearly always its own.
            let free = before.into_iter().chain(0..places.len()).find(|index| !is_used(*index))?;
            places[free] = place.clone();
            Some(free)
        });
        let index = index.unwrap_or_else(|| {
            places.reserve_exact(1);
            places.push(place);
            places.len() - 1
        });
        if let Some(subscription) = &mut slots[at] {
            // An id says it of far fewer streams.
            subscription.place = u8::try_from(index + 1).ok().and_then(NonZeroU8::new);
        }
    }

    /// Nobody can say any more how far a stream's client is.
    fn leave_place(&mut self, at: usize) {
        if let Some(subscription) = &mut self.slots[at] {
            subscription.place = None;
        }
    }

    fn place(&self, slot: &Slot) -> Option<&Position> {
        self.shared.places.get(index_of(slot)?)
    }

    fn find(&self, name: &str) -> Option<u16> {
        let mut streams = (0..).zip(&self.slots).filter(|(_, slot)| slot.is_some());
        let named = |at: &u16| self.label(*at).is_some_and(|label| label.name() == name);
        streams.find(|(at, _)| named(at)).map(|(at, _)| at)
    }

    /// Takes away the stream of this name; says whether there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        let Some(number) = self.find(name) else { return false };
        self.end(number);
        true
    }

    /// Whether a stream goes by this name.
    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.iter().filter(|slot| slot.is_some()).count()
    }

    /// Whether all streams have ended; the client may still open others.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// By the number that its frames have, also after its end. `None` if there was no such stream.
    pub fn label(&self, stream: u16) -> Option<Label<'_>> {
        self.shared.labels.get(usize::from(stream))
    }

    /// How far all of them are.
    pub fn bookmark(&self) -> Bookmark {
        let mut bookmark = Bookmark::default();
        for (slot, label) in self.slots.iter().zip(self.shared.labels.iter()) {
            if let Some(place) = self.place(slot) {
                bookmark.put(label.name(), place.clone());
            }
        }
        bookmark
    }

    /// All of them, each with its query.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&Subscription, &Query)> {
        let numbered = (0..).zip(&self.slots);
        numbered.filter_map(|(at, slot)| Some((slot.as_ref()?, self.query(at))))
    }

    /// One of them, with its query. `None`: it has ended.
    pub(super) fn member(&self, stream: u16) -> Option<(&Subscription, &Query)> {
        let slot = self.slots.get(usize::from(stream))?;
        Some((slot.as_ref()?, self.query(stream)))
    }

    /// The same, to be moved. Its query and its place stay what they are.
    pub(super) fn subscription(&mut self, stream: u16) -> Option<&mut Subscription> {
        self.slots.get_mut(usize::from(stream))?.as_mut()
    }

    /// Has another stream in the place of one.
    pub(super) fn replace(&mut self, stream: u16, member: Member) {
        if let Some(slot) = self.slots.get_mut(usize::from(stream)) {
            let place = slot.as_ref().and_then(|before| before.place);
            let next = slot.insert(member.subscription);
            next.place = place;
            self.keep_query(stream, member.query);
        }
    }

    /// Whether the connection has nothing more to wait for.
    pub(super) fn is_over(&self) -> bool {
        self.is_empty() && !self.stays_open
    }

    /// Ends a stream; its number is free for another.
    pub(super) fn end(&mut self, stream: u16) {
        if let Some(slot) = self.slots.get_mut(usize::from(stream))
            && slot.take().is_some()
        {
            self.shared.rare().free.push_back(stream);
        }
    }

    /// Ends those that need a right, where others, or the connection by itself, go on without; says
    /// whether they do.
    pub(super) fn end_protected(&mut self) -> bool {
        let is_public = |one: &Subscription| matches!(one.filter().access, Access::Public);
        if !self.stays_open && !self.members().any(|(subscription, _)| is_public(subscription)) {
            return false;
        }
        for (at, slot) in (0..).zip(&mut self.slots) {
            if slot.take_if(|subscription| !is_public(subscription)).is_some() {
                self.shared.rare().unauthorized.push_back(at);
            }
        }
        true
    }

    /// One of those that were ended for want of a right, which its client is still to be told.
    pub(super) fn pop_unauthorized(&mut self) -> Option<u16> {
        let rare = self.shared.rare.as_mut()?;
        let stream = rare.unauthorized.pop_front()?;
        rare.free.push_back(stream);
        Some(stream)
    }

    /// Ends one of them, and says which.
    pub(super) fn pop(&mut self) -> Option<u16> {
        let at = self.slots.iter().position(Option::is_some)?;
        let number = u16::try_from(at).ok()?;
        self.end(number);
        Some(number)
    }

    /// What can be given without waiting.
    pub(super) fn next_ready(&mut self) -> Option<Frame> {
        for _ in 0..self.slots.len() {
            let at = self.next_turn();
            let Some(subscription) = &mut self.slots[at] else { continue };
            if let Some(kind) = subscription.next_ready()
                && let Some(frame) = self.take(at, kind)
            {
                return Some(frame);
            }
        }
        None
    }

    /// The next frame of any of them, and whose it is. `None`: its filter is no longer the one in
    /// force.
    pub(super) async fn next(&mut self) -> (u16, Option<FrameKind>) {
        loop {
            let idle = match self.look() {
                Ok(woke) => match self.heed(woke) {
                    Some(found) => return found,
                    None => continue,
                },
                Err(idle) => idle,
            };
            let woke = match idle {
                Idle::Busy => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Idle::AllFollow => poll_fn(|cx| self.poll_followed(cx)).await,
                // Boxed: few connections wait so, and not for long.
                Idle::SomeWait => Box::pin(self.wait()).await,
            };
            if let Some(found) = self.heed(woke) {
                return found;
            }
        }
    }

    /// What a wake-up has for the client, as in [`Many::next`].
    fn heed(&mut self, woke: Woke) -> Option<(u16, Option<FrameKind>)> {
        match woke {
            Woke::Timer => {
                let (keepalive, next) = self.beat();
                if let Some(timer) = &mut self.timer {
                    timer.as_mut().reset(next);
                }
                keepalive.map(|keepalive| (0, Some(keepalive)))
            }
            Woke::Retired(at) => Some((number(at), None)),
            Woke::Frame(at, kind) => {
                self.take(at, kind).map(|frame| (frame.stream, Some(frame.kind)))
            }
            Woke::Route => None,
        }
    }

    /// Whose turn it is: where there are none, 0.
    fn next_turn(&mut self) -> usize {
        let turn = (usize::from(self.turn) + 1) % self.slots.len().max(1);
        self.turn = number(turn);
        turn
    }

    /// Looks at each of them, until one has something.
    fn look(&mut self) -> Result<Woke, Idle> {
        let turn = self.next_turn();
        let (mut is_busy, mut all_follow) = (false, true);
        let (first, behind) = self.slots.split_at_mut(turn);
        let numbered = (turn..).zip(behind).chain((0..).zip(first));
        for (at, slot) in numbered {
            let Some(subscription) = slot else { continue };
            match subscription.now() {
                Now::Frame(kind) => return Ok(Woke::Frame(at, kind)),
                Now::Retired => return Ok(Woke::Retired(at)),
                Now::Busy => is_busy = true,
                Now::Nothing => all_follow &= subscription.is_following(),
            }
        }
        Err(match all_follow {
            _ if is_busy => Idle::Busy,
            true => Idle::AllFollow,
            false => Idle::SomeWait,
        })
    }

    /// Ready when one of them has been woken, or when it is time for a sign of life.
    fn poll_followed(&mut self, cx: &mut Context<'_>) -> Poll<Woke> {
        for subscription in self.slots.iter_mut().flatten() {
            if subscription.poll_woken(cx).is_ready() {
                return Poll::Ready(Woke::Route);
            }
        }
        poll_timer(&mut self.timer, cx)
    }

    /// Waits for one of them, or for the time of a sign of life.
    async fn wait(&mut self) -> Woke {
        let timer = &mut self.timer;
        let (mut following, mut others): (Vec<_>, Vec<Other<'_>>) = (Vec::new(), Vec::new());
        for (at, slot) in self.slots.iter_mut().enumerate() {
            let Some(subscription) = slot else { continue };
            match subscription.is_following() {
                true => following.push(subscription),
                false => others.push((at, Box::pin(subscription.next(None, None)))),
            }
        }
        poll_fn(|cx| {
            for subscription in &mut following {
                if subscription.poll_woken(cx).is_ready() {
                    return Poll::Ready(Woke::Route);
                }
            }
            for (at, next) in &mut others {
                if let Poll::Ready(kind) = next.as_mut().poll(cx) {
                    let retired = Woke::Retired(*at);
                    return Poll::Ready(kind.map_or(retired, |kind| Woke::Frame(*at, kind)));
                }
            }
            poll_timer(timer, cx)
        })
        .await
    }

    /// Has signs of life ready where it is time for them. Gives one that is of all streams, and when to
    /// ask again.
    pub(super) fn beat(&mut self) -> (Option<FrameKind>, Instant) {
        let now = Instant::now();
        let mut next = now + self.heartbeat;
        let mut has_position = false;
        for subscription in self.slots.iter_mut().flatten() {
            has_position |= subscription.beat_if_due(now);
            next = next.min(subscription.beat());
        }
        let keepalive = (now >= self.beat && !has_position).then_some(FrameKind::Keepalive);
        if keepalive.is_some() {
            self.note();
        }
        if self.beat > now {
            next = next.min(self.beat);
        }
        (keepalive, next)
    }

    /// Notes how far a frame brings its client. `None` for a sign of life: there is one for all.
    fn take(&mut self, at: usize, kind: FrameKind) -> Option<Frame> {
        if matches!(kind, FrameKind::Keepalive) {
            return None;
        }
        if matches!(kind, FrameKind::Snapshot(_)) {
            // Who is cut off before it is complete gets it anew.
            self.leave_place(at);
        }
        // One of a form that cannot be said leaves the place where it was. Nobody asks for it where each
        // has its own id.
        if self.has_one_id
            && let Some(place) = kind.position().as_ref().and_then(place_of)
        {
            self.go_to(at, place);
        }
        self.note();
        Some(Frame { stream: number(at), kind })
    }

    fn note(&mut self) {
        self.beat = Instant::now() + self.heartbeat;
    }
}

fn poll_timer(timer: &mut Option<Timer>, cx: &mut Context<'_>) -> Poll<Woke> {
    match timer {
        Some(timer) => timer.as_mut().poll(cx).map(|()| Woke::Timer),
        None => Poll::Pending,
    }
}

/// There are far fewer than that.
fn number(at: usize) -> u16 {
    u16::try_from(at).unwrap_or(u16::MAX)
}

/// In [`Shared::places`].
fn index_of(slot: &Slot) -> Option<usize> {
    slot.as_ref()?.place.map(|place| usize::from(place.get()) - 1)
}
