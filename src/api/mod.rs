//! The reserved path: which clients may open which streams, and the bytes that streams are sent as.
//!
//! Touches no socket: the proxy provides a [`transport::Sink`] for each protocol.

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
