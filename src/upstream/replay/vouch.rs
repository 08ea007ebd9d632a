//! What MongoDB says about a token's collection, asked once for all clients with a token of it.

use std::collections::HashMap;
use std::time::Duration;

use bson::{Bson, Document, doc};
use mongodb::error::Error;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::debug;

use crate::feed::{Collections, Feed, FeedKey};
use crate::upstream::connect::Server;

/// An answer counts for so long: tokens that are made up must not cost a question each.
const FRESH: Duration = Duration::from_secs(1);
/// How long the answer may take; without one, what was read has to do.
const PATIENCE: Duration = Duration::from_secs(5);

/// What MongoDB said of the collections of each feed, and when.
#[derive(Debug, Default)]
pub(super) struct Vouching {
    /// When a feed's collections were asked about, and whether there was an answer. Held while
    /// asking, so that others wait for the same answer.
    asked: Mutex<HashMap<FeedKey, (Instant, bool)>>,
}

impl Vouching {
    /// Lets the feed know the UUIDs of its collections. Says whether MongoDB told them: a user
    /// without the right to list collections is not told.
    pub async fn vouch(&self, server: &Server, feed: &Feed) -> bool {
        let mut asked = self.asked.lock().await;
        asked.retain(|_, (at, _)| at.elapsed() < FRESH);
        if let Some((_, is_told)) = asked.get(feed.key()) {
            return *is_told;
        }
        let listed = tokio::time::timeout(PATIENCE, list(server, feed)).await;
        let is_told = match listed {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                debug!(upstream = %feed.key(), %error, "collections are not listed");
                false
            }
            Err(_) => false,
        };
        asked.insert(feed.key().clone(), (Instant::now(), is_told));
        is_told
    }
}

async fn list(server: &Server, feed: &Feed) -> Result<(), Error> {
    let (_, collections) = feed.collections();
    let filter = match &collections {
        Collections::All => Document::new(),
        Collections::These(names) => {
            let names: Vec<Bson> = names.iter().map(|name| Bson::from(name.as_str())).collect();
            doc! { "name": { "$in": names } }
        }
        Collections::Alone(name) => doc! { "name": name.as_str() },
    };
    let database = server.client().await.database(&feed.key().database);
    let mut listed = database.list_collections().filter(filter).await?;
    while listed.advance().await? {
        let told = listed.deserialize_current()?;
        if let Some(uuid) = told.info.uuid {
            let uuid: String = uuid.bytes.iter().map(|byte| format!("{byte:02X}")).collect();
            feed.note_collection(&uuid, &told.name);
        }
    }
    Ok(())
}
