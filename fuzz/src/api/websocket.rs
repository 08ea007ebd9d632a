//! Of WebSocket, what reads frames and messages.

#[path = "../../../src/api/websocket/incoming.rs"]
pub mod incoming;
#[path = "../../../src/api/websocket/message.rs"]
pub mod message;
