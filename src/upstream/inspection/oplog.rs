//! How far back the oplog reaches: the time for which clients and sidecars can be away.

use std::time::Duration;

use bson::{Document, Timestamp, doc};
use mongodb::Client;
use mongodb::error::Error;

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
    let time = |entry: &Option<Document>| entry.as_ref()?.get_timestamp("ts").ok();
    let (Some(from), Some(to)) = (time(&first), time(&last)) else {
        return Ok(Oplog { reach: None, finding: None });
    };
    let reach = Duration::from_secs(u64::from(to.time.saturating_sub(from.time)));
    // A young one still holds its first entry, and will reach further by itself.
    let first = first.unwrap_or_default();
    let message = first.get_document("o").ok().and_then(|entry| entry.get_str("msg").ok());
    let is_whole = message == Some("initiating set");
    let finding = (!is_whole && reach < SHORT.max(replay_window)).then(|| {
        let minutes = reach.as_secs() / 60;
        let message = format!(
            "the oplog reaches back {minutes} minutes: clients that were away for longer are reset"
        );
        let fix = "db.adminCommand({ replSetResizeOplog: 1, minRetentionHours: 24 })".to_owned();
        Finding::general(FindingKind::Oplog, message, fix)
    });
    Ok(Oplog { reach: Some(reach), finding })
}

/// The time of the oldest entry that there is, where this user may see it.
pub async fn oldest(client: &Client) -> Option<Timestamp> {
    end(client, 1).await.ok()??.get_timestamp("ts").ok()
}

async fn ends(client: &Client) -> Result<(Option<Document>, Option<Document>), Error> {
    Ok((end(client, 1).await?, end(client, -1).await?))
}

/// The first entry in this order.
async fn end(client: &Client, order: i32) -> Result<Option<Document>, Error> {
    let oplog = client.database("local").collection::<Document>("oplog.rs");
    let mut finding = oplog
        .find_one(doc! {})
        .sort(doc! { "$natural": order })
        .projection(doc! { "ts": 1, "o.msg": 1 });
    if let Some(criteria) = client.selection_criteria().cloned() {
        finding = finding.selection_criteria(criteria);
    }
    finding.await
}
