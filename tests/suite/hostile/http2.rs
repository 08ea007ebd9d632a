//! Attacks by HTTP/2: what is no message, floods of resets, heads that compression blows up, uploads
//! that nobody takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::poll_fn;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use super::frames::{
    END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, PSEUDO, RST_STREAM, block, frame,
};
use crate::proxy::app::{App, Step, send};
use crate::proxy::bodies::resident_peak;
use crate::proxy::frames::{ask, get, head_of, open, status_of};
use crate::proxy::{NO_MONGODB, Pair, raw};
use crate::support::sidecar::{Filters, Program, metric};
use crate::support::{PATIENCE, until};

#[tokio::test]
async fn what_is_no_message_is_reset() {
    let pair = Pair::start().await;
    let with = |more: &[(&'static str, &'static str)]| [&PSEUDO[..], more].concat();
    for (row, fields, expected) in [
        ("right", PSEUDO.to_vec(), HEADERS),
        ("no method", PSEUDO[1..].to_vec(), RST_STREAM),
        ("no scheme", vec![PSEUDO[0], PSEUDO[2], PSEUDO[3]], RST_STREAM),
        ("no path", PSEUDO[..3].to_vec(), RST_STREAM),
        // A host is missed at the gate.
        ("no authority", vec![PSEUDO[0], PSEUDO[1], PSEUDO[3]], HEADERS),
        ("two paths", with(&[(":path", "/")]), RST_STREAM),
        ("an unknown one", with(&[(":query", "x")]), GOAWAY),
        ("a status", with(&[(":status", "200")]), RST_STREAM),
        ("a protocol", with(&[(":protocol", "websocket")]), RST_STREAM),
        ("misplaced", with(&[("x", "1"), (":authority", "b")]), RST_STREAM),
        ("connection", with(&[("connection", "close")]), RST_STREAM),
        ("coding", with(&[("transfer-encoding", "chunked")]), RST_STREAM),
        ("upgrade", with(&[("upgrade", "websocket")]), RST_STREAM),
        ("te", with(&[("te", "gzip")]), RST_STREAM),
        ("upper case", with(&[("X-Y", "1")]), GOAWAY),
        ("control character", with(&[("x", "a\0b")]), GOAWAY),
        ("line feed", with(&[("x", "a\nb: c")]), GOAWAY),
        ("odd path", vec![PSEUDO[0], PSEUDO[1], PSEUDO[2], (":path", "/\n")], RST_STREAM),
        ("short of its length", with(&[("content-length", "3")]), RST_STREAM),
    ] {
        let mut frames = Frames::open(pair.proxy()).await;
        let flags = END_HEADERS | END_STREAM;
        frames.send(&frame(HEADERS, flags, 1, &block(&fields))).await;
        assert_eq!(frames.fate(1).await, expected, "{row}");
    }
    let lines: Vec<_> = pair.app.take().iter().map(|reached| reached.line()).collect();
    assert_eq!(lines, ["GET / HTTP/1.1"]);
    pair.finish().await;
}

/// CVE-2023-44487: each stream is reset as soon as it is open, so that no limit of open ones counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_resets_is_cut_off_and_costs_the_others_nothing() {
    let app = App::start().await;
    let filters = Filters::new(&[]);
    let path = filters.path().display().to_string();
    let address = format!("http://{}", app.address);
    let arguments = ["--app", &address, "--filters", &path, "--mongodb", NO_MONGODB, "--wait"];
    let program = Program::start(&arguments, &[]).await;
    let (sender, _ending) = open(program.listen).await;
    assert_eq!(status_of(&sender, get("/", "")).await, 200);
    let before = resident_peak(program.id());
    let listen = program.listen;
    let flood = move |in_one: u32| async move {
        let mut frames = Frames::open(listen).await;
        let block = block(&PSEUDO);
        for first in (0..20_000).step_by(usize::try_from(in_one).expect("few")) {
            let mut batch = Vec::new();
            for stream in (first..first + in_one).map(|number| 2 * number + 1) {
                batch.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &block));
                batch.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
            }
            if frames.socket.write_all(&batch).await.is_err() {
                break;
            }
        }
        frames
    };
    // Many at once are cut off.
    let mut frames = flood(500).await;
    let mut last = None;
    while let Some((kind, _, payload)) = frames.next().await {
        last = (kind == GOAWAY).then(|| payload[7]).or(last);
    }
    assert_eq!(last, Some(11), "ENHANCE_YOUR_CALM");
    // Others come one by one, meanwhile.
    let flooding = tokio::spawn(async move {
        flood(1).await;
    });
    for _ in 0..50 {
        let began = Instant::now();
        assert_eq!(status_of(&sender, get("/", "")).await, 200);
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }
    flooding.await.expect("it ends");
    until("nothing is left of it", || async { app.open() <= 128 }).await;
    let grown = resident_peak(program.id()) - before;
    assert!(grown < 32 * 1024, "{grown} KiB");
}

/// One at a time, each as soon as the app has been asked: below every limit of the library.
#[tokio::test]
async fn resets_at_a_slow_pace_do_not_open_connections_to_the_app_for_ever() {
    let pair = Pair::start().await;
    let never = Arc::new(Notify::new());
    pair.app.on("slow", [Step::Body, Step::Wait(never.clone())]);
    let frames = Frames::open(pair.proxy()).await;
    let (read, mut write) = frames.socket.into_split();
    // What it says by frames, to the end of the connection.
    let goodbye = tokio::spawn(async move {
        let mut bytes = Vec::new();
        let mut read = read;
        let _ = read.read_to_end(&mut bytes).await;
        bytes
    });
    let block = block(&[&PSEUDO[..], &[("x-case", "slow")]].concat());
    let mut asked = 0;
    for stream in (0..400).map(|number| 2 * number + 1) {
        let request = frame(HEADERS, END_HEADERS | END_STREAM, stream, &block);
        if write.write_all(&request).await.is_err() {
            break;
        }
        until("the app is asked, or nothing more is taken", || async {
            pair.app.reached().len() > asked || goodbye.is_finished()
        })
        .await;
        if pair.app.reached().len() == asked {
            break;
        }
        asked += 1;
        let reset = frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
        if write.write_all(&reset).await.is_err() {
            break;
        }
    }
    assert!(asked < 200, "{asked}");
    let bytes = goodbye.await.expect("no panic");
    // GOAWAY with ENHANCE_YOUR_CALM, on the connection as a whole.
    let head = [&[0, 0, 8, GOAWAY][..], &[0; 5]].concat();
    let at = bytes.windows(9).rposition(|frame| frame == head).expect("a last word");
    assert_eq!(bytes[at + 13..at + 17], [0, 0, 0, 11]);
    pair.finish().await;
}

/// Thirty bytes for each of fifty-odd kibibytes: a field that the table of HPACK remembers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_compression_blows_up_take_little_memory() {
    let app = App::start().await;
    let filters = Filters::new(&[]);
    let path = filters.path().display().to_string();
    let address = format!("http://{}", app.address);
    let arguments = ["--app", &address, "--filters", &path, "--mongodb", NO_MONGODB, "--wait"];
    let program = Program::start(&arguments, &[]).await;
    let never = Arc::new(Notify::new());
    app.on("slow", [Step::Body, Step::Wait(never.clone())]);
    let (sender, _ending) = open(program.listen).await;
    assert_eq!(status_of(&sender, get("/", "")).await, 200);
    let before = resident_peak(program.id());
    // A literal that is remembered: a name of one byte, a value of 3,900, whose length takes three.
    let length = 3900_usize - 127;
    let mut remembered = vec![0x40, 1, b'x', 0x7f];
    remembered
        .extend([u8::try_from(length % 128).unwrap() | 0x80, u8::try_from(length / 128).unwrap()]);
    remembered.extend(std::iter::repeat_n(b'y', 3900));
    let fields = block(&[&PSEUDO[..], &[("x-case", "slow")]].concat());
    // 62 is the first place of the table that changes.
    let blown_up = [&fields[..], &[0x80 | 62; 14]].concat();
    let mut connections = Vec::new();
    for _ in 0..8 {
        let mut frames = Frames::open(program.listen).await;
        let first = [&fields[..], &remembered].concat();
        frames.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &first)).await;
        for stream in (1..250).map(|number| 2 * number + 1) {
            frames.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &blown_up)).await;
        }
        connections.push(frames);
    }
    // Each is on its way, or was refused since its connection held as much as it may.
    until("nobody waits", || async {
        let refused = metric(program.admin, "sidestream_refused_total{limit=\"heads\"}").await;
        app.reached().len() + refused as usize > 8 * 250
    })
    .await;
    assert_eq!(status_of(&sender, get("/", "")).await, 200);
    let grown = resident_peak(program.id()) - before;
    // 2,000 heads of 55 KB are 110 MB, were they all held, and once.
    assert!(grown < 96 * 1024, "{grown} KiB");
}

/// Four uploads of a quarter of a mebibyte fill the window of a connection.
#[tokio::test]
async fn uploads_that_nobody_takes_do_not_stop_the_others() {
    let pair = Pair::start().await;
    let never = Arc::new(Notify::new());
    pair.app.on("deaf", [Step::Wait(never.clone())]);
    let received = Arc::new(AtomicUsize::new(0));
    let ok = send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    pair.app.on("up", [Step::Drain(received.clone()), ok]);
    let (sender, _ending) = open(pair.proxy()).await;
    let post = |case: &str| {
        let request = Request::post("http://app.test/").header("x-case", case).body(());
        request.expect("a request")
    };
    let mut uploads = Vec::new();
    for _ in 0..6 {
        let mut ready = sender.clone().ready().await.expect("room for a stream");
        let (answer, mut body) = ready.send_request(post("deaf"), false).expect("it is sent");
        // As much as goes: until nothing has gone for a while.
        let full = Duration::from_millis(500);
        body.reserve_capacity(64 * 1024);
        while let Ok(room) = tokio::time::timeout(full, poll_fn(|cx| body.poll_capacity(cx))).await
        {
            let room = room.expect("it is open").expect("it is open");
            body.send_data(Bytes::from(vec![0; room]), false).expect("it is sent");
            body.reserve_capacity(64 * 1024);
        }
        body.reserve_capacity(0);
        uploads.push((answer, body));
    }
    assert_eq!(pair.app.reached().len(), 6);
    let mut ready = sender.clone().ready().await.expect("room for a stream");
    let (answer, mut body) = ready.send_request(post("up"), false).expect("it is sent");
    let mut left = Bytes::from(crate::proxy::app::pattern().repeat(32));
    let length = left.len();
    while !left.is_empty() {
        body.reserve_capacity(left.len());
        let room = poll_fn(|cx| body.poll_capacity(cx));
        let room = tokio::time::timeout(PATIENCE, room).await.expect("the upload goes on");
        let room = room.expect("it is open").expect("it is open");
        body.send_data(left.split_to(room.min(left.len())), left.is_empty()).expect("it is sent");
    }
    assert_eq!(head_of(answer).await.status(), 200);
    assert_eq!(received.load(Ordering::SeqCst), length);
    pair.finish().await;
}

/// The library cuts it off before anybody sees it, so that path and app agree.
#[tokio::test]
async fn a_path_has_a_fragment() {
    let pair = Pair::start().await;
    for (path, expected) in [("/a#/../_events", HEADERS), ("/_events/#x", HEADERS)] {
        let mut frames = Frames::open(pair.proxy()).await;
        let fields = [PSEUDO[0], PSEUDO[1], PSEUDO[2], (":path", path)];
        frames.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&fields))).await;
        assert_eq!(frames.fate(1).await, expected, "{path}");
    }
    let lines: Vec<_> = pair.app.take().iter().map(|reached| reached.line()).collect();
    assert_eq!(lines, ["GET /a HTTP/1.1"]);
    pair.finish().await;
}

#[tokio::test]
async fn grpc_is_told_that_it_is_not_supported() {
    let pair = Pair::start().await;
    // What a gRPC server says first, whatever it is asked: SETTINGS.
    pair.app.on("grpc", [send([0, 0, 0, 4, 0, 0, 0, 0, 0]), Step::Close]);
    let (sender, _ending) = open(pair.proxy()).await;
    let ask_as = |content_type: &'static str| {
        let mut request = get("/shop.Orders/List", "grpc");
        *request.method_mut() = http::Method::POST;
        request.headers_mut().insert("content-type", content_type.parse().unwrap());
        request.headers_mut().insert("te", "trailers".parse().unwrap());
        ask(&sender, request)
    };
    for content_type in ["application/grpc+proto", "Application/gRPC"] {
        let answer = head_of(ask_as(content_type).await).await;
        assert_eq!(
            (answer.status(), &answer.headers()["grpc-status"]),
            (200.try_into().unwrap(), &"12".parse::<http::HeaderValue>().unwrap())
        );
        assert_eq!(answer.headers()["content-type"], "application/grpc");
        let message = answer.headers()["grpc-message"].to_str().expect("text");
        assert!(message.starts_with("gRPC is not supported here"), "{message}");
    }
    let answer = head_of(ask_as("application/json").await).await;
    assert_eq!(answer.status(), 502);
    let body = crate::proxy::frames::piece_of(&mut answer.into_body()).await;
    let body = body.expect("a body").expect("a body");
    assert!(String::from_utf8_lossy(&body).contains("is not HTTP/1.1"), "{body:?}");
    // The same over HTTP/1.1.
    let ask_http1 = async |content_type: &str| {
        let request = format!(
            "POST /shop.Orders/List HTTP/1.1\r\nHost: a\r\nX-Case: grpc\r\nTE: trailers\r\n\
             Content-Type: {content_type}\r\nContent-Length: 0\r\n\r\n"
        );
        raw::ask(pair.proxy(), "POST", &request).await
    };
    for content_type in ["application/grpc", "Application/gRPC+proto"] {
        let answer = ask_http1(content_type).await;
        assert_eq!((answer.status(), answer.field("grpc-status")), (200, Some("12")));
        let message = answer.field("grpc-message").expect("a message");
        assert!(message.starts_with("gRPC is not supported here"), "{message}");
        assert!(answer.body.is_empty());
    }
    assert_eq!(ask_http1("application/grpc-web").await.status(), 502);
    // An app that answers is passed on.
    pair.app.on("grpc", [Step::Body, send("HTTP/1.1 415 No\r\nContent-Length: 0\r\n\r\n")]);
    assert_eq!(head_of(ask_as("application/grpc").await).await.status(), 415);
    pair.finish().await;
}
