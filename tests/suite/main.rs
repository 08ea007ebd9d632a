//! The integration tests, as one binary: one link, one shared `mongod`.

mod matcher;
mod proxy;
mod rows;
mod streams;
mod support;
