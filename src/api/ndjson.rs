//! Newline-delimited JSON, for `fetch()` streaming: one envelope a line.

use std::cell::RefCell;
use std::time::Duration;

use bytes::Bytes;

use super::envelope;
use super::transport::latest::{self, Latest};
use super::transport::{Encoder, Mark};
use crate::api::negotiation::Transport;
use crate::session::connection::Frame;

thread_local! {
    static LATEST: RefCell<Latest> = RefCell::default();
}

/// The encoder.
#[derive(Debug)]
struct Ndjson;

/// One JSON object for each frame, with a newline behind it.
pub static NDJSON: &dyn Encoder = &Ndjson;

impl Encoder for Ndjson {
    fn headers(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("Content-Type", "application/x-ndjson"),
            // A proxy that compresses or buffers would hold lines back.
            ("Cache-Control", "no-store, no-transform"),
            ("X-Accel-Buffering", "no"),
        ]
    }

    fn first(&self, _retry: Duration) -> Option<Bytes> {
        None
    }

    fn transport(&self) -> Transport {
        Transport::Ndjson
    }

    fn encode(&self, frame: &Frame, mark: &Mark<'_>, out: &mut Vec<Bytes>) {
        latest::encode(&LATEST, (frame, mark), out, |out| {
            envelope::encode(frame, mark, "}\n", out);
        });
    }
}
