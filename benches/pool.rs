//! What one exchange with the app costs over our pool, beside pingora's `TransportConnector`.
//!
//!     scripts/cargo bench --bench pool                100,000 exchanges at 1 and at 32 connections, five rounds
//!     scripts/cargo bench --bench pool -- --smoke     500, to see that it runs
//!
//! The same request and the same response, from the same server, by the same code that reads heads; the
//! two take turns. The difference is what taking a connection and giving it back costs: pingora's pool
//! watches each idle connection in a task of its own.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pingora::connectors::TransportConnector;
use pingora::upstreams::peer::{BasicPeer, Peer};
use sidestream::config::AppAddress;
use sidestream::proxy::app::answer::{self, HeadState, RequestKind};
use sidestream::proxy::app::body::Body;
use sidestream::proxy::app::{App, AppConnection};
use sidestream::proxy::connections::Connections;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const REQUEST: &[u8] =
    b"GET /page HTTP/1.1\r\nHost: app\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";
const BODY: u64 = 130;
const ASKED: RequestKind = RequestKind { is_head: false, is_upgrade: false };
/// Each way is measured so often, by turns.
const ROUNDS: usize = 5;

#[tokio::main]
async fn main() {
    let is_smoke = std::env::args().any(|argument| argument == "--smoke");
    let exchanges = if is_smoke { 500 } else { 100_000 };
    let server = serve().await;
    println!("{:<14} {:>16} {:>16} {:>8}", "connections", "ours (µs)", "pingora (µs)", "ratio");
    for tasks in [1, 32] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let address =
                AppAddress::Tcp { host: server.ip().to_string(), port: server.port(), tls: false };
            let closed = prometheus::IntCounter::new("closed", "closed").unwrap();
            let app = App::new(address, Connections::new(None, None, (closed.clone(), closed)));
            ours.push(time(tasks, exchanges, || with_ours(app.clone(), exchanges / tasks)).await);
            let connector = std::sync::Arc::new(TransportConnector::new(None));
            let run = || with_pingora(connector.clone(), server, exchanges / tasks);
            theirs.push(time(tasks, exchanges, run).await);
        }
        let (ours, theirs) = (median(ours), median(theirs));
        println!("{tasks:<14} {ours:>16.2} {theirs:>16.2} {:>8.2}", ours / theirs);
    }
}

/// Microseconds of wall time for each exchange.
async fn time<F, W>(tasks: usize, exchanges: usize, work: F) -> f64
where
    F: Fn() -> W,
    W: Future<Output = ()> + Send + 'static,
{
    let began = Instant::now();
    let running: Vec<_> = (0..tasks).map(|_| tokio::spawn(work())).collect();
    for task in running {
        task.await.unwrap();
    }
    began.elapsed().as_secs_f64() * 1e6 / exchanges as f64
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

async fn with_ours(app: App, exchanges: usize) {
    for _ in 0..exchanges {
        let mut connection: AppConnection = app.take().await.unwrap();
        connection.begin(ASKED);
        let mut request = REQUEST;
        poll_fn(|cx| connection.poll_write(cx, &mut request)).await.unwrap();
        let head = poll_fn(|cx| connection.poll_head(cx, |head, _| head)).await.unwrap();
        assert_eq!(head.body, answer::Body::Length(BODY));
        connection.expect(Body::length(BODY));
        loop {
            let mut piece = bytes::BytesMut::new();
            if !poll_fn(|cx| connection.poll_body(cx, &mut piece)).await.unwrap() {
                break;
            }
        }
        app.give_back(connection);
    }
}

async fn with_pingora(
    connector: std::sync::Arc<TransportConnector>,
    server: SocketAddr,
    exchanges: usize,
) {
    let peer = BasicPeer::new(&server.to_string());
    let mut read = bytes::BytesMut::with_capacity(32 * 1024);
    for _ in 0..exchanges {
        let (mut stream, _) = connector.get_stream(&peer).await.unwrap();
        stream.write_all(REQUEST).await.unwrap();
        stream.flush().await.unwrap();
        read.clear();
        let mut seen = 0;
        let head = loop {
            stream.read_buf(&mut read).await.unwrap();
            match answer::inspect(&read, &mut seen, ASKED) {
                HeadState::Partial => {}
                HeadState::Head(head) => break head,
                HeadState::Malformed(why) => panic!("{why}"),
            }
        };
        assert_eq!(head.body, answer::Body::Length(BODY));
        while read.len() < head.length + BODY as usize {
            stream.read_buf(&mut read).await.unwrap();
        }
        connector.release_stream(stream, peer.reuse_hash(), Some(Duration::from_secs(4)));
    }
}

/// An app that answers every request with the same page.
async fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {BODY}\r\n\r\n{}",
        "x".repeat(BODY as usize)
    );
    let answer: bytes::Bytes = answer.into();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            client.set_nodelay(true).unwrap();
            let answer = answer.clone();
            tokio::spawn(async move {
                let (mut bytes, mut held) = ([0; 4096], 0);
                while let Ok(read @ 1..) = client.read(&mut bytes[held..]).await {
                    held += read;
                    if bytes[..held].ends_with(b"\r\n\r\n") {
                        held = 0;
                        if client.write_all(&answer).await.is_err() {
                            break;
                        }
                    }
                }
            });
        }
    });
    address
}
