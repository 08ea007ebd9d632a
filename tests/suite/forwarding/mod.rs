//! The proxy: a request through it and the same request directly are the same to both sides.

mod large;
mod protocols;

use std::net::SocketAddr;

use sidestream::Sidecar;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::app::{App, Seen};
use crate::support::http::{self, Answer, Connection};
use crate::support::sidecar::{self, Filters};
use crate::support::sse::Stream;
use crate::support::{mongo, until};

/// Nobody listens there: forwarding needs no MongoDB.
const NO_MONGODB: &str = "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=500";

pub async fn before(app: &App) -> Sidecar {
    let filters = Filters::new(&[]);
    sidecar::start_before(app.address, NO_MONGODB, &filters, &[]).await
}

async fn exchange(address: SocketAddr, request: &[u8], method: &str) -> Option<Answer> {
    let mut connection = Connection::open(address).await;
    connection.send(request).await;
    connection.answer(method).await
}

/// What the app sees beyond what the client sent, and what belongs to a connection.
fn without_added(seen: &Seen) -> Seen {
    let mut seen = seen.clone();
    seen.fields.retain(|(name, _)| {
        let name = name.to_ascii_lowercase();
        !name.starts_with("x-forwarded-") && !matches!(name.as_str(), "connection" | "keep-alive")
    });
    seen
}

/// In an answer of the app, and not of today.
const APP_DATE: &str = "Mon, 01 Jan 2001 00:00:00 GMT";

type Fields = Vec<(String, String)>;

/// Without what belongs to a connection and not to the answer, and without the Date that a proxy
/// has to add where the app gave none (RFC 9110, 6.6.1).
fn without_hop(answer: &Answer) -> (u16, Fields, Vec<u8>, Fields) {
    let mut fields = answer.head.fields.clone();
    let ours = |name: &str, value: &str| name == "date" && value != APP_DATE;
    fields.retain(|(name, value)| {
        !matches!(name.as_str(), "connection" | "keep-alive") && !ours(name, value)
    });
    (answer.head.status, fields, answer.body.clone(), answer.trailers.clone())
}

#[tokio::test]
async fn requests_reach_the_app_as_they_were_sent() {
    let app = App::start().await;
    let sidecar = before(&app).await;
    let chunked = "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
    for (line, rest) in [
        ("GET /", "\r\n"),
        ("GET /a/b%2Fc?x=%20&y=a+b&&z", "\r\n"),
        ("GET /%2e%2e//a/./b?", "\r\n"),
        ("GET /caf%C3%A9?q=%E2%82%AC", "\r\n"),
        ("HEAD /x", "\r\n"),
        ("DELETE /x", "\r\n"),
        ("OPTIONS /x", "\r\n"),
        ("OPTIONS *", "\r\n"),
        ("PURGE /x", "\r\n"),
        ("GET /x", "aCCept: b\r\nAccept: c\r\nX-One: 1\r\nx-one: 2\r\nCookie: a=1; b=2\r\n\r\n"),
        ("GET /x", "X-Empty:\r\nX-Long: %LONG%\r\n\r\n"),
        ("POST /x", "Content-Length: 0\r\n\r\n"),
        ("POST /x", "Content-Length: 1\r\n\r\n\u{1}"),
        ("PUT /x", "Content-Type: text/plain\r\nContent-Length: 11\r\n\r\nhello world"),
        ("PATCH /x", "Content-Length: 3\r\n\r\nabc"),
        ("DELETE /x", "Content-Length: 3\r\n\r\nabc"),
        ("POST /x", chunked),
        ("POST /x", "Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc"),
    ] {
        let rest = rest.replace("%LONG%", &"v".repeat(20_000));
        let request = format!("{line} HTTP/1.1\r\nHost: app.example\r\nUser-Agent: t\r\n{rest}");
        let method = line.split(' ').next().unwrap();
        let direct = exchange(app.address, request.as_bytes(), method).await.expect(line);
        let [seen_direct] = &app.take_seen()[..] else { panic!("one request: {line}") };
        let through = exchange(sidecar.listen, request.as_bytes(), method).await.expect(line);
        let [seen_through] = &app.take_seen()[..] else { panic!("one request: {line}") };
        assert_eq!(without_added(seen_through), without_added(seen_direct), "{line}");
        assert_eq!(without_hop(&through), without_hop(&direct), "{line}");
        assert_eq!(seen_through.fields_named("via"), [""; 0]);
        assert_eq!(seen_through.fields_named("x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(seen_through.fields_named("x-forwarded-proto"), ["http"]);
        assert_eq!(seen_through.fields_named("x-forwarded-host"), ["app.example"]);
    }
    sidecar.finish().await;
}

#[tokio::test]
async fn answers_reach_the_client_as_they_were_given() {
    let app = App::start().await;
    let sidecar = before(&app).await;
    let answers: Vec<(&str, String, bool)> = vec![
        ("ok", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi".into(), false),
        ("empty", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".into(), false),
        ("none", "HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n".into(), false),
        ("same", "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n".into(), false),
        ("moved", "HTTP/1.1 302 Found\r\nLocation: /b?c=d\r\nContent-Length: 0\r\n\r\n".into(), false),
        ("not", "HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno!".into(), false),
        ("error", "HTTP/1.1 500 Oops\r\nContent-Length: 1\r\n\r\nx".into(), false),
        ("odd", "HTTP/1.1 299 Odd\r\nContent-Length: 1\r\n\r\nx".into(), false),
        ("last", "HTTP/1.1 599 Last\r\nContent-Length: 1\r\n\r\nx".into(), false),
        (
            "fields",
            "HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nserver: mine/1.0\r\n\
             X-Mixed-CASE: Yes\r\nVia: 1.1 other\r\nContent-Length: 0\r\n\r\n"
                .into(),
            false,
        ),
        (
            "date",
            format!("HTTP/1.1 200 OK\r\nDATE: {APP_DATE}\r\nContent-Length: 2\r\n\r\nhi"),
            false,
        ),
        (
            "late",
            format!(
                "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\n\
                 Transfer-Encoding: chunked\r\ndate: {APP_DATE}\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
            ),
            false,
        ),
        (
            "chunked",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
                .into(),
            false,
        ),
        ("close", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end".into(), true),
        (
            "hints",
            "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: \
             1\r\n\r\nx"
                .into(),
            false,
        ),
    ];
    for (name, answer, closes) in answers {
        app.script(name, answer, closes);
        let request = format!("GET /script/{name} HTTP/1.1\r\nHost: a\r\n\r\n");
        let direct = exchange(app.address, request.as_bytes(), "GET").await.expect(name);
        let through = exchange(sidecar.listen, request.as_bytes(), "GET").await.expect(name);
        let mut through = without_hop(&through);
        if name == "close" {
            // Delimited another way, since the connection to the client lives on.
            through.1.retain(|(field, _)| field != "transfer-encoding");
        }
        assert_eq!(through, without_hop(&direct), "{name}");
    }
    sidecar.finish().await;
}

#[tokio::test]
async fn a_connection_serves_many_requests_in_order() {
    let app = App::start().await;
    // Kept: of a directory that is gone nobody can say which streams there are.
    let filters = Filters::new(&[]);
    let sidecar = sidecar::start_before(app.address, NO_MONGODB, &filters, &[]).await;
    let mut connection = Connection::open(sidecar.listen).await;
    // Pipelined, and in two pieces.
    let requests: String =
        (0..20).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    let (first, second) = requests.split_at(requests.len() / 2 + 3);
    connection.send(first).await;
    connection.send(second).await;
    for _ in 0..20 {
        assert_eq!(connection.answer("GET").await.expect("an answer").head.status, 200);
    }
    let lines: Vec<String> = app.take_seen().into_iter().map(|seen| seen.line).collect();
    let expected: Vec<String> = (0..20).map(|n| format!("GET /{n} HTTP/1.1")).collect();
    assert_eq!(lines, expected);
    // Our own answers in between leave the connection as it was.
    connection.send("GET /_events/nothing HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(connection.answer("GET").await.expect("an answer").head.status, 404);
    connection.send("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").await;
    assert_eq!(connection.answer("POST").await.expect("an answer").body, b"hi");
    assert_eq!(app.connections(), 1, "the connection to the app is used again");
    sidecar.finish().await;
}

#[tokio::test]
async fn trusted_proxies_are_believed_and_others_are_not() {
    let app = App::start().await;
    let filters = Filters::new(&[]);
    let claim = "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\n\
                 X-Forwarded-Host: shop.example\r\n";
    for (trusted, chain, proto, host) in [
        ("127.0.0.0/8", "203.0.113.7, 127.0.0.1", "https", "shop.example"),
        ("10.0.0.0/8", "127.0.0.1", "http", "a"),
    ] {
        let settings = [("SIDESTREAM_TRUSTED_PROXIES", trusted)];
        let sidecar = sidecar::start_before(app.address, NO_MONGODB, &filters, &settings).await;
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{claim}\r\n");
        exchange(sidecar.listen, request.as_bytes(), "GET").await.expect("an answer");
        let [seen] = &app.take_seen()[..] else { panic!("one request") };
        assert_eq!(seen.fields_named("x-forwarded-for"), [chain]);
        assert_eq!(seen.fields_named("x-forwarded-proto"), [proto]);
        assert_eq!(seen.fields_named("x-forwarded-host"), [host]);
        sidecar.finish().await;
    }
}

#[tokio::test]
async fn an_apps_own_event_stream_is_passed_on_at_once() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let filters = Filters::new(&[]);
    let sidecar = sidecar::start_before(address, NO_MONGODB, &filters, &[]).await;
    let mut connection = Connection::open(sidecar.listen).await;
    connection.send("GET /own HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n").await;
    let (mut app, _) = listener.accept().await.unwrap();
    let mut request = vec![0; 4096];
    assert!(app.read(&mut request).await.unwrap() > 0);
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    app.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(connection.head().await.expect("a head").status, 200);
    for number in 0..5 {
        // The next one is sent only when this one has come.
        app.write_all(format!("9\r\ndata: {number}\n\n\r\n").as_bytes()).await.unwrap();
        let chunk = connection.chunk().await.expect("a chunk");
        assert_eq!(chunk, format!("data: {number}\n\n").as_bytes());
    }
    drop(connection);
    // The app hears that its client has gone.
    until("the app's connection ends", || {
        let gone = matches!(app.try_read(&mut request), Ok(0));
        async move { gone }
    })
    .await;
    sidecar.finish().await;
}

#[tokio::test]
async fn an_app_that_is_away_is_a_502() {
    let filters = Filters::new(&[]);
    let sidecar = sidecar::start_before(sidecar::nowhere(), NO_MONGODB, &filters, &[]).await;
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
    ] {
        let answer = exchange(sidecar.listen, request.as_bytes(), "GET").await.expect("an answer");
        assert_eq!(answer.head.status, 502);
        assert_eq!(answer.head.field("content-type"), Some("application/problem+json"));
        assert_eq!(answer.json()["status"], 502);
        assert!(answer.head.field("server").is_none());
    }
    sidecar.finish().await;
}

#[tokio::test]
async fn an_event_stream_follows_proxied_requests_on_one_connection() {
    let app = App::start().await;
    let filters = Filters::new(&[("a", "collection: forwarding.a\naccess: public\n")]);
    let sidecar = sidecar::start_before(app.address, &mongo::uri(), &filters, &[]).await;
    until("it is ready", || async { sidecar.is_ready() }).await;
    let mut connection = Connection::open(sidecar.listen).await;
    let request = "GET /x HTTP/1.1\r\nHost: a\r\n\r\nGET /y HTTP/1.1\r\nHost: a\r\n\r\n\
                   GET /_events/a HTTP/1.1\r\nHost: a\r\n\r\n";
    for byte in request.as_bytes() {
        connection.send([*byte]).await;
    }
    for _ in 0..2 {
        assert_eq!(connection.answer("GET").await.expect("an answer").head.status, 200);
    }
    let head = connection.head().await.expect("a head");
    assert_eq!(head.field("content-type"), Some("text/event-stream"));
    assert!(connection.chunk().await.expect("a chunk").starts_with(b"retry: "));
    let head = http::request(sidecar.listen, "HEAD", "/_events/a", "").await;
    assert_eq!((head.head.status, head.body.len()), (200, 0));
    Stream::open(sidecar.listen, "/_events/a").await.settled().await;
    sidecar.finish().await;
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let app = App::start().await;
    let sidecar = before(&app).await;
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                  3\r\nabc\r\n0\r\nX-Sum: 42\r\nX-More: yes\r\n\r\n";
    // Nor does this app close the connection behind its answer.
    app.script("trailers", answer, false);
    let get = "GET /script/trailers HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n";
    let post = "POST /script/trailers HTTP/1.1\r\nHost: a\r\nTrailer: X-Digest\r\n\
                Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Digest: 7\r\n\r\n";
    let unasked = "GET /script/trailers HTTP/1.1\r\nHost: a\r\n\r\n";
    for request in [get, unasked, post] {
        let direct = exchange(app.address, request.as_bytes(), "GET").await.expect("an answer");
        let [seen_direct] = &app.take_seen()[..] else { panic!("one request") };
        let through = exchange(sidecar.listen, request.as_bytes(), "GET").await.expect("an answer");
        let [seen_through] = &app.take_seen()[..] else { panic!("one request") };
        assert_eq!(through.trailers.len(), 2);
        assert_eq!(without_hop(&through), without_hop(&direct));
        let without_te = |seen: &Seen| {
            let mut seen = without_added(seen);
            seen.fields.retain(|(name, _)| name != "TE");
            seen
        };
        assert_eq!(without_te(seen_through), without_te(seen_direct));
        assert_eq!(seen_through.fields_named("te"), seen_direct.fields_named("te"));
        assert_eq!(seen_through.fields_named("x-forwarded-for"), ["127.0.0.1"]);
    }
    sidecar.finish().await;
    let filters = Filters::new(&[]);
    let sidecar = sidecar::start_before(sidecar::nowhere(), NO_MONGODB, &filters, &[]).await;
    let answer = exchange(sidecar.listen, get.as_bytes(), "GET").await.expect("an answer");
    assert_eq!((answer.head.status, answer.json()["status"].as_u64()), (502, Some(502)));
    sidecar.finish().await;
}

#[tokio::test]
async fn old_clients_get_no_chunks() {
    let app = App::start().await;
    let sidecar = before(&app).await;
    app.script(
        "chunked",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        false,
    );
    let request = b"GET /script/chunked HTTP/1.0\r\nHost: a\r\n\r\n";
    let answer = exchange(sidecar.listen, request, "GET").await.expect("an answer");
    assert!(answer.head.field("transfer-encoding").is_none());
    assert_eq!(answer.text(), "abc");
    sidecar.finish().await;
}
