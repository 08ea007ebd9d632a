//! Streams that begin with the documents that match, from the outside: a real MongoDB, and clients
//! that keep what they are told as a page would.

mod again;
mod long;
mod missing;
mod property;
mod refused;
mod rolled_back;
mod sharing;
mod transports;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use mongodb::bson::{Document, doc};
use mongodb::options::{Acknowledgment, ChangeStreamPreAndPostImages, WriteConcern};
use mongodb::{Client, Collection};
use serde_json::Value;

use crate::support::sidecar::{self, Filters};
use crate::support::sse::{Block, Stream};
use crate::support::{PATIENCE, mongo, unique};

/// Each page has a query of its own, and sees all documents.
pub const OWN_QUERY: &str =
    "match: { _id: { $ne: { $param: page } } }\nparams: { page: { type: long } }\n";

/// A filter file with a snapshot, open to everybody.
pub fn filter(database: &str, more: &str) -> String {
    format!(
        "collection: {database}.orders\naccess: public\nsnapshot: true\n\
         fullDocumentBeforeChange: whenAvailable\n{more}"
    )
}

pub async fn client() -> Client {
    Client::with_uri_str(mongo::uri()).await.expect("a client")
}

/// A new collection that keeps images, whose writes are acknowledged when they are events.
pub async fn orders(client: &Client, database: &str) -> Collection<Document> {
    let images = ChangeStreamPreAndPostImages::builder().enabled(true).build();
    let created = client.database(database);
    created.create_collection("orders").change_stream_pre_and_post_images(images).await.unwrap();
    of_majority(client, database)
}

/// The same, where it is there.
pub fn of_majority(client: &Client, database: &str) -> Collection<Document> {
    let majority = WriteConcern::builder().w(Acknowledgment::Majority).build();
    let options = mongodb::options::CollectionOptions::builder().write_concern(majority).build();
    client.database(database).collection_with_options("orders", options)
}

pub async fn fill(orders: &Collection<Document>, ids: std::ops::Range<i64>) {
    let documents = ids.map(|id| doc! { "_id": id, "n": id, "secret": "s" });
    orders.insert_many(documents).await.unwrap();
}

/// A page: builds the new documents beside the old, and swaps at `ready`.
pub struct Page {
    stream: Stream,
    shown: BTreeMap<String, Value>,
    /// The reason of the snapshot that is under way, and what has come of it.
    pending: Option<(String, BTreeMap<String, Value>)>,
    /// The reasons of those that are complete.
    reasons: Vec<String>,
}

impl Page {
    pub async fn open(address: SocketAddr, target: &str) -> Page {
        Page::of(Stream::open(address, target).await)
    }

    pub fn of(stream: Stream) -> Page {
        Page { stream, shown: BTreeMap::new(), pending: None, reasons: Vec::new() }
    }

    /// Takes in the next block; `None` at the end of the stream.
    async fn take(&mut self) -> Option<Block> {
        let next = tokio::time::timeout(PATIENCE, self.stream.block()).await;
        let block = next.expect("a sign of life in time")?;
        let key = |json: &Value| json["documentKey"].to_string();
        match block.name() {
            "snapshot" => {
                let reason = block.json()["reason"].as_str().unwrap().to_string();
                assert_eq!(block.id, None);
                self.pending = Some((reason, BTreeMap::new()));
            }
            "document" => {
                let json = block.json();
                assert_eq!(json["operationType"], "snapshot");
                let (_, documents) =
                    self.pending.as_mut().expect("a snapshot before its documents");
                documents.insert(key(&json), json["fullDocument"].clone());
            }
            "ready" => {
                assert!(block.id.is_some());
                match self.pending.take() {
                    Some((reason, documents)) => {
                        assert_eq!(block.json()["documents"], documents.len());
                        self.reasons.push(reason);
                        self.shown = documents;
                    }
                    None => assert_eq!(block.data.as_deref(), Some("{}")),
                }
            }
            "insert" | "update" | "replace" | "delete" => {
                assert!(self.pending.is_none() && block.id.is_some(), "{block:?}");
                let json = block.json();
                let leaves = json["view"] == "leave" || block.name() == "delete";
                match leaves {
                    true => self.shown.remove(&key(&json)),
                    false => self.shown.insert(key(&json), json["fullDocument"].clone()),
                };
            }
            "end" | "" => {}
            other => panic!("{other}: {block:?}"),
        }
        assert!(self.pending.is_none() || block.id.is_none(), "an id before `ready`: {block:?}");
        Some(block)
    }

    pub async fn until(&mut self, what: &str, is_so: impl Fn(&Page) -> bool) {
        let reading = async {
            while !is_so(self) {
                self.take().await.expect("the stream goes on");
            }
        };
        let read = tokio::time::timeout(PATIENCE, reading).await;
        assert!(read.is_ok(), "{what}: {:?}, {:?}, {:?}", self.shown, self.pending, self.reasons);
    }

    /// Up to the end of a snapshot, of which there were `count` by then.
    pub async fn complete(&mut self, count: usize) {
        self.until("a snapshot", |page| page.reasons.len() >= count && page.pending.is_none())
            .await;
    }

    /// What it would come back with.
    pub fn id(&self) -> Option<String> {
        self.stream.last_event_id.clone()
    }

    /// How many were complete.
    pub fn snapshots(&self) -> usize {
        self.reasons.len()
    }

    pub fn last_reason(&self) -> &str {
        self.reasons.last().map_or("", String::as_str)
    }

    pub fn ids(&self) -> Vec<i64> {
        let mut ids: Vec<i64> =
            self.shown.values().map(|document| document["_id"].as_i64().unwrap()).collect();
        ids.sort_unstable();
        ids
    }
}

/// So many ids from 0 on.
pub fn up_to(count: i64) -> Vec<i64> {
    (0..count).collect()
}

#[tokio::test]
async fn documents_then_ready_then_every_change() {
    let database = unique("begins");
    let client = client().await;
    let orders = orders(&client, &database).await;
    fill(&orders, 0..5).await;
    let more = "match: { n: { $lt: 4 } }\nproject: { n: 1 }\n";
    let filters = Filters::new(&[("orders", &filter(&database, more))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut page = Page::open(sidecar.listen, "/_events/orders").await;
    page.complete(1).await;
    assert_eq!((page.last_reason(), page.ids()), ("new", up_to(4)));
    assert!(page.shown.values().all(|document| document.as_object().unwrap().len() == 2));
    let id = page.stream.last_event_id.clone().expect("an id with `ready`");

    orders.insert_one(doc! { "_id": 9_i64, "n": 0_i64 }).await.unwrap();
    orders.update_one(doc! { "_id": 0_i64 }, doc! { "$set": { "n": 10_i64 } }).await.unwrap();
    orders.delete_one(doc! { "_id": 1_i64 }).await.unwrap();
    orders.update_one(doc! { "_id": 4_i64 }, doc! { "$set": { "n": 1_i64 } }).await.unwrap();
    page.until("the changes", |page| page.ids() == [2, 3, 4, 9]).await;

    // Who comes back gets what was missed, then `ready`, and no snapshot.
    let mut again = Stream::resume(sidecar.listen, "/_events/orders", &id).await;
    let missed = again.until_ready().await;
    let names: Vec<&str> = missed.iter().map(Block::name).collect();
    assert_eq!(names, ["insert", "update", "delete", "update"]);
    // So does a page that knows when it read its data.
    let mut since = Stream::open(sidecar.listen, "/_events/orders?since=1s").await;
    assert!(since.until_ready().await.iter().all(|block| block.name() != "snapshot"));
    sidecar.finish().await;
}

#[tokio::test]
async fn a_collection_that_is_empty_or_missing() {
    let database = unique("nothing");
    let filters = Filters::new(&[("orders", &filter(&database, "match: { n: 1 }\n"))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut page = Page::open(sidecar.listen, "/_events/orders").await;
    page.complete(1).await;
    assert!(page.shown.is_empty());
    let client = client().await;
    orders(&client, &database).await.insert_one(doc! { "_id": 0_i64, "n": 1 }).await.unwrap();
    page.until("the first document", |page| page.ids() == [0]).await;
    assert_eq!(page.reasons, ["new"]);
    sidecar.finish().await;
}

// Signs of life have no position before `ready`, and one behind it.
#[tokio::test]
async fn there_is_no_id_before_ready() {
    let own = mongo::Own::start(mongo::Setup::default()).await;
    let client = own.client().await;
    let database = unique("quiet");
    let orders = orders(&client, &database).await;
    fill(&orders, 0..3).await;
    let filters = Filters::new(&[("orders", &filter(&database, ""))]);
    let uri = format!("{}&appName=quiet", own.uri());
    let sidecar = sidecar::start(&uri, &filters, &[]).await;
    hold_find(&own, "quiet", Duration::from_millis(1_500)).await;
    let mut page = Page::open(sidecar.listen, "/_events/orders").await;
    let mut comments = 0;
    while page.reasons.is_empty() {
        let block = page.take().await.expect("the stream goes on");
        comments += usize::from(block.is_comment);
        assert!(block.id.is_none() || block.name() == "ready", "{block:?}");
    }
    assert!(comments >= 2, "{comments} signs of life");
    assert_eq!(page.ids(), up_to(3));
    sidecar.finish().await;
}

/// Makes each `find` of a client of this name take so long.
pub async fn hold_find(own: &mongo::Own, app: &str, time: Duration) {
    let time = i64::try_from(time.as_millis()).unwrap();
    let data = doc! {
        "failCommands": ["find"],
        "appName": app,
        "blockConnection": true,
        "blockTimeMS": time,
    };
    let point = doc! { "configureFailPoint": "failCommand", "mode": "alwaysOn", "data": data };
    own.admin(point).await.expect("a fail point");
}
