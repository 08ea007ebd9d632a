//! Snapshots of more documents than MongoDB sends at once: clients have the first before the last is read.

use std::time::Duration;

use mongodb::bson::{Document, doc};

use super::{Page, client, fill, filter, orders, up_to};
use crate::support::sidecar::{self, Filters, metric};
use crate::support::sse::Stream;
use crate::support::{mongo, unique, until};

/// What the sidecar asks for at once.
const BATCH: usize = 1_000;
const ALL: i64 = 2_500;

/// What happens to all but the first batch of a collection, until [`mongo::Own::heal`].
async fn meddle(own: &mongo::Own, database: &str, mut what: Document) {
    what.extend(doc! { "failCommands": ["getMore"], "namespace": format!("{database}.orders") });
    let point = doc! { "configureFailPoint": "failCommand", "mode": "alwaysOn", "data": what };
    own.admin(point).await.expect("a fail point");
}

fn given(page: &Page) -> usize {
    page.pending.as_ref().map_or(0, |(_, documents)| documents.len())
}

#[tokio::test]
async fn one_that_fails_on_its_way_begins_again() {
    let own = mongo::Own::start(mongo::Setup::default()).await;
    let database = unique("broken");
    fill(&orders(&own.client().await, &database).await, 0..ALL).await;
    let filters = Filters::new(&[("orders", &filter(&database, ""))]);
    let sidecar = sidecar::start(&own.uri(), &filters, &[]).await;
    meddle(&own, &database, doc! { "errorCode": 246 }).await;
    let mut page = Page::open(sidecar.listen, "/_events/orders").await;
    // Not before: the rest may not have been asked for yet. The page may have had the first batch by then.
    let failed = "sidestream_snapshots_total{outcome=\"failed\",stream=\"orders\"}";
    until("it fails", || async { metric(sidecar.admin, failed).await >= 1.0 }).await;
    own.heal().await;
    page.complete(1).await;
    assert_eq!((page.last_reason(), page.ids()), ("new", up_to(ALL)));
    sidecar.finish().await;
}

#[tokio::test]
async fn who_comes_while_it_is_read_shares_it() {
    let own = mongo::Own::start(mongo::Setup::default()).await;
    let database = unique("growing");
    fill(&orders(&own.client().await, &database).await, 0..ALL).await;
    let filters = Filters::new(&[("orders", &filter(&database, ""))]);
    let sidecar = sidecar::start(&own.uri(), &filters, &[]).await;
    let time = i64::try_from(Duration::from_secs(1).as_millis()).unwrap();
    meddle(&own, &database, doc! { "blockConnection": true, "blockTimeMS": time }).await;
    let mut first = Page::open(sidecar.listen, "/_events/orders").await;
    first.until("the first batch", |page| given(page) == BATCH).await;
    let mut second = Page::open(sidecar.listen, "/_events/orders").await;
    second.until("the first batch", |page| given(page) == BATCH).await;
    // Who leaves takes nothing from the other.
    drop(first);
    second.complete(1).await;
    assert_eq!(second.ids(), up_to(ALL));
    let outcome = async |outcome: &str| {
        let name = format!("sidestream_snapshots_total{{outcome=\"{outcome}\",stream=\"orders\"}}");
        metric(sidecar.admin, &name).await
    };
    assert_eq!((outcome("taken").await, outcome("failed").await), (1.0, 0.0));
    sidecar.finish().await;
}

#[tokio::test]
async fn one_that_turns_out_to_be_too_large_ends() {
    let database = unique("larger");
    fill(&orders(&client().await, &database).await, 0..ALL).await;
    let filters = Filters::new(&[("orders", &filter(&database, ""))]);
    let bound = [("SIDESTREAM_SNAPSHOT__MAX_DOCUMENTS", "1500")];
    let sidecar = sidecar::start(&mongo::uri(), &filters, &bound).await;
    let mut most = 0;
    for _ in 0..2 {
        let mut page = Page::of(Stream::open(sidecar.listen, "/_events/orders").await);
        let mut last = None;
        while let Some(block) = page.take().await {
            most = most.max(given(&page));
            last = Some(block);
        }
        let last = last.expect("an end");
        assert_eq!((last.name(), &last.json()["reason"]), ("end", &"snapshot-too-large".into()));
        assert!(page.reasons.is_empty() && page.shown.is_empty(), "a part is not the whole");
    }
    assert!(most <= 1_500, "{most} documents");
    sidecar.finish().await;
}
