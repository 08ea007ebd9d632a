//! How far back the oplog reaches: the time for which clients and sidecars can be away.

use std::time::Duration;

use bson::{RawDocumentBuf, Timestamp, doc};
use mongodb::Client;
use mongodb::error::Error;

use super::limits::MAX_TIME;
use super::rights::Rights;
use super::{Finding, FindingKind};
use crate::upstream::failure::Failure;

/// A shorter oplog that has begun to forget is told of.
const SHORT: Duration = Duration::from_secs(3600);

/// How far back the oplog reaches, where this user may see it, and whether that is too little.
pub(super) struct Oplog {
    pub reach: Option<Duration>,
    pub finding: Option<Finding>,
}

/// Looks at its first and last entry.
///
/// # Errors
/// Those of the driver, but for missing rights.
pub(super) async fn look(
    client: &Client,
    rights: &Rights,
    replay_window: Duration,
) -> Result<Oplog, Error> {
    let (first, last) = match ends(client).await {
        Ok(ends) => ends,
        Err(error) if Failure::of(&error) == Failure::Privileges => {
            let message = "this user may not see how far back the oplog reaches".to_owned();
            let fix = rights.grant_role("read", "local");
            let finding = Finding::general(FindingKind::Unknown, message, fix);
            return Ok(Oplog { reach: None, finding: Some(finding) });
        }
        Err(error) => return Err(error),
    };
    let (Some(from), Some(to)) = (first, last) else {
        return Ok(Oplog { reach: None, finding: None });
    };
    let reach = Duration::from_secs(u64::from(to.time.saturating_sub(from.time)));
    // A young one still holds its first entry, and will reach further by itself.
    if reach >= SHORT.max(replay_window) || is_whole(client).await? {
        return Ok(Oplog { reach: Some(reach), finding: None });
    }
    let minutes = reach.as_secs() / 60;
    let message = format!(
        "the oplog reaches back {minutes} minutes: clients that were away for longer are reset"
    );
    let fix = "db.adminCommand({ replSetResizeOplog: 1, minRetentionHours: 24 })".to_owned();
    let finding = Finding::general(FindingKind::Oplog, message, fix);
    Ok(Oplog { reach: Some(reach), finding: Some(finding) })
}

/// The time of the oldest entry that there is, where this user may see it.
pub async fn oldest(client: &Client) -> Option<Timestamp> {
    end(client, 1).await.ok()?
}

async fn ends(client: &Client) -> Result<(Option<Timestamp>, Option<Timestamp>), Error> {
    Ok((end(client, 1).await?, end(client, -1).await?))
}

/// The time of the first entry in this order. Other fields may hold documents of any size.
async fn end(client: &Client, order: i32) -> Result<Option<Timestamp>, Error> {
    let oplog = client.database("local").collection::<RawDocumentBuf>("oplog.rs");
    let mut finding = oplog
        .find_one(doc! {})
        .sort(doc! { "$natural": order })
        .projection(doc! { "_id": 0, "ts": 1 })
        .max_time(MAX_TIME);
    if let Some(criteria) = client.selection_criteria().cloned() {
        finding = finding.selection_criteria(criteria);
    }
    Ok(finding.await?.and_then(|entry| entry.get_timestamp("ts").ok()))
}

/// Whether its first entry is that of the set's beginning. The server compares: in another entry, the
/// field is that of somebody's document.
async fn is_whole(client: &Client) -> Result<bool, Error> {
    let oplog = client.database("local").collection::<RawDocumentBuf>("oplog.rs");
    let is_beginning = doc! { "$eq": ["$o.msg", "initiating set"] };
    let pipeline =
        [doc! { "$limit": 1 }, doc! { "$project": { "_id": 0, "isBeginning": is_beginning } }];
    let mut finding = oplog.aggregate(pipeline).max_time(MAX_TIME);
    if let Some(criteria) = client.selection_criteria().cloned() {
        finding = finding.selection_criteria(criteria);
    }
    let mut first = finding.await?;
    let has_one = first.advance().await?;
    Ok(has_one && first.current().get_bool("isBeginning").unwrap_or(false))
}
