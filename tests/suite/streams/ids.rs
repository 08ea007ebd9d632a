//! Ids: which a client holds from when on, and what it gets when it comes back with one.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use mongodb::bson::{Bson, doc};
use serde_json::json;

use super::{client, collection, filter, keys};
use crate::support::sidecar::{self, Filters, Program, metric};
use crate::support::sse::{Block, Stream};
use crate::support::{http, mongo, unique};

#[tokio::test]
async fn ids_are_the_resume_tokens_that_a_driver_shows() {
    let database = unique("tokens");
    let filters = Filters::new(&[("a", &filter(&format!("{database}.a"), ""))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut stream = Stream::open(sidecar.listen, "/_events/a").await;
    stream.settled().await;
    let a = collection(&database, "a").await;
    let mut watch = a.watch().await.unwrap();
    for number in 0..10 {
        a.insert_one(doc! { "_id": number }).await.unwrap();
    }
    for event in stream.events(10).await {
        let seen = watch.next().await.expect("an event").unwrap();
        let token = mongodb::bson::serialize_to_bson(&seen.id).unwrap();
        let token = token.as_document().unwrap().get_str("_data").unwrap().to_string();
        assert_eq!(event.id.as_deref(), Some(token.as_str()));
    }
    sidecar.finish().await;
}

/// What a client with this id is given before it is told that this was all it had missed.
async fn later(address: SocketAddr, id: &str) -> Vec<i64> {
    let mut stream = Stream::resume(address, "/_events/a", id).await;
    keys(&stream.until_ready().await)
}

#[tokio::test]
async fn any_id_gives_exactly_the_later_events_from_any_process() {
    const EVENTS: i64 = 20;
    let database = unique("resume");
    let filters = Filters::new(&[("a", &filter(&format!("{database}.a"), ""))]);
    let uri = mongo::uri();
    let dir = filters.path().display().to_string();
    let arguments = ["--mongodb", uri.as_str(), "--filters", dir.as_str()];
    let mut first = Program::start_ready(&arguments, &[]).await;
    let mut stream = Stream::open(first.listen, "/_events/a").await;
    stream.settled().await;
    let a = collection(&database, "a").await;
    for number in 0..EVENTS {
        a.insert_one(doc! { "_id": number }).await.unwrap();
    }
    let events = stream.events(EVENTS as usize).await;
    let ids: Vec<String> = events.iter().map(|event| event.id.clone().expect("an id")).collect();

    let second = Program::start_ready(&arguments, &[]).await;
    for address in [first.listen, second.listen] {
        for (position, id) in ids.iter().enumerate() {
            let expected: Vec<i64> = (position as i64 + 1..EVENTS).collect();
            assert_eq!(later(address, id).await, expected);
        }
    }
    first.signal(rustix::process::Signal::KILL);
    first.ended().await;
    let restarted = Program::start_ready(&arguments, &[]).await;
    for (position, id) in ids.iter().enumerate().step_by(5) {
        let expected: Vec<i64> = (position as i64 + 1..EVENTS).collect();
        assert_eq!(later(restarted.listen, id).await, expected);
    }
    // From memory: a restarted process has read the last minutes before it was ready.
    assert_eq!(metric(restarted.admin, "sidestream_replays_total{source=\"oplog\"}").await, 0.0);
}

// The server's own token has a part beside `_data` that says of which type a number in the key is;
// where that makes another value, it does not find the event by `_data` alone.
#[tokio::test]
async fn an_id_is_taken_whatever_numbers_the_key_holds() {
    let database = unique("numbers");
    let filters = Filters::new(&[("a", &filter(&format!("{database}.a"), ""))]);
    let first = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut stream = Stream::open(first.listen, "/_events/a").await;
    stream.settled().await;
    let a = collection(&database, "a").await;
    let decimal = |text: &str| Bson::Decimal128(text.parse().expect("a decimal"));
    let keys = [
        Bson::Int64(1),
        Bson::Int64((1 << 60) + 1),
        Bson::Double(0.1),
        decimal("0.1"),
        decimal("2.50"),
        Bson::Document(doc! { "shop": "a", "number": i64::MIN + 7 }),
        Bson::Int32(2),
    ];
    for key in &keys {
        a.insert_one(doc! { "_id": key, "much": "x".repeat(40_000) }).await.unwrap();
    }
    let mut events = stream.events(keys.len()).await;
    // The server ends the cursor with it, and all of this comes in one batch.
    client().await.database(&database).drop().await.unwrap();
    events.push(stream.event().await);

    let little = [("SIDESTREAM_REPLAY__MAX_BYTES", "64KiB")];
    let second = sidecar::start(&mongo::uri(), &filters, &little).await;
    for (position, event) in events.iter().enumerate() {
        let id = event.id.as_deref().expect("an id");
        let mut stream = Stream::resume(second.listen, "/_events/a", id).await;
        for later in &events[position + 1..] {
            assert_eq!(stream.event().await, *later, "after {:?}", keys.get(position));
        }
    }
    assert!(metric(second.admin, "sidestream_replays_total{source=\"oplog\"}").await >= 1.0);
    first.finish().await;
    second.finish().await;
}

#[tokio::test]
async fn the_id_comes_in_the_query_too_and_the_header_wins() {
    let database = unique("query");
    let filters = Filters::new(&[("a", &filter(&format!("{database}.a"), ""))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut stream = Stream::open(sidecar.listen, "/_events/a").await;
    stream.settled().await;
    let a = collection(&database, "a").await;
    for number in 0..3 {
        a.insert_one(doc! { "_id": number }).await.unwrap();
    }
    let events = stream.events(3).await;
    let id = |index: usize| events[index].id.clone().expect("an id");
    let in_query = format!("/_events/a?lastEventId={}", id(0));
    let mut resumed = Stream::open(sidecar.listen, &in_query).await;
    assert_eq!(keys(&resumed.events(2).await), [1, 2]);
    let mut resumed = Stream::resume(sidecar.listen, &in_query, &id(1)).await;
    assert_eq!(keys(&resumed.events(1).await), [2]);
    // An empty one says nothing.
    let mut resumed = Stream::resume(sidecar.listen, &in_query, "").await;
    assert_eq!(keys(&resumed.events(2).await), [1, 2]);
    sidecar.finish().await;
}

#[tokio::test]
async fn a_quiet_stream_moves_its_position_and_names_no_document() {
    let database = unique("quiet");
    let filters = Filters::new(&[
        ("quiet", &filter(&format!("{database}.quiet"), "")),
        ("busy", &filter(&format!("{database}.busy"), "")),
    ]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut stream = Stream::open(sidecar.listen, "/_events/quiet").await;
    let mut ids = vec![stream.settled().await];
    let busy = collection(&database, "busy").await;
    let mut number = 0;
    while ids.len() < 4 {
        busy.insert_one(doc! { "_id": number }).await.unwrap();
        number += 1;
        let Ok(block) = tokio::time::timeout(Duration::from_millis(50), stream.block()).await
        else {
            continue;
        };
        let block = block.expect("the stream goes on");
        assert!(block.data.is_none(), "{block:?}");
        ids.extend(block.id);
    }
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{ids:?}");
    for id in &ids {
        let position = sidestream::event::Position::parse(id).expect("a position");
        assert!(!position.names_document(), "{id}");
    }
    let quiet = collection(&database, "quiet").await;
    quiet.insert_one(doc! { "_id": 7 }).await.unwrap();
    assert_eq!(keys(&stream.events(1).await), [7]);
    for id in &ids {
        let mut resumed = Stream::resume(sidecar.listen, "/_events/quiet", id).await;
        assert_eq!(keys(&resumed.events(1).await), [7], "after {id}");
    }
    sidecar.finish().await;
}

/// A browser that is cut off before its first event has to come back with something.
#[tokio::test]
async fn a_client_holds_an_id_from_the_start_also_in_the_middle_of_writes() {
    let database = unique("first");
    let filters = Filters::new(&[
        ("a", &filter(&format!("{database}.a"), "")),
        ("busy", &filter(&format!("{database}.busy"), "")),
    ]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let (a, busy) = (collection(&database, "a").await, collection(&database, "busy").await);
    let mut witness = Stream::open(sidecar.listen, "/_events/busy").await;
    witness.settled().await;
    for number in 0..20 {
        busy.insert_one(doc! { "_id": number }).await.unwrap();
        // Now the newest thing that the sidecar has read is an event.
        witness.event().await;
        let mut stream = Stream::open(sidecar.listen, "/_events/a").await;
        assert!(stream.block().await.expect("a block").retry.is_some());
        let id = stream.block().await.expect("a block").id.expect("an id at once");
        assert!(!sidestream::event::Position::parse(&id).expect("a position").names_document());
        drop(stream);
        a.insert_one(doc! { "_id": number }).await.unwrap();
        let mut resumed = Stream::resume(sidecar.listen, "/_events/a", &id).await;
        assert_eq!(keys(&resumed.events(1).await), [number]);
    }
    sidecar.finish().await;
}

/// The moment for a page to load its data, and an id also for one that hears nothing else.
#[tokio::test]
async fn ready_comes_once_after_what_was_missed() {
    let database = unique("ready");
    let filters = Filters::new(&[("a", &filter(&format!("{database}.a"), ""))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let a = collection(&database, "a").await;
    let mut stream = Stream::open(sidecar.listen, "/_events/a").await;
    assert!(stream.until_ready().await.is_empty());
    let first = stream.last_event_id.clone().expect("an id with it");
    assert!(!sidestream::event::Position::parse(&first).expect("a position").names_document());
    for number in 0..5 {
        a.insert_one(doc! { "_id": number }).await.unwrap();
    }
    assert_eq!(keys(&stream.events(5).await), [0, 1, 2, 3, 4]);

    let mut resumed = Stream::resume(sidecar.listen, "/_events/a", &first).await;
    assert_eq!(keys(&resumed.until_ready().await), [0, 1, 2, 3, 4]);
    let last = resumed.last_event_id.clone().expect("an id with it");
    let mut again = Stream::resume(sidecar.listen, "/_events/a", &last).await;
    assert!(again.until_ready().await.is_empty());
    let mut invalid = Stream::resume(sidecar.listen, "/_events/a", "nonsense").await;
    let before: Vec<_> = invalid.until_ready().await.iter().map(Block::json).collect();
    assert_eq!(before, [json!({ "reason": "invalid-token" })]);
    // From the oplog it comes behind everything, too.
    let little = [("SIDESTREAM_REPLAY__MAX_BYTES", "1KiB"), ("SIDESTREAM_REPLAY__WINDOW", "1s")];
    let other = sidecar::start(&mongo::uri(), &filters, &little).await;
    let mut resumed = Stream::resume(other.listen, "/_events/a", &first).await;
    assert_eq!(keys(&resumed.until_ready().await), [0, 1, 2, 3, 4]);

    // An edit of the file resets the stream, which is open all the time.
    filters.write("a", &filter(&format!("{database}.a"), "operations: [insert, delete]\n"));
    let mut told = Vec::new();
    while told.last().is_none_or(|name| name != "insert") {
        let block = stream.block().await.expect("the stream goes on");
        if block.name() == "reset" {
            a.insert_one(doc! { "_id": 9 }).await.unwrap();
        }
        told.extend(block.event);
    }
    assert_eq!(told, ["reset", "insert"]);
    sidecar.finish().await;
    other.finish().await;
}

#[tokio::test]
async fn positions_come_as_events_to_who_asks_for_them() {
    let database = unique("positions");
    let filters = Filters::new(&[
        ("quiet", &filter(&format!("{database}.quiet"), "")),
        ("busy", &filter(&format!("{database}.busy"), "")),
    ]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut stream = Stream::open(sidecar.listen, "/_events/quiet?heartbeat=event").await;
    stream.until_ready().await;
    let first = stream.last_event_id.clone().expect("an id");
    collection(&database, "busy").await.insert_one(doc! { "_id": 1 }).await.unwrap();
    let position = stream.event().await;
    assert_eq!((position.name(), position.json()), ("position", json!({})));
    assert!(position.id.expect("an id") > first);
    let refused = http::get(sidecar.listen, "/_events/quiet?heartbeat=loud").await;
    assert_eq!(refused.head.status, 400);
    assert!(refused.json()["detail"].as_str().unwrap().contains("`heartbeat`"));
    sidecar.finish().await;
}

#[tokio::test]
async fn an_id_that_is_none_resets_the_client_and_the_stream_goes_on() {
    let database = unique("invalid");
    let filters = Filters::new(&[("a", &filter(&format!("{database}.a"), ""))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let a = collection(&database, "a").await;
    for (index, id) in
        ["nonsense", "82", "1234567890", "82zz", "8266F3AAAA0000000"].iter().enumerate()
    {
        let mut stream = Stream::resume(sidecar.listen, "/_events/a", id).await;
        let reset = stream.event().await;
        assert_eq!((reset.name(), reset.json()), ("reset", json!({ "reason": "invalid-token" })));
        stream.settled().await;
        a.insert_one(doc! { "_id": index as i64 }).await.unwrap();
        assert_eq!(keys(&stream.events(1).await), [index as i64]);
    }
    sidecar.finish().await;
}
