//! What a thread has made of the latest deliveries: a delivery goes to many clients one after the
//! other, in the same bytes.
//!
//! Each piece that clients share has a count of who uses it, and threads that change the same count take
//! turns at it. So what several clients of a thread are sent is put together once, into a piece of its
//! own. One client's alone is not, as that would be a copy for nothing.
//!
//! Touches nothing: bytes in, bytes out.

use std::cell::RefCell;
use std::sync::{Arc, Weak};
use std::thread::LocalKey;

use bytes::Bytes;

use super::Mark;
use crate::feed::routes::Delivery;
use crate::session::connection::Frame;
use crate::session::subscription::FrameKind;

/// How many deliveries, by their numbers: about as many as one write to a client takes.
const DELIVERIES: usize = 32;
/// More than so many bytes are not copied.
const MAX_LENGTH: usize = 2 * 1024;

/// Those of one transport, of a thread.
#[derive(Debug, Default)]
pub struct Latest([Option<Entry>; DELIVERIES]);

#[derive(Debug)]
struct Entry {
    /// Not kept alive by this, and no other one takes its place in memory as long as it is here.
    delivery: Weak<Delivery>,
    /// From the second client on.
    bytes: Option<Bytes>,
}

/// Appends what `encode` makes of a frame: for a delivery on a connection with one stream, that is the
/// same for all clients of a transport.
pub fn encode(
    latest: &'static LocalKey<RefCell<Latest>>,
    (frame, mark): (&Frame, &Mark<'_>),
    out: &mut Vec<Bytes>,
    encode: impl FnOnce(&mut Vec<Bytes>),
) {
    let delivery = match &frame.kind {
        // A replay's have no number, and seldom have many clients.
        FrameKind::Delivery(delivery) if mark.label.is_none() && delivery.number > 0 => delivery,
        _ => return encode(out),
    };
    latest.with_borrow_mut(|Latest(entries)| {
        // Below the number of entries.
        let entry = &mut entries[(delivery.number % DELIVERIES as u64) as usize];
        let known = entry.as_mut().filter(|known| known.delivery.as_ptr() == Arc::as_ptr(delivery));
        if let Some(Entry { bytes: Some(bytes), .. }) = &known {
            return out.push(bytes.clone());
        }
        let begin = out.len();
        encode(out);
        if out[begin..].iter().map(Bytes::len).sum::<usize>() > MAX_LENGTH {
            return;
        }
        match known {
            Some(known) => {
                let whole = Bytes::from(out[begin..].concat());
                known.bytes = Some(whole.clone());
                out.truncate(begin);
                out.push(whole);
            }
            None => *entry = Some(Entry { delivery: Arc::downgrade(delivery), bytes: None }),
        }
    });
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;
    use crate::api::ndjson::NDJSON;
    use crate::api::sse::SSE;
    use crate::api::transport::Encoder;
    use crate::api::websocket::WEBSOCKET;
    use crate::event::ChangeEvent;
    use crate::event::seal::Ids;

    /// As a document with this key was deleted, and told to the clients of a filter.
    fn delivery(number: u64, key: &str) -> Arc<Delivery> {
        let raw = rawdoc! {
            "_id": { "_data": "8266F3AAAA00000001" },
            "operationType": "delete",
            "documentKey": { "_id": key },
        };
        let event = ChangeEvent::parse(raw).unwrap();
        let filter = crate::filter::tests::good("");
        Arc::new(Delivery::event(number, &event, &filter, None))
    }

    /// A WebSocket frame begins with bytes that are no text.
    fn sent(encoder: &dyn Encoder, delivery: &Arc<Delivery>) -> (String, usize) {
        let frame = Frame { stream: 0, kind: FrameKind::Delivery(delivery.clone()) };
        let mut out = vec![Bytes::from_static(b"before ")];
        encoder.encode(&frame, &Mark::plain(&Ids::Token), &mut out);
        (String::from_utf8_lossy(&out.concat()).into_owned(), out.len() - 1)
    }

    #[test]
    fn every_client_is_sent_the_same() {
        // Two of one event, as two filters show it; one that takes their place; one that is long.
        let deliveries = [
            delivery(7, "a"),
            delivery(7, "b"),
            delivery(7 + DELIVERIES as u64, "c"),
            delivery(8, &"d".repeat(MAX_LENGTH)),
        ];
        for encoder in [SSE, NDJSON, WEBSOCKET] {
            let firsts: Vec<String> =
                deliveries.iter().map(|delivery| sent(encoder, delivery).0).collect();
            assert!(firsts.iter().zip("abcd".chars()).all(|(text, key)| text.contains(key)));
            for (delivery, first) in deliveries.iter().zip(&firsts) {
                let again: Vec<(String, usize)> = (0..4).map(|_| sent(encoder, delivery)).collect();
                assert!(again.iter().all(|(text, _)| text == first), "{again:?}");
                // In one piece from the second one in a row on, unless that is long.
                let is_short = first.len() <= MAX_LENGTH;
                assert_eq!(again[2].1 == 1, is_short, "{again:?}");
            }
        }
    }

    #[test]
    fn nothing_is_kept_alive() {
        let delivery = delivery(1, "a");
        for _ in 0..3 {
            sent(SSE, &delivery);
        }
        assert_eq!(Arc::strong_count(&delivery), 1);
    }
}
