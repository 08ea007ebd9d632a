//! Events that are hard to give, or that the server cannot give at all. Reading on from the place
//! before such an event comes to the same end for ever, so those whom it concerns are reset, and
//! reading goes on behind it.

use mongodb::Client;
use mongodb::bson::{Bson, Document, doc};

use super::{collection, expect, expect_reset, filter, id, insert};
use crate::support::sidecar::{self, Filters};
use crate::support::sse::Stream;
use crate::support::{mongo, unique};

pub(super) const SMALL_JOURNAL: (&str, &str) = ("SIDESTREAM_REPLAY__MAX_BYTES", "64KiB");

/// Whether the server splits events of more than 16 MB, as of 6.0.9.
pub(super) async fn splits(client: &Client) -> bool {
    let told = client.database("admin").run_command(doc! { "buildInfo": 1 }).await.unwrap();
    let version: Vec<i32> =
        told.get_array("versionArray").unwrap().iter().filter_map(Bson::as_i32).collect();
    version.as_slice() >= [6, 0, 9].as_slice()
}

/// The replacement with more than 16 MB of images: as a server can give it.
async fn expect_large(stream: &mut Stream, splits: bool) {
    if !splits {
        expect_reset(stream, "history-lost").await;
        return;
    }
    let event = stream.event().await;
    assert_eq!((event.name(), id(&event)), ("replace", 0));
    assert_eq!(event.json()["view"], "stay");
    for image in ["fullDocument", "fullDocumentBeforeChange"] {
        assert_eq!(event.json()[image], serde_json::json!({ "_id": 0 }));
    }
}

pub(super) async fn shared() -> Client {
    Client::with_uri_str(mongo::uri()).await.expect("a client")
}

// Each event fills most of a batch, so the transaction comes in several, with positions between.
#[tokio::test]
async fn a_transaction_that_comes_in_several_batches() {
    let database = unique("batches");
    let text = format!("{}project: {{ pad: 0 }}\n", filter(&format!("{database}.orders")));
    let filters = Filters::new(&[("orders", &text)]);
    let heartbeat = [("SIDESTREAM_CLIENTS__HEARTBEAT", "100ms")];
    let sidecar = sidecar::start(&mongo::uri(), &filters, &heartbeat).await;
    let client = shared().await;
    client.database(&database).create_collection("orders").await.unwrap();
    let orders = collection(&client, &database, "orders");
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    stream.settled().await;

    let pad = "x".repeat(9_000_000);
    let mut session = client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    for id in 0..4_i64 {
        let document = doc! { "_id": id, "pad": &pad };
        orders.insert_one(document).session(&mut session).await.unwrap();
    }
    session.commit_transaction().await.unwrap();
    insert(&orders, 4..5).await;

    let mut ids = vec![stream.last_event_id.clone().unwrap()];
    let mut events = Vec::new();
    while events.len() < 5 {
        let block = stream.block().await.expect("the stream goes on");
        ids.extend(block.id.clone());
        if block.data.is_some() {
            events.push(block);
        }
    }
    assert_eq!(events.iter().map(id).collect::<Vec<i64>>(), [0, 1, 2, 3, 4]);
    assert!(ids.is_sorted_by(|a, b| a < b), "each id is past the one before: {ids:#?}");
    for (at, event) in events.iter().enumerate() {
        let mut resumed =
            Stream::resume(sidecar.listen, "/_events/orders", event.id.as_ref().unwrap()).await;
        insert(&orders, 5 + at as i64..6 + at as i64).await;
        expect(&mut resumed, at as i64 + 1..6 + at as i64).await;
    }
    sidecar.finish().await;
}

#[tokio::test]
async fn a_required_image_that_the_server_did_not_keep_resets_its_own_streams_only() {
    let database = unique("required");
    let orders = filter(&format!("{database}.orders"));
    let required = format!("{orders}fullDocumentBeforeChange: required\n");
    let available = format!("{orders}fullDocumentBeforeChange: whenAvailable\n");
    let chat =
        format!("{}fullDocumentBeforeChange: required\n", filter(&format!("{database}.chat")));
    let inserts = format!("{required}operations: [insert]\n");
    let filters = Filters::new(&[
        ("required", &required),
        ("available", &available),
        ("chat", &chat),
        ("inserts", &inserts),
    ]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[SMALL_JOURNAL]).await;
    // One cursor for all of them.
    assert_eq!(sidecar::metric(sidecar.admin, "sidestream_upstream_cursors").await, 1.0);
    let client = shared().await;
    let orders = collection(&client, &database, "orders");
    let mut stream = Stream::open(sidecar.listen, "/_events/required").await;
    let first = stream.settled().await;
    let mut others = Vec::new();
    for name in ["available", "inserts", "chat"] {
        let mut other = Stream::open(sidecar.listen, &format!("/_events/{name}")).await;
        other.settled().await;
        others.push(other);
    }
    insert(&orders, 0..1).await;
    orders.update_one(doc! { "_id": 0 }, doc! { "$set": { "a": 1 } }).await.unwrap();
    insert(&orders, 1..3).await;
    insert(&collection(&client, &database, "chat"), 0..1).await;
    for stream in [
        &mut stream,
        // The same when it is read from the oplog.
        &mut Stream::resume(sidecar.listen, "/_events/required", &first).await,
    ] {
        expect(stream, 0..1).await;
        expect_reset(stream, "history-lost").await;
        expect(stream, 1..3).await;
    }
    expect(&mut others[0], 0..1).await;
    assert_eq!(others[0].event().await.name(), "update");
    expect(&mut others[0], 1..3).await;
    expect(&mut others[1], 0..3).await;
    expect(&mut others[2], 0..1).await;
    sidecar.finish().await;
}

#[tokio::test]
async fn an_event_that_is_too_large_for_a_message() {
    let database = unique("large");
    let chat =
        format!("{}fullDocumentBeforeChange: whenAvailable\n", filter(&format!("{database}.chat")));
    let text = format!(
        "{}fullDocumentBeforeChange: whenAvailable\nproject: {{ pad: 0 }}\n",
        filter(&format!("{database}.orders"))
    );
    let filters = Filters::new(&[("orders", &text), ("chat", &chat)]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[SMALL_JOURNAL]).await;
    let client = shared().await;
    let mut other = Stream::open(sidecar.listen, "/_events/chat").await;
    other.settled().await;
    let chat = collection(&client, &database, "chat");
    let images = doc! { "create": "orders", "changeStreamPreAndPostImages": { "enabled": true } };
    client.database(&database).run_command(images).await.unwrap();
    let orders = collection(&client, &database, "orders");
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    let first = stream.settled().await;
    let large = |letter: &str| -> Document {
        doc! { "_id": 0_i64, "pad": letter.repeat(9_000_000) }
    };
    orders.insert_one(large("a")).await.unwrap();
    insert(&chat, 0..2).await;
    orders.replace_one(doc! { "_id": 0 }, large("b")).await.unwrap();
    insert(&chat, 2..4).await;
    insert(&orders, 1..3).await;
    let splits = splits(&client).await;
    expect(&mut stream, 0..1).await;
    expect_large(&mut stream, splits).await;
    expect(&mut stream, 1..3).await;
    // Those of the other collection hear nothing of it, and miss nothing.
    expect(&mut other, 0..4).await;

    // The same when it is read from the oplog.
    for id in 4..6_i64 {
        chat.insert_one(doc! { "_id": id, "pad": "x".repeat(100_000) }).await.unwrap();
    }
    let mut resumed = Stream::resume(sidecar.listen, "/_events/orders", &first).await;
    expect(&mut resumed, 0..1).await;
    expect_large(&mut resumed, splits).await;
    expect(&mut resumed, 1..3).await;
    let mut resumed = Stream::resume(sidecar.listen, "/_events/chat", &first).await;
    expect(&mut resumed, 0..6).await;
    sidecar.finish().await;
}
