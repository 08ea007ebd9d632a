//! What a client that only waits costs, what remains when it has left, and how soon the sidecar is
//! there.

use std::time::Duration;

use super::Bench;
use super::crowd::{Crowd, Wants};
use super::holders::Holder;
use super::report::{Figure, Goal, Row};
use super::sidecar::How;

/// How many streams of ours are held, and one in how many has a value of its own. Nothing: they are
/// told everything.
const OURS: [(usize, Option<usize>); 4] =
    [(19_000, Some(0)), (19_000, Some(2)), (19_000, Some(1)), (FEW, None)];
const FEW: usize = 3_000;
const MIB: f64 = 1048576.0;
/// A channel of its own for half of the clients, as half of ours have a value of their own; nginx and
/// Pushpin want some descriptors more. Node.js is given fewer clients: it would take minutes.
const RIVALS: [(Holder, usize); 5] = [
    (Holder::Nchan, 15_000),
    (Holder::Pushpin, 15_000),
    (Holder::BetterSse, FEW),
    (Holder::SocketIo, FEW),
    (Holder::Parse, FEW),
];

pub fn run(bench: &mut Bench) {
    starting(bench);
    let mut ours: [Vec<f64>; 4] = Default::default();
    let mut theirs: [Vec<f64>; 5] = Default::default();
    let mut absent = [false; 5];
    for _ in 0..bench.rounds() {
        for ((clients, own), rounds) in OURS.into_iter().zip(&mut ours) {
            match held(bench, Holder::Sidestream, bench.scaled(clients), own) {
                Ok(bytes) => rounds.push(bytes),
                Err(why) => return bench.report.absent("idle streams of Sidestream", &why),
            }
        }
        for (at, (holder, clients)) in RIVALS.into_iter().enumerate() {
            if absent[at] {
                continue;
            }
            match held(bench, holder, bench.scaled(clients), Some(2)) {
                Ok(bytes) => theirs[at].push(bytes),
                Err(why) => {
                    // Once is enough: patience takes long.
                    absent[at] = true;
                    bench.report.absent(&format!("{}, idle", holder.name()), &why);
                }
            }
        }
    }
    let [shared, half, own, few] = ours.map(Figure::median);
    let clients = bench.scaled(OURS[0].0);
    let what = format!("memory of an idle stream, HTTP/1.1, {clients}, half with own values");
    let row = Row::new("idle-http1", &what, "bytes", half.clone());
    bench.report.add(row.goal(Goal::AtMost(2048.0)));
    bench.report.add(Row::new("idle-shared", "the same, all with one value", "bytes", shared));
    bench.report.add(Row::new("idle-own", "the same, each with its own value", "bytes", own));
    for ((holder, clients), rounds) in RIVALS.into_iter().zip(theirs) {
        if rounds.is_empty() {
            continue;
        }
        let theirs = Figure::median(rounds);
        let clients = bench.scaled(clients);
        let row = match holder {
            Holder::Nchan | Holder::Pushpin => {
                let id = format!("idle-http1-{}", holder.slug());
                let what = "memory of an idle stream, half with own values or channels";
                let note = format!("{clients} clients of {}", holder.name());
                Row::new(&id, what, "bytes", half.clone()).note(note)
            }
            _ => {
                let id = format!("idle-few-{}", holder.slug());
                let what = format!("memory of an idle stream that receives every event, {clients}");
                Row::new(&id, &what, "bytes", few.clone())
            }
        };
        let row = row.beside(holder.name(), theirs);
        let is_nchan = holder == Holder::Nchan;
        bench.report.add(if is_nchan { row.goal(Goal::RatioAtMost(0.2)) } else { row });
    }
    returned(bench);
}

/// Memory for each client that listens.
fn held(bench: &Bench, holder: Holder, clients: usize, own: Option<usize>) -> Result<f64, String> {
    let settle = bench.settle();
    let held = holder.start(bench)?;
    std::thread::sleep(settle);
    let before = held.process().rss();
    let mut crowd = match own {
        Some(own) => held.listen_to_own(clients, own)?,
        None => held.listen_to_all(clients)?,
    };
    crowd.read_for(settle)?;
    let after = held.process().rss();
    let (gone, resets) = (crowd.seen.closed, crowd.seen.resets);
    if gone > holder.may_lose(clients) || resets > 0 {
        return Err(format!("{gone} streams of {clients} did not stay, {resets} were reset"));
    }
    Ok(after.saturating_sub(before) as f64 / (clients as u64 - gone) as f64)
}

/// Memory after everybody has left.
fn returned(bench: &mut Bench) {
    let clients = bench.scaled(10_000);
    let (mut before, mut full, mut after) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.rounds() {
        let sidecar = bench.start(&How::default());
        std::thread::sleep(bench.settle());
        let rss = |into: &mut Vec<f64>| into.push(sidecar.process.rss() as f64 / MIB);
        rss(&mut before);
        let crowd = Crowd::open(sidecar.address, clients, |number| {
            (format!("/_events/one?key={number}"), Wants::All)
        });
        let mut crowd = match crowd {
            Ok(crowd) => crowd,
            Err(why) => return bench.report.absent("memory after clients left", &why),
        };
        let _ = crowd.read_for(bench.settle());
        rss(&mut full);
        drop(crowd);
        std::thread::sleep(Duration::from_secs(if bench.is_smoke { 1 } else { 10 }));
        rss(&mut after);
        bench.insist(sidecar.metric("sidestream_connections") == 0.0, "streams of the gone close");
        let subscriptions = sidecar.metric("sidestream_subscriptions");
        bench.insist(subscriptions == 0.0, "their subscriptions too");
    }
    let what = format!("memory 10 s after {clients} clients left");
    let row = Row::new("returned", &what, "MiB", Figure::median(after));
    let row = row.beside("before they connected", Figure::median(before));
    let full = Figure::median(full).value;
    let row = row.note(format!("{full:.1} MiB with all of them"));
    bench.report.add(row.goal(Goal::RatioAtMost(1.2)));
}

fn starting(bench: &mut Bench) {
    let times = (0..5).map(|_| bench.start(&How::default()).ready_after.as_secs_f64() * 1000.0);
    let times = Figure::median(times.collect::<Vec<_>>());
    let row = Row::new("ready", "from start to ready, the median of five", "ms", times);
    bench.report.add(row.goal(Goal::AtMost(200.0)));
}
