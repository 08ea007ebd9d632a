//! The streams in force, and what one client has of them: a cursor into a feed.
//!
//! Knows neither HTTP nor bytes on a wire.

pub mod catalog;
pub mod explain;
pub mod reload;
pub mod subscription;
pub mod survey;
