//! Attacks that need nothing but connections: handshakes that do not begin, connections that ask for
//! nothing, requests that do not end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::proxy::app::{App, Step, send};
use crate::proxy::raw::{Raw, ask};
use crate::proxy::{NO_MONGODB, Pair};
use crate::support::sidecar::{Filters, Program};
use crate::support::tls::Authority;
use crate::support::{PATIENCE, free_port, until};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_handshakes_do_not_take_the_tls_port_down() {
    const SILENT: usize = 2500;
    let app = App::start().await;
    let filters = Filters::new(&[]);
    let authority = Authority::new();
    let address = format!("http://{}", app.address);
    let path = filters.path().display().to_string();
    let arguments = ["--app", &address, "--filters", &path, "--mongodb", NO_MONGODB, "--wait"];
    let env = authority.settings();
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, &**value)).collect();
    let program = Program::start_with_descriptors_and(4096, &arguments, &env).await;
    let mut silent = Vec::new();
    for at in 0..SILENT {
        silent.push(TcpStream::connect(program.listen).await.expect("a connection"));
        // Whoever comes while they do is served.
        if at % 250 == 0 {
            let asked = tokio::time::timeout(PATIENCE, authority.ask(program.listen, GET));
            let answer = asked.await.unwrap_or_else(|_| panic!("no answer beside {at}"));
            assert!(answer.starts_with("HTTP/1.1 200"), "beside {at}: {answer:?}");
        }
    }
    for _ in 0..5 {
        let answer = authority.ask(program.listen, GET).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
    }
}

/// The port for kubelet and Prometheus is open to the network, and takes its descriptors from the same
/// process as the app's clients.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_to_the_probes_port_leave_descriptors_for_the_app() {
    let app = App::start().await;
    let filters = Filters::new(&[]);
    let address = format!("http://{}", app.address);
    let path = filters.path().display().to_string();
    let arguments = ["--app", &address, "--filters", &path, "--mongodb", NO_MONGODB, "--wait"];
    let probes = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
    let port = probes.to_string();
    let arguments = [&arguments[..], &["--probes", &port]].concat();
    let program = Program::start_with_descriptors(400, &arguments).await;
    let mut silent = Vec::new();
    for at in 0..600 {
        silent.push(TcpStream::connect(probes).await.expect("a connection"));
        if at % 50 == 0 {
            assert_eq!(ask(program.listen, "GET", GET).await.status(), 200, "beside {at}");
            let probe = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
            assert_eq!(ask(probes, "GET", probe).await.status(), 200, "beside {at}");
        }
    }
    // Those that came first went first.
    let mut byte = [0];
    let end = tokio::time::timeout(PATIENCE, silent[0].read(&mut byte)).await.expect("an end");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

/// Whoever asks first is closed last: what waits for nothing goes before what has been asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_go_first_when_descriptors_run_out() {
    let app = App::start().await;
    let filters = Filters::new(&[]);
    let address = format!("http://{}", app.address);
    let path = filters.path().display().to_string();
    let arguments = ["--app", &address, "--filters", &path, "--mongodb", NO_MONGODB, "--wait"];
    let program = Program::start_with_descriptors(300, &arguments).await;
    let go = Arc::new(Notify::new());
    let ok = send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    app.on("slow", [Step::Body, Step::Wait(go.clone()), ok]);
    let mut slow = Raw::open(program.listen).await;
    slow.send("GET / HTTP/1.1\r\nHost: a\r\nX-Case: slow\r\n\r\n").await;
    until("the app is asked", || async { !app.reached().is_empty() }).await;
    let mut idle = Vec::new();
    for _ in 0..420 {
        idle.push(TcpStream::connect(program.listen).await.expect("a connection"));
    }
    for _ in 0..20 {
        let began = Instant::now();
        assert_eq!(ask(program.listen, "GET", GET).await.status(), 200);
        // It was a minute.
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }
    go.notify_one();
    assert_eq!(slow.answer("GET").await.expect("an answer").status(), 200);
}

#[tokio::test]
async fn one_address_has_so_many_requests_at_a_time() {
    let most = [("SIDESTREAM_CLIENTS__MAX_REQUESTS_PER_ADDRESS", "3")];
    let pair = Pair::start_with(&most).await;
    let go = Arc::new(Notify::new());
    let ok = send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    pair.app.on("slow", [Step::Body, Step::Wait(go.clone()), ok]);
    let slow = "GET / HTTP/1.1\r\nHost: a\r\nX-Case: slow\r\n";
    let mut raws = Vec::new();
    for _ in 0..3 {
        let mut raw = Raw::open(pair.proxy()).await;
        raw.send(format!("{slow}\r\n")).await;
        raws.push(raw);
    }
    until("the app is asked", || async { pair.app.reached().len() == 3 }).await;
    let refused = ask(pair.proxy(), "GET", GET).await;
    assert_eq!((refused.status(), refused.field("retry-after")), (429, Some("2")));
    let (sender, _ending) = crate::proxy::frames::open(pair.proxy()).await;
    let over_h2 = crate::proxy::frames::status_of(&sender, crate::proxy::frames::get("/", ""));
    assert_eq!(over_h2.await, 429);
    // We are a trusted proxy here: it is our clients that are counted.
    let other = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.7:1234\r\n\r\n";
    assert_eq!(ask(pair.proxy(), "GET", other).await.status(), 200);
    assert_eq!(pair.app.reached().len(), 4);
    let metric = "sidestream_refused_total{limit=\"address-requests\"}";
    let refused = crate::support::sidecar::metric(pair.sidecar.admin, metric).await;
    assert_eq!(refused, 2.0);
    for raw in &mut raws {
        go.notify_one();
        assert_eq!(raw.answer("GET").await.expect("an answer").status(), 200);
    }
    assert_eq!(ask(pair.proxy(), "GET", GET).await.status(), 200);
    pair.finish().await;
}
