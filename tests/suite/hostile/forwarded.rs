//! Strangers who say where their requests came from.

use serde_json::json;

use crate::access::server::{Reply, Server};
use crate::access::{filter, knock};
use crate::proxy::Pair;
use crate::proxy::frames::{get, open, status_of};
use crate::proxy::raw::ask;
use crate::support::sidecar::{self, Filters};
use crate::support::{mongo, unique};

const CLAIMS: [(&str, &str); 16] = [
    ("Forwarded", "for=evil;proto=https"),
    ("X-Forwarded-For", "evil"),
    ("X-Forwarded-Proto", "evil"),
    ("X-Forwarded-Host", "evil"),
    ("X-Forwarded-Port", "evil"),
    ("X-Forwarded-Ssl", "evil"),
    ("X-Forwarded-Scheme", "evil"),
    ("X-Forwarded-Server", "evil"),
    ("X-Real-IP", "evil"),
    ("X_Real_IP", "evil"),
    ("True-Client-IP", "evil"),
    ("CF-Connecting-IP", "evil"),
    ("X-Client-IP", "evil"),
    ("X-Cluster-Client-IP", "evil"),
    ("X-Original-URL", "/evil"),
    ("X-Rewrite-URL", "/evil"),
];

#[tokio::test]
async fn strangers_say_where_they_come_from() {
    let strangers = [("SIDESTREAM_TRUSTED_PROXIES", "192.0.2.0/24")];
    let pair = Pair::start_with(&strangers).await;
    let claims: String = CLAIMS.map(|(name, value)| format!("{name}: {value}\r\n")).concat();
    let request = format!("GET /1 HTTP/1.1\r\nHost: a\r\n{claims}X-Mine: 1\r\n\r\n");
    assert_eq!(ask(pair.proxy(), "GET", request).await.status(), 200);
    let (sender, _ending) = open(pair.proxy()).await;
    let mut request = get("/2", "");
    for (name, value) in CLAIMS.into_iter().chain([("X-Mine", "1")]) {
        let name = http::HeaderName::from_bytes(name.as_bytes()).expect("a name");
        request.headers_mut().append(name, value.parse().expect("a value"));
    }
    assert_eq!(status_of(&sender, request).await, 200);
    let trailers = "POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\
                    X-Real-IP: evil\r\nX-Mine: 1\r\n\r\n";
    assert_eq!(ask(pair.proxy(), "POST", trailers).await.status(), 200);
    let reached = pair.app.take();
    for one in &reached[..2] {
        assert!(!String::from_utf8_lossy(&one.head).contains("evil"), "{:?}", one.fields());
        assert_eq!(one.field("x-forwarded-for").as_deref(), Some("127.0.0.1"));
        assert_eq!(one.field("x-forwarded-proto").as_deref(), Some("http"));
        assert_eq!(one.field("x-mine").as_deref(), Some("1"));
    }
    assert_eq!(reached[2].trailers, ["X-Mine: 1"]);
    pair.finish().await;
}

#[tokio::test]
async fn proxies_that_are_trusted_are_passed_on() {
    let pair = Pair::start().await;
    let request = "GET / HTTP/1.1\r\nHost: a\r\nForwarded: for=192.0.2.1\r\nX-Real-IP: 192.0.2.1\r\n\
                   X-Forwarded-For: 192.0.2.1:567\r\nX-Forwarded-Port: 443\r\n\r\n";
    assert_eq!(ask(pair.proxy(), "GET", request).await.status(), 200);
    let reached = pair.app.take().remove(0);
    assert_eq!(reached.field("forwarded").as_deref(), Some("for=192.0.2.1"));
    assert_eq!(reached.field("x-real-ip").as_deref(), Some("192.0.2.1"));
    assert_eq!(reached.field("x-forwarded-port").as_deref(), Some("443"));
    assert_eq!(reached.field("x-forwarded-for").as_deref(), Some("192.0.2.1:567, 127.0.0.1"));
    pair.finish().await;
}

#[tokio::test]
async fn a_target_names_another_scheme() {
    let pair = Pair::start().await;
    for (target, proto, status) in [
        ("https://a/", "http", 400),
        ("http://a/", "https", 400),
        ("https://a/", "https", 200),
        ("http://a/", "http", 200),
    ] {
        let request =
            format!("GET {target} HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: {proto}\r\n\r\n");
        let answer = ask(pair.proxy(), "GET", request).await;
        assert_eq!(answer.status(), status, "{target} {proto}");
    }
    assert_eq!(
        ask(pair.proxy(), "GET", "GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n").await.status(),
        400
    );
    assert_eq!(pair.app.take().len(), 2);
    pair.finish().await;
}

/// A proxy in front that signs users in names them like this; so can anybody else.
#[tokio::test]
async fn strangers_say_who_they_are_where_a_trusted_proxy_would() {
    let app = Server::start(|question| match question.field("x-forwarded-user") {
        Some(name) => Reply::json(&json!({ "sub": name })),
        None => Reply::status(401),
    })
    .await;
    let filters = Filters::new(&[("mine", &filter(&unique("forwarded"), "authenticated", ""))]);
    let url = app.url("/me");
    for (trusted, status) in [("127.0.0.0/8", 200), ("192.0.2.0/24", 401)] {
        let settings = [
            ("SIDESTREAM_AUTH__FORWARD__URL", url.as_str()),
            ("SIDESTREAM_AUTH__FORWARD__HEADERS", "x-forwarded-user"),
            ("SIDESTREAM_TRUSTED_PROXIES", trusted),
        ];
        let sidecar = sidecar::start(&mongo::uri(), &filters, &settings).await;
        let answer = knock(sidecar.listen, "/_events/mine", "X-Forwarded-User: ada\r\n").await;
        assert_eq!(answer.head.status, status, "{trusted}");
        sidecar.finish().await;
    }
}
