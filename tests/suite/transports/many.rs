use std::collections::BTreeMap;

use serde_json::json;

use super::ndjson::Lines;
use super::{filter, insert, key};
use crate::support::sidecar::{self, Filters};
use crate::support::sse::{Block, Stream};
use crate::support::{http, mongo, unique};

fn files(database: &str) -> Filters {
    let chat = filter(
        &format!("{database}.chat"),
        "match: { room: { $param: room } }\nparams: { room: { type: int } }\n",
    );
    Filters::new(&[
        ("orders", &filter(&format!("{database}.orders"), "")),
        ("shop/stock", &filter(&format!("{database}.stock"), "")),
        ("chat", &chat),
        ("mine", &format!("collection: {database}.orders\naccess: authenticated\n")),
    ])
}

const AUTH: [(&str, &str); 2] = [
    ("SIDESTREAM_AUTH__JWT__SECRET", "a secret that is long enough for HS256"),
    ("SIDESTREAM_AUTH__JWT__ALGORITHMS", "HS256"),
];

async fn say(database: &str, id: i64, room: i32) {
    let chat = super::collection(database, "chat").await;
    chat.insert_one(mongodb::bson::doc! { "_id": id, "room": room }).await.expect("a write");
}

#[tokio::test]
async fn several_streams_share_a_connection_and_an_id() {
    let database = unique("many");
    let filters = files(&database);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &AUTH).await;
    let target =
        "/_events?stream=orders&stream=a:chat&a.room=1&stream=b:chat&b.room=2&stream=shop/stock";
    let mut stream = Stream::open(sidecar.listen, target).await;
    let mut ready = Vec::new();
    while ready.len() < 4 {
        let block = stream.block().await.expect("a block");
        if block.name() == "ready" {
            ready.push(block.json());
        }
    }
    ready.sort_by_key(ToString::to_string);
    let named = [
        json!({ "stream": "chat", "as": "a" }),
        json!({ "stream": "chat", "as": "b" }),
        json!({ "stream": "orders" }),
        json!({ "stream": "shop/stock" }),
    ];
    assert_eq!(ready, named);
    let start = stream.last_event_id.clone().expect("an id");
    assert!(start.len() <= 1024 && !start.starts_with("82"), "{start}");

    insert(&database, "orders", 0..3).await;
    insert(&database, "stock", 0..2).await;
    say(&database, 1, 1).await;
    say(&database, 2, 2).await;
    say(&database, 3, 3).await;
    say(&database, 4, 1).await;
    let expected = BTreeMap::from([
        ("a".to_string(), vec![1, 4]),
        ("b".to_string(), vec![2]),
        ("orders".to_string(), vec![0, 1, 2]),
        ("shop/stock".to_string(), vec![0, 1]),
    ]);
    // Each stream keeps its own order, from every id on: what was had and what comes is all of it.
    let events = stream.events(8).await;
    assert_eq!(by_name(&events), expected);
    for had in 0..=8 {
        let id = match had {
            0 => &start,
            had => events[had - 1].id.as_ref().expect("an id"),
        };
        let mut resumed = Stream::resume(sidecar.listen, target, id).await;
        let rest = resumed.events(8 - had).await;
        let all: Vec<Block> = events[..had].iter().chain(&rest).cloned().collect();
        assert_eq!(by_name(&all), expected, "after {had}");
    }
    // One that the id does not hold begins now; the others go on.
    let fewer = Stream::resume(sidecar.listen, "/_events?stream=orders&stream=new:orders", &start);
    let events = fewer.await.events(3).await;
    assert!(events.iter().all(|event| event.json().get("as").is_none()), "{events:?}");
    let mut invalid = Stream::resume(sidecar.listen, "/_events?stream=orders", "nonsense").await;
    let reset = invalid.event().await;
    assert_eq!(reset.json(), json!({ "stream": "orders", "reason": "invalid-token" }));

    let mut lines = Lines::open(sidecar.listen, "/_events?stream=b:chat&b.room=2", "").await;
    let ready = lines.event().await;
    assert_eq!((&ready["stream"], &ready["as"]), (&"chat".into(), &"b".into()));
    say(&database, 5, 2).await;
    let event = lines.event().await;
    assert_eq!((&event["stream"], &event["as"], key(&event)), (&"chat".into(), &"b".into(), 5));

    let at = ready["id"].as_str().expect("an id");
    let poll = format!("/_events?transport=poll&stream=b:chat&b.room=2&lastEventId={at}");
    let answer = http::get(sidecar.listen, &poll).await.json();
    assert_eq!(answer["events"][0]["as"], "b");
    assert_eq!(answer["resume"], answer["events"][0]["id"]);
    sidecar.finish().await;
}

fn by_name(events: &[Block]) -> BTreeMap<String, Vec<i64>> {
    let mut seen: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for event in events {
        let data = event.json();
        let name = data["as"].as_str().or(data["stream"].as_str()).expect("a name").to_string();
        seen.entry(name).or_default().push(data["documentKey"]["_id"].as_i64().expect("a key"));
    }
    seen
}

#[tokio::test]
async fn one_refused_stream_refuses_them_all_and_is_named() {
    let database = unique("many");
    let filters = files(&database);
    let settings = [&AUTH[..], &[("SIDESTREAM_CLIENTS__MAX_STREAMS_PER_CONNECTION", "2")]].concat();
    let sidecar = sidecar::start(&mongo::uri(), &filters, &settings).await;
    for (query, status, names) in [
        ("stream=orders&stream=nothing", 404, "nothing"),
        ("stream=orders&stream=mine", 401, "`mine`"),
        ("stream=a:chat&a.room=x", 400, "`room`"),
        ("stream=orders&stream=orders", 400, "stream=a:orders"),
        ("stream=orders&room=1", 400, "`room`"),
        ("stream=orders&stream=a:orders&stream=b:orders", 400, "2"),
    ] {
        let answer = http::get(sidecar.listen, &format!("/_events?{query}")).await;
        assert_eq!(answer.head.status, status, "{query}");
        let detail = answer.json()["detail"].as_str().expect("a detail").to_string();
        assert!(detail.contains(names), "{query}: {detail}");
    }
    sidecar.finish().await;
}

#[tokio::test]
async fn a_stream_that_ends_leaves_the_others() {
    let database = unique("many");
    let filters = files(&database);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &AUTH).await;
    let mut stream = Stream::open(sidecar.listen, "/_events?stream=orders&stream=shop/stock").await;
    stream.settled().await;
    filters.remove("shop/stock");
    let end = stream.event().await;
    assert_eq!(end.name(), "end");
    assert_eq!(end.json(), json!({ "stream": "shop/stock", "reason": "filter-changed" }));
    filters.write("orders", &filter(&format!("{database}.orders"), "operations: [insert]\n"));
    let reset = stream.event().await;
    assert_eq!(reset.json(), json!({ "stream": "orders", "reason": "filter-changed" }));
    insert(&database, "orders", 0..1).await;
    assert_eq!(stream.event().await.name(), "insert");
    filters.remove("orders");
    assert_eq!(stream.event().await.name(), "end");
    assert_eq!(stream.block().await, None);
    sidecar.finish().await;
}
