//! What matches now: one consistent read of a collection, and the position from which on every change
//! comes after it.
//!
//! The read has read concern `snapshot`: MongoDB chooses a cluster time of its own and tells it, every
//! event up to that time shows in what is read, and none after it does. So the stream goes on at the
//! first time after it, wherever the feed is by then. On a sharded cluster that does not hold: an
//! event's time is not when it becomes visible there.
//!
//! `find` is asked for what it decides as the matcher does, and the matcher decides about what comes:
//! so both halves, the documents and the changes, mean the same. It is read fast into memory, within
//! bounds, since MongoDB keeps such a time for minutes only.

mod shared;

use std::time::Duration;

use bson::{Document, RawDocumentBuf, Timestamp};
use mongodb::Client;
use mongodb::error::{Error, ErrorKind};
use mongodb::options::Collation;

use crate::event::Position;
use crate::matcher::Predicate;
use crate::upstream::deployment::{self, DeploymentError};
use crate::upstream::failure;

pub use shared::{Snapshots, Taken};

const UNAUTHORIZED: i32 = 13;
const MAX_TIME_EXPIRED: i32 = 50;
/// "Read concern snapshot is not supported" of servers before 5.0.
const INVALID_OPTIONS: i32 = 72;
const NOT_A_REPLICA_SET: i32 = 123;
const SNAPSHOT_TOO_OLD: i32 = 239;
const SNAPSHOT_UNAVAILABLE: i32 = 246;

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
        "snapshots need a replica set, and MongoDB 5.0 or newer: {0}; \
         see https://www.mongodb.com/docs/manual/reference/read-concern-snapshot/"
    )]
    Unsupported(String),
    #[error("on a sharded cluster a snapshot cannot be joined to the changes after it")]
    Sharded,
    #[error("MongoDB's user may not read the collection: {0}; grant it `find`")]
    Privileges(String),
    /// Will pass.
    #[error("{}", failure::message(.0))]
    Driver(#[from] Error),
}

impl SnapshotError {
    pub(super) fn of(error: Error) -> SnapshotError {
        let ErrorKind::Command(command) = error.kind.as_ref() else {
            return SnapshotError::Driver(error);
        };
        match command.code {
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

    /// Whether it helps to try again.
    pub fn is_passing(&self) -> bool {
        matches!(self, SnapshotError::Passed(_) | SnapshotError::Driver(_))
    }
}

/// Reads the documents of a collection that match. Not from a sharded cluster: see the file's head.
///
/// # Errors
/// [`SnapshotError`], each with what to do.
pub async fn read(
    client: &Client,
    (database, collection): (&str, &str),
    predicate: &Predicate,
    bounds: Bounds,
) -> Result<Snapshot, SnapshotError> {
    let reading = async {
        if let Some(read) = read_all(client, (database, collection), predicate, bounds).await? {
            return Ok(read);
        }
        // There is no such collection, so nobody says a moment. Nor is there one after this time,
        // unless what made it comes behind it.
        let before = deployment::ask(client).await.map_err(|error| match error {
            DeploymentError::Driver(error) => SnapshotError::of(error),
            other => SnapshotError::Unsupported(other.to_string()),
        })?;
        let read = read_all(client, (database, collection), predicate, bounds).await?;
        let position = behind(before.majority_time);
        Ok(read.unwrap_or(Snapshot { position, documents: Vec::new() }))
    };
    match tokio::time::timeout(bounds.time, reading).await {
        Ok(read) => read,
        Err(_) => Err(SnapshotError::TooLarge("snapshot.max_time")),
    }
}

/// `None`: the collection is not there.
async fn read_all(
    client: &Client,
    (database, collection): (&str, &str),
    predicate: &Predicate,
    bounds: Bounds,
) -> Result<Option<Snapshot>, SnapshotError> {
    let mut session = client.start_session().snapshot(true).await?;
    let collection = client.database(database).collection::<Document>(collection);
    // A default collation would find by other rules than the matcher's.
    let simple = Collation::builder().locale("simple").build();
    let finding = collection
        .find(predicate.query())
        .collation(simple)
        .max_time(bounds.time)
        .session(&mut session)
        .await;
    let mut found = finding.map_err(SnapshotError::of)?;
    let (mut documents, mut bytes) = (Vec::new(), 0);
    while found.advance(&mut session).await.map_err(SnapshotError::of)? {
        let document = found.current();
        if !predicate.matches(document) {
            continue;
        }
        bytes += document.as_bytes().len();
        if bytes > bounds.bytes {
            return Err(SnapshotError::TooLarge("snapshot.max_bytes"));
        }
        if documents.len() == bounds.documents {
            return Err(SnapshotError::TooLarge("snapshot.max_documents"));
        }
        documents.push(document.to_owned());
    }
    match session.snapshot_time() {
        Some(time) => Ok(Some(Snapshot { position: behind(time), documents })),
        None if documents.is_empty() => Ok(None),
        None => {
            let message = "the server does not tell the moment that it read";
            Err(SnapshotError::Unsupported(message.to_string()))
        }
    }
}

/// Past everything of this time.
fn behind(time: Timestamp) -> Position {
    Position::before(super::after(time))
}
