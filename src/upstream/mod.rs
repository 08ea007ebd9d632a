//! Owns the change stream cursors: one task per feed that opens, resumes, backs off and appends.
//!
//! The only room that touches the MongoDB client. Few cursors whatever the number of clients:
//! each one scans the oplog and costs the server CPU for every write.

pub mod budget;
pub mod connect;
pub mod cursor;
pub mod deployment;
pub mod failure;
mod follow;
pub mod inspection;
mod large;
mod patience;
pub mod replay;
pub mod sample;
pub mod snapshot;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bson::Timestamp;
use mongodb::error::Error;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use crate::event::Position;
use crate::feed::{Absence, Collections, Feed, Status};
use crate::metrics::Metrics;
use crate::tasks::Tasks;
use budget::{Counted, CursorBudget, CursorPlace};
use connect::Server;
use cursor::{Events, ReadMode, Start};
use deployment::{Deployment, DeploymentError};
use failure::Failure;
use follow::CursorEnd;
use large::Detour;
use patience::Patience;

/// First and longest pause between attempts that time may heal.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// The same if an operator has to act first.
const SLOW_BACKOFF: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(15));
/// How often a server may refuse to go on, with a code that says nothing else, before it is asked
/// to begin anew.
const REFUSALS: u32 = 12;
/// A token of this deployment is never ahead of the cluster's clock by more than its gossip.
pub(crate) const MAX_AHEAD_OF_CLOCK_SECONDS: u32 = 60;

/// Keeps one feed supplied until told to stop.
pub struct Upstream {
    pub server: Server,
    pub feed: Arc<Feed>,
    /// How far back the first cursor begins, so that reconnecting clients find the last minutes.
    pub window: Duration,
    pub metrics: Arc<Metrics>,
    pub budget: CursorBudget,
    /// Told when the change stream is read, after it was not.
    pub news: Arc<Notify>,
    /// Its own, as long as it has one, or its turn to get it.
    pub place: Mutex<Option<CursorPlace>>,
    /// Turns true when the feed is not wanted any more.
    pub shutdown: watch::Receiver<bool>,
}

/// From where the next cursor is opened.
enum Resume {
    /// Nothing was read yet.
    First,
    FromHead,
    /// Where a cursor was opened that gave no event, and then said that this place is lost. The feed has gone
    /// on since, to where that cursor was: there, nothing would be found out.
    Again(Position),
    /// The place to go on from is lost.
    FromNow,
}

impl Upstream {
    /// Runs until shutdown, in a task that outlives panics.
    ///
    /// What a panic has left half done, nobody knows: an event may be in the journal and not have
    /// reached every route. So the feed does not look live from then on, and reading begins anew,
    /// from now, with a reset for everybody.
    pub fn start(self, tasks: &Tasks) {
        let me = Arc::new(self);
        let has_panicked = Arc::new(AtomicBool::new(false));
        let on_panic = {
            let (me, has_panicked) = (me.clone(), has_panicked.clone());
            move |_: &str| {
                has_panicked.store(true, Ordering::Release);
                me.count_restart("panic");
                let reason = "a bug stopped the reading (see the log): it starts again, and \
                              clients are reset";
                let absence = Absence { reason: reason.to_owned(), needs_a_person: false };
                me.feed.set_status(Status::Away(absence));
            }
        };
        tasks.keep("upstream", on_panic, move || {
            let resume = match has_panicked.load(Ordering::Acquire) {
                true => Resume::FromNow,
                false => Resume::First,
            };
            let me = me.clone();
            async move { me.run(resume).await }
        });
    }

    async fn run(&self, resume: Resume) {
        let mut shutdown = self.shutdown.clone();
        let supplying = async {
            self.take_slot().await;
            self.supply(resume).await;
        };
        tokio::select! {
            () = supplying => {}
            // An error means that whoever could say it is gone: the same.
            _ = shutdown.wait_for(|stop| *stop) => {}
        }
    }

    async fn take_slot(&self) {
        let turn = {
            let mut place = self.place.lock();
            match place.take() {
                Some(CursorPlace::Waiting(turn)) => Some(turn),
                taken @ Some(CursorPlace::Taken(_)) => {
                    *place = taken;
                    return;
                }
                None => None,
            }
        };
        let absence = Absence { reason: self.budget.explain(), needs_a_person: true };
        self.feed.set_status(Status::Away(absence));
        let slot = match turn {
            Some(turn) => turn.await,
            None => self.budget.feed().await,
        };
        *self.place.lock() = Some(CursorPlace::Taken(slot));
        self.feed.set_status(Status::Starting);
    }

    async fn supply(&self, mut resume: Resume) {
        let mut failures = 0u32;
        let mut patience = Patience::default();
        let mut pace = ReadMode::Batches;
        // A cursor said in passing that its place is lost.
        let mut is_doubted = false;
        // It was opened again at once.
        let mut has_hurried = false;
        loop {
            let (generation, collections) = self.feed.collections();
            let (place, (_, next)) = (self.place(&resume), self.feed.numbers());
            let error = match patience.open(self.open(&resume, &collections, pace)).await {
                Ok((events, start, deployment)) => {
                    self.note_opened(&resume, &start, &deployment);
                    let counted = Counted::new(&self.metrics.upstream_cursors);
                    let (ended, has_read) =
                        self.follow(events, generation, deployment, &mut patience).await;
                    drop(counted);
                    let is_untouched = self.feed.numbers().1 == next;
                    // It was tried there before: this is the second time.
                    let is_lost_again = is_untouched
                        && matches!(resume, Resume::Again(_))
                        && matches!(&ended, CursorEnd::Failed(error) if error.failure().is_loss());
                    resume = Resume::FromHead;
                    if has_read && !is_lost_again {
                        (failures, is_doubted, has_hurried) = (0, false, false);
                    }
                    match ended {
                        CursorEnd::Relisted => {
                            self.count_restart("collections");
                            continue;
                        }
                        CursorEnd::Invalidated => {
                            self.count_restart("invalidate");
                            continue;
                        }
                        // Whether the place is lost for good shows when it is opened again: what the
                        // server said of a cursor may have been about its own trouble.
                        CursorEnd::Failed(error)
                            if error.failure().is_loss()
                                && !matches!(error, DeploymentError::Unreadable(_))
                                && !is_doubted =>
                        {
                            is_doubted = true;
                            self.count_restart(error.failure().reason());
                            let upstream = self.feed.key();
                            info!(%upstream, "the place in the oplog may be lost: {error}");
                            if let Some(place) = place.filter(|_| is_untouched) {
                                resume = Resume::Again(place);
                            }
                            continue;
                        }
                        // An election, a connection that broke: nearly always it can be opened again
                        // at once. Where it cannot, that says more than this error.
                        CursorEnd::Failed(DeploymentError::Driver(error))
                            if !has_hurried && failure::is_of_the_way(&error) =>
                        {
                            has_hurried = true;
                            self.count_restart(Failure::of(&error).reason());
                            continue;
                        }
                        CursorEnd::Failed(error) => error,
                    }
                }
                Err(error) => error,
            };
            let reading = (&mut pace, &mut patience);
            let detour = self.go_past_large(reading, error, generation, &collections).await;
            let Some(error) = detour else { continue };
            self.server.forget_version();
            failures += 1;
            let (failure, pause) = self.report(&error, failures).await;
            resume = match (failure, resume) {
                // The window may reach back further than the oplog; see `warm_start`.
                (_, Resume::First) if self.feed.now().is_none() => Resume::First,
                (failure, _) if failure.is_loss() => Resume::FromNow,
                (Failure::Command(_), _) if failures >= REFUSALS => Resume::FromNow,
                (_, Resume::FromNow) => Resume::FromNow,
                (_, again @ Resume::Again(_)) => again,
                (_, _) => Resume::FromHead,
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Sets how to read on after an error, which is given back if it is not about an event's size.
    async fn go_past_large(
        &self,
        (pace, patience): (&mut ReadMode, &mut Patience),
        error: DeploymentError,
        generation: u64,
        collections: &Collections,
    ) -> Option<DeploymentError> {
        let (true, Some((head, _))) = (error.failure() == Failure::TooLarge, self.feed.now())
        else {
            *pace = ReadMode::Batches;
            return Some(error);
        };
        let (server, key) = (&self.server, self.feed.key());
        match large::detour(server, key, collections, &head, (pace, patience)).await {
            Detour::OneByOne => {
                self.count_restart(Failure::TooLarge.reason());
                None
            }
            Detour::Skimmed(event) => {
                // Not taken, it was read with an old list, and is read again with the new one.
                let _ = event.map(|event| self.feed.append(generation, event));
                None
            }
            Detour::Unreadable(error) => {
                Some(DeploymentError::Unreadable(failure::message(&error)))
            }
            Detour::Failed(error) => Some(error.into()),
        }
    }

    /// Behind which the next cursor goes on, where it goes on.
    fn place(&self, resume: &Resume) -> Option<Position> {
        match resume {
            Resume::FromHead => self.feed.now().map(|(head, _)| head),
            Resume::Again(place) => Some(place.clone()),
            Resume::First | Resume::FromNow => None,
        }
    }

    async fn open(
        &self,
        resume: &Resume,
        collections: &Collections,
        pace: ReadMode,
    ) -> Result<(Events, Start, Deployment), DeploymentError> {
        let deployment = self.server.ask().await?;
        let now = deployment.majority_time;
        let start = match resume {
            Resume::First => {
                let (events, start) = self.warm_start(now, collections).await?;
                return Ok((events, start, deployment));
            }
            Resume::FromHead | Resume::Again(_) => match self.place(resume) {
                // A server would wait in silence for this time to come.
                Some(place) if deployment.is_in_the_future(&place) => {
                    return Err(DeploymentError::OtherDeployment);
                }
                Some(place) => Start::after(&place),
                None => Start::At(now),
            },
            Resume::FromNow => Start::At(after(now)),
        };
        let events = self.open_at(&start, collections, pace).await?;
        Ok((events, start, deployment))
    }

    async fn open_at(
        &self,
        start: &Start,
        collections: &Collections,
        pace: ReadMode,
    ) -> Result<Events, Error> {
        let (server, key) = (&self.server, self.feed.key());
        let opened = cursor::open(server, key, collections, start, pace).await;
        let error = match opened {
            Err(error) if Failure::of(&error) == Failure::Privileges => error,
            opened => return opened,
        };
        let Some(alone) = collections.alone() else {
            // Rights that were there are gone; perhaps others have come.
            self.feed.set_alone(false);
            return Err(error);
        };
        match cursor::open(server, key, &alone, start, pace).await {
            Ok(events) => {
                info!(upstream = %key, "reading each collection by itself: the user has no rights \
                                        on the database");
                self.feed.set_alone(true);
                Ok(events)
            }
            Err(_) => Err(error),
        }
    }

    /// As far back as the window and the oplog allow. Whether the oplog reaches that far, only the
    /// server can tell.
    async fn warm_start(
        &self,
        now: Timestamp,
        collections: &Collections,
    ) -> Result<(Events, Start), Error> {
        let mut back = u32::try_from(self.window.as_secs()).unwrap_or(u32::MAX);
        loop {
            let start = match back {
                0 => Start::At(after(now)),
                _ => Start::At(Timestamp { time: now.time.saturating_sub(back), increment: 1 }),
            };
            match self.open_at(&start, collections, ReadMode::Batches).await {
                Ok(events) => return Ok((events, start)),
                Err(error)
                    if back > 0
                        && matches!(
                            Failure::of(&error),
                            Failure::HistoryLost | Failure::TooLarge
                        ) =>
                {
                    back /= 2;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn note_opened(&self, resume: &Resume, start: &Start, deployment: &Deployment) {
        self.feed.set_sharded(deployment.is_sharded);
        match resume {
            Resume::FromNow => self.feed.restart_at(&start.position()),
            Resume::First | Resume::FromHead | Resume::Again(_) => {
                self.feed.opened_at(&start.position());
            }
        }
    }

    async fn report(&self, error: &DeploymentError, failures: u32) -> (Failure, Duration) {
        let failure = error.failure();
        let (first, longest) = if failure.needs_a_person() { SLOW_BACKOFF } else { BACKOFF };
        let doubled = first.saturating_mul(1 << (failures - 1).min(10)).min(longest);
        let pause = doubled.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.count_restart(failure.reason());
        let seen = match error {
            // The driver's own message lists what it knows of every host; a look says more.
            DeploymentError::Driver(_) if failure == Failure::Unreachable => {
                Some(self.server.diagnose().await)
            }
            _ => None,
        };
        let message = error.explain(seen, &failure.advice(&self.feed.key().database));
        warn!(
            upstream = %self.feed.key(),
            reason = failure.reason(),
            attempt = failures,
            retry_in = ?pause,
            "change stream is unavailable: {message}"
        );
        let needs_a_person = failure.needs_a_person();
        self.feed.set_status(Status::Away(Absence { reason: message, needs_a_person }));
        match error {
            DeploymentError::InVain { .. } if failure.needs_a_person() => self.server.renew().await,
            // The driver signs in once for each connection, and uses it again whatever it is told there.
            DeploymentError::Driver(error) if failure::is_signed_out(error) => {
                self.server.renew().await;
            }
            DeploymentError::Driver(error) => self.server.note(error).await,
            _ => {}
        }
        (failure, pause)
    }

    fn count_restart(&self, reason: &str) {
        let upstream = self.feed.key().to_string();
        self.metrics.upstream_restarts_total.with_label_values(&[upstream.as_str(), reason]).inc();
    }
}

/// The time right after another one.
fn after(time: Timestamp) -> Timestamp {
    match time.increment.checked_add(1) {
        Some(increment) => Timestamp { time: time.time, increment },
        None => Timestamp { time: time.time.saturating_add(1), increment: 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_follow_one_another() {
        let last = Timestamp { time: 7, increment: u32::MAX };
        assert_eq!(after(last), Timestamp { time: 8, increment: 0 });
    }
}
