//! Who may listen to what, from the outside: a real issuer, a real app, a real MongoDB.

mod classroom;
mod forward;
mod http2;
mod issuer;
mod limits;
mod origins;
mod property;
mod secrets;
mod server;
mod tokens;
mod typed;

use std::net::SocketAddr;

use mongodb::Client;
use mongodb::bson::Document;

use crate::support::http::{self, Answer};
use crate::support::mongo;

/// Asks for a stream without reading it.
async fn knock(address: SocketAddr, target: &str, fields: &str) -> Answer {
    http::request(address, "HEAD", target, fields).await
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

async fn insert(database: &str, collection: &str, document: Document) {
    let client = Client::with_uri_str(mongo::uri()).await.expect("a client");
    client.database(database).collection(collection).insert_one(document).await.unwrap();
}

fn filter(database: &str, access: &str, rest: &str) -> String {
    format!("collection: {database}.orders\naccess: {access}\n{rest}")
}
