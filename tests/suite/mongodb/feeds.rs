//! A feed lives as long as a filter file uses it, and is nobody's business but that file's.

use mongodb::Client;
use mongodb::bson::doc;
use tokio::sync::watch;

use super::sharing::cursors;
use super::{collection, expect, filter, insert};
use crate::support::mongo::{Own, Setup};
use crate::support::sidecar::{self, Filters, metric};
use crate::support::sse::{EventSource, Stream};
use crate::support::{http, mongo, unique, until};

/// So that what is not used goes soon.
const SHORT: [(&str, &str); 1] = [("SIDESTREAM_REPLAY__WINDOW", "1s")];

/// State and reason of a stream, as `/streams` has them.
async fn stream_of(sidecar: &sidestream::Sidecar, name: &str) -> (String, String) {
    let told = http::get(sidecar.admin, "/streams").await.json();
    let streams = told["streams"].as_array().unwrap().clone();
    let stream = streams.into_iter().find(|stream| stream["name"] == name).unwrap_or_default();
    let text = |key: &str| stream[key].as_str().unwrap_or_default().to_owned();
    (text("state"), text("reason"))
}

async fn state(sidecar: &sidestream::Sidecar, name: &str, state: &str) -> f64 {
    let name = format!("sidestream_filter_state{{state=\"{state}\",stream=\"{name}\"}}");
    metric(sidecar.admin, &name).await
}

#[tokio::test]
async fn a_file_whose_database_cannot_be_read_makes_only_its_own_stream_wait() {
    let own = Own::start(Setup { auth: true, ..Setup::default() }).await;
    let root = own.client().await;
    let user = doc! {
        "createUser": "shopper", "pwd": "x", "roles": [{ "role": "read", "db": "shop" }],
    };
    root.database("admin").run_command(user).await.unwrap();
    let filters =
        Filters::new(&[("orders", &filter("shop.orders")), ("typo", &filter("shpo.orders"))]);
    let uri = format!("mongodb://shopper:x@{}/?replicaSet=rs0", own.host(0));
    let sidecar = sidecar::start_before(sidecar::nowhere(), &uri, &filters, &SHORT).await;
    until("the good one is read", || async { stream_of(&sidecar, "orders").await.0 == "ready" })
        .await;
    until("the other one is refused", || async {
        stream_of(&sidecar, "typo").await.1.contains("not authorized on shpo")
    })
    .await;
    assert_eq!(stream_of(&sidecar, "typo").await.0, "waiting");
    assert_eq!(http::get(sidecar.admin, "/readyz").await.head.status, 200);
    assert_eq!(state(&sidecar, "orders", "ready").await, 1.0);
    assert_eq!(state(&sidecar, "typo", "ready").await, 0.0);
    assert_eq!(state(&sidecar, "typo", "waiting").await, 1.0);

    let mut orders = Stream::open(sidecar.listen, "/_events/orders").await;
    orders.settled().await;
    insert(&collection(&root, "shop", "orders"), 0..2).await;
    expect(&mut orders, 0..2).await;

    filters.write("typo", &filter("shop.orders"));
    until("the mended one is read", || async {
        stream_of(&sidecar, "typo").await == ("ready".to_owned(), String::new())
    })
    .await;
    let mut mended = Stream::open(sidecar.listen, "/_events/typo").await;
    mended.settled().await;
    insert(&collection(&root, "shop", "orders"), 2..4).await;
    expect(&mut mended, 2..4).await;
    expect(&mut orders, 2..4).await;
    until("nothing is told of the wrong database any more", || async {
        let told = http::get(sidecar.admin, "/streams").await.json();
        let metrics = http::get(sidecar.admin, "/metrics").await.text();
        told["upstreams"].as_array().unwrap().len() == 1 && !metrics.contains("shpo")
    })
    .await;
    sidecar.finish().await;
}

#[tokio::test]
async fn an_image_mode_that_was_only_tried_goes_with_its_cursor() {
    let database = unique("tried");
    let namespace = format!("{database}.orders");
    let filters = Filters::new(&[("orders", &filter(&namespace))]);
    let uri = format!("{}&appName={database}", mongo::uri());
    let sidecar = sidecar::start(&uri, &filters, &SHORT).await;
    let client = Client::with_uri_str(mongo::uri()).await.unwrap();
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    stream.settled().await;
    filters.write("plain", &format!("{}fullDocument: default\n", filter(&namespace)));
    until("there are two cursors", || async { cursors(&client, &database).await == 2 }).await;
    let mut tried = Stream::open(sidecar.listen, "/_events/plain").await;
    tried.settled().await;
    insert(&collection(&client, &database, "orders"), 0..1).await;
    expect(&mut tried, 0..1).await;

    filters.remove("plain");
    assert_eq!(tried.event().await.name(), "end");
    until("the second cursor is closed", || async { cursors(&client, &database).await == 1 }).await;
    until("nothing is told of it any more", || async {
        let metrics = http::get(sidecar.admin, "/metrics").await.text();
        !metrics.contains(&format!("{database}/default"))
            && !metrics.contains("stream=\"plain\"")
            && metrics.contains("sidestream_upstream_cursors 1\n")
    })
    .await;
    // Back again, it is read again; and the one that stayed has missed nothing.
    filters.write("plain", &format!("{}fullDocument: default\n", filter(&namespace)));
    until("it is there again", || async { stream_of(&sidecar, "plain").await.0 == "ready" }).await;
    let mut back = Stream::open(sidecar.listen, "/_events/plain").await;
    back.settled().await;
    insert(&collection(&client, &database, "orders"), 1..3).await;
    expect(&mut back, 1..3).await;
    expect(&mut stream, 0..3).await;
    sidecar.finish().await;
}

#[tokio::test]
async fn a_broken_file_is_told_with_its_place() {
    let database = unique("broken");
    let filters = Filters::new(&[
        ("orders", &filter(&format!("{database}.orders"))),
        ("new", "collection: [nonsense\n"),
    ]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let (broken, reason) = stream_of(&sidecar, "new").await;
    assert_eq!(broken, "broken");
    assert!(reason.contains("new.yaml:"), "{reason}");
    assert_eq!(state(&sidecar, "new", "broken").await, 1.0);
    filters.write("orders", "collection: [nonsense\n");
    until("the other is broken too", || async {
        let (state, reason) = stream_of(&sidecar, "orders").await;
        state == "broken" && reason.contains("stays in force")
    })
    .await;
    filters.remove("new");
    until("the first is gone", || async { stream_of(&sidecar, "new").await.0.is_empty() }).await;
    let metrics = http::get(sidecar.admin, "/metrics").await.text();
    assert!(!metrics.contains("stream=\"new\""), "{metrics}");
    sidecar.finish().await;
}

// As after a restart: who was there before has to find its stream again.
#[tokio::test]
async fn a_page_comes_back_until_its_file_can_be_read() {
    const TOLD: &str = "sidestream_connections_total{outcome=\"503\",transport=\"sse\"}";
    let good = filter(&format!("{}.orders", unique("mended")));
    let settings = [("SIDESTREAM_CLIENTS__RETRY", "10ms")];
    for has_directory in [true, false] {
        let filters = Filters::new(&[("new", "collection: [nonsense\n")]);
        if !has_directory {
            std::fs::remove_dir_all(filters.path()).unwrap();
        }
        let sidecar = sidecar::start(&mongo::uri(), &filters, &settings).await;
        assert_eq!(http::get(sidecar.listen, "/_events/new").await.head.status, 503);
        let (_address, address) = watch::channel(sidecar.listen);
        let page = EventSource::open(address, "/_events/new");
        let is_told = || async { metric(sidecar.admin, TOLD).await >= 3.0 };
        until("the page was told to come back", is_told).await;
        std::fs::create_dir_all(filters.path()).unwrap();
        filters.write("new", &good);
        until("the page has its stream", || async { page.has_seen("ready", 1) }).await;
        assert!(page.is_alive());
        assert_eq!(http::get(sidecar.listen, "/_events/nothing").await.head.status, 404);
        drop(page);
        sidecar.finish().await;
    }
}
