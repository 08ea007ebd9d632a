//! Requests that two readers could take for different ones: refused at the door, the connection
//! closed, and nothing of them reaches the app.

use crate::forwarding::before;
use crate::proxy::Pair;
use crate::proxy::app::latin1;
use crate::proxy::raw::Raw;
use crate::support::app::App;
use crate::support::http::Connection;

/// What an attacker would like to slip past us.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn hostile_requests_are_refused_and_reach_nobody() {
    let pair = Pair::start().await;
    let long = "x".repeat(70 * 1024);
    let many: String = (0..200).map(|at| format!("X-{at}: 1\r\n")).collect();
    let post = |fields: &str, body: &str| format!("POST /x HTTP/1.1\r\n{fields}\r\n{body}");
    let rows: Vec<(&str, u16, String)> = vec![
        (
            "length and coding",
            400,
            post("Host: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ),
        (
            "coding and length",
            400,
            post("Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
        ),
        (
            "equal lengths",
            400,
            post("Host: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n", "abc"),
        ),
        (
            "different lengths",
            400,
            post("Host: a\r\nContent-Length: 3\r\nContent-Length: 0\r\n", "abc"),
        ),
        ("a list of lengths", 400, post("Host: a\r\nContent-Length: 3, 3\r\n", "abc")),
        ("a signed length", 400, post("Host: a\r\nContent-Length: +3\r\n", "abc")),
        ("a negative length", 400, post("Host: a\r\nContent-Length: -1\r\n", "")),
        ("a hexadecimal length", 400, post("Host: a\r\nContent-Length: 0x3\r\n", "abc")),
        ("an empty length", 400, post("Host: a\r\nContent-Length:\r\n", "abc")),
        (
            "a length beyond 64 bits",
            400,
            post("Host: a\r\nContent-Length: 18446744073709551617\r\n", "a"),
        ),
        (
            "two codings",
            400,
            post(
                "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                "0\r\n\r\n",
            ),
        ),
        (
            "a list of codings",
            400,
            post("Host: a\r\nTransfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
        ),
        ("identity", 400, post("Host: a\r\nTransfer-Encoding: identity\r\n", "abc")),
        (
            "chunked with a parameter",
            400,
            post("Host: a\r\nTransfer-Encoding: chunked;q=1\r\n", "0\r\n\r\n"),
        ),
        ("quoted coding", 400, post("Host: a\r\nTransfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n")),
        ("a vertical tab", 400, post("Host: a\r\nTransfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n")),
        (
            "space before the colon",
            400,
            post("Host: a\r\nTransfer-Encoding : chunked\r\n", "0\r\n\r\n"),
        ),
        (
            "a coding in HTTP/1.0",
            400,
            "POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
        ),
        (
            "underscores for dashes",
            400,
            post("Host: a\r\nTransfer_Encoding: chunked\r\nContent_Length: 3\r\n", ""),
        ),
        ("a bare LF", 400, "GET /x HTTP/1.1\nHost: a\n\n".into()),
        ("one bare LF", 400, "GET /x HTTP/1.1\r\nHost: a\nX: y\r\n\r\n".into()),
        ("a bare CR", 400, "GET /x HTTP/1.1\r\nHost: a\rX: y\r\n\r\n".into()),
        ("a bare CR in a value", 400, "GET /x HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n".into()),
        ("no Host", 400, "GET /x HTTP/1.1\r\n\r\n".into()),
        ("equal Hosts", 400, "GET /x HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".into()),
        ("different Hosts", 400, "GET /x HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n".into()),
        ("Host and another authority", 400, "GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        ("a Host with a path", 400, "GET /x HTTP/1.1\r\nHost: a/b\r\n\r\n".into()),
        ("a Host with userinfo", 400, "GET /x HTTP/1.1\r\nHost: u@a\r\n\r\n".into()),
        ("folding", 400, "GET /x HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n".into()),
        ("folding with a tab", 400, "GET /x HTTP/1.1\r\nHost: a\r\nX: 1\r\n\t2\r\n\r\n".into()),
        ("folding at the start", 400, "GET /x HTTP/1.1\r\n Host: a\r\n\r\n".into()),
        ("NUL in a value", 400, "GET /x HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n".into()),
        ("NUL in a name", 400, "GET /x HTTP/1.1\r\nHost: a\r\nX\0: a\r\n\r\n".into()),
        ("NUL in the target", 400, "GET /x\0y HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        ("a space in the target", 400, "GET /x y HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        ("a fragment", 400, "GET /x#/../y HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        ("no path", 400, "GET x HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        ("two spaces", 400, "GET  /x HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        ("a tab for a space", 400, "GET\t/x HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        ("leading empty lines", 400, "\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        ("no version", 400, "GET /x\r\nHost: a\r\n\r\n".into()),
        ("a lower-case version", 400, "GET /x http/1.1\r\nHost: a\r\n\r\n".into()),
        ("a far version", 505, "GET /x HTTP/2.0\r\nHost: a\r\n\r\n".into()),
        (
            "a control character in a value",
            400,
            "GET /x HTTP/1.1\r\nHost: a\r\nX: some text and then\x01\r\n\r\n".into(),
        ),
        (
            "more dashes than there are",
            400,
            post("Host: a\r\nTransfer---Encoding: chunked\r\n", "0\r\n\r\n"),
        ),
        ("no colon", 400, "GET /x HTTP/1.1\r\nHost: a\r\nX\r\n\r\n".into()),
        ("an empty name", 400, "GET /x HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n".into()),
        ("a tunnel", 405, "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n".into()),
        ("an endless target", 431, format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n")),
        ("an endless field", 431, format!("GET /x HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n")),
        ("too many fields", 431, format!("GET /x HTTP/1.1\r\nHost: a\r\n{many}\r\n")),
        ("an encoded reserved path", 400, "GET /%5fevents/x HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        (
            "a way around the reserved path",
            400,
            "GET /_events/../x HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        ),
        (
            "a way into the reserved path",
            400,
            "GET /a/..%2f_events HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        ),
        ("TLS", 400, "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03\n\n".into()),
    ];
    for (row, status, request) in rows {
        let mut raw = Raw::open(pair.proxy()).await;
        raw.send(&request).await.send(SMUGGLED).await;
        let answer = raw.answer("GET").await.unwrap_or_else(|| panic!("{row}: no answer"));
        assert_eq!(answer.status(), status, "{row}: {}", answer.text());
        assert_eq!(answer.field("content-type"), Some("application/problem+json"), "{row}");
        assert_eq!(answer.field("connection"), Some("close"), "{row}");
        let rest = raw.rest().await;
        assert!(rest.is_empty(), "{row}: {}", latin1(&rest));
        let reached = pair.app.take();
        assert!(reached.is_empty(), "{row}: {}", reached[0].line());
    }
    pair.finish().await;
}

#[tokio::test]
async fn what_can_be_read_in_two_ways_reaches_nobody() {
    let app = App::start().await;
    let sidecar = before(&app).await;
    let hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    for (request, status) in [
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\tchunked, \r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\nx", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx", 400),
        ("GET / HTTP/1.1\nHost: a\n\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        ("GET /_events/%2e%2e/x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /%5fevents/x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 405),
        ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ] {
        let mut connection = Connection::open(sidecar.listen).await;
        connection.send(format!("{request}{hidden}")).await;
        let answer = connection.answer("GET").await.unwrap_or_else(|| panic!("{request:?}"));
        assert_eq!(answer.head.status, status, "{request:?}");
        assert!(connection.is_closed().await, "more than one answer: {request:?}");
        assert_eq!(app.take_seen(), [], "{request:?}");
    }
    let mut connection = Connection::open(sidecar.listen).await;
    connection.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(70_000))).await;
    assert_eq!(connection.answer("GET").await.expect("an answer").head.status, 431);
    assert_eq!(app.take_seen(), []);
    sidecar.finish().await;
}

#[tokio::test]
async fn a_body_on_the_reserved_path_reaches_nobody() {
    let app = App::start().await;
    let sidecar = before(&app).await;
    let hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut connection = Connection::open(sidecar.listen).await;
    let request = format!(
        "POST /_events/x HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{hidden}",
        hidden.len()
    );
    connection.send(request).await;
    assert_eq!(connection.answer("POST").await.expect("an answer").head.status, 405);
    assert!(connection.is_closed().await);
    assert_eq!(app.take_seen(), []);
    sidecar.finish().await;
}

/// Waits as long as a head may take, 10 seconds.
#[tokio::test]
async fn a_head_that_does_not_come_is_not_waited_for() {
    let app = App::start().await;
    let sidecar = before(&app).await;
    let mut connection = Connection::open(sidecar.listen).await;
    connection.send("GET / HTTP/1.1\r\nHost: a\r\n").await;
    assert_eq!(connection.answer("GET").await.expect("an answer").head.status, 408);
    assert!(connection.is_closed().await);
    assert_eq!(app.take_seen(), []);
    sidecar.finish().await;
}
