use futures_util::StreamExt;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;

use super::ndjson::Lines;
use super::{filter, key};
use crate::support::mongo::{Own, Setup};
use crate::support::sidecar::{self, Filters};
use crate::support::sse::Stream;
use crate::support::{PATIENCE, http, until};

fn seconds(event: &Value) -> i64 {
    event["data"]["clusterTime"]["$timestamp"]["t"].as_i64().expect("a time")
}

/// For pages that know when their data was read.
#[tokio::test]
async fn a_stream_begins_at_a_time_or_so_long_ago() {
    // A server of its own: nothing has left its oplog.
    let own = Own::start(Setup::default()).await;
    let a = own.client().await.database("since").collection::<Document>("a");
    let filters = Filters::new(&[("a", &filter("since.a", ""))]);
    let sidecar = sidecar::start(&own.uri(), &filters, &[]).await;
    let mut witness = Lines::open(sidecar.listen, "/_events/a", "").await;
    assert_eq!(witness.event().await["event"], "ready");
    a.insert_one(doc! { "_id": 0_i64 }).await.unwrap();
    let beginning = seconds(&witness.event().await);
    a.insert_one(doc! { "_id": 1_i64 }).await.unwrap();
    let first = seconds(&witness.event().await);
    // The first one of a later second.
    let mut number = 2_i64;
    let later = loop {
        a.insert_one(doc! { "_id": number }).await.unwrap();
        let event = witness.event().await;
        number += 1;
        if seconds(&event) > first {
            break (key(&event), seconds(&event));
        }
    };
    let time = |seconds: i64| jiff::Timestamp::from_second(seconds).expect("a time").to_string();
    // Floored, and inclusive.
    let at = time(later.1).replace('Z', ".9Z");
    let mut stream = Lines::open(sidecar.listen, &format!("/_events/a?since={at}"), "").await;
    assert_eq!(key(&stream.event().await), later.0);
    let all = time(beginning);
    let mut stream = Lines::open(sidecar.listen, &format!("/_events/a?since={all}"), "").await;
    assert_eq!(key(&stream.event().await), 0);
    let mut stream = Lines::open(sidecar.listen, "/_events/a?since=1h", "").await;
    assert_eq!(key(&stream.event().await), 0);
    // An id wins.
    let id = stream.event().await["id"].as_str().expect("an id").to_string();
    let target = format!("/_events/a?since=1h&lastEventId={id}");
    let mut stream = Lines::open(sidecar.listen, &target, "").await;
    assert_eq!(key(&stream.event().await), 2);

    // So it is over every transport, and for each of several streams.
    let (mut socket, _) =
        connect_async(format!("ws://{}/_events/a?since={all}", sidecar.listen)).await.unwrap();
    let message = tokio::time::timeout(PATIENCE, socket.next()).await.expect("a message in time");
    let message = message.expect("a message").expect("a message");
    let first = serde_json::from_str::<Value>(message.to_text().expect("text")).expect("JSON");
    assert_eq!(key(&first), 0);
    let mut stream = Stream::open(sidecar.listen, &format!("/_events/a?since={all}")).await;
    assert_eq!(stream.event().await.json()["documentKey"]["_id"], 0);
    let several = format!("/_events?stream=a&stream=b:a&since={all}");
    let mut stream = Lines::open(sidecar.listen, &several, "").await;
    let mut begun = [stream.event().await, stream.event().await];
    begun.sort_by_key(|event| event["as"].is_string());
    assert!(begun.iter().all(|event| key(event) <= 1), "{begun:?}");
    // Who is cut off behind its first event has not lost the others' beginning.
    let mut stream = Lines::open(sidecar.listen, "/_events?stream=a&stream=b:a&since=1h", "").await;
    let first = stream.event().await;
    let id = first["id"].as_str().expect("an id");
    let rest = format!("/_events?stream=a&stream=b:a&lastEventId={id}");
    let mut stream = Lines::open(sidecar.listen, &rest, "").await;
    let other = loop {
        let event = stream.event().await;
        if event["as"] != first["as"] {
            break event;
        }
    };
    assert_eq!(
        (&other["event"], &other["data"]["documentKey"]["_id"]),
        (&json!("insert"), &json!(0))
    );
    // A poll without an id does not wait, whether anything has happened since or not.
    for (since, count) in [(&all, number), (&time(later.1 + 1), 0)] {
        for target in ["/_events/a?", "/_events?stream=a&"] {
            let mut target = format!("{target}transport=poll&wait=60s&since={since}");
            let mut seen = 0;
            loop {
                let answer = http::get(sidecar.listen, &target).await.json();
                seen += answer["events"].as_array().expect("events").len() as i64;
                if seen >= count {
                    break;
                }
                target += &format!("&lastEventId={}", answer["resume"].as_str().expect("an id"));
            }
            assert_eq!(seen, count, "{target}");
        }
    }

    for (since, status) in [("2100-01-01T00:00:00Z", 400), ("yesterday", 400), ("5", 400)] {
        let answer = http::get(sidecar.listen, &format!("/_events/a?since={since}")).await;
        assert_eq!(answer.head.status, status, "{since}");
        assert!(answer.json()["detail"].as_str().expect("a detail").contains("`since`"));
    }
    // It is of no stream by itself, which would otherwise begin now, and nobody would know.
    let answer = http::get(sidecar.listen, "/_events?stream=a&a.since=1h").await;
    assert_eq!(answer.head.status, 400);
    assert!(answer.json()["detail"].as_str().expect("a detail").starts_with("`a.since`: "));

    // The clock of who asks is a little ahead: it begins now, and misses nothing of what happens next.
    let ahead = time(jiff::Timestamp::now().as_second() + 20);
    let targets = ["/_events/a?", "/_events?stream=a&stream=b:a&"];
    let mut streams = Vec::new();
    for target in targets {
        let mut stream = Lines::open(sidecar.listen, &format!("{target}since={ahead}"), "").await;
        while stream.event().await["event"] != "ready" {}
        streams.push(stream);
    }
    a.insert_one(doc! { "_id": 1_000_000_i64 }).await.unwrap();
    for stream in &mut streams {
        while stream.event().await["data"]["documentKey"]["_id"] != 1_000_000 {}
    }
    sidecar.finish().await;
}

// Nothing has left this oplog, so MongoDB would read from any time. A page that knows a moment before the
// oplog's beginning has seen another deployment, and is told; an age asks for as much as there is.
#[tokio::test]
async fn what_was_before_the_oplog_began_is_lost() {
    let own = Own::start(Setup::default()).await;
    let filters = Filters::new(&[("a", &filter("since.a", ""))]);
    let a = own.client().await.database("since").collection::<Document>("a");
    let sidecar = sidecar::start(&own.uri(), &filters, &[]).await;
    let ready = Lines::open(sidecar.listen, "/_events/a", "").await.event().await;
    let id = ready["id"].as_str().expect("an id");
    a.insert_one(doc! { "_id": 0 }).await.unwrap();
    let mut stream = Lines::open(sidecar.listen, &format!("/_events/a?lastEventId={id}"), "").await;
    // It may have been opened before the event was read.
    let event = loop {
        let event = stream.event().await;
        if event["event"] != "ready" {
            break event;
        }
    };
    assert_eq!(key(&event), 0);

    let yesterday = seconds(&event) - 86_400;
    let time = jiff::Timestamp::from_second(yesterday).expect("a time");
    // The place of a quiet page, which shows no collection.
    let old = format!("82{yesterday:08X}{}", &id[10..]);
    for query in [format!("since={time}"), format!("lastEventId={old}")] {
        for target in [format!("/_events/a?{query}"), format!("/_events/a?transport=poll&{query}")]
        {
            let told = match target.contains("poll") {
                false => Lines::open(sidecar.listen, &target, "").await.event().await,
                true => http::get(sidecar.listen, &target).await.json()["events"][0].clone(),
            };
            assert_eq!(told["event"], "reset", "{target}: {told}");
            assert_eq!(told["data"]["reason"], "history-lost", "{target}");
        }
    }
    let mut stream = Lines::open(sidecar.listen, "/_events/a?since=24h", "").await;
    assert_eq!(key(&stream.event().await), 0);
    sidecar.finish().await;
}

#[tokio::test]
async fn ages_are_counted_from_what_was_read() {
    let own = Own::start(Setup::default()).await;
    let filters = Filters::new(&[("a", &filter("since.a", ""))]);
    let a = own.client().await.database("since").collection::<Document>("a");
    a.insert_one(doc! { "_id": 0 }).await.unwrap();
    // Open before anything was read: the age is counted when it was.
    let sidecar = sidecar::start_before(sidecar::nowhere(), &own.uri(), &filters, &[]).await;
    let mut early = None;
    until("the stream is there", || async {
        http::request(sidecar.listen, "HEAD", "/_events/a", "Accept: text/event-stream\r\n")
            .await
            .head
            .status
            == 200
    })
    .await;
    early.replace(Stream::open(sidecar.listen, "/_events/a?since=10m").await);
    let told = early.as_mut().expect("a stream").until_ready().await;
    assert_eq!(told.iter().map(|event| event.name()).collect::<Vec<_>>(), ["insert"]);
    sidecar.finish().await;
}
