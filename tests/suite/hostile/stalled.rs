//! Attacks by making no progress: readers that do not read, uploads that do not come or that the app
//! does not take, and what must not be taken for one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use h2::client::Builder;
use http::Request;
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

use crate::proxy::app::{App, Step, limit_buffers, send};
use crate::proxy::bodies::resident_peak;
use crate::proxy::frames::{ask as ask_h2, get, head_of, open, open_with, piece_of, status_of};
use crate::proxy::raw::{Raw, ask};
use crate::proxy::{NO_MONGODB, Pair};
use crate::support::sidecar::{self, Filters, Program};
use crate::support::{PATIENCE, until};

const MUCH: usize = 64 * 1024 * 1024;
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
/// Soon, so that a test does not take long; and long enough for a loaded machine to be alive.
const SOON: [(&str, &str); 1] = [("SIDESTREAM_CLIENTS__SEND_TIMEOUT", "1500ms")];

fn case(name: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\nX-Case: {name}\r\n\r\n")
}

fn upload(name: &str, length: usize) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\nX-Case: {name}\r\nContent-Length: {length}\r\n\r\n")
}

fn long() -> [Step; 3] {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {MUCH}\r\n\r\n");
    [Step::Body, send(head), Step::Generate(MUCH)]
}

/// Requests that ended without an answer.
async fn left(pair: &Pair) -> f64 {
    sidecar::metric(pair.sidecar.admin, "sidestream_proxy_requests_total{code=\"0\"}").await
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_let_go() {
    let pair = Pair::start_with(&SOON).await;
    pair.app.on("long", long());
    let mut raw = Raw::open(pair.proxy()).await;
    raw.send(case("long")).await;
    raw.head().await.expect("a head");
    until("the app's connection is closed", || async { pair.app.open() == 0 }).await;
    // What the kernel still has of it comes to an end long before the answer's.
    let mut read = 0;
    while raw.fill().await {
        read += std::mem::take(&mut raw.buffer).len();
    }
    assert!(read < MUCH / 2, "{read}");
    pair.finish().await;
}

#[tokio::test]
async fn a_slow_reader_is_not_let_go() {
    let pair = Pair::start_with(&SOON).await;
    const LENGTH: usize = 4 * 1024 * 1024;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
    pair.app.on("slow", [Step::Body, send(head), Step::Generate(LENGTH)]);
    let mut raw = Raw::open(pair.proxy()).await;
    socket2::SockRef::from(&raw.socket).set_recv_buffer_size(64 * 1024).expect("SO_RCVBUF");
    raw.send(case("slow")).await;
    raw.head().await.expect("a head");
    let (mut read, began) = (raw.buffer.len(), Instant::now());
    let mut pace = tokio::time::interval(Duration::from_millis(40));
    while read < LENGTH {
        pace.tick().await;
        raw.buffer.clear();
        assert!(raw.fill().await, "cut at {read} after {:?}", began.elapsed());
        read += raw.buffer.len();
    }
    assert!(began.elapsed() > Duration::from_millis(1500), "too fast to show anything");
    pair.finish().await;
}

#[tokio::test]
async fn a_reader_that_gives_a_stream_no_window_is_let_go() {
    let pair = Pair::start_with(&SOON).await;
    pair.app.on("long", long());
    let mut settings = Builder::new();
    settings.initial_window_size(10).initial_connection_window_size(1 << 30);
    let (sender, _ending) = open_with(pair.proxy(), &settings).await;
    let mut answers = Vec::new();
    for _ in 0..8 {
        answers.push(head_of(ask_h2(&sender, get("/", "long")).await).await);
    }
    until("the app's connections are closed", || async { pair.app.open() == 0 }).await;
    for answer in answers {
        let mut body = answer.into_body();
        let error = loop {
            match body.data().await.expect("an end") {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.reason(), Some(Reason::CANCEL));
    }
    // The connection is as good as ever.
    assert_eq!(status_of(&sender, get("/", "none")).await, 200);
    pair.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_do_not_read_take_little_memory() {
    let app = App::start_with(limit_buffers).await;
    let filters = Filters::new(&[]);
    let path = filters.path().display().to_string();
    let address = format!("http://{}", app.address);
    let arguments = ["--app", &address, "--filters", &path, "--mongodb", NO_MONGODB, "--wait"];
    let program = Program::start(&arguments, &[]).await;
    app.on("long", long());
    let (sender, _ending) = open(program.listen).await;
    assert_eq!(status_of(&sender, get("/", "none")).await, 200);
    let before = resident_peak(program.id());
    // HTTP/2: 256 streams without a window on each of two connections.
    let mut settings = Builder::new();
    settings.initial_window_size(10).initial_connection_window_size(1 << 30);
    let mut answers = Vec::new();
    let mut senders = Vec::new();
    for _ in 0..2 {
        let (sender, ending) = open_with(program.listen, &settings).await;
        for _ in 0..250 {
            answers.push(head_of(ask_h2(&sender, get("/", "long")).await).await);
        }
        senders.push((sender, ending));
    }
    // HTTP/1: as many connections.
    let mut raws = Vec::new();
    for _ in 0..300 {
        let mut raw = Raw::open(program.listen).await;
        limit_buffers(&raw.socket);
        raw.send(case("long")).await;
        raw.head().await.expect("a head");
        raws.push(raw);
    }
    // Until nobody reads any more.
    let mut peak = 0;
    let mut pace = tokio::time::interval(Duration::from_millis(500));
    while resident_peak(program.id()) > peak {
        peak = resident_peak(program.id());
        pace.tick().await;
        pace.tick().await;
    }
    assert_eq!(ask(program.listen, "GET", case("none")).await.status(), 200);
    let grown = peak - before;
    assert!(grown < 96 * 1024, "{grown} KiB");
}

#[tokio::test]
async fn an_upload_that_does_not_come_is_let_go() {
    let pair = Pair::start_with(&SOON).await;
    pair.app.on("up", [Step::Drain(Arc::default()), send(OK)]);
    let mut raw = Raw::open(pair.proxy()).await;
    raw.send(upload("up", 1000)).await.send("some").await;
    assert_eq!(raw.answer("POST").await.expect("an answer").status(), 408);
    let (sender, _ending) = open(pair.proxy()).await;
    let mut ready = sender.clone().ready().await.expect("room for a stream");
    let request = Request::post("http://app.test/").header("x-case", "up").body(());
    let (answer, mut body) = ready.send_request(request.unwrap(), false).expect("it is sent");
    body.send_data(Bytes::from_static(b"some"), false).expect("it is sent");
    assert_eq!(head_of(answer).await.status(), 408);
    until("the app's connections are closed", || async { pair.app.open() == 0 }).await;
    pair.finish().await;
}

/// An answer that has begun is no reason to wait for ever for a request that does not end.
#[tokio::test]
async fn an_upload_that_stops_behind_the_beginning_of_an_answer_is_let_go() {
    let pair = Pair::start_with(&SOON).await;
    let gone = Arc::new(Notify::new());
    let begin = send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    pair.app.on("early", [begin, Step::UntilGone(gone.clone())]);
    let mut raw = Raw::open(pair.proxy()).await;
    raw.send(upload("early", 1000)).await.send("some").await;
    raw.head().await.expect("a head");
    tokio::time::timeout(PATIENCE, gone.notified()).await.expect("the app hears of it");
    let (sender, _ending) = open(pair.proxy()).await;
    let mut ready = sender.clone().ready().await.expect("room for a stream");
    let request = Request::post("http://app.test/").header("x-case", "early").body(());
    let (answer, _body) = ready.send_request(request.unwrap(), false).expect("it is sent");
    assert_eq!(head_of(answer).await.status(), 200);
    tokio::time::timeout(PATIENCE, gone.notified()).await.expect("the app hears of it");
    pair.finish().await;
}

/// Small enough for the kernels, and too large for them.
#[tokio::test]
async fn a_client_leaves_while_the_app_does_not_take_its_upload() {
    let pair = Pair::start().await;
    let never = Arc::new(Notify::new());
    pair.app.on("deaf", [Step::Wait(never.clone()), send(OK)]);
    for (at, is_reset) in [(0, false), (1, true)] {
        let mut raw = Raw::open(pair.proxy()).await;
        raw.send(upload("deaf", MUCH)).await;
        // As much as goes: until nothing has gone for a while.
        let block = vec![0; 64 * 1024];
        let full = Duration::from_millis(300);
        while let Ok(written) = tokio::time::timeout(full, raw.socket.write_all(&block)).await {
            written.expect("it is taken");
        }
        assert_eq!(left(&pair).await, f64::from(at));
        if is_reset {
            raw.socket.set_zero_linger().expect("SO_LINGER");
        }
        drop(raw);
        until("it is noticed", || async { left(&pair).await == f64::from(at + 1) }).await;
    }
    pair.finish().await;
}

/// Nor does its client lose anything when the app takes the upload late, after it was read ahead.
#[tokio::test]
async fn an_app_that_is_slow_is_no_attack() {
    let pair = Pair::start_with(&SOON).await;
    let go = Arc::new(Notify::new());
    let received = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    pair.app.on("late", [Step::Wait(go.clone()), Step::Drain(received.clone()), send(OK)]);
    pair.app.on("poll", [Step::Body, Step::Wait(go.clone()), send(OK)]);
    let begin = send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    let rest = send("1\r\nb\r\n0\r\n\r\n");
    pair.app.on("report", [Step::Body, begin, Step::Wait(go.clone()), rest]);
    let switch = send("HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    pair.app.on("socket", [switch, Step::Echo]);
    const LENGTH: usize = 16 * 1024 * 1024;

    let listen = pair.proxy();
    let uploading = tokio::spawn(async move {
        let mut raw = Raw::open(listen).await;
        raw.send(upload("late", LENGTH)).await;
        let block = crate::proxy::app::pattern();
        for _ in 0..LENGTH / block.len() {
            raw.socket.write_all(&block).await.expect("it is taken");
        }
        raw.answer("POST").await.expect("an answer").status()
    });
    let (sender, _ending) = open(listen).await;
    let over_h2 = ask_h2(&sender, get("/", "poll")).await;
    let mut polls = Vec::new();
    for name in ["poll", "report"] {
        let mut raw = Raw::open(listen).await;
        raw.send(case(name)).await;
        polls.push(raw);
    }
    let mut socket = Raw::open(listen).await;
    socket
        .send("GET / HTTP/1.1\r\nHost: a\r\nX-Case: socket\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await;
    socket.head().await.expect("a head");
    until("the app is asked", || async { pair.app.reached().len() == 5 }).await;
    // Several times as long as a client may be silent, and long enough to be read ahead: what must
    // not happen would happen by time alone. What comes afterwards is asked for below.
    assert!(socket.is_quiet_for(Duration::from_secs(8)).await);
    for _ in 0..4 {
        go.notify_one();
    }
    assert_eq!(uploading.await.expect("no panic"), 200);
    assert_eq!(received.load(std::sync::atomic::Ordering::SeqCst), LENGTH);
    assert_eq!(head_of(over_h2).await.status(), 200);
    for mut raw in polls {
        assert_eq!(raw.answer("GET").await.expect("an answer").status(), 200);
    }
    socket.send("hello").await;
    assert_eq!(socket.exactly(5).await.as_deref(), Some(b"hello".as_slice()));
    pair.finish().await;
}

#[tokio::test]
async fn an_app_may_be_given_a_time() {
    let pair = Pair::start_with(&[("SIDESTREAM_APP_READ_TIMEOUT", "1s")]).await;
    let never = Arc::new(Notify::new());
    pair.app.on("silent", [Step::Body, Step::Wait(never.clone()), send(OK)]);
    let begin = send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    pair.app.on("half", [Step::Body, begin, Step::Wait(never.clone())]);
    pair.app.on("up", [Step::Drain(Arc::default()), send(OK)]);
    assert_eq!(ask(pair.proxy(), "GET", case("silent")).await.status(), 504);
    let mut raw = Raw::open(pair.proxy()).await;
    raw.send(case("half")).await;
    raw.head().await.expect("a head");
    assert_eq!(raw.rest().await, b"1\r\na\r\n");
    let (sender, _ending) = open(pair.proxy()).await;
    assert_eq!(status_of(&sender, get("/", "silent")).await, 504);
    let mut body = head_of(ask_h2(&sender, get("/", "half")).await).await.into_body();
    assert_eq!(piece_of(&mut body).await.expect("a piece").expect("a piece"), "a");
    let error = piece_of(&mut body).await.expect("an end").expect_err("no clean one");
    assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
    // It is silent while a request comes, as it has to be: together for longer than its time, which
    // nothing but time can show. The answer at the end is the proof.
    let mut raw = Raw::open(pair.proxy()).await;
    raw.send(upload("up", 4)).await;
    for byte in ["a", "b", "c", "d"] {
        assert!(raw.is_quiet_for(Duration::from_millis(600)).await);
        raw.send(byte).await;
    }
    assert_eq!(raw.answer("POST").await.expect("an answer").status(), 200);
    pair.finish().await;
}
