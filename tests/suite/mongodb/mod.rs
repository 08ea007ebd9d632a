//! MongoDB as users have it: not a replica set yet, not there yet, without rights, restarted,
//! failing over, with a short history, and with collections that come and go.

mod budget;
mod checks;
mod credentials;
mod feeds;
mod history;
mod impossible;
mod large;
mod odd;
mod outages;
mod panics;
mod rights;
mod sharing;
mod silent;
mod srv;
mod states;
mod vanishing;

use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::options::{Acknowledgment, WriteConcern};
use mongodb::{Client, Collection};

use crate::support::sse::{Block, Stream};

/// A filter file of a collection, open to everybody.
fn filter(namespace: &str) -> String {
    format!("collection: {namespace}\naccess: public\n")
}

/// A collection whose writes are acknowledged when nothing can take them back.
fn collection(client: &Client, database: &str, name: &str) -> Collection<Document> {
    let majority = WriteConcern::builder().w(Acknowledgment::Majority).build();
    let options = mongodb::options::CollectionOptions::builder().write_concern(majority).build();
    client.database(database).collection_with_options(name, options)
}

/// Inserts these numbers as ids, one write each.
async fn insert(collection: &Collection<Document>, ids: std::ops::Range<i64>) {
    for id in ids {
        collection.insert_one(doc! { "_id": id }).await.expect("written");
    }
}

/// With these bytes, which need not be text, in place of as many letters `x`.
fn with_bytes(document: &Document, bytes: &[u8]) -> RawDocumentBuf {
    let mut raw = document.to_vec().expect("encoded");
    let mark = vec![b'x'; bytes.len()];
    let at = raw.windows(mark.len()).position(|window| window == mark).expect("the mark");
    raw[at..at + bytes.len()].copy_from_slice(bytes);
    RawDocumentBuf::from_bytes(raw).expect("a document")
}

/// Inserts a document whose field `who` holds Latin-1, as an old program or another driver may have
/// written it: drivers for Rust refuse to decode it.
async fn insert_odd(client: &Client, database: &str, name: &str, document: Document) {
    let documents = client.database(database).collection::<RawDocumentBuf>(name);
    let mut odd = doc! { "who": "xxxxxx" };
    odd.extend(document);
    documents.insert_one(with_bytes(&odd, b"caf\xe9 \xff")).await.expect("written");
}

fn id(block: &Block) -> i64 {
    let key = &block.json()["documentKey"]["_id"];
    key.as_i64().unwrap_or_else(|| panic!("not an insert: {block:?}"))
}

/// Reads exactly these ids, in order, each once; and nothing else.
async fn expect(stream: &mut Stream, ids: std::ops::Range<i64>) {
    for wanted in ids {
        assert_eq!(id(&stream.event().await), wanted);
    }
}

async fn expect_reset(stream: &mut Stream, reason: &str) -> Block {
    let block = stream.event().await;
    assert_eq!(block.name(), "reset", "{block:?}");
    assert_eq!(block.json(), serde_json::json!({ "reason": reason }));
    block
}

/// A token that a server could have made at this time, for a document that nobody has.
fn foreign_token(seconds: u32) -> String {
    let uuid = "0123456789ABCDEF0123456789ABCDEF";
    let id = "64653A1B2C3D4E5F60718293A4";
    format!("82{seconds:08X}000000012B022C0100296E5A1004{uuid}46645F696400{id}0004")
}

fn bson_ids(ids: std::ops::Range<i64>) -> Vec<Document> {
    ids.map(|id| doc! { "_id": Bson::Int64(id) }).collect()
}
