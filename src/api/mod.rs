//! The reserved path: which clients may open which streams, and the bytes that streams are sent as.
//!
//! Touches no socket: the proxy provides a [`transport::Sink`] for each protocol. A transport has a
//! file of its own here, a line in `Transport::encoder` below, and its names in [`negotiation`].

pub mod asyncapi;
pub mod capacity;
mod compression;
mod envelope;
mod listing;
mod ndjson;
pub mod negotiation;
mod opening;
pub mod poll;
pub mod problem;
mod refusal;
pub mod reserved;
pub mod sse;
pub mod transport;
mod wanted;
pub mod websocket;

use ndjson::NDJSON;
use negotiation::Transport;
use poll::POLL;
use sse::{SSE, SSE_WITH_POSITION_EVENTS};
use transport::Encoder;
use websocket::WEBSOCKET;

impl Transport {
    /// What makes its bytes.
    fn encoder(self) -> &'static dyn Encoder {
        match self {
            Transport::Sse => SSE,
            Transport::SseWithPositionEvents => SSE_WITH_POSITION_EVENTS,
            Transport::Ndjson => NDJSON,
            Transport::Poll => POLL,
            Transport::WebSocket => WEBSOCKET,
        }
    }
}
