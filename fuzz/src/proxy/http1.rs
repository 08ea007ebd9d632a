//! Of forwarding over HTTP/1, what judges bytes.

#[path = "../../../src/proxy/http1/answer.rs"]
pub mod answer;
#[path = "../../../src/proxy/http1/request.rs"]
pub mod request;
