//! A client's side of a replay: a cursor on what a pass reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::pass::{End, PassEnd};
use super::{Replayer, Reply};
use crate::event::Position;
use crate::feed::journal::Located;
use crate::feed::routes::{Delivery, Read, ResetReason, Route};
use crate::feed::{Back, Feed};

/// How many deliveries one look takes.
const BATCH: usize = 64;
/// A position that the journal has not reached yet is looked for so often,
const AHEAD_POLL: Duration = Duration::from_millis(50);
/// and each time that it was so for so long, MongoDB is asked: replicas differ by what one of them
/// has not read yet.
const AHEAD_PATIENCE: Duration = Duration::from_secs(5);

/// Everything between a position and the journal, for one client.
#[derive(Debug)]
pub struct Replay(Stage);

#[derive(Debug)]
enum Stage {
    Ahead(Box<Ahead>),
    Queued(oneshot::Receiver<Reply>),
    /// What the pass had to say, not looked at yet.
    Answered(Option<Reply>),
    Reading(Member),
}

#[derive(Debug)]
struct Ahead {
    replayer: Replayer,
    feed: Arc<Feed>,
    route: Arc<Route>,
    after: Position,
    since: Instant,
    /// It will not come: MongoDB has no such collection, or no such time.
    is_foreign: bool,
}

/// What a look at a replay finds.
#[derive(Debug)]
pub enum ReplayStep {
    Nothing,
    /// In order; perhaps none, and then there may be more all the same.
    Deliveries(Vec<Arc<Delivery>>),
    /// Everything up to here was read, and what the client wanted of it is delivered.
    Met(Position),
    /// Look where the client's position is now.
    Again,
    Lost(ResetReason),
}

impl Replay {
    /// For a position ahead of what was read: this replica may be behind the one that gave it.
    pub(super) fn ahead(
        replayer: Replayer,
        feed: Arc<Feed>,
        route: Arc<Route>,
        after: Position,
    ) -> Replay {
        let (since, is_foreign) = (Instant::now(), false);
        Replay(Stage::Ahead(Box::new(Ahead { replayer, feed, route, after, since, is_foreign })))
    }

    /// For one that a pass will answer.
    pub(super) fn queued(reply: oneshot::Receiver<Reply>) -> Replay {
        Replay(Stage::Queued(reply))
    }

    /// Waits until a look may find something. May be dropped and called again.
    pub async fn changed(&mut self) {
        match &mut self.0 {
            Stage::Ahead(ahead) => ahead.changed().await,
            Stage::Queued(replied) => {
                let reply = replied.await.ok();
                self.0 = Stage::Answered(reply);
            }
            Stage::Answered(_) => {}
            Stage::Reading(member) => member.changed().await,
        }
    }

    /// Takes what is there without waiting.
    pub fn look(&mut self) -> ReplayStep {
        match &mut self.0 {
            Stage::Queued(_) => ReplayStep::Nothing,
            Stage::Ahead(ahead) => match ahead.look() {
                Ok(look) => look,
                Err(asked) => {
                    *self = asked;
                    ReplayStep::Nothing
                }
            },
            Stage::Answered(reply) => match reply.take() {
                Some(Reply::Joined(member)) => {
                    self.0 = Stage::Reading(member);
                    ReplayStep::Deliveries(Vec::new())
                }
                Some(Reply::Again) => ReplayStep::Again,
                Some(Reply::Lost(reason)) => ReplayStep::Lost(reason),
                // The pass is gone without a word, which only a panic can do: say so.
                None => ReplayStep::Lost(ResetReason::HistoryLost),
            },
            Stage::Reading(member) => member.look(),
        }
    }
}

impl Ahead {
    async fn changed(&mut self) {
        tokio::time::sleep(AHEAD_POLL).await;
        if self.since.elapsed() < AHEAD_PATIENCE {
            return;
        }
        let shared = &self.replayer.0;
        let is_told = shared.vouching.vouch(&shared.server, &self.feed).await;
        let is_future = match shared.server.ask().await {
            Ok(deployment) => deployment.is_in_the_future(&self.after),
            Err(_) => false,
        };
        let is_known = self.feed.knows(self.route.filter(), &self.after);
        self.is_foreign = is_future || is_told && !is_known;
        self.since = Instant::now();
    }

    /// `Err`: the journal has come by and knows nothing of it, so it has to be looked for.
    fn look(&self) -> Result<ReplayStep, Replay> {
        if self.is_foreign {
            return Ok(ReplayStep::Lost(ResetReason::InvalidToken));
        }
        let is_ahead = self.feed.now().is_some_and(|(head, _)| head < self.after);
        match self.feed.locate_for(self.route.filter(), &self.after) {
            Some(Located::Unknown) if is_ahead => Ok(ReplayStep::Nothing),
            Some(Located::Unknown) => {
                Err(self.replayer.ask(&self.feed, &self.route, self.after.clone()))
            }
            _ => Ok(ReplayStep::Again),
        }
    }
}

/// A cursor on a pass's feed. Dropping it leaves the route.
#[derive(Debug)]
pub(super) struct Member {
    pub feed: Arc<Feed>,
    pub route: Arc<Route>,
    pub cursor: u64,
    /// Where the cursor is, for the pass to see who lags.
    pub progress: Arc<AtomicU64>,
    pub end: Arc<End>,
}

impl Member {
    /// Waits until a look may find something. May be dropped and called again.
    pub(super) async fn changed(&self) {
        // From here on a wake-up is kept, also one that comes before the await.
        let woken = self.route.wakers.woken();
        let is_waiting = match self.route.is_behind(self.cursor) {
            true => self.feed.is_looking_back(&self.route),
            false => self.end.get().is_none() && self.route.is_up_to_date(self.cursor),
        };
        if is_waiting {
            woken.await;
        }
    }

    pub(super) fn look(&mut self) -> ReplayStep {
        // Before the route: what was read until the end is in the route when the end is said.
        let ended = self.end.get();
        match self.route.read(&mut self.cursor, BATCH) {
            Read::UpToDate => match ended {
                None => ReplayStep::Nothing,
                Some(PassEnd::Met(position)) => ReplayStep::Met(position.clone()),
                Some(PassEnd::Lost(reason)) => ReplayStep::Lost(*reason),
                Some(PassEnd::Stopped) => ReplayStep::Again,
            },
            Read::Deliveries { found, .. } => {
                self.advance();
                ReplayStep::Deliveries(found)
            }
            Read::Behind => self.look_back(),
        }
    }

    fn look_back(&mut self) -> ReplayStep {
        match self.feed.look_back(&self.route, &mut self.cursor, BATCH) {
            Back::Deliveries(found) => {
                self.advance();
                ReplayStep::Deliveries(found)
            }
            Back::Asked => ReplayStep::Nothing,
            // The ring went on without this client: a new replay begins where it is.
            Back::Gone => ReplayStep::Again,
        }
    }

    fn advance(&self) {
        self.progress.store(self.cursor, Ordering::Release);
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.feed.leave(&self.route);
    }
}
