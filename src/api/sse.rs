//! [Server-Sent Events](https://html.spec.whatwg.org/multipage/server-sent-events.html): the bytes.
//!
//! - `id:` is the last line of its block: some clients take the id at its line, and must not have
//!   it before the data.
//! - `retry:` and comments have no blank line behind them: some clients hand out an empty event at
//!   each.

use std::time::Duration;

use bytes::Bytes;

use crate::event::Position;
use crate::feed::routes::Delivery;
use crate::session::subscription::Frame;

/// The head's fields of every event stream.
pub const HEADERS: [(&str, &str); 3] = [
    ("Content-Type", "text/event-stream"),
    // A proxy that compresses would hold events back to compress more of them together.
    ("Cache-Control", "no-store, no-transform"),
    // nginx in front of us would hold them back, too.
    ("X-Accel-Buffering", "no"),
];

/// What a client asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Style {
    /// Positions fire an event, for clients that pass over an id alone.
    pub has_position_events: bool,
}

/// The first line of every stream: when to come back after a cut. Spread by a quarter, so that
/// the clients of a lost replica do not come back all at once.
pub fn retry(retry: Duration) -> Bytes {
    let millis = retry.mul_f64(1.0 + fastrand::f64() / 4.0).as_millis();
    Bytes::from(format!("retry: {millis}\n"))
}

/// One block. That of a delivery is made once and shared by all clients of its route.
pub fn encode(frame: &Frame, style: Style) -> Bytes {
    match frame {
        Frame::Delivery(delivery) => delivery.sse(encode_delivery),
        Frame::Position(position) if style.has_position_events => {
            block("position", b"{}", Some(position))
        }
        // By the standard, an id without data fires no event and is remembered all the same.
        Frame::Position(position) => Bytes::from(format!("id: {position}\n\n")),
        Frame::Keepalive => Bytes::from_static(b":\n"),
        Frame::Reset(reason, position) => {
            let data = format!("{{\"reason\":\"{}\"}}", reason.name());
            block("reset", data.as_bytes(), position.as_ref())
        }
        Frame::Ready(position) => block("ready", b"{}", Some(position)),
    }
}

/// The last block of a stream that has to end for a reason that the client should know.
pub fn end(reason: &str) -> Bytes {
    block("end", format!("{{\"reason\":\"{reason}\"}}").as_bytes(), None)
}

fn encode_delivery(delivery: &Delivery) -> Bytes {
    block(delivery.event_name(), &delivery.json, delivery.id().as_ref())
}

fn block(event: &str, data: &[u8], id: Option<&Position>) -> Bytes {
    let length = id.map_or(0, |id| id.as_str().len());
    let mut out = Vec::with_capacity(event.len() + data.len() + length + 24);
    for part in [b"event: ", event.as_bytes(), b"\ndata: ", data, b"\n"] {
        out.extend_from_slice(part);
    }
    if let Some(id) = id {
        for part in [b"id: ", id.as_str().as_bytes(), b"\n"] {
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
        let position = Position::parse("8266F3AAAA00000001").unwrap();
        let plain = Style::default();
        let loud = Style { has_position_events: true };
        for (frame, style, expected) in [
            (Frame::Keepalive, plain, ":\n"),
            (Frame::Keepalive, loud, ":\n"),
            (Frame::Position(position.clone()), plain, "id: 8266F3AAAA00000001\n\n"),
            (
                Frame::Position(position.clone()),
                loud,
                "event: position\ndata: {}\nid: 8266F3AAAA00000001\n\n",
            ),
            (
                Frame::Ready(position.clone()),
                plain,
                "event: ready\ndata: {}\nid: 8266F3AAAA00000001\n\n",
            ),
            (
                Frame::Reset(ResetReason::Started, Some(position.clone())),
                plain,
                "event: reset\ndata: {\"reason\":\"started\"}\nid: 8266F3AAAA00000001\n\n",
            ),
            (
                Frame::Reset(ResetReason::HistoryLost, None),
                plain,
                "event: reset\ndata: {\"reason\":\"history-lost\"}\n\n",
            ),
        ] {
            assert_eq!(encode(&frame, style), expected, "{frame:?}");
        }
        let first = String::from_utf8(retry(Duration::from_secs(2)).to_vec()).unwrap();
        assert!(
            first.starts_with("retry: 2") && first.ends_with("\n") && first.lines().count() == 1
        );
        assert_eq!(end("unauthorized"), "event: end\ndata: {\"reason\":\"unauthorized\"}\n\n");
    }
}
