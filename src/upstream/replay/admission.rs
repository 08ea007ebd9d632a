//! Which clients follow a pass, and which join it when it reaches them.
//!
//! Invariants:
//!
//! - A client joins when the pass is at its position, placed by its order. If a client's token
//!   names a collection that is still unknown by then, the client waits until the pass ends. If the
//!   pass has read an event of that collection by then, the next pass places the client; otherwise
//!   its history is lost.
//! - Lock order: admission, then the pass's feed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::member::Member;
use super::pass::End;
use super::{Reply, Request};
use crate::event::{ChangeEvent, Position};
use crate::feed::Feed;
use crate::feed::journal::Located;
use crate::feed::routes::{ResetReason, Route};

/// The clients of a pass: who follows it already, and who joins it at a later position.
#[derive(Debug)]
pub(super) struct Admission {
    live: Arc<Feed>,
    /// Of the live feed's collections, when the cursor was opened: who came for one that was added
    /// since needs another pass.
    generation: u64,
    /// What the pass reads.
    read: Arc<Feed>,
    end: Arc<End>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    is_closed: bool,
    /// Those who join when the pass gets there.
    pending: BTreeMap<Position, Vec<Request>>,
    members: Vec<Watched>,
    doubtful: Vec<Request>,
}

/// A member, as the pass sees it.
#[derive(Debug)]
struct Watched {
    route: Arc<Route>,
    progress: Arc<AtomicU64>,
}

impl Admission {
    /// `generation` is that of `live` when the pass opened its cursor; `end` tells the clients why
    /// the pass ended.
    pub fn new(live: Arc<Feed>, generation: u64, read: Arc<Feed>, end: Arc<End>) -> Admission {
        Admission { live, generation, read, end, inner: Mutex::default() }
    }

    /// Lets a client in when the pass gets to its place.
    pub fn expect(&self, request: Request) {
        self.inner.lock().expect(request);
    }

    /// Takes another client in.
    ///
    /// # Errors
    /// Gives the request back if the pass is past its place, or ends.
    pub fn admit(&self, request: Request) -> Result<(), Request> {
        if self.live.generation() != self.generation {
            return Err(request);
        }
        let mut inner = self.inner.lock();
        if inner.is_closed {
            return Err(request);
        }
        let is_ahead = self.read.now().is_some_and(|(head, _)| head < request.after);
        match self.read.locate(&request.after) {
            _ if is_ahead => inner.expect(request),
            Some(Located::At(number)) => self.join_at(request, number, &mut inner),
            Some(Located::Gone | Located::Unknown) | None => return Err(request),
        }
        Ok(())
    }

    /// Appends the next event, between those who join before it and those who join behind. What it
    /// is for them is found out when others may ask again.
    pub fn take(&self, event: ChangeEvent) {
        let token = event.token().clone();
        let offered = {
            let mut inner = self.inner.lock();
            self.pass_by(&token, &mut inner);
            // There is one writer and one list of collections, so it is taken.
            let offered = self.read.take_in(0, [event]);
            debug_assert!(offered.is_some());
            for request in inner.pending.remove(&token).into_iter().flatten() {
                self.settle(request, &mut inner);
            }
            offered
        };
        if let Some(offered) = offered {
            offered.hand_out();
        }
    }

    /// Everything up to here was read, and nothing came.
    pub fn reach(&self, head: &Position) {
        let mut inner = self.inner.lock();
        self.pass_by(head, &mut inner);
        let _ = self.read.advance(0, head.clone());
    }

    /// Those whose place would have come next.
    pub fn first(&self) -> Vec<Request> {
        let first = self.inner.lock().pending.pop_first();
        first.map(|(_, requests)| requests).unwrap_or_default()
    }

    /// Whether a member still has to take one of these events. Who lost one already does not count:
    /// it asks again as soon as it reads.
    pub fn has_laggards(&self, first: u64, until: u64) -> bool {
        let mut inner = self.inner.lock();
        inner.forget_those_who_left();
        inner.members.iter().any(|member| member.has_to_take(first, until))
    }

    /// Whether nobody reads or waits for the pass.
    pub fn is_unwanted(&self) -> bool {
        let mut inner = self.inner.lock();
        inner.forget_those_who_left();
        inner.members.is_empty() && inner.pending.is_empty()
    }

    /// Ends admission; gives back who did not come in and may come into another pass. Who stays
    /// doubtful is told.
    pub fn close(&self) -> Vec<Request> {
        let mut inner = self.inner.lock();
        inner.is_closed = true;
        let pending = std::mem::take(&mut inner.pending);
        let mut waiting: Vec<Request> = pending.into_values().flatten().collect();
        for request in std::mem::take(&mut inner.doubtful) {
            if request.is_known(&self.live) {
                waiting.push(request);
            } else {
                // A client that left does not have to know.
                let _ = request.reply.send(Reply::Lost(ResetReason::InvalidToken));
            }
        }
        waiting
    }

    /// Lets those in whose places lie before this one.
    fn pass_by(&self, next: &Position, inner: &mut Inner) {
        while let Some(first) = inner.pending.first_entry() {
            if first.key() >= next {
                break;
            }
            for request in first.remove() {
                self.settle(request, inner);
            }
        }
    }

    /// The pass is at a client's place: lets it in, unless its token is of another collection.
    fn settle(&self, request: Request, inner: &mut Inner) {
        match request.is_known(&self.live) {
            true => self.join(request, inner),
            false => inner.doubtful.push(request),
        }
    }

    fn join(&self, request: Request, inner: &mut Inner) {
        let end = self.read.now().map_or(0, |(_, end)| end);
        self.join_at(request, end, inner);
    }

    fn join_at(&self, request: Request, cursor: u64, inner: &mut Inner) {
        let route = self.read.join_as(&request.route);
        let progress = Arc::new(AtomicU64::new(cursor));
        inner.members.push(Watched { route: route.clone(), progress: progress.clone() });
        let member =
            Member { feed: self.read.clone(), route, cursor, progress, end: self.end.clone() };
        // A client that left gets its member back to drop, which takes it off the route.
        let _ = request.reply.send(Reply::Joined(member));
    }
}

impl Inner {
    fn expect(&mut self, request: Request) {
        self.pending.entry(request.after.clone()).or_default().push(request);
    }

    fn forget_those_who_left(&mut self) {
        self.members.retain(|member| Arc::strong_count(&member.progress) > 1);
        self.pending.retain(|_, requests| {
            requests.retain(|request| !request.reply.is_closed());
            !requests.is_empty()
        });
    }
}

impl Watched {
    fn has_to_take(&self, first: u64, until: u64) -> bool {
        let cursor = self.progress.load(Ordering::Acquire);
        self.route.unread_from(cursor).is_some_and(|unread| (first..until).contains(&unread))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bson::{Timestamp, rawdoc};
    use tokio::sync::oneshot;

    use super::*;
    use crate::feed::FeedKey;
    use crate::feed::journal::JournalLimits;

    fn before(time: u32) -> Position {
        Position::before(Timestamp { time, increment: 1 })
    }

    fn token(time: u32, uuid: char) -> Position {
        let uuid = uuid.to_string().repeat(32);
        let text = format!("82{time:08X}000000012B022C0100296E5A1004{uuid}46645F6964002B020004");
        Position::parse(&text).unwrap()
    }

    fn event(time: u32) -> ChangeEvent {
        let raw = rawdoc! {
            "_id": { "_data": token(time, 'A').to_string() },
            "operationType": "insert",
            "ns": { "db": "shop", "coll": "orders" },
            "documentKey": { "_id": 1 },
            "fullDocument": { "_id": 1 },
        };
        ChangeEvent::parse(raw).unwrap()
    }

    // Whether there is an event of a token makes no difference: the answer would tell who makes up
    // tokens which documents were changed. A collection makes one.
    #[test]
    fn a_token_is_placed_by_its_order_if_its_collection_came_by() {
        let filter = Arc::new(crate::filter::tests::good(""));
        let limits = JournalLimits { window: Duration::from_secs(60), max_bytes: 1 << 20 };
        let live = Arc::new(Feed::new(FeedKey::of(&filter), limits, 16));
        let read = Arc::new(live.beside(limits, 16));
        read.opened_at(&before(10));
        let admission = Admission::new(live.clone(), 0, read, Arc::default());
        let ask = |after: Position| {
            let route = live.join(&filter, filter.bind(&[], None).unwrap()).route;
            let (reply, replied) = oneshot::channel();
            admission.expect(Request { route, after, reply });
            replied
        };
        let mut too_early = ask(token(15, 'A'));
        let mut known = ask(token(20, 'A'));
        let mut made_up = ask(token(30, 'A'));
        let mut foreign = ask(token(30, 'B'));
        let mut between = ask(before(30));

        admission.take(event(20));
        assert!(matches!(known.try_recv(), Ok(Reply::Joined(member)) if member.cursor == 1));
        assert!(between.try_recv().is_err());
        admission.take(event(40));
        for joined in [&mut between, &mut made_up] {
            assert!(matches!(joined.try_recv(), Ok(Reply::Joined(member)) if member.cursor == 1));
        }
        assert!(too_early.try_recv().is_err() && foreign.try_recv().is_err());
        let waiting = admission.close();
        assert_eq!(waiting.iter().map(|it| &it.after).collect::<Vec<_>>(), [&token(15, 'A')]);
        let lost = foreign.try_recv();
        assert!(matches!(lost, Ok(Reply::Lost(ResetReason::InvalidToken))), "{lost:?}");
    }
}
