//! HTTP/2 frame by frame: what clients with libraries of their own do not show, or do not do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::poll_fn;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request};
use mongodb::bson::{Document, doc};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::app::{App, Step, pattern, send};
use super::bodies::resident_peak;
use super::{NO_MONGODB, Pair};
use crate::support::sidecar::{self, Filters, Program};
use crate::support::{PATIENCE, mongo, unique, until};

pub type Sender = SendRequest<Bytes>;
pub type Ending = JoinHandle<Result<(), h2::Error>>;

pub async fn open_with(address: SocketAddr, settings: &Builder) -> (Sender, Ending) {
    let socket = TcpStream::connect(address).await.expect("a connection");
    let (sender, connection) = settings.handshake(socket).await.expect("a handshake");
    (sender, tokio::spawn(connection))
}

pub async fn open(address: SocketAddr) -> (Sender, Ending) {
    open_with(address, &Builder::new()).await
}

pub fn get(target: &str, case: &str) -> Request<()> {
    let uri = format!("http://app.test{target}");
    Request::get(uri).header("x-case", case).body(()).expect("a request")
}

pub async fn ask(sender: &Sender, request: Request<()>) -> ResponseFuture {
    let mut ready = sender.clone().ready().await.expect("room for a stream");
    ready.send_request(request, true).expect("it is sent").0
}

pub async fn head_of(answer: ResponseFuture) -> http::Response<RecvStream> {
    let head = tokio::time::timeout(PATIENCE, answer).await.expect("a head in time");
    head.expect("a head")
}

pub async fn status_of(sender: &Sender, request: Request<()>) -> u16 {
    head_of(ask(sender, request).await).await.status().as_u16()
}

#[tokio::test(start_paused = true)]
async fn a_body_that_pauses_for_a_minute_is_not_waited_for() {
    let minute = [("SIDESTREAM_CLIENTS__SEND_TIMEOUT", "60s")];
    let pair = Pair::start_with(&minute).await;
    pair.app.on("slow", [Step::Drain(Arc::default()), send("HTTP/1.1 200 OK\r\n\r\n")]);
    let (sender, _ending) = open(pair.proxy()).await;
    let mut ready = sender.clone().ready().await.expect("room for a stream");
    let request = Request::post("http://app.test/").header("x-case", "slow").body(());
    let began = tokio::time::Instant::now();
    let (answer, mut body) = ready.send_request(request.unwrap(), false).expect("it is sent");
    body.send_data(Bytes::from_static(b"abc"), false).expect("it is sent");
    assert_eq!(answer.await.expect("a head").status(), 408);
    assert!((60..70).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

/// A piece of a body; the client has room for as much again.
pub async fn piece_of(body: &mut RecvStream) -> Option<Result<Bytes, h2::Error>> {
    let piece = tokio::time::timeout(PATIENCE, body.data()).await.expect("a piece in time")?;
    if let Ok(piece) = &piece {
        body.flow_control().release_capacity(piece.len()).expect("it was taken");
    }
    Some(piece)
}

#[tokio::test]
async fn hints_and_the_app_s_date_pass() {
    let pair = Pair::start().await;
    let date = "Tue, 01 Jan 2019 00:00:00 GMT";
    let said = format!(
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\n\r\nHTTP/1.1 103 Early Hints\r\n\
         Link: </b>\r\n\r\nHTTP/1.1 200 OK\r\nDATE: {date}\r\nContent-Length: 2\r\n\r\nok"
    );
    pair.app.on("hints", [Step::Body, send(said)]);
    let (sender, _ending) = open(pair.proxy()).await;
    let mut answer = ask(&sender, get("/", "hints")).await;
    for link in ["</a>", "</b>"] {
        let hint = poll_fn(|cx| answer.poll_informational(cx));
        let hint = tokio::time::timeout(PATIENCE, hint).await.expect("in time");
        let hint = hint.expect("a hint").expect("a hint");
        assert_eq!(
            (hint.status().as_u16(), &hint.headers()["link"]),
            (103, &link.parse().unwrap())
        );
        assert_eq!(hint.headers().len(), 1, "{:?}", hint.headers());
    }
    let answer = head_of(answer).await;
    let dates: Vec<_> = answer.headers().get_all("date").iter().collect();
    assert_eq!(dates, [date]);
    pair.finish().await;
}

#[tokio::test]
async fn an_app_that_was_asked_to_says_continue() {
    let pair = Pair::start().await;
    let proceed = send("HTTP/1.1 100 Continue\r\n\r\n");
    let ok = send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    pair.app.on("expects", [proceed, Step::Body, ok]);
    let (sender, _ending) = open(pair.proxy()).await;
    let mut sender = sender.ready().await.expect("room for a stream");
    let mut request = get("/", "expects");
    *request.method_mut() = http::Method::POST;
    request.headers_mut().insert("expect", "100-continue".parse().unwrap());
    let (mut answer, mut body) = sender.send_request(request, false).expect("it is sent");
    let proceed = poll_fn(|cx| answer.poll_informational(cx));
    let proceed = tokio::time::timeout(PATIENCE, proceed).await.expect("in time");
    assert_eq!(proceed.expect("a head").expect("a head").status(), 100);
    body.send_data(Bytes::from("some"), false).expect("it is sent");
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "1".parse().unwrap());
    body.send_trailers(trailers).expect("they are sent");
    assert_eq!(head_of(answer).await.status(), 200);
    let reached = pair.app.take().remove(0);
    assert_eq!(reached.field("expect").as_deref(), Some("100-continue"));
    assert_eq!(
        (&reached.body[..], &reached.trailers[..]),
        (&b"some"[..], &["X-Sum: 1".into()][..])
    );
    pair.finish().await;
}

/// Nobody takes half an answer for a whole one, and what came is not lost.
#[tokio::test]
async fn an_answer_that_is_cut_short_is_reset_behind_what_came_of_it() {
    let pair = Pair::start().await;
    let (sender, _ending) = open(pair.proxy()).await;
    for framing in
        ["Content-Length: 9\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"]
    {
        let said = format!("HTTP/1.1 200 OK\r\n{framing}");
        pair.app.on("cut", [Step::Body, send(said), Step::Close]);
        let answer = head_of(ask(&sender, get("/", "cut")).await).await;
        assert_eq!(answer.status(), 200);
        let mut body = answer.into_body();
        assert_eq!(piece_of(&mut body).await.expect("a piece").expect("a piece"), "abc");
        let error = piece_of(&mut body).await.expect("an end").expect_err("no clean one");
        assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
    }
    assert_eq!(status_of(&sender, get("/", "")).await, 200);
    pair.finish().await;
}

#[tokio::test]
async fn what_has_two_readings_is_refused_as_over_http_1() {
    let pair = Pair::start().await;
    let (sender, _ending) = open(pair.proxy()).await;
    let connect = || {
        let request = Request::builder().method("CONNECT").uri("app.test:80");
        request.body(()).expect("a request")
    };
    let with = |fields: &[(&'static str, &str)]| {
        let mut request = get("/", "");
        for (name, value) in fields {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        request
    };
    let many: Vec<_> = (0..128).map(|_| ("x", "1")).collect();
    for (request, status) in [
        (connect(), 405),
        (with(&[("host", "other.test")]), 400),
        (with(&[("host", "app.test")]), 200),
        (with(&[("content_length", "3")]), 400),
        (with(&[("x-forwarded_for", "1")]), 400),
        (with(&many), 431),
        (get("/_events/%2e%2e/x", ""), 400),
        (get("/a/../_events", ""), 400),
    ] {
        let line = format!("{} {:?}", request.uri(), request.headers().keys().last());
        let answer = head_of(ask(&sender, request).await).await;
        assert_eq!(answer.status(), status, "{line}");
        if status == 200 {
            continue;
        }
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        assert!(answer.headers().contains_key("date"));
        let body = piece_of(&mut answer.into_body()).await.expect("a body").expect("a body");
        let problem: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(problem["status"], status, "{line}");
    }
    let metric = "sidestream_proxy_requests_total{code=\"400\"}";
    assert_eq!(sidecar::metric(pair.sidecar.admin, metric).await, 5.0);
    assert_eq!(pair.app.take().len(), 1);
    pair.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_flow_in_flat_memory() {
    const MUCH: usize = 128 * 1024 * 1024;
    let app = App::start().await;
    let filters = Filters::new(&[]);
    let path = filters.path().display().to_string();
    let address = format!("http://{}", app.address);
    let arguments = ["--app", &address, "--filters", &path, "--mongodb", NO_MONGODB, "--wait"];
    let program = Program::start(&arguments, &[]).await;
    let mut settings = Builder::new();
    settings.initial_window_size(1 << 20).initial_connection_window_size(1 << 20);
    let (sender, _ending) = open_with(program.listen, &settings).await;
    assert_eq!(status_of(&sender, get("/", "")).await, 200);
    let before = resident_peak(program.id());
    let received = Arc::new(AtomicUsize::new(0));
    let ok = send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    app.on("up", [Step::Drain(received.clone()), ok]);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {MUCH}\r\n\r\n");
    app.on("down", [Step::Body, send(head), Step::Generate(MUCH)]);

    let mut request = get("/", "up");
    *request.method_mut() = http::Method::POST;
    let mut ready = sender.clone().ready().await.expect("room for a stream");
    let (answer, mut body) = ready.send_request(request, false).expect("it is sent");
    let up = tokio::spawn(async move {
        let mut left = Bytes::new();
        for _ in 0..MUCH / pattern().len() {
            left = if left.is_empty() { pattern().into() } else { left };
            while !left.is_empty() {
                body.reserve_capacity(left.len());
                let room = poll_fn(|cx| body.poll_capacity(cx)).await;
                let room = room.expect("it is open").expect("it is open");
                body.send_data(left.split_to(room.min(left.len())), false).expect("it is sent");
            }
        }
        body.send_data(Bytes::new(), true).expect("it is sent");
    });
    let mut body = head_of(ask(&sender, get("/", "down")).await).await.into_body();
    let block = pattern();
    let mut at = 0;
    while let Some(piece) = piece_of(&mut body).await {
        let mut piece = piece.expect("a piece");
        while !piece.is_empty() {
            let expected = &block[at % block.len()..];
            let length = expected.len().min(piece.len());
            assert!(piece.split_to(length) == expected[..length], "changed at {at}");
            at += length;
        }
    }
    assert_eq!(at, MUCH);
    up.await.expect("the upload");
    assert_eq!(head_of(answer).await.status(), 200);
    assert_eq!(received.load(Ordering::SeqCst), MUCH, "bytes were lost or changed");
    let grown = resident_peak(program.id()) - before;
    assert!(grown < 24 * 1024, "{grown} KiB");
}

/// One client of an event stream has no room for it; the others on its connection do.
#[tokio::test]
async fn a_stream_that_is_not_read_holds_up_no_other() {
    let database = unique("stalled");
    let app = App::start().await;
    let filter = format!("collection: {database}.orders\naccess: public\n");
    let filters = Filters::new(&[("orders", &filter)]);
    let sidecar = sidecar::start_before(app.address, &mongo::uri(), &filters, &[]).await;
    until("the sidecar is ready", || async { sidecar.is_ready() }).await;
    let mut settings = Builder::new();
    settings.initial_window_size(1000).initial_connection_window_size(1 << 20);
    let (sender, _ending) = open_with(sidecar.listen, &settings).await;
    let stalled = head_of(ask(&sender, get("/_events/orders", "")).await).await;
    let _never_read = head_of(ask(&sender, get("/_events/orders", "")).await).await;
    let mut read = head_of(ask(&sender, get("/_events/orders", "")).await).await.into_body();
    let client = mongodb::Client::with_uri_str(mongo::uri()).await.expect("a client");
    let orders = client.database(&database).collection::<Document>("orders");
    for number in 0..20 {
        let long = "x".repeat(1000);
        orders.insert_one(doc! { "_id": number, "long": long }).await.expect("an insert");
    }
    let mut seen = Vec::new();
    let count = |seen: &[u8]| String::from_utf8_lossy(seen).matches("event: insert").count();
    while count(&seen) < 20 {
        seen.extend(piece_of(&mut read).await.expect("it goes on").expect("it goes on"));
    }
    assert_eq!(status_of(&sender, get("/", "")).await, 200);
    // Who begins to read gets what was missed.
    let mut body = stalled.into_body();
    let mut late = Vec::new();
    while count(&late) < 20 {
        late.extend(piece_of(&mut body).await.expect("it goes on").expect("it goes on"));
    }
    // Who never does is no reason to stay.
    let began = Instant::now();
    sidecar.finish().await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn goodbye_is_said_to_everybody() {
    let database = unique("h2_goodbye");
    let app = App::start().await;
    let filter = format!("collection: {database}.orders\naccess: public\n");
    let filters = Filters::new(&[("orders", &filter)]);
    let sidecar = sidecar::start_before(app.address, &mongo::uri(), &filters, &[]).await;
    until("the sidecar is ready", || async { sidecar.is_ready() }).await;
    let go = Arc::new(Notify::new());
    let ok = send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    app.on("slow", [Step::Body, Step::Wait(go.clone()), ok]);
    let (idle, idle_ends) = open(sidecar.listen).await;
    assert_eq!(status_of(&idle, get("/", "")).await, 200);
    let (busy, busy_ends) = open(sidecar.listen).await;
    let mut events = head_of(ask(&busy, get("/_events/orders", "")).await).await.into_body();
    let slow = ask(&busy, get("/", "slow")).await;
    until("the app is asked", || async { app.reached().len() == 2 }).await;

    let finishing = tokio::spawn(sidecar.finish());
    // The idle one goes at once, the other one when its streams have ended.
    let ended = tokio::time::timeout(PATIENCE, idle_ends).await.expect("in time");
    ended.expect("no panic").expect("a clean end");
    assert!(idle.ready().await.is_err(), "no more requests here");
    go.notify_one();
    assert_eq!(head_of(slow).await.status(), 200);
    while let Some(piece) = piece_of(&mut events).await {
        piece.expect("a clean end");
    }
    let ended = tokio::time::timeout(PATIENCE, busy_ends).await.expect("in time");
    ended.expect("no panic").expect("a clean end");
    finishing.await.expect("it ends");
}
