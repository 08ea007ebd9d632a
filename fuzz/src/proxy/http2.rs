//! Of HTTP/2, what judges heads.

#[path = "../../../src/proxy/http2/gate.rs"]
pub mod gate;
#[path = "../../../src/proxy/http2/head.rs"]
pub mod head;
