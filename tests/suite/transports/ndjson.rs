use std::net::SocketAddr;

use serde_json::Value;

use super::{filter, insert, key};
use crate::support::http::{self, Connection};
use crate::support::sidecar::{self, Filters, metric};
use crate::support::{mongo, unique};

/// A stream of lines.
pub struct Lines {
    connection: Connection,
    text: String,
}

impl Lines {
    pub async fn open(address: SocketAddr, target: &str, fields: &str) -> Lines {
        let mut connection = Connection::open(address).await;
        let accept = "Accept: application/x-ndjson\r\n";
        let head = format!("GET {target} HTTP/1.1\r\nHost: {address}\r\n{accept}{fields}\r\n");
        connection.send(head).await;
        let head = connection.head().await.expect("a head");
        assert_eq!(head.status, 200);
        assert_eq!(head.field("content-type"), Some("application/x-ndjson"));
        assert_eq!(head.field("cache-control"), Some("no-store, no-transform"));
        assert_eq!(head.field("vary"), Some("Accept"));
        Lines { connection, text: String::new() }
    }

    pub async fn line(&mut self) -> Value {
        loop {
            if let Some(end) = self.text.find('\n') {
                let line: String = self.text.drain(..=end).collect();
                return serde_json::from_str(&line).expect("JSON");
            }
            let chunk = self.connection.chunk().await.expect("the stream goes on");
            self.text.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
        }
    }

    /// The next line with an event.
    pub async fn event(&mut self) -> Value {
        loop {
            let line = self.line().await;
            if line.get("event").is_some() {
                return line;
            }
        }
    }
}

#[tokio::test]
async fn each_frame_is_a_line() {
    let database = unique("ndjson");
    let filters = Filters::new(&[("a", &filter(&format!("{database}.a"), ""))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut lines = Lines::open(sidecar.listen, "/_events/a", "").await;
    let ready = lines.event().await;
    assert_eq!((&ready["event"], &ready["data"]), (&"ready".into(), &serde_json::json!({})));
    let first = ready["id"].as_str().expect("an id").to_string();
    insert(&database, "a", 0..3).await;
    let mut ids = vec![first.clone()];
    for number in 0..3 {
        let event = lines.event().await;
        assert_eq!((&event["event"], key(&event)), (&"insert".into(), number));
        assert_eq!(event["data"]["fullDocument"]["_id"], number);
        ids.push(event["id"].as_str().expect("an id").to_string());
    }
    assert!(ids.is_sorted());
    // Signs of life are lines, too.
    assert!(lines.line().await.get("event").is_none());

    let mut resumed =
        Lines::open(sidecar.listen, "/_events/a", &format!("Last-Event-ID: {}\r\n", ids[1])).await;
    assert_eq!(key(&resumed.event().await), 1);
    let mut resumed =
        Lines::open(sidecar.listen, &format!("/_events/a?lastEventId={first}"), "").await;
    assert_eq!(key(&resumed.event().await), 0);
    let open = metric(sidecar.admin, "sidestream_connections{transport=\"ndjson\"}").await;
    assert_eq!(open, 3.0);
    sidecar.finish().await;
}

#[tokio::test]
async fn the_request_chooses() {
    let database = unique("chosen");
    let filters = Filters::new(&[("a", &filter(&format!("{database}.a"), ""))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    for (target, accept, expected) in [
        ("/_events/a", "*/*", Ok("text/event-stream")),
        ("/_events/a", "application/x-ndjson, */*", Ok("application/x-ndjson")),
        ("/_events/a", "application/json", Ok("application/json")),
        ("/_events/a", "application/*", Ok("application/x-ndjson")),
        ("/_events/a?transport=sse", "application/json", Ok("text/event-stream")),
        ("/_events/a?transport=ndjson", "text/event-stream", Ok("application/x-ndjson")),
        ("/_events/a?transport=poll", "*/*", Ok("application/json")),
        ("/_events/a?transport=pigeon", "*/*", Err(400)),
        ("/_events/a", "image/png", Err(406)),
    ] {
        let fields = format!("Accept: {accept}\r\n");
        // HEAD answers as GET would, without opening the stream.
        let answer = http::request(sidecar.listen, "HEAD", target, &fields).await;
        match expected {
            Ok(media_type) => {
                assert_eq!(answer.head.status, 200, "{target} {accept}");
                assert_eq!(
                    answer.head.field("content-type"),
                    Some(media_type),
                    "{target} {accept}"
                );
                assert_eq!(answer.head.field("vary"), Some("Accept"));
            }
            Err(status) => assert_eq!(answer.head.status, status, "{target} {accept}"),
        }
    }
    let options = http::request(sidecar.listen, "OPTIONS", "/_events/a", "").await;
    assert_eq!(
        (options.head.status, options.head.field("allow")),
        (204, Some("GET, HEAD, OPTIONS"))
    );
    sidecar.finish().await;
}
