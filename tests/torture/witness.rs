//! What really happened: the database's own history, read by a plain driver when the faults of a
//! phase are over.
//!
//! It watches the whole cluster, not one database as the sidecars do, so nothing that ends a
//! database ends it, and it shares no code with them.

use std::time::{Duration, Instant};

use mongodb::Client;
use mongodb::bson::{Bson, Document, Timestamp, doc};
use mongodb::change_stream::event::ResumeToken;
use mongodb::error::Error;
use mongodb::options::{ChangeStreamOptions, ReadConcern};

use crate::history::{Change, Key, Op};
use crate::streams::{DATABASE, DOOMED};

/// Long, since it waits for servers that were just healed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Reads on where it stopped.
pub struct Witness {
    client: Client,
    from: From,
    /// Sorted by token.
    pub truth: Vec<Change>,
}

enum From {
    Time(Timestamp),
    Token(ResumeToken),
}

impl Witness {
    pub fn new(client: Client, from: Timestamp) -> Witness {
        Witness { client, from: From::Time(from), truth: Vec::new() }
    }

    /// Reads on until `is_last` holds for a change. Says why it cannot.
    pub async fn read_to(&mut self, is_last: impl Fn(&Change) -> bool) -> Result<(), String> {
        let mut error = String::new();
        let reading = async {
            loop {
                match self.read(&is_last, None).await {
                    Ok(()) => return,
                    Err(failed) => error = failed.to_string(),
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, reading).await.is_err() {
            return Err(format!("the history cannot be read: {error}"));
        }
        let is_sorted = self.truth.windows(2).all(|pair| pair[0].token < pair[1].token);
        if is_sorted { Ok(()) } else { Err("the history's tokens are not in order".to_string()) }
    }

    /// Reads what there is, or a second's worth, so that it does not fall off a small oplog.
    pub async fn read_along(&mut self) -> Result<(), Error> {
        self.read(&|_| false, Some(Instant::now() + Duration::from_secs(1))).await
    }

    async fn read(
        &mut self,
        is_last: &impl Fn(&Change) -> bool,
        along_until: Option<Instant>,
    ) -> Result<(), Error> {
        let mut options = ChangeStreamOptions::default();
        options.max_await_time = Some(Duration::from_millis(200));
        options.read_concern = Some(ReadConcern::majority());
        match &self.from {
            From::Time(time) => options.start_at_operation_time = Some(*time),
            From::Token(token) => options.start_after = Some(token.clone()),
        }
        let ours = doc! { "$match": { "ns.db": { "$in": [DATABASE, DOOMED] } } };
        let watching = self.client.watch().pipeline([ours]).with_options(options);
        let mut stream = watching.await?.with_type::<Document>();
        loop {
            let next = tokio::time::timeout(PATIENCE / 4, stream.next_if_any()).await;
            let next = next.map_err(|_| Error::custom("no answer"))??;
            if let Some(token) = stream.resume_token() {
                self.from = From::Token(token);
            }
            let Some(document) = next else {
                if along_until.is_some() {
                    return Ok(());
                }
                continue;
            };
            if let Some(change) = change(&document) {
                let is_over = is_last(&change);
                self.truth.push(change);
                if is_over || along_until.is_some_and(|end| Instant::now() > end) {
                    return Ok(());
                }
            }
        }
    }
}

fn change(event: &Document) -> Option<Change> {
    let text = |document: &Document, key: &str| document.get_str(key).ok().map(str::to_string);
    let number = |document: &Document, key: &str| match document.get(key) {
        Some(Bson::Int32(number)) => Some(i64::from(*number)),
        Some(Bson::Int64(number)) => Some(*number),
        _ => None,
    };
    let op = Op::parse(event.get_str("operationType").ok()?)?;
    let ns = event.get_document("ns").ok()?;
    let mut key = Key::default();
    if let Ok(id) = event.get_document("documentKey").and_then(|key| key.get_document("_id")) {
        key = Key { writer: text(id, "w")?, number: number(id, "n")?, owner: number(id, "owner")? };
    }
    let content = match op {
        Op::Update => event
            .get_document("updateDescription")
            .and_then(|description| description.get_document("updatedFields")),
        _ => event.get_document("fullDocument"),
    };
    Some(Change {
        token: text(event.get_document("_id").ok()?, "_data")?,
        op,
        database: text(ns, "db")?,
        collection: text(ns, "coll")?,
        to: event.get_document("to").ok().and_then(|to| text(to, "coll")),
        key,
        seq: content.ok().and_then(|content| number(content, "seq")),
    })
}
