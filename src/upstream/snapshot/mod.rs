//! The documents that match now: one consistent read of a collection, and the position after which
//! every change follows.
//!
//! The read has read concern `snapshot`: MongoDB chooses a cluster time and returns it. Every event
//! up to that time shows in the result, and no later event does. The stream continues at the first
//! time after it, wherever the feed is by then. This does not hold on a sharded cluster, where an
//! event becomes visible at another time than its own.
//!
//! `find` receives those conditions that it decides exactly as the matcher does, and the matcher
//! decides the rest, so that both halves, the documents and the changes, mean the same. The result
//! is read quickly into memory, within bounds, since MongoDB keeps such a time for minutes only.

mod brake;
mod encoding;
mod kept;
mod queue;
mod shared;
mod taken;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bson::{Bson, Document, RawDocument, RawDocumentBuf, Timestamp};
use futures_util::TryStreamExt;
use mongodb::Client;
use mongodb::error::{Error, ErrorKind};
use mongodb::options::{Collation, ReadPreference, SessionOptions};
use mongodb::raw_batch_cursor::RawBatch;
use tokio::sync::mpsc;

use crate::event::Position;
use crate::matcher::Predicate;
use crate::matcher::projection::{Projection, Shown};
use crate::upstream::deployment::{self, Deployment, DeploymentError};
use crate::upstream::failure::{self, UNAUTHORIZED};

pub use brake::{MAX_ROUND, Round};
pub use queue::Asker;
pub use shared::{PendingQuery, Refused, SnapshotAnswer, Snapshots};
pub use taken::{Given, Reading, Taken};

const MAX_TIME_EXPIRED: i32 = 50;
/// "Read concern snapshot is not supported" of servers before 5.0.
const INVALID_OPTIONS: i32 = 72;
const NOT_A_REPLICA_SET: i32 = 123;
const SNAPSHOT_TOO_OLD: i32 = 239;
const SNAPSHOT_UNAVAILABLE: i32 = 246;

/// Documents that the server sends together, at most.
const BATCH: u32 = 1_000;
/// So many, or so many bytes, are looked at before others have their turn.
const TURN: usize = 64;
const TURN_BYTES: usize = 64 * 1024;
/// How many batches are read before they are looked at. Each may have 16 MiB.
const AHEAD: usize = 1;

/// What a snapshot may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub documents: usize,
    /// Of the documents, as BSON.
    pub bytes: usize,
    pub time: Duration,
}

/// The documents of one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// Everything that they show, and nothing else, lies up to here.
    pub position: Position,
    pub documents: Vec<RawDocumentBuf>,
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Waiting does not help: the client is told.
    #[error("more than {0}")]
    TooLarge(&'static str),
    /// MongoDB let go of the moment while it was read, or the collection was just made: again.
    #[error("MongoDB no longer has the moment that was read: {0}")]
    Passed(String),
    #[error(
        "snapshots need a replica set, and MongoDB 5.0 or newer, 8.0 for capped collections: {0}; \
         see https://www.mongodb.com/docs/manual/reference/read-concern-snapshot/"
    )]
    Unsupported(String),
    /// Nothing came in the time that it may take: it will pass, or be [`SnapshotError::TooLarge`].
    #[error("MongoDB did not answer within `snapshot.max_time`")]
    Silent,
    #[error("on a sharded cluster a snapshot cannot be joined to the changes after it")]
    Sharded,
    #[error("MongoDB's user may not read the collection: {0}; grant it `find`")]
    Privileges(String),
    /// Will pass.
    #[error("{}", failure::message(.0))]
    Driver(#[from] Error),
}

impl SnapshotError {
    /// By the server's code.
    pub(super) fn of(error: Error) -> SnapshotError {
        let ErrorKind::Command(command) = error.kind.as_ref() else {
            return SnapshotError::Driver(error);
        };
        match command.code {
            // Under the same code as what will pass.
            SNAPSHOT_UNAVAILABLE if command.message.contains("capped") => {
                SnapshotError::Unsupported(failure::message(&error))
            }
            SNAPSHOT_TOO_OLD | SNAPSHOT_UNAVAILABLE => {
                SnapshotError::Passed(failure::message(&error))
            }
            NOT_A_REPLICA_SET | INVALID_OPTIONS => {
                SnapshotError::Unsupported(failure::message(&error))
            }
            MAX_TIME_EXPIRED => SnapshotError::TooLarge("snapshot.max_time"),
            UNAUTHORIZED => SnapshotError::Privileges(failure::message(&error)),
            _ => SnapshotError::Driver(error),
        }
    }

    fn of_asking(error: DeploymentError) -> SnapshotError {
        match error {
            DeploymentError::Driver(error) => SnapshotError::of(error),
            other => SnapshotError::Unsupported(other.to_string()),
        }
    }

    /// Its name in traces.
    pub fn kind(&self) -> &'static str {
        match self {
            SnapshotError::TooLarge(_) => "too-large",
            SnapshotError::Passed(_) => "passed",
            SnapshotError::Unsupported(_) => "unsupported",
            SnapshotError::Silent => "silent",
            SnapshotError::Sharded => "sharded",
            SnapshotError::Privileges(_) => "privileges",
            SnapshotError::Driver(_) => "driver",
        }
    }

    /// Whether it helps to try again.
    pub fn is_passing(&self) -> bool {
        matches!(self, SnapshotError::Passed(_) | SnapshotError::Driver(_) | SnapshotError::Silent)
    }
}

/// What to read, and whom to ask about it.
#[derive(Debug, Clone, Copy)]
pub struct SnapshotQuery<'a> {
    pub database: &'a str,
    pub collection: &'a str,
    pub predicate: &'a Predicate,
    /// What is shown of the documents; the others of their fields may be missing.
    pub projection: Option<&'a Projection>,
}

/// What becomes of the documents that are read.
trait Collect: Send {
    /// The next one that matches.
    fn document(&mut self, document: &RawDocument);

    /// Those so far were read together, and more may come. Up to the position they show everything,
    /// and nothing of what is behind it.
    fn so_far(&mut self, _: &Position) {}
}

impl Collect for Vec<RawDocumentBuf> {
    fn document(&mut self, document: &RawDocument) {
        self.push(document.to_owned());
    }
}

/// Reads the documents of a collection that match. Not from a sharded cluster: see the file's head.
///
/// # Errors
/// [`SnapshotError`], each with what to do.
pub async fn read(
    client: &Client,
    wanted: SnapshotQuery<'_>,
    bounds: Bounds,
) -> Result<Snapshot, SnapshotError> {
    let mut documents = Vec::new();
    let found = read_each(client, wanted, bounds, &mut documents).await?;
    Ok(Snapshot { position: found.position, documents })
}

/// Where a snapshot was read.
struct Found {
    /// Behind its documents.
    position: Position,
    /// Where no collection was found.
    missing: Option<Missing>,
}

/// A collection that a server does not know. It may have had documents at the position all the same,
/// and been dropped since, perhaps by that server alone.
#[derive(Debug, Clone, Copy)]
struct Missing {
    /// The election term in which a majority had the position.
    term: Option<i64>,
    /// The server had nothing of a later time when it was asked.
    time: Timestamp,
}

/// Hands over each document, and says the position behind them.
async fn read_each(
    client: &Client,
    wanted: SnapshotQuery<'_>,
    bounds: Bounds,
    collect: &mut impl Collect,
) -> Result<Found, SnapshotError> {
    let has_begun = AtomicBool::new(false);
    let reading = async {
        let wanted = (wanted, bounds);
        if let Some(time) = read_all(client, wanted, None, &has_begun, collect).await?.time {
            return Ok(Found { position: behind(time), missing: None });
        }
        // There is no such collection, so nobody says a moment. It is read at one that is known to have
        // passed: a server that does not know of it yet, such as one that was the primary, has to wait,
        // and cannot pass over what has made the collection since.
        let Deployment { majority_time: time, majority_term: term, .. } = ask(client).await?;
        let read = read_all(client, wanted, Some(time), &has_begun, collect).await?;
        let missing = match read.documents {
            // Not the time of a majority: MongoDB 6.0 finds nothing where the server that is asked has
            // dropped the collection since, also before a majority has.
            0 => Some(Missing { term, time: ask(client).await?.cluster_time }),
            _ => None,
        };
        Ok(Found { position: behind(time), missing })
    };
    match tokio::time::timeout(bounds.time, reading).await {
        Ok(read) => read,
        Err(_) if has_begun.load(Ordering::Relaxed) => {
            Err(SnapshotError::TooLarge("snapshot.max_time"))
        }
        Err(_) => Err(SnapshotError::Silent),
    }
}

/// How far the deployment is, as a server says that might be read from.
async fn ask(client: &Client) -> Result<Deployment, SnapshotError> {
    deployment::ask(client).await.map_err(SnapshotError::of_asking)
}

/// How far the deployment is, as the primary says where there is one: it is never behind for long.
async fn ask_primary(client: &Client) -> Result<Deployment, SnapshotError> {
    let primary = ReadPreference::PrimaryPreferred { options: None };
    let asked = deployment::ask_of(client, Some(primary.into())).await;
    asked.map_err(SnapshotError::of_asking)
}

/// What one query has read.
struct ReadAt {
    /// `None`: the collection is not there, and the server has no moment to tell.
    time: Option<Timestamp>,
    documents: usize,
}

/// At a moment of the server's choice where none is given.
async fn read_all(
    client: &Client,
    (wanted, bounds): (SnapshotQuery<'_>, Bounds),
    at: Option<Timestamp>,
    has_begun: &AtomicBool,
    collect: &mut impl Collect,
) -> Result<ReadAt, SnapshotError> {
    let SnapshotQuery { database, collection, predicate, projection } = wanted;
    let options = SessionOptions::builder().snapshot(true).snapshot_time(at).build();
    let session = client.start_session().with_options(options).await;
    let mut session = session.map_err(SnapshotError::of)?;
    let collection = client.database(database).collection::<Document>(collection);
    // A default collation would find by other rules than the matcher's.
    let simple = Collation::builder().locale("simple").build();
    let mut finding = collection
        .find(predicate.query())
        .collation(simple)
        .batch_size(BATCH)
        .max_time(bounds.time);
    if let Some(fields) = needed(predicate, projection) {
        finding = finding.projection(fields);
    }
    let mut found = finding.session(&mut session).batch().await.map_err(SnapshotError::of)?;
    has_begun.store(true, Ordering::Relaxed);
    // While the server makes the next batch, the documents of the last one are looked at.
    let (ahead, mut read) = mpsc::channel::<(RawBatch, Option<Timestamp>)>(AHEAD);
    let reading = async move {
        loop {
            let batch = found.stream(&mut session).try_next().await;
            let time = session.snapshot_time();
            let Some(batch) = batch.map_err(SnapshotError::of)? else { return Ok(time) };
            // Nobody takes it when they have turned out to be too many.
            let _ = ahead.send((batch, time)).await;
        }
    };
    let judging = async {
        let mut judged = Judged { predicate, bounds, documents: 0, bytes: 0 };
        while let Some((batch, time)) = read.recv().await {
            judged.batch(&batch, collect).await?;
            if let Some(time) = time.filter(|_| !is_last(&batch)) {
                collect.so_far(&behind(time));
            }
        }
        Ok::<_, SnapshotError>(judged.documents)
    };
    let (time, documents) = tokio::try_join!(reading, judging)?;
    if time.is_none() && documents > 0 {
        let message = "the server does not tell the moment that it read";
        return Err(SnapshotError::Unsupported(message.to_string()));
    }
    Ok(ReadAt { time, documents })
}

/// Whether the server has sent everything.
fn is_last(batch: &RawBatch) -> bool {
    let cursor = batch.as_raw_document().get_document("cursor");
    cursor.and_then(|cursor| cursor.get_i64("id")).is_ok_and(|id| id == 0)
}

/// Documents that matched, within the bounds.
struct Judged<'a> {
    predicate: &'a Predicate,
    bounds: Bounds,
    documents: usize,
    bytes: usize,
}

impl Judged<'_> {
    async fn batch(
        &mut self,
        batch: &RawBatch,
        collect: &mut impl Collect,
    ) -> Result<(), SnapshotError> {
        let malformed = |error: bson::error::Error| SnapshotError::of(Error::custom(error));
        let (mut looked, mut bytes) = (0, 0);
        for document in batch.doc_slices().map_err(SnapshotError::of)? {
            let document = document.map_err(malformed)?;
            let Some(document) = document.as_document() else { continue };
            looked += 1;
            bytes += document.as_bytes().len();
            if self.predicate.matches(document) {
                self.count(document)?;
                collect.document(document);
            }
            if looked == TURN || bytes >= TURN_BYTES {
                (looked, bytes) = (0, 0);
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    fn count(&mut self, document: &RawDocument) -> Result<(), SnapshotError> {
        self.bytes += document.as_bytes().len();
        if self.bytes > self.bounds.bytes {
            return Err(SnapshotError::TooLarge("snapshot.max_bytes"));
        }
        if self.documents == self.bounds.documents {
            return Err(SnapshotError::TooLarge("snapshot.max_documents"));
        }
        self.documents += 1;
        Ok(())
    }
}

/// The fields that the matcher reads and clients are shown, as a projection of `find`; `None`: all of
/// them.
pub fn needed(predicate: &Predicate, projection: Option<&Projection>) -> Option<Document> {
    let read = predicate.fields()?;
    // `find` would read a name like these in another way.
    let is_plain = |name: &String| !name.is_empty() && !name.starts_with('$');
    match projection?.shown() {
        Shown::Only(mut names) => {
            names.extend(read);
            names.insert("_id".to_owned());
            let is_sayable = names.iter().all(is_plain);
            is_sayable.then(|| names.into_iter().map(|name| (name, Bson::Int32(1))).collect())
        }
        Shown::AllBut(mut names) => {
            names.retain(|name| is_plain(name) && name != "_id" && !read.contains(name));
            let hidden = names.into_iter().map(|name| (name, Bson::Int32(0)));
            Some(hidden.collect()).filter(|hidden: &Document| !hidden.is_empty())
        }
    }
}

/// Past everything of this time.
fn behind(time: Timestamp) -> Position {
    Position::before(super::after(time))
}
