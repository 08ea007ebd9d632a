//! [Server-Sent Events](https://html.spec.whatwg.org/multipage/server-sent-events.html): the bytes.

use std::time::Duration;

use bytes::Bytes;

use crate::feed::routes::Delivery;
use crate::session::subscription::Frame;

pub const CONTENT_TYPE: &str = "text/event-stream";

/// The first block of every stream: when to come back after a cut. Spread by a quarter, so that
/// the clients of a lost replica do not come back all at once.
pub fn retry(retry: Duration) -> Bytes {
    let millis = retry.mul_f64(1.0 + fastrand::f64() / 4.0).as_millis();
    Bytes::from(format!("retry: {millis}\n\n"))
}

/// One block. That of a delivery is made once and shared by all clients of its route.
pub fn encode(frame: &Frame) -> Bytes {
    match frame {
        Frame::Delivery(delivery) => delivery.sse(encode_delivery),
        // By the standard, an id without data fires no event and is remembered all the same.
        Frame::Position(position) => Bytes::from(format!("id: {position}\n\n")),
        Frame::Keepalive => Bytes::from_static(b":\n\n"),
        Frame::Reset(reason, position) => {
            let id = position.as_ref().map(|p| format!("id: {p}\n")).unwrap_or_default();
            let name = reason.name();
            Bytes::from(format!("{id}event: reset\ndata: {{\"reason\":\"{name}\"}}\n\n"))
        }
    }
}

/// The last block of a stream that has to end for a reason that the client should know.
pub fn end(reason: &str) -> Bytes {
    Bytes::from(format!("event: end\ndata: {{\"reason\":\"{reason}\"}}\n\n"))
}

fn encode_delivery(delivery: &Delivery) -> Bytes {
    let id = delivery.id();
    let length = id.as_ref().map_or(0, |id| id.as_str().len());
    let mut out = Vec::with_capacity(delivery.json.len() + length + 40);
    if let Some(id) = id {
        out.extend_from_slice(b"id: ");
        out.extend_from_slice(id.as_str().as_bytes());
        out.push(b'\n');
    }
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(delivery.event_name().as_bytes());
    out.extend_from_slice(b"\ndata: ");
    out.extend_from_slice(&delivery.json);
    out.extend_from_slice(b"\n\n");
    Bytes::from(out)
}
