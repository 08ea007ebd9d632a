//! The integration tests, as one binary: one link, one shared `mongod`.

mod matcher;
mod rows;
mod support;
