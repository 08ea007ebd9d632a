//! A bug in a task of the sidecar's own: it is told, nothing looks live that is not, and things go
//! on.

use mongodb::Client;
use tokio::net::TcpListener;

use super::{collection, expect, expect_reset, filter, id, insert};
use crate::support::sidecar::{self, Filters, metric};
use crate::support::sse::Stream;
use crate::support::{PATIENCE, http, mongo, unique, until};

async fn panics(sidecar: &sidestream::Sidecar, task: &str) -> f64 {
    metric(sidecar.admin, &format!("sidestream_task_panics_total{{task=\"{task}\"}}")).await
}

#[tokio::test]
async fn a_feed_whose_reading_panics_is_read_anew_and_its_streams_are_reset() {
    let database = unique("panics");
    let filters = Filters::new(&[("orders", &filter(&format!("{database}.orders")))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let client = Client::with_uri_str(mongo::uri()).await.unwrap();
    let orders = collection(&client, &database, "orders");
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    stream.settled().await;
    insert(&orders, 0..2).await;
    expect(&mut stream, 0..2).await;
    sidecar.tasks().make_panic("upstream");
    expect_reset(&mut stream, "history-lost").await;
    assert_eq!(panics(&sidecar, "upstream").await, 1.0);
    let restarts = format!(
        "sidestream_upstream_restarts_total{{reason=\"panic\",upstream=\"{database}/updateLookup\"}}"
    );
    assert_eq!(metric(sidecar.admin, &restarts).await, 1.0);
    assert_eq!(metric(sidecar.admin, "sidestream_upstream_cursors").await, 1.0);
    insert(&orders, 2..4).await;
    expect(&mut stream, 2..4).await;
    sidecar.finish().await;
}

// The passes of a replay are shared: who waits for one that is gone gets another.
#[tokio::test]
async fn a_replay_that_panics_leaves_nobody_waiting() {
    let database = unique("panics");
    let filters = Filters::new(&[("orders", &filter(&format!("{database}.orders")))]);
    // So little is remembered that who comes back is served from the oplog.
    let settings = [("SIDESTREAM_REPLAY__MAX_BYTES", "1KiB")];
    let sidecar = sidecar::start(&mongo::uri(), &filters, &settings).await;
    let client = Client::with_uri_str(mongo::uri()).await.unwrap();
    let orders = collection(&client, &database, "orders");
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    let first = stream.settled().await;
    insert(&orders, 0..50).await;
    expect(&mut stream, 0..50).await;
    sidecar.tasks().make_panic("replay");
    let mut back = Stream::resume(sidecar.listen, "/_events/orders", &first).await;
    expect(&mut back, 0..50).await;
    assert_eq!(panics(&sidecar, "replay").await, 1.0);
    insert(&orders, 50..52).await;
    for stream in [&mut stream, &mut back] {
        assert_eq!(id(&stream.event().await), 50);
    }
    sidecar.finish().await;
}

#[tokio::test]
async fn files_are_read_on_after_the_watching_panicked() {
    let database = unique("panics");
    let filters = Filters::new(&[("orders", &filter(&format!("{database}.orders")))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    stream.settled().await;
    sidecar.tasks().make_panic("reload");
    until("it panicked", || async { panics(&sidecar, "reload").await == 1.0 }).await;
    filters.write("bills", &filter(&format!("{database}.bills")));
    until("the new file is in force", || async {
        http::get(sidecar.listen, "/_events").await.text().contains("bills")
    })
    .await;
    sidecar.tasks().make_panic("admin-port");
    until("the admin port answers again", || async { panics(&sidecar, "admin-port").await == 1.0 })
        .await;
    // The old stream was not touched by any of it.
    let client = Client::with_uri_str(mongo::uri()).await.unwrap();
    insert(&collection(&client, &database, "orders"), 0..2).await;
    expect(&mut stream, 0..2).await;
    sidecar.finish().await;
}

// The keys' server takes its time, and that is when it happens.
#[tokio::test]
async fn streams_go_on_when_the_reading_of_keys_panics() {
    let database = unique("panics");
    let filters = Filters::new(&[("orders", &filter(&format!("{database}.orders")))]);
    let keys = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/jwks", keys.local_addr().unwrap());
    let settings = [
        ("SIDESTREAM_AUTH__JWT__JWKS_URL", url.as_str()),
        ("SIDESTREAM_AUTH__JWT__ALGORITHMS", "[RS256]"),
    ];
    let sidecar = sidecar::start(&mongo::uri(), &filters, &settings).await;
    let (asked, _) = keys.accept().await.unwrap();
    sidecar.tasks().make_panic("keys");
    until("it panicked", || async { panics(&sidecar, "keys").await == 1.0 }).await;
    drop(asked);
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    stream.settled().await;
    let client = Client::with_uri_str(mongo::uri()).await.unwrap();
    insert(&collection(&client, &database, "orders"), 0..2).await;
    expect(&mut stream, 0..2).await;
    sidecar.finish().await;
}

#[tokio::test]
async fn without_its_public_port_the_process_has_no_use() {
    let database = unique("panics");
    let filters = Filters::new(&[("orders", &filter(&format!("{database}.orders")))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    sidecar.tasks().make_panic("public-port");
    let failed = tokio::time::timeout(PATIENCE, sidecar.tasks().failed()).await;
    assert!(failed.unwrap().starts_with("public-port: "));
    sidecar.finish().await;
}
