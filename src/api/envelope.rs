//! One frame as a JSON object, for every transport but Server-Sent Events:
//! `{"id":"8266…","event":"update","data":{…}}`.

use bytes::Bytes;

use super::transport::Mark;
use crate::feed::routes::Delivery;
use crate::session::connection::Frame;
use crate::session::subscription::FrameKind;

/// Appends the object in pieces; what a delivery says is shared, and not copied. `end` is its last
/// brace with what comes behind it, since each piece has its price.
pub fn encode(frame: &Frame, mark: &Mark<'_>, end: &'static str, out: &mut Vec<Bytes>) {
    // By far the most: pieces that are made once for all.
    if let FrameKind::Delivery(delivery) = &frame.kind
        && mark.label.is_none()
    {
        return encode_delivery(delivery, mark, end, out);
    }
    // A sign of life is of all streams, and so is a position that all of them share.
    let mut members = match &frame.kind {
        FrameKind::Keepalive => String::new(),
        FrameKind::Position(_) if mark.has_shared_id() => String::new(),
        _ => mark.members(),
    };
    if let Some(id) = mark.id(frame) {
        members += &format!("\"id\":\"{id}\",");
    }
    let event = match &frame.kind {
        FrameKind::Delivery(delivery) => {
            let head = format!("{{{members}\"event\":\"{}\",\"data\":", delivery.event_name());
            let data = delivery.json.clone();
            return out.extend([Bytes::from(head), data, Bytes::from_static(end.as_bytes())]);
        }
        FrameKind::Position(_) | FrameKind::Keepalive => {
            let members = members.trim_end_matches(',');
            return out.push(Bytes::from(format!("{{{members}{end}")));
        }
        FrameKind::Document(json) => {
            let head = format!("{{{members}\"event\":\"document\",\"data\":");
            let end = Bytes::from_static(end.as_bytes());
            return out.extend([Bytes::from(head), json.clone(), end]);
        }
        FrameKind::Snapshot(_) => "snapshot",
        FrameKind::Ready(..) => "ready",
        FrameKind::Reset(..) => "reset",
        FrameKind::End(_) => "end",
    };
    let data = self::members(&frame.kind);
    out.push(Bytes::from(format!("{{{members}\"event\":\"{event}\",\"data\":{{{data}}}{end}")));
}

/// A delivery on a connection with one stream.
fn encode_delivery(delivery: &Delivery, mark: &Mark<'_>, end: &'static str, out: &mut Vec<Bytes>) {
    let event = Bytes::from_static(event_of(delivery));
    match delivery.shown_id(mark.ids) {
        Some(id) => out.extend([Bytes::from_static(b"{\"id\":\""), id, event]),
        // Without the end of an id that is not there.
        None => out.extend([Bytes::from_static(b"{"), event.slice(2..)]),
    }
    out.extend([delivery.json.clone(), Bytes::from_static(end.as_bytes())]);
}

/// What stands between the id of a delivery and its data.
fn event_of(delivery: &Delivery) -> &'static [u8] {
    match delivery.event_name() {
        "insert" => b"\",\"event\":\"insert\",\"data\":",
        "update" => b"\",\"event\":\"update\",\"data\":",
        "replace" => b"\",\"event\":\"replace\",\"data\":",
        "delete" => b"\",\"event\":\"delete\",\"data\":",
        // Nothing else is delivered.
        _ => b"\",\"event\":\"reset\",\"data\":",
    }
}

/// What a frame that is none of a document says, as the members of a JSON object.
pub fn members(kind: &FrameKind) -> String {
    let reason = |reason: &str| format!("\"reason\":\"{reason}\"");
    match kind {
        FrameKind::Snapshot(None) => reason("new"),
        FrameKind::Snapshot(Some(why)) | FrameKind::Reset(why, _) => reason(why.name()),
        FrameKind::End(ended) => reason(ended.reason()),
        FrameKind::Ready(_, Some(documents)) => format!("\"documents\":{documents}"),
        _ => String::new(),
    }
}
