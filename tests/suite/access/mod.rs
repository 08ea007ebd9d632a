//! Who may listen to what, from the outside: a real issuer, a real app, a real MongoDB.

mod classroom;
pub mod forward;
mod http2;
pub mod issuer;
mod key_files;
mod limits;
mod origins;
mod property;
mod rotation;
mod secrets;
pub mod server;
mod tokens;
mod typed;

use std::net::SocketAddr;

use mongodb::Client;
use mongodb::bson::Document;

use crate::support::http::{self, Answer};
use crate::support::mongo;

/// A shared secret, as long as HS512 demands.
pub const SECRET: &str = "a secret of sixty-four bytes, which nobody knows but the issuer!";

/// Asks for a stream without reading it.
pub async fn knock(address: SocketAddr, target: &str, fields: &str) -> Answer {
    http::request(address, "HEAD", target, fields).await
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

pub async fn insert(database: &str, collection: &str, document: Document) {
    let client = Client::with_uri_str(mongo::uri()).await.expect("a client");
    client.database(database).collection(collection).insert_one(document).await.unwrap();
}

pub fn filter(database: &str, access: &str, rest: &str) -> String {
    format!("collection: {database}.orders\naccess: {access}\n{rest}")
}
