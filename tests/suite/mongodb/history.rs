//! Positions that clients come back with: recent, old, lost, within a transaction, and none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use mongodb::bson::{Document, doc};
use sidestream::event::Position;

use super::sharing::cursors;
use super::{bson_ids, collection, expect, expect_reset, filter, foreign_token, id, insert};
use crate::support::mongo::{self, Own, Setup};
use crate::support::sidecar::{self, Filters};
use crate::support::sse::Stream;
use crate::support::unique;

const SMALL_JOURNAL: (&str, &str) = ("SIDESTREAM_REPLAY__MAX_BYTES", "64KiB");

async fn shared() -> mongodb::Client {
    mongodb::Client::with_uri_str(mongo::uri()).await.expect("a client")
}

#[tokio::test]
async fn old_positions_are_read_from_the_oplog_a_few_at_a_time() {
    let database = unique("old");
    let filters = Filters::new(&[("orders", &filter(&format!("{database}.orders")))]);
    let settings = [SMALL_JOURNAL, ("SIDESTREAM_REPLAY__MAX_CONCURRENT", "2")];
    let sidecar = sidecar::start(&mongo::uri(), &filters, &settings).await;
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    stream.settled().await;
    let client = shared().await;
    let orders = collection(&client, &database, "orders");
    let pad = "x".repeat(2000);
    let padded: Vec<Document> = (0..200).map(|id: i64| doc! { "_id": id, "pad": &pad }).collect();
    orders.insert_many(padded).await.unwrap();
    let events = stream.events(200).await;

    let mut streams = Vec::new();
    for event in &events[..20] {
        let at = event.id.as_deref().unwrap();
        let stream = Stream::resume(sidecar.listen, "/_events/orders", at).await;
        streams.push((id(event) + 1, stream));
    }
    for (next, stream) in &mut streams {
        expect(stream, *next..200).await;
    }
    insert(&orders, 200..202).await;
    for (_, stream) in &mut streams {
        expect(stream, 200..202).await;
    }
    let metric = "sidestream_replays_total{source=\"oplog\"}";
    assert_eq!(sidecar::metric(sidecar.admin, metric).await, 20.0);
    sidecar.finish().await;
}

// Where a replay meets the journal, and where "now" was, there may be an event of another collection,
// whose token would be none of this stream's if a client brought it.
#[tokio::test]
async fn a_replay_may_end_at_an_event_of_another_collection() {
    let database = unique("met");
    let filters = Filters::new(&[
        ("orders", &filter(&format!("{database}.orders"))),
        ("bills", &filter(&format!("{database}.bills"))),
    ]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[SMALL_JOURNAL]).await;
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    let first = stream.settled().await;
    let client = shared().await;
    let (orders, bills) =
        (collection(&client, &database, "orders"), collection(&client, &database, "bills"));
    insert(&orders, 0..50).await;
    expect(&mut stream, 0..50).await;
    let pad = "x".repeat(2000);
    let padded: Vec<Document> = (0..200).map(|id: i64| doc! { "_id": id, "pad": &pad }).collect();
    let mut other = Stream::open(sidecar.listen, "/_events/bills").await;
    other.settled().await;
    bills.insert_many(padded).await.unwrap();
    assert_eq!(other.events(200).await.len(), 200);

    let mut back = Stream::resume(sidecar.listen, "/_events/orders", &first).await;
    expect(&mut back, 0..50).await;
    insert(&orders, 50..52).await;
    for stream in [&mut stream, &mut back] {
        expect(stream, 50..52).await;
    }
    sidecar.finish().await;
}

#[tokio::test]
async fn a_position_within_a_transaction_is_exact() {
    let database = unique("transaction");
    let filters = Filters::new(&[("orders", &filter(&format!("{database}.orders")))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let without_memory = sidecar::start(&mongo::uri(), &filters, &[SMALL_JOURNAL]).await;
    let client = shared().await;
    client.database(&database).create_collection("orders").await.unwrap();
    let orders = collection(&client, &database, "orders");
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    stream.settled().await;

    let mut session = client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    // Enough for operation numbers of one byte and of two.
    for ids in [0..3, 3..200] {
        orders.insert_many(bson_ids(ids)).session(&mut session).await.unwrap();
    }
    session.commit_transaction().await.unwrap();
    let events = stream.events(200).await;
    let time = &events[0].json()["clusterTime"];
    assert!(events.iter().all(|event| event.json()["clusterTime"] == *time), "one transaction");

    // A quiet client's position is past all of it, and not one more.
    let last = events[199].id.clone().unwrap();
    while stream.last_event_id.as_ref() == Some(&last) {
        assert!(stream.block().await.unwrap().data.is_none());
    }
    let quiet = stream.last_event_id.clone().unwrap();
    assert!(quiet > last && !Position::parse(&quiet).unwrap().names_document());

    // So much that the small journal holds nothing of the transaction.
    let pad = "x".repeat(100_000);
    orders.insert_one(doc! { "_id": 200_i64, "pad": &pad }).await.unwrap();
    orders.insert_one(doc! { "_id": 201_i64, "pad": &pad }).await.unwrap();
    for listen in [sidecar.listen, without_memory.listen] {
        for at in [0, 1, 2, 126, 127, 128, 198, 199] {
            let token = events[at].id.clone().unwrap();
            let past = Position::parse(&token).unwrap().past_event().expect("a known form");
            for id in [token, past.to_string()] {
                let mut resumed = Stream::resume(listen, "/_events/orders", &id).await;
                expect(&mut resumed, at as i64 + 1..202).await;
            }
        }
        let mut resumed = Stream::resume(listen, "/_events/orders", &quiet).await;
        expect(&mut resumed, 200..202).await;
    }
    let metric = "sidestream_replays_total{source=\"oplog\"}";
    assert!(sidecar::metric(without_memory.admin, metric).await >= 16.0);
    assert_eq!(sidecar::metric(sidecar.admin, metric).await, 0.0);
    sidecar.finish().await;
    without_memory.finish().await;
}

#[tokio::test]
async fn a_position_that_the_oplog_no_longer_holds() {
    let own = Own::start(Setup { oplog_mib: 1, ..Setup::default() }).await;
    let filters = Filters::new(&[("orders", &filter("shop.orders"))]);
    let sidecar = sidecar::start(&own.uri(), &filters, &[SMALL_JOURNAL]).await;
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    stream.settled().await;
    let client = own.client().await;
    let orders = collection(&client, "shop", "orders");
    insert(&orders, 0..1).await;
    let old = stream.event().await.id.unwrap();
    let time = Position::parse(&old).unwrap().time();

    mongo::roll_oplog_past(&client, time).await;
    insert(&orders, 1..2).await;
    expect(&mut stream, 1..2).await;
    // The journal still has the event, and needs no oplog: push it out.
    let pad = "x".repeat(100_000);
    for id in 2..4_i64 {
        orders.insert_one(doc! { "_id": id, "pad": &pad }).await.unwrap();
    }
    expect(&mut stream, 2..4).await;
    let mut resumed = Stream::resume(sidecar.listen, "/_events/orders", &old).await;
    let reset = expect_reset(&mut resumed, "history-lost").await;
    assert!(reset.id.is_some(), "being cut off right after it costs nothing");
    insert(&orders, 4..6).await;
    expect(&mut resumed, 4..6).await;
    expect(&mut stream, 4..6).await;
    sidecar.finish().await;
}

#[tokio::test]
async fn an_id_that_is_none_of_this_deployment() {
    let database = unique("foreign");
    let filters = Filters::new(&[("orders", &filter(&format!("{database}.orders")))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let client = shared().await;
    let orders = collection(&client, &database, "orders");
    let mut live = Stream::open(sidecar.listen, "/_events/orders").await;
    live.settled().await;
    insert(&orders, 0..2).await;
    // A real token, of a collection that no stream reads.
    let other = collection(&client, &database, "other");
    let mut watched = client.database(&database).watch().await.unwrap();
    insert(&other, 0..1).await;
    insert(&orders, 2..3).await;
    let token = loop {
        if let Some(event) = watched.next_if_any().await.unwrap() {
            let token = mongodb::bson::serialize_to_document(&event.id).unwrap();
            break token.get_str("_data").unwrap().to_string();
        }
    };
    drop(watched);
    // All of it has been read.
    expect(&mut live, 0..3).await;

    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let now = u32::try_from(now).unwrap();
    let mut streams = Vec::new();
    for id in [
        "no-token",
        "82",
        &foreign_token(now),
        &foreign_token(now - 30),
        &foreign_token(now - 100_000),
        &foreign_token(now + 3_600),
        // Our own form, far ahead.
        &format!("82{:08X}00000001", now + 3_600),
        &token,
    ] {
        let mut stream = Stream::resume(sidecar.listen, "/_events/orders", id).await;
        expect_reset(&mut stream, "invalid-token").await;
        streams.push(stream);
    }
    insert(&orders, 3..5).await;
    for stream in &mut streams {
        expect(stream, 3..5).await;
    }
    sidecar.finish().await;
}

#[tokio::test]
async fn an_oplog_that_is_lost_for_one_client_and_a_server_that_stumbles() {
    let own = Own::start(Setup::default()).await;
    let filters = Filters::new(&[("orders", &filter("shop.orders"))]);
    let uri = format!("{}&appName=replaying", own.uri());
    let sidecar = sidecar::start(&uri, &filters, &[SMALL_JOURNAL]).await;
    let mut live = Stream::open(sidecar.listen, "/_events/orders").await;
    live.settled().await;
    let client = own.client().await;
    let orders = collection(&client, "shop", "orders");
    let pad = "x".repeat(100_000);
    for id in 0..3_i64 {
        orders.insert_one(doc! { "_id": id, "pad": &pad }).await.unwrap();
    }
    let first = live.event().await;
    assert_eq!(id(&first), 0);
    expect(&mut live, 1..3).await;
    let first = first.id.unwrap();

    let failing = |code: i32| {
        doc! { "failCommands": ["aggregate"], "errorCode": code, "appName": "replaying" }
    };
    own.fail_streams("shop", failing(286), 1).await;
    let mut lost = Stream::resume(sidecar.listen, "/_events/orders", &first).await;
    expect_reset(&mut lost, "history-lost").await;
    // Whatever happens once is not the token's fault.
    for code in [1, 11600, 6] {
        own.fail_streams("shop", failing(code), 1).await;
        let mut resumed = Stream::resume(sidecar.listen, "/_events/orders", &first).await;
        expect(&mut resumed, 1..3).await;
    }
    insert(&orders, 3..4).await;
    expect(&mut lost, 3..4).await;
    expect(&mut live, 3..4).await;
    sidecar.finish().await;
}

// Each with a position and values of its own, and some that do not read at all.
#[tokio::test]
async fn a_storm_of_old_positions_costs_two_cursors_and_waits_for_no_slow_client() {
    const EVENTS: i64 = 400;
    const BUCKETS: i64 = 40;
    let database = unique("storm");
    let namespace = format!("{database}.orders");
    let all = filter(&namespace);
    let bucket = format!(
        "{all}match: {{ bucket: {{ $param: bucket }} }}\nparams: {{ bucket: {{ type: long }} }}\n"
    );
    let filters = Filters::new(&[("all", &all), ("bucket", &bucket)]);
    let uri = format!("{}&appName={database}", mongo::uri());
    let settings = [("SIDESTREAM_REPLAY__MAX_BYTES", "512KiB")];
    let sidecar = sidecar::start(&uri, &filters, &settings).await;
    let mut live = Stream::open(sidecar.listen, "/_events/all").await;
    let first = live.settled().await;
    let client = shared().await;
    let orders = collection(&client, &database, "orders");
    let pad = "x".repeat(16_000);
    for from in (0..EVENTS).step_by(50) {
        let documents = (from..from + 50)
            .map(|id| doc! { "_id": id, "bucket": id % BUCKETS, "pad": &pad })
            .collect::<Vec<_>>();
        orders.insert_many(documents).await.unwrap();
    }
    let events = live.events(EVENTS as usize).await;

    // Of more than 6 MB, what the sockets' buffers do not hold has to wait for whoever does not read.
    let mut asleep = Vec::new();
    for _ in 0..5 {
        asleep.push(Stream::resume(sidecar.listen, "/_events/all", &first).await);
    }
    let (most, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let watching = tokio::spawn({
        let (client, app) = (client.clone(), database.clone());
        let (most, stop) = (most.clone(), stop.clone());
        async move {
            let mut before = 0;
            while !stop.load(Ordering::Relaxed) {
                // One that is just being closed is seen once.
                let now = cursors(&client, &app).await;
                most.fetch_max(now.min(before), Ordering::Relaxed);
                before = now;
            }
        }
    });
    let mut storm = Vec::new();
    for event in &events[..EVENTS as usize - 100] {
        let (at, id) = (id(event), event.id.clone().unwrap());
        let target = format!("/_events/bucket?bucket={}", at % BUCKETS);
        storm.push((at, Stream::resume(sidecar.listen, &target, &id).await));
    }
    for (at, stream) in &mut storm {
        for wanted in (*at + BUCKETS..EVENTS).step_by(BUCKETS as usize) {
            assert_eq!(id(&stream.event().await), wanted);
        }
    }
    stop.store(true, Ordering::Relaxed);
    watching.await.unwrap();
    let most = most.load(Ordering::Relaxed);
    assert!(most <= 3, "the live one, and at most two more: {most}");
    let metric = "sidestream_replays_total{source=\"oplog\"}";
    assert!(sidecar::metric(sidecar.admin, metric).await >= 200.0);
    // Live again, each of them.
    insert(&orders, EVENTS..EVENTS + 1).await;
    orders.insert_one(doc! { "_id": EVENTS + 1, "bucket": 7_i64 }).await.unwrap();
    for (_, stream) in storm.iter_mut().filter(|(at, _)| at % BUCKETS == 7) {
        assert_eq!(id(&stream.event().await), EVENTS + 1);
    }
    // Awake, they miss nothing.
    for stream in &mut asleep {
        expect(stream, 0..EVENTS + 2).await;
    }
    sidecar.finish().await;
}
