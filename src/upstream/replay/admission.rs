//! Who follows a pass, and who joins it when it gets to them.
//!
//! Law of this file:
//!
//! - A client joins when the pass is at its position: after the event that its token names, or
//!   between two events for a position that names none. Whoever's token should have come by and
//!   did not is doubtful, and the server is asked about it.
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
use crate::feed::routes::Route;

/// See the file's head.
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

/// Who is left when a pass has ended.
pub(super) struct Left {
    pub waiting: Vec<Request>,
    pub doubtful: Vec<Request>,
}

impl Admission {
    pub fn new(live: Arc<Feed>, generation: u64, read: Arc<Feed>, end: Arc<End>) -> Admission {
        Admission { live, generation, read, end, inner: Mutex::default() }
    }

    /// Lets a client in when the pass gets to its place.
    pub fn expect(&self, request: Request) {
        self.inner.lock().expect(request);
    }

    /// Lets a client in where the pass is.
    pub fn let_in(&self, request: Request) {
        self.join(request, &mut self.inner.lock());
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
            Some(Located::Unknown) => inner.doubtful.push(request),
            Some(Located::Gone) | None => return Err(request),
        }
        Ok(())
    }

    /// Appends the next event, between those who join before it and those who join behind.
    pub fn take(&self, event: ChangeEvent) {
        let token = event.token().clone();
        let mut inner = self.inner.lock();
        self.pass_by(&token, &mut inner);
        // There is one writer and one list of collections: nothing else can be the answer.
        let was_taken = self.read.append(0, event);
        debug_assert!(was_taken);
        for request in inner.pending.remove(&token).into_iter().flatten() {
            self.join(request, &mut inner);
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

    pub fn is_unwanted(&self) -> bool {
        let mut inner = self.inner.lock();
        inner.forget_those_who_left();
        inner.members.is_empty() && inner.pending.is_empty()
    }

    /// Ends admission; gives back who did not come in.
    pub fn close(&self) -> Left {
        let mut inner = self.inner.lock();
        inner.is_closed = true;
        let pending = std::mem::take(&mut inner.pending);
        let waiting = pending.into_values().flatten().collect();
        Left { waiting, doubtful: std::mem::take(&mut inner.doubtful) }
    }

    /// Lets those in whose places lie before this one.
    fn pass_by(&self, next: &Position, inner: &mut Inner) {
        while let Some(first) = inner.pending.first_entry() {
            if first.key() >= next {
                break;
            }
            let is_doubtful = first.key().names_document();
            for request in first.remove() {
                match is_doubtful {
                    true => inner.doubtful.push(request),
                    false => self.join(request, inner),
                }
            }
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
    use std::path::Path;
    use std::time::Duration;

    use bson::{Timestamp, rawdoc};
    use tokio::sync::oneshot;

    use super::*;
    use crate::feed::FeedKey;
    use crate::feed::journal::Limits;

    fn before(time: u32) -> Position {
        Position::before(Timestamp { time, increment: 1 })
    }

    fn event(time: u32) -> ChangeEvent {
        let raw = rawdoc! {
            "_id": { "_data": format!("82{time:08X}000000012B022C0100296E04") },
            "operationType": "insert",
            "ns": { "db": "shop", "coll": "orders" },
            "documentKey": { "_id": 1 },
            "fullDocument": { "_id": 1 },
        };
        ChangeEvent::parse(raw).unwrap()
    }

    // A token that did not come by may be of another deployment, or of a document that the client
    // must not be told of by what follows: only the server can say.
    #[test]
    fn who_has_a_token_that_did_not_come_by_is_not_let_in() {
        let text = "collection: shop.orders\naccess: public\n";
        let filter = crate::filter::parse_filter("orders", Path::new("orders.yaml"), text).unwrap();
        let filter = Arc::new(filter);
        let limits = Limits { window: Duration::from_secs(60), max_bytes: 1 << 20 };
        let feed = || Arc::new(Feed::new(FeedKey::of(&filter), limits, 16));
        let (live, read) = (feed(), feed());
        read.opened_at(&before(10));
        let admission = Admission::new(live.clone(), 0, read, Arc::default());
        let ask = |after: Position| {
            let route = live.join(&filter, filter.bind(&[], None).unwrap()).route;
            let (reply, replied) = oneshot::channel();
            admission.expect(Request { route, after, reply });
            replied
        };
        let mut known = ask(event(20).token().clone());
        let mut of_nobody = ask(event(30).token().clone());
        let mut between = ask(before(30));
        let mut of_nobody_either = ask(event(50).token().clone());

        admission.take(event(20));
        assert!(matches!(known.try_recv(), Ok(Reply::Joined(member)) if member.cursor == 1));
        assert!(between.try_recv().is_err());
        admission.take(event(40));
        assert!(matches!(between.try_recv(), Ok(Reply::Joined(member)) if member.cursor == 1));
        admission.reach(&before(60));
        assert!(of_nobody.try_recv().is_err() && of_nobody_either.try_recv().is_err());
        let left = admission.close();
        let doubtful: Vec<&Position> = left.doubtful.iter().map(|it| &it.after).collect();
        assert_eq!(doubtful, [event(30).token(), event(50).token()]);
        assert!(left.waiting.is_empty());
    }
}
