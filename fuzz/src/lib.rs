//! The pure rooms of Sidestream, compiled alone: that they compile here shows that they need
//! neither network nor MongoDB, and it keeps the instrumented build small.

#![allow(dead_code, unused_imports)]

#[path = "../../src/diagnostic/mod.rs"]
pub mod diagnostic;
#[path = "../../src/event/mod.rs"]
pub mod event;
#[path = "../../src/filter/mod.rs"]
pub mod filter;
#[path = "../../src/matcher/mod.rs"]
pub mod matcher;
#[path = "../../src/yaml/mod.rs"]
pub mod yaml;

// Of the proxy, what judges bytes.
pub mod proxy;
pub use proxy::{chunks, gate, path};

pub mod access;
pub mod api;
pub mod config;
pub mod kubernetes;
pub mod session;
