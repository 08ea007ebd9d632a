//! Streams, from a write in MongoDB to the bytes that a browser reads.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use mongodb::bson::{Bson, Document, doc};
use mongodb::{Client, Collection};
use serde_json::json;

use crate::support::sidecar::{self, Filters, Program, metric};
use crate::support::sse::{Block, Stream};
use crate::support::{http, mongo, unique, until};

fn filter(collection: &str, rest: &str) -> String {
    format!("collection: {collection}\naccess: public\n{rest}")
}

async fn client() -> Client {
    Client::with_uri_str(mongo::uri()).await.expect("a client")
}

async fn collection(database: &str, name: &str) -> Collection<Document> {
    client().await.database(database).collection(name)
}

/// The `_id`s of the documents that events are about.
fn keys(events: &[Block]) -> Vec<i64> {
    events.iter().map(|event| event.json()["documentKey"]["_id"].as_i64().expect("an id")).collect()
}

#[tokio::test]
async fn a_change_reaches_a_client_as_the_contract_says() {
    let database = unique("live");
    let filters = Filters::new(&[("orders", &filter(&format!("{database}.orders"), ""))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    let first = stream.block().await.expect("a block");
    assert!((2000..=2500).contains(&first.retry.expect("a retry")), "{first:?}");
    stream.settled().await;

    let orders = collection(&database, "orders").await;
    // What some readers take for the end of a line is escaped.
    let note = "two\nlines\u{85}\u{2028}\u{2029}";
    orders.insert_one(doc! { "_id": 1, "total": 5, "note": note }).await.unwrap();
    orders.update_one(doc! { "_id": 1 }, doc! { "$set": { "total": 6 } }).await.unwrap();
    orders.replace_one(doc! { "_id": 1 }, doc! { "total": 7 }).await.unwrap();
    orders.delete_one(doc! { "_id": 1 }).await.unwrap();
    let events = stream.events(4).await;
    let names: Vec<&str> = events.iter().map(Block::name).collect();
    assert_eq!(names, ["insert", "update", "replace", "delete"]);
    let insert = events[0].json();
    assert_eq!(insert["fullDocument"], json!({ "_id": 1, "total": 5, "note": note }));
    let text = events[0].data.as_deref().expect("data");
    assert!(text.contains(r"two\nlines\u0085\u2028\u2029"), "{text}");
    assert_eq!(insert["ns"], json!({ "db": database, "coll": "orders" }));
    assert_eq!(insert["operationType"], "insert");
    assert!(insert["clusterTime"]["$timestamp"]["t"].is_u64());
    assert!(insert["wallTime"]["$date"].is_string());
    assert!(insert.get("_id").is_none() && insert.get("lsid").is_none());
    assert_eq!(events[1].json()["updateDescription"]["updatedFields"], json!({ "total": 6 }));
    assert_eq!(events[3].json()["documentKey"], json!({ "_id": 1 }));
    assert!(events.windows(2).all(|pair| pair[0].id < pair[1].id), "ids rise");
    sidecar.finish().await;
}

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

/// As Java's HttpClient asks by default, and `curl --http2`.
#[tokio::test]
async fn an_upgrade_to_anything_but_a_websocket_is_passed_over() {
    let database = unique("h2c");
    let filters = Filters::new(&[("a", &filter(&format!("{database}.a"), ""))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let fields = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                  HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n";
    let mut stream = Stream::open_with(sidecar.listen, "/_events/a", fields).await;
    assert!(stream.until_ready().await.is_empty());
    sidecar.finish().await;
}

#[tokio::test]
async fn filters_choose_documents_fields_and_operations() {
    let database = unique("filters");
    let collection_name = format!("{database}.orders");
    let filters = Filters::new(&[
        (
            "mine",
            &filter(
                &collection_name,
                "match:\n  status: { $param: status }\n  total: { $gte: 10 }\nparams:\n  \
                 status: { type: string, enum: [new, paid], required: false }\n",
            ),
        ),
        ("fields", &filter(&collection_name, "project: { status: 1, lines.sku: 1 }\n")),
        ("inserts", &filter(&collection_name, "operations: [insert]\n")),
        ("all", &filter(&format!("{database}.*"), "")),
    ]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut streams = Vec::new();
    for target in ["mine", "mine?status=paid", "fields", "inserts", "all"] {
        let mut stream = Stream::open(sidecar.listen, &format!("/_events/{target}")).await;
        stream.settled().await;
        streams.push(stream);
    }
    let orders = collection(&database, "orders").await;
    let line = doc! { "sku": "x", "price": 3 };
    for (id, status, total) in [(1, "new", 50), (2, "paid", 5), (3, "paid", 10)] {
        let order = doc! { "_id": id, "status": status, "total": total, "lines": [line.clone()] };
        orders.insert_one(order).await.unwrap();
    }
    let set = doc! { "$set": { "total": 1, "lines.0.price": 4, "lines.0.sku": "y" } };
    orders.update_one(doc! { "_id": 3 }, set).await.unwrap();
    collection(&database, "other").await.insert_one(doc! { "_id": 9 }).await.unwrap();

    let [mine, paid, fields, inserts, all] = &mut streams[..] else { unreachable!("five") };
    assert_eq!(keys(&mine.events(2).await), [1, 3]);
    assert_eq!(keys(&paid.events(1).await), [3]);
    let shown = fields.events(4).await;
    assert_eq!(
        shown[0].json()["fullDocument"],
        json!({ "_id": 1, "status": "new", "lines": [{ "sku": "x" }] })
    );
    let changed = shown[3].json()["updateDescription"]["updatedFields"].clone();
    assert_eq!(changed, json!({ "lines.0.sku": "y" }));
    assert_eq!(keys(&inserts.events(3).await), [1, 2, 3]);
    assert_eq!(keys(&all.events(5).await), [1, 2, 3, 3, 9]);
    let client = mongodb::Client::with_uri_str(mongo::uri()).await.unwrap();
    let now = mongo::now(&client).await;
    for quiet in [mine, paid, inserts] {
        assert!(quiet.is_quiet_up_to(now).await);
    }
    sidecar.finish().await;
}

#[tokio::test]
async fn before_images_tell_how_the_view_moves() {
    let database = unique("view");
    let client = client().await;
    client
        .database(&database)
        .create_collection("tasks")
        .change_stream_pre_and_post_images(
            mongodb::options::ChangeStreamPreAndPostImages::builder().enabled(true).build(),
        )
        .await
        .unwrap();
    // Looked up later, an update would show what came after it.
    let rest = "match: { open: true }\nfullDocument: whenAvailable\n\
                fullDocumentBeforeChange: whenAvailable\n";
    let filters = Filters::new(&[("open", &filter(&format!("{database}.tasks"), rest))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut stream = Stream::open(sidecar.listen, "/_events/open").await;
    stream.settled().await;
    let tasks = client.database(&database).collection::<Document>("tasks");
    let set = |open: bool, n: i32| doc! { "$set": { "open": open, "n": n } };
    tasks.insert_one(doc! { "_id": 1, "open": false }).await.unwrap();
    for (open, n) in [(true, 1), (true, 2), (false, 3), (false, 4), (true, 5)] {
        tasks.update_one(doc! { "_id": 1 }, set(open, n)).await.unwrap();
    }
    tasks.delete_one(doc! { "_id": 1 }).await.unwrap();
    let events: Vec<_> = stream.events(5).await.iter().map(Block::json).collect();
    let views: Vec<&str> = events.iter().map(|event| event["view"].as_str().unwrap()).collect();
    assert_eq!(views, ["enter", "stay", "leave", "enter", "leave"]);
    // What does not match the filter is not shown.
    assert!(
        events[2].get("fullDocument").is_none() && events[2].get("updateDescription").is_none()
    );
    assert_eq!(events[2]["fullDocumentBeforeChange"]["n"], 2);
    assert!(events[3].get("fullDocumentBeforeChange").is_none());
    assert_eq!(events[4]["operationType"], "delete");
    sidecar.finish().await;
}

#[tokio::test]
async fn refusals_are_problems_that_name_what_is_wrong() {
    let database = unique("refusals");
    let rest = "match: { n: { $param: n } }\nparams: { n: { type: int } }\n";
    let filters = Filters::new(&[("a", &filter(&format!("{database}.a"), rest))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let sse = "Accept: text/event-stream\r\n";
    for (method, target, fields, status, names) in [
        ("GET", "/_events/nothing", sse, 404, "nothing"),
        ("GET", "/_events/a", sse, 400, "`n`"),
        ("GET", "/_events/a?n=x", sse, 400, "`n`"),
        ("GET", "/_events/a?n=1&n=2", sse, 400, "`n`"),
        ("GET", "/_events/a?n[$ne]=1", sse, 400, "n["),
        ("GET", "/_events/a?n=1&m=2", sse, 400, "`m`"),
        ("GET", "/_events/a?n=1", "Accept: text/html\r\n", 406, "text/event-stream"),
        ("POST", "/_events/a?n=1", sse, 405, "GET"),
        ("GET", "/_events/a?n=1", "Origin: http://elsewhere.example\r\n", 403, "origin"),
        ("GET", "/_events/a?n=1", "Sec-Fetch-Site: cross-site\r\n", 403, "origin"),
        ("GET", "/_events/%2e%2e/x", sse, 400, "path"),
    ] {
        let answer = http::request(sidecar.listen, method, target, fields).await;
        assert_eq!(answer.head.status, status, "{method} {target}: {}", answer.text());
        assert_eq!(answer.head.field("content-type"), Some("application/problem+json"));
        // The ambiguous path is refused before it is known to be the reserved one.
        let vary = (names != "path").then_some("Accept");
        assert_eq!(answer.head.field("vary"), vary, "{method} {target}");
        let problem = answer.json();
        assert_eq!(problem["status"], status);
        let detail = problem["detail"].as_str().expect("a detail");
        assert!(detail.contains(names), "{target}: {detail}");
    }
    let list = http::get(sidecar.listen, "/_events").await.json();
    assert_eq!(list["streams"][0]["name"], "a");
    assert_eq!(list["streams"][0]["params"]["n"]["type"], "int");
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

#[tokio::test]
async fn a_client_that_lags_gets_everything_all_the_same() {
    const EVENTS: i64 = 300;
    let database = unique("slow");
    let filters = Filters::new(&[("a", &filter(&format!("{database}.a"), ""))]);
    let settings =
        [("SIDESTREAM_CLIENTS__MAX_BUFFERED", "4"), ("SIDESTREAM_REPLAY__MAX_BYTES", "64KiB")];
    let sidecar = sidecar::start(&mongo::uri(), &filters, &settings).await;
    let mut slow = Stream::open(sidecar.listen, "/_events/a").await;
    slow.settled().await;
    let a = collection(&database, "a").await;
    // Far more than the sockets' buffers, the route and the journal hold together.
    let filler = "x".repeat(64 * 1024);
    for number in 0..EVENTS {
        a.insert_one(doc! { "_id": number, "filler": &filler }).await.unwrap();
    }
    let events = slow.events(EVENTS as usize).await;
    assert_eq!(keys(&events), (0..EVENTS).collect::<Vec<_>>());
    assert!(metric(sidecar.admin, "sidestream_slow_clients_total").await >= 1.0);
    assert!(metric(sidecar.admin, "sidestream_replays_total{source=\"oplog\"}").await >= 1.0);
    sidecar.finish().await;
}

#[tokio::test]
async fn open_streams_are_limited_in_all_and_by_address() {
    let database = unique("limits");
    let filters = Filters::new(&[("a", &filter(&format!("{database}.a"), ""))]);
    for (setting, names) in [
        ("SIDESTREAM_CLIENTS__MAX_CONNECTIONS", "in total"),
        ("SIDESTREAM_CLIENTS__MAX_CONNECTIONS_PER_ADDRESS", "address"),
    ] {
        let sidecar = sidecar::start(&mongo::uri(), &filters, &[(setting, "2")]).await;
        let mut open = Vec::new();
        for _ in 0..2 {
            open.push(Stream::open(sidecar.listen, "/_events/a").await);
        }
        let refused = http::get(sidecar.listen, "/_events/a").await;
        assert_eq!(refused.head.status, 429);
        assert!(refused.head.field("retry-after").is_some());
        assert!(refused.json()["detail"].as_str().unwrap().contains(names));
        // A browser would take that for the last answer.
        let sse = "Accept: text/event-stream\r\n";
        let told = http::request(sidecar.listen, "GET", "/_events/a", sse).await;
        assert_eq!(told.head.status, 200);
        let after = told.head.field("retry-after").and_then(|after| after.parse().ok());
        assert!((30..=120).contains(&after.expect("seconds")), "{after:?}");
        let text = told.text();
        assert!(text.starts_with("retry: ") && text.contains(names), "{text}");
        let limit = setting.rsplit("__").next().expect("a name").to_ascii_lowercase();
        let limit = limit.trim_start_matches("max_connections").trim_start_matches("_per_");
        let limit = if limit.is_empty() { "connections" } else { limit };
        let counted = format!("sidestream_refused_total{{limit=\"{limit}\"}}");
        assert_eq!(metric(sidecar.admin, &counted).await, 2.0);
        open.pop();
        until("the place is free again", || async {
            http::request(sidecar.listen, "HEAD", "/_events/a", "").await.head.status == 200
        })
        .await;
        sidecar.finish().await;
    }
}
