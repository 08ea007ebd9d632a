//! [Server-Sent Events](https://html.spec.whatwg.org/multipage/server-sent-events.html): the bytes.
//!
//! - `id:` is the last line of its block: some clients take the id at its line, and must not have
//!   it before the data.
//! - `retry:` and comments have no blank line behind them: some clients hand out an empty event at
//!   each.

use std::cell::RefCell;
use std::time::Duration;

use bytes::Bytes;

use super::envelope;
use super::transport::latest::{self, Latest};
use super::transport::{Encoder, Mark};
use crate::api::negotiation::Transport;
use crate::feed::routes::Delivery;
use crate::session::connection::Frame;
use crate::session::subscription::FrameKind;

/// The head's fields of every event stream.
pub const HEADERS: [(&str, &str); 3] = [
    ("Content-Type", "text/event-stream"),
    // A proxy that compresses would hold events back to compress more of them together.
    ("Cache-Control", "no-store, no-transform"),
    // nginx in front of us would hold them back, too.
    ("X-Accel-Buffering", "no"),
];

thread_local! {
    static LATEST: RefCell<Latest> = RefCell::default();
}

/// The encoder.
#[derive(Debug)]
pub struct Sse {
    /// Positions fire an event, for clients that pass over an id alone.
    has_position_events: bool,
}

/// The usual form: a position is an `id:` without an event.
pub static SSE: &dyn Encoder = &Sse { has_position_events: false };
/// For `?heartbeat=event`.
pub static SSE_WITH_POSITION_EVENTS: &dyn Encoder = &Sse { has_position_events: true };

impl Encoder for Sse {
    fn headers(&self) -> &'static [(&'static str, &'static str)] {
        &HEADERS
    }

    /// Spread by a quarter, so that the clients of a lost replica do not come back all at once.
    fn first(&self, retry: Duration) -> Option<Bytes> {
        let millis = retry.mul_f64(1.0 + fastrand::f64() / 4.0).as_millis();
        Some(Bytes::from(format!("retry: {millis}\n")))
    }

    fn transport(&self) -> Transport {
        Transport::Sse
    }

    fn encode(&self, frame: &Frame, mark: &Mark<'_>, out: &mut Vec<Bytes>) {
        latest::encode(&LATEST, (frame, mark), out, |out| self.block(frame, mark, out));
    }
}

impl Sse {
    /// Appends a frame's block.
    fn block(&self, frame: &Frame, mark: &Mark<'_>, out: &mut Vec<Bytes>) {
        let event = match &frame.kind {
            // By far the most: pieces that are made once for all.
            FrameKind::Delivery(delivery) if mark.label.is_none() => {
                out.extend([Bytes::from_static(head_of(delivery)), delivery.json.clone()]);
                if let Some(id) = delivery.shown_id(mark.ids) {
                    out.extend([Bytes::from_static(b"\nid: "), id]);
                }
                return out.push(Bytes::from_static(b"\n\n"));
            }
            FrameKind::Delivery(delivery) => {
                let head = format!("event: {}\ndata: {{{}", delivery.event_name(), mark.members());
                // Of the delivery's object, without the brace that opens it.
                let rest = delivery.json.slice(1..);
                return out.extend([Bytes::from(head), rest, Bytes::from(end_of(frame, mark))]);
            }
            FrameKind::Document(json) => {
                let label =
                    mark.label.as_ref().map(|_| Bytes::from(format!("{{{}", mark.members())));
                let rest = label.as_ref().map_or_else(|| json.clone(), |_| json.slice(1..));
                out.push(Bytes::from_static(b"event: document\ndata: "));
                out.extend(label.into_iter().chain([rest, Bytes::from_static(b"\n\n")]));
                return;
            }
            FrameKind::Position(_) if self.has_position_events => "position",
            // By the standard, an id without data fires no event and is remembered all the same.
            FrameKind::Position(_) => {
                return out.extend(mark.id(frame).map(|id| Bytes::from(format!("id: {id}\n\n"))));
            }
            FrameKind::Keepalive => return out.push(Bytes::from_static(b":\n")),
            FrameKind::Reset(..) => "reset",
            FrameKind::Snapshot(_) => "snapshot",
            FrameKind::Ready(..) => "ready",
            FrameKind::End(ended) => {
                // Of one stream among others, it would keep them away too.
                let keeps_none = mark.label.is_none() || mark.is_last;
                if let Some(retry) = ended.retry().filter(|_| keeps_none) {
                    out.push(Bytes::from(format!("retry: {}\n", retry.as_millis())));
                }
                "end"
            }
        };
        let members = format!("{}{}", mark.members(), envelope::members(&frame.kind));
        let members = members.trim_end_matches(',');
        let block = format!("event: {event}\ndata: {{{members}}}{}", end_of(frame, mark));
        out.push(Bytes::from(block));
    }
}

/// What comes before the data of a delivery.
fn head_of(delivery: &Delivery) -> &'static [u8] {
    match delivery.event_name() {
        "insert" => b"event: insert\ndata: ",
        "update" => b"event: update\ndata: ",
        "replace" => b"event: replace\ndata: ",
        "delete" => b"event: delete\ndata: ",
        // Nothing else is delivered.
        _ => b"event: reset\ndata: ",
    }
}

/// What follows the data of a block.
fn end_of(frame: &Frame, mark: &Mark<'_>) -> String {
    match mark.id(frame) {
        Some(id) => format!("\nid: {id}\n\n"),
        None => "\n\n".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Position;
    use crate::event::seal::Ids;

    use crate::feed::routes::ResetReason;
    use crate::session::control::Ended;

    #[test]
    fn blocks_are_as_the_contract_says() {
        let position = || Position::parse("8266F3AAAA00000001").unwrap();
        let loud = SSE_WITH_POSITION_EVENTS;
        for (kind, sse, expected) in [
            (FrameKind::Keepalive, SSE, ":\n"),
            (FrameKind::Keepalive, loud, ":\n"),
            (FrameKind::Position(position()), SSE, "id: 8266F3AAAA00000001\n\n"),
            (
                FrameKind::Position(position()),
                loud,
                "event: position\ndata: {}\nid: 8266F3AAAA00000001\n\n",
            ),
            (
                FrameKind::Ready(position(), None),
                SSE,
                "event: ready\ndata: {}\nid: 8266F3AAAA00000001\n\n",
            ),
            (
                FrameKind::Ready(position(), Some(132)),
                SSE,
                "event: ready\ndata: {\"documents\":132}\nid: 8266F3AAAA00000001\n\n",
            ),
            (FrameKind::Snapshot(None), SSE, "event: snapshot\ndata: {\"reason\":\"new\"}\n\n"),
            (
                FrameKind::Snapshot(Some(ResetReason::HistoryLost)),
                SSE,
                "event: snapshot\ndata: {\"reason\":\"history-lost\"}\n\n",
            ),
            (
                FrameKind::Document(Bytes::from_static(b"{\"a\":1}")),
                SSE,
                "event: document\ndata: {\"a\":1}\n\n",
            ),
            (
                FrameKind::End(Ended::SnapshotTooLarge),
                SSE,
                "retry: 60000\nevent: end\ndata: {\"reason\":\"snapshot-too-large\"}\n\n",
            ),
            (
                FrameKind::Reset(ResetReason::Started, Some(position())),
                SSE,
                "event: reset\ndata: {\"reason\":\"started\"}\nid: 8266F3AAAA00000001\n\n",
            ),
            (
                FrameKind::Reset(ResetReason::HistoryLost, None),
                SSE,
                "event: reset\ndata: {\"reason\":\"history-lost\"}\n\n",
            ),
            (
                FrameKind::End(Ended::Unauthorized),
                SSE,
                "event: end\ndata: {\"reason\":\"unauthorized\"}\n\n",
            ),
        ] {
            let frame = Frame { stream: 0, kind };
            let mut out = Vec::new();
            sse.encode(&frame, &Mark::plain(&Ids::Token), &mut out);
            assert_eq!(out.concat(), expected.as_bytes(), "{frame:?}");
        }
        let first = SSE.first(Duration::from_secs(2)).unwrap();
        let first = String::from_utf8(first.to_vec()).unwrap();
        assert!(first.starts_with("retry: 2") && first.ends_with('\n'), "{first:?}");
        assert_eq!(first.lines().count(), 1);
    }
}
