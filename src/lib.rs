//! Sidestream: live updates for an existing web app, as a sidecar in front of it.
//!
//! This file is the map of the house. Data flows one way, and a room uses the rooms above it in
//! this list and none below it:
//!
//! - [`config`]: layers of settings to one validated `Config`
//! - [`event`]: one change event as raw BSON, its resume token, its position
//! - [`matcher`]: the MongoDB query language over raw BSON; pure
//! - [`filter`]: filter files, from what is written to what is bound for one client
//! - [`routes`]: from a document to the subscriptions that may want it, by index

pub mod config;
pub mod event;
pub mod filter;
pub mod matcher;
pub mod routes;
