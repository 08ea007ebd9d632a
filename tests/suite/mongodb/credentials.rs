//! A password that is changed, and a file with the connection string that is replaced.

use mongodb::bson::doc;
use rustix::process::Signal;

use super::{collection, expect, filter, insert};
use crate::support::mongo::{Own, Setup};
use crate::support::sidecar::{Filters, Program};
use crate::support::sse::Stream;
use crate::support::volume::Volume;
use crate::support::{http, until};

const PASSWORDS: [&str; 2] = ["the-first-password", "the-second-password"];

#[tokio::test]
async fn a_password_that_was_changed_is_read_again_from_its_file() {
    let mut own = Own::start(Setup { auth: true, ..Setup::default() }).await;
    let host = own.host(0);
    let uri = |password: &str| format!("mongodb://shopper:{password}@{host}/?replicaSet=rs0\n");
    let user = doc! {
        "createUser": "shopper", "pwd": PASSWORDS[0], "roles": [{ "role": "read", "db": "shop" }],
    };
    own.admin(user).await.unwrap();
    let orders = collection(&own.client().await, "shop", "orders");
    insert(&orders, 0..1).await;
    let mut secret = Volume::new("uri", &uri(PASSWORDS[0]));
    let filters = Filters::new(&[("orders", &filter("shop.orders"))]);
    let program = Program::start_ready(
        &["--filters", filters.path().to_str().unwrap()],
        &[("SIDESTREAM_MONGODB__URI_FILE", secret.path("uri").to_str().unwrap())],
    )
    .await;
    let mut stream = Stream::open(program.listen, "/_events/orders").await;
    stream.settled().await;
    let state = async || {
        let told = http::get(program.admin, "/streams").await;
        assert!(PASSWORDS.iter().all(|password| !told.text().contains(password)));
        told.json()["streams"][0]["state"].clone()
    };

    own.admin(doc! { "updateUser": "shopper", "pwd": PASSWORDS[1] }).await.unwrap();
    insert(&orders, 1..3).await;
    expect(&mut stream, 1..3).await;
    // Half of it is written.
    let whole = uri(PASSWORDS[1]);
    secret.swap("uri", whole.strip_prefix("mongodb://").unwrap());
    own.end(0, Signal::TERM);
    own.restart(0);
    own.primary().await;
    let orders = collection(&own.client().await, "shop", "orders");
    insert(&orders, 3..6).await;
    program.log_with("mongodb.uri_file cannot be used: in the file: a connection string").await;
    until("it waits", || async { state().await == "waiting" }).await;

    secret.swap("uri", &whole);
    expect(&mut stream, 3..6).await;
    insert(&orders, 6..8).await;
    expect(&mut stream, 6..8).await;
    assert_eq!(state().await, "ready");
    let log = program.log_with("mongodb.uri_file was read again").await;
    assert!(PASSWORDS.iter().all(|password| !log.contains(password)), "{log}");
}
