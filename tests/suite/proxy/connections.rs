//! What happens on one connection: requests one after the other and at once, slow ones, clients
//! that leave.

use std::sync::Arc;

use mongodb::bson::{Document, doc};
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

use super::Pair;
use super::app;
use super::app::{Step, send};
use super::raw::{Raw, ask};
use crate::support::sidecar::{self, Filters};
use crate::support::{PATIENCE, mongo, unique, until};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")
}

fn post(target: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn post_chunked(target: &str, body: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
}

fn targets(pair: &Pair) -> Vec<String> {
    let line = |reached: app::Reached| reached.line();
    let target = |line: String| line.split(' ').nth(1).unwrap_or_default().to_string();
    pair.app.take().into_iter().map(line).map(target).collect()
}

#[tokio::test]
async fn a_connection_is_used_again_on_both_sides() {
    let pair = Pair::start().await;
    let mut raw = Raw::open(pair.proxy()).await;
    for (at, request) in
        [get("/0"), post("/1", "abc"), get("/2"), post("/3", ""), get("/4")].iter().enumerate()
    {
        raw.send(request).await;
        let answer = raw.answer("GET").await.expect("an answer");
        assert_eq!((answer.status(), answer.text().as_str()), (200, "ok"), "{at}");
        assert_eq!(answer.field("connection"), Some("keep-alive"));
    }
    assert_eq!(pair.app.connections(), 1);
    assert_eq!(targets(&pair), ["/0", "/1", "/2", "/3", "/4"]);
    pair.finish().await;
}

#[tokio::test]
async fn requests_may_come_at_once_behind_any_body() {
    let pair = Pair::start().await;
    let mut all = Vec::new();
    let mut expected = Vec::new();
    for at in 0..30 {
        let target = format!("/{at}");
        all.push(match at % 4 {
            0 => post(&target, "0123456789"),
            // One empty line too many, as old clients send it.
            1 => format!("\r\n{}", get(&target)),
            2 => post_chunked(&target, "3\r\nabc\r\n0\r\nX: 1\r\n\r\n"),
            _ => get(&target),
        });
        expected.push(target);
    }
    let mut raw = Raw::open(pair.proxy()).await;
    raw.send(all.concat()).await;
    for at in 0..30 {
        let answer = raw.answer("GET").await.unwrap_or_else(|| panic!("answer {at}"));
        assert_eq!(answer.text(), "ok");
    }
    assert_eq!(targets(&pair), expected);
    pair.finish().await;
}

#[tokio::test]
async fn a_request_may_come_byte_by_byte() {
    let pair = Pair::start().await;
    let mut raw = Raw::open(pair.proxy()).await;
    for byte in
        [post("/1", "abc"), post_chunked("/2", "3\r\nabc\r\n0\r\nX: 1\r\n\r\n")].concat().bytes()
    {
        raw.send([byte]).await;
    }
    for _ in 0..2 {
        assert_eq!(raw.answer("POST").await.expect("an answer").text(), "ok");
    }
    assert_eq!(pair.app.reached()[1].trailers, ["X: 1"]);
    assert!(pair.app.reached().iter().all(|reached| reached.body == b"abc"));
    pair.finish().await;
}

/// What one reader takes for a body and another for a request comes to the gate, or nowhere.
#[tokio::test]
async fn nothing_reaches_the_app_unseen() {
    let pair = Pair::start().await;
    let smuggled = get("/_events/../admin");
    let chunked = |body: &str| format!("{}{smuggled}", post_chunked("/x", body));
    for (row, bytes) in [
        ("behind a body by length", format!("{}{smuggled}", post("/x", "abc"))),
        ("behind no body", format!("{}{smuggled}", get("/x"))),
        ("behind a chunked body", chunked("3\r\nabc\r\n0\r\n\r\n")),
        ("behind trailers", chunked("0\r\nContent-Length: 50\r\n\r\n")),
    ] {
        let mut raw = Raw::open(pair.proxy()).await;
        raw.send(bytes).await;
        assert_eq!(raw.answer("POST").await.expect("an answer").status(), 200, "{row}");
        assert_eq!(raw.answer("GET").await.expect("a refusal").status(), 400, "{row}");
        assert!(raw.rest().await.is_empty(), "{row}");
        assert_eq!(targets(&pair), ["/x"], "{row}");
    }
    for body in [
        "3\nabc\r\n0\r\n\r\n",
        "3;\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "fffffffffffffffff\r\n",
        "0\r\n X: folded\r\n\r\n",
        "0\r\nX : 1\r\n\r\n",
        "0\r\n\n",
    ] {
        for is_late in [false, true] {
            let mut raw = Raw::open(pair.proxy()).await;
            let (head, rest) = (post_chunked("/x", ""), format!("{body}{smuggled}"));
            if is_late {
                raw.send(head).await;
                until("the head reached the app", || async { !pair.app.reached().is_empty() })
                    .await;
                raw.send(rest).await;
            } else {
                raw.send(head + &rest).await;
            }
            let answer = raw.answer("POST").await.unwrap_or_else(|| panic!("{body:?} {is_late}"));
            assert_eq!(answer.status(), 400, "{body:?}");
            assert!(raw.rest().await.is_empty(), "{body:?}");
            let reached = pair.app.take();
            assert!(
                reached.iter().all(|one| one.line().contains("/x") && !one.is_whole),
                "{body:?}"
            );
        }
    }
    pair.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_head_has_to_be_complete_in_time() {
    let pair = Pair::start().await;
    let mut raw = Raw::open(pair.proxy()).await;
    raw.send("GET / HTTP/1.1\r\nHost: a\r\n").await;
    let began = tokio::time::Instant::now();
    let answer = raw.answer("GET").await.expect("a refusal");
    assert_eq!(answer.status(), 408);
    assert!((10..20).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert!(raw.rest().await.is_empty());
    assert!(pair.app.reached().is_empty());
}

#[tokio::test]
async fn a_client_that_closes_its_half_gets_its_answer() {
    let pair = Pair::start().await;
    let go = Arc::new(Notify::new());
    let begin = send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    let steps = [Step::Body, begin, Step::Wait(go.clone()), send("1\r\nb\r\n0\r\n\r\n")];
    pair.app.on("half", steps);
    let mut raw = Raw::open(pair.proxy()).await;
    raw.send("GET / HTTP/1.1\r\nHost: a\r\nX-Case: half\r\n\r\n").await;
    raw.head().await.expect("a head");
    assert_eq!(raw.chunk().await.as_deref(), Some(b"a".as_slice()));
    raw.socket.shutdown().await.expect("a half");
    // Whoever was answered after that shares the proxy's runtime: it has seen the half closed.
    assert_eq!(ask(pair.proxy(), "GET", "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status(), 200);
    go.notify_one();
    assert_eq!(raw.chunk().await.as_deref(), Some(b"b".as_slice()));
    assert_eq!(raw.chunk().await, None);
    pair.finish().await;
}

#[tokio::test]
async fn a_client_that_is_gone_is_gone_for_the_app_too() {
    let pair = Pair::start().await;
    let gone = Arc::new(Notify::new());
    let begin = send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    pair.app.on("reset", [Step::Body, begin.clone(), Step::UntilGone(gone.clone())]);
    let mut raw = Raw::open(pair.proxy()).await;
    raw.send("GET / HTTP/1.1\r\nHost: a\r\nX-Case: reset\r\n\r\n").await;
    raw.head().await.expect("a head");
    // Closing with unread bytes, or without lingering, resets the connection.
    raw.socket.set_zero_linger().expect("SO_LINGER");
    drop(raw);
    tokio::time::timeout(PATIENCE, gone.notified()).await.expect("the app hears of it");

    // One that closes properly might still listen; but not for ever, to nothing.
    pair.app.on("quiet", [Step::Body, begin.clone(), Step::UntilGone(gone.clone())]);
    let mut raw = Raw::open(pair.proxy()).await;
    raw.send("GET / HTTP/1.1\r\nHost: a\r\nX-Case: quiet\r\n\r\n").await;
    raw.head().await.expect("a head");
    assert_eq!(raw.chunk().await.as_deref(), Some(b"a".as_slice()));
    drop(raw);
    tokio::time::timeout(PATIENCE, gone.notified()).await.expect("the app hears of it");

    // One that is written to is found out by that.
    let mut steps = vec![Step::Body, begin];
    steps.extend(std::iter::repeat_n(
        send("400\r\n".to_owned() + &"x".repeat(1024) + "\r\n"),
        20_000,
    ));
    steps.push(Step::UntilGone(gone.clone()));
    pair.app.on("close", steps);
    let mut raw = Raw::open(pair.proxy()).await;
    raw.send("GET / HTTP/1.1\r\nHost: a\r\nX-Case: close\r\n\r\n").await;
    raw.head().await.expect("a head");
    drop(raw);
    until("the app's connection is closed", || async { pair.app.open() == 0 }).await;
    pair.finish().await;
}

#[tokio::test]
async fn the_reserved_path_and_the_app_share_a_connection() {
    let database = unique("shared");
    let app = app::App::start().await;
    let filters =
        Filters::new(&[("orders", &format!("collection: {database}.orders\naccess: public\n"))]);
    let sidecar = sidecar::start_before(app.address, &mongo::uri(), &filters, &[]).await;
    until("the sidecar is ready", || async { sidecar.is_ready() }).await;
    let mut raw = Raw::open(sidecar.listen).await;
    for (request, status) in [
        (get("/"), 200),
        (get("/_events/nothing"), 404),
        (post("/x", "abc"), 200),
        (get("/_events"), 200),
        (get("/"), 200),
    ] {
        raw.send(&request).await;
        assert_eq!(raw.answer("GET").await.expect("an answer").status(), status, "{request}");
    }
    assert_eq!(app.take().len(), 3);
    // A stream takes the connection over, to its end.
    raw.send(get("/") + &get("/_events/orders")).await;
    assert_eq!(raw.answer("GET").await.expect("an answer").status(), 200);
    let head = raw.head().await.expect("a head").join("\n");
    assert!(head.contains("text/event-stream"), "{head}");
    let client = mongodb::Client::with_uri_str(mongo::uri()).await.expect("a client");
    let orders = client.database(&database).collection::<Document>("orders");
    orders.insert_one(doc! { "_id": 1 }).await.expect("an insert");
    let mut seen = String::new();
    while !seen.contains("event: insert") {
        seen += &app::latin1(&raw.chunk().await.expect("the stream goes on"));
    }
    drop(raw);

    // A body has no business there, and never reaches the app.
    app.take();
    let mut raw = Raw::open(sidecar.listen).await;
    raw.send(post("/_events/orders", &get("/smuggled"))).await;
    let answer = raw.answer("POST").await.expect("a refusal");
    assert_eq!((answer.status(), answer.field("connection")), (405, Some("close")));
    assert_eq!(answer.field("allow"), Some("GET, HEAD, OPTIONS"));
    assert!(raw.rest().await.is_empty());
    assert!(app.take().is_empty());
    sidecar.finish().await;
}

#[tokio::test]
async fn an_old_client_gets_what_it_can_read() {
    let pair = Pair::start().await;
    let chunked = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
                   HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    pair.app.on("chunked", [Step::Body, send(chunked)]);
    let answer = ask(pair.proxy(), "GET", "GET / HTTP/1.0\r\nX-Case: chunked\r\n\r\n").await;
    assert!(answer.before.is_empty());
    assert_eq!((answer.field("transfer-encoding"), answer.text().as_str()), (None, "abc"));
    pair.app.on("length", [Step::Body, send(OK)]);
    let mut raw = Raw::open(pair.proxy()).await;
    let request = "GET / HTTP/1.0\r\nConnection: keep-alive\r\nX-Case: length\r\n\r\n";
    for _ in 0..2 {
        raw.send(request).await;
        assert_eq!(raw.answer("GET").await.expect("an answer").text(), "ok");
    }
    pair.finish().await;
}
