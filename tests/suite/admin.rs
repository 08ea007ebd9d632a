//! The admin port: what platform teams look at.

use mongodb::Client;
use mongodb::bson::doc;
use sidestream::event::Position;

use crate::support::sidecar::{self, Filters, metric};
use crate::support::sse::Stream;
use crate::support::{http, mongo, unique, until};

/// Dashboards are built on these.
const METRICS: [&str; 17] = [
    "connections{transport=\"sse\"}",
    "connections_total{outcome=\"accepted\",transport=\"sse\"}",
    "events_read_total{upstream=\"",
    "events_sent_total{stream=\"a\"}",
    "upstream_lag_seconds{upstream=\"",
    "upstream_restarts_total{reason=\"collections\",upstream=\"",
    "upstream_cursors ",
    "subscriptions{stream=\"a\"}",
    "replays_total{source=\"memory\"}",
    "replays_total{source=\"oplog\"}",
    "resets_total{reason=\"filter-changed\"}",
    "slow_clients_total ",
    "delivery_seconds_bucket{le=\"",
    "auth_total{result=\"allowed\"}",
    "filter_reloads_total{result=\"ok\"}",
    "proxy_requests_total{code=\"502\"}",
    "proxy_request_seconds_count ",
];

#[tokio::test]
async fn health_streams_and_metrics() {
    let database = unique("admin");
    let file = |collection: &str| format!("collection: {database}.{collection}\naccess: public\n");
    let filters = Filters::new(&[("a", &file("a"))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let admin = sidecar.admin;
    assert_eq!(http::get(admin, "/healthz").await.head.status, 200);
    assert_eq!(http::get(admin, "/readyz").await.head.status, 200);
    assert_eq!(http::get(admin, "/nothing").await.head.status, 404);
    assert_eq!(http::request(admin, "POST", "/metrics", "").await.head.status, 405);
    assert_eq!(http::get(sidecar.listen, "/page").await.head.status, 502);

    let mut first = Stream::open(sidecar.listen, "/_events/a").await;
    let mut second = Stream::open(sidecar.listen, "/_events/a").await;
    let client = Client::with_uri_str(mongo::uri()).await.unwrap();
    client.database(&database).collection("a").insert_one(doc! { "_id": 1 }).await.unwrap();
    first.event().await;
    second.event().await;
    filters.write("b", &file("b"));
    let restarts = format!(
        "sidestream_upstream_restarts_total{{reason=\"collections\",upstream=\"{database}/updateLookup\"}}"
    );
    until("the cursor reads more", || async { metric(admin, &restarts).await == 1.0 }).await;

    let streams = http::get(admin, "/streams").await.json();
    assert_eq!(streams["streams"][0]["name"], "a");
    assert_eq!(streams["streams"][0]["connections"], 2);
    assert_eq!(streams["streams"][0]["subscriptions"], 2);
    let upstream = &streams["upstreams"][0];
    assert_eq!(upstream["database"], database);
    assert_eq!(upstream["mode"], "updateLookup");
    assert!(upstream["lag_seconds"].is_number());
    // Of no document: its key may be nobody's business here.
    let position = Position::parse(upstream["position"].as_str().unwrap()).unwrap();
    assert!(!position.names_document(), "{position}");

    let text = http::get(admin, "/metrics").await.text();
    for name in METRICS {
        assert!(text.contains(&format!("\nsidestream_{name}")), "{name} in\n{text}");
    }
    let sent = "sidestream_events_sent_total{stream=\"a\"}";
    until("both are counted", || async { metric(admin, sent).await == 2.0 }).await;
    drop((first, second));
    let open = "sidestream_connections{transport=\"sse\"}";
    until("closed streams are noticed", || async { metric(admin, open).await == 0.0 }).await;
    sidecar.finish().await;
}

/// A page of a site whose name leads to this host is on the same origin as we are, for a browser.
#[tokio::test]
async fn a_page_whose_name_leads_here_is_told_nothing() {
    let database = unique("admin");
    let text = format!("collection: {database}.a\naccess: public\n");
    let filters = Filters::new(&[("a", &text)]);
    let settings = [("SIDESTREAM_CONSOLE__HOSTS", "Ops.internal")];
    let sidecar = sidecar::start(&mongo::uri(), &filters, &settings).await;
    for (hosts, status) in [
        (&["127.0.0.1:9180"][..], 200),
        (&["10.0.0.7"], 200),
        (&["[::1]:9180"], 200),
        (&["localhost:9180"], 200),
        (&["LOCALHOST"], 200),
        (&["ops.internal:80"], 200),
        (&["ops.internal."], 200),
        (&["evil.example:9180"], 421),
        (&["localhost.evil.example"], 421),
        (&["127.0.0.1.evil.example"], 421),
        (&["127.0.0.1@evil.example"], 421),
        (&["[::1"], 421),
        (&["localhost:x"], 421),
        (&[""], 421),
        (&["localhost", "evil.example"], 421),
    ] {
        let mut connection = http::Connection::open(sidecar.admin).await;
        let fields: String = hosts.iter().map(|host| format!("Host: {host}\r\n")).collect();
        connection.send(format!("GET /streams HTTP/1.1\r\n{fields}\r\n")).await;
        // What can be no host at all, the server may drop before anything is asked.
        let Some(head) = connection.head().await else {
            assert_eq!(status, 421, "{hosts:?}");
            continue;
        };
        assert_eq!(head.status, status, "{hosts:?}");
        assert_eq!(head.field("access-control-allow-origin"), None);
    }
    sidecar.finish().await;
}
