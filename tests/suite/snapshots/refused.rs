//! What a client gets where there is no snapshot: a retry, or an end with a reason.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mongodb::bson::doc;
use serde_json::json;

use super::{Page, client, fill, filter, hold_find, orders, up_to};
use crate::access::issuer::{claims, secret};
use crate::support::sidecar::{self, Filters, metric};
use crate::support::sse::{Block, Stream};
use crate::support::{http, mongo, unique, until};

/// Everything up to the clean end of a stream that fires an event.
async fn to_the_end(mut stream: Stream) -> Vec<Block> {
    let mut blocks = Vec::new();
    while let Some(block) = stream.block().await {
        blocks.push(block);
    }
    blocks.retain(|block| block.data.is_some() || block.retry.is_some());
    blocks
}

/// The end of a stream that has given nothing.
async fn expect_end(stream: Stream, reason: &str) {
    let blocks = to_the_end(stream).await;
    let [first, retry, end] = &blocks[..] else { panic!("{blocks:?}") };
    assert!(first.retry.is_some());
    assert_eq!(retry.retry, Some(60_000));
    assert_eq!((end.name(), end.json()), ("end", json!({ "reason": reason })));
    assert!(blocks.iter().all(|block| block.id.is_none()));
}

#[tokio::test]
async fn too_many_documents() {
    let database = unique("large");
    let client = client().await;
    let orders = orders(&client, &database).await;
    fill(&orders, 0..3).await;
    client.database(&database).run_command(doc! { "profile": 2 }).await.unwrap();
    let filters = Filters::new(&[("orders", &filter(&database, ""))]);
    let bound = [("SIDESTREAM_SNAPSHOT__MAX_DOCUMENTS", "2")];
    let sidecar = sidecar::start(&mongo::uri(), &filters, &bound).await;
    for _ in 0..3 {
        let stream = Stream::open(sidecar.listen, "/_events/orders").await;
        expect_end(stream, "snapshot-too-large").await;
    }
    // Also where it would begin again.
    let stream = Stream::resume(sidecar.listen, "/_events/orders", "none").await;
    expect_end(stream, "snapshot-too-large").await;
    let poll = http::get(sidecar.listen, "/_events/orders?transport=poll").await;
    assert_eq!(poll.head.field("retry-after"), Some("60"));
    let end = json!({ "event": "end", "data": { "reason": "snapshot-too-large" } });
    assert_eq!(poll.json(), json!({ "events": [end], "resume": null }));
    // Beside others, it is the end of one stream.
    let two = "/_events?stream=orders&stream=a:orders";
    let told = to_the_end(Stream::open(sidecar.listen, two).await).await;
    let ended: Vec<&Block> = told.iter().filter(|block| block.name() == "end").collect();
    assert_eq!(ended.len(), 2, "{ended:?}");
    assert!(ended.iter().all(|end| end.json()["reason"] == "snapshot-too-large"));
    // Before the last of them: who comes back at once would be told the same.
    let retries: Vec<_> = told[1..].iter().map(|block| block.retry).collect();
    assert_eq!(retries, [None, Some(60_000), None], "{told:?}");
    let poll = http::get(sidecar.listen, &format!("{two}&transport=poll")).await;
    let named = |(name, _): &&(String, String)| name.eq_ignore_ascii_case("retry-after");
    assert_eq!(poll.head.fields.iter().filter(named).count(), 1, "{:?}", poll.head);

    let profile =
        client.database(&database).collection::<mongodb::bson::Document>("system.profile");
    let asked = doc! { "command.find": "orders", "command.limit": { "$exists": false } };
    let finds = profile.count_documents(asked).await.unwrap();
    assert_eq!(finds, 1, "nobody asks again");
    let reason = "sidestream_streams_ended_total{reason=\"snapshot-too-large\"}";
    assert!(metric(sidecar.admin, reason).await >= 4.0);
    sidecar.finish().await;
}

#[tokio::test]
async fn what_mongodb_refuses() {
    let own = mongo::Own::start(mongo::Setup::default()).await;
    let client = own.client().await;
    let database = unique("codes");
    fill(&orders(&client, &database).await, 0..3).await;
    // No stream asks again that was refused: one for each.
    let files: Vec<(String, String)> = [239, 246, 72, 123, 13, 50]
        .map(|code| (format!("s{code}"), filter(&database, "")))
        .to_vec();
    let files: Vec<(&str, &str)> = files.iter().map(|(n, t)| (n.as_str(), t.as_str())).collect();
    let filters = Filters::new(&files);
    let sidecar = sidecar::start(&own.uri(), &filters, &[]).await;
    for code in [239, 246] {
        fail_find(&own, &database, code).await;
        let target = format!("/_events/s{code}");
        let mut page = Page::open(sidecar.listen, &target).await;
        let failed = format!("sidestream_snapshots_total{{outcome=\"failed\",stream=\"s{code}\"}}");
        until("it is tried again", || async { metric(sidecar.admin, &failed).await >= 2.0 }).await;
        own.heal().await;
        page.complete(1).await;
        assert_eq!((page.last_reason(), page.ids()), ("new", up_to(3)), "{code}");
    }
    for (code, reason) in [
        (72, "snapshot-unavailable"),
        (123, "snapshot-unavailable"),
        (13, "snapshot-unavailable"),
        (50, "snapshot-too-large"),
    ] {
        fail_find(&own, &database, code).await;
        for _ in 0..2 {
            let stream = Stream::open(sidecar.listen, &format!("/_events/s{code}")).await;
            expect_end(stream, reason).await;
            // What was found out stays so for a while.
            own.heal().await;
        }
    }
    sidecar.finish().await;
}

// The servers of these tests read no snapshot of one, now or later: its pages are told, and do not wait.
#[tokio::test]
async fn a_capped_collection() {
    let database = unique("capped");
    let capped = doc! { "create": "orders", "capped": true, "size": 100_000 };
    client().await.database(&database).run_command(capped).await.unwrap();
    let filters = Filters::new(&[("orders", &filter(&database, ""))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let stream = Stream::open(sidecar.listen, "/_events/orders").await;
    expect_end(stream, "snapshot-unavailable").await;
    sidecar.finish().await;
}

/// Makes each `find` of the collection fail.
async fn fail_find(own: &mongo::Own, database: &str, code: i32) {
    let namespace = format!("{database}.orders");
    let data = doc! { "failCommands": ["find"], "errorCode": code, "namespace": namespace };
    let point = doc! { "configureFailPoint": "failCommand", "mode": "alwaysOn", "data": data };
    own.admin(point).await.expect("a fail point");
}

// The line has an end, and who is behind it is told when to come again.
#[tokio::test]
async fn too_many_that_wait() {
    let own = mongo::Own::start(mongo::Setup::default()).await;
    let client = own.client().await;
    let database = unique("line");
    fill(&orders(&client, &database).await, 0..3).await;
    let more = "match: { n: { $ne: { $param: n } } }\nparams: { n: { type: long } }\n";
    let filters = Filters::new(&[("orders", &filter(&database, more))]);
    let uri = format!("{}&appName=line", own.uri());
    let one = [("SIDESTREAM_SNAPSHOT__MAX_CONCURRENT", "1")];
    let sidecar = sidecar::start(&uri, &filters, &one).await;
    hold_find(&own, "line", Duration::from_secs(4)).await;
    let mut open = Vec::new();
    for n in 100..370 {
        let target = format!("/_events/orders?n={n}");
        open.push(Stream::open(sidecar.listen, &target).await);
    }
    let last = open.pop().expect("the last one");
    let blocks = to_the_end(last).await;
    let [_, retry, end] = &blocks[..] else { panic!("{blocks:?}") };
    assert!(retry.retry.is_some_and(|millis| (5_000..20_000).contains(&millis)), "{retry:?}");
    assert_eq!((end.name(), end.json()), ("end", json!({ "reason": "snapshot-busy" })));
    own.heal().await;
    let mut first = Page::of(open.remove(0));
    let mut late = Page::of(open.remove(200));
    tokio::join!(first.complete(1), late.complete(1));
    assert_eq!((first.ids(), late.ids()), (up_to(3), up_to(3)));
    sidecar.finish().await;
}

// Between the query and the documents lies time: who has lost the right by then is given none.
#[tokio::test]
async fn rights_are_looked_at_behind_the_query() {
    let own = mongo::Own::start(mongo::Setup::default()).await;
    let client = own.client().await;
    let database = unique("rights");
    fill(&orders(&client, &database).await, 0..3).await;
    let text = filter(&database, "").replace("access: public", "access: authenticated");
    let filters = Filters::new(&[("orders", &text)]);
    let uri = format!("{}&appName=rights", own.uri());
    let auth = [
        ("SIDESTREAM_AUTH__JWT__SECRET", crate::access::SECRET),
        ("SIDESTREAM_AUTH__JWT__ALGORITHMS", "HS256"),
        ("SIDESTREAM_SNAPSHOT__MAX_TIME", "60s"),
    ];
    let sidecar = sidecar::start(&uri, &filters, &auth).await;
    // Between them lies the time that a loaded machine may need to open both streams.
    hold_find(&own, "rights", Duration::from_secs(9)).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let token =
        |seconds: u64| secret(crate::access::SECRET).sign(&claims(json!({ "exp": now + seconds })));
    let open = async |token: String| {
        let bearer = format!("Authorization: Bearer {token}\r\n");
        Stream::open_with(sidecar.listen, "/_events/orders", &bearer).await
    };
    let (short, long) = (open(token(6)).await, open(token(60)).await);
    let ended = to_the_end(short);
    let mut page = Page::of(long);
    let (ended, ()) = tokio::join!(ended, page.complete(1));
    assert_eq!(page.ids(), up_to(3));
    let last = ended.last().expect("an end");
    assert_eq!((last.name(), last.json()), ("end", json!({ "reason": "unauthorized" })));
    assert!(ended.iter().all(|block| !["snapshot", "document"].contains(&block.name())));
    sidecar.finish().await;
}
