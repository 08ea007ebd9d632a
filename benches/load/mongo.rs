//! A private `mongod`, and what is written to it.

use std::path::Path;
use std::time::Duration;

use mongodb::bson::{Document, doc};
use mongodb::options::{Acknowledgment, WriteConcern};
use mongodb::{Client, Collection};

use super::mongod::program;
use super::now_micros;
use super::process::{Process, free_port, log_in, wait_for_port};

/// The database of the harness, and its one collection.
pub const DATABASE: &str = "bench";
pub const COLLECTION: &str = "items";

pub struct Mongo {
    pub process: Process,
    pub uri: String,
    pub client: Client,
}

impl Mongo {
    /// Starts a replica set of one.
    pub async fn start(dir: &Path) -> Mongo {
        let data = dir.join("mongod");
        std::fs::create_dir(&data).expect("a directory");
        let port = free_port();
        let path = data.display().to_string();
        let arguments = [
            "--bind_ip 127.0.0.1 --replSet rs0 --wiredTigerCacheSizeGB 0.5",
            // Large enough that nothing rolls off while it is measured.
            "--oplogSize 2048 --nounixsocket",
            "--setParameter diagnosticDataCollectionEnabled=false",
        ];
        let mut arguments: Vec<String> =
            arguments.join(" ").split(' ').map(str::to_owned).collect();
        arguments.extend(["--port".to_owned(), port.to_string(), "--dbpath".to_owned(), path]);
        let process = Process::start(Path::new(program()), &arguments, &[], &log_in(dir, "mongod"));
        if !wait_for_port(port, Duration::from_secs(60)) {
            panic!("mongod does not start: {}", process.said());
        }
        let direct = format!("mongodb://127.0.0.1:{port}/?directConnection=true");
        let first = Client::with_uri_str(&direct).await.expect("a client");
        let admin = first.database("admin");
        let member = doc! { "_id": 0, "host": format!("127.0.0.1:{port}") };
        let config = doc! { "_id": "rs0", "members": [member] };
        admin.run_command(doc! { "replSetInitiate": config }).await.expect("a replica set");
        loop {
            let hello = admin.run_command(doc! { "hello": 1 }).await.unwrap_or_default();
            if hello.get_bool("isWritablePrimary").unwrap_or(false) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        first.shutdown().await;
        let uri = format!("mongodb://127.0.0.1:{port}/?replicaSet=rs0");
        let client = Client::with_uri_str(&uri).await.expect("a client");
        client.database(DATABASE).create_collection(COLLECTION).await.expect("a collection");
        Mongo { process, uri, client }
    }

    /// Acknowledged by a majority: the event is there then, and not a journal commit later.
    pub fn items(&self) -> Collection<Document> {
        let concern = WriteConcern::builder().w(Acknowledgment::Majority).build();
        let database = self.client.database(DATABASE);
        let options = mongodb::options::CollectionOptions::builder().write_concern(concern).build();
        database.collection_with_options(COLLECTION, options)
    }

    /// Writes events of these numbers, the key being the number modulo `keys`.
    pub async fn insert(&self, from: u64, count: u64, keys: u64, pad: usize) {
        let items = self.items();
        let mut seq = from;
        while seq < from + count {
            let end = (seq + 1_000).min(from + count);
            items.insert_many((seq..end).map(|seq| item(seq, keys, pad))).await.expect("it writes");
            seq = end;
        }
    }

    /// Change stream cursors that the server holds open.
    pub async fn open_cursors(&self) -> i64 {
        let status = self.client.database("admin").run_command(doc! { "serverStatus": 1 }).await;
        let status = status.expect("the server's status");
        let open = status.get_document("metrics").and_then(|m| m.get_document("cursor"));
        let open = open.and_then(|cursor| cursor.get_document("open")).expect("its cursors");
        open.get_i64("total").unwrap_or(-1)
    }
}

/// A document with its number, its key, and the time when it was made.
pub fn item(seq: u64, keys: u64, pad: usize) -> Document {
    doc! {
        "seq": seq.cast_signed(),
        "key": (seq % keys).cast_signed(),
        "sent": now_micros().cast_signed(),
        "pad": "x".repeat(pad),
    }
}
