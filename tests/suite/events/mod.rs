//! What becomes of an event on its way to a client: told, or a `reset` in its place; its id; and
//! what `project` shows of it.

mod ghosts;
mod hidden;
pub mod ids;
mod join;

use mongodb::bson::{Bson, Document, doc};
use mongodb::options::{Acknowledgment, ChangeStreamPreAndPostImages, WriteConcern};
use mongodb::{Client, Collection};

use crate::support::mongo;
use crate::support::sse::{Block, Stream};

/// So small that positions are looked for in the oplog.
pub const SMALL_JOURNAL: (&str, &str) = ("SIDESTREAM_REPLAY__MAX_BYTES", "64KiB");

/// A filter file of a collection, open to everybody.
pub fn filter(namespace: &str, more: &str) -> String {
    format!("collection: {namespace}\naccess: public\n{more}")
}

pub async fn client() -> Client {
    Client::with_uri_str(mongo::uri()).await.expect("a client")
}

/// A new collection that keeps images, whose writes are acknowledged when they are events.
pub async fn collection(client: &Client, database: &str, name: &str) -> Collection<Document> {
    let majority = WriteConcern::builder().w(Acknowledgment::Majority).build();
    let images = ChangeStreamPreAndPostImages::builder().enabled(true).build();
    let database = client.database(database);
    database.create_collection(name).change_stream_pre_and_post_images(images).await.unwrap();
    let options = mongodb::options::CollectionOptions::builder().write_concern(majority).build();
    database.collection_with_options(name, options)
}

/// Waits for the next event and says what it is and what its `n` is now.
pub async fn next(stream: &mut Stream) -> (String, Option<i64>) {
    let event = stream.event().await;
    (event.name().to_string(), n(&event))
}

pub fn n(event: &Block) -> Option<i64> {
    event.json()["fullDocument"]["n"].as_i64()
}

/// Pushes everything before out of a small journal: documents that the stream is to read past.
pub async fn push_out(collection: &Collection<Document>, stream: &mut Stream) {
    let pad = "x".repeat(100_000);
    for n in [-1_i64, -2] {
        collection.insert_one(doc! { "n": Bson::Int64(n), "pad": &pad }).await.unwrap();
        assert_eq!(next(stream).await, ("insert".to_string(), Some(n)));
    }
}
