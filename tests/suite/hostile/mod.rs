//! What strangers do on purpose, over raw sockets. Each test is named after its attack.

mod answers;
mod connections;
mod desync;
mod forwarded;
mod frames;
mod framing;
mod hidden;
mod http2;
mod identity;
mod rights;
mod slow;
mod snapshots;
mod stalled;
mod switching;
mod values;
