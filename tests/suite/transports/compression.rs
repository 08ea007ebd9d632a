//! Compressed streams: each event can be decoded as soon as it has come.

use std::io::Read;
use std::net::SocketAddr;

use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::{filter, insert};
use crate::support::http::{self, Connection, Head};
use crate::support::sidecar::{self, Filters};
use crate::support::{mongo, unique};

const ALL: [&str; 3] = ["zstd", "br", "gzip"];
const SETTINGS: [(&str, &str); 1] = [("SIDESTREAM_CLIENTS__COMPRESSION", "[zstd, br, gzip]")];

/// What a decoder makes of what has come so far.
fn decoded(coding: &str, bytes: &[u8]) -> String {
    let mut decoder: Box<dyn Read + '_> = match coding {
        "zstd" => Box::new(zstd::Decoder::new(bytes).expect("a decoder")),
        "br" => Box::new(brotli::Decompressor::new(bytes, 4096)),
        "gzip" => Box::new(flate2::read::GzDecoder::new(bytes)),
        other => panic!("{other}"),
    };
    let (mut all, mut some) = (Vec::new(), [0; 4096]);
    // An end that has not come yet is an error for these; what is before it is good.
    while let Ok(read @ 1..) = decoder.read(&mut some) {
        all.extend_from_slice(&some[..read]);
    }
    String::from_utf8(all).expect("UTF-8")
}

/// A stream, as it came and as a decoder sees it.
struct Compressed {
    connection: Connection,
    head: Head,
    coding: String,
    bytes: Vec<u8>,
}

impl Compressed {
    async fn open(address: SocketAddr, target: &str, fields: &str) -> Compressed {
        let mut connection = Connection::open(address).await;
        let head = format!("GET {target} HTTP/1.1\r\nHost: {address}\r\n{fields}\r\n");
        connection.send(head).await;
        let head = connection.head().await.expect("a head");
        let coding = head.field("content-encoding").unwrap_or("none").to_owned();
        Compressed { connection, head, coding, bytes: Vec::new() }
    }

    /// Reads until this is among what has come.
    async fn until(&mut self, wanted: &str) -> String {
        loop {
            let text = decoded(&self.coding, &self.bytes);
            if text.contains(wanted) {
                return text;
            }
            let chunk = self.connection.chunk().await;
            self.bytes.extend_from_slice(&chunk.expect("the stream goes on"));
        }
    }
}

#[tokio::test]
async fn an_event_is_decoded_when_it_comes() {
    let database = unique("compressed");
    let filters = Filters::new(&[("a", &filter(&format!("{database}.a"), ""))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &SETTINGS).await;
    let mut number = 0;
    for coding in ALL {
        for (transport, media_type) in
            [("sse", "text/event-stream"), ("ndjson", "application/x-ndjson")]
        {
            let target = format!("/_events/a?transport={transport}");
            let fields = format!("Accept-Encoding: {coding}\r\n");
            let mut stream = Compressed::open(sidecar.listen, &target, &fields).await;
            let field = |name: &str| stream.head.field(name);
            assert_eq!(field("content-encoding"), Some(coding));
            assert_eq!(field("content-type"), Some(media_type));
            assert_eq!(field("cache-control"), Some("no-store, no-transform"));
            assert_eq!(field("vary"), Some("Accept, Accept-Encoding"));
            stream.until("ready").await;
            // Nothing is written before the one before it was read.
            let begin = number;
            for _ in 0..5 {
                insert(&database, "a", number..number + 1).await;
                stream.until(&format!("\"_id\":{number}}}")).await;
                number += 1;
            }
            // A sign of life is as good as an event.
            let before = decoded(coding, &stream.bytes).len();
            while decoded(coding, &stream.bytes).len() == before {
                let chunk = stream.connection.chunk().await.expect("the stream goes on");
                stream.bytes.extend_from_slice(&chunk);
            }
            // Cut and resumed: what comes behind the first event, and nothing twice.
            let text = decoded(coding, &stream.bytes);
            let at = text.find(&format!("\"_id\":{begin}}}")).expect("the first event");
            let id = match transport {
                "sse" => text[at..].lines().find_map(|line| line.strip_prefix("id: ")),
                _ => text[..at].rsplit("\"id\":\"").next().and_then(|rest| rest.split('"').next()),
            };
            let id = id.expect("its id").to_owned();
            drop(stream);
            let fields = format!("{fields}Last-Event-ID: {id}\r\n");
            let mut resumed = Compressed::open(sidecar.listen, &target, &fields).await;
            let text = resumed.until(&format!("\"_id\":{}}}", number - 1)).await;
            assert!(!text.contains(&format!("\"_id\":{begin}}}")), "{text}");
            assert!(text.contains(&format!("\"_id\":{}}}", begin + 1)), "{text}");
        }
    }
    // A drain ends a stream as a decoder expects it.
    let mut streams = Vec::new();
    for coding in ALL {
        let fields = format!("Accept-Encoding: {coding}\r\n");
        let mut stream = Compressed::open(sidecar.listen, "/_events/a", &fields).await;
        stream.until("ready").await;
        streams.push(stream);
    }
    let reading = tokio::spawn(async move {
        for stream in &mut streams {
            while let Some(chunk) = stream.connection.chunk().await {
                stream.bytes.extend_from_slice(&chunk);
            }
            let (bytes, mut all) = (stream.bytes.as_slice(), Vec::new());
            let read = match stream.coding.as_str() {
                "zstd" => zstd::Decoder::new(bytes).expect("a decoder").read_to_end(&mut all),
                "br" => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut all),
                _ => flate2::read::GzDecoder::new(bytes).read_to_end(&mut all),
            };
            assert!(read.is_ok(), "{}: {read:?}", stream.coding);
        }
    });
    sidecar.finish().await;
    reading.await.expect("whole streams");
}

#[tokio::test]
async fn only_streams_whose_clients_accept_it_are_compressed() {
    let database = unique("plain");
    let filters = Filters::new(&[("a", &filter(&format!("{database}.a"), ""))]);
    let settings = [("SIDESTREAM_CLIENTS__COMPRESSION", "[br, gzip]")];
    let sidecar = sidecar::start(&mongo::uri(), &filters, &settings).await;
    for (target, accepted, coding) in [
        ("/_events/a", "", None),
        ("/_events/a", "deflate", None),
        ("/_events/a", "gzip, deflate, br, zstd", Some("br")),
        ("/_events/a", "gzip, br;q=0.5", Some("gzip")),
        ("/_events/a", "br;q=0, *", Some("gzip")),
        ("/_events?stream=a", "gzip", Some("gzip")),
        ("/_events/a?transport=poll", "gzip", None),
    ] {
        let fields = format!("Accept-Encoding: {accepted}\r\n");
        let answer = http::request(sidecar.listen, "HEAD", target, &fields).await;
        assert_eq!(answer.head.status, 200, "{target} {accepted}");
        assert_eq!(answer.head.field("content-encoding"), coding, "{target} {accepted}");
        assert_eq!(answer.head.field("vary"), Some("Accept, Accept-Encoding"));
    }
    let refused = "Accept-Encoding: identity;q=0, zstd\r\n";
    let answer = http::request(sidecar.listen, "GET", "/_events/a", refused).await;
    assert_eq!(answer.head.status, 406, "{}", answer.text());
    assert!(answer.text().contains("br, gzip"), "{}", answer.text());
    assert_eq!(answer.head.field("vary"), Some("Accept, Accept-Encoding"));
    sidecar.finish().await;
}

#[tokio::test]
async fn nothing_is_compressed_by_default() {
    let database = unique("default");
    let filters = Filters::new(&[("a", &filter(&format!("{database}.a"), ""))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let fields = "Accept-Encoding: gzip, br, zstd\r\n";
    let answer = http::request(sidecar.listen, "HEAD", "/_events/a", fields).await;
    assert_eq!(answer.head.field("content-encoding"), None);
    assert_eq!(answer.head.field("vary"), Some("Accept"));
    sidecar.finish().await;
}

#[tokio::test]
async fn http2_is_compressed_too() {
    let database = unique("compressed2");
    let filters = Filters::new(&[("a", &filter(&format!("{database}.a"), ""))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &SETTINGS).await;
    let socket = tokio::net::TcpStream::connect(sidecar.listen).await.expect("a connection");
    let (client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
            .await
            .expect("a handshake");
    tokio::spawn(connection);
    let mut number = 0;
    for coding in ALL {
        let request = Request::get(format!("http://{}/_events/a", sidecar.listen))
            .header("accept-encoding", coding)
            .body(Empty::<Bytes>::new())
            .expect("a request");
        let answer = client.clone().send_request(request).await.expect("an answer");
        assert_eq!(answer.headers()["content-encoding"], coding);
        let (mut body, mut bytes) = (answer.into_body(), Vec::new());
        let mut until = async |wanted: &str| {
            while !decoded(coding, &bytes).contains(wanted) {
                let frame = body.frame().await.expect("the stream goes on").expect("a frame");
                bytes.extend_from_slice(&frame.into_data().expect("data"));
            }
        };
        until("ready").await;
        for _ in 0..3 {
            insert(&database, "a", number..number + 1).await;
            until(&format!("\"_id\":{number}}}")).await;
            number += 1;
        }
    }
    sidecar.finish().await;
}
