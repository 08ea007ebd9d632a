//! Of the reserved path, what reads requests.

#[path = "../../../src/api/negotiation.rs"]
pub mod negotiation;
#[path = "../../../src/api/problem.rs"]
pub mod problem;
#[path = "../../../src/api/wanted.rs"]
pub mod wanted;

pub mod websocket;
