//! Ordinary requests while strangers hold connections on purpose, beside nginx under the same attack:
//! handshakes that do not begin, readers that do not read, uploads that come byte by byte. Both have
//! 4,096 descriptors; what memory they take is measured, since a harness cannot set that limit on
//! every machine.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::Bench;
use super::process::{Process, free_port, loopback};
use super::report::{Goal, Row};
use super::requests::ask;
use super::rivals;
use super::secure::{certificate, connector};
use super::sidecar::How;

/// What the whole of an attack may take, in bytes.
const MEMORY: f64 = 256.0 * 1024.0 * 1024.0;
/// Ordinary clients beside the attack.
const CONNECTIONS: usize = 8;
/// Streams of one HTTP/2 connection.
const STREAMS: usize = 100;
/// An answer that nobody reads, in bytes.
const LONG: usize = 1024 * 1024;

/// One of those who are attacked.
struct Target<'a> {
    name: &'static str,
    process: &'a Process,
    plain: SocketAddr,
    tls: SocketAddr,
    http2: SocketAddr,
}

#[derive(Clone, Copy)]
enum Attack {
    Handshakes,
    Readers,
    Uploads,
}

pub fn run(bench: &mut Bench) {
    let dir = bench.dir.path().to_owned();
    let app = loopback(free_port());
    let serving = bench.runtime.spawn(serve_app(app));
    let (cert, key) = certificate(&dir);
    let how = || How { app: Some(app), descriptors: Some(4096), ..How::default() };
    // One listener each: TLS is a setting of the whole public port.
    let plain = bench.start(&how());
    let tls = bench.start(&How { tls: Some((&cert, &key)), ..how() });
    let (tls_port, h2_port) = (free_port(), free_port());
    let rival = rivals::nginx_hostile(&dir, app, tls_port, h2_port, (&cert, &key));
    let ours = |process| Target {
        name: "Sidestream",
        process,
        plain: plain.address,
        tls: tls.address,
        http2: plain.address,
    };
    for attack in [Attack::Handshakes, Attack::Readers, Attack::Uploads] {
        let process = match attack {
            Attack::Handshakes => &tls.process,
            _ => &plain.process,
        };
        let mine = measure(bench, &ours(process), attack, &cert);
        let theirs = match &rival {
            Ok(rival) => {
                let target = Target {
                    name: "nginx",
                    process: &rival.process,
                    plain: rival.address,
                    tls: loopback(tls_port),
                    http2: loopback(h2_port),
                };
                Some(measure(bench, &target, attack, &cert))
            }
            Err(why) => {
                bench.report.absent("nginx, under attack", why);
                None
            }
        };
        report(bench, attack, &mine, theirs.as_ref());
    }
    serving.abort();
}

struct Measured {
    p99_ms: f64,
    served: u64,
    failed: u64,
    rss: f64,
}

fn report(bench: &mut Bench, attack: Attack, mine: &Measured, theirs: Option<&Measured>) {
    let (id, what) = match attack {
        Attack::Handshakes => ("handshakes", "new TLS connections beside 4,000 silent ones"),
        Attack::Readers => ("readers", "requests beside 1,400 answers that nobody reads"),
        Attack::Uploads => ("uploads", "requests beside 1,400 uploads of a byte a second"),
    };
    bench.insist(mine.served > 0, &format!("{what}: nobody is served"));
    let what = format!("{what}, p99");
    let mut row = Row::new(&format!("hostile-{id}"), &what, "ms", mine.p99_ms);
    let told = |who: &str, one: &Measured| {
        format!(
            "{who}: {} served, {} failed, {:.0} MiB",
            one.served,
            one.failed,
            one.rss / 1048576.0
        )
    };
    let mut note = told("Sidestream", mine);
    if let Some(theirs) = theirs {
        row = row.beside("nginx", theirs.p99_ms);
        note = format!("{note}; {}", told("nginx", theirs));
    }
    bench.report.add(row.note(note));
    let what = format!("resident memory under this attack, {id}");
    let row = Row::new(&format!("hostile-{id}-rss"), &what, "MiB", mine.rss / 1048576.0);
    bench.report.add(row.goal(Goal::AtMost(MEMORY / 1048576.0)));
}

fn measure(bench: &mut Bench, target: &Target<'_>, attack: Attack, cert: &Path) -> Measured {
    let over = Arc::new(AtomicBool::new(false));
    let many = match attack {
        Attack::Handshakes => bench.scaled(4_000),
        _ => bench.scaled(700),
    };
    let mut attackers: Vec<JoinHandle<()>> = Vec::new();
    let runtime = bench.runtime.handle().clone();
    match attack {
        Attack::Handshakes => {
            attackers
                .extend((0..many).map(|_| runtime.spawn(stay_silent(target.tls, over.clone()))));
        }
        Attack::Readers => {
            attackers.extend((0..many).map(|_| runtime.spawn(never_read(target.plain))));
            let connections = many.div_ceil(STREAMS);
            attackers.extend((0..connections).map(|_| runtime.spawn(give_no_window(target.http2))));
        }
        Attack::Uploads => {
            attackers.extend((0..2 * many).map(|_| runtime.spawn(trickle(target.plain))));
        }
    }
    // Until the attack is as it will be.
    std::thread::sleep(bench.settle() * 2);
    let time = if bench.is_smoke { Duration::from_millis(300) } else { Duration::from_secs(5) };
    let mut measured = match attack {
        Attack::Handshakes => {
            let asking = ask_anew(target.tls, cert.to_owned(), time);
            bench.runtime.block_on(asking)
        }
        _ => match ask(target.plain, "/small", CONNECTIONS, time) {
            Ok(one) => {
                Measured { p99_ms: one.p99_micros / 1000.0, served: one.count, failed: 0, rss: 0.0 }
            }
            Err(why) => {
                bench.report.absent(&format!("{}, under attack", target.name), &why);
                Measured { p99_ms: f64::NAN, served: 0, failed: 1, rss: 0.0 }
            }
        },
    };
    measured.rss = target.process.rss() as f64;
    over.store(true, Ordering::Relaxed);
    attackers.iter().for_each(JoinHandle::abort);
    // What is left of one attack is not the next one's.
    std::thread::sleep(bench.settle());
    measured
}

/// A handshake that does not begin, and begins not to again when it is ended.
async fn stay_silent(address: SocketAddr, over: Arc<AtomicBool>) {
    while !over.load(Ordering::Relaxed) {
        let Ok(mut socket) = TcpStream::connect(address).await else { return };
        let _ = socket.read(&mut [0; 16]).await;
    }
}

async fn never_read(address: SocketAddr) {
    let Ok(mut socket) = TcpStream::connect(address).await else { return };
    let request = b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n";
    if socket.write_all(request).await.is_ok() {
        std::future::pending::<()>().await;
    }
}

/// HTTP/2 with room for a connection and none for its streams.
async fn give_no_window(address: SocketAddr) {
    let mut settings = h2::client::Builder::new();
    settings.initial_window_size(0).initial_connection_window_size(1 << 30);
    let Ok(socket) = TcpStream::connect(address).await else { return };
    let Ok((sender, connection)) = settings.handshake::<_, bytes::Bytes>(socket).await else {
        return;
    };
    let driving = tokio::spawn(connection);
    let mut answers = Vec::new();
    for _ in 0..STREAMS {
        let Ok(mut ready) = sender.clone().ready().await else { break };
        let request = http::Request::get(format!("http://{address}/long")).body(());
        match ready.send_request(request.expect("a request"), true) {
            Ok((answer, _)) => answers.push(answer),
            Err(_) => break,
        }
    }
    let _driven = Aborted(driving);
    std::future::pending::<()>().await;
}

struct Aborted<T>(JoinHandle<T>);

impl<T> Drop for Aborted<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn trickle(address: SocketAddr) {
    let Ok(mut socket) = TcpStream::connect(address).await else { return };
    let head = b"POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n";
    let mut pace = tokio::time::interval(Duration::from_secs(1));
    let mut went = socket.write_all(head).await;
    while went.is_ok() {
        pace.tick().await;
        went = socket.write_all(b"x").await;
    }
}

/// One new TLS connection with one request after the other.
async fn ask_anew(address: SocketAddr, cert: PathBuf, time: Duration) -> Measured {
    let connector = connector(&cert).expect("a certificate");
    let (mut times, mut failed) = (Vec::new(), 0);
    let began = Instant::now();
    while began.elapsed() < time {
        let one = Instant::now();
        let asked = tokio::time::timeout(Duration::from_secs(10), ask_once(&connector, address));
        match asked.await {
            Ok(Ok(())) => times.push(one.elapsed().as_secs_f64() * 1000.0),
            _ => failed += 1,
        }
    }
    times.sort_by(f64::total_cmp);
    let p99 = times.get(times.len().saturating_sub(1) * 99 / 100).copied();
    Measured { p99_ms: p99.unwrap_or(f64::NAN), served: times.len() as u64, failed, rss: 0.0 }
}

async fn ask_once(connector: &TlsConnector, address: SocketAddr) -> std::io::Result<()> {
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::from(address.ip());
    let mut socket = connector.connect(name, tcp).await?;
    socket.write_all(b"GET /small HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await?;
    let mut status = [0; 15];
    socket.read_exact(&mut status).await?;
    match &status {
        b"HTTP/1.1 200 OK" => Ok(()),
        _ => Err(std::io::ErrorKind::InvalidData.into()),
    }
}

/// An app with a task for each connection: `/long` is a mebibyte, all else 130 bytes, and a `POST` is
/// answered when its body is there.
async fn serve_app(address: SocketAddr) {
    let listener = TcpListener::bind(address).await.expect("the app's port");
    let answer = |size: usize| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n");
        Arc::new((head + &"x".repeat(size)).into_bytes())
    };
    let (small, long) = (answer(130), answer(LONG));
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        tokio::spawn(converse(socket, small.clone(), long.clone()));
    }
}

async fn converse(mut socket: TcpStream, small: Arc<Vec<u8>>, long: Arc<Vec<u8>>) {
    let _ = socket.set_nodelay(true);
    let mut read: Vec<u8> = Vec::with_capacity(1024);
    loop {
        while !read.windows(4).any(|end| end == b"\r\n\r\n") {
            if !matches!(socket.read_buf(&mut read).await, Ok(1..)) {
                return;
            }
        }
        if read.starts_with(b"POST") {
            // Never all of it, here.
            while matches!(socket.read(&mut [0; 4096]).await, Ok(1..)) {}
            return;
        }
        let answer = if read.starts_with(b"GET /long") { &long } else { &small };
        read.clear();
        if socket.write_all(answer).await.is_err() {
            return;
        }
    }
}
