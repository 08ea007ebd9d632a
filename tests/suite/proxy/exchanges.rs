//! What an app says and takes, for clients over HTTP/2.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};

use super::app::{Step, pattern, send};
use super::http2_client::{nothing, open, request, send_to, whole};
use super::{NO_MONGODB, Pair};
use crate::support::sidecar::{self, Filters};
use crate::support::{PATIENCE, until};

#[tokio::test]
async fn answers_of_every_kind_pass() {
    let pair = Pair::start().await;
    let mut sender = open(pair.proxy()).await;
    for (case, method, said, status, body) in [
        ("204", "GET", "HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n", 204, ""),
        ("304", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nX-A: 1\r\n\r\n", 304, ""),
        ("head", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: 1\r\n\r\n", 200, ""),
        (
            "chunks' head",
            "HEAD",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\n\r\n",
            200,
            "",
        ),
        (
            "length",
            "GET",
            "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\nX-A: 1\r\n\r\nnope",
            404,
            "nope",
        ),
        ("nothing", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-A: 1\r\n\r\n", 200, ""),
        ("odd", "GET", "HTTP/1.1 599 Because\r\nContent-Length: 1\r\nX-A: 1\r\n\r\nx", 599, "x"),
        (
            "no trailers",
            "GET",
            "HTTP/1.1 200 OK\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
            200,
            "a",
        ),
        ("until close", "GET", "HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\nsome bytes", 200, "some bytes"),
        ("http 1.0", "GET", "HTTP/1.0 200 OK\r\nX-A: 1\r\n\r\nold", 200, "old"),
        (
            "hints",
            "GET",
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: 2\r\n\r\nok",
            200,
            "ok",
        ),
    ] {
        pair.app.on(case, [Step::Body, send(said), Step::Close]);
        let answer = send_to(&mut sender, request(method, case, nothing())).await;
        assert_eq!(answer.status(), status, "{case}");
        assert_eq!(answer.headers()["x-a"], "1", "{case}");
        if said.contains("Content-Length") {
            let length = answer.headers()["content-length"].to_str().expect("a length");
            assert!(said.contains(&format!("Content-Length: {length}\r\n")), "{case}");
        }
        let (got, trailers) = whole(answer).await;
        assert_eq!((&got[..], trailers), (body.as_bytes(), None), "{case}");
    }
    // Only trailers.
    let said = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nGrpc-Status: 0\r\n\r\n";
    pair.app.on("only trailers", [Step::Body, send(said)]);
    let answer = send_to(&mut sender, request("GET", "only trailers", nothing())).await;
    let (body, trailers) = whole(answer).await;
    assert_eq!(
        (body.len(), &trailers.expect("trailers")["grpc-status"]),
        (0, &"0".parse().unwrap())
    );
    pair.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_flow_both_ways_at_once() {
    const BLOCKS: usize = 256;
    let pair = Pair::start().await;
    let block = Bytes::from(pattern());
    let length = BLOCKS * block.len();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
    pair.app.on("echo", [send(head), Step::Echo]);
    let mut sender = open(pair.proxy()).await;
    let (up, mut pieces) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let body = StreamBody::new(futures_util::stream::poll_fn(move |cx| pieces.poll_recv(cx)));
    let mut asked = request("POST", "echo", body.boxed());
    asked.headers_mut().insert("content-length", length.into());
    let answer = send_to(&mut sender, asked).await;
    let sent = block.clone();
    tokio::spawn(async move {
        for _ in 0..BLOCKS {
            up.send(Ok(Frame::data(sent.clone()))).await.expect("it is taken");
        }
    });
    let mut body = answer.into_body();
    let mut at = 0;
    while let Some(frame) = tokio::time::timeout(PATIENCE, body.frame()).await.expect("in time") {
        for byte in frame.expect("a frame").into_data().expect("data") {
            assert!(byte == block[at % block.len()], "changed at {at}");
            at += 1;
        }
    }
    assert_eq!(at, length);
    pair.finish().await;
}

/// Nobody holds what is not read: an app that says much to a client that reads nothing has to wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_is_waited_for() {
    const MUCH: usize = 256 * 1024 * 1024;
    let pair = Pair::start().await;
    let done = Arc::new(Notify::new());
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {MUCH}\r\n\r\n");
    let steps = [
        send(head),
        Step::Generate(MUCH),
        Step::Tell(done.clone()),
        Step::UntilGone(Arc::default()),
    ];
    pair.app.on("much", steps);
    let mut sender = open(pair.proxy()).await;
    let answer = send_to(&mut sender, request("GET", "much", nothing())).await;
    // Nothing comes that could be waited for. An app that is read is done in a fraction of it.
    let generated = tokio::time::timeout(Duration::from_secs(1), done.notified());
    assert!(generated.await.is_err(), "somebody has taken all of it");
    assert_eq!(pair.app.open(), 1);
    // Gone without having read.
    drop(answer);
    until("the app's connection is closed", || async { pair.app.open() == 0 }).await;
    pair.finish().await;
}

#[tokio::test]
async fn who_leaves_takes_the_app_s_connection_along() {
    let pair = Pair::start().await;
    let mut sender = open(pair.proxy()).await;
    // Before an answer, and with a body that is not whole.
    for has_body in [false, true] {
        let gone = Arc::new(Notify::new());
        pair.app.on("silent", [Step::UntilGone(gone.clone())]);
        let (up, mut pieces) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
        let stream = futures_util::stream::poll_fn(move |cx| pieces.poll_recv(cx));
        let body = if has_body { StreamBody::new(stream).boxed() } else { nothing() };
        if has_body {
            up.send(Ok(Frame::data("some".into()))).await.expect("it is taken");
        }
        let asking = tokio::spawn(sender.send_request(request("POST", "silent", body)));
        until("the app is asked", || async { pair.app.reached().len() == 1 }).await;
        asking.abort();
        tokio::time::timeout(PATIENCE, gone.notified()).await.expect("the app hears of it");
        pair.app.take();
    }
    // In the middle of an answer.
    let gone = Arc::new(Notify::new());
    let begin = send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    pair.app.on("slow", [Step::Body, begin, Step::UntilGone(gone.clone())]);
    let mut body = send_to(&mut sender, request("GET", "slow", nothing())).await.into_body();
    let frame = body.frame().await.expect("a frame").expect("a frame");
    assert_eq!(frame.into_data().ok().as_deref(), Some(b"a".as_slice()));
    drop(body);
    tokio::time::timeout(PATIENCE, gone.notified()).await.expect("the app hears of it");
    // The client's connection goes on.
    let answer = send_to(&mut sender, request("GET", "", nothing())).await;
    assert_eq!(&whole(answer).await.0[..], b"ok");
    pair.finish().await;
}

#[tokio::test]
async fn an_app_that_fails_is_told_as_ever() {
    let pair = Pair::start().await;
    let mut sender = open(pair.proxy()).await;
    for (case, said) in [
        ("nothing", ""),
        ("only hints", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
        ("half a head", "HTTP/1.1 200 OK\r\nConte"),
        ("nonsense", "\x16\x03\x01 what?\r\n\r\n"),
        ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        ("no length", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nab"),
        ("switch", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"),
    ] {
        pair.app.on(case, [Step::Body, send(said), Step::Close]);
        let answer = send_to(&mut sender, request("GET", case, nothing())).await;
        assert_eq!(answer.status(), 502, "{case}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json", "{case}");
        let problem: serde_json::Value =
            serde_json::from_slice(&whole(answer).await.0).expect("JSON");
        assert_eq!(problem["status"], 502, "{case}");
        assert_eq!(pair.app.take().len(), 1, "{case}: asked once");
    }
    // What is not whole does not look as if it were.
    for (case, said) in [
        ("cut length", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"),
        ("cut chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc"),
        ("cut chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"),
        (
            "cut trailers",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: 1",
        ),
    ] {
        pair.app.on(case, [Step::Body, send(said), Step::Close]);
        let answer = send_to(&mut sender, request("GET", case, nothing())).await;
        assert_eq!(answer.status(), 200, "{case}");
        assert!(answer.into_body().collect().await.is_err(), "{case}");
    }
    let metric = "sidestream_proxy_requests_total{code=\"502\"}";
    assert_eq!(sidecar::metric(pair.sidecar.admin, metric).await, 7.0);
    pair.finish().await;
}

/// An app may know its answer before it has read a body, and read none of it.
#[tokio::test]
async fn an_early_answer_passes() {
    let pair = Pair::start().await;
    let said = "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno";
    // One app goes on reading, another does not.
    pair.app.on("reads", [send(said), Step::Drain(Arc::default())]);
    pair.app.on("closes", [send(said), Step::Close]);
    // A third says nothing at all; then the answer is ours.
    pair.app.on("dies", [Step::Close]);
    for case in ["reads", "closes", "dies"].repeat(10) {
        let mut sender = open(pair.proxy()).await;
        let (up, mut pieces) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
        let body = StreamBody::new(futures_util::stream::poll_fn(move |cx| pieces.poll_recv(cx)));
        let sending = tokio::spawn(async move {
            let block = Bytes::from(pattern());
            while up.send(Ok(Frame::data(block.clone()))).await.is_ok() {}
        });
        let answer = send_to(&mut sender, request("POST", case, body.boxed())).await;
        assert_eq!(answer.status(), if case == "dies" { 502 } else { 413 }, "{case}");
        let (body, _) = whole(answer).await;
        assert!(case == "dies" || body == "no", "{case}");
        tokio::time::timeout(PATIENCE, sending)
            .await
            .expect("it is told to stop")
            .expect("it ends");
    }
    pair.finish().await;
}

#[tokio::test]
async fn an_app_that_is_away_or_slow_is_told_as_ever() {
    let filters = Filters::new(&[]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let away = listener.local_addr().expect("an address");
    drop(listener);
    // A backlog that is full: the kernel answers nobody.
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let listener = socket.listen(1).expect("a listener");
    let slow = listener.local_addr().expect("an address");
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let connecting = TcpStream::connect(slow);
        waiting.push(tokio::time::timeout(Duration::from_millis(200), connecting).await);
    }
    for (address, status) in [(away, 502), (slow, 504)] {
        let sidecar = sidecar::start_before(address, NO_MONGODB, &filters, &[]).await;
        let mut sender = open(sidecar.listen).await;
        let answer = send_to(&mut sender, request("GET", "", nothing())).await;
        assert_eq!(answer.status(), status);
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        let metric = format!("sidestream_proxy_requests_total{{code=\"{status}\"}}");
        assert_eq!(sidecar::metric(sidecar.admin, &metric).await, 1.0);
        drop(sender);
        sidecar.finish().await;
    }
}
