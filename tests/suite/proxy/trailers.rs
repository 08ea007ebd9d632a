//! Trailers of and to HTTP/2 clients, and to and from apps behind TLS.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::HeaderMap;
use hyper::body::Frame;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;

use super::app::{App, Reached, Step, send};
use super::http2_client::{nothing, open, request, send_to, whole};
use super::raw::ask;
use super::{NO_MONGODB, Pair};
use crate::support::sidecar::{self, Program};

/// What an app says that has trailers.
const SUMMED: &str = "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nTrailer: X-Sum\r\n\
                      Transfer-Encoding: chunked\r\n\r\n5\r\n0\r\n\r\n\r\n3\r\nabc\r\n0\r\n\
                      X-Sum: 1\r\nx-other: 2\r\nHost: evil\r\nConnection: close\r\n\r\n";

fn assert_summed(body: &[u8], trailers: Option<HeaderMap>) {
    assert_eq!(body, b"0\r\n\r\nabc");
    let trailers = trailers.expect("trailers");
    assert_eq!(
        (&trailers["x-sum"], &trailers["x-other"]),
        (&"1".parse().unwrap(), &"2".parse().unwrap())
    );
    assert_eq!(trailers.len(), 2, "{trailers:?}");
}

fn names_of(reached: &Reached) -> Vec<String> {
    let mut names: Vec<String> =
        reached.fields().into_iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn http2_clients_that_take_trailers_get_them() {
    let pair = Pair::start().await;
    pair.app.on("summed", [Step::Body, send(SUMMED)]);
    let mut sender = open(pair.proxy()).await;
    let mut asked = request("GET", "summed", nothing());
    asked.headers_mut().append("cookie", "a=1".parse().unwrap());
    asked.headers_mut().append("cookie", "b=2".parse().unwrap());
    let answer = send_to(&mut sender, asked).await;
    assert_eq!(answer.status(), 200);
    for name in ["connection", "transfer-encoding", "via", "server"] {
        assert!(!answer.headers().contains_key(name), "{name}");
    }
    assert_eq!(answer.headers()["trailer"], "X-Sum");
    assert!(answer.headers().contains_key("date"));
    let (body, trailers) = whole(answer).await;
    assert_summed(&body, trailers);
    // The same as what others send, but for the word that trailers are taken.
    let carried = pair.app.take().remove(0);
    let mut plain = request("GET", "summed", nothing());
    plain.headers_mut().remove("te");
    plain.headers_mut().append("cookie", "a=1".parse().unwrap());
    plain.headers_mut().append("cookie", "b=2".parse().unwrap());
    let (body, trailers) = whole(send_to(&mut sender, plain).await).await;
    // As the app sent it: to HTTP/2, trailers are nothing that has to be asked for.
    assert_summed(&body, trailers);
    let forwarded = pair.app.take().remove(0);
    let mut names = names_of(&forwarded);
    for reached in [&carried, &forwarded] {
        assert_eq!(reached.field("cookie").as_deref(), Some("a=1; b=2"));
        assert_eq!(
            reached.fields().iter().filter(|(name, _)| name.eq_ignore_ascii_case("cookie")).count(),
            1
        );
    }
    names.extend(["te".to_string(), "connection".to_string()]);
    names.sort();
    assert_eq!(names_of(&carried), names);
    assert_eq!(carried.line(), "GET /%2e//x?y=%20 HTTP/1.1");
    for (name, value) in [
        ("te", "trailers"),
        ("connection", "TE"),
        ("host", "app.test"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-host", "app.test"),
        ("x-forwarded-proto", "http"),
    ] {
        assert_eq!(carried.field(name).as_deref(), Some(value), "{name}");
    }
    let counted =
        sidecar::metric(pair.sidecar.admin, "sidestream_proxy_requests_total{code=\"200\"}");
    assert!(counted.await >= 2.0);
    pair.finish().await;
}

#[tokio::test]
async fn request_bodies_reach_the_app() {
    let pair = Pair::start().await;
    pair.app.on("summed", [Step::Body, send(SUMMED)]);
    let mut sender = open(pair.proxy()).await;
    let known = || Full::new(Bytes::from_static(b"some bytes")).boxed();
    let streamed = |trailers: bool| {
        let mut frames =
            vec![Ok(Frame::data(Bytes::from("some "))), Ok(Frame::data("bytes".into()))];
        if trailers {
            let mut trailers = HeaderMap::new();
            for (name, value) in [("x-up", "1"), ("host", "evil"), ("x-up", "2")] {
                trailers.append(name, value.parse().unwrap());
            }
            frames.push(Ok(Frame::trailers(trailers)));
        }
        StreamBody::new(futures_util::stream::iter(frames)).boxed()
    };
    for (body, framing, trailers) in [
        (known(), ("content-length", "10"), &[][..]),
        (streamed(false), ("transfer-encoding", "chunked"), &[]),
        (streamed(true), ("transfer-encoding", "chunked"), &["X-Up: 1", "X-Up: 2"]),
    ] {
        let answer = send_to(&mut sender, request("POST", "summed", body)).await;
        let (got, summed) = whole(answer).await;
        assert_summed(&got, summed);
        let reached = pair.app.take().remove(0);
        assert_eq!(reached.field(framing.0).as_deref(), Some(framing.1));
        assert_eq!((&reached.body[..], reached.is_whole), (b"some bytes".as_slice(), true));
        assert_eq!(reached.trailers, trailers);
    }
    // A body where none is expected.
    let answer = send_to(&mut sender, request("GET", "summed", streamed(false))).await;
    whole(answer).await;
    assert_eq!(pair.app.take().remove(0).body, b"some bytes");
    pair.finish().await;
}

/// An app that speaks TLS, and the program before it, which trusts these roots.
async fn start_tls(app: &mut App, name: &str, is_trusted: bool) -> (Program, tempfile::TempDir) {
    let made = rcgen::generate_simple_self_signed([name.to_string()]).expect("a key");
    let other = rcgen::generate_simple_self_signed([name.to_string()]).expect("a key");
    let dir = tempfile::tempdir().expect("a directory");
    let roots = dir.path().join("roots.pem");
    let trusted = if is_trusted { &made } else { &other };
    std::fs::write(&roots, trusted.cert.pem()).expect("a file");
    let key = made.signing_key.serialize_der().try_into().expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a certificate");
    let address = app.listen_tls(TlsAcceptor::from(Arc::new(config))).await;
    let roots = roots.display().to_string();
    let program = Program::start(
        &[
            "--app",
            &format!("https://{name}:{}", address.port()),
            "--filters",
            &dir.path().display().to_string(),
            "--mongodb",
            NO_MONGODB,
            "--wait",
        ],
        &[("SSL_CERT_FILE", &roots), ("SIDESTREAM_DRAIN", "1s")],
    )
    .await;
    (program, dir)
}

#[tokio::test]
async fn an_app_behind_tls_has_trailers_too() {
    for name in ["localhost", "127.0.0.1"] {
        let mut app = App::start().await;
        let (program, _dir) = start_tls(&mut app, name, true).await;
        app.on("summed", [Step::Body, send(SUMMED)]);
        let chunked = "POST /a HTTP/1.1\r\nHost: a\r\nX-Case: summed\r\nTrailer: X-Up\r\n\
                       Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Up: 1\r\n\r\n";
        let wanting = "GET /b HTTP/1.1\r\nHost: a\r\nX-Case: summed\r\nTE: trailers\r\nConnection: TE\r\n\r\n";
        let plain = "GET /c HTTP/1.1\r\nHost: a\r\nX-Case: summed\r\n\r\n";
        for (method, request) in [("POST", chunked), ("GET", wanting), ("GET", plain)] {
            let answer = ask(program.listen, method, request).await;
            assert_eq!(
                (answer.status(), answer.body.as_slice()),
                (200, b"0\r\n\r\nabc".as_slice())
            );
            assert_eq!(answer.trailers, ["X-Sum: 1", "x-other: 2"], "{request}");
        }
        let reached = app.take();
        assert_eq!(reached[0].trailers, ["X-Up: 1"]);
        assert_eq!(reached[0].field("trailer").as_deref(), Some("X-Up"));
        assert_eq!(reached[1].field("te").as_deref(), Some("trailers"));
        assert_eq!(reached[2].field("te"), None);
        let mut sender = open(program.listen).await;
        let body = Full::new(Bytes::from_static(b"some bytes")).boxed();
        let answer = send_to(&mut sender, request("POST", "summed", body)).await;
        let (body, trailers) = whole(answer).await;
        assert_summed(&body, trailers);
        assert_eq!(app.take()[0].body, b"some bytes");
        // Much, both ways.
        let much = "0123456789abcdef".repeat(200_000);
        let said = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{much}", much.len());
        app.on("much", [Step::Body, send(said)]);
        let body = Full::new(Bytes::from(much.clone())).boxed();
        let answer = send_to(&mut sender, request("POST", "much", body)).await;
        assert!(whole(answer).await.0 == much);
        let request = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nX-Case: much\r\nTransfer-Encoding: chunked\r\n\r\n\
             {:x}\r\n{much}\r\n0\r\nX-Up: 1\r\n\r\n",
            much.len()
        );
        assert!(ask(program.listen, "POST", request).await.body == much.as_bytes());
        let reached = app.take();
        assert!(reached.iter().all(|one| one.body == much.as_bytes()));
        assert_eq!(reached[1].trailers, ["X-Up: 1"]);
    }
}

#[tokio::test]
async fn an_app_on_a_unix_socket_has_trailers_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("app.sock");
    let mut app = App::start().await;
    app.listen_at(&path);
    app.on("summed", [Step::Body, send(SUMMED)]);
    let filters = dir.path().display().to_string();
    let address = format!("unix:{}", path.display());
    let arguments = ["--app", &address, "--filters", &filters, "--mongodb", NO_MONGODB, "--wait"];
    let program = Program::start(&arguments, &[]).await;
    let mut sender = open(program.listen).await;
    let answer = send_to(&mut sender, request("GET", "summed", nothing())).await;
    let (body, trailers) = whole(answer).await;
    assert_summed(&body, trailers);
}

#[tokio::test]
async fn an_app_that_cannot_prove_who_it_is_gets_nothing() {
    let mut app = App::start().await;
    let (program, _dir) = start_tls(&mut app, "localhost", false).await;
    for fields in ["", "TE: trailers\r\n"] {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        assert_eq!(ask(program.listen, "GET", request).await.status(), 502);
    }
    let mut sender = open(program.listen).await;
    let answer = send_to(&mut sender, request("GET", "", nothing())).await;
    assert_eq!(answer.status(), 502);
    assert!(app.take().is_empty());
}
