//! The other transports beside Server-Sent Events and beside rivals, several streams on one connection
//! beside a connection each, and compression beside nginx's.

use std::time::{Duration, Instant};

use super::Bench;
use super::crowd::{Crowd, Wants};
use super::fanout::to_all;
use super::holders::Holder;
use super::report::{Figure, Goal, Row};
use super::sidecar::How;

/// On one connection.
const STREAMS: usize = 10;
/// How long clients may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// What an idle client of another transport may cost more than one of Server-Sent Events: a share of
/// that, and so many bytes.
const MORE: (f64, f64) = (0.1, 300.0);

pub fn run(bench: &mut Bench) {
    // Node.js is given fewer clients: it would take minutes. Five rounds, since the goal is too near for two.
    let few = (bench.scaled(3_000), if bench.is_smoke { 1 } else { 5 });
    // Loops of writes and nothing else show how much faster than `ws` anything could be.
    let beside = [Holder::Ws, Holder::SocketIo, Holder::Sidestream, Holder::Floor];
    to_all(bench, few, "websocket", Holder::WebSocket, &beside);
    let many = (bench.scaled(10_000), bench.rounds());
    to_all(bench, many, "ndjson", Holder::Ndjson, &[Holder::Sidestream]);
    to_all(bench, many, "poll", Holder::Poll, &[Holder::Sidestream]);
    // Their clients decode all of it in this process.
    let compressed = (bench.scaled(1_000), bench.rounds());
    let beside = [Holder::NginxGzip, Holder::Sidestream];
    to_all(bench, compressed, "gzip", Holder::Gzip, &beside);
    idle(bench);
    several(bench);
}

/// What one that only waits costs, by each transport.
fn idle(bench: &mut Bench) {
    let clients = bench.scaled(10_000);
    let held = |holder: Holder| -> Figure {
        let rounds: Vec<f64> = (0..bench.rounds())
            .map(|_| {
                let settle = bench.settle();
                let held = holder.start(bench).unwrap_or_else(|why| panic!("idle: {why}"));
                std::thread::sleep(settle);
                let before = held.process().rss();
                let mut crowd =
                    held.listen_to_all(clients).unwrap_or_else(|why| panic!("idle: {why}"));
                crowd.read_for(settle).expect("the crowd reads");
                let after = held.process().rss();
                bench.insist(crowd.seen.closed == 0, "idle connections stay");
                after.saturating_sub(before) as f64 / clients as f64
            })
            .collect();
        Figure::median(rounds)
    };
    let sse = held(Holder::Sidestream);
    let others = [Holder::Ndjson, Holder::WebSocket, Holder::Poll, Holder::Gzip];
    let rows: Vec<(Holder, Figure)> = others.into_iter().map(|it| (it, held(it))).collect();
    for (holder, bytes) in rows {
        let what = format!("memory of an idle client, {clients} of {}", holder.name());
        let row = Row::new(&format!("idle-{}", holder.slug()), &what, "bytes", bytes);
        let row = row.beside("Server-Sent Events", sse.clone());
        // What compresses has a state of its own.
        bench.report.add(match holder {
            Holder::Gzip => row,
            _ => row.goal(Goal::MoreByAtMost(MORE.0 * sse.value + MORE.1)),
        });
    }
}

/// The values of ten streams on a connection, and one in how many is of that connection alone; the others are
/// the same for all connections. Nothing: all are.
const VALUES: [(&str, &str, Option<usize>); 3] = [
    ("ten-on-one-shared", "the same ten values for all", None),
    ("ten-on-one-half", "half with own values", Some(2)),
    ("ten-on-one", "each with its own value", Some(1)),
];

/// Ten streams on one connection beside ten connections.
fn several(bench: &mut Bench) {
    // Each has ten connections, beside those that have one.
    let pages = (bench.scaled(19_000) / STREAMS).max(1);
    for (id, which, own) in VALUES {
        let key = |page: usize, at: usize| match own {
            Some(own) if at.is_multiple_of(own) => page * STREAMS + at,
            _ => at,
        };
        let together = |page: usize| {
            let streams =
                (0..STREAMS).map(|at| format!("stream=s{at}:one&s{at}.key={}", key(page, at)));
            (format!("/_events?{}", streams.collect::<Vec<_>>().join("&")), Wants::All)
        };
        let alone = |number: usize| {
            (format!("/_events/one?key={}", key(number / STREAMS, number % STREAMS)), Wants::All)
        };
        let one = (0..bench.rounds()).map(|_| held(bench, pages, 1, together));
        let one = Figure::median(one);
        let ten = (0..bench.rounds()).map(|_| held(bench, pages, STREAMS, alone));
        let ten = Figure::median(ten);
        let what =
            format!("memory of {STREAMS} idle streams on one connection, {which}, {pages} of them");
        let row = Row::new(id, &what, "bytes", one).beside("a connection for each", ten);
        bench.report.add(row.goal(Goal::RatioAtMost(0.25)));
    }
}

/// Memory for each page, of which each has so many connections.
fn held(
    bench: &Bench,
    pages: usize,
    connections: usize,
    ask: impl Fn(usize) -> (String, Wants),
) -> f64 {
    let sidecar = bench.start(&How::default());
    let open = |pages: usize| {
        let mut crowd = Crowd::open(sidecar.address, pages * connections, &ask)
            .unwrap_or_else(|why| panic!("several streams: {why}"));
        crowd.read_for(bench.settle()).expect("the crowd reads");
        bench.insist(crowd.seen.closed == 0 && crowd.seen.resets == 0, "several streams stay");
        let subscriptions = sidecar.metric("sidestream_subscriptions");
        bench.insist(subscriptions == (pages * STREAMS) as f64, "each page has all its streams");
        crowd
    };
    // The code and the tables that the first clients need are not what another one costs.
    drop(open(bench.scaled(50)));
    let began = Instant::now();
    while sidecar.metric("sidestream_subscriptions") > 0.0 && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(bench.settle());
    let before = sidecar.process.rss();
    let _crowd = open(pages);
    sidecar.process.rss().saturating_sub(before) as f64 / pages as f64
}
