//! The integration tests, as one binary: one link, one shared `mongod`.

mod access;
mod admin;
mod docs;
mod forwarding;
mod generate;
mod history;
mod matcher;
mod mongodb;
mod process;
mod reload;
mod rows;
mod streams;
mod support;
