//! Protocols that begin where none was agreed on, and answers with lengths that they do not have.

use crate::proxy::Pair;
use crate::proxy::app::{Step, send};
use crate::proxy::frames::{ask as ask_h2, get, head_of, open};
use crate::proxy::raw::{Raw, ask};

#[tokio::test]
async fn http2_begins_behind_requests_of_http1() {
    let pair = Pair::start().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for before in ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "\r\n"] {
        let mut raw = Raw::open(pair.proxy()).await;
        raw.send(before).await.send(preface).await;
        if before.starts_with("GET") {
            assert_eq!(raw.answer("GET").await.expect("an answer").status(), 200);
        }
        assert_eq!(raw.answer("PRI").await.expect("an answer").status(), 505, "{before:?}");
        assert!(raw.rest().await.is_empty());
    }
    pair.finish().await;
}

#[tokio::test]
async fn an_app_switches_to_http2_for_a_web_socket() {
    let pair = Pair::start().await;
    for upgrade in ["Upgrade: h2c\r\n", "", "Upgrade: websocket\r\nUpgrade: h2c\r\n"] {
        let said = format!("HTTP/1.1 101 Go\r\nConnection: Upgrade\r\n{upgrade}\r\n");
        pair.app.on("switch", [send(said), Step::Echo]);
        let request = "GET / HTTP/1.1\r\nHost: a\r\nX-Case: switch\r\nConnection: Upgrade\r\n\
                       Upgrade: websocket\r\n\r\n";
        assert_eq!(ask(pair.proxy(), "GET", request).await.status(), 502, "{upgrade:?}");
    }
    pair.finish().await;
}

#[tokio::test]
async fn an_answer_without_a_body_has_a_length() {
    let pair = Pair::start().await;
    let said = "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n";
    pair.app.on("none", [Step::Body, send(said)]);
    let request = "GET / HTTP/1.1\r\nHost: a\r\nX-Case: none\r\n\r\n";
    let answer = ask(pair.proxy(), "GET", request).await;
    assert_eq!((answer.status(), answer.field("content-length")), (204, None));
    let (sender, _ending) = open(pair.proxy()).await;
    let answer = head_of(ask_h2(&sender, get("/", "none")).await).await;
    assert_eq!(answer.status(), 204);
    assert!(!answer.headers().contains_key("content-length"));
    pair.finish().await;
}
