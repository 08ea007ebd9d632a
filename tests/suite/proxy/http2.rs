//! HTTP/2 from the client, in the clear and over TLS; the app behind speaks HTTP/1.1 as ever.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mongodb::bson::{Document, doc};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::Pair;
use super::app::{App, Step, latin1, send};
use crate::support::sidecar::{self, Filters};
use crate::support::{PATIENCE, mongo, unique, until};

async fn open(address: SocketAddr) -> SendRequest<Full<Bytes>> {
    over(TcpStream::connect(address).await.expect("a connection")).await
}

async fn over<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    socket: S,
) -> SendRequest<Full<Bytes>> {
    let (sender, connection) =
        handshake(TokioExecutor::new(), TokioIo::new(socket)).await.expect("a handshake");
    tokio::spawn(connection);
    sender
}

fn request(method: &str, target: &str, case: &str, body: &'static str) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(format!("http://app.test{target}"))
        .header("x-case", case)
        .body(Full::from(body))
        .expect("a request")
}

#[tokio::test]
async fn streams_of_one_connection_reach_the_app() {
    let pair = Pair::start().await;
    let hello = "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n\
                 Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    pair.app.on("hello", [Step::Body, send(hello)]);
    let mut sender = open(pair.proxy()).await;
    let answers = ["GET", "POST", "PUT", "DELETE"].map(|method| {
        let body = if method == "GET" { "" } else { "some bytes" };
        sender.send_request(request(method, "/%2e//x?y=%20", "hello", body))
    });
    for answer in futures_util::future::join_all(answers).await {
        let answer = answer.expect("an answer");
        assert_eq!(answer.status(), 200);
        let cookies: Vec<_> = answer.headers().get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["a=1", "b=2"]);
        for name in ["connection", "keep-alive", "transfer-encoding", "via", "server"] {
            assert!(!answer.headers().contains_key(name), "{name}");
        }
        assert_eq!(answer.collect().await.expect("a body").to_bytes(), "hello");
    }
    let mut reached = pair.app.take();
    reached.sort_by_key(|one| one.line());
    let lines: Vec<String> = reached.iter().map(|one| one.line()).collect();
    let line = |method: &str| format!("{method} /%2e//x?y=%20 HTTP/1.1");
    assert_eq!(lines, ["DELETE", "GET", "POST", "PUT"].map(line));
    for one in &reached {
        assert_eq!(one.field("host").as_deref(), Some("app.test"));
        assert_eq!(one.field("x-forwarded-for").as_deref(), Some("127.0.0.1"));
        assert_eq!(one.field("x-forwarded-host").as_deref(), Some("app.test"));
        let is_get = one.line().starts_with("GET");
        assert_eq!(one.body, if is_get { b"".as_slice() } else { b"some bytes" });
    }
    pair.finish().await;
}

#[tokio::test]
async fn an_answer_flows_and_can_be_given_up() {
    let pair = Pair::start().await;
    let go = Arc::new(Notify::new());
    let gone = Arc::new(Notify::new());
    let begin = send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    let go_on = [Step::Wait(go.clone()), send("1\r\nb\r\n"), Step::UntilGone(gone.clone())];
    pair.app.on("slow", [[Step::Body, begin].as_slice(), &go_on].concat());
    let mut sender = open(pair.proxy()).await;
    let answer = sender.send_request(request("GET", "/", "slow", "")).await.expect("an answer");
    let mut body = answer.into_body();
    let frame = body.frame().await.expect("a frame").expect("a frame");
    assert_eq!(frame.into_data().ok().as_deref(), Some(b"a".as_slice()));
    go.notify_one();
    let frame = body.frame().await.expect("a frame").expect("a frame");
    assert_eq!(frame.into_data().ok().as_deref(), Some(b"b".as_slice()));
    drop(body);
    tokio::time::timeout(PATIENCE, gone.notified()).await.expect("the app hears of it");
    // The connection goes on.
    let answer = sender.send_request(request("GET", "/", "", "")).await.expect("an answer");
    assert_eq!(answer.collect().await.expect("a body").to_bytes(), "ok");
    pair.finish().await;
}

#[tokio::test]
async fn an_event_stream_is_one_stream_of_many() {
    let database = unique("h2");
    let app = App::start().await;
    let filter = format!("collection: {database}.orders\naccess: public\n");
    let filters = Filters::new(&[("orders", &filter)]);
    let sidecar = sidecar::start_before(app.address, &mongo::uri(), &filters, &[]).await;
    until("the sidecar is ready", || async { sidecar.is_ready() }).await;
    let mut sender = open(sidecar.listen).await;
    let answer = sender.send_request(request("GET", "/_events/orders", "", "")).await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut body = answer.into_body();
    let other = sender.send_request(request("GET", "/", "", "")).await.expect("an answer");
    assert_eq!(other.status(), 200);
    for (method, target, status) in [
        ("GET", "/_events/nothing", 404),
        ("POST", "/_events/orders", 405),
        ("GET", "/_events/../x", 400),
    ] {
        let refused = sender.send_request(request(method, target, "", "")).await;
        assert_eq!(refused.expect("an answer").status(), status, "{method} {target}");
    }
    assert_eq!(app.take().len(), 1);
    let client = mongodb::Client::with_uri_str(mongo::uri()).await.expect("a client");
    let orders = client.database(&database).collection::<Document>("orders");
    orders.insert_one(doc! { "_id": 1 }).await.expect("an insert");
    let mut seen = String::new();
    while !seen.contains("event: insert") {
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await.expect("a frame in time");
        let frame = frame.expect("the stream goes on").expect("a frame");
        seen += &latin1(&frame.into_data().expect("data"));
    }
    drop(body);
    sidecar.finish().await;
}

/// A certificate, and a client that trusts it.
struct Authority {
    dir: tempfile::TempDir,
    roots: RootCertStore,
}

impl Authority {
    fn new() -> Authority {
        let made = rcgen::generate_simple_self_signed(["localhost".to_string()]).expect("a key");
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("cert.pem"), made.cert.pem()).expect("a file");
        std::fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem())
            .expect("a file");
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).expect("a root");
        Authority { dir, roots }
    }

    async fn open(&self, address: SocketAddr, alpn: &[&str]) -> TlsStream<TcpStream> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let socket = TcpStream::connect(address).await.expect("a connection");
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, socket).await.expect("a handshake")
    }
}

#[tokio::test]
async fn tls_speaks_what_was_agreed_on() {
    let authority = Authority::new();
    let file = |name: &str| authority.dir.path().join(name).display().to_string();
    let pair = Pair::start_with(&[
        ("SIDESTREAM_TLS__CERT_FILE", &file("cert.pem")),
        ("SIDESTREAM_TLS__KEY_FILE", &file("key.pem")),
    ])
    .await;
    let socket = authority.open(pair.proxy(), &["h2", "http/1.1"]).await;
    assert_eq!(socket.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    let mut sender = over(socket).await;
    let answer = sender.send_request(request("POST", "/h2", "", "abc")).await.expect("an answer");
    assert_eq!(answer.collect().await.expect("a body").to_bytes(), "ok");
    for alpn in [&["http/1.1"][..], &[]] {
        let mut socket = authority.open(pair.proxy(), alpn).await;
        assert_eq!(socket.get_ref().1.alpn_protocol(), alpn.first().map(|name| name.as_bytes()));
        let post = "POST /h1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                    3\r\nabc\r\n0\r\nX: 1\r\n\r\n";
        let get = "GET /h1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        socket.write_all(format!("{post}{get}").as_bytes()).await.expect("it is taken");
        let mut answers = Vec::new();
        let _ = socket.read_to_end(&mut answers).await;
        assert_eq!(latin1(&answers).matches("HTTP/1.1 200 OK").count(), 2);
    }
    let reached = pair.app.take();
    assert_eq!(reached.len(), 5);
    assert!(reached.iter().all(|one| one.field("x-forwarded-proto").as_deref() == Some("https")));
    assert_eq!(reached[1].trailers, ["X: 1"]);
    pair.finish().await;
}
