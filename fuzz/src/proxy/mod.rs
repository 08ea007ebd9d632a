//! Modules of the proxy, named as in the crate itself.

pub mod app;
#[path = "../../../src/proxy/chunks.rs"]
pub mod chunks;
#[path = "../../../src/proxy/date.rs"]
pub mod date;
#[path = "../../../src/proxy/forwarded.rs"]
pub mod forwarded;
#[path = "../../../src/proxy/gate/mod.rs"]
pub mod gate;
#[path = "../../../src/proxy/grpc.rs"]
pub mod grpc;
pub mod http1;
pub mod http2;
#[path = "../../../src/proxy/path.rs"]
pub mod path;

pub mod side {
    pub use super::forwarded::Side;
}
