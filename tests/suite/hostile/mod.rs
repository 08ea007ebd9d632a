//! What strangers do on purpose, over raw sockets. Each test is named after its attack.

mod connections;
mod desync;
mod forwarded;
mod frames;
mod framing;
mod http2;
mod identity;
mod refused;
mod slow;
mod stalled;
mod switching;
mod values;
