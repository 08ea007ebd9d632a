//! One query for all who want the same, and no more of it than they are shown.

use std::time::Duration;

use futures_util::TryStreamExt;
use futures_util::future::join_all;
use mongodb::Client;
use mongodb::bson::{Document, doc};

use super::{Page, client, fill, filter, orders, up_to};
use crate::support::sidecar::{self, Filters, metric};
use crate::support::sse::Stream;
use crate::support::{mongo, unique};

/// What was asked of the collection, as the server noted it.
async fn asked(client: &Client, database: &str) -> Vec<Document> {
    let profile = client.database(database).collection::<Document>("system.profile");
    // A look at the deployment asks too, for one document.
    let finds = doc! { "command.find": "orders", "command.limit": { "$exists": false } };
    profile.find(finds).await.unwrap().try_collect().await.unwrap()
}

#[tokio::test]
async fn a_hundred_clients_are_one_query() {
    let database = unique("hundred");
    let client = client().await;
    let orders = orders(&client, &database).await;
    fill(&orders, 0..50).await;
    client.database(&database).run_command(doc! { "profile": 2 }).await.unwrap();
    let more = "match: { n: { $lt: { $param: most } }, secret: s }\nproject: { n: 1 }\n\
                params: { most: { type: long } }\n";
    let filters = Filters::new(&[("orders", &filter(&database, more))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let target = "/_events/orders?most=40";
    let pages = join_all((0..100).map(|_| async {
        let mut page = Page::open(sidecar.listen, target).await;
        page.complete(1).await;
        assert_eq!(page.ids(), up_to(40));
        page
    }));
    drop(pages.await);
    let found = asked(&client, &database).await;
    assert_eq!(found.len(), 1, "{found:?}");
    let command = found[0].get_document("command").unwrap();
    // What decides, and what is shown.
    let fields = command.get_document("projection").unwrap().keys().collect::<Vec<_>>();
    assert_eq!(fields, ["_id", "n", "secret"]);
    assert_eq!(command.get_document("readConcern").unwrap().get_str("level").unwrap(), "snapshot");

    // The page is opened again, when some time has passed: from memory, with what came since.
    orders.delete_one(doc! { "_id": 0_i64 }).await.unwrap();
    let mut page = Page::open(sidecar.listen, target).await;
    page.until("what is there now", |page| page.ids() == up_to(40)[1..]).await;
    assert_eq!(asked(&client, &database).await.len(), 1);
    // Others have their own.
    let mut other = Page::open(sidecar.listen, "/_events/orders?most=10").await;
    other.complete(1).await;
    assert_eq!(other.ids(), up_to(10)[1..]);
    assert_eq!(asked(&client, &database).await.len(), 2);
    let count = async |outcome: &str| {
        let name = format!("sidestream_snapshots_total{{outcome=\"{outcome}\",stream=\"orders\"}}");
        metric(sidecar.admin, &name).await
    };
    assert_eq!(count("taken").await, 2.0);
    assert!(count("shared").await >= 1.0);
    assert_eq!(metric(sidecar.admin, "sidestream_snapshot_seconds_count").await, 2.0);
    sidecar.finish().await;
}

// Clients hold what they are sending, not the snapshot: who takes nothing while others need the room
// begins again.
#[tokio::test]
async fn one_that_stalls_makes_room_for_others() {
    let database = unique("room");
    let client = client().await;
    let orders = orders(&client, &database).await;
    let pad = "x".repeat(100_000);
    for id in 0..160_i64 {
        orders.insert_one(doc! { "_id": id, "n": id % 2, "pad": &pad }).await.unwrap();
    }
    let more = "match: { n: { $param: n } }\nparams: { n: { type: long } }\n";
    let filters = Filters::new(&[("orders", &filter(&database, more))]);
    let bounds =
        [("SIDESTREAM_SNAPSHOT__MAX_BYTES", "9MiB"), ("SIDESTREAM_CLIENTS__SEND_TIMEOUT", "60s")];
    let sidecar = sidecar::start(&mongo::uri(), &filters, &bounds).await;
    // The sockets hold some of it, and the rest waits.
    let mut slow = Stream::open(sidecar.listen, "/_events/orders?n=0").await;
    while slow.block().await.expect("it goes on").name() != "document" {}
    tokio::time::timeout(Duration::from_secs(20), async {
        let mut other = Page::open(sidecar.listen, "/_events/orders?n=1").await;
        other.complete(1).await;
        assert_eq!(other.shown.len(), 80);
    })
    .await
    .expect("it does not wait for the slow one");
    let mut names = Vec::new();
    loop {
        let block = slow.block().await.expect("it goes on");
        if block.data.is_some() {
            names.push(block.name().to_string());
        }
        if block.name() == "ready" {
            assert_eq!(block.json()["documents"], 80);
            break;
        }
    }
    let again = names.iter().rposition(|name| name == "snapshot").expect("it begins again");
    assert_eq!(names.len() - again, 82, "{names:?}");
    sidecar.finish().await;
}
