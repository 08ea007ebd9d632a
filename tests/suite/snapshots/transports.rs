//! The same over the other transports, and several streams on one connection.

use std::time::Duration;

use futures_util::StreamExt;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mongodb::bson::doc;
use serde_json::{Value, json};
use sidestream::event::Position;
use tokio_tungstenite::connect_async;

use super::{Page, client, fill, filter, hold_find, orders};
use crate::support::http::{self, Connection};
use crate::support::sidecar::{self, Filters};
use crate::support::sse::Stream;
use crate::support::{PATIENCE, mongo, unique};

fn is_whole(envelopes: &[Value], documents: usize) {
    let names: Vec<&str> = envelopes.iter().map(|it| it["event"].as_str().unwrap()).collect();
    let mut expected = vec!["document"; documents + 2];
    expected[0] = "snapshot";
    expected[documents + 1] = "ready";
    assert_eq!(names, expected);
    assert_eq!(envelopes[0]["data"], json!({ "reason": "new" }));
    assert_eq!(envelopes[documents + 1]["data"], json!({ "documents": documents }));
    let has_id = |envelope: &&Value| envelope.get("id").is_some();
    assert_eq!(envelopes.iter().filter(has_id).count(), 1);
    assert!(envelopes.last().is_some_and(|ready| has_id(&ready)));
}

#[tokio::test]
async fn every_transport_gives_the_same() {
    let database = unique("transports");
    let client = client().await;
    let orders = orders(&client, &database).await;
    let pad = "x".repeat(30_000);
    for id in 0..60_i64 {
        orders.insert_one(doc! { "_id": id, "n": id, "pad": &pad }).await.unwrap();
    }
    let filters = Filters::new(&[("orders", &filter(&database, "")), ("plain", "")]);
    let plain = format!("collection: {database}.orders\naccess: public\n");
    filters.write("plain", &plain);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;

    // More than goes into one answer otherwise.
    let poll = http::get(sidecar.listen, "/_events/orders?transport=poll").await.json();
    let envelopes = poll["events"].as_array().unwrap();
    is_whole(envelopes, 60);
    assert_eq!(envelopes[61]["id"], poll["resume"]);
    let next =
        format!("/_events/orders?transport=poll&lastEventId={}", poll["resume"].as_str().unwrap());
    let waiting = http::get(sidecar.listen, &next);
    let (later, _) = tokio::join!(waiting, orders.insert_one(doc! { "_id": 99_i64 }));
    assert_eq!(later.json()["events"][0]["event"], "insert");
    let none = http::get(sidecar.listen, &format!("{next}&wait=0s")).await;
    assert!(none.json()["events"].as_array().unwrap().len() <= 1);

    let mut connection = Connection::open(sidecar.listen).await;
    connection.send("GET /_events/orders?transport=ndjson HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(connection.head().await.unwrap().status, 200);
    let (mut text, mut lines) = (String::new(), Vec::new());
    while lines.last().is_none_or(|last: &Value| last["event"] != "ready") {
        text.push_str(std::str::from_utf8(&connection.chunk().await.unwrap()).unwrap());
        while let Some(end) = text.find('\n') {
            let line: Value = serde_json::from_str(&text[..end]).unwrap();
            text.drain(..=end);
            lines.extend(line.get("event").is_some().then_some(line));
        }
    }
    // It is given what was read before, and what came since.
    is_whole(&lines, 60);

    let url = format!("ws://{}/_events/orders", sidecar.listen);
    let (mut socket, _) = connect_async(url).await.unwrap();
    let mut messages = Vec::new();
    while messages.last().is_none_or(|last: &Value| last["event"] != "ready") {
        let message =
            tokio::time::timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap();
        let Ok(text) = message.to_text() else { continue };
        let message = serde_json::from_str::<Value>(text).unwrap_or_default();
        messages.extend(message.get("event").is_some().then_some(message));
    }
    is_whole(&messages, 60);

    let list = http::get(sidecar.listen, "/_events").await.json();
    let flags: Vec<&Value> =
        list["streams"].as_array().unwrap().iter().map(|stream| &stream["snapshot"]).collect();
    assert_eq!(flags, [&json!(true), &json!(false)]);
    let described = http::get(sidecar.listen, "/_events/asyncapi.json").await.json();
    let messages = |stream: &str| {
        let messages = described["channels"][stream]["messages"].as_object().unwrap();
        ["snapshot", "document", "reset"].map(|name| messages.contains_key(name))
    };
    assert_eq!(messages("orders"), [true, true, false]);
    assert_eq!(messages("plain"), [false, false, true]);
    sidecar.finish().await;
}

// A snapshot is shared for as long as the changes since then are in memory. A stream is sent those behind it;
// who polls once must not be left with what was there minutes ago.
#[tokio::test]
async fn a_poll_shows_what_is_there_now() {
    let database = unique("poll-now");
    let client = client().await;
    let orders = orders(&client, &database).await;
    fill(&orders, 0..3).await;
    let plain = format!("collection: {database}.orders\naccess: public\n");
    let filters = Filters::new(&[("orders", &filter(&database, "")), ("plain", &plain)]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let polls = ["/_events/orders?transport=poll", "/_events?stream=orders&transport=poll"];
    is_whole(http::get(sidecar.listen, polls[0]).await.json()["events"].as_array().unwrap(), 3);
    // The sidecar has read it: another stream was sent it. Nobody listens to this one.
    let mut beside = Stream::open(sidecar.listen, "/_events/plain").await;
    beside.settled().await;
    fill(&orders, 3..4).await;
    orders.delete_one(doc! { "_id": 0_i64 }).await.unwrap();
    assert_eq!([beside.event().await.name(), beside.event().await.name()], ["insert", "delete"]);
    for target in polls {
        let poll = http::get(sidecar.listen, target).await.json();
        let envelopes = poll["events"].as_array().unwrap();
        is_whole(&envelopes[..5], 3);
        let names: Vec<&Value> = envelopes[5..].iter().map(|it| &it["event"]).collect();
        assert_eq!(names, ["insert", "delete"], "{target}");
        let resume = poll["resume"].as_str().unwrap();
        let next = format!("{target}&wait=0&lastEventId={resume}");
        assert_eq!(http::get(sidecar.listen, &next).await.json()["events"], json!([]));
    }
    sidecar.finish().await;
}

#[tokio::test]
async fn an_id_of_several_holds_no_stream_whose_snapshot_is_incomplete() {
    let own = mongo::Own::start(mongo::Setup::default()).await;
    let client = own.client().await;
    let database = unique("several");
    let orders = orders(&client, &database).await;
    fill(&orders, 0..3).await;
    let plain = format!("collection: {database}.orders\naccess: public\n");
    let filters = Filters::new(&[("orders", &filter(&database, "")), ("plain", &plain)]);
    let uri = format!("{}&appName=several", own.uri());
    let sidecar = sidecar::start(&uri, &filters, &[]).await;
    hold_find(&own, "several", Duration::from_millis(1_500)).await;
    let target = "/_events?stream=orders&stream=plain";
    let mut stream = Stream::open(sidecar.listen, target).await;
    stream.settled().await;
    orders.insert_one(doc! { "_id": 3_i64 }).await.unwrap();
    let event = stream.event().await;
    assert_eq!((event.name(), &event.json()["stream"]), ("insert", &json!("plain")));
    let id = event.id.clone().expect("an id");
    drop(stream);

    let mut again = Stream::resume(sidecar.listen, target, &id).await;
    let mut blocks = Vec::new();
    while blocks.len() < 7 {
        let block = again.block().await.expect("it goes on");
        if block.data.is_some() {
            blocks.push((block.json()["stream"].clone(), block.name().to_string()));
        }
    }
    let of = |stream: &str| -> Vec<&str> {
        let of_stream = blocks.iter().filter(|(name, _)| name == stream);
        of_stream.map(|(_, event)| event.as_str()).collect()
    };
    assert_eq!(of("plain"), ["ready"], "nothing twice");
    assert_eq!(of("orders"), ["snapshot", "document", "document", "document", "document", "ready"]);

    // From then on, it holds both.
    let id = again.last_event_id.clone().expect("an id");
    let mut third = Stream::resume(sidecar.listen, target, &id).await;
    let mut names = Vec::new();
    while names.len() < 2 {
        let block = third.block().await.expect("it goes on");
        names.extend(block.data.is_some().then(|| block.name().to_string()));
    }
    assert_eq!(names, ["ready", "ready"]);
    let mut page = Page::open(sidecar.listen, "/_events/orders").await;
    page.complete(1).await;
    assert_eq!(page.ids(), super::up_to(4));
    sidecar.finish().await;
}

#[tokio::test]
async fn http2_gives_the_same() {
    let database = unique("snapshot2");
    let client = client().await;
    let orders = orders(&client, &database).await;
    fill(&orders, 0..200).await;
    let filters = Filters::new(&[("orders", &filter(&database, ""))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let socket = tokio::net::TcpStream::connect(sidecar.listen).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
            .await
            .unwrap();
    tokio::spawn(connection);
    // Up to the block that ends so.
    let ask = async |id: &str, end: &str| {
        let request = Request::get(format!("http://{}/_events/orders", sidecar.listen))
            .header("accept", "text/event-stream")
            .header("last-event-id", id)
            .body(Empty::<Bytes>::new());
        let answer = sender.clone().send_request(request.unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200);
        let (mut body, mut text) = (answer.into_body(), String::new());
        let reading = async {
            while !(text.contains(end) && text.ends_with("\n\n")) {
                let frame = body.frame().await.expect("the stream goes on").expect("a frame");
                text.push_str(std::str::from_utf8(&frame.into_data().expect("data")).unwrap());
            }
        };
        let read = tokio::time::timeout(PATIENCE, reading).await;
        assert!(read.is_ok(), "{text}");
        let last = text.rsplit("\nid: ").next().unwrap_or_default().trim_end().to_string();
        (text, last)
    };
    let ready = "event: ready\ndata: {\"documents\":200}\nid: ";
    let (text, id) = ask("", ready).await;
    assert!(text.contains("event: snapshot\ndata: {\"reason\":\"new\"}\n\nevent: document\n"));
    assert_eq!(text.matches("event: document\ndata: {").count(), 200);
    assert_eq!(text.matches("\nid:").count(), 1, "none before `ready`");
    for number in 0..200 {
        assert!(text.contains(&format!("\"fullDocument\":{{\"_id\":{number},")), "{number}");
    }
    orders.delete_one(doc! { "_id": 7_i64 }).await.unwrap();
    let (text, _) = ask(&id, "event: ready\ndata: {}\nid: ").await;
    assert!(text.contains("event: delete\n") && !text.contains("event: snapshot"), "{text}");
    let (text, _) = ask("no token", "event: ready\ndata: {\"documents\":").await;
    let head = "event: snapshot\ndata: {\"reason\":\"invalid-token\"}\n\nevent: document\n";
    assert!(text.contains(head), "{text}");
    drop(sender);
    sidecar.finish().await;
}

#[tokio::test]
async fn sealed_ids_are_those_of_ready_and_of_what_follows() {
    let database = unique("sealed-snapshot");
    let client = client().await;
    let orders = orders(&client, &database).await;
    fill(&orders, 0..3).await;
    let filters = Filters::new(&[("orders", &filter(&database, ""))]);
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("keys");
    std::fs::write(&keys, "0123456789abcdef".repeat(4)).unwrap();
    let keys = keys.display().to_string();
    let sealed = [("SIDESTREAM_IDS__MODE", "sealed"), ("SIDESTREAM_IDS__KEYS_FILE", &*keys)];
    let sidecar = sidecar::start(&mongo::uri(), &filters, &sealed).await;
    let mut page = Page::open(sidecar.listen, "/_events/orders").await;
    page.complete(1).await;
    let of_ready = page.stream.last_event_id.clone().expect("an id");
    fill(&orders, 3..4).await;
    page.until("the change", |page| page.ids() == super::up_to(4)).await;
    let of_change = page.stream.last_event_id.clone().expect("an id");
    // Each means its own place: what comes after it, and no snapshot.
    for (id, missed) in [(&of_ready, 1), (&of_change, 0)] {
        assert!(Position::parse(id).is_err(), "{id}");
        let mut again = Stream::resume(sidecar.listen, "/_events/orders", id).await;
        assert_eq!(again.until_ready().await.len(), missed);
    }
    let token = "82000000010000000100";
    let mut refused = Page::of(Stream::resume(sidecar.listen, "/_events/orders", token).await);
    refused.complete(1).await;
    assert_eq!(refused.last_reason(), "invalid-token");
    // It may be the snapshot of before, and the change behind it.
    refused.until("all documents", |page| page.ids() == super::up_to(4)).await;
    sidecar.finish().await;
}
