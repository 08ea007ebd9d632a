//! The integration tests, as one binary: one link, one shared `mongod`.

mod access;
mod admin;
mod docs;
mod events;
mod examples;
mod forwarding;
mod generate;
mod generate_schema;
mod generate_values;
mod history;
mod hostile;
mod house;
mod kubernetes;
mod matcher;
mod mongodb;
mod numbers;
mod process;
mod proxy;
mod reload;
mod restart;
mod rows;
mod streams;
mod support;
mod values;
