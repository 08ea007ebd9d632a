//! Trailers of and to HTTP/2 clients, and to and from apps behind TLS.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;

use super::app::{App, Reached, Step, pattern, send};
use super::raw::ask;
use super::{NO_MONGODB, Pair};
use crate::support::sidecar::{self, Filters, Program};
use crate::support::{PATIENCE, until};

type Sender = SendRequest<BoxBody<Bytes, Infallible>>;

/// What an app says that has trailers.
const SUMMED: &str = "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nTrailer: X-Sum\r\n\
                      Transfer-Encoding: chunked\r\n\r\n5\r\n0\r\n\r\n\r\n3\r\nabc\r\n0\r\n\
                      X-Sum: 1\r\nx-other: 2\r\nHost: evil\r\nConnection: close\r\n\r\n";

async fn open(address: SocketAddr) -> Sender {
    let socket = TcpStream::connect(address).await.expect("a connection");
    let (sender, connection) =
        handshake(TokioExecutor::new(), TokioIo::new(socket)).await.expect("a handshake");
    tokio::spawn(connection);
    sender
}

fn nothing() -> BoxBody<Bytes, Infallible> {
    Empty::new().boxed()
}

/// A request that says it takes trailers.
fn request(
    method: &str,
    case: &str,
    body: BoxBody<Bytes, Infallible>,
) -> Request<BoxBody<Bytes, Infallible>> {
    Request::builder()
        .method(method)
        .uri("http://app.test/%2e//x?y=%20")
        .header("x-case", case)
        .header("te", "trailers")
        .body(body)
        .expect("a request")
}

async fn send_to(
    sender: &mut Sender,
    request: Request<BoxBody<Bytes, Infallible>>,
) -> Response<Incoming> {
    let answer = tokio::time::timeout(PATIENCE, sender.send_request(request));
    answer.await.expect("an answer in time").expect("an answer")
}

/// An answer to its end.
async fn whole(answer: Response<Incoming>) -> (Bytes, Option<HeaderMap>) {
    let body = tokio::time::timeout(PATIENCE, answer.into_body().collect());
    let body = body.await.expect("a body in time").expect("a body");
    let trailers = body.trailers().cloned();
    (body.to_bytes(), trailers)
}

fn assert_summed(body: &[u8], trailers: Option<HeaderMap>) {
    assert_eq!(body, b"0\r\n\r\nabc");
    let trailers = trailers.expect("trailers");
    assert_eq!(
        (&trailers["x-sum"], &trailers["x-other"]),
        (&"1".parse().unwrap(), &"2".parse().unwrap())
    );
    assert_eq!(trailers.len(), 2, "{trailers:?}");
}

fn names_of(reached: &Reached) -> Vec<String> {
    let mut names: Vec<String> =
        reached.fields().into_iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn http2_clients_that_take_trailers_get_them() {
    let pair = Pair::start().await;
    pair.app.on("summed", [Step::Body, send(SUMMED)]);
    let mut sender = open(pair.proxy()).await;
    let mut asked = request("GET", "summed", nothing());
    asked.headers_mut().append("cookie", "a=1".parse().unwrap());
    asked.headers_mut().append("cookie", "b=2".parse().unwrap());
    let answer = send_to(&mut sender, asked).await;
    assert_eq!(answer.status(), 200);
    for name in ["connection", "transfer-encoding", "via", "server"] {
        assert!(!answer.headers().contains_key(name), "{name}");
    }
    assert_eq!(answer.headers()["trailer"], "X-Sum");
    assert!(answer.headers().contains_key("date"));
    let (body, trailers) = whole(answer).await;
    assert_summed(&body, trailers);
    // The same as what others send, but for the word that trailers are taken.
    let carried = pair.app.take().remove(0);
    let mut plain = request("GET", "summed", nothing());
    plain.headers_mut().remove("te");
    plain.headers_mut().append("cookie", "a=1".parse().unwrap());
    plain.headers_mut().append("cookie", "b=2".parse().unwrap());
    let (body, trailers) = whole(send_to(&mut sender, plain).await).await;
    // As the app sent it: to HTTP/2, trailers are nothing that has to be asked for.
    assert_summed(&body, trailers);
    let forwarded = pair.app.take().remove(0);
    let mut names = names_of(&forwarded);
    for reached in [&carried, &forwarded] {
        assert_eq!(reached.field("cookie").as_deref(), Some("a=1; b=2"));
        assert_eq!(
            reached.fields().iter().filter(|(name, _)| name.eq_ignore_ascii_case("cookie")).count(),
            1
        );
    }
    names.extend(["te".to_string(), "connection".to_string()]);
    names.sort();
    assert_eq!(names_of(&carried), names);
    assert_eq!(carried.line(), "GET /%2e//x?y=%20 HTTP/1.1");
    for (name, value) in [
        ("te", "trailers"),
        ("connection", "TE"),
        ("host", "app.test"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-host", "app.test"),
        ("x-forwarded-proto", "http"),
    ] {
        assert_eq!(carried.field(name).as_deref(), Some(value), "{name}");
    }
    let counted =
        sidecar::metric(pair.sidecar.admin, "sidestream_proxy_requests_total{code=\"200\"}");
    assert!(counted.await >= 2.0);
    pair.finish().await;
}

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

#[tokio::test]
async fn request_bodies_reach_the_app() {
    let pair = Pair::start().await;
    pair.app.on("summed", [Step::Body, send(SUMMED)]);
    let mut sender = open(pair.proxy()).await;
    let known = || Full::new(Bytes::from_static(b"some bytes")).boxed();
    let streamed = |trailers: bool| {
        let mut frames =
            vec![Ok(Frame::data(Bytes::from("some "))), Ok(Frame::data("bytes".into()))];
        if trailers {
            let mut trailers = HeaderMap::new();
            for (name, value) in [("x-up", "1"), ("host", "evil"), ("x-up", "2")] {
                trailers.append(name, value.parse().unwrap());
            }
            frames.push(Ok(Frame::trailers(trailers)));
        }
        StreamBody::new(futures_util::stream::iter(frames)).boxed()
    };
    for (body, framing, trailers) in [
        (known(), ("content-length", "10"), &[][..]),
        (streamed(false), ("transfer-encoding", "chunked"), &[]),
        (streamed(true), ("transfer-encoding", "chunked"), &["X-Up: 1", "X-Up: 2"]),
    ] {
        let answer = send_to(&mut sender, request("POST", "summed", body)).await;
        let (got, summed) = whole(answer).await;
        assert_summed(&got, summed);
        let reached = pair.app.take().remove(0);
        assert_eq!(reached.field(framing.0).as_deref(), Some(framing.1));
        assert_eq!((&reached.body[..], reached.is_whole), (b"some bytes".as_slice(), true));
        assert_eq!(reached.trailers, trailers);
    }
    // A body where none is expected.
    let answer = send_to(&mut sender, request("GET", "summed", streamed(false))).await;
    whole(answer).await;
    assert_eq!(pair.app.take().remove(0).body, b"some bytes");
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
    let steps = [send(head), Step::Generate(MUCH), Step::UntilGone(done.clone())];
    pair.app.on("much", steps);
    let mut sender = open(pair.proxy()).await;
    let answer = send_to(&mut sender, request("GET", "much", nothing())).await;
    // Time is the only witness.
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

/// An app that speaks TLS, and the program before it, which trusts these roots.
async fn start_tls(app: &mut App, name: &str, is_trusted: bool) -> (Program, tempfile::TempDir) {
    let made = rcgen::generate_simple_self_signed([name.to_string()]).expect("a key");
    let other = rcgen::generate_simple_self_signed([name.to_string()]).expect("a key");
    let dir = tempfile::tempdir().expect("a directory");
    let roots = dir.path().join("roots.pem");
    let trusted = if is_trusted { &made } else { &other };
    std::fs::write(&roots, trusted.cert.pem()).expect("a file");
    let key = made.signing_key.serialize_der().try_into().expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a certificate");
    let address = app.listen_tls(TlsAcceptor::from(Arc::new(config))).await;
    let roots = roots.display().to_string();
    let program = Program::start(
        &[
            "--app",
            &format!("https://{name}:{}", address.port()),
            "--filters",
            &dir.path().display().to_string(),
            "--mongodb",
            NO_MONGODB,
            "--wait",
        ],
        &[("SSL_CERT_FILE", &roots), ("SIDESTREAM_DRAIN", "1s")],
    )
    .await;
    (program, dir)
}

#[tokio::test]
async fn an_app_behind_tls_has_trailers_too() {
    for name in ["localhost", "127.0.0.1"] {
        let mut app = App::start().await;
        let (program, _dir) = start_tls(&mut app, name, true).await;
        app.on("summed", [Step::Body, send(SUMMED)]);
        let chunked = "POST /a HTTP/1.1\r\nHost: a\r\nX-Case: summed\r\nTrailer: X-Up\r\n\
                       Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Up: 1\r\n\r\n";
        let wanting = "GET /b HTTP/1.1\r\nHost: a\r\nX-Case: summed\r\nTE: trailers\r\nConnection: TE\r\n\r\n";
        let plain = "GET /c HTTP/1.1\r\nHost: a\r\nX-Case: summed\r\n\r\n";
        for (method, request) in [("POST", chunked), ("GET", wanting), ("GET", plain)] {
            let answer = ask(program.listen, method, request).await;
            assert_eq!(
                (answer.status(), answer.body.as_slice()),
                (200, b"0\r\n\r\nabc".as_slice())
            );
            assert_eq!(answer.trailers, ["X-Sum: 1", "x-other: 2"], "{request}");
        }
        let reached = app.take();
        assert_eq!(reached[0].trailers, ["X-Up: 1"]);
        assert_eq!(reached[0].field("trailer").as_deref(), Some("X-Up"));
        assert_eq!(reached[1].field("te").as_deref(), Some("trailers"));
        assert_eq!(reached[2].field("te"), None);
        let mut sender = open(program.listen).await;
        let body = Full::new(Bytes::from_static(b"some bytes")).boxed();
        let answer = send_to(&mut sender, request("POST", "summed", body)).await;
        let (body, trailers) = whole(answer).await;
        assert_summed(&body, trailers);
        assert_eq!(app.take()[0].body, b"some bytes");
        // Much, both ways.
        let much = "0123456789abcdef".repeat(200_000);
        let said = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{much}", much.len());
        app.on("much", [Step::Body, send(said)]);
        let body = Full::new(Bytes::from(much.clone())).boxed();
        let answer = send_to(&mut sender, request("POST", "much", body)).await;
        assert!(whole(answer).await.0 == much);
        let request = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nX-Case: much\r\nTransfer-Encoding: chunked\r\n\r\n\
             {:x}\r\n{much}\r\n0\r\nX-Up: 1\r\n\r\n",
            much.len()
        );
        assert!(ask(program.listen, "POST", request).await.body == much.as_bytes());
        let reached = app.take();
        assert!(reached.iter().all(|one| one.body == much.as_bytes()));
        assert_eq!(reached[1].trailers, ["X-Up: 1"]);
    }
}

#[tokio::test]
async fn an_app_on_a_unix_socket_has_trailers_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("app.sock");
    let mut app = App::start().await;
    app.listen_at(&path);
    app.on("summed", [Step::Body, send(SUMMED)]);
    let filters = dir.path().display().to_string();
    let address = format!("unix:{}", path.display());
    let arguments = ["--app", &address, "--filters", &filters, "--mongodb", NO_MONGODB, "--wait"];
    let program = Program::start(&arguments, &[]).await;
    let mut sender = open(program.listen).await;
    let answer = send_to(&mut sender, request("GET", "summed", nothing())).await;
    let (body, trailers) = whole(answer).await;
    assert_summed(&body, trailers);
}

#[tokio::test]
async fn an_app_that_cannot_prove_who_it_is_gets_nothing() {
    let mut app = App::start().await;
    let (program, _dir) = start_tls(&mut app, "localhost", false).await;
    for fields in ["", "TE: trailers\r\n"] {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        assert_eq!(ask(program.listen, "GET", request).await.status(), 502);
    }
    let mut sender = open(program.listen).await;
    let answer = send_to(&mut sender, request("GET", "", nothing())).await;
    assert_eq!(answer.status(), 502);
    assert!(app.take().is_empty());
}
