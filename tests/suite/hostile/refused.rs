//! What strangers send, over raw sockets.

use crate::forwarding::before;
use crate::support::app::App;
use crate::support::http::Connection;

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
