//! The ids that clients come back with.

use mongodb::bson::{Bson, doc};
use sidestream::event::Position;
use sidestream::event::position::MAX_ID;

use super::{SMALL_JOURNAL, client, collection, filter, n, next, push_out};
use crate::support::sidecar::{self, Filters};
use crate::support::sse::{Block, Stream};
use crate::support::{mongo, unique};

/// Every id is exact, from the memory and from the oplog: what follows comes, and nothing else.
pub async fn expect_exact(events: &[Block], listens: &[std::net::SocketAddr]) {
    for listen in listens {
        for (at, event) in events.iter().enumerate() {
            let id = event.id.as_ref().expect("an id");
            let mut resumed = Stream::resume(*listen, "/_events/orders", id).await;
            for later in &events[at + 1..] {
                assert_eq!(resumed.event().await, *later);
            }
            for n in [-1, -2] {
                assert_eq!(next(&mut resumed).await, ("insert".to_string(), Some(n)));
            }
        }
    }
}

#[tokio::test]
async fn an_event_is_told_however_long_its_key_is() {
    let database = unique("long");
    let filters = Filters::new(&[("orders", &filter(&format!("{database}.orders"), ""))]);
    let client = client().await;
    let orders = collection(&client, &database, "orders").await;
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let without_memory = sidecar::start(&mongo::uri(), &filters, &[SMALL_JOURNAL]).await;
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    stream.settled().await;
    const LENGTHS: [usize; 6] = [10, 440, 500, 16_400, 16_400, 100_000];
    let key = |n: usize| format!("{n}{}", "k".repeat(LENGTHS[n]));
    let document = |n: usize| doc! { "_id": key(n), "n": Bson::Int64(n as i64) };
    orders.insert_one(document(0)).await.unwrap();
    // Of one transaction, so that a place is more than a time.
    let mut session = client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    for n in 1..5 {
        orders.insert_one(document(n)).session(&mut session).await.unwrap();
    }
    session.commit_transaction().await.unwrap();
    orders.insert_one(document(5)).await.unwrap();
    let events = stream.events(LENGTHS.len()).await;
    for (number, event) in events.iter().enumerate() {
        assert_eq!((event.name(), n(event)), ("insert", Some(number as i64)));
        assert_eq!(event.json()["documentKey"]["_id"], key(number));
        let id = event.id.as_ref().expect("an id");
        assert!(id.len() <= MAX_ID, "{}", id.len());
        let names_document = Position::parse(id).unwrap().names_document();
        assert_eq!(names_document, number < 2, "the token itself as long as it is short");
    }
    push_out(&orders, &mut stream).await;
    expect_exact(&events, &[sidecar.listen, without_memory.listen]).await;
    sidecar.finish().await;
    without_memory.finish().await;
}

// The server cannot give such an event in any way, not even without its documents.
#[tokio::test]
async fn an_event_whose_key_is_too_large_for_a_message_is_a_reset() {
    let own = mongo::Own::start(mongo::Setup::default()).await;
    let filters = Filters::new(&[("orders", &filter("shop.orders", "project: { n: 1 }\n"))]);
    let client = own.client().await;
    let orders = collection(&client, "shop", "orders").await;
    let sidecar = sidecar::start(&own.uri(), &filters, &[SMALL_JOURNAL]).await;
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    let first = stream.settled().await;
    orders.insert_one(doc! { "_id": 0, "n": 0_i64 }).await.unwrap();
    assert_eq!(next(&mut stream).await, ("insert".to_string(), Some(0)));
    orders.insert_one(doc! { "_id": "k".repeat(6_000_000), "n": 1_i64 }).await.unwrap();
    let reset = stream.event().await;
    assert_eq!(reset.name(), "reset");
    assert_eq!(reset.json()["reason"], "history-lost");
    orders.insert_one(doc! { "_id": 2, "n": 2_i64 }).await.unwrap();
    assert_eq!(next(&mut stream).await, ("insert".to_string(), Some(2)));
    // The same when it is read from the oplog.
    let mut resumed = Stream::resume(sidecar.listen, "/_events/orders", &first).await;
    let mut told = Vec::new();
    while told.last().is_none_or(|(name, _)| name != "reset") {
        told.push(next(&mut resumed).await);
    }
    orders.insert_one(doc! { "_id": 3, "n": 3_i64 }).await.unwrap();
    while told.last() != Some(&("insert".to_string(), Some(3))) {
        told.push(next(&mut resumed).await);
    }
    sidecar.finish().await;
}
