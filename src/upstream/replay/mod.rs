//! Older positions: short-lived cursors read the oplog from where clients stopped until they reach
//! the journal.
//!
//! Clients share them. A pass begins at the oldest waiting position, and clients with later
//! positions join when the pass reaches theirs: a storm of clients with as many positions costs two
//! cursors. What a pass reads goes into a feed of its own, with a ring and routes like those of the
//! live one, and its clients are cursors on that; see [`member`]. No client therefore waits for
//! another's slow socket: a client that falls off the ring asks again from its position.
//!
//! A client's token is placed by its order and never passed to MongoDB: whether its event exists
//! makes no difference. If the token's collection is unknown, MongoDB is asked about it (see
//! [`vouch`]). If that does not help, a pass that reads from the token's time on reads an event of
//! the collection, at the latest the token's own; otherwise the token does not belong to this
//! deployment.
//!
//! At most [`PASSES`] at a time for a feed, and `replay.max_concurrent` for all of them.

mod admission;
mod member;
mod opening;
mod pass;
mod vouch;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

use super::connect::Server;
use crate::event::Position;
use crate::feed::journal::JournalLimits;
use crate::feed::routes::{ResetReason, Route};
use crate::feed::{Feed, FeedKey};
use crate::metrics::Metrics;
use crate::tasks::Tasks;
use crate::upstream::budget::{Counted, CursorBudget};
use member::Member;
pub use member::{Replay, ReplayStep};
use pass::Pass;
use vouch::Vouching;

/// Cursors for replays of one feed at a time: while one is under way, another begins for those who
/// stopped before the place where that one began.
const PASSES: usize = 2;
/// How long a pass waits before it begins, for others who want it too: clients that lost their
/// connections together come back together.
const GATHER: Duration = Duration::from_millis(50);
/// Pause between attempts while MongoDB is away.
const RETRY: Duration = Duration::from_millis(500);
/// How many wait before those who left are looked for among them.
const SWEEP_AT: usize = 256;

/// Starts replays, so many at a time.
#[derive(Debug, Clone)]
pub struct Replayer(Arc<ReplayState>);

#[derive(Debug)]
struct ReplayState {
    server: Server,
    /// What a pass keeps for those who have not taken it yet.
    limits: JournalLimits,
    turns: Semaphore,
    metrics: Arc<Metrics>,
    tasks: Tasks,
    budget: CursorBudget,
    vouching: Vouching,
    queues: Mutex<HashMap<FeedKey, Queue>>,
    /// Passes that have ended and still hold what their clients have not taken, the oldest first.
    /// Apart from the queues, which are dropped when they are empty. Locked alone.
    lingering: Mutex<HashMap<FeedKey, VecDeque<Weak<Pass>>>>,
}

/// Who waits, and what is under way, for one feed.
#[derive(Debug, Default)]
struct Queue {
    /// For the next pass.
    waiting: Vec<Request>,
    /// Passes that may be joined.
    joinable: Vec<Arc<Pass>>,
    passes: usize,
    /// A pass waits for its turn, and then takes all waiting clients.
    is_gathering: bool,
    /// Those who left are looked for when so many are here, and then at every doubling.
    sweep_at: usize,
}

/// One client that wants everything after a position.
#[derive(Debug)]
struct Request {
    /// That of the live feed.
    route: Arc<Route>,
    after: Position,
    reply: oneshot::Sender<Reply>,
}

#[derive(Debug)]
enum Reply {
    Joined(Member),
    /// It can be done without a replay now, or not by this one.
    Again,
    /// It cannot be done.
    Lost(ResetReason),
}

impl Replayer {
    /// `limits` bounds what one pass keeps for its clients; `max_concurrent` counts passes.
    pub fn new(
        server: Server,
        limits: JournalLimits,
        max_concurrent: usize,
        metrics: Arc<Metrics>,
    ) -> Replayer {
        let tasks = Tasks::new(&metrics);
        Replayer::within(server, limits, max_concurrent, metrics, (tasks, CursorBudget::ample()))
    }

    /// As [`Replayer::new`], with the passes in a set of tasks, and within a budget.
    pub fn within(
        server: Server,
        limits: JournalLimits,
        max_concurrent: usize,
        metrics: Arc<Metrics>,
        (tasks, budget): (Tasks, CursorBudget),
    ) -> Replayer {
        Replayer(Arc::new(ReplayState {
            server,
            limits,
            turns: Semaphore::new(max_concurrent),
            metrics,
            tasks,
            budget,
            vouching: Vouching::default(),
            queues: Mutex::default(),
            lingering: Mutex::default(),
        }))
    }

    /// Reads what a route's clients want from `after` on, which the feed's journal does not have.
    pub fn start(&self, feed: &Arc<Feed>, route: &Arc<Route>, after: Position) -> Replay {
        self.0.metrics.replays_total.with_label_values(&["oplog"]).inc();
        let is_ahead = feed.now().is_some_and(|(head, _)| head < after);
        if is_ahead {
            // Of an event that another replica has read and this one is about to.
            return Replay::ahead(self.clone(), feed.clone(), route.clone(), after);
        }
        self.ask(feed, route, after)
    }

    fn ask(&self, feed: &Arc<Feed>, route: &Arc<Route>, after: Position) -> Replay {
        let (reply, replied) = oneshot::channel();
        let request = Request { route: route.clone(), after, reply };
        let mut queues = self.0.queues.lock();
        let queue = queues.entry(feed.key().clone()).or_default();
        queue.put(feed, request);
        self.dispatch(queue, feed);
        Replay::queued(replied)
    }

    /// Begins what there is to begin. Under the queues' lock.
    fn dispatch(&self, queue: &mut Queue, feed: &Arc<Feed>) {
        if queue.passes >= PASSES || queue.is_gathering || queue.waiting.is_empty() {
            return;
        }
        queue.is_gathering = true;
        queue.passes += 1;
        let (replayer, feed) = (self.clone(), feed.clone());
        self.0
            .tasks
            .spawn("replay", PassGuard { replayer, feed, gathers: true, pass: None }.take());
    }
}

impl Replayer {
    /// What passes keep for the slow is bounded like what they keep while they read: beyond
    /// [`PASSES`] of a feed, the oldest stops.
    fn let_linger(&self, key: &FeedKey, pass: &Arc<Pass>) {
        let mut lingering = self.0.lingering.lock();
        for passes in lingering.values_mut() {
            passes.retain(|pass| pass.strong_count() > 0);
        }
        lingering.retain(|_, passes| !passes.is_empty());
        let passes = lingering.entry(key.clone()).or_default();
        passes.push_back(Arc::downgrade(pass));
        while passes.len() > PASSES {
            if let Some(oldest) = passes.pop_front().and_then(|pass| pass.upgrade()) {
                oldest.let_go();
            }
        }
    }
}

impl Queue {
    fn put(&mut self, feed: &Feed, request: Request) {
        self.forget_those_who_left();
        let mut request = Some(request);
        // One of an unknown collection needs a pass that begins where it is.
        if request.as_ref().is_some_and(|request| request.is_known(feed)) {
            for pass in &self.joinable {
                request = request.and_then(|request| pass.admission.admit(request).err());
            }
        }
        self.waiting.extend(request);
    }

    /// Clients come and go while MongoDB is away.
    fn forget_those_who_left(&mut self) {
        if self.waiting.len() < self.sweep_at.max(SWEEP_AT) {
            return;
        }
        self.waiting.retain(|request| !request.reply.is_closed());
        self.sweep_at = 2 * self.waiting.len();
    }

    fn is_idle(&self) -> bool {
        self.passes == 0 && self.waiting.is_empty()
    }
}

impl Request {
    /// Whether its token is of a collection that the feed knows; positions that show none are.
    fn is_known(&self, feed: &Feed) -> bool {
        feed.knows(self.route.filter(), &self.after)
    }
}

/// One pass from its announcement to its end. Dropping it, also in a panic, clears the queue.
struct PassGuard {
    replayer: Replayer,
    feed: Arc<Feed>,
    /// Has still to take those who wait.
    gathers: bool,
    /// While it may be joined.
    pass: Option<Arc<Pass>>,
}

impl PassGuard {
    async fn take(mut self) {
        let shared = self.replayer.0.clone();
        // The semaphore is never closed, so there is no error to hear of.
        let turn = shared.turns.acquire().await;
        let place = shared.budget.replay().await;
        tokio::time::sleep(GATHER).await;
        let requests = self.everybody();
        if requests.iter().any(|request| !request.is_known(&self.feed)) {
            shared.vouching.vouch(&shared.server, &self.feed).await;
        }
        let Some((events, pass)) = opening::open(&shared, &self.feed, requests).await else {
            return;
        };
        let pass = Arc::new(pass);
        let _ends = Ends(pass.clone());
        self.publish(&pass);
        let counted = Counted::new(&shared.metrics.replay_cursors);
        pass.run(&shared, events).await;
        drop(counted);
        self.replayer.let_linger(self.feed.key(), &pass);
        drop((turn, place));
        drop(self);
        pass.linger().await;
    }

    fn everybody(&mut self) -> Vec<Request> {
        let mut queues = self.replayer.0.queues.lock();
        let Some(queue) = queues.get_mut(self.feed.key()) else { return Vec::new() };
        self.gathers = false;
        queue.is_gathering = false;
        std::mem::take(&mut queue.waiting)
    }

    /// Lets others join, those first who came while the pass was opened.
    fn publish(&mut self, pass: &Arc<Pass>) {
        self.pass = Some(pass.clone());
        let mut queues = self.replayer.0.queues.lock();
        if let Some(queue) = queues.get_mut(self.feed.key()) {
            queue.joinable.push(pass.clone());
            for request in std::mem::take(&mut queue.waiting) {
                queue.put(&self.feed, request);
            }
        }
    }
}

/// Dropped in a panic, sends those away who read what the pass read: they would wait for ever. Not
/// to ask again at once, since what made it panic would be read again.
struct Ends(Arc<Pass>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.break_off();
    }
}

impl Drop for PassGuard {
    fn drop(&mut self) {
        let mut queues = self.replayer.0.queues.lock();
        let Some(queue) = queues.get_mut(self.feed.key()) else { return };
        queue.passes -= 1;
        queue.is_gathering &= !self.gathers;
        if let Some(pass) = &self.pass {
            queue.joinable.retain(|other| !Arc::ptr_eq(other, pass));
            queue.waiting.extend(pass.admission.close());
        }
        self.replayer.dispatch(queue, &self.feed);
        if queue.is_idle() {
            queues.remove(self.feed.key());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_left_do_not_pile_up() {
        let filter = Arc::new(crate::filter::tests::good(""));
        let limits = JournalLimits { window: Duration::from_secs(60), max_bytes: 1 << 20 };
        let feed = Feed::new(FeedKey::of(&filter), limits, 16);
        let route = feed.join(&filter, filter.bind(&[], None).unwrap()).route;
        let mut queue = Queue::default();
        let mut staying = Vec::new();
        for number in 0..20_000 {
            let (reply, replied) = oneshot::channel();
            let after = Position::parse(&format!("82{number:016X}")).unwrap();
            queue.put(&feed, Request { route: route.clone(), after, reply });
            if number % 100 == 0 {
                staying.push(replied);
            }
        }
        assert!(queue.waiting.len() <= 2 * staying.len() + SWEEP_AT);
        let open = queue.waiting.iter().filter(|request| !request.reply.is_closed()).count();
        assert_eq!(open, staying.len());
    }
}
