//! Older positions: a short-lived cursor reads the oplog from a client's position until it meets
//! the journal.
//!
//! At most `replay.max_concurrent` at a time, first come, first served. The channel to the client
//! is short, so a slow client slows its own replay and costs no memory; it does keep its turn for
//! as long as it reads, which the transport bounds.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tracing::{debug, warn};

use super::connect::Server;
use super::cursor::{self, Events, Start};
use super::deployment;
use super::trouble::Trouble;
use crate::event::{ChangeEvent, OperationType, Position};
use crate::feed::Feed;
use crate::journal::Located;
use crate::metrics::Metrics;
use crate::routes::{Delivery, ResetReason, Route};

/// Deliveries on their way to one client. A full channel stops the reading.
const CHANNEL: usize = 32;
/// A token from a server is never ahead of the cluster's clock by more than its gossip.
const FUTURE_SLACK_SECONDS: u32 = 60;
/// Empty batches after which a token that was not found is taken for none of this deployment.
const PATIENCE: u32 = 20;
/// Pause between attempts while MongoDB is away.
const RETRY: Duration = Duration::from_millis(500);

/// What a replay tells its subscription.
#[derive(Debug)]
pub enum Replayed {
    Delivery(Arc<Delivery>),
    /// Everything up to here is read; go on in the journal from this number.
    Met {
        position: Position,
        cursor: u64,
    },
    /// It cannot be done.
    Lost(ResetReason),
}

/// Starts replays, so many at a time.
#[derive(Debug, Clone)]
pub struct Replayer {
    server: Server,
    turns: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

/// Why one pass over the oplog ended.
enum Pass {
    Finished(Replayed),
    /// The subscription is gone.
    Unwanted,
    /// MongoDB is away: again from here.
    Again(Position),
}

impl Replayer {
    pub fn new(server: Server, max_concurrent: usize, metrics: Arc<Metrics>) -> Replayer {
        Replayer { server, turns: Arc::new(Semaphore::new(max_concurrent)), metrics }
    }

    /// Reads what a route's clients want from `after` on. Ends when the receiver is dropped.
    pub fn start(
        &self,
        feed: Arc<Feed>,
        route: Arc<Route>,
        after: Position,
    ) -> mpsc::Receiver<Replayed> {
        let (sender, receiver) = mpsc::channel(CHANNEL);
        let replayer = self.clone();
        tokio::spawn(async move {
            let gone = sender.clone();
            tokio::select! {
                () = replayer.replay(feed, route, after, sender) => {}
                () = gone.closed() => {}
            }
        });
        receiver
    }

    async fn replay(
        &self,
        feed: Arc<Feed>,
        route: Arc<Route>,
        mut after: Position,
        sender: mpsc::Sender<Replayed>,
    ) {
        // The semaphore is never closed, so there is no error to hear of.
        let Ok(_turn) = self.turns.acquire().await else {
            return;
        };
        self.metrics.replays_total.with_label_values(&["oplog"]).inc();
        loop {
            match self.pass(&feed, &route, after, &sender).await {
                Pass::Finished(last) => {
                    let _ = sender.send(last).await;
                    return;
                }
                Pass::Unwanted => return,
                Pass::Again(position) => {
                    after = position;
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn pass(
        &self,
        feed: &Feed,
        route: &Route,
        after: Position,
        sender: &mpsc::Sender<Replayed>,
    ) -> Pass {
        // It may have come within reach while this replay waited for its turn.
        if let Some(Located::At(cursor)) = feed.locate(&after) {
            return Pass::Finished(Replayed::Met { position: after, cursor });
        }
        let mut events = match self.open(feed, &after).await {
            Ok(events) => events,
            Err(Some(reason)) => return Pass::Finished(Replayed::Lost(reason)),
            Err(None) => return Pass::Again(after),
        };
        let mut position = after;
        let mut empty_batches = 0;
        loop {
            match events.next_if_any().await {
                Ok(Some(raw)) => {
                    let event = match ChangeEvent::parse(raw) {
                        Ok(event) => event,
                        Err(error) => {
                            warn!(upstream = %feed.key(), %error, "change event skipped in a replay");
                            continue;
                        }
                    };
                    empty_batches = 0;
                    // Opened by time, the stream may begin with what the client already has.
                    if *event.token() <= position {
                        continue;
                    }
                    position = event.token().clone();
                    if let Some(delivery) = route.deliver(0, &event)
                        && sender.send(Replayed::Delivery(Arc::new(delivery))).await.is_err()
                    {
                        return Pass::Unwanted;
                    }
                    if event.operation() == OperationType::Invalidate {
                        // The cursor ends here; the next one starts after it.
                        return Pass::Again(position);
                    }
                }
                Ok(None) => {
                    empty_batches += 1;
                    if let Some(head) = cursor::read_past(&events)
                        && head > position
                    {
                        position = head;
                    }
                    if let Some(lost) = not_found(feed, &position, empty_batches) {
                        return Pass::Finished(lost);
                    }
                }
                Err(error) => {
                    return match Trouble::of(&error) {
                        Trouble::HistoryLost => {
                            Pass::Finished(Replayed::Lost(ResetReason::HistoryLost))
                        }
                        Trouble::Fatal => Pass::Finished(Replayed::Lost(ResetReason::InvalidToken)),
                        _ => {
                            debug!(upstream = %feed.key(), %error, "replay interrupted");
                            Pass::Again(position)
                        }
                    };
                }
            }
            if let Some(Located::At(cursor)) = feed.locate(&position) {
                return Pass::Finished(Replayed::Met { position, cursor });
            }
        }
    }

    /// `Err(Some)`: the position is of no use. `Err(None)`: MongoDB is away.
    async fn open(&self, feed: &Feed, after: &Position) -> Result<Events, Option<ResetReason>> {
        let client = self.server.client().await;
        let deployment = deployment::ask(client).await.map_err(|_| None)?;
        let latest = deployment.cluster_time.time.saturating_add(FUTURE_SLACK_SECONDS);
        if after.time().time > latest {
            return Err(Some(ResetReason::InvalidToken));
        }
        let (_, collections) = feed.collections();
        let start = Start::after(after);
        match cursor::open(client, feed.key(), &collections, &start).await {
            Ok(events) => Ok(events),
            Err(error) => match Trouble::of(&error) {
                Trouble::HistoryLost => Err(Some(ResetReason::HistoryLost)),
                Trouble::Fatal => Err(Some(ResetReason::InvalidToken)),
                // Servers have many codes for a token that they cannot read. Whether it was the
                // token is seen by going without one.
                Trouble::Command(_) => {
                    let now = Start::At(deployment.majority_time);
                    match cursor::open(client, feed.key(), &collections, &now).await {
                        Ok(_) => Err(Some(ResetReason::InvalidToken)),
                        Err(_) => Err(None),
                    }
                }
                _ => Err(None),
            },
        }
    }
}

/// A server waits for a token that it does not know to turn up. Once the journal has read past its
/// time, it will not.
fn not_found(feed: &Feed, position: &Position, empty_batches: u32) -> Option<Replayed> {
    let is_passed = feed.now().is_some_and(|(head, _)| head > *position);
    let is_unknown = feed.locate(position) == Some(Located::Unknown);
    (is_unknown && (is_passed || empty_batches >= PATIENCE))
        .then_some(Replayed::Lost(ResetReason::InvalidToken))
}
