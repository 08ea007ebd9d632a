//! Idle streams over HTTP/2 and over TLS, beside pingora's own `Session` holding the same.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use super::Bench;
use super::process::{Process, free_port, log_in, loopback, wait_for_port};
use super::report::{Figure, Goal, Row};
use super::sidecar::How;

/// Streams of one HTTP/2 connection.
const STREAMS: usize = 100;

type Open<T> = Result<T, Box<dyn std::error::Error>>;

pub fn run(bench: &mut Bench) {
    let dir = bench.dir.path().to_owned();
    let (cert, key) = certificate(&dir);
    let streams = bench.scaled(4_000);
    let mut http2s = (Vec::new(), Vec::new());
    let mut secured = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds() {
        let sidecar = bench.start(&How::default());
        http2s.0.push(measure(bench, &sidecar.process, streams, http2(sidecar.address, streams)));
        drop(sidecar);
        let (stock, port, _) = pingora(&dir, &cert, &key);
        http2s.1.push(measure(bench, &stock, streams, http2(loopback(port), streams)));
        // Afresh each time: what clients before left behind would be taken for its own.
        drop(stock);

        let how = How { tls: Some((&cert, &key)), ..How::default() };
        let sidecar = bench.start(&how);
        let held = tls(sidecar.address, &cert, streams);
        secured.0.push(measure(bench, &sidecar.process, streams, held));
        drop(sidecar);
        let (stock, _, port) = pingora(&dir, &cert, &key);
        secured.1.push(measure(bench, &stock, streams, tls(loopback(port), &cert, streams)));
    }
    add(bench, "idle-http2", "HTTP/2, 100 streams a connection", streams, http2s);
    add(bench, "idle-tls", "HTTP/1.1 over TLS", streams, secured);
}

fn pingora(dir: &Path, cert: &Path, key: &Path) -> (Process, u16, u16) {
    let (port, tls_port) = (free_port(), free_port());
    let program = std::env::current_exe().expect("this program");
    let path = |path: &Path| path.display().to_string();
    let arguments =
        ["serve-pingora".to_owned(), port.to_string(), tls_port.to_string(), path(cert), path(key)];
    let stock = Process::start(&program, &arguments, &[], &log_in(dir, "pingora"));
    let patience = Duration::from_secs(10);
    for port in [port, tls_port] {
        assert!(wait_for_port(port, patience), "pingora: {}", stock.said());
    }
    (stock, port, tls_port)
}

fn add(
    bench: &mut Bench,
    id: &str,
    how: &str,
    streams: usize,
    (ours, theirs): (Vec<Open<f64>>, Vec<Open<f64>>),
) {
    let ours: Open<Vec<f64>> = ours.into_iter().collect();
    let theirs: Open<Vec<f64>> = theirs.into_iter().collect();
    let (ours, theirs) = match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => (Figure::median(ours), Figure::median(theirs)),
        (Err(why), _) => panic!("{how}: {why}"),
        (_, Err(why)) => return bench.report.absent("pingora's own Session", &why.to_string()),
    };
    let what = format!("memory of an idle stream, {how}, of {streams}");
    let row = Row::new(id, &what, "bytes", ours).beside("pingora's own Session", theirs);
    bench.report.add(row.goal(Goal::RatioAtMost(0.5)));
}

/// Memory for each stream, while what was opened is held.
fn measure<T>(
    bench: &Bench,
    process: &Process,
    streams: usize,
    open: impl Future<Output = Open<T>>,
) -> Open<f64> {
    std::thread::sleep(bench.settle());
    let before = process.rss();
    let held = bench.runtime.block_on(open)?;
    std::thread::sleep(bench.settle());
    let after = process.rss();
    drop(held);
    Ok(after.saturating_sub(before) as f64 / streams as f64)
}

pub fn certificate(dir: &Path) -> (PathBuf, PathBuf) {
    let signed = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]);
    let signed = signed.expect("a certificate");
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    std::fs::write(&cert, signed.cert.pem()).expect("a file");
    std::fs::write(&key, signed.signing_key.serialize_pem()).expect("a file");
    (cert, key)
}

async fn http2(address: SocketAddr, streams: usize) -> Open<(Vec<Incoming>, Vec<impl Sized>)> {
    let (mut bodies, mut senders) = (Vec::new(), Vec::new());
    while bodies.len() < streams {
        let socket = TokioIo::new(TcpStream::connect(address).await?);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), socket).await?;
        tokio::spawn(connection);
        for number in 0..STREAMS.min(streams - bodies.len()) {
            let key = if number % 2 == 0 { bodies.len() } else { 1 };
            let uri = format!("http://{address}/_events/one?key={key}");
            let request = hyper::Request::get(uri)
                .header("accept", "text/event-stream")
                .body(Empty::<Bytes>::new())?;
            let answer = sender.send_request(request).await?;
            if answer.status() != 200 {
                return Err(format!("status {}", answer.status()).into());
            }
            bodies.push(answer.into_body());
        }
        senders.push(sender);
    }
    Ok((bodies, senders))
}

/// Trusts this certificate and no other.
pub fn connector(cert: &Path) -> Open<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(cert)?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn tls(address: SocketAddr, cert: &Path, streams: usize) -> Open<Vec<TlsStream<TcpStream>>> {
    let connector = connector(cert)?;
    let mut open = Vec::new();
    for number in 0..streams {
        let tcp = TcpStream::connect(address).await?;
        let name = ServerName::from(address.ip());
        let mut socket = connector.connect(name, tcp).await?;
        let key = if number % 2 == 0 { number } else { 1 };
        let head = format!("GET /_events/one?key={key} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
        socket.write_all(head.as_bytes()).await?;
        let mut first = [0; 4096];
        let length = socket.read(&mut first).await?;
        if !first[..length].starts_with(b"HTTP/1.1 200") {
            return Err(String::from_utf8_lossy(&first[..length]).into_owned().into());
        }
        open.push(socket);
    }
    Ok(open)
}
