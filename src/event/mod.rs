//! One change event, as raw BSON, parsed once.
//!
//! Nothing here touches MongoDB or a client: bytes come in from `upstream`, and every later room
//! reads them through [`ChangeEvent`]. Field names and operation types are those of MongoDB's
//! [change events](https://www.mongodb.com/docs/manual/reference/change-events/).

pub mod json;
pub mod position;
pub(crate) mod raw;
pub mod seal;

use std::time::Instant;

use bson::{RawBsonRef, RawDocument, RawDocumentBuf, Timestamp};

pub use position::Position;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OperationType {
    Insert,
    Update,
    Replace,
    Delete,
    Drop,
    Rename,
    DropDatabase,
    Invalidate,
    /// Index builds, sharding and whatever a newer server brings: read past, never delivered.
    Other,
}

impl OperationType {
    fn parse(name: &str) -> OperationType {
        match name {
            "insert" => OperationType::Insert,
            "update" => OperationType::Update,
            "replace" => OperationType::Replace,
            "delete" => OperationType::Delete,
            "drop" => OperationType::Drop,
            "rename" => OperationType::Rename,
            "dropDatabase" => OperationType::DropDatabase,
            "invalidate" => OperationType::Invalidate,
            _ => OperationType::Other,
        }
    }

    /// MongoDB's own name for it; also the SSE event type.
    pub fn name(self) -> &'static str {
        match self {
            OperationType::Insert => "insert",
            OperationType::Update => "update",
            OperationType::Replace => "replace",
            OperationType::Delete => "delete",
            OperationType::Drop => "drop",
            OperationType::Rename => "rename",
            OperationType::DropDatabase => "dropDatabase",
            OperationType::Invalidate => "invalidate",
            OperationType::Other => "other",
        }
    }
}

/// Why bytes from the server are not a change event.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    #[error("the change event has no resume token in _id._data, so its place is unknown")]
    NoToken,
    #[error("the change event is not valid BSON: {0}")]
    Malformed(#[from] bson::error::Error),
}

/// One event of a change stream.
#[derive(Debug)]
pub struct ChangeEvent {
    raw: RawDocumentBuf,
    token: Position,
    operation: OperationType,
    is_cut: bool,
    is_from_shards: bool,
    /// When the sidecar had it in hand; the age of a journal entry is counted from here.
    read_at: Instant,
}

impl ChangeEvent {
    /// Takes the bytes as the server sent them.
    ///
    /// # Errors
    /// When there is no usable resume token: such an event can neither be ordered nor resumed.
    pub fn parse(raw: RawDocumentBuf) -> Result<ChangeEvent, EventError> {
        let token = match raw.get("_id")? {
            Some(RawBsonRef::Document(id)) => match id.get("_data")? {
                Some(RawBsonRef::String(data)) => Position::from_server(data),
                _ => None,
            },
            _ => None,
        }
        .ok_or(EventError::NoToken)?;
        let operation = match raw.get("operationType")? {
            Some(RawBsonRef::String(name)) => OperationType::parse(name),
            _ => OperationType::Other,
        };
        Ok(ChangeEvent {
            raw,
            token,
            operation,
            is_cut: false,
            is_from_shards: false,
            read_at: Instant::now(),
        })
    }

    /// Takes an event that was read without its documents, since they are too large.
    ///
    /// # Errors
    /// As [`ChangeEvent::parse`].
    pub fn parse_cut(raw: RawDocumentBuf) -> Result<ChangeEvent, EventError> {
        Ok(ChangeEvent { is_cut: true, ..ChangeEvent::parse(raw)? })
    }

    /// Whether documents that belong to it are not here: whoever it may concern has to be told.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Notes that other servers may have events of the same cluster time.
    pub fn note_shards(&mut self) {
        self.is_from_shards = true;
    }

    /// The event's place in our own form, which names no document: past it, and before the next.
    /// `None` where that form is not exact: another shard may have an event of the same cluster
    /// time, which it would pass over.
    pub fn place(&self) -> Option<Position> {
        if self.is_from_shards { None } else { self.token.past_event() }
    }

    /// The resume token: the event's identity and its place in the order.
    pub fn token(&self) -> &Position {
        &self.token
    }

    /// The kind of change; [`OperationType::Other`] is read past and never delivered.
    pub fn operation(&self) -> OperationType {
        self.operation
    }

    /// When this process read it.
    pub fn read_at(&self) -> Instant {
        self.read_at
    }

    /// What it costs to keep, in bytes.
    pub fn size(&self) -> usize {
        self.raw.as_bytes().len() + self.token.as_str().len() + size_of::<ChangeEvent>()
    }

    fn document(&self, key: &str) -> Option<&RawDocument> {
        match self.raw.get(key) {
            Ok(Some(RawBsonRef::Document(document))) => Some(document),
            _ => None,
        }
    }

    /// A field of the event as it came, if it is there and readable.
    pub fn field(&self, key: &str) -> Option<RawBsonRef<'_>> {
        self.raw.get(key).ok().flatten()
    }

    /// The collection, without its database; `None` for events of the whole database.
    pub fn collection(&self) -> Option<&str> {
        self.document("ns")?.get_str("coll").ok()
    }

    /// The document after the change. Absent on deletes, on updates without a look-up, and when
    /// the document was deleted before the look-up came to it.
    pub fn full_document(&self) -> Option<&RawDocument> {
        self.document("fullDocument")
    }

    /// The document before the change, where the server kept it.
    pub fn full_document_before_change(&self) -> Option<&RawDocument> {
        self.document("fullDocumentBeforeChange")
    }

    /// `_id`, and the shard key's fields where there is one.
    pub fn document_key(&self) -> Option<&RawDocument> {
        self.document("documentKey")
    }

    /// What an update changed, by paths; only on updates.
    pub fn update_description(&self) -> Option<&RawDocument> {
        self.document("updateDescription")
    }

    /// For a rename: the collection's new name.
    pub fn rename_target(&self) -> Option<&str> {
        self.document("to")?.get_str("coll").ok()
    }

    /// When the server wrote it, in milliseconds since 1970 (MongoDB 6.0 and later); otherwise the
    /// cluster time, which has only seconds.
    pub fn wall_millis(&self) -> Option<i64> {
        match self.field("wallTime") {
            Some(RawBsonRef::DateTime(at)) => Some(at.timestamp_millis()),
            _ => self.cluster_time().map(|at| i64::from(at.time) * 1000),
        }
    }

    /// Its time in the oplog: seconds since 1970, and a counter within the second.
    pub fn cluster_time(&self) -> Option<Timestamp> {
        match self.field("clusterTime") {
            Some(RawBsonRef::Timestamp(at)) => Some(at),
            _ => None,
        }
    }
}
