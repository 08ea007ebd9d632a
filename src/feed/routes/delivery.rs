//! What one event becomes for the clients of a filter: encoded once, shared by all of them who see
//! it the same way, whatever their values.

use std::sync::OnceLock;

use bson::{RawBsonRef, RawDocument};
use bytes::Bytes;

use crate::event::json::{write_relaxed, write_relaxed_document};
use crate::event::{ChangeEvent, OperationType, Position};
use crate::filter::Filter;
use crate::matcher::projection::Projection;

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

/// Why a client has to fetch its data anew.
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
pub enum Kind {
    Event(OperationType),
    Reset(ResetReason),
}

/// One event for the clients of a route, or of several.
#[derive(Debug)]
pub struct Delivery {
    /// The journal's number of the event; zero for one that a replay read.
    pub number: u64,
    pub token: Position,
    pub kind: Kind,
    /// The change event in relaxed Extended JSON, on one line.
    pub json: Vec<u8>,
    /// When the server wrote it, in milliseconds since 1970.
    pub wall_millis: Option<i64>,
    /// A transport's encoding of it, made by the first client that needs it.
    sse: OnceLock<Bytes>,
}

impl Delivery {
    pub fn event(
        number: u64,
        event: &ChangeEvent,
        filter: &Filter,
        view: Option<View>,
    ) -> Delivery {
        Delivery {
            number,
            token: event.token().clone(),
            kind: Kind::Event(event.operation()),
            json: encode(event, filter.projection.as_ref(), view),
            wall_millis: event.wall_millis(),
            sse: OnceLock::new(),
        }
    }

    pub fn reset(number: u64, event: &ChangeEvent, reason: ResetReason) -> Delivery {
        Delivery {
            number,
            token: event.token().clone(),
            kind: Kind::Reset(reason),
            json: format!("{{\"reason\":\"{}\"}}", reason.name()).into_bytes(),
            wall_millis: event.wall_millis(),
            sse: OnceLock::new(),
        }
    }

    /// What a client is given to come back with. An event that could not be judged may be of
    /// somebody else's document: then it is a position that names none, where there is one.
    pub fn id(&self) -> Option<Position> {
        match self.kind {
            Kind::Reset(ResetReason::HistoryLost) => self.token.past_event(),
            Kind::Event(_) | Kind::Reset(_) => Some(self.token.clone()),
        }
    }

    /// The event type as clients see it.
    pub fn event_name(&self) -> &'static str {
        match self.kind {
            Kind::Event(operation) => operation.name(),
            Kind::Reset(_) => "reset",
        }
    }

    /// What it takes, with its encoding for a transport, in bytes.
    pub fn size(&self) -> usize {
        size_of::<Delivery>() + 2 * self.json.len()
    }

    /// The encoding for Server-Sent Events, made once by `encode`.
    pub fn sse(&self, encode: impl FnOnce(&Delivery) -> Bytes) -> Bytes {
        self.sse.get_or_init(|| encode(self)).clone()
    }
}

/// What is worth being made to fit, in bytes.
const LARGE: usize = 16 * 1024;

/// Fields that are copied as they are. What is not listed here or handled below (session ids,
/// transaction numbers, `_id`) is the server's business and stays out.
const VERBATIM: [&str; 2] = ["clusterTime", "wallTime"];

/// Writes the event, restricted by the projection everywhere a document's field shows.
///
/// What the client's filter does not match is not shown: a document that left the view goes
/// without its new content, one that entered it without its old.
fn encode(event: &ChangeEvent, projection: Option<&Projection>, view: Option<View>) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(b"{\"operationType\":\"");
    out.extend_from_slice(event.operation().name().as_bytes());
    out.push(b'"');
    if let Some(ns) = event.field("ns") {
        name(&mut out, "ns");
        write_relaxed(ns, &mut out);
    }
    if let Some(view) = view {
        name(&mut out, "view");
        out.extend_from_slice(format!("\"{}\"", view.name()).as_bytes());
    }
    if let Some(key) = event.document_key() {
        name(&mut out, "documentKey");
        match projection {
            Some(projection) => write_relaxed_document(&projection.apply_key(key), &mut out),
            None => write_relaxed_document(key, &mut out),
        }
    }
    if view != Some(View::Leave) {
        match event.field("fullDocument") {
            Some(RawBsonRef::Document(document)) => {
                write_projected(&mut out, "fullDocument", document, projection);
            }
            Some(RawBsonRef::Null) => {
                name(&mut out, "fullDocument");
                out.extend_from_slice(b"null");
            }
            _ => {}
        }
        if let Some(description) = event.update_description() {
            name(&mut out, "updateDescription");
            match projection {
                Some(projection) => write_relaxed_document(
                    &projection.apply_update_description(description),
                    &mut out,
                ),
                None => write_relaxed_document(description, &mut out),
            }
        }
    }
    if view != Some(View::Enter)
        && let Some(before) = event.full_document_before_change()
    {
        write_projected(&mut out, "fullDocumentBeforeChange", before, projection);
    }
    for key in VERBATIM {
        if let Some(value) = event.field(key) {
            name(&mut out, key);
            write_relaxed(value, &mut out);
        }
    }
    out.push(b'}');
    if out.len() > LARGE {
        // It grew by doubling, and may be held for long.
        out.shrink_to_fit();
    }
    out
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

    #[test]
    fn a_reset_for_what_could_not_be_judged_names_no_document() {
        const TOKEN: &str = "8266F3AAAA000000012B022C0100296E5A1004D3F0A1B2C3D4E5F60718293A4B5C6D7E46645F6964006466F3AAAA0123456789ABCDEF0004";
        let raw = rawdoc! { "_id": { "_data": TOKEN }, "operationType": "update" };
        let event = ChangeEvent::parse(raw).unwrap();
        let lost = Delivery::reset(1, &event, ResetReason::HistoryLost).id().unwrap();
        assert!(!lost.names_document() && lost > *event.token());
        // Of a collection that is gone, it names none anyway.
        let gone = Delivery::reset(1, &event, ResetReason::Invalidated).id().unwrap();
        assert_eq!(gone, *event.token());
    }
}
