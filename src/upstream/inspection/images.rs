//! How long MongoDB keeps images of documents.

use std::time::Duration;

use bson::doc;
use mongodb::Client;
use mongodb::error::Error;

use super::rights::Rights;
use super::{Finding, FindingKind, command, limits, whole};
use crate::upstream::failure::Failure;

/// Images that go before the events do that need them.
///
/// # Errors
/// Those of the driver, but for missing rights.
pub(super) async fn expiry(
    client: &Client,
    rights: &Rights,
    replay_window: Duration,
) -> Result<Option<Finding>, Error> {
    let asked = doc! {
        "getClusterParameter": "changeStreamOptions", "maxTimeMS": limits::max_time_millis(),
    };
    let answer = match command(client, "admin", asked).await {
        Ok(answer) => answer,
        Err(error) if Failure::of(&error) == Failure::Privileges => {
            let message = "this user may not see how long images of documents are kept";
            let fix = rights.grant_cluster_action("getClusterParameter");
            return Ok(Some(Finding::general(FindingKind::Unknown, message.to_owned(), fix)));
        }
        // Older, or not the server's to tell.
        Err(error) if matches!(Failure::of(&error), Failure::Command(_) | Failure::Unsupported) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let parameters = answer.get_array("clusterParameters").ok();
    let expiry = parameters
        .and_then(|parameters| parameters.first()?.as_document())
        .and_then(|options| options.get_document("preAndPostImages").ok())
        .and_then(|images| whole(images, "expireAfterSeconds"));
    let Some(seconds) = expiry.filter(|seconds| *seconds < replay_window.as_secs()) else {
        return Ok(None);
    };
    let needed = replay_window.as_secs();
    let message = format!(
        "images of documents are kept for {seconds} s, less than replay.window ({needed} s): \
         clients that reconnect later are reset, or receive events without images"
    );
    let fix = format!(
        "db.adminCommand({{ setClusterParameter: {{ changeStreamOptions: {{ preAndPostImages: {{ \
         expireAfterSeconds: {needed} }} }} }} }})"
    );
    Ok(Some(Finding::general(FindingKind::ImageExpiry, message, fix)))
}
