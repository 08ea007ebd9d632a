//! One change stream cursor, whatever the number of clients and filters.

use mongodb::Client;
use mongodb::bson::{Document, doc};

use super::{collection, expect, filter, insert};
use crate::support::process::memory_of;
use crate::support::sidecar::{self, Filters, Program};
use crate::support::sse::{Block, Stream};
use crate::support::{http, mongo, unique, until};

/// The change streams that clients of this name have open on the server.
pub(super) async fn cursors(client: &Client, app: &str) -> usize {
    let pipeline = [
        doc! { "$currentOp": { "allUsers": true, "idleCursors": true } },
        doc! { "$match": {
            "$or": [{ "appName": app }, { "clientMetadata.application.name": app }],
            "cursor.originatingCommand.pipeline.0.$changeStream": { "$exists": true },
        } },
        doc! { "$group": { "_id": "$cursor.cursorId" } },
    ];
    let mut found = client.database("admin").aggregate(pipeline).await.expect("the operations");
    let mut ids = Vec::new();
    while found.advance().await.expect("an operation") {
        ids.push(found.deserialize_current().expect("a document") as Document);
    }
    ids.len()
}

#[tokio::test]
async fn a_thousand_clients_of_twenty_filters_share_one_cursor() {
    let database = unique("sharing");
    let app = database.clone();
    let files: Vec<(String, String)> = (0..20)
        .map(|number| {
            let namespace = format!("{database}.{}", ["orders", "chat", "stock"][number % 3]);
            (format!("s{number}"), filter(&namespace))
        })
        .collect();
    let files: Vec<(&str, &str)> =
        files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let filters = Filters::new(&files);
    let uri = format!("{}&appName={app}", mongo::uri());
    // Heartbeats of a thousand clients would be most of the work here.
    let slow = [("SIDESTREAM_CLIENTS__HEARTBEAT", "10s")];
    let sidecar = sidecar::start(&uri, &filters, &slow).await;
    let client = Client::with_uri_str(mongo::uri()).await.unwrap();
    let mut streams = Vec::new();
    for number in 0..1000 {
        let target = format!("/_events/s{}", number % 20);
        streams.push(Stream::open(sidecar.listen, &target).await);
    }
    for stream in &mut streams {
        stream.settled().await;
    }
    until("the cursor is seen", || async { cursors(&client, &app).await > 0 }).await;
    assert_eq!(cursors(&client, &app).await, 1);
    assert_eq!(sidecar::metric(sidecar.admin, "sidestream_upstream_cursors").await, 1.0);
    let told = http::get(sidecar.admin, "/streams").await.json();
    assert_eq!(told["upstreams"].as_array().unwrap().len(), 1);
    let open: u64 = told["streams"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["connections"].as_u64().unwrap())
        .sum();
    assert_eq!(open, 1000);

    insert(&collection(&client, &database, "chat"), 0..2).await;
    for number in (0..1000).filter(|number| number % 20 % 3 == 1) {
        expect(&mut streams[number], 0..2).await;
    }
    // Whoever asked for another collection got nothing of it.
    insert(&collection(&client, &database, "orders"), 5..6).await;
    insert(&collection(&client, &database, "stock"), 6..7).await;
    for (number, only) in [(0, 5..6), (2, 6..7), (3, 5..6), (5, 6..7)] {
        expect(&mut streams[number], only).await;
    }

    // Another image mode is another cursor.
    filters
        .write("plain", &format!("{}fullDocument: default\n", filter(&format!("{database}.chat"))));
    until("the new cursor is seen", || async { cursors(&client, &app).await > 1 }).await;
    assert_eq!(cursors(&client, &app).await, 2);
    drop(streams);
    sidecar.finish().await;
}

#[tokio::test]
async fn collections_that_are_added_while_others_are_busy() {
    let database = unique("added");
    let filters = Filters::new(&[("orders", &filter(&format!("{database}.orders")))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let client = Client::with_uri_str(mongo::uri()).await.unwrap();
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    stream.settled().await;
    let orders = collection(&client, &database, "orders");
    let writer = tokio::spawn(async move { insert(&orders, 0..400).await });
    let mut next = 0;
    for number in 0..4 {
        let name = format!("c{number}");
        filters.write(&name, &filter(&format!("{database}.{name}")));
        until("the new stream is there", || async {
            http::get(sidecar.listen, "/_events").await.text().contains(&name)
        })
        .await;
        let mut added = Stream::open(sidecar.listen, &format!("/_events/{name}")).await;
        insert(&collection(&client, &database, &name), 0..2).await;
        expect(&mut added, 0..2).await;
        expect(&mut stream, next..next + 40).await;
        next += 40;
        // From the middle of it all, across the change of cursors.
        let id = stream.last_event_id.clone().unwrap();
        let mut resumed = Stream::resume(sidecar.listen, "/_events/orders", &id).await;
        expect(&mut resumed, next..next + 10).await;
    }
    expect(&mut stream, next..400).await;
    writer.await.unwrap();
    sidecar.finish().await;
}

// Each of them has a value of its own, and is in the middle of the same event.
#[tokio::test]
async fn clients_that_are_slow_to_read_a_large_event_share_it() {
    const CLIENTS: usize = 40;
    const SIZE: usize = 4 << 20;
    let database = unique("large");
    let text = format!(
        "collection: {database}.orders\naccess: public\nmatch: {{ _id: {{ $gte: {{ $param: from }} }} }}\n\
         params:\n  from: {{ type: int }}\n"
    );
    let filters = Filters::new(&[("orders", &text)]);
    let (dir, uri) = (filters.path().display().to_string(), mongo::uri());
    // They are read one after the other, on a machine that may be busy.
    let patient = [("SIDESTREAM_CLIENTS__SEND_TIMEOUT", "10m")];
    let program = Program::start_ready(&["--filters", &dir, "--mongodb", &uri], &patient).await;
    let target = |number: usize| format!("/_events/orders?from=-{number}");
    let mut streams = Vec::new();
    for number in 0..CLIENTS {
        streams.push(Stream::open(program.listen, &target(number)).await);
    }
    let mut ids = Vec::new();
    for stream in &mut streams {
        ids.push(stream.settled().await);
    }
    let memory = || memory_of(program.id()).unwrap();
    let before = memory().resident;
    let client = Client::with_uri_str(&uri).await.unwrap();
    let pad = "x".repeat(SIZE);
    let orders = collection(&client, &database, "orders");
    orders.insert_one(doc! { "_id": 1_i64, "pad": &pad }).await.unwrap();
    // All of them are sent it by then.
    insert(&orders, 2..3).await;
    // Not by its JSON: of so many as large as this one, that takes long to read.
    let is_large = |event: &Block| {
        let data = event.data.as_deref().expect("data");
        let (_, text) = data.split_once("\"pad\":\"").expect("the field");
        text.strip_prefix(&pad).is_some_and(|rest| rest.starts_with('"'))
    };
    for stream in &mut streams {
        assert!(is_large(&stream.event().await));
        expect(stream, 2..3).await;
    }
    // When they come back, each looks for it in the past.
    drop(streams);
    let mut streams = Vec::new();
    for (number, id) in ids.iter().enumerate() {
        streams.push(Stream::resume(program.listen, &target(number), id).await);
    }
    for stream in &mut streams {
        assert!(is_large(&stream.event().await));
        expect(stream, 2..3).await;
    }
    let growth = memory().most.saturating_sub(before);
    assert!(growth < 16 * SIZE as u64, "memory grew by {growth} bytes");
}
