//! Bodies as they flow: big ones, slow ones, ones that nobody waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Message;

use super::app::{self, App, Step, send};
use super::raw::{Raw, ask};
use super::{NO_MONGODB, Pair};
use crate::support::sidecar::{Filters, Program};
use crate::support::{PATIENCE, until};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GIB: usize = 1024 * 1024 * 1024;
/// What memory may grow by while a gibibyte flows both ways, in KiB.
const FLAT: u64 = 24 * 1024;

pub fn resident_peak(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_flows_both_ways_in_flat_memory() {
    let app = App::start().await;
    let filters = Filters::new(&[]);
    let program = Program::start(
        &[
            "--app",
            &format!("http://{}", app.address),
            "--filters",
            &filters.path().display().to_string(),
            "--mongodb",
            NO_MONGODB,
            "--wait",
        ],
        &[],
    )
    .await;
    ask(program.listen, "GET", "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let before = resident_peak(program.id());
    let began = Instant::now();
    let received = Arc::new(AtomicUsize::new(0));
    app.on("up", [Step::Drain(received.clone()), send(OK)]);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {GIB}\r\n\r\n");
    app.on("down", [Step::Body, send(head), Step::Generate(GIB)]);
    let listen = program.listen;
    let up = tokio::spawn(async move {
        let mut raw = Raw::open(listen).await;
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nX-Case: up\r\nContent-Length: {GIB}\r\n");
        raw.send(head + "\r\n").await;
        let block = app::pattern();
        for _ in 0..GIB / block.len() {
            raw.socket.write_all(&block).await.expect("it is taken");
        }
        raw.answer("POST").await.expect("an answer").status()
    });
    let down = tokio::spawn(async move {
        let mut raw = Raw::open(listen).await;
        raw.send("GET / HTTP/1.1\r\nHost: a\r\nX-Case: down\r\n\r\n").await;
        raw.head().await.expect("a head");
        let block = app::pattern();
        let mut buffer = vec![0; block.len()];
        let early = std::mem::take(&mut raw.buffer);
        let mut socket = early.as_slice().chain(raw.socket);
        for _ in 0..GIB / block.len() {
            socket.read_exact(&mut buffer).await.expect("all of it");
            assert!(buffer == block, "bytes were changed");
        }
    });
    assert_eq!(up.await.expect("the upload"), 200);
    down.await.expect("the download");
    assert_eq!(received.load(Ordering::SeqCst), GIB, "bytes were lost or changed");
    let grown = resident_peak(program.id()) - before;
    println!("1 GiB up and 1 GiB down: {:?}, {grown} KiB more", began.elapsed());
    assert!(grown < FLAT, "{grown} KiB");
}

#[tokio::test]
async fn what_the_app_says_is_passed_on_at_once() {
    let pair = Pair::start().await;
    let go = Arc::new(Notify::new());
    let wait = Step::Wait(go.clone());
    let (first, second) = ("data: 1\n\n", "data: 2\n\n");
    for (row, head) in [
        ("chunks", "Transfer-Encoding: chunked\r\n\r\n9\r\n"),
        ("length", "Content-Length: 18\r\n\r\n"),
        ("head", "Content-Length: 9\r\n\r\n"),
        ("close", "\r\n"),
    ] {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{head}{first}");
        let (begin, end) = match row {
            "chunks" => (head + "\r\n", format!("9\r\n{second}\r\n0\r\n\r\n")),
            "head" => (head.replace(first, ""), second.to_string()),
            _ => (head, second.to_string()),
        };
        let mut steps = vec![Step::Body, send(begin), wait.clone(), send(end)];
        if row == "close" {
            steps.push(Step::Close);
        }
        pair.app.on(row, steps);
        let mut raw = Raw::open(pair.proxy()).await;
        raw.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Case: {row}\r\n\r\n")).await;
        raw.head().await.expect("a head");
        let event = async |raw: &mut Raw| match row {
            "length" | "head" => raw.exactly(9).await,
            _ => raw.chunk().await,
        };
        if row != "head" {
            assert_eq!(event(&mut raw).await.as_deref(), Some(first.as_bytes()), "{row}");
        }
        go.notify_one();
        assert_eq!(event(&mut raw).await.as_deref(), Some(second.as_bytes()), "{row}");
    }
    pair.finish().await;
}

#[tokio::test]
async fn what_the_client_says_is_passed_on_at_once() {
    let pair = Pair::start().await;
    for (row, framing, first, rest) in [
        ("length", "Content-Length: 6", "abc", "def"),
        ("chunks", "Transfer-Encoding: chunked", "3\r\nabc\r\n", "3\r\ndef\r\n0\r\n\r\n"),
    ] {
        let mut raw = Raw::open(pair.proxy()).await;
        raw.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{first}")).await;
        until("the first bytes reach the app", || async {
            pair.app.reached().last().is_some_and(|reached| reached.body == b"abc")
        })
        .await;
        raw.send(rest).await;
        assert_eq!(raw.answer("POST").await.expect("an answer").status(), 200, "{row}");
        let reached = pair.app.take();
        assert_eq!((reached[0].body.as_slice(), reached[0].is_whole), (&b"abcdef"[..], true));
    }
    pair.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_pauses_for_a_minute_is_not_waited_for() {
    let minute = [("SIDESTREAM_CLIENTS__SEND_TIMEOUT", "60s")];
    let pair = Pair::start_with(&minute).await;
    pair.app.on("slow", [Step::Drain(Arc::default()), send(OK)]);
    let mut raw = Raw::open(pair.proxy()).await;
    raw.send("POST / HTTP/1.1\r\nHost: a\r\nX-Case: slow\r\nContent-Length: 9\r\n\r\nabc").await;
    let began = tokio::time::Instant::now();
    let mut got = Vec::new();
    raw.socket.read_to_end(&mut got).await.expect("a refusal");
    assert!(app::latin1(&got).starts_with("HTTP/1.1 408 "), "{}", app::latin1(&got));
    assert!((60..70).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_client_may_wait_for_100_continue() {
    let pair = Pair::start().await;
    let go_on = send("HTTP/1.1 100 Continue\r\n\r\n");
    pair.app.on("yes", [go_on, Step::Body, send(OK)]);
    let refusal =
        "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    pair.app.on("no", [send(refusal), Step::Close]);
    let head = |case: &str| {
        format!(
            "POST / HTTP/1.1\r\nHost: a\r\nX-Case: {case}\r\nContent-Length: 3\r\n\
             Expect: 100-continue\r\n\r\n"
        )
    };
    let mut raw = Raw::open(pair.proxy()).await;
    raw.send(head("yes")).await;
    assert_eq!(raw.head().await.expect("a head"), ["HTTP/1.1 100 Continue"]);
    assert_eq!(pair.app.reached()[0].field("expect").as_deref(), Some("100-continue"));
    raw.send("abc").await;
    assert_eq!(raw.answer("POST").await.expect("an answer").status(), 200);
    assert_eq!(pair.app.take()[0].body, b"abc");
    let mut raw = Raw::open(pair.proxy()).await;
    raw.send(head("no")).await;
    let answer = raw.answer("POST").await.expect("an answer");
    assert_eq!((answer.status(), answer.before.len()), (413, 0));
    assert_eq!(answer.field("connection"), Some("close"));
    pair.finish().await;
}

#[tokio::test]
async fn an_early_answer_is_not_lost_in_a_long_upload() {
    let pair = Pair::start().await;
    let answer = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 7\r\n\r\ntoo big";
    // One app goes on reading, another does not.
    let read = Arc::new(AtomicUsize::new(0));
    pair.app.on("reads", [send(answer), Step::Drain(read)]);
    pair.app.on("closes", [send(answer), Step::Close]);
    // A third says nothing at all; then the answer is ours.
    pair.app.on("dies", [Step::Close]);
    for (case, status, end) in
        [("reads", "413", "too big"), ("closes", "413", "too big"), ("dies", "502", "}")]
    {
        for _ in 0..10 {
            let raw = Raw::open(pair.proxy()).await;
            let length = 64 * 1024 * 1024;
            let head = format!(
                "POST / HTTP/1.1\r\nHost: a\r\nX-Case: {case}\r\nContent-Length: {length}\r\n\r\n"
            );
            let (mut reader, mut writer) = raw.socket.into_split();
            let uploading = tokio::spawn(async move {
                let block = app::pattern();
                let mut sent = writer.write_all(head.as_bytes()).await;
                for _ in 0..length / block.len() {
                    if sent.is_err() {
                        break;
                    }
                    sent = writer.write_all(&block).await;
                }
                writer
            });
            let mut got = Vec::new();
            let whole = async {
                while !got.ends_with(end.as_bytes()) {
                    let read = reader.read_buf(&mut got).await;
                    assert!(matches!(read, Ok(1..)), "{case}: {read:?} {}", app::latin1(&got));
                }
            };
            tokio::time::timeout(PATIENCE, whole).await.expect("the answer in time");
            let got = app::latin1(&got);
            assert_eq!(got.split(' ').nth(1), Some(status), "{case}: {got}");
            uploading.abort();
        }
    }
    pair.finish().await;
}

#[tokio::test]
async fn a_cut_body_is_not_taken_for_a_whole_one() {
    let pair = Pair::start().await;
    for (row, framing, part) in [
        ("length", "Content-Length: 6", "abc"),
        ("chunks", "Transfer-Encoding: chunked", "6\r\nabc"),
        ("between chunks", "Transfer-Encoding: chunked", "3\r\nabc\r\n"),
    ] {
        // Up: the app sees that its request is not whole.
        let mut raw = Raw::open(pair.proxy()).await;
        raw.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{part}")).await;
        until("some of it reached the app", || async {
            pair.app.reached().last().is_some_and(|reached| reached.body == b"abc")
        })
        .await;
        drop(raw);
        until("the app's connection is closed", || async { pair.app.open() == 0 }).await;
        assert!(!pair.app.take()[0].is_whole, "{row}");
        // Down: the client sees that its answer is not whole.
        let answer = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{part}");
        pair.app.on(row, [Step::Body, send(answer), Step::Close]);
        let mut raw = Raw::open(pair.proxy()).await;
        raw.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Case: {row}\r\n\r\n")).await;
        raw.head().await.expect("a head");
        let rest = raw.rest().await;
        assert!(!rest.ends_with(b"0\r\n\r\n") && rest.len() <= part.len() + 2, "{row}: {rest:?}");
        pair.app.take();
    }
    pair.finish().await;
}

#[tokio::test]
async fn a_web_socket_of_the_app_works() {
    let pair = Pair::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut socket =
                    tokio_tungstenite::accept_async(socket).await.expect("a handshake");
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_text() || message.is_binary() {
                        socket.send(message).await.expect("it is taken");
                    }
                }
            });
        }
    });
    let filters = Filters::new(&[]);
    let start = crate::support::sidecar::start_before(address, NO_MONGODB, &filters, &[]);
    let sidecar = start.await;
    let url = format!("ws://{}/socket?x=1", sidecar.listen);
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.expect("a handshake");
    for size in [0, 1, 125, 126, 65_535, 65_536, 1_000_000] {
        let message = Message::binary(vec![7; size]);
        socket.send(message.clone()).await.expect("it is taken");
        let echo = tokio::time::timeout(PATIENCE, socket.next()).await.expect("an echo in time");
        assert!(echo.expect("an echo").expect("an echo") == message, "{size}");
    }
    socket.close(None).await.expect("a goodbye");
    while let Some(Ok(_)) = socket.next().await {}
    sidecar.finish().await;

    // Bytes that come right behind the handshake's request belong to the socket.
    let switch = send(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhi",
    );
    pair.app.on("eager", [switch, Step::Echo]);
    let mut raw = Raw::open(pair.proxy()).await;
    let request = "GET / HTTP/1.1\r\nHost: a\r\nX-Case: eager\r\nConnection: Upgrade\r\n\
                   Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   Sec-WebSocket-Version: 13\r\n\r\n";
    raw.send(request.to_owned() + "early").await;
    assert_eq!(raw.answer("GET").await.expect("an answer").status(), 101);
    assert_eq!(raw.exactly(7).await.as_deref(), Some(b"hiearly".as_slice()));
    raw.send("late").await;
    assert_eq!(raw.exactly(4).await.as_deref(), Some(b"late".as_slice()));
    // An app that does not want to leaves an ordinary connection.
    pair.app.on("eager", [Step::Body, send(OK)]);
    let mut raw = Raw::open(pair.proxy()).await;
    for _ in 0..2 {
        raw.send(request).await;
        assert_eq!(raw.answer("GET").await.expect("an answer").status(), 200);
    }
    // Nothing but those two came: the next answer is that of the next request.
    raw.send("GET / HTTP/1.1\r\nHost: a\r\nX-Case: none\r\n\r\n").await;
    pair.app.on("none", [Step::Body, send("HTTP/1.1 299 Last\r\nContent-Length: 0\r\n\r\n")]);
    assert_eq!(raw.answer("GET").await.expect("an answer").status(), 299);
    pair.finish().await;
}

/// However long it is, and whoever leaves in its middle.
#[tokio::test]
async fn a_long_answer_leaves_its_connections_usable_or_broken() {
    const LENGTH: usize = 3 << 20;
    let pair = Pair::start().await;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
    let whole = app::pattern().repeat(LENGTH / app::pattern().len());
    pair.app.on("long", [Step::Body, send(&head), Step::Generate(LENGTH)]);
    let mut raw = Raw::open(pair.proxy()).await;
    for row in ["long", "", "long", "long", ""] {
        raw.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Case: {row}\r\n\r\n")).await;
        let answer = raw.answer("GET").await.expect("an answer");
        assert!(if row.is_empty() { answer.text() == "ok" } else { answer.body == whole });
    }
    assert_eq!(pair.app.connections(), 1);

    // A client that has said all it has to say.
    let mut raw = Raw::open(pair.proxy()).await;
    raw.send("GET / HTTP/1.1\r\nHost: a\r\nX-Case: long\r\n\r\n").await;
    raw.socket.shutdown().await.expect("its half is closed");
    assert!(raw.answer("GET").await.expect("an answer").body == whole);

    // An app that gives up.
    pair.app.on("cut", [Step::Body, send(&head), Step::Generate(LENGTH / 2), Step::Close]);
    let mut raw = Raw::open(pair.proxy()).await;
    raw.send("GET / HTTP/1.1\r\nHost: a\r\nX-Case: cut\r\n\r\n").await;
    raw.head().await.expect("a head");
    assert!(raw.rest().await == whole[..LENGTH / 2]);

    // A client that leaves in the middle: the app is told, though it has much to say.
    let gone = Arc::new(Notify::new());
    let endless = format!("HTTP/1.1 200 OK\r\nContent-Length: {GIB}\r\n\r\n");
    let steps = [Step::Body, send(endless), Step::Generate(LENGTH), Step::UntilGone(gone.clone())];
    pair.app.on("left", steps);
    let mut raw = Raw::open(pair.proxy()).await;
    raw.send("GET / HTTP/1.1\r\nHost: a\r\nX-Case: left\r\n\r\n").await;
    raw.head().await.expect("a head");
    raw.exactly(LENGTH / 2).await.expect("the beginning");
    drop(raw);
    tokio::time::timeout(PATIENCE, gone.notified()).await.expect("the app is told");
    pair.finish().await;
}
