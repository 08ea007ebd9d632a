//! [Server-Sent Events](https://html.spec.whatwg.org/multipage/server-sent-events.html): the bytes.
//!
//! - `id:` is the last line of its block: some clients take the id at its line, and must not have
//!   it before the data.
//! - `retry:` and comments have no blank line behind them: some clients hand out an empty event at
//!   each.

use std::time::Duration;

use bytes::Bytes;

use super::transport::Encoder;
use crate::event::Position;
use crate::event::seal::Ids;
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

/// The encoder.
#[derive(Debug)]
pub struct Sse {
    /// Positions fire an event, for clients that pass over an id alone.
    has_position_events: bool,
}

pub static SSE: &dyn Encoder = &Sse { has_position_events: false };
/// For `?heartbeat=event`.
pub static SSE_WITH_POSITION_EVENTS: &dyn Encoder = &Sse { has_position_events: true };

impl Encoder for Sse {
    fn headers(&self) -> &'static [(&'static str, &'static str)] {
        &HEADERS
    }

    /// Spread by a quarter, so that the clients of a lost replica do not come back all at once.
    fn first(&self, retry: Duration) -> Bytes {
        let millis = retry.mul_f64(1.0 + fastrand::f64() / 4.0).as_millis();
        Bytes::from(format!("retry: {millis}\n"))
    }

    fn encode(&self, frame: &Frame, ids: &Ids, out: &mut Vec<Bytes>) {
        let block = |event: &str, data: &[u8], id: Option<&Position>| {
            let id = id.map(|id| ids.show(id));
            block(event, data, id.as_deref())
        };
        let last = match &frame.kind {
            FrameKind::Delivery(delivery) => {
                out.extend([Bytes::from_static(head_of(delivery)), delivery.json.clone()]);
                if let Some(id) = delivery.shown_id(ids) {
                    out.extend([Bytes::from_static(b"\nid: "), id]);
                }
                Bytes::from_static(b"\n\n")
            }
            FrameKind::Position(position) if self.has_position_events => {
                block("position", b"{}", Some(position))
            }
            // By the standard, an id without data fires no event and is remembered all the same.
            FrameKind::Position(position) => Bytes::from(format!("id: {}\n\n", ids.show(position))),
            FrameKind::Keepalive => Bytes::from_static(b":\n"),
            FrameKind::Reset(reason, position) => {
                block("reset", &reason_of(reason.name()), position.as_ref())
            }
            FrameKind::Ready(position) => block("ready", b"{}", Some(position)),
            FrameKind::End(reason) => block("end", &reason_of(reason), None),
        };
        out.push(last);
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

fn reason_of(reason: &str) -> Vec<u8> {
    format!("{{\"reason\":\"{reason}\"}}").into_bytes()
}

fn block(event: &str, data: &[u8], id: Option<&str>) -> Bytes {
    let length = id.map_or(0, str::len);
    let mut out = Vec::with_capacity(event.len() + data.len() + length + 24);
    for part in [b"event: ", event.as_bytes(), b"\ndata: ", data, b"\n"] {
        out.extend_from_slice(part);
    }
    if let Some(id) = id {
        for part in [b"id: ", id.as_bytes(), b"\n"] {
            out.extend_from_slice(part);
        }
    }
    out.push(b'\n');
    Bytes::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::routes::ResetReason;

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
                FrameKind::Ready(position()),
                SSE,
                "event: ready\ndata: {}\nid: 8266F3AAAA00000001\n\n",
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
                FrameKind::End("unauthorized"),
                SSE,
                "event: end\ndata: {\"reason\":\"unauthorized\"}\n\n",
            ),
        ] {
            let frame = Frame { stream: 0, kind };
            let mut out = Vec::new();
            sse.encode(&frame, &Ids::Token, &mut out);
            assert_eq!(out.concat(), expected.as_bytes(), "{frame:?}");
        }
        let first = String::from_utf8(SSE.first(Duration::from_secs(2)).to_vec()).unwrap();
        assert!(first.starts_with("retry: 2") && first.ends_with('\n'), "{first:?}");
        assert_eq!(first.lines().count(), 1);
    }
}
