//! Other ways in than plain HTTP/1.1: WebSocket, HTTP/2, TLS.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::NO_MONGODB;
use crate::support::app::App;
use crate::support::sidecar::{self, Filters};
use crate::support::{mongo, until};

#[tokio::test]
async fn a_websocket_of_the_app_works() {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::Message;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut socket =
                    tokio_tungstenite::accept_async(socket).await.expect("a handshake");
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_text() || message.is_binary() {
                        socket.send(message).await.expect("an echo");
                    }
                }
            });
        }
    });
    let filters = Filters::new(&[]);
    let sidecar = sidecar::start_before(address, NO_MONGODB, &filters, &[]).await;
    let url = format!("ws://{}/chat?room=1", sidecar.listen);
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.expect("a handshake");
    for message in [
        Message::text("hello"),
        Message::binary(vec![0u8, 1, 2, 255]),
        Message::text("x".repeat(100_000)),
    ] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.expect("an echo").unwrap(), message);
    }
    socket.close(None).await.unwrap();
    sidecar.finish().await;
}

#[tokio::test]
async fn http2_reaches_the_app_and_the_streams() {
    use http_body_util::{BodyExt, Empty, Full};
    use hyper::Request;
    use hyper::body::Bytes;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let app = App::start().await;
    let filters = Filters::new(&[("a", "collection: forwarding.h2\naccess: public\n")]);
    let sidecar = sidecar::start_before(app.address, &mongo::uri(), &filters, &[]).await;
    until("it is ready", || async { sidecar.is_ready() }).await;
    let socket = tokio::net::TcpStream::connect(sidecar.listen).await.unwrap();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
            .await
            .unwrap();
    tokio::spawn(connection);
    let url = |path: &str| format!("http://{}{path}", sidecar.listen);

    let post = Request::post(url("/x?y=%20")).body(Full::new(Bytes::from("hello"))).unwrap();
    let answer = client.send_request(post.map(BodyExt::boxed)).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
    let [seen] = &app.take_seen()[..] else { panic!("one request") };
    assert_eq!(seen.line, "POST /x?y=%20 HTTP/1.1");
    assert_eq!(seen.fields_named("host"), [sidecar.listen.to_string()]);

    let empty = || Empty::<Bytes>::new().boxed();
    let get = Request::get(url("/_events/%2e%2e/x")).body(empty()).unwrap();
    assert_eq!(client.send_request(get).await.unwrap().status(), 400);
    let get = Request::get(url("/_events/nothing")).body(empty()).unwrap();
    assert_eq!(client.send_request(get).await.unwrap().status(), 404);

    let get = Request::get(url("/_events/a")).body(empty()).unwrap();
    let answer = client.send_request(get).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut body = answer.into_body();
    let mut text = String::new();
    while !text.contains("\nid: ") {
        let frame = body.frame().await.expect("a frame").unwrap();
        text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
    }
    let documents = mongodb::Client::with_uri_str(mongo::uri()).await.unwrap();
    let documents = documents.database("forwarding").collection("h2");
    documents.insert_one(mongodb::bson::doc! { "n": 1 }).await.unwrap();
    while !text.contains("event: insert") {
        let frame = body.frame().await.expect("a frame").unwrap();
        text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
    }
    drop(body);
    let open = "sidestream_connections{transport=\"sse\"}";
    until("the stream's end is noticed", || async {
        sidecar::metric(sidecar.admin, open).await == 0.0
    })
    .await;
    drop(client);
    sidecar.finish().await;
}

#[tokio::test]
async fn tls_on_the_public_port() {
    use std::sync::Arc;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};
    let app = App::start().await;
    let signed = rcgen::generate_simple_self_signed(["localhost".to_string()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, signed.cert.pem()).unwrap();
    std::fs::write(&key, signed.signing_key.serialize_pem()).unwrap();
    let filters = Filters::new(&[("a", "collection: forwarding.tls\naccess: public\n")]);
    let settings = [
        ("SIDESTREAM_TLS__CERT_FILE", cert.to_str().unwrap()),
        ("SIDESTREAM_TLS__KEY_FILE", key.to_str().unwrap()),
    ];
    let sidecar = sidecar::start_before(app.address, &mongo::uri(), &filters, &settings).await;
    until("it is ready", || async { sidecar.is_ready() }).await;

    let mut roots = RootCertStore::empty();
    roots.add(signed.cert.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connect = |protocols: &[&str]| {
        let mut config = config.clone();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let address = sidecar.listen;
        async move {
            let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
            let name = "localhost".try_into().unwrap();
            TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
        }
    };
    let mut socket = connect(&["http/1.1"]).await;
    let request = "GET /x HTTP/1.1\r\nHost: a\r\n\r\nGET /_events/a HTTP/1.1\r\nHost: a\r\n\r\n";
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    while !text.contains("retry: ") {
        let mut piece = [0; 1024];
        let length = socket.read(&mut piece).await.unwrap();
        assert!(length > 0, "{text}");
        text.push_str(std::str::from_utf8(&piece[..length]).unwrap());
    }
    let [seen] = &app.take_seen()[..] else { panic!("one request") };
    assert_eq!(seen.fields_named("x-forwarded-proto"), ["https"]);
    let socket = connect(&["h2", "http/1.1"]).await;
    assert_eq!(socket.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    drop(socket);
    sidecar.finish().await;
}

/// As by a renewal in place, and as Kubernetes does it, behind a link.
#[tokio::test]
async fn a_certificate_that_was_renewed_is_shown() {
    use crate::support::tls::Authority;
    let app = App::start().await;
    let (first, second, third) = (Authority::new(), Authority::new(), Authority::new());
    let files = |authority: &Authority, dir: &std::path::Path| {
        std::fs::create_dir(dir).unwrap();
        std::fs::write(dir.join("cert.pem"), authority.cert_pem()).unwrap();
        std::fs::write(dir.join("key.pem"), authority.key_pem()).unwrap();
    };
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("data");
    files(&first, &dir.path().join("one"));
    files(&third, &dir.path().join("three"));
    std::os::unix::fs::symlink("one", &link).unwrap();
    let (cert, key) = (link.join("cert.pem"), link.join("key.pem"));
    let settings = [
        ("SIDESTREAM_TLS__CERT_FILE", cert.to_str().unwrap()),
        ("SIDESTREAM_TLS__KEY_FILE", key.to_str().unwrap()),
    ];
    let filters = Filters::new(&[]);
    let sidecar =
        sidecar::start_before(app.address, "mongodb://127.0.0.1:9", &filters, &settings).await;
    let mut open = first.connect(sidecar.listen).await.expect("the first one is shown");
    // Between two writes, the files do not fit each other.
    std::fs::write(&key, second.key_pem()).unwrap();
    tokio::time::timeout(std::time::Duration::from_secs(3), async {
        let mut pace = tokio::time::interval(std::time::Duration::from_millis(100));
        while first.connect(sidecar.listen).await.is_ok() {
            pace.tick().await;
        }
    })
    .await
    .expect_err("the first one is shown on");
    std::fs::write(&cert, second.cert_pem()).unwrap();
    until("the second one is shown", || async { second.connect(sidecar.listen).await.is_ok() })
        .await;
    std::os::unix::fs::symlink("three", dir.path().join("new")).unwrap();
    std::fs::rename(dir.path().join("new"), &link).unwrap();
    until("the third one is shown", || async { third.connect(sidecar.listen).await.is_ok() }).await;
    assert!(first.connect(sidecar.listen).await.is_err());
    // No connection was dropped.
    open.write_all(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut piece = [0; 15];
    open.read_exact(&mut piece).await.unwrap();
    assert_eq!(&piece, b"HTTP/1.1 200 OK");
    sidecar.finish().await;
}

#[tokio::test]
async fn a_certificate_that_cannot_be_read_is_told_of_and_the_old_one_stays() {
    use crate::support::sidecar::Program;
    use crate::support::tls::Authority;
    let authority = Authority::new();
    let filters = Filters::new(&[]);
    let path = filters.path().display().to_string();
    let arguments = ["--filters", &path, "--mongodb", NO_MONGODB, "--wait"];
    let env = authority.settings();
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, &**value)).collect();
    let program = Program::start(&arguments, &env).await;
    let told = || program.log().matches("the old certificate stays in use").count();
    let is_shown = async || authority.connect(program.listen).await.is_ok();
    std::fs::remove_file(authority.cert_file()).unwrap();
    until("it is told that there is none", || async { told() == 1 }).await;
    assert!(is_shown().await);
    std::fs::write(authority.cert_file(), "no certificate").unwrap();
    until("it is told that it is none", || async { told() == 2 }).await;
    assert!(is_shown().await);
    let renewed = Authority::new();
    std::fs::write(authority.key_file(), renewed.key_pem()).unwrap();
    std::fs::write(authority.cert_file(), renewed.cert_pem()).unwrap();
    until("the new one is shown", || async { renewed.connect(program.listen).await.is_ok() }).await;
}
