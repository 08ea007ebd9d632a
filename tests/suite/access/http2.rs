//! HTTP/2 comes in by another way, and meets the same rules.

use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;

use super::SECRET;
use super::filter;
use super::issuer::{claims, secret};
use super::server::{Reply, Server};
use crate::support::sidecar::{self, Filters};
use crate::support::{mongo, unique, until};

#[tokio::test]
async fn the_same_rules_hold_for_http2() {
    let database = unique("http2");
    let app = Server::start(|question| match question.field("cookie") {
        Some("a=1; session=ada") => Reply::json(&json!({ "sub": "ada" })),
        _ => Reply::status(401),
    })
    .await;
    let filters = Filters::new(&[("mine", &filter(&database, "authenticated", ""))]);
    let settings = [
        ("SIDESTREAM_AUTH__JWT__SECRET", SECRET),
        ("SIDESTREAM_AUTH__JWT__ALGORITHMS", "HS256"),
        ("SIDESTREAM_AUTH__FORWARD__URL", &app.url("/me")),
        ("SIDESTREAM_AUTH__FORWARD__RECHECK", "300ms"),
        ("SIDESTREAM_AUTH__ALLOWED_ORIGINS", "https://shop.example"),
    ];
    let sidecar = sidecar::start(&mongo::uri(), &filters, &settings).await;
    let socket = tokio::net::TcpStream::connect(sidecar.listen).await.unwrap();
    let (client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
            .await
            .unwrap();
    tokio::spawn(connection);
    let url = format!("http://{}/_events/mine", sidecar.listen);
    let ask = async |method: &str, fields: &[(&str, &str)]| {
        let mut request = Request::builder().method(method).uri(&url);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        client.clone().send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap()
    };
    let bearer = format!("Bearer {}", secret(SECRET).sign(&claims(json!({}))));
    let forged = format!("Bearer {}", secret("another").sign(&claims(json!({}))));
    for (fields, status) in [
        (&[][..], 401),
        (&[("authorization", bearer.as_str())], 200),
        (&[("authorization", forged.as_str())], 401),
        (&[("authorization", bearer.as_str()), ("origin", "https://evil.example")], 403),
        (&[("authorization", bearer.as_str()), ("origin", "https://shop.example")], 200),
        (&[("cookie", "a=1"), ("cookie", "session=bob")], 401),
    ] {
        assert_eq!(ask("HEAD", fields).await.status(), status, "{fields:?}");
    }
    let preflight = [("origin", "https://shop.example"), ("access-control-request-method", "GET")];
    let answer = ask("OPTIONS", &preflight).await;
    assert_eq!(answer.status(), 204);
    assert_eq!(answer.headers()["access-control-allow-origin"], "https://shop.example");
    assert!(!answer.headers().contains_key("content-length"));

    let answer = ask("GET", &[("cookie", "a=1"), ("cookie", "session=ada")]).await;
    assert_eq!(answer.status(), 200);
    app.answer_with(|_| Reply::status(401));
    let body = answer.into_body().collect().await.expect("a clean end").to_bytes();
    let text = String::from_utf8_lossy(&body);
    assert!(text.ends_with("event: end\ndata: {\"reason\":\"unauthorized\"}\n\n"), "{text}");
    until("the stream's end is noticed", || async {
        let open = "sidestream_connections{transport=\"sse\"}";
        sidecar::metric(sidecar.admin, open).await == 0.0
    })
    .await;
    drop(client);
    sidecar.finish().await;
}
