//! Where a pass begins: the oldest position that the oplog still holds, found in a few attempts
//! however many positions wait.

use std::sync::Arc;

use mongodb::error::Error;
use tracing::debug;

use super::pass::Pass;
use super::{Purpose, RETRY, Reply, Request, Shared};
use crate::event::Position;
use crate::feed::Feed;
use crate::journal::Located;
use crate::routes::ResetReason;
use crate::upstream::cursor::{self, Events, Start};
use crate::upstream::trouble::Trouble;

/// Opens a cursor for these clients, however long MongoDB is away. `None` when nobody is left who
/// waits: each was answered, or went.
pub(super) async fn open(
    shared: &Shared,
    feed: &Arc<Feed>,
    purpose: Purpose,
    mut requests: Vec<Request>,
) -> Option<(Events, Pass)> {
    requests.sort_by(|a, b| a.after.cmp(&b.after));
    loop {
        requests = still_needed(feed, requests);
        let first = requests.first()?.after.clone();
        let opened = match purpose {
            Purpose::Everybody => oldest_readable(shared, feed, &mut requests).await,
            Purpose::OneToken => match resume(shared, feed, &first).await {
                Ok(events) => Some((events, first)),
                Err(Some(reason)) => {
                    lose(requests, reason);
                    return None;
                }
                Err(None) => None,
            },
        };
        if let Some((events, start)) = opened {
            return Some((events, Pass::new(feed, shared.limits, purpose, start, requests)));
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Without those who left, and those whom the journal can serve by now.
fn still_needed(feed: &Feed, requests: Vec<Request>) -> Vec<Request> {
    let mut needed = Vec::with_capacity(requests.len());
    for request in requests {
        if request.reply.is_closed() {
            continue;
        }
        match feed.locate(&request.after) {
            Some(Located::At(_)) => drop(request.reply.send(Reply::Again)),
            _ => needed.push(request),
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
    shared: &Shared,
    feed: &Feed,
    requests: &mut Vec<Request>,
) -> Option<(Events, Position)> {
    let (mut lost, mut readable) = (0, requests.len());
    let mut found = None;
    let mut probe = 0;
    while lost < readable {
        let after = &requests[probe].after;
        match open_at(shared, feed, &Start::At(after.time())).await {
            Ok(events) => {
                readable = probe;
                found = Some((events, Position::before(after.time())));
            }
            Err(error) if Trouble::of(&error) == Trouble::HistoryLost => lost = probe + 1,
            Err(error) => {
                debug!(upstream = %feed.key(), %error, "a replay cannot begin yet");
                return None;
            }
        }
        probe = usize::midpoint(lost, readable);
    }
    lose(requests.drain(..lost), ResetReason::HistoryLost);
    found
}

async fn open_at(shared: &Shared, feed: &Feed, start: &Start) -> Result<Events, Error> {
    let (_, collections) = feed.collections();
    cursor::open(&shared.server.client().await, feed.key(), &collections, start).await
}

/// Resumes from a token. `Err(Some)`: it is of no use. `Err(None)`: MongoDB is away.
pub(super) async fn resume(
    shared: &Shared,
    feed: &Feed,
    after: &Position,
) -> Result<Events, Option<ResetReason>> {
    let deployment = shared.server.ask().await.map_err(|_| None)?;
    if deployment.is_in_the_future(after) {
        return Err(Some(ResetReason::InvalidToken));
    }
    let start = Start::after(after);
    let mut opened = open_at(shared, feed, &start).await;
    if let Err(error) = &opened
        && matches!(Trouble::of(error), Trouble::Command(_))
    {
        // Only what happens twice is because of the token.
        opened = open_at(shared, feed, &start).await;
    }
    let error = match opened {
        Ok(events) => return Ok(events),
        Err(error) => error,
    };
    match Trouble::of(&error) {
        Trouble::HistoryLost | Trouble::Unreadable => Err(Some(ResetReason::HistoryLost)),
        Trouble::Fatal => Err(Some(ResetReason::InvalidToken)),
        // Servers have many codes for a token that they cannot read. Whether it was the token is
        // seen by going without one.
        Trouble::Command(_) => {
            match open_at(shared, feed, &Start::At(deployment.majority_time)).await {
                Ok(_) => Err(Some(ResetReason::InvalidToken)),
                Err(_) => Err(None),
            }
        }
        _ => Err(None),
    }
}
