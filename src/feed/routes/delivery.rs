//! One event as the clients of a filter receive it: encoded once, and shared by all clients that
//! see it the same way, whatever their values.

use std::cell::RefCell;
use std::sync::OnceLock;

use bson::{RawDocument, RawDocumentBuf};
use bytes::Bytes;

use crate::event::json::{write_relaxed_document, write_relaxed_value};
use crate::event::position::MAX_ID;
use crate::event::raw::{Value, tag};
use crate::event::seal::Ids;
use crate::event::{ChangeEvent, Field, OperationType, Position};
use crate::filter::Filter;
use crate::matcher::projection::{Images, Projection};

/// How an event moves a client's view, where before-images let us know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum View {
    Enter,
    Stay,
    Leave,
}

impl View {
    fn name(self) -> &'static str {
        match self {
            View::Enter => "enter",
            View::Stay => "stay",
            View::Leave => "leave",
        }
    }
}

/// Why a client has to load its data again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResetReason {
    /// MongoDB no longer holds what came after the client's position.
    HistoryLost,
    /// The client's position is none of this deployment.
    InvalidToken,
    /// The collection was dropped or renamed.
    Invalidated,
    /// The filter file was edited.
    FilterChanged,
    /// The stream was opened before its feed was read for the first time.
    Started,
}

impl ResetReason {
    /// As clients are told it: `reason` of a `reset` event. Part of the protocol.
    pub fn name(self) -> &'static str {
        match self {
            ResetReason::HistoryLost => "history-lost",
            ResetReason::InvalidToken => "invalid-token",
            ResetReason::Invalidated => "invalidated",
            ResetReason::FilterChanged => "filter-changed",
            ResetReason::Started => "started",
        }
    }
}

/// An event that is sent as such, or one that resets the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryKind {
    Event(OperationType),
    Reset(ResetReason),
}

/// One event for the clients of a route, or of several.
#[derive(Debug)]
pub struct Delivery {
    /// The journal's number of the event; zero for one that a replay read.
    pub number: u64,
    pub token: Position,
    pub kind: DeliveryKind,
    /// What a client is given to come back with; `None` for a reset whose place cannot be said.
    id: Option<Position>,
    /// The change event in relaxed Extended JSON, on one line.
    pub json: Bytes,
    /// When the server wrote it, in milliseconds since 1970.
    pub wall_millis: Option<i64>,
    /// The id as clients see it, made by the first one that needs it.
    shown_id: OnceLock<Bytes>,
}

impl Delivery {
    /// An event as clients of the filter see it; a reset where its place cannot be said.
    pub fn event(
        number: u64,
        event: &ChangeEvent,
        filter: &Filter,
        view: Option<View>,
    ) -> Delivery {
        let projection = filter.projection.as_ref();
        let Some(id) = id_of(event, projection) else {
            return Delivery::reset(number, event, ResetReason::HistoryLost);
        };
        Delivery {
            number,
            token: event.token().clone(),
            kind: DeliveryKind::Event(event.operation()),
            id: Some(id),
            json: encode(event, projection, view),
            wall_millis: event.wall_millis(),
            shown_id: OnceLock::new(),
        }
    }

    /// A reset in the place of an event.
    pub fn reset(number: u64, event: &ChangeEvent, reason: ResetReason) -> Delivery {
        let id = match reason {
            // It could not be judged, and may be of somebody else's document.
            ResetReason::HistoryLost => event.place(),
            // Of a collection.
            _ => Some(event.token().clone()),
        };
        Delivery {
            number,
            token: event.token().clone(),
            kind: DeliveryKind::Reset(reason),
            id,
            json: format!("{{\"reason\":\"{}\"}}", reason.name()).into(),
            wall_millis: event.wall_millis(),
            shown_id: OnceLock::new(),
        }
    }

    /// What a client is given to come back with: the event's token, or its place in our own form.
    pub fn id(&self) -> Option<Position> {
        self.id.clone()
    }

    /// Whether it is given to come back with as it is in the order, and not as another form of that.
    pub fn shows_token(&self) -> bool {
        self.id.as_ref() == Some(&self.token)
    }

    /// The event type as clients see it.
    pub fn event_name(&self) -> &'static str {
        match self.kind {
            DeliveryKind::Event(operation) => operation.name(),
            DeliveryKind::Reset(_) => "reset",
        }
    }

    /// What it takes, in bytes. Transports put what they need before and behind the JSON, and do not
    /// copy it.
    pub fn size(&self) -> usize {
        let id = self.id.as_ref().map_or(0, |id| id.as_str().len());
        size_of::<Delivery>() + self.json.len() + 2 * id
    }

    /// What a client is given to come back with, as text: the same bytes for all of them.
    pub fn shown_id(&self, ids: &Ids) -> Option<Bytes> {
        let id = self.id.as_ref()?;
        Some(self.shown_id.get_or_init(|| ids.show_shared(id)).clone())
    }
}

/// The token, unless it shows a key that the projection hides, or is too long to be sent back; then
/// the event's place in our own form. `None` where that is not exact: who went on from there might
/// miss an event.
fn id_of(event: &ChangeEvent, projection: Option<&Projection>) -> Option<Position> {
    let is_hidden = projection.is_some_and(|projection| {
        let key = event.document_key();
        key.is_some_and(|key| projection.apply_key(key).as_bytes() != key.as_bytes())
    });
    match is_hidden || event.token().as_str().len() > MAX_ID {
        true => event.place(),
        false => Some(event.token().clone()),
    }
}

/// The documents that came with an event.
pub(super) fn images(event: &ChangeEvent) -> Images<'_> {
    Images { before: event.full_document_before_change(), after: event.full_document() }
}

/// What is not copied to make it fit, in bytes.
const LARGE: usize = 16 * 1024;

/// Fields that are copied as they are. What is not listed here or handled below (session ids,
/// transaction numbers, `_id`) is the server's business and stays out.
const VERBATIM: [(&str, Field); 2] =
    [("clusterTime", Field::ClusterTime), ("wallTime", Field::WallTime)];

thread_local! {
    /// Room to write in: what is kept has the size that it needs, and no more.
    static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The event, restricted by the projection everywhere a document's field shows.
fn encode(event: &ChangeEvent, projection: Option<&Projection>, view: Option<View>) -> Bytes {
    ROOM.with_borrow_mut(|room| {
        room.clear();
        write(event, projection, view, room);
        if room.len() <= LARGE {
            return Bytes::copy_from_slice(room);
        }
        // Rather than copied. The room must not stay as large, either.
        let mut large = std::mem::take(room);
        large.shrink_to_fit();
        large.into()
    })
}

/// Appends the event.
///
/// What the client's filter does not match is not shown: a document that left the view goes
/// without its new content, one that entered it without its old.
fn write(
    event: &ChangeEvent,
    projection: Option<&Projection>,
    view: Option<View>,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"{\"operationType\":\"");
    out.extend_from_slice(event.operation().name().as_bytes());
    out.push(b'"');
    if let Some(ns) = event.field(Field::Ns) {
        name(out, "ns");
        write_relaxed_value(ns, out);
    }
    if let Some(view) = view {
        name(out, "view");
        out.extend_from_slice(format!("\"{}\"", view.name()).as_bytes());
    }
    if let Some(key) = event.document_key() {
        name(out, "documentKey");
        match projection {
            Some(projection) => write_relaxed_document(&projection.apply_key(key), out),
            None => write_relaxed_document(key, out),
        }
    }
    if view != Some(View::Leave) {
        if let Some(document) = event.full_document() {
            write_projected(out, "fullDocument", document, projection);
        } else if event.field(Field::FullDocument).is_some_and(|value| value.tag == tag::NULL) {
            name(out, "fullDocument");
            out.extend_from_slice(b"null");
        }
        if let Some(description) = event.update_description() {
            name(out, "updateDescription");
            match projection {
                Some(projection) => write_relaxed_document(
                    &projection.apply_update_description(description, images(event)),
                    out,
                ),
                None => write_relaxed_document(description, out),
            }
        }
    }
    if view != Some(View::Enter)
        && let Some(before) = event.full_document_before_change()
    {
        write_projected(out, "fullDocumentBeforeChange", before, projection);
    }
    for (key, field) in VERBATIM {
        if let Some(value) = event.field(field) {
            name(out, key);
            write_relaxed_value(value, out);
        }
    }
    out.push(b'}');
}

/// Writes the documents of a snapshot, restricted like those of events: the data of `document` events.
#[derive(Debug)]
pub(crate) struct DocumentWriter<'a> {
    /// What all of them begin with.
    head: Vec<u8>,
    projection: Option<&'a Projection>,
}

impl<'a> DocumentWriter<'a> {
    /// Of a database's collection.
    pub fn new(
        (database, collection): (&str, &str),
        projection: Option<&'a Projection>,
    ) -> DocumentWriter<'a> {
        let mut head = b"{\"operationType\":\"snapshot\"".to_vec();
        name(&mut head, "ns");
        write_relaxed_document(&bson::rawdoc! { "db": database, "coll": collection }, &mut head);
        name(&mut head, "documentKey");
        DocumentWriter { head, projection }
    }

    /// Appends a document.
    pub fn write(&self, document: &RawDocument, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        match self.projection.filter(|projection| !projection.shows_whole(b"_id")) {
            Some(projection) => {
                let mut key = RawDocumentBuf::new();
                if let Ok(Some(id)) = document.get("_id") {
                    key.append(bson::raw::cstr!("_id"), id);
                }
                write_relaxed_document(&projection.apply_key(&key), out);
            }
            None => match Value::document(document).elements().find_key(b"_id") {
                Some(id) => {
                    out.extend_from_slice(b"{\"_id\":");
                    write_relaxed_value(id, out);
                    out.push(b'}');
                }
                None => out.extend_from_slice(b"{}"),
            },
        }
        write_projected(out, "fullDocument", document, self.projection);
        out.push(b'}');
    }
}

fn name(out: &mut Vec<u8>, key: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
}

fn write_projected(
    out: &mut Vec<u8>,
    key: &str,
    document: &RawDocument,
    projection: Option<&Projection>,
) {
    name(out, key);
    match projection {
        Some(projection) => write_relaxed_document(&projection.apply(document), out),
        None => write_relaxed_document(document, out),
    }
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;
    use crate::filter::tests::good;

    const TOKEN: &str = "8266F3AAAA000000012B022C0100296E5A1004D3F0A1B2C3D4E5F60718293A4B5C6D7E46645F6964006466F3AAAA0123456789ABCDEF0004";

    fn update(token: &str) -> ChangeEvent {
        let raw = rawdoc! {
            "_id": { "_data": token },
            "operationType": "update",
            "documentKey": { "_id": { "a": 1, "b": 2 } },
        };
        ChangeEvent::parse(raw).unwrap()
    }

    #[test]
    fn a_reset_for_what_could_not_be_judged_names_no_document() {
        let event = update(TOKEN);
        let lost = Delivery::reset(1, &event, ResetReason::HistoryLost).id().unwrap();
        assert!(!lost.names_document() && lost > *event.token());
        // Of a collection that is gone, it names none anyway.
        let gone = Delivery::reset(1, &event, ResetReason::Invalidated).id().unwrap();
        assert_eq!(gone, *event.token());
    }

    #[test]
    fn an_id_tells_no_hidden_key_and_is_never_long() {
        let event = update(TOKEN);
        let id = |event: &ChangeEvent, rest: &str| {
            Delivery::event(1, event, &good(rest), None).id().unwrap()
        };
        let place = event.place().unwrap();
        assert!(!place.names_document());
        for shown in ["", "project: { x: 1 }", "project: { x: 0 }", "project: { _id: 1 }"] {
            assert_eq!(id(&event, shown), *event.token(), "{shown}");
        }
        for hidden in ["project: { _id: 0 }", "project: { x: 1, _id: 0 }", "project: { _id.a: 1 }"]
        {
            assert_eq!(id(&event, hidden), place, "{hidden}");
        }
        let long = format!("{TOKEN}{}", "61".repeat(MAX_ID / 2));
        assert_eq!(id(&update(&long), ""), place);

        // Another shard may have an event of the same time, which that place would pass over.
        let mut event = update(&long);
        event.note_shards();
        let reset = Delivery::event(1, &event, &good(""), None);
        assert_eq!((reset.kind, reset.id()), (DeliveryKind::Reset(ResetReason::HistoryLost), None));
    }
}
