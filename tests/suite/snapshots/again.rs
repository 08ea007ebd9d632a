//! Where another stream says `reset`, one with a snapshot begins again.

use std::time::{Duration, Instant};

use mongodb::bson::doc;
use sidestream::event::Position;

use super::{Page, client, fill, filter, hold_find, orders, up_to};
use crate::support::sidecar::{self, Filters, metric};
use crate::support::sse::Stream;
use crate::support::{PATIENCE, http, mongo, unique, until};

const SMALL_JOURNAL: (&str, &str) = ("SIDESTREAM_REPLAY__MAX_BYTES", "64KiB");

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

// What was kept for other pages is of documents that are gone.
#[tokio::test]
async fn a_page_that_comes_after_a_drop() {
    let database = unique("dropped");
    let orders = orders(&client().await, &database).await;
    fill(&orders, 0..3).await;
    // Of the same change stream: what it has told has been read.
    let plain = filter(&database, "").replace("snapshot: true\n", "");
    let filters = Filters::new(&[("orders", &filter(&database, "")), ("plain", &plain)]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut page = Page::open(sidecar.listen, "/_events/orders").await;
    page.complete(1).await;
    assert_eq!(page.ids(), up_to(3));
    drop(page);

    let mut witness = Stream::open(sidecar.listen, "/_events/plain").await;
    witness.until_ready().await;
    orders.drop().await.unwrap();
    fill(&orders, 7..8).await;
    let told = [witness.event().await, witness.event().await];
    assert_eq!(told.map(|block| block.name().to_string()), ["reset", "insert"]);
    let mut page = Page::open(sidecar.listen, "/_events/orders").await;
    page.complete(1).await;
    assert_eq!((page.last_reason(), page.ids()), ("new", vec![7]));
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

// Each poll is a client that was away: it has to be told of the edit, once. What was kept is older than that:
// who polls with its id would be sent it again and again.
#[tokio::test]
async fn a_filter_that_is_edited_and_edited_back() {
    let database = unique("back");
    let orders = orders(&client().await, &database).await;
    fill(&orders, 0..3).await;
    let file = |most: i64| filter(&database, &format!("match: {{ n: {{ $lt: {most} }} }}\n"));
    // Of the same change stream: what it has told has been read.
    let plain = filter(&database, "").replace("snapshot: true\n", "");
    let filters = Filters::new(&[("orders", &file(3)), ("plain", &plain)]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut witness = Stream::open(sidecar.listen, "/_events/plain").await;
    witness.until_ready().await;
    let poll = async |id: &str| {
        let target = format!("/_events/orders?transport=poll&wait=0s&lastEventId={id}");
        let answer = http::get(sidecar.listen, &target).await.json();
        let names: Vec<String> =
            answer["events"].as_array().unwrap().iter().map(|it| text(&it["event"])).collect();
        (names, text(&answer["resume"]))
    };
    let is_snapshot = |names: &[String]| names.iter().any(|name| name == "snapshot");
    let (mut names, mut id) = poll("").await;
    assert!(is_snapshot(&names));
    for (at, most) in [(10_i64, 5), (11, 3)] {
        orders.insert_one(doc! { "_id": at, "n": 100 }).await.unwrap();
        assert_eq!(witness.event().await.name(), "insert");
        filters.write("orders", &file(most));
        let in_force = async {
            loop {
                (names, id) = poll(&id).await;
                if is_snapshot(&names) {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, in_force).await.expect("the new file in force");
    }
    // From here on, there is something newer than the edit to be read.
    orders.insert_one(doc! { "_id": 12_i64, "n": 100 }).await.unwrap();
    assert_eq!(witness.event().await.name(), "insert");
    let mut times = 0;
    while is_snapshot(&names) {
        assert!(times < 3, "the same snapshot, again and again");
        (names, id) = poll(&id).await;
        times += 1;
    }
    orders.insert_one(doc! { "_id": 13_i64, "n": 1 }).await.unwrap();
    assert_eq!(witness.event().await.name(), "insert");
    assert_eq!(poll(&id).await.0, ["insert"]);
    sidecar.finish().await;
}

fn text(value: &serde_json::Value) -> String {
    value.as_str().unwrap_or_default().to_string()
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
            // On a busy machine the changes come slowly.
            while began.elapsed() < Duration::from_secs(4) || n < 40 {
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
    // The first, one at once, and one after each pause of 1, 2, 4, … seconds, however slow the machine is.
    let pauses = (began.elapsed().as_secs() + 1).ilog2() as usize;
    let taken = "sidestream_snapshots_total{outcome=\"taken\",stream=\"orders\"}";
    let taken = metric(sidecar.admin, taken).await;
    let most = 2 + pauses;
    assert!(page.reasons.len() <= most, "{:?} in {:?}", page.reasons, began.elapsed());
    assert!((2.0..=most as f64).contains(&taken), "{taken} queries in {:?}", began.elapsed());
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

// A browser sends the last id that it was given. Within a snapshot, the documents that belong to that
// id may be those of another filter.
#[tokio::test]
async fn who_is_cut_off_in_a_later_snapshot_begins_it_again() {
    let database = unique("cut");
    let client = client().await;
    let orders = orders(&client, &database).await;
    fill(&orders, 0..5).await;
    let plain = format!("collection: {database}.orders\naccess: public\n");
    let narrow = filter(&database, "match: { n: { $lt: 3 } }\n");
    let filters = Filters::new(&[("orders", &narrow), ("plain", &plain)]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let several = "/_events?stream=orders&stream=plain";
    let mut page = Page::open(sidecar.listen, "/_events/orders").await;
    page.complete(1).await;
    assert_eq!(page.ids(), up_to(3));
    let mut stream = Stream::open(sidecar.listen, several).await;
    stream.until_ready().await;
    stream.until_ready().await;

    let of_before = page.stream.last_event_id.clone().expect("an id");
    filters.write("orders", &filter(&database, ""));
    page.until("a snapshot that begins", |page| page.pending.is_some()).await;
    assert_eq!(page.stream.last_event_id.as_ref(), Some(&of_before));
    while stream.event().await.name() != "snapshot" {}
    let id = stream.last_event_id.clone().expect("where the other stream is");
    drop((page, stream));
    let mut page = Page::of(Stream::resume(sidecar.listen, "/_events/orders", &of_before).await);
    page.complete(1).await;
    assert_eq!((page.last_reason(), page.ids()), ("filter-changed", up_to(5)));
    drop(page);
    sidecar.finish().await;

    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    // The id that came with `snapshot` says where the other stream is, and no longer names this one.
    let mut stream = Stream::resume(sidecar.listen, several, &id).await;
    let mut of_orders = Vec::new();
    let mut ready = 0;
    while ready < 2 {
        let block = stream.block().await.expect("it goes on");
        ready += usize::from(block.name() == "ready");
        if block.data.is_some() {
            match block.json()["stream"] == "orders" {
                true => of_orders.push(block.name().to_string()),
                false => assert_eq!(block.name(), "ready", "nothing twice"),
            }
        }
    }
    let mut expected = vec!["document"; 7];
    (expected[0], expected[6]) = ("snapshot", "ready");
    assert_eq!(of_orders, expected);
    sidecar.finish().await;
}

#[tokio::test]
async fn a_position_that_the_oplog_no_longer_holds() {
    let setup = mongo::Setup { oplog_mib: 1, ..mongo::Setup::default() };
    let own = mongo::Own::start(setup).await;
    let client = own.client().await;
    let database = unique("rolled");
    let orders = orders(&client, &database).await;
    fill(&orders, 0..3).await;
    let filters = Filters::new(&[("orders", &filter(&database, "project: { n: 1 }\n"))]);
    let sidecar = sidecar::start(&own.uri(), &filters, &[SMALL_JOURNAL]).await;
    let mut page = Page::open(sidecar.listen, "/_events/orders").await;
    page.complete(1).await;
    fill(&orders, 3..4).await;
    page.until("a change", |page| page.ids() == up_to(4)).await;
    let id = page.stream.last_event_id.clone().expect("an id");
    // Who comes back with it misses this, and the two whose images push it out of the journal.
    orders.delete_one(doc! { "_id": 0_i64 }).await.unwrap();
    mongo::roll_oplog_past(&client, Position::parse(&id).unwrap().time()).await;
    let pad = "x".repeat(100_000);
    for id in 4..6_i64 {
        orders.insert_one(doc! { "_id": id, "pad": &pad }).await.unwrap();
    }
    page.until("the changes", |page| page.ids() == [1, 2, 3, 4, 5]).await;
    assert_eq!(page.reasons, ["new"]);

    let mut again = Page::of(Stream::resume(sidecar.listen, "/_events/orders", &id).await);
    again.complete(1).await;
    assert_eq!((again.last_reason(), &again.shown), ("history-lost", &page.shown));
    let resets = "sidestream_resets_total{reason=\"history-lost\"}";
    assert_eq!(metric(sidecar.admin, resets).await, 1.0);
    fill(&orders, 6..7).await;
    again.until("the next change", |page| page.ids() == (1..7).collect::<Vec<i64>>()).await;
    sidecar.finish().await;
}

// Who waits for it is not told of a bug: the query is tried again.
#[tokio::test]
async fn a_query_that_panics() {
    let database = unique("panics");
    let client = client().await;
    fill(&orders(&client, &database).await, 0..3).await;
    let filters = Filters::new(&[("orders", &filter(&database, ""))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    sidecar.tasks().make_panic("snapshot");
    let mut page = Page::open(sidecar.listen, "/_events/orders").await;
    page.complete(1).await;
    assert_eq!((page.last_reason(), page.ids()), ("new", up_to(3)));
    let panics = "sidestream_task_panics_total{task=\"snapshot\"}";
    assert_eq!(metric(sidecar.admin, panics).await, 1.0);
    sidecar.finish().await;
}
