//! Events that are hard to give, or that the server cannot give at all. Reading on from the place
//! before such an event comes to the same end for ever, so clients are reset and reading goes on
//! behind it.

use mongodb::Client;
use mongodb::bson::{Document, doc};

use super::{collection, expect, expect_reset, filter, id, insert};
use crate::support::sidecar::{self, Filters};
use crate::support::sse::Stream;
use crate::support::{mongo, unique};

async fn shared() -> Client {
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
async fn a_required_image_that_the_server_did_not_keep() {
    let database = unique("required");
    let text =
        format!("{}fullDocumentBeforeChange: required\n", filter(&format!("{database}.orders")));
    let filters = Filters::new(&[("orders", &text)]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let orders = collection(&shared().await, &database, "orders");
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    stream.settled().await;
    insert(&orders, 0..1).await;
    expect(&mut stream, 0..1).await;
    orders.update_one(doc! { "_id": 0 }, doc! { "$set": { "a": 1 } }).await.unwrap();
    expect_reset(&mut stream, "history-lost").await;
    insert(&orders, 1..3).await;
    expect(&mut stream, 1..3).await;
    sidecar.finish().await;
}

#[tokio::test]
async fn an_event_that_is_too_large_for_the_server() {
    let database = unique("large");
    let text = format!(
        "{}fullDocumentBeforeChange: whenAvailable\nproject: {{ pad: 0 }}\n",
        filter(&format!("{database}.orders"))
    );
    let filters = Filters::new(&[("orders", &text)]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let client = shared().await;
    let images = doc! { "create": "orders", "changeStreamPreAndPostImages": { "enabled": true } };
    client.database(&database).run_command(images).await.unwrap();
    let orders = collection(&client, &database, "orders");
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    stream.settled().await;
    let large = |letter: &str| -> Document {
        doc! { "_id": 0_i64, "pad": letter.repeat(9_000_000) }
    };
    orders.insert_one(large("a")).await.unwrap();
    expect(&mut stream, 0..1).await;
    orders.replace_one(doc! { "_id": 0 }, large("b")).await.unwrap();
    expect_reset(&mut stream, "history-lost").await;
    insert(&orders, 1..3).await;
    expect(&mut stream, 1..3).await;
    sidecar.finish().await;
}
