//! Streams, from a write in MongoDB to the bytes that a browser reads.

mod ids;

use mongodb::bson::{Document, doc};
use mongodb::{Client, Collection};
use serde_json::json;

use crate::support::sidecar::{self, Filters, metric};
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

/// As Java's HttpClient asks by default, and `curl --http2`.
#[tokio::test]
async fn an_upgrade_to_anything_but_a_websocket_is_passed_over() {
    let database = unique("h2c");
    let filters = Filters::new(&[("a", &filter(&format!("{database}.a"), ""))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let fields = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                  HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n";
    // A WebSocket among others is one only if its key is there.
    let both = "Connection: Upgrade\r\nUpgrade: h2c, websocket\r\n";
    let apart = "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n";
    for fields in [fields, both, apart] {
        let mut stream = Stream::open_with(sidecar.listen, "/_events/a", fields).await;
        assert!(stream.until_ready().await.is_empty());
    }
    for (upgrade, rest, status) in [
        ("websocket", "", 400),
        ("WebSocket", "", 400),
        ("h2c, websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", 101),
    ] {
        let mut connection = http::Connection::open(sidecar.listen).await;
        let request = format!(
            "GET /_events/a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\n\
             Sec-WebSocket-Version: 13\r\n{rest}\r\n"
        );
        connection.send(request).await;
        assert_eq!(connection.head().await.expect("a head").status, status, "{upgrade}");
    }
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
async fn a_client_that_lags_gets_everything_all_the_same() {
    const EVENTS: i64 = 300;
    let database = unique("slow");
    let filters = Filters::new(&[("a", &filter(&format!("{database}.a"), ""))]);
    let settings = [
        ("SIDESTREAM_CLIENTS__MAX_BUFFERED", "4"),
        ("SIDESTREAM_REPLAY__MAX_BYTES", "64KiB"),
        ("SIDESTREAM_CLIENTS__SEND_TIMEOUT", "10m"),
    ];
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
