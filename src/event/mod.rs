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

use bson::{RawDocument, RawDocumentBuf, Timestamp};

pub use position::Position;
use raw::{Elements, Value, tag};

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
}

/// A field of an event that something here reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Ns,
    To,
    DocumentKey,
    FullDocument,
    FullDocumentBeforeChange,
    UpdateDescription,
    ClusterTime,
    WallTime,
}

impl Field {
    const COUNT: usize = 8;

    fn named(name: &[u8]) -> Option<Field> {
        Some(match name {
            b"ns" => Field::Ns,
            b"to" => Field::To,
            b"documentKey" => Field::DocumentKey,
            b"fullDocument" => Field::FullDocument,
            b"fullDocumentBeforeChange" => Field::FullDocumentBeforeChange,
            b"updateDescription" => Field::UpdateDescription,
            b"clusterTime" => Field::ClusterTime,
            b"wallTime" => Field::WallTime,
            _ => return None,
        })
    }
}

/// One event of a change stream.
#[derive(Debug)]
pub struct ChangeEvent {
    raw: RawDocumentBuf,
    /// Where in `raw` each field begins, by its number; zero where it is not there. An event is
    /// asked for its fields again and again.
    places: [u32; Field::COUNT],
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
        let (mut token, mut operation) = (None, OperationType::Other);
        let mut places = [0; Field::COUNT];
        let mut fields = Elements::new(raw.as_bytes());
        loop {
            let place = fields.place_in(raw.as_bytes());
            let Some((name, value)) = fields.next() else { break };
            match Field::named(name) {
                // The first of a name counts. A message has at most 48 MB, and an event that was joined
                // not much more.
                Some(field) if places[field as usize] > 0 => {}
                Some(field) => places[field as usize] = u32::try_from(place).unwrap_or(0),
                None if name == b"_id" && token.is_none() => token = token_of(value),
                None if name == b"operationType" => {
                    let name = str::from_utf8(value.text()).unwrap_or_default();
                    operation = OperationType::parse(name);
                }
                None => {}
            }
        }
        let token = token.ok_or(EventError::NoToken)?;
        Ok(ChangeEvent {
            raw,
            places,
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

    /// A field of the event as it came, if it is there.
    pub(crate) fn field(&self, field: Field) -> Option<Value<'_>> {
        let place = usize::try_from(self.places[field as usize]).ok().filter(|place| *place > 0)?;
        Some(Elements::from_place(self.raw.as_bytes(), place).next()?.1)
    }

    fn document(&self, field: Field) -> Option<&RawDocument> {
        self.field(field)?.as_document()
    }

    /// The name of a collection, in a field that holds a namespace.
    fn collection_in(&self, field: Field) -> Option<&str> {
        let name = self.field(field)?.elements().find_key(b"coll")?;
        if name.tag == tag::STRING { str::from_utf8(name.text()).ok() } else { None }
    }

    /// The collection, without its database; `None` for events of the whole database.
    pub fn collection(&self) -> Option<&str> {
        self.collection_in(Field::Ns)
    }

    /// The document after the change. Absent on deletes, on updates without a look-up, and when
    /// the document was deleted before the look-up came to it.
    pub fn full_document(&self) -> Option<&RawDocument> {
        self.document(Field::FullDocument)
    }

    /// The document before the change, where the server kept it.
    pub fn full_document_before_change(&self) -> Option<&RawDocument> {
        self.document(Field::FullDocumentBeforeChange)
    }

    /// `_id`, and the shard key's fields where there is one.
    pub fn document_key(&self) -> Option<&RawDocument> {
        self.document(Field::DocumentKey)
    }

    /// What an update changed, by paths; only on updates.
    pub fn update_description(&self) -> Option<&RawDocument> {
        self.document(Field::UpdateDescription)
    }

    /// For a rename: the collection's new name.
    pub fn rename_target(&self) -> Option<&str> {
        self.collection_in(Field::To)
    }

    /// When the server wrote it, in milliseconds since 1970 (MongoDB 6.0 and later); otherwise the
    /// cluster time, which has only seconds.
    pub fn wall_millis(&self) -> Option<i64> {
        match self.field(Field::WallTime).filter(|at| at.tag == tag::DATE) {
            Some(at) => Some(at.i64()),
            None => self.cluster_time().map(|at| i64::from(at.time) * 1000),
        }
    }

    /// Its time in the oplog: seconds since 1970, and a counter within the second.
    pub fn cluster_time(&self) -> Option<Timestamp> {
        let at = self.field(Field::ClusterTime).filter(|at| at.tag == tag::TIMESTAMP)?;
        let bits = at.i64().cast_unsigned();
        Some(Timestamp { time: (bits >> 32) as u32, increment: bits as u32 })
    }
}

fn token_of(id: Value<'_>) -> Option<Position> {
    let data = id.elements().find_key(b"_data").filter(|data| data.tag == tag::STRING)?;
    Position::from_server(str::from_utf8(data.text()).ok()?)
}

#[cfg(test)]
mod tests {
    use bson::{RawBsonRef, rawdoc};

    use super::*;

    fn whole() -> RawDocumentBuf {
        rawdoc! {
            "_id": { "_data": "8266F3AAAA000000012B022C0100296E04", "_typeBits": 1 },
            "operationType": "update",
            "clusterTime": Timestamp { time: 7, increment: 3 },
            "wallTime": bson::DateTime::from_millis(7_001),
            "fullDocument": { "_id": 1, "ns": { "coll": "other" } },
            "ns": { "db": "shop", "coll": "orders" },
            "to": { "db": "shop", "coll": "renamed" },
            "documentKey": { "_id": 1 },
            "updateDescription": { "updatedFields": { "a": 1 } },
            "fullDocumentBeforeChange": { "_id": 1, "a": 0 },
        }
    }

    #[test]
    fn fields_are_those_of_the_event_wherever_they_stand() {
        let whole = whole();
        let fields: Vec<_> = whole.iter().map(|field| field.unwrap()).collect();
        for shift in 0..fields.len() {
            let mut raw = RawDocumentBuf::new();
            for (name, value) in fields.iter().cycle().skip(shift).take(fields.len()) {
                raw.append(name, *value);
            }
            // A second one of a name changes nothing.
            raw.append(bson::raw::cstr!("ns"), rawdoc! { "coll": "second" });
            let event = ChangeEvent::parse(raw.clone()).unwrap();
            let document = |name: &str| match raw.get(name) {
                Ok(Some(RawBsonRef::Document(document))) => Some(document),
                _ => None,
            };
            assert_eq!(event.full_document(), document("fullDocument"));
            assert_eq!(event.full_document_before_change(), document("fullDocumentBeforeChange"));
            assert_eq!(event.document_key(), document("documentKey"));
            assert_eq!(event.update_description(), document("updateDescription"));
            assert_eq!(event.collection(), Some("orders"));
            assert_eq!(event.rename_target(), Some("renamed"));
            assert_eq!(event.operation(), OperationType::Update);
            assert_eq!(event.cluster_time(), Some(Timestamp { time: 7, increment: 3 }));
            assert_eq!(event.wall_millis(), Some(7_001));
        }
    }

    #[test]
    fn what_is_not_there_or_of_another_type_is_nothing() {
        let id = rawdoc! { "_data": "8266F3AAAA000000012B022C0100296E04" };
        let raw = rawdoc! {
            "_id": id, "fullDocument": bson::RawBson::Null, "ns": "shop", "wallTime": 1,
            "clusterTime": Timestamp { time: 7, increment: 3 },
        };
        let event = ChangeEvent::parse(raw).unwrap();
        assert!(event.full_document().is_none() && event.document_key().is_none());
        assert!(event.field(Field::FullDocument).is_some_and(|value| value.tag == tag::NULL));
        assert_eq!((event.collection(), event.operation()), (None, OperationType::Other));
        assert_eq!(event.wall_millis(), Some(7_000));
        for raw in [rawdoc! {}, rawdoc! { "_id": 1 }, rawdoc! { "_id": { "_data": 1 } }] {
            assert!(matches!(ChangeEvent::parse(raw), Err(EventError::NoToken)));
        }
    }
}
