//! One pass over the oplog: its cursor, and the events that it read lately. [`super::admission`]
//! decides which clients follow it.
//!
//! Opening, reading, waiting and the meaning of errors are those of the live cursor, from the same
//! places; `upstream::follow` says why the loops over them are two. Where that one resets everybody and
//! reads on from now, this one ends: without its clients it is for nothing, and what MongoDB cannot
//! give any more is lost for them alone.
//!
//! Invariants:
//!
//! - `position` is the position up to which the pass has read. The feed has the events before it,
//!   as far as the ring reaches.
//! - The ring waits a moment for slow readers, and then continues without them.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mongodb::error::Error;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::admission::Admission;
use super::opening::{self, NotOpened};
use super::{RETRY, ReplayState, Reply, Request};
use crate::event::{ChangeEvent, OperationType, Position};
use crate::feed::Feed;
use crate::feed::journal::{JournalLimits, Located};
use crate::feed::routes::ResetReason;
use crate::trace::SpanSide;
use crate::upstream::cursor::{Events, Next, ReadMode};
use crate::upstream::failure::Failure;
use crate::upstream::large::{self, Detour};
use crate::upstream::patience::Patience;

/// Of what the journal may hold, a pass's ring may hold so much.
const SHARE: usize = 4;
/// Deliveries that a route of a pass keeps ready; beyond them its clients look into the ring.
const KEEP: usize = 32;
/// How long a full ring waits for those who lag.
const LAG: Duration = Duration::from_millis(500);
const LAG_POLL: Duration = Duration::from_millis(5);
/// How long a finished pass stays for those who have not taken all of it.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_POLL: Duration = Duration::from_millis(50);
/// How many events are taken before the clients get a chance to run.
const BURST: u32 = 64;

/// How a pass ended, once it has; said before its routes are retired.
pub(super) type End = OnceLock<PassEnd>;

/// How a pass ended.
#[derive(Debug, Clone)]
pub(super) enum PassEnd {
    /// The journal has everything after this.
    Met(Position),
    Lost(ResetReason),
    /// It seemed to have no clients any more.
    Stopped,
}

/// One reading of the oplog, for all clients whose positions it passes.
#[derive(Debug)]
pub(super) struct Pass {
    live: Arc<Feed>,
    start: Position,
    /// What this pass reads; a ring and routes like the live one's.
    read: Arc<Feed>,
    max_bytes: usize,
    end: Arc<End>,
    pub admission: Admission,
}

/// Why reading one cursor ended.
enum Stop {
    PassEnd(PassEnd),
    /// It has no clients any more.
    Unwanted,
    /// Again, from here.
    Again,
    /// The next event, or one soon after, is too large to be sent.
    TooLarge,
}

/// How far a pass has come.
struct Progress {
    position: Position,
    pace: ReadMode,
    patience: Patience,
}

impl Pass {
    /// A pass that begins at `start`, for these clients.
    pub fn new(
        live: &Arc<Feed>,
        limits: JournalLimits,
        (generation, start): (u64, Position),
        requests: Vec<Request>,
    ) -> Pass {
        // The ring ends by size alone.
        let max_bytes = limits.max_bytes / SHARE;
        let limits = JournalLimits { window: Duration::MAX, max_bytes };
        let read = Arc::new(live.beside(limits, KEEP));
        read.opened_at(&start);
        let end = Arc::<End>::default();
        let admission = Admission::new(live.clone(), generation, read.clone(), end.clone());
        for request in requests {
            admission.expect(request);
        }
        Pass { live: live.clone(), start, read, max_bytes, end, admission }
    }

    /// Reads until it reaches the journal, or has no clients any more.
    /// Without a cursor, opening it told that the first event is too large.
    pub async fn run(&self, shared: &ReplayState, opened: Option<Events>) {
        let span = shared.metrics.tracer.root(SpanSide::Internal, "replay pass");
        span.set_with("sidestream.upstream", || self.live.key().to_string());
        let mut progress = Progress {
            position: self.start.clone(),
            pace: ReadMode::Batches,
            patience: Patience::default(),
        };
        let mut stop = match opened {
            Some(events) => self.follow(events, &mut progress).await,
            None => Stop::TooLarge,
        };
        loop {
            match stop {
                Stop::PassEnd(ended) => {
                    self.finish(ended);
                    break;
                }
                Stop::Unwanted => break,
                Stop::Again => tokio::time::sleep(RETRY).await,
                Stop::TooLarge => {
                    if let Some(ended) = self.go_past_large(shared, &mut progress).await {
                        self.finish(ended);
                        break;
                    }
                }
            }
            if self.admission.is_unwanted() {
                break;
            }
            let Progress { position, pace, patience, .. } = &mut progress;
            stop = match opening::resume(shared, &self.live, position, *pace, patience).await {
                Ok(events) => self.follow(events, &mut progress).await,
                Err(NotOpened::Lost(reason)) => Stop::PassEnd(PassEnd::Lost(reason)),
                Err(NotOpened::TooLarge) => Stop::TooLarge,
                Err(NotOpened::Away) => Stop::Again,
            };
        }
    }

    /// Goes past an event that is too large to be sent. Says how the pass ends where that cannot be
    /// read in any way.
    async fn go_past_large(
        &self,
        shared: &ReplayState,
        progress: &mut Progress,
    ) -> Option<PassEnd> {
        let Progress { position, pace, patience } = progress;
        let (_, collections) = self.live.collections();
        let (server, key) = (&shared.server, self.live.key());
        match large::detour(server, key, &collections, position, (pace, patience)).await {
            Detour::OneByOne | Detour::Skimmed(None) => {}
            Detour::Skimmed(Some(event)) => {
                *position = event.token().clone();
                self.take(event).await;
            }
            Detour::Unreadable(_) => return Some(PassEnd::Lost(ResetReason::HistoryLost)),
            Detour::Failed(error) => {
                debug!(upstream = %key, %error, "replay interrupted");
                tokio::time::sleep(RETRY).await;
            }
        }
        None
    }

    fn finish(&self, ended: PassEnd) {
        if let PassEnd::Lost(reason) = ended {
            // Perhaps the first one could not be read at all. The others try again without it.
            for request in self.admission.first() {
                let _ = request.reply.send(Reply::Lost(reason));
            }
        }
        // Once, and before it could be said that nobody wants it.
        let _ = self.end.set(ended);
    }

    async fn follow(&self, mut events: Events, progress: &mut Progress) -> Stop {
        let Progress { position, patience, .. } = progress;
        let mut burst = 0;
        loop {
            let Ok(next) = patience.answer(events.next()).await else {
                return Stop::Again;
            };
            match next {
                Next::Events(raw) => {
                    let event = match ChangeEvent::parse(raw) {
                        Ok(event) => event,
                        Err(error) => {
                            let upstream = self.live.key();
                            warn!(%upstream, %error, "an event cannot be placed: its clients are reset");
                            return Stop::PassEnd(PassEnd::Lost(ResetReason::HistoryLost));
                        }
                    };
                    let token = event.token().clone();
                    if event.operation() == OperationType::Invalidate {
                        // The cursor ends here; the next one starts after it, also when the
                        // clients have it already.
                        *position = token;
                        return Stop::Again;
                    }
                    // Opened by time, the stream may begin with what was read.
                    if token > *position {
                        self.take(event).await;
                        *position = token;
                        patience.gained();
                    }
                }
                Next::Nothing(Some(head)) if head > *position => {
                    self.admission.reach(&head);
                    *position = head;
                    patience.gained();
                }
                Next::Nothing(_) => {}
                Next::Closed => return Stop::Again,
                Next::Failed(error) => return self.judge(&error),
            }
            if let Some(Located::At(_)) = self.live.locate(position) {
                return Stop::PassEnd(PassEnd::Met(position.clone()));
            }
            burst += 1;
            if burst >= BURST {
                burst = 0;
                if self.admission.is_unwanted() {
                    return Stop::Unwanted;
                }
                tokio::task::yield_now().await;
            }
        }
    }

    fn judge(&self, error: &Error) -> Stop {
        match Failure::of(error) {
            failure if failure.is_loss() => Stop::PassEnd(PassEnd::Lost(ResetReason::HistoryLost)),
            Failure::TooLarge => Stop::TooLarge,
            _ => {
                debug!(upstream = %self.live.key(), %error, "replay interrupted");
                Stop::Again
            }
        }
    }

    async fn take(&self, event: ChangeEvent) {
        self.make_room(event.size()).await;
        self.admission.take(event);
    }

    /// Waits until those have taken theirs who would lose it, but not for long.
    async fn make_room(&self, size: usize) {
        let deadline = Instant::now() + LAG;
        while self.read.journal_bytes() + size > self.max_bytes {
            let (first, end) = self.read.numbers();
            if first == end {
                return;
            }
            // A quarter of the ring at once, so that this is not done for each event.
            let until = first + (end - first).div_ceil(4);
            while self.admission.has_laggards(first, until) && Instant::now() < deadline {
                tokio::time::sleep(LAG_POLL).await;
            }
            self.read.evict_before(until);
        }
    }

    /// Tells the members of the end, and stays until they have taken what was read.
    pub async fn linger(&self) {
        // Somebody may have come in after the last look at whether anybody is there.
        let _ = self.end.set(PassEnd::Stopped);
        self.read.retire_all();
        let deadline = Instant::now() + LINGER;
        while !self.admission.is_unwanted() && Instant::now() < deadline {
            tokio::time::sleep(LINGER_POLL).await;
        }
        self.let_go();
    }

    /// Tells the members that what they wait for is lost, unless they were told how it ended.
    pub fn break_off(&self) {
        if self.end.set(PassEnd::Lost(ResetReason::HistoryLost)).is_ok() {
            self.read.retire_all();
        }
    }

    /// Keeps nothing any more: otherwise whoever reads slowest would. Clients that had not taken
    /// all of it ask again.
    pub fn let_go(&self) {
        if let Some((head, _)) = self.read.now() {
            self.read.restart_at(&head);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bson::Timestamp;
    use tokio::sync::oneshot;

    use super::super::member::ReplayStep;
    use super::*;
    use crate::feed::FeedKey;
    use crate::filter::Filter;

    fn filter(collection: &str) -> Arc<Filter> {
        let text = format!("collection: shop.{collection}\naccess: public\n");
        Arc::new(crate::filter::parse_filter("a", Path::new("a.yaml"), &text).unwrap())
    }

    fn before(time: u32) -> Position {
        Position::before(Timestamp { time, increment: 1 })
    }

    fn event() -> ChangeEvent {
        let raw = bson::rawdoc! {
            "_id": { "_data": "8200000014000000012B022C0100296E04" },
            "operationType": "insert",
            "ns": { "db": "shop", "coll": "orders" },
            "documentKey": { "_id": 1 },
            "fullDocument": { "_id": 1 },
        };
        ChangeEvent::parse(raw).unwrap()
    }

    fn live(filter: &Arc<Filter>) -> (JournalLimits, Arc<Feed>) {
        let limits = JournalLimits { window: Duration::from_secs(60), max_bytes: 1 << 20 };
        let feed = Arc::new(Feed::new(FeedKey::of(filter), limits, 16));
        feed.read_also(std::slice::from_ref(filter));
        feed.opened_at(&before(90));
        (limits, feed)
    }

    fn pass(limits: JournalLimits, live: &Arc<Feed>) -> Pass {
        let begin = (live.generation(), before(10));
        Pass::new(live, limits, begin, Vec::new())
    }

    fn request(live: &Feed, filter: &Arc<Filter>) -> (Request, oneshot::Receiver<Reply>) {
        let route = live.join(filter, filter.bind(&[], None).unwrap()).route;
        let (reply, replied) = oneshot::channel();
        (Request { route, after: before(10), reply }, replied)
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_in_after_the_last_look_is_sent_on() {
        let orders = filter("orders");
        let (limits, live) = live(&orders);
        let pass = pass(limits, &live);
        assert!(pass.admission.is_unwanted());
        let (request, mut replied) = request(&live, &orders);
        assert!(pass.admission.admit(request).is_ok());
        let Ok(Reply::Joined(mut member)) = replied.try_recv() else { panic!("not let in") };
        let waiting = tokio::spawn(async move {
            while matches!(member.look(), ReplayStep::Nothing) {
                member.changed().await;
            }
            member.look()
        });
        let _ = pass.admission.close();
        pass.linger().await;
        let look = tokio::time::timeout(Duration::from_secs(1), waiting).await;
        assert!(matches!(look.unwrap().unwrap(), ReplayStep::Again));
    }

    #[tokio::test(start_paused = true)]
    async fn who_follows_a_pass_that_panics_is_told() {
        let orders = filter("orders");
        let (limits, live) = live(&orders);
        let pass = Arc::new(pass(limits, &live));
        let (request, mut replied) = request(&live, &orders);
        assert!(pass.admission.admit(request).is_ok());
        let Ok(Reply::Joined(mut member)) = replied.try_recv() else { panic!("not let in") };
        let waiting = tokio::spawn(async move {
            while matches!(member.look(), ReplayStep::Nothing) {
                member.changed().await;
            }
            member.look()
        });
        let ends = super::super::Ends(pass);
        let bug = tokio::spawn(async move {
            let _ends = ends;
            panic!("a bug");
        });
        assert!(bug.await.is_err());
        let look = tokio::time::timeout(Duration::from_secs(1), waiting).await;
        assert!(matches!(look.unwrap().unwrap(), ReplayStep::Lost(ResetReason::HistoryLost)));
    }

    #[tokio::test(start_paused = true)]
    async fn passes_that_ended_keep_no_more_than_those_that_read() {
        let orders = filter("orders");
        let (limits, live) = live(&orders);
        let metrics = Arc::default();
        let server = crate::upstream::connect::Server::default();
        let replayer = super::super::Replayer::new(server, limits, 8, metrics);
        let mut members = Vec::new();
        let mut passes = Vec::new();
        for _ in 0..5 {
            let pass = Arc::new(pass(limits, &live));
            let (request, mut replied) = request(&live, &orders);
            assert!(pass.admission.admit(request).is_ok());
            let Ok(Reply::Joined(member)) = replied.try_recv() else { panic!("not let in") };
            pass.take(event()).await;
            replayer.let_linger(live.key(), &pass);
            tokio::spawn({
                let pass = pass.clone();
                async move { pass.linger().await }
            });
            members.push(member);
            passes.push(pass);
        }
        let kept: Vec<bool> = passes.iter().map(|pass| pass.read.journal_bytes() > 0).collect();
        assert_eq!(kept, [false, false, false, true, true]);
        // Whoever lost it asks again, and nobody is told that there was nothing.
        tokio::time::sleep(LINGER_POLL).await;
        assert!(matches!(members[0].look(), ReplayStep::Again));
        assert!(matches!(members[4].look(), ReplayStep::Deliveries(found) if found.len() == 1));
    }

    #[tokio::test]
    async fn who_wants_a_collection_that_is_not_read_is_not_let_in() {
        let (orders, bills) = (filter("orders"), filter("bills"));
        let (limits, live) = live(&orders);
        let old = pass(limits, &live);
        live.read_also(std::slice::from_ref(&bills));
        let (request, _replied) = request(&live, &bills);
        let Err(request) = old.admission.admit(request) else { panic!("let in") };
        assert!(pass(limits, &live).admission.admit(request).is_ok());
    }
}
