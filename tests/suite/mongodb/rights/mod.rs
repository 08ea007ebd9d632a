//! Rights on collections and not on their database: a change stream for each.

mod moves;

use mongodb::Client;
use mongodb::bson::{Document, doc};

use super::{collection, expect, expect_reset, filter, insert, insert_odd};
use crate::support::mongo::{Own, Setup};
use crate::support::sidecar::{self, Filters};
use crate::support::sse::Stream;
use crate::support::{http, until};

/// Each collection is read by itself whatever else cannot be looked at.
#[tokio::test]
async fn a_document_that_cannot_be_decoded_keeps_no_stream_waiting() {
    let own = Own::start(Setup { auth: true, ..Setup::default() }).await;
    let (root, uri) = user_of(&own, &["orders", "notes"]).await;
    insert_odd(&root, "shop", "notes", doc! { "_id": 0_i64 }).await;
    let of_whom = "match: { who: { $param: who } }\nparams: { who: { type: string } }\n";
    let filters = Filters::new(&[
        ("notes", &format!("{}{of_whom}", filter("shop.notes"))),
        ("orders", &filter("shop.orders")),
    ]);
    let sidecar = sidecar::start_before(sidecar::nowhere(), &uri, &filters, &[]).await;
    for name in ["notes", "orders"] {
        until("it is read", || async { is_ready(&sidecar, name).await }).await;
    }
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    stream.settled().await;
    insert(&collection(&root, "shop", "orders"), 0..2).await;
    expect(&mut stream, 0..2).await;
    sidecar.finish().await;
}

/// State and reason of a stream.
async fn stream_of(sidecar: &sidestream::Sidecar, name: &str) -> (String, String) {
    let told = http::get(sidecar.admin, "/streams").await.json();
    let streams = told["streams"].as_array().unwrap().clone();
    let stream = streams.into_iter().find(|stream| stream["name"] == name).unwrap_or_default();
    let text = |key: &str| stream[key].as_str().unwrap_or_default().to_owned();
    (text("state"), text("reason"))
}

async fn is_ready(sidecar: &sidestream::Sidecar, name: &str) -> bool {
    stream_of(sidecar, name).await.0 == "ready"
}

/// A user who may read the change streams of these collections of `shop`, and no more.
async fn user_of(own: &Own, collections: &[&str]) -> (Client, String) {
    let root = own.client().await;
    let privileges: Vec<Document> = collections
        .iter()
        .map(|name| {
            doc! {
                "resource": { "db": "shop", "collection": *name },
                "actions": ["find", "changeStream"],
            }
        })
        .collect();
    let admin = root.database("admin");
    let role = doc! { "createRole": "some", "privileges": privileges, "roles": [] };
    admin.run_command(role).await.unwrap();
    let user = doc! { "createUser": "shopper", "pwd": "x", "roles": ["some"] };
    admin.run_command(user).await.unwrap();
    (root, format!("mongodb://shopper:x@{}/?replicaSet=rs0", own.host(0)))
}

#[tokio::test]
async fn one_collection_is_read_by_itself_and_keeps_its_promises() {
    let own = Own::start(Setup { auth: true, ..Setup::default() }).await;
    let (root, uri) = user_of(&own, &["orders"]).await;
    let orders = collection(&root, "shop", "orders");
    insert(&orders, 0..1).await;
    let filters = Filters::new(&[("orders", &filter("shop.orders"))]);
    // So little is remembered that who comes back is served from the oplog.
    let settings = [("SIDESTREAM_REPLAY__MAX_BYTES", "1KiB")];
    let sidecar = sidecar::start_before(sidecar::nowhere(), &uri, &filters, &settings).await;
    until("it is read", || async { is_ready(&sidecar, "orders").await }).await;
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    let first = stream.settled().await;
    insert(&orders, 1..20).await;
    expect(&mut stream, 1..20).await;
    let before = stream.last_event_id.clone().unwrap();

    orders.drop().await.unwrap();
    expect_reset(&mut stream, "invalidated").await;
    insert(&orders, 20..40).await;
    expect(&mut stream, 20..40).await;
    let between = stream.last_event_id.clone().unwrap();

    let rename = |from: &str, to: &str| {
        doc! { "renameCollection": format!("shop.{from}"), "to": format!("shop.{to}"), "dropTarget": true }
    };
    root.database("admin").run_command(rename("orders", "old")).await.unwrap();
    expect_reset(&mut stream, "invalidated").await;
    insert(&collection(&root, "shop", "new"), 100..101).await;
    insert(&orders, 40..42).await;
    expect(&mut stream, 40..42).await;
    // Replaced by another one of its name.
    root.database("admin").run_command(rename("new", "orders")).await.unwrap();
    expect_reset(&mut stream, "invalidated").await;
    insert(&orders, 42..44).await;
    expect(&mut stream, 42..44).await;
    root.database("shop").drop().await.unwrap();
    expect_reset(&mut stream, "invalidated").await;
    insert(&orders, 44..46).await;
    expect(&mut stream, 44..46).await;

    // From the oplog, across all of it.
    let mut back = Stream::resume(sidecar.listen, "/_events/orders", &first).await;
    expect(&mut back, 1..20).await;
    let mut later = Stream::resume(sidecar.listen, "/_events/orders", &before).await;
    for stream in [&mut back, &mut later] {
        expect_reset(stream, "invalidated").await;
        expect(stream, 20..40).await;
    }
    let mut last = Stream::resume(sidecar.listen, "/_events/orders", &between).await;
    for stream in [&mut back, &mut later, &mut last] {
        expect_reset(stream, "invalidated").await;
        expect(stream, 40..42).await;
        expect_reset(stream, "invalidated").await;
        expect(stream, 42..44).await;
        expect_reset(stream, "invalidated").await;
        expect(stream, 44..46).await;
    }
    sidecar.finish().await;

    // A token is the same to a sidecar that may read the database.
    let other = sidecar::start(&own.uri(), &filters, &settings).await;
    let mut back = Stream::resume(other.listen, "/_events/orders", &between).await;
    expect_reset(&mut back, "invalidated").await;
    expect(&mut back, 40..42).await;
    other.finish().await;
}

#[tokio::test]
async fn a_second_collection_does_not_cost_the_first_its_stream() {
    let own = Own::start(Setup { auth: true, ..Setup::default() }).await;
    let (root, uri) = user_of(&own, &["orders", "bills"]).await;
    let (orders, bills) = (collection(&root, "shop", "orders"), collection(&root, "shop", "bills"));
    let filters = Filters::new(&[("orders", &filter("shop.orders"))]);
    let sidecar = sidecar::start_before(sidecar::nowhere(), &uri, &filters, &[]).await;
    until("it is read", || async { is_ready(&sidecar, "orders").await }).await;
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    stream.settled().await;
    // One that may be read, and one that may not.
    filters.write("bills", &filter("shop.bills"));
    filters.write("secrets", &filter("shop.secrets"));
    until("the second is read too", || async { is_ready(&sidecar, "bills").await }).await;
    until("the third is told what is missing", || async {
        let (state, reason) = stream_of(&sidecar, "secrets").await;
        state == "waiting" && reason.contains("createRole({ role: \"changeStreamOf_shop\"")
    })
    .await;
    let mut second = Stream::open(sidecar.listen, "/_events/bills").await;
    second.settled().await;
    insert(&orders, 0..3).await;
    insert(&bills, 0..3).await;
    expect(&mut stream, 0..3).await;
    expect(&mut second, 0..3).await;
    sidecar.finish().await;

    // After a restart, when all of them are there from the beginning.
    let sidecar = sidecar::start_before(sidecar::nowhere(), &uri, &filters, &[]).await;
    until("both are read", || async {
        is_ready(&sidecar, "orders").await && is_ready(&sidecar, "bills").await
    })
    .await;
    assert_eq!(stream_of(&sidecar, "secrets").await.0, "waiting");
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    stream.settled().await;
    insert(&orders, 3..5).await;
    expect(&mut stream, 3..5).await;
    sidecar.finish().await;
}

#[tokio::test]
async fn a_user_that_was_dropped_is_signed_in_again_when_it_is_back() {
    let own = Own::start(Setup { auth: true, ..Setup::default() }).await;
    let (root, uri) = user_of(&own, &["orders"]).await;
    let orders = collection(&root, "shop", "orders");
    insert(&orders, 0..1).await;
    let filters = Filters::new(&[("orders", &filter("shop.orders"))]);
    let sidecar = sidecar::start_before(sidecar::nowhere(), &uri, &filters, &[]).await;
    until("it is read", || async { is_ready(&sidecar, "orders").await }).await;
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    stream.settled().await;

    let admin = root.database("admin");
    admin.run_command(doc! { "dropUser": "shopper" }).await.unwrap();
    insert(&orders, 1..3).await;
    until("it is told that nobody is signed in", || async {
        let (state, reason) = stream_of(&sidecar, "orders").await;
        state == "waiting" && reason.contains("check user, password and authSource")
    })
    .await;
    let user = doc! { "createUser": "shopper", "pwd": "x", "roles": ["some"] };
    admin.run_command(user).await.unwrap();
    expect(&mut stream, 1..3).await;
    sidecar.finish().await;
}
