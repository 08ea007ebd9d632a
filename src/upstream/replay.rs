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
use super::trouble::Trouble;
use crate::event::{ChangeEvent, OperationType, Position};
use crate::feed::Feed;
use crate::journal::Located;
use crate::metrics::Metrics;
use crate::routes::{Delivery, ResetReason, Route};

/// Deliveries on their way to one client. A full channel stops the reading.
const CHANNEL: usize = 32;
/// How long a server may say nothing; a frozen one keeps its connections open. Generous, since the
/// oplog may hold a lot of what the pipeline leaves out.
const STALL: Duration = Duration::from_secs(120);
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
    Again(Place),
}

/// How far a replay has come.
struct Place {
    after: Position,
    /// Whether the server has shown that it knows this place, by giving what comes after it.
    is_known: bool,
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
        after: Position,
        sender: mpsc::Sender<Replayed>,
    ) {
        // The semaphore is never closed, so there is no error to hear of.
        let Ok(_turn) = self.turns.acquire().await else {
            return;
        };
        self.metrics.replays_total.with_label_values(&["oplog"]).inc();
        let mut place = Place { after, is_known: false };
        loop {
            match self.pass(&feed, &route, place, &sender).await {
                Pass::Finished(last) => {
                    let _ = sender.send(last).await;
                    return;
                }
                Pass::Unwanted => return,
                Pass::Again(reached) => {
                    place = reached;
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn pass(
        &self,
        feed: &Feed,
        route: &Route,
        place: Place,
        sender: &mpsc::Sender<Replayed>,
    ) -> Pass {
        let Place { after, mut is_known } = place;
        // It may have come within reach while this replay waited for its turn.
        if let Some(Located::At(cursor)) = feed.locate(&after) {
            return Pass::Finished(Replayed::Met { position: after, cursor });
        }
        let mut events = match self.open(feed, &after).await {
            Ok(events) => events,
            Err(Some(reason)) => return Pass::Finished(Replayed::Lost(reason)),
            Err(None) => return Pass::Again(Place { after, is_known }),
        };
        let mut position = after;
        let mut empty_batches = 0;
        loop {
            let Ok(next) = tokio::time::timeout(STALL, events.next_if_any()).await else {
                return Pass::Again(Place { after: position, is_known });
            };
            match next {
                Ok(Some(raw)) => {
                    let event = match ChangeEvent::parse(raw) {
                        Ok(event) => event,
                        Err(error) => {
                            warn!(upstream = %feed.key(), %error, "change event skipped in a replay");
                            continue;
                        }
                    };
                    is_known = true;
                    if event.operation() == OperationType::Invalidate {
                        // The cursor ends here; the next one starts after it, also when the client
                        // has it already.
                        return Pass::Again(Place { after: event.token().clone(), is_known });
                    }
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
                }
                Ok(None) => {
                    if !events.is_alive() {
                        return Pass::Again(Place { after: position, is_known });
                    }
                    empty_batches += 1;
                    if let Some(head) = cursor::read_past(&events)
                        && head > position
                    {
                        position = head;
                        is_known = true;
                    }
                    if !is_known && let Some(lost) = not_found(feed, &position, empty_batches) {
                        return Pass::Finished(lost);
                    }
                }
                Err(error) => {
                    return match Trouble::of(&error) {
                        Trouble::HistoryLost | Trouble::Unreadable => {
                            Pass::Finished(Replayed::Lost(ResetReason::HistoryLost))
                        }
                        Trouble::Fatal => Pass::Finished(Replayed::Lost(ResetReason::InvalidToken)),
                        _ => {
                            debug!(upstream = %feed.key(), %error, "replay interrupted");
                            Pass::Again(Place { after: position, is_known })
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
        let deployment = self.server.ask().await.map_err(|_| None)?;
        let client = &self.server.client().await;
        if deployment.is_in_the_future(after) {
            return Err(Some(ResetReason::InvalidToken));
        }
        let (_, collections) = feed.collections();
        let start = Start::after(after);
        let mut opened = cursor::open(client, feed.key(), &collections, &start).await;
        if let Err(error) = &opened
            && matches!(Trouble::of(error), Trouble::Command(_))
        {
            // Only what happens twice is because of the token.
            opened = cursor::open(client, feed.key(), &collections, &start).await;
        }
        match opened {
            Ok(events) => Ok(events),
            Err(error) => match Trouble::of(&error) {
                Trouble::HistoryLost | Trouble::Unreadable => Err(Some(ResetReason::HistoryLost)),
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
