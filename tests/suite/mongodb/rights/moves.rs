//! A stream whose file did not change is read from another feed: since another file was added, or since
//! only MongoDB can tell which rights there are. Its clients go on where they were.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use mongodb::Collection;
use mongodb::bson::{Document, doc};
use serde_json::Value;
use sidestream::Sidecar;

use super::super::{collection, expect, expect_reset, filter, id, insert};
use super::{is_ready, stream_of, user_of};
use crate::snapshots::Page;
use crate::support::mongo::{Own, Setup};
use crate::support::sidecar::{self, Filters, metric};
use crate::support::sse::Stream;
use crate::support::{http, until};
use crate::transports::ndjson::Lines;
use crate::transports::websocket::Socket;

/// Together more than what sockets hold of it while nobody reads.
const LARGE: usize = 64 * 1024;
const COUNT: i64 = 300;

async fn start_own() -> Own {
    Own::start(Setup { auth: true, ..Setup::default() }).await
}

/// A stream of the same collection that begins with its documents.
fn with_snapshot() -> String {
    format!("{}snapshot: true\n", filter("shop.orders"))
}

/// Adds a file that cannot be read, which takes its feed along, and waits until it is known why not.
async fn add_unreadable(filters: &Filters, sidecar: &Sidecar) {
    filters.write("all", &filter("shop.*"));
    until("the new one is told what is missing", || async {
        let (state, reason) = stream_of(sidecar, "all").await;
        state == "waiting" && reason.contains("createRole({ role: \"changeStreamOf_shop\"")
    })
    .await;
}

async fn filter_changes(sidecar: &Sidecar) -> f64 {
    metric(sidecar.admin, "sidestream_resets_total{reason=\"filter-changed\"}").await
}

fn key(envelope: &Value) -> i64 {
    let key = envelope["data"]["documentKey"]["_id"].as_i64();
    key.unwrap_or_else(|| panic!("not an insert: {envelope}"))
}

async fn poll(address: SocketAddr, at: &str) -> Value {
    let target = format!("/_events/orders?lastEventId={at}&wait=60s");
    let answer = http::request(address, "GET", &target, "Accept: application/json\r\n").await;
    assert_eq!(answer.head.status, 200, "{}", answer.text());
    answer.json()
}

async fn insert_large(orders: &Collection<Document>, ids: std::ops::Range<i64>) {
    let filler = "x".repeat(LARGE);
    orders.insert_many(ids.map(|id| doc! { "_id": id, "filler": &filler })).await.expect("written");
}

#[tokio::test]
async fn a_restart_with_rights_on_two_collections_costs_nobody_their_place() {
    let own = start_own().await;
    let (root, uri) = user_of(&own, &["orders", "bills"]).await;
    let (orders, bills) = (collection(&root, "shop", "orders"), collection(&root, "shop", "bills"));
    insert(&orders, 0..1).await;
    insert(&bills, 0..1).await;
    let filters = Filters::new(&[
        ("orders", &filter("shop.orders")),
        ("bills", &filter("shop.bills")),
        ("live", &with_snapshot()),
    ]);
    let sidecar = sidecar::start_before(sidecar::nowhere(), &uri, &filters, &[]).await;
    until("both are read", || async {
        is_ready(&sidecar, "orders").await && is_ready(&sidecar, "bills").await
    })
    .await;
    let one = Stream::open(sidecar.listen, "/_events/orders").await.settled().await;
    let two = "/_events?stream=orders&stream=bills";
    let mut several = Stream::open(sidecar.listen, two).await;
    several.until_ready().await;
    several.until_ready().await;
    let mut shown = Page::open(sidecar.listen, "/_events/live").await;
    shown.complete(1).await;
    let live = shown.id().expect("an id");
    sidecar.finish().await;

    insert(&orders, 1..2).await;
    // So that all of them are there before anything is known of the rights.
    own.freeze(0);
    let sidecar = sidecar::start_before(sidecar::nowhere(), &uri, &filters, &[]).await;
    let listen = sidecar.listen;
    let mut back = Stream::resume(listen, "/_events/orders", &one).await;
    let mut aged = Stream::open(listen, "/_events/orders?since=1h").await;
    let mut new = Stream::open(listen, "/_events/orders").await;
    let mut several = Stream::resume(listen, two, &several.last_event_id.unwrap()).await;
    let mut live = Stream::resume(listen, "/_events/live", &live).await;
    let mut page = Page::open(listen, "/_events/live").await;
    own.thaw(0);
    let writing = tokio::spawn({
        let orders = orders.clone();
        async move { insert(&orders, 2..30).await }
    });
    expect(&mut back, 1..30).await;
    expect(&mut aged, 0..30).await;
    expect(&mut several, 1..30).await;
    expect(&mut live, 1..30).await;
    writing.await.unwrap();
    // As it would have been without the move: "now" was not known when it came.
    expect_reset(&mut new, "started").await;
    page.complete(1).await;
    assert_eq!(page.last_reason(), "started");
    insert(&bills, 1..3).await;
    expect(&mut several, 1..3).await;
    insert(&orders, 30..31).await;
    for stream in [&mut back, &mut aged, &mut several, &mut live] {
        expect(stream, 30..31).await;
    }
    // None of those that were written before has been left out, or comes twice.
    let mut next = id(&new.event().await);
    while next < 30 {
        let following = id(&new.event().await);
        assert_eq!(following, next + 1);
        next = following;
    }
    page.until("all are shown", |page| page.ids() == (0..31).collect::<Vec<_>>()).await;
    assert_eq!(filter_changes(&sidecar).await, 0.0);
    sidecar.finish().await;
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_not_noticed_by_the_pages_of_others() {
    let own = start_own().await;
    let (root, uri) = user_of(&own, &["orders"]).await;
    let orders = collection(&root, "shop", "orders");
    insert(&orders, 0..1).await;
    let filters = Filters::new(&[("orders", &filter("shop.orders")), ("live", &with_snapshot())]);
    let sidecar = sidecar::start_before(sidecar::nowhere(), &uri, &filters, &[]).await;
    until("it is read", || async { is_ready(&sidecar, "orders").await }).await;
    let listen = sidecar.listen;
    let mut stream = Stream::open(listen, "/_events/orders").await;
    let at = stream.settled().await;
    let several = "/_events?stream=orders&stream=again:orders&stream=live";
    let mut several = Stream::open(listen, several).await;
    for _ in 0..3 {
        several.until_ready().await;
    }
    let mut lines = Lines::open(listen, "/_events/orders", "").await;
    while lines.event().await["event"] != "ready" {}
    let mut socket = Socket::open(listen, "/_events/orders").await;
    while socket.event().await["event"] != "ready" {}
    let mut page = Page::open(listen, "/_events/live").await;
    page.complete(1).await;
    let shown = page.id().expect("an id");
    let first = tokio::spawn({
        let at = at.clone();
        async move { poll(listen, &at).await }
    });
    until("the poll waits", || async {
        metric(sidecar.admin, "sidestream_connections{transport=\"poll\"}").await == 1.0
    })
    .await;

    let writing = tokio::spawn({
        let orders = orders.clone();
        async move { insert(&orders, 1..40).await }
    });
    add_unreadable(&filters, &sidecar).await;
    writing.await.unwrap();
    // What can be read of it now comes from the other feed.
    insert(&orders, 40..50).await;
    expect(&mut stream, 1..50).await;
    let mut seen: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for event in several.events(3 * 49).await {
        let data = event.json();
        let name = data["as"].as_str().or(data["stream"].as_str()).expect("a name").to_owned();
        seen.entry(name).or_default().push(id(&event));
    }
    let all: Vec<i64> = (1..50).collect();
    assert_eq!(seen.into_values().collect::<Vec<_>>(), vec![all.clone(); 3]);
    for wanted in 1..50 {
        assert_eq!(key(&lines.event().await), wanted);
        assert_eq!(key(&socket.event().await), wanted);
    }
    let (mut answer, mut polled) = (first.await.unwrap(), Vec::new());
    loop {
        polled.extend(answer["events"].as_array().expect("events").iter().map(key));
        if polled.len() >= all.len() {
            break;
        }
        answer = poll(listen, answer["resume"].as_str().expect("an id")).await;
    }
    assert_eq!(polled, all);
    page.until("all are shown", |page| page.ids() == (0..50).collect::<Vec<_>>()).await;
    assert_eq!(page.snapshots(), 1);
    // Nobody who was away is told of an edit, either.
    let mut back = Stream::resume(listen, "/_events/live", &shown).await;
    expect(&mut back, 1..50).await;
    let mut back = Stream::resume(listen, "/_events/orders", &at).await;
    expect(&mut back, 1..50).await;
    assert_eq!(filter_changes(&sidecar).await, 0.0);
    sidecar.finish().await;
}

#[tokio::test]
async fn what_clients_are_being_sent_meanwhile_goes_on() {
    let own = start_own().await;
    let (root, uri) = user_of(&own, &["orders"]).await;
    let orders = collection(&root, "shop", "orders");
    insert(&orders, -1..0).await;
    let filters = Filters::new(&[("orders", &filter("shop.orders")), ("live", &with_snapshot())]);
    let settings = [
        // Who comes back is served from the oplog.
        ("SIDESTREAM_REPLAY__MAX_BYTES", "1KiB"),
        ("SIDESTREAM_CLIENTS__SEND_TIMEOUT", "10m"),
        ("SIDESTREAM_SNAPSHOT__MAX_BYTES", "64MiB"),
    ];
    let sidecar = sidecar::start_before(sidecar::nowhere(), &uri, &filters, &settings).await;
    until("it is read", || async { is_ready(&sidecar, "orders").await }).await;
    let listen = sidecar.listen;
    let mut first = Stream::open(listen, "/_events/orders").await;
    let at = first.settled().await;
    insert_large(&orders, 0..COUNT).await;
    expect(&mut first, 0..COUNT).await;
    drop(first);
    // Each has begun, and nobody reads on.
    let mut replayed = Stream::resume(listen, "/_events/orders", &at).await;
    expect(&mut replayed, 0..1).await;
    let mut given = Stream::open(listen, "/_events/live").await;
    assert_eq!(given.event().await.name(), "snapshot");
    assert_eq!(given.event().await.name(), "document");

    add_unreadable(&filters, &sidecar).await;
    insert(&orders, COUNT..COUNT + 5).await;
    let mut missed = replayed.until_ready().await;
    assert!(missed.len() as i64 >= COUNT - 1, "ready after {}", missed.len());
    let later = (COUNT + 4) as usize - missed.len();
    missed.extend(replayed.events(later).await);
    assert_eq!(missed.iter().map(id).collect::<Vec<_>>(), (1..COUNT + 5).collect::<Vec<_>>());
    // Those of the first moment, to the last.
    let rest = given.until_ready().await;
    assert!(rest.iter().all(|block| block.name() == "document"));
    assert_eq!(rest.len() as i64, COUNT);
    expect(&mut given, COUNT..COUNT + 5).await;
    assert_eq!(filter_changes(&sidecar).await, 0.0);
    sidecar.finish().await;
}
