//! The streams in force, and one client's view of them: a connection, with a cursor into a feed for
//! each of its streams.
//!
//! Knows neither HTTP nor bytes on a wire.

mod beginning;
pub mod bookmark;
pub mod catalog;
pub mod connection;
pub mod control;
pub mod examples;
pub mod explain;
pub mod listeners;
pub mod many;
pub mod query;
pub mod reload;
pub mod subscription;
pub mod survey;
pub mod trial;
