//! What a client that only waits costs, what remains when it has left, and how soon the sidecar is
//! there.

use std::time::Duration;

use super::Bench;
use super::crowd::{Crowd, Wants};
use super::process::Process;
use super::report::{Goal, Row};
use super::rivals;
use super::sidecar::How;

pub fn run(bench: &mut Bench) {
    starting(bench);
    let clients = bench.scaled(19_000);
    // All of them with one filter value, half of them with one of their own, and all of them.
    let mut found = Vec::new();
    for own in [0, 2, 1] {
        match held_by_us(bench, clients, own) {
            Ok(bytes) => found.push(bytes),
            Err(why) => return bench.report.absent("idle streams of Sidestream", &why),
        }
    }
    let ours = found[1];
    let what = format!("memory of an idle stream, HTTP/1.1, {clients}, half with own values");
    let row = Row::new("idle-http1", &what, "bytes", ours);
    bench.report.add(row.goal(Goal::AtMost(2048.0)));
    bench.report.add(Row::new("idle-shared", "the same, all with one value", "bytes", found[0]));
    bench.report.add(Row::new("idle-own", "the same, each with its own value", "bytes", found[2]));
    beside_rivals(bench, clients, ours);
    returned(bench);
}

/// One in `own` clients has a filter value of its own; zero: nobody.
fn held_by_us(bench: &Bench, clients: usize, own: usize) -> Result<f64, String> {
    let sidecar = bench.start(&How::default());
    let (bytes, crowd) = held(bench.settle(), &sidecar.process, clients, || {
        Crowd::open(sidecar.address, clients, |number| {
            let key = if own > 0 && number % own == 0 { number } else { 1 };
            (format!("/_events/one?key={key}"), Wants::All)
        })
    })?;
    bench.insist(crowd.seen.resets == 0 && crowd.seen.closed == 0, "idle streams stay");
    Ok(bytes)
}

/// Memory for each client, with the crowd that still listens.
fn held(
    settle: Duration,
    process: &Process,
    clients: usize,
    open: impl FnOnce() -> Result<Crowd, String>,
) -> Result<(f64, Crowd), String> {
    std::thread::sleep(settle);
    let before = process.rss();
    let mut crowd = open()?;
    crowd.read_for(settle)?;
    let after = process.rss();
    Ok((after.saturating_sub(before) as f64 / clients as f64, crowd))
}

fn beside_rivals(bench: &mut Bench, clients: usize, ours: f64) {
    let settle = bench.settle();
    let dir = bench.dir.path().to_owned();
    // nginx wants some descriptors more.
    let clients = clients.min(15_000);
    // Its own pub/sub server, one channel for half of the clients as ours share one filter.
    match rivals::nchan(&dir) {
        Err(why) => bench.report.absent("Nchan", &why),
        Ok(rival) => {
            let open = || {
                Crowd::open(rival.address, clients, |number| {
                    let key = if number % 2 == 0 { number } else { 1 };
                    (format!("/subscribe/{key}"), Wants::All)
                })
            };
            match held(settle, &rival.process, clients, open) {
                Err(why) => bench.report.absent("Nchan, idle", &why),
                Ok((theirs, _)) => {
                    let row = Row::new("idle-http1-nchan", "the same", "bytes", ours);
                    let row = row.beside("Nchan", theirs).goal(Goal::RatioAtMost(0.2));
                    let row = row.note(format!("{clients} clients of Nchan"));
                    bench.report.add(row);
                }
            }
        }
    }
    // Node.js holds what it can: fewer clients, one change stream for all of them.
    let few = clients.min(5_000);
    match rivals::node(&dir, "shared.mjs", &bench.mongo.uri) {
        Err(why) => bench.report.absent("better-sse with a shared change stream", &why),
        Ok(rival) => {
            let open = || Crowd::open(rival.address, few, |_| ("/all".to_owned(), Wants::All));
            match held(settle, &rival.process, few, open) {
                Err(why) => bench.report.absent("better-sse, idle", &why),
                Ok((theirs, _)) => {
                    let row = Row::new("idle-http1-node", "the same", "bytes", ours);
                    let row = row.beside("better-sse in Node.js", theirs);
                    bench.report.add(row.note(format!("{few} clients of Node.js")));
                }
            }
        }
    }
}

/// Memory after everybody has left.
fn returned(bench: &mut Bench) {
    let clients = bench.scaled(10_000);
    let sidecar = bench.start(&How::default());
    std::thread::sleep(bench.settle());
    let before = sidecar.process.rss();
    let crowd = Crowd::open(sidecar.address, clients, |number| {
        (format!("/_events/one?key={number}"), Wants::All)
    });
    let mut crowd = match crowd {
        Ok(crowd) => crowd,
        Err(why) => return bench.report.absent("memory after clients left", &why),
    };
    let _ = crowd.read_for(bench.settle());
    let full = sidecar.process.rss();
    drop(crowd);
    std::thread::sleep(Duration::from_secs(if bench.is_smoke { 1 } else { 10 }));
    let after = sidecar.process.rss();
    bench.insist(sidecar.metric("sidestream_connections") == 0.0, "streams of the gone are closed");
    bench.insist(sidecar.metric("sidestream_subscriptions") == 0.0, "their subscriptions too");
    let what = format!("memory 10 s after {clients} clients left");
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let row =
        Row::new("returned", &what, "MiB", mib(after)).beside("before they came", mib(before));
    let row = row.goal(Goal::RatioAtMost(1.2));
    bench.report.add(row.note(format!("{:.1} MiB with all of them", mib(full))));
}

fn starting(bench: &mut Bench) {
    let mut times: Vec<f64> =
        (0..5).map(|_| bench.start(&How::default()).ready_after.as_secs_f64() * 1000.0).collect();
    times.sort_by(f64::total_cmp);
    let row = Row::new("ready", "from start to ready, the median of five", "ms", times[2]);
    bench.report.add(row.goal(Goal::AtMost(200.0)));
}
