//! The transports beside Server-Sent Events, and several streams on one connection.

mod compression;
mod crowd;
mod many;
pub mod ndjson;
mod poll;
mod since;
pub mod websocket;

use mongodb::bson::{Document, doc};
use mongodb::{Client, Collection};
use serde_json::Value;

use crate::support::mongo;

fn filter(collection: &str, rest: &str) -> String {
    format!("collection: {collection}\naccess: public\n{rest}")
}

async fn collection(database: &str, name: &str) -> Collection<Document> {
    let client = Client::with_uri_str(mongo::uri()).await.expect("a client");
    client.database(database).collection(name)
}

async fn insert(database: &str, name: &str, ids: std::ops::Range<i64>) {
    let collection = collection(database, name).await;
    for id in ids {
        collection.insert_one(doc! { "_id": id }).await.expect("a write");
    }
}

/// The key of an envelope's event.
#[track_caller]
fn key(envelope: &Value) -> i64 {
    match envelope["data"]["documentKey"]["_id"].as_i64() {
        Some(key) => key,
        None => panic!("no key: {envelope}"),
    }
}
