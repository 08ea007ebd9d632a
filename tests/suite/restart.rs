//! A restart, as pages see it that take any answer but 200 for the last.

use mongodb::Client;
use mongodb::bson::{Document, doc};
use rustix::process::Signal;
use tokio::sync::watch;

use crate::support::sidecar::{Filters, Program, metric};
use crate::support::sse::EventSource;
use crate::support::{mongo, unique, until};

const PAGES: usize = 20;

async fn all_see(pages: &[EventSource], name: &str, count: usize) {
    until(&format!("all pages see {count} times {name}"), || async {
        let dead = pages.iter().filter(|page| !page.is_alive()).count();
        assert_eq!(dead, 0, "pages that have given up");
        pages.iter().all(|page| page.has_seen(name, count))
    })
    .await;
}

#[tokio::test]
async fn every_page_outlives_a_restart() {
    let database = unique("restart");
    let file = format!("collection: {database}.orders\naccess: public\n");
    let filters = Filters::new(&[("orders", file.as_str())]);
    let (uri, dir) = (mongo::uri(), filters.path().display().to_string());
    let arguments = ["--mongodb", uri.as_str(), "--filters", dir.as_str()];
    // Long enough for a loaded machine to see them come back meanwhile.
    let env = [("SIDESTREAM_DRAIN", "8s"), ("SIDESTREAM_CLIENTS__RETRY", "50ms")];
    let mut first = Program::start_ready(&arguments, &env).await;
    let (point, address) = watch::channel(first.listen);
    let pages: Vec<EventSource> =
        (0..PAGES).map(|_| EventSource::open(address.clone(), "/_events/orders")).collect();
    all_see(&pages, "ready", 1).await;

    first.signal(Signal::TERM);
    let admin = first.admin;
    until("pages come back while it drains", || async {
        let turned = "sidestream_connections_total{outcome=\"503\",transport=\"sse\"}";
        metric(admin, turned).await >= 1.0
    })
    .await;
    let orders = Client::with_uri_str(&uri).await.expect("a client");
    let orders = orders.database(&database).collection::<Document>("orders");
    for number in 0..3 {
        orders.insert_one(doc! { "_id": number }).await.expect("a write");
    }
    assert_eq!(first.ended().await.code(), Some(0), "{}", first.log());

    // Pages are back before its feed was read.
    let second = Program::start(&arguments, &env).await;
    point.send_replace(second.listen);
    all_see(&pages, "insert", 3).await;
    for page in &pages {
        let seen = page.seen.lock();
        let inserts = seen.iter().filter(|block| block.name() == "insert");
        let keys: Vec<_> =
            inserts.map(|block| block.json()["documentKey"]["_id"].clone()).collect();
        assert_eq!(keys, [0, 1, 2]);
        assert!(seen.iter().all(|block| block.name() != "reset"), "nothing was lost");
    }
}
