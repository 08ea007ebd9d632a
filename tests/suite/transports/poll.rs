use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mongodb::bson::doc;
use serde_json::{Value, json};

use super::ndjson::Lines;
use super::{filter, insert, key};
use crate::support::http::{self, Connection};
use crate::support::sidecar::{self, Filters, metric};
use crate::support::{mongo, unique, until};

const ACCEPT: &str = "Accept: application/json\r\n";

async fn poll(address: SocketAddr, target: &str) -> Value {
    let answer = http::request(address, "GET", target, ACCEPT).await;
    assert_eq!(answer.head.status, 200, "{}", answer.text());
    answer.json()
}

fn keys(answer: &Value) -> Vec<i64> {
    answer["events"].as_array().expect("events").iter().map(key).collect()
}

fn next(answer: &Value) -> String {
    answer["resume"].as_str().unwrap_or_else(|| panic!("no resume: {answer}")).to_string()
}

#[tokio::test]
async fn a_poll_gives_what_came_and_where_to_go_on() {
    let database = unique("poll");
    let filters = Filters::new(&[("a", &filter(&format!("{database}.a"), ""))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let listen = sidecar.listen;
    // Without a position: at once, with that of now.
    let began = Instant::now();
    let first = poll(listen, "/_events/a").await;
    assert!(began.elapsed() < Duration::from_secs(10), "it waited for an event");
    assert_eq!(first["events"], json!([]));
    let start = next(&first);

    let target = format!("/_events/a?lastEventId={start}");
    let waiting = tokio::spawn(async move { poll(listen, &target).await });
    until("it waits", || async {
        metric(sidecar.admin, "sidestream_connections{transport=\"poll\"}").await == 1.0
    })
    .await;
    insert(&database, "a", 0..1).await;
    let answer = waiting.await.expect("an answer");
    assert_eq!(keys(&answer), [0]);
    assert_eq!(answer["events"][0]["event"], "insert");
    assert_eq!(answer["events"][0]["id"], answer["resume"]);

    insert(&database, "a", 1..4).await;
    // Repeating a poll is safe.
    for _ in 0..2 {
        let mut at = start.clone();
        let mut seen = Vec::new();
        while seen.len() < 4 {
            let answer = poll(listen, &format!("/_events/a?lastEventId={at}")).await;
            seen.extend(keys(&answer));
            at = next(&answer);
        }
        assert_eq!(seen, [0, 1, 2, 3]);
    }
    let invalid = poll(listen, "/_events/a?lastEventId=nonsense").await;
    assert_eq!(invalid["events"][0]["data"], json!({ "reason": "invalid-token" }));
    until("places are given back", || async {
        metric(sidecar.admin, "sidestream_connections{transport=\"poll\"}").await == 0.0
    })
    .await;
    let wrong = http::request(listen, "GET", "/_events/a?wait=2h", ACCEPT).await;
    assert_eq!(wrong.head.status, 400);
    sidecar.finish().await;
}

#[tokio::test]
async fn an_empty_answer_moves_the_position_on() {
    let database = unique("poll");
    let filters = Filters::new(&[
        ("quiet", &filter(&format!("{database}.quiet"), "")),
        ("busy", &filter(&format!("{database}.busy"), "")),
    ]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let start = next(&poll(sidecar.listen, "/_events/quiet").await);
    let busy = next(&poll(sidecar.listen, "/_events/busy").await);
    insert(&database, "busy", 0..1).await;
    assert_eq!(
        keys(&poll(sidecar.listen, &format!("/_events/busy?lastEventId={busy}")).await),
        [0]
    );
    let target = format!("/_events/quiet?lastEventId={start}&wait=50ms");
    let empty = poll(sidecar.listen, &target).await;
    assert_eq!(empty["events"], json!([]));
    assert!(next(&empty) > start);
    sidecar.finish().await;
}

// Else who polls a quiet stream would come back, after a long wait, from where it was before.
#[tokio::test]
async fn the_position_moves_on_while_a_poll_waits() {
    let database = unique("poll");
    let filters = Filters::new(&[
        ("quiet", &filter(&format!("{database}.quiet"), "")),
        ("busy", &filter(&format!("{database}.busy"), "")),
    ]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let listen = sidecar.listen;
    // On a slow machine, what is inserted may be read only when a short wait is over.
    for attempt in 0..6 {
        let start = next(&poll(listen, "/_events/quiet").await);
        let busy = next(&poll(listen, "/_events/busy").await);
        let target = format!("/_events/quiet?lastEventId={start}&wait={}s", 1 << attempt);
        let waiting = tokio::spawn(async move { poll(listen, &target).await });
        until("it waits", || async {
            let open = metric(sidecar.admin, "sidestream_subscriptions{stream=\"quiet\"}");
            waiting.is_finished() || open.await == 1.0
        })
        .await;
        insert(&database, "busy", attempt..attempt + 1).await;
        let event = next(&poll(listen, &format!("/_events/busy?lastEventId={busy}")).await);
        let answer = waiting.await.expect("an answer");
        assert_eq!(answer["events"], json!([]));
        if next(&answer) > event {
            return sidecar.finish().await;
        }
    }
    panic!("its position stays where it was when it came");
}

// What came before this sidecar is read from the oplog, which takes a moment: a client that waits less,
// and repeats its poll, would never get it.
#[tokio::test]
async fn what_was_missed_is_read_whatever_the_wait() {
    let database = unique("poll");
    let filters = Filters::new(&[("a", &filter(&format!("{database}.a"), ""))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let start = next(&poll(sidecar.listen, "/_events/a").await);
    insert(&database, "a", 0..2).await;
    sidecar.finish().await;

    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut target = format!("/_events/a?wait=0s&lastEventId={start}");
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let answer = poll(sidecar.listen, &target).await;
        let keys = keys(&answer);
        assert!(!keys.is_empty(), "nothing, and it has missed something: {answer}");
        seen.extend(keys);
        target = format!("/_events/a?wait=0s&lastEventId={}", next(&answer));
    }
    assert_eq!(seen, [0, 1]);
    // Nothing is missing, and nothing is waited for.
    assert_eq!(poll(sidecar.listen, &target).await["events"], json!([]));
    sidecar.finish().await;
}

// Each answer with a few of them would be a query of its own.
#[tokio::test]
async fn what_was_missed_comes_in_few_answers() {
    let database = unique("poll");
    let collection = format!("{database}.a");
    let filters = Filters::new(&[("a", &filter(&collection, "")), ("b", &filter(&collection, ""))]);
    // Most of it is in the oplog alone.
    let small = [("SIDESTREAM_REPLAY__MAX_BYTES", "64KiB")];
    let sidecar = sidecar::start(&mongo::uri(), &filters, &small).await;
    let one = next(&poll(sidecar.listen, "/_events/a").await);
    let two = next(&poll(sidecar.listen, "/_events?stream=a&stream=b").await);
    let mut witness = Lines::open(sidecar.listen, "/_events/a", "").await;
    witness.event().await;
    let documents = (0..500_i64).map(|id| doc! { "_id": id, "pad": "x".repeat(100) });
    super::collection(&database, "a").await.insert_many(documents).await.unwrap();
    while key(&witness.event().await) < 499 {}
    // As far as it can be read in a while, which depends on the machine, and by far not one by one.
    for (streams, start, count) in [("/a?", one, 500), ("?stream=a&stream=b&", two, 1000)] {
        let (mut found, mut resume, mut polls) = (Vec::new(), start, 0);
        while found.len() < count {
            let target = format!("/_events{streams}wait=0s&lastEventId={resume}");
            let answer = poll(sidecar.listen, &target).await;
            found.extend(keys(&answer));
            (resume, polls) = (next(&answer), polls + 1);
            assert!(polls <= 5, "{} of {count} events in {polls} polls", found.len());
        }
        found.sort_unstable();
        let each = count / 500;
        assert_eq!(found, Vec::from_iter((0..500).flat_map(|key| std::iter::repeat_n(key, each))));
    }
    // A HEAD waits for nothing, and does not know how long the answer would be.
    let head = http::request(sidecar.listen, "HEAD", "/_events/a", ACCEPT).await.head;
    assert_eq!((head.status, head.field("content-length")), (200, None));
    assert_eq!(head.field("content-type"), Some("application/json"));
    sidecar.finish().await;
}

// It would be answered at the end of its wait, and so would each after it.
#[tokio::test]
async fn an_event_does_not_wait_for_a_stream_that_gets_nowhere() {
    let own = mongo::Own::start(mongo::Setup::default()).await;
    let database = unique("poll");
    let (plain, orders) = (format!("{database}.a"), format!("{database}.orders"));
    let filters = Filters::new(&[
        ("a", &filter(&plain, "")),
        ("orders", &filter(&orders, "snapshot: true\n")),
    ]);
    let sidecar = sidecar::start(&own.uri(), &filters, &[]).await;
    let start = next(&poll(sidecar.listen, "/_events?stream=a").await);
    let what = doc! { "failCommands": ["find"], "namespace": orders, "errorCode": 246 };
    let point = doc! { "configureFailPoint": "failCommand", "mode": "alwaysOn", "data": what };
    own.admin(point).await.expect("a fail point");
    let written = own.client().await.database(&database).collection("a");
    written.insert_one(doc! { "_id": 1_i64 }).await.expect("a write");
    let target = format!("/_events?stream=a&stream=orders&wait=60s&lastEventId={start}");
    let answer = poll(sidecar.listen, &target).await;
    assert_eq!(keys(&answer), [1]);
    // What waits has lost nothing by it.
    own.heal().await;
    let target = format!("/_events?stream=a&stream=orders&wait=60s&lastEventId={}", next(&answer));
    let answer = poll(sidecar.listen, &target).await;
    assert_eq!(answer["events"][0]["event"], "snapshot", "{answer}");
    sidecar.finish().await;
}

#[tokio::test]
async fn a_connection_polls_again_and_who_leaves_is_noticed() {
    let database = unique("poll");
    let filters = Filters::new(&[("a", &filter(&format!("{database}.a"), ""))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let start = next(&poll(sidecar.listen, "/_events/a").await);
    let request = |wait: &str| {
        format!(
            "GET /_events/a?lastEventId={start}&wait={wait} HTTP/1.1\r\nHost: a\r\n{ACCEPT}\r\n"
        )
    };
    let mut connection = Connection::open(sidecar.listen).await;
    // The second one comes while the first is waited for.
    connection.send(request("100ms")).await;
    connection.send(request("0s")).await;
    for _ in 0..2 {
        let answer = connection.answer("GET").await.expect("an answer");
        assert_eq!(answer.json()["events"], json!([]));
    }
    connection.send(request("60s")).await;
    let open = "sidestream_connections{transport=\"poll\"}";
    until("it waits", || async { metric(sidecar.admin, open).await == 1.0 }).await;
    drop(connection);
    until("it is noticed", || async { metric(sidecar.admin, open).await == 0.0 }).await;
    sidecar.finish().await;
}
