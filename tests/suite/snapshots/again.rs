//! Where another stream says `reset`, one with a snapshot begins again.

use std::time::{Duration, Instant};

use mongodb::bson::doc;

use super::{Page, client, fill, filter, hold_find, orders, up_to};
use crate::support::sidecar::{self, Filters, metric};
use crate::support::sse::Stream;
use crate::support::{mongo, unique, until};

#[tokio::test]
async fn a_token_that_is_none_and_a_collection_that_is_dropped() {
    let database = unique("dropped");
    let client = client().await;
    let orders = orders(&client, &database).await;
    fill(&orders, 0..3).await;
    let filters = Filters::new(&[("orders", &filter(&database, ""))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let stream = Stream::resume(sidecar.listen, "/_events/orders", "no token").await;
    let mut page = Page::of(stream);
    page.complete(1).await;
    assert_eq!((page.last_reason(), page.ids()), ("invalid-token", up_to(3)));

    orders.drop().await.unwrap();
    page.complete(2).await;
    assert_eq!((page.last_reason(), page.ids()), ("invalidated", vec![]));
    fill(&super::orders(&client, &database).await, 0..2).await;
    page.until("the new documents", |page| page.ids() == up_to(2)).await;
    assert_eq!(page.reasons.len(), 2);
    let resets = "sidestream_resets_total{reason=\"invalidated\"}";
    assert_eq!(metric(sidecar.admin, resets).await, 1.0);
    sidecar.finish().await;
}

#[tokio::test]
async fn a_filter_that_is_edited() {
    let database = unique("edited");
    let client = client().await;
    let orders = orders(&client, &database).await;
    fill(&orders, 0..5).await;
    let filters = Filters::new(&[("orders", &filter(&database, "match: { n: { $lt: 3 } }\n"))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut page = Page::open(sidecar.listen, "/_events/orders").await;
    page.complete(1).await;
    assert_eq!(page.ids(), up_to(3));
    let id = page.stream.last_event_id.clone().expect("an id");
    filters.write("orders", &filter(&database, "match: { n: { $lt: 5 } }\n"));
    page.complete(2).await;
    // Who was away meanwhile has documents of before.
    let mut away = Page::of(Stream::resume(sidecar.listen, "/_events/orders", &id).await);
    away.complete(1).await;
    assert_eq!((away.last_reason(), away.ids()), ("filter-changed", up_to(5)));
    assert_eq!((page.last_reason(), page.ids()), ("filter-changed", up_to(5)));
    // Without one, it is a stream like any other.
    let plain = filter(&database, "").replace("snapshot: true\n", "");
    filters.write("orders", &plain);
    assert_eq!(page.stream.event().await.name(), "reset");
    filters.write("orders", &filter(&database, ""));
    page.complete(3).await;
    assert_eq!((page.last_reason(), page.ids()), ("filter-changed", up_to(5)));
    sidecar.finish().await;
}

#[tokio::test]
async fn a_filter_that_is_edited_while_its_query_is_under_way() {
    let own = mongo::Own::start(mongo::Setup::default()).await;
    let client = own.client().await;
    let database = unique("meanwhile");
    fill(&orders(&client, &database).await, 0..5).await;
    let filters = Filters::new(&[("orders", &filter(&database, "match: { n: { $lt: 3 } }\n"))]);
    let uri = format!("{}&appName=meanwhile", own.uri());
    let sidecar = sidecar::start(&uri, &filters, &[]).await;
    hold_find(&own, "meanwhile", Duration::from_millis(2_500)).await;
    let mut page = Page::open(sidecar.listen, "/_events/orders").await;
    page.take().await;
    filters.write("orders", &filter(&database, "match: { n: { $gte: 3 } }\n"));
    page.complete(1).await;
    assert_eq!((page.last_reason(), page.ids()), ("filter-changed", vec![3, 4]));
    sidecar.finish().await;
}

// Every change is one that cannot be told: without a brake, each would be a query.
#[tokio::test]
async fn a_loop_is_braked() {
    let database = unique("braked");
    let client = client().await;
    let orders = orders(&client, &database).await;
    fill(&orders, 0..3).await;
    client
        .database(&database)
        .run_command(doc! {
            "collMod": "orders", "changeStreamPreAndPostImages": { "enabled": false },
        })
        .await
        .unwrap();
    let filters = Filters::new(&[("orders", &filter(&database, "match: { n: { $lt: 1 } }\n"))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut page = Page::open(sidecar.listen, "/_events/orders").await;
    page.complete(1).await;
    assert_eq!(page.ids(), [0]);
    let began = Instant::now();
    let mut n = 0_i64;
    let (writing, reading) = (
        async {
            while began.elapsed() < Duration::from_secs(4) {
                n += 1;
                let set = doc! { "$set": { "n": n % 2 } };
                orders.update_one(doc! { "_id": 1_i64 }, set).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let set = doc! { "$set": { "n": 0_i64 } };
            orders.update_one(doc! { "_id": 2_i64 }, set).await.unwrap();
            orders.update_one(doc! { "_id": 1_i64 }, doc! { "$set": { "n": 7 } }).await.unwrap();
        },
        page.until("what find says", |page| {
            began.elapsed() > Duration::from_secs(4) && page.ids() == [0, 2]
        }),
    );
    tokio::join!(writing, reading);
    assert!(page.reasons[1..].iter().all(|reason| reason == "history-lost"), "{:?}", page.reasons);
    assert!(page.reasons.len() <= 2 * 30, "{} snapshots", page.reasons.len());
    let taken = "sidestream_snapshots_total{outcome=\"taken\",stream=\"orders\"}";
    let taken = metric(sidecar.admin, taken).await;
    assert!((2.0..=60.0).contains(&taken), "{taken} queries for {n} changes");
    assert!(n > 3 * taken as i64, "{taken} queries for {n} changes");
    sidecar.finish().await;
}

#[tokio::test]
async fn one_that_comes_before_mongodb_was_read() {
    let own = mongo::Own::start(mongo::Setup::default()).await;
    let client = own.client().await;
    let database = unique("early");
    fill(&orders(&client, &database).await, 0..3).await;
    own.freeze(0);
    let filters = Filters::new(&[("orders", &filter(&database, ""))]);
    let sidecar = sidecar::start_before(sidecar::nowhere(), &own.uri(), &filters, &[]).await;
    let mut page = Page::open(sidecar.listen, "/_events/orders").await;
    assert!(page.take().await.is_some_and(|block| block.retry.is_some()));
    own.thaw(0);
    page.complete(1).await;
    assert_eq!((page.last_reason(), page.ids()), ("started", up_to(3)));

    // While MongoDB is away, who comes waits.
    own.freeze(0);
    let mut late = Page::open(sidecar.listen, "/_events/orders").await;
    own.thaw(0);
    late.complete(1).await;
    assert_eq!(late.ids(), up_to(3));
    until("it is ready", || async { sidecar.is_ready() }).await;
    sidecar.finish().await;
}
