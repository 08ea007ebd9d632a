//! From which pages, and what browsers are told about it.

use super::server::{Reply, Server};
use super::{filter, knock};
use crate::support::http::request;
use crate::support::sidecar::{self, Filters};
use crate::support::{mongo, unique};

#[tokio::test]
async fn pages_of_other_origins_need_to_be_allowed() {
    let database = unique("origins");
    let app = Server::start(|_| Reply::json(&serde_json::json!({ "sub": "ada" }))).await;
    let filters = Filters::new(&[
        ("a", &filter(&database, "public", "")),
        ("b", &filter(&database, "authenticated", "")),
    ]);
    let settings = [
        ("SIDESTREAM_AUTH__ALLOWED_ORIGINS", "https://shop.example, http://localhost:5173"),
        ("SIDESTREAM_AUTH__FORWARD__URL", &app.url("/me")),
    ];
    let sidecar = sidecar::start(&mongo::uri(), &filters, &settings).await;
    let listen = sidecar.listen;
    let own = format!("http://{listen}");
    for (origin, status, is_cors) in [
        (own.as_str(), 200, false),
        ("https://shop.example", 200, true),
        ("http://localhost:5173", 200, true),
        ("http://shop.example", 403, false),
        ("https://shop.example.evil", 403, false),
        ("https://evil.example", 403, false),
        ("null", 403, false),
    ] {
        let fields = format!("Origin: {origin}\r\n");
        let answer = knock(listen, "/_events/a", &fields).await;
        assert_eq!(answer.head.status, status, "{origin}");
        let allowed = answer.head.field("access-control-allow-origin");
        assert_eq!(allowed, is_cors.then_some(origin), "{origin}");
        let credentials = answer.head.field("access-control-allow-credentials");
        assert_eq!(credentials, is_cors.then_some("true"), "{origin}");
        assert_eq!(answer.head.field("vary"), Some("Accept, Origin"), "{origin}");
        let poll = request(listen, "GET", "/_events/a?transport=poll", &fields).await;
        assert_eq!(poll.head.field("access-control-allow-origin"), allowed, "{origin}");
        assert_eq!(poll.head.field("vary"), Some("Accept, Origin"), "{origin}");

        // A page may read why it was refused, if it is one that may ask.
        let refused = knock(listen, "/_events/b", &fields).await;
        assert_eq!(refused.head.status, if status == 403 { 403 } else { 401 }, "{origin}");
        assert_eq!(refused.head.field("access-control-allow-origin"), allowed, "{origin}");

        let fields = format!(
            "Origin: {origin}\r\nAccess-Control-Request-Method: GET\r\n\
             Access-Control-Request-Headers: last-event-id\r\n"
        );
        let preflight = request(listen, "OPTIONS", "/_events/a", &fields).await;
        assert_eq!(preflight.head.status, if status == 403 { 403 } else { 204 }, "{origin}");
        let headers = preflight.head.field("access-control-allow-headers").unwrap_or_default();
        assert_eq!(headers.contains("Last-Event-ID"), is_cors, "{origin}");
        assert_eq!(preflight.head.field("access-control-allow-origin"), allowed, "{origin}");
    }
    for (site, status) in
        [("same-origin", 200), ("none", 200), ("same-site", 403), ("cross-site", 403)]
    {
        let answer = knock(listen, "/_events/a", &format!("Sec-Fetch-Site: {site}\r\n")).await;
        assert_eq!(answer.head.status, status, "{site}");
    }
    let https = format!("Origin: https://{listen}\r\nX-Forwarded-Proto: https\r\n");
    assert_eq!(knock(listen, "/_events/a", &https).await.head.status, 200);
    let downgraded = format!("Origin: http://{listen}\r\nX-Forwarded-Proto: https\r\n");
    assert_eq!(knock(listen, "/_events/a", &downgraded).await.head.status, 403);
    // Two proxies in a row, each of which has added what it knows.
    let forwarded = "X-Forwarded-Proto: https, http\r\nX-Forwarded-Host: shop.test, inner:8080\r\n";
    for (origin, status) in [("https://shop.test", 200), ("http://inner:8080", 403)] {
        let fields = format!("Origin: {origin}\r\n{forwarded}");
        assert_eq!(knock(listen, "/_events/a", &fields).await.head.status, status, "{origin}");
    }
    sidecar.finish().await;
}

#[tokio::test]
async fn a_websocket_with_cookies_needs_an_origin() {
    let database = unique("origins");
    let filters = Filters::new(&[("a", &filter(&database, "public", ""))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (more, status) in [
        (String::new(), 101),
        ("Cookie: a=1\r\n".to_owned(), 403),
        (format!("Cookie: a=1\r\nOrigin: http://{}\r\n", sidecar.listen), 101),
        ("Cookie: a=1\r\nOrigin: http://evil.example\r\n".to_owned(), 403),
    ] {
        let answer =
            request(sidecar.listen, "GET", "/_events/a", &format!("{upgrade}{more}")).await;
        assert_eq!(answer.head.status, status, "{more}");
        assert_eq!(answer.head.field("vary"), None, "no CORS without allowed origins");
    }
    sidecar.finish().await;
}
