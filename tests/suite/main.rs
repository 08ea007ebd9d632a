//! The integration tests, as one binary: one link, one shared `mongod`.

mod matcher;
mod mongodb;
mod process;
mod rows;
mod streams;
mod support;
