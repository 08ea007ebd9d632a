//! Collections and databases that are dropped, renamed, and come back.

use mongodb::Client;
use mongodb::bson::doc;

use super::{collection, expect, expect_reset, filter, insert};
use crate::support::sidecar::{self, Filters};
use crate::support::sse::Stream;
use crate::support::{mongo, unique};

async fn open(sidecar: &sidestream::Sidecar, name: &str) -> Stream {
    let mut stream = Stream::open(sidecar.listen, &format!("/_events/{name}")).await;
    stream.settled().await;
    stream
}

#[tokio::test]
async fn drops_and_renames_reset_the_streams_concerned_once() {
    let database = unique("vanishing");
    let filters = Filters::new(&[
        ("orders", &filter(&format!("{database}.orders"))),
        ("chat", &filter(&format!("{database}.chat"))),
        ("quiet", &filter(&format!("{database}.quiet"))),
        ("all", &filter(&format!("{database}.*"))),
    ]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let client = Client::with_uri_str(mongo::uri()).await.unwrap();
    let orders = collection(&client, &database, "orders");
    let chat = collection(&client, &database, "chat");
    let quiet = collection(&client, &database, "quiet");
    let mut of_orders = open(&sidecar, "orders").await;
    let mut of_chat = open(&sidecar, "chat").await;
    let mut of_quiet = open(&sidecar, "quiet").await;
    let mut of_all = open(&sidecar, "all").await;

    insert(&quiet, 0..1).await;
    expect(&mut of_quiet, 0..1).await;
    insert(&orders, 0..2).await;
    let before_drop = of_orders.event().await.id.unwrap();
    expect(&mut of_orders, 1..2).await;
    orders.drop().await.unwrap();
    insert(&orders, 2..4).await;
    expect_reset(&mut of_orders, "invalidated").await;
    expect(&mut of_orders, 2..4).await;
    expect(&mut of_all, 0..1).await;
    expect(&mut of_all, 0..2).await;
    expect_reset(&mut of_all, "invalidated").await;
    expect(&mut of_all, 2..4).await;

    // Orders becomes chat, which has never been.
    let rename = |from: &str, to: &str| {
        let name = |collection: &str| format!("{database}.{collection}");
        let command = doc! { "renameCollection": name(from), "to": name(to), "dropTarget": true };
        let admin = client.database("admin");
        async move { admin.run_command(command).await.unwrap() }
    };
    rename("orders", "chat").await;
    insert(&chat, 4..5).await;
    insert(&orders, 5..6).await;
    expect_reset(&mut of_orders, "invalidated").await;
    expect(&mut of_orders, 5..6).await;
    expect_reset(&mut of_chat, "invalidated").await;
    expect(&mut of_chat, 4..5).await;
    expect_reset(&mut of_all, "invalidated").await;
    expect(&mut of_all, 4..6).await;

    // Who comes back from before finds everything in its place.
    let mut resumed = Stream::resume(sidecar.listen, "/_events/orders", &before_drop).await;
    expect(&mut resumed, 1..2).await;
    expect_reset(&mut resumed, "invalidated").await;
    expect(&mut resumed, 2..4).await;
    expect_reset(&mut resumed, "invalidated").await;
    expect(&mut resumed, 5..6).await;

    let now = mongo::now(&client).await;
    assert!(of_quiet.is_quiet_up_to(now).await, "it was none of its business");
    for stream in [&mut of_orders, &mut of_chat, &mut of_all, &mut resumed] {
        assert!(stream.is_quiet_up_to(now).await, "each of it once");
    }
    sidecar.finish().await;
}

async fn a_dropped_database_comes_back(settings: &[(&str, &str)]) {
    let database = unique("dropped");
    let filters = Filters::new(&[
        ("orders", &filter(&format!("{database}.orders"))),
        ("never", &filter(&format!("{database}.never"))),
        ("all", &filter(&format!("{database}.*"))),
    ]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, settings).await;
    let client = Client::with_uri_str(mongo::uri()).await.unwrap();
    let orders = collection(&client, &database, "orders");
    let mut of_orders = open(&sidecar, "orders").await;
    let mut of_never = open(&sidecar, "never").await;
    let mut of_all = open(&sidecar, "all").await;
    let mut first = None;
    for round in 0..2 {
        let next = round * 10;
        insert(&orders, next..next + 1).await;
        let event = of_orders.event().await;
        first.get_or_insert(event.id.unwrap());
        client.database(&database).drop().await.unwrap();
        insert(&orders, next + 1..next + 3).await;
        expect_reset(&mut of_orders, "invalidated").await;
        expect(&mut of_orders, next + 1..next + 3).await;
        expect(&mut of_all, next..next + 1).await;
        expect_reset(&mut of_all, "invalidated").await;
        expect(&mut of_all, next + 1..next + 3).await;
    }
    assert!(of_never.is_quiet_up_to(mongo::now(&client).await).await, "nothing of it was there");
    // Where the memory is small, nothing else is left in it.
    let pad = "x".repeat(100_000);
    for id in 13..15_i64 {
        orders.insert_one(doc! { "_id": id, "pad": &pad }).await.unwrap();
    }
    expect(&mut of_orders, 13..15).await;
    expect(&mut of_all, 13..15).await;
    // Through both of them, in their places.
    for name in ["orders", "all"] {
        let target = format!("/_events/{name}");
        let mut resumed = Stream::resume(sidecar.listen, &target, first.as_ref().unwrap()).await;
        expect_reset(&mut resumed, "invalidated").await;
        expect(&mut resumed, 1..3).await;
        expect(&mut resumed, 10..11).await;
        expect_reset(&mut resumed, "invalidated").await;
        expect(&mut resumed, 11..15).await;
        assert!(resumed.is_quiet_up_to(mongo::now(&client).await).await);
    }
    let lost = "sidestream_resets_total{reason=\"history-lost\"}";
    assert_eq!(sidecar::metric(sidecar.admin, lost).await, 0.0);
    sidecar.finish().await;
}

#[tokio::test]
async fn a_dropped_database_resets_its_streams_once() {
    a_dropped_database_comes_back(&[]).await;
}

// Without a memory every position is read from the oplog, through the invalidated cursors.
#[tokio::test]
async fn a_dropped_database_is_replayed_from_the_oplog() {
    a_dropped_database_comes_back(&[("SIDESTREAM_REPLAY__MAX_BYTES", "64KiB")]).await;
}
