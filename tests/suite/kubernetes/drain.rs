//! `sidestream drain`, and the port for kubelet and Prometheus.

use std::process::Command;
use std::time::{Duration, Instant};

use mongodb::Client;
use mongodb::bson::doc;

use crate::support::sidecar::{self, Filters, nowhere};
use crate::support::sse::Stream;
use crate::support::{http, mongo, unique};

fn drain(admin: &str, wait: &str) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidestream"));
    command.args(["drain", "--for", wait]).env("SIDESTREAM_ADMIN", admin).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_ends_and_everything_else_goes_on() {
    let database = unique("drain");
    let file = format!("collection: {database}.a\naccess: public\n");
    let filters = Filters::new(&[("a", &file)]);
    let probes = [("SIDESTREAM_PROBES", "127.0.0.1:0")];
    let sidecar = sidecar::start(&mongo::uri(), &filters, &probes).await;
    let probes = sidecar.probes.unwrap();
    assert_eq!(http::get(probes, "/readyz").await.head.status, 200);
    let mut before = Stream::open(sidecar.listen, "/_events/a").await;

    let admin = sidecar.admin.to_string();
    let started = Instant::now();
    let output = tokio::task::spawn_blocking(move || drain(&admin, "300ms")).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(started.elapsed() >= Duration::from_millis(300));
    assert_eq!(http::get(probes, "/readyz").await.head.status, 503);
    assert_eq!(http::get(sidecar.admin, "/readyz").await.head.status, 503);
    assert_eq!(http::get(probes, "/healthz").await.head.status, 200);
    // Who comes by an endpoint that has not moved yet is served, and who is here stays.
    let mut after = Stream::open(sidecar.listen, "/_events/a").await;
    let client = Client::with_uri_str(mongo::uri()).await.unwrap();
    client.database(&database).collection("a").insert_one(doc! { "_id": 1 }).await.unwrap();
    before.event().await;
    after.event().await;
    drop((before, after));
    sidecar.finish().await;
}

#[tokio::test]
async fn the_probes_port_has_three_pages_and_the_admin_port_is_not_for_pages() {
    let filters = Filters::new(&[]);
    let more = [("SIDESTREAM_PROBES", "127.0.0.1:0")];
    let sidecar = sidecar::start_before(nowhere(), "mongodb://127.0.0.1:9", &filters, &more).await;
    let probes = sidecar.probes.unwrap();
    assert_eq!(http::get(probes, "/healthz").await.head.status, 200);
    assert!(http::get(probes, "/metrics").await.text().contains("sidestream_connections"));
    for path in ["/", "/streams", "/filters", "/drain"] {
        assert_eq!(http::get(probes, path).await.head.status, 404, "{path}");
    }
    assert_eq!(http::request(probes, "POST", "/drain", "").await.head.status, 405);
    let from_page = "Origin: http://evil.example\r\n";
    assert_eq!(http::request(sidecar.admin, "POST", "/drain", from_page).await.head.status, 403);
    assert_eq!(http::get(sidecar.admin, "/healthz").await.head.status, 200);
    sidecar.finish().await;
}

#[test]
fn nobody_there_is_told_and_waited_for_all_the_same() {
    let free = std::net::SocketAddr::from(([127, 0, 0, 1], crate::support::free_port()));
    let started = Instant::now();
    let output = drain(&free.to_string(), "200ms");
    assert_eq!(output.status.code(), Some(3));
    assert!(started.elapsed() >= Duration::from_millis(200));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("SIDESTREAM_ADMIN"), "{text}");
}
