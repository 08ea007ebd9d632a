//! When the app is away, slow, somewhere else, or wrong.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use sidestream::Sidecar;
use sidestream::config::{Config, Flags, Sources};
use tokio::io::AsyncReadExt;
use tokio::sync::Notify;

use super::app::{App, Step, send};
use super::raw::{Answer, Raw, ask};
use super::{NO_MONGODB, Pair};
use crate::support::sidecar::Filters;
use crate::support::{PATIENCE, http};

const GET: &str = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";

/// A sidecar before an app whose address is written as in the settings.
async fn start_before(app: &str, filters: &Filters) -> Sidecar {
    let flags = Flags::from([
        ("listen", "127.0.0.1:0"),
        ("admin", "127.0.0.1:0"),
        ("app", app),
        ("filters", &filters.path().display().to_string()),
        ("mongodb.uri", NO_MONGODB),
    ]);
    let config = Config::load(Sources {
        config_file: None,
        leaves_secrets: false,
        working_dir: filters.path().to_path_buf(),
        env: [("SIDESTREAM_DRAIN".to_string(), "2s".to_string())].into(),
        flags,
    });
    Sidecar::start(config.unwrap_or_else(|errors| panic!("{errors}"))).await.expect("it starts")
}

fn assert_problem(answer: &Answer, status: u16) {
    assert_eq!(answer.status(), status, "{}", answer.text());
    assert_eq!(answer.field("content-type"), Some("application/problem+json"));
    assert_eq!(answer.json()["status"], status);
    assert!(answer.json()["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
}

#[tokio::test]
async fn an_app_that_is_down_is_a_502_and_comes_back() {
    let filters = Filters::new(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let sidecar = start_before(&format!("http://{address}"), &filters).await;
    let chunked = "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    for request in [GET, chunked] {
        assert_problem(&ask(sidecar.listen, "GET", request).await, 502);
    }
    let metrics = http::get(sidecar.admin, "/metrics").await.text();
    assert!(metrics.contains("sidestream_proxy_requests_total{code=\"502\"} 2"), "{metrics}");
    sidecar.finish().await;
}

#[tokio::test]
async fn an_app_that_does_not_accept_is_a_504() {
    let filters = Filters::new(&[]);
    // A backlog that is full: the kernel answers nobody.
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a port");
    let listener = socket.listen(1).expect("a listener");
    let address = listener.local_addr().expect("an address");
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let connecting = tokio::net::TcpStream::connect(address);
        waiting.push(tokio::time::timeout(std::time::Duration::from_millis(200), connecting).await);
    }
    let sidecar = start_before(&format!("http://{address}"), &filters).await;
    assert_problem(&ask(sidecar.listen, "GET", GET).await, 504);
    sidecar.finish().await;
}

#[tokio::test]
async fn an_app_that_says_nothing_or_nonsense_is_a_502() {
    let pair = Pair::start().await;
    for (row, said) in [
        ("nothing", ""),
        ("only hints", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
        ("half a head", "HTTP/1.1 200 OK\r\nConte"),
        ("nonsense", "\x16\x03\x01 what?\r\n\r\n"),
        ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        ("no length", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nab"),
        (
            "length and chunks",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        ("another coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        ("no chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhello\r\n"),
        ("bare LF", "HTTP/1.1 200 OK\nContent-Length: 2\n\nab"),
        (
            "unasked",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
        ),
    ] {
        pair.app.on(row, [Step::Body, send(said), Step::Close]);
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Case: {row}\r\n\r\n");
        assert_problem(&ask(pair.proxy(), "GET", request).await, 502);
        assert_eq!(pair.app.take().len(), 1, "{row}: asked once");
    }
    // Afterwards all is well.
    assert_eq!(ask(pair.proxy(), "GET", GET).await.status(), 200);
    pair.finish().await;
}

/// What an app says behind an answer is nobody's: the next client must not get it.
#[tokio::test]
async fn what_comes_behind_an_answer_is_lost() {
    let pair = Pair::start().await;
    let said = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok\
                HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    pair.app.on("more", [Step::Body, send(said)]);
    let said = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n\
                HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    pair.app.on("more chunks", [Step::Body, send(said)]);
    let mut raw = Raw::open(pair.proxy()).await;
    for row in ["more", "", "more chunks", "", "more"] {
        raw.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Case: {row}\r\n\r\n")).await;
        assert_eq!(raw.answer("GET").await.expect("an answer").text(), "ok", "{row}");
    }
    assert_eq!(pair.app.connections(), 3);
    pair.finish().await;
}

/// Where the end of the connection is all that ends an answer, one that is cut must not look whole.
#[tokio::test]
async fn a_cut_answer_is_reset_for_clients_that_know_no_chunks() {
    let pair = Pair::start().await;
    let said = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    let go = Arc::new(Notify::new());
    pair.app.on("cut", [Step::Body, send(said), Step::Wait(go.clone()), Step::Close]);
    let mut raw = Raw::open(pair.proxy()).await;
    raw.send("GET / HTTP/1.0\r\nX-Case: cut\r\n\r\n").await;
    raw.head().await.expect("a head");
    assert_eq!(raw.exactly(3).await.as_deref(), Some(b"abc".as_slice()));
    go.notify_one();
    let read = tokio::time::timeout(PATIENCE, raw.socket.read_u8()).await.expect("an end");
    assert_eq!(read.expect_err("no end").kind(), std::io::ErrorKind::ConnectionReset);
    pair.finish().await;
}

/// An app may close a connection that it thinks is idle just when a request is sent on it.
#[tokio::test]
async fn a_connection_that_the_app_closed_is_no_failure() {
    let pair = Pair::start().await;
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    pair.app.on("last", [Step::Body, send(ok), Step::Close]);
    let request = "GET / HTTP/1.1\r\nHost: a\r\nX-Case: last\r\n\r\n";
    for _ in 0..50 {
        assert_eq!(ask(pair.proxy(), "GET", request).await.status(), 200);
    }
    pair.finish().await;
}

/// What cannot be repeated without harm is sent once, whatever becomes of it.
#[tokio::test]
async fn a_request_is_sent_again_only_if_that_does_no_harm() {
    let pair = Pair::start().await;
    pair.app.on("dies", [Step::Body, Step::Close]);
    for (method, times) in [("GET", 2), ("PUT", 2), ("POST", 1), ("PATCH", 1)] {
        // The next one goes over a connection that was used before.
        assert_eq!(ask(pair.proxy(), "GET", GET).await.status(), 200);
        pair.app.take();
        let request = format!(
            "{method} / HTTP/1.1\r\nHost: a\r\nX-Case: dies\r\nContent-Length: 3\r\n\r\nabc"
        );
        assert_problem(&ask(pair.proxy(), method, request).await, 502);
        let reached = pair.app.take();
        assert_eq!(reached.len(), times, "{method}");
        assert!(reached.iter().all(|one| one.body == b"abc"), "{method}");
    }
    pair.finish().await;
}

#[tokio::test]
async fn an_app_may_listen_on_a_unix_socket() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("app.sock");
    let mut app = App::start().await;
    app.listen_at(&path);
    let filters = Filters::new(&[]);
    let sidecar = start_before(&format!("unix:{}", path.display()), &filters).await;
    let mut raw = Raw::open(sidecar.listen).await;
    for request in [
        GET,
        "POST /y HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: 1\r\n\r\n",
        GET,
    ] {
        raw.send(request).await;
        assert_eq!(raw.answer("GET").await.expect("an answer").text(), "ok");
    }
    let reached = app.take();
    assert_eq!(reached[1].trailers, ["X: 1"]);
    assert_eq!(reached[0].field("host").as_deref(), Some("a"));
    assert_eq!(reached[0].connection, reached[2].connection);
    sidecar.finish().await;
}

#[tokio::test]
async fn a_name_may_have_an_address_where_nobody_listens() {
    // `localhost` is ::1 and 127.0.0.1; the app listens on the second.
    let app = App::start().await;
    let filters = Filters::new(&[]);
    let sidecar = start_before(&format!("http://localhost:{}", app.address.port()), &filters).await;
    for _ in 0..3 {
        assert_eq!(ask(sidecar.listen, "GET", GET).await.status(), 200);
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(ask(sidecar.listen, "POST", post).await.status(), 200);
    }
    assert_eq!(app.take().last().expect("a request").body, b"abc");
    sidecar.finish().await;
}

#[tokio::test]
async fn streams_are_away_without_mongodb_and_the_app_is_not() {
    let app = App::start().await;
    let filters = Filters::new(&[("orders", "collection: shop.orders\naccess: public\n")]);
    let sidecar = start_before(&format!("http://{}", app.address), &filters).await;
    assert_eq!(ask(sidecar.listen, "GET", GET).await.status(), 200);
    let stream = "GET /_events/orders HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_problem(&ask(sidecar.listen, "GET", stream).await, 503);
    assert_eq!(http::get(sidecar.admin, "/healthz").await.head.status, 200);
    assert_eq!(ask(sidecar.listen, "GET", GET).await.status(), 200);
    sidecar.finish().await;
}
