//! Where a pass begins: the oldest position that the oplog still holds, found in a few attempts for
//! any number of waiting positions.

use std::sync::Arc;

use bson::Timestamp;
use mongodb::error::Error;
use tracing::debug;

use super::pass::Pass;
use super::{RETRY, ReplayState, Reply, Request};
use crate::event::Position;
use crate::feed::Feed;
use crate::feed::journal::Located;
use crate::feed::routes::ResetReason;
use crate::upstream::cursor::{self, Events, ReadMode, Start};
use crate::upstream::failure::Failure;
use crate::upstream::inspection::oldest_in_oplog;
use crate::upstream::patience::Patience;

/// Why there is no cursor.
pub(super) enum NotOpened {
    /// The position is of no use.
    Lost(ResetReason),
    /// The first event is too large to be sent.
    TooLarge,
    /// MongoDB is away.
    Away,
}

/// Opens a cursor for these clients, however long MongoDB is away. `None` when nobody is left who
/// waits: each was answered, or went.
pub(super) async fn open(
    shared: &ReplayState,
    feed: &Arc<Feed>,
    mut requests: Vec<Request>,
) -> Option<(Option<Events>, Pass)> {
    let mut patience = Patience::default();
    requests.sort_by(|a, b| a.after.cmp(&b.after));
    loop {
        requests = still_needed(feed, requests);
        if requests.is_empty() {
            return None;
        }
        // Before the cursor, which reads at least what was wanted by now.
        let generation = feed.generation();
        let opened = oldest_readable(shared, feed, &mut requests, &mut patience).await;
        if let Some((events, start)) = opened {
            let begin = (generation, start);
            return Some((events, Pass::new(feed, shared.limits, begin, requests)));
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Without those who left, those whom the journal can serve by now, and those whose token is of
/// the journal's time and of none of its collections.
fn still_needed(feed: &Feed, requests: Vec<Request>) -> Vec<Request> {
    let mut needed = Vec::with_capacity(requests.len());
    for request in requests {
        if request.reply.is_closed() {
            continue;
        }
        match feed.locate_for(request.route.filter(), &request.after) {
            Some(Located::At(_)) => drop(request.reply.send(Reply::Again)),
            Some(Located::Unknown) => lose([request], ResetReason::InvalidToken),
            Some(Located::Gone) | None => needed.push(request),
        }
    }
    needed
}

fn lose(requests: impl IntoIterator<Item = Request>, reason: ResetReason) {
    for request in requests {
        // A client that left does not have to know.
        let _ = request.reply.send(Reply::Lost(reason));
    }
}

/// Opens at the oldest position that can be read, and answers those before it. What is lost is
/// lost for everybody before it too, so a few positions have to be tried. `None`: MongoDB is away,
/// or nobody is left.
async fn oldest_readable(
    shared: &ReplayState,
    feed: &Feed,
    requests: &mut Vec<Request>,
    patience: &mut Patience,
) -> Option<(Option<Events>, Position)> {
    if let Some(oldest) = oldest_in_oplog(&shared.server.client().await).await {
        lose_older_than(oldest, feed, requests);
    }
    let (mut lost, mut readable) = (0, requests.len());
    let mut found = None;
    let mut probe = 0;
    while lost < readable {
        let time = requests[probe].after.time();
        let opened = open_at(shared, feed, &Start::At(time), ReadMode::Batches, patience).await;
        let events = match opened {
            Ok(events) => Some(events),
            Err(error) => match Failure::of(&error) {
                Failure::TooLarge => None,
                Failure::HistoryLost => {
                    lost = probe + 1;
                    probe = usize::midpoint(lost, readable);
                    continue;
                }
                _ => {
                    debug!(upstream = %feed.key(), %error, "a replay cannot begin yet");
                    return None;
                }
            },
        };
        readable = probe;
        found = Some((events, Position::before(time)));
        probe = usize::midpoint(lost, readable);
    }
    lose(requests.drain(..lost), ResetReason::HistoryLost);
    found
}

/// MongoDB reads from any time as long as nothing has left its oplog. What happened before that begins
/// is not known all the same: a page with an older id has seen another deployment, such as the one
/// that this one has replaced. A token of an unknown collection is found out by the pass.
fn lose_older_than(oldest: Timestamp, feed: &Feed, requests: &mut Vec<Request>) {
    let is_older = |request: &mut Request| {
        let after = &request.after;
        after.time() < oldest && !after.is_of_an_age() && request.is_known(feed)
    };
    lose(requests.extract_if(.., is_older), ResetReason::HistoryLost);
}

async fn open_at(
    shared: &ReplayState,
    feed: &Feed,
    start: &Start,
    pace: ReadMode,
    patience: &mut Patience,
) -> Result<Events, Error> {
    let (_, collections) = feed.collections();
    let opening = cursor::open(&shared.server, feed.key(), &collections, start, pace);
    let opened = patience.open(opening).await;
    if let Err(error) = &opened {
        shared.server.note(error).await;
    }
    opened
}

/// Opens right behind a position that the server gave in this pass.
pub(super) async fn resume(
    shared: &ReplayState,
    feed: &Feed,
    after: &Position,
    pace: ReadMode,
    patience: &mut Patience,
) -> Result<Events, NotOpened> {
    let start = Start::after(after);
    let mut opened = open_at(shared, feed, &start, pace, patience).await;
    if let Err(error) = &opened
        && matches!(Failure::of(error), Failure::Command(_))
    {
        // Only what happens twice is because of the token.
        opened = open_at(shared, feed, &start, pace, patience).await;
    }
    let error = match opened {
        Ok(events) => return Ok(events),
        Err(error) => error,
    };
    match Failure::of(&error) {
        Failure::TooLarge => Err(NotOpened::TooLarge),
        failure if failure.is_loss() => Err(NotOpened::Lost(ResetReason::HistoryLost)),
        // Servers have many codes for a token that they cannot read. Whether it was the token is
        // seen by going without one.
        Failure::Command(_) => {
            let deployment = shared.server.ask().await.map_err(|_| NotOpened::Away)?;
            let now = Start::At(deployment.majority_time);
            match open_at(shared, feed, &now, pace, patience).await {
                Ok(_) => Err(NotOpened::Lost(ResetReason::HistoryLost)),
                Err(_) => Err(NotOpened::Away),
            }
        }
        _ => Err(NotOpened::Away),
    }
}
