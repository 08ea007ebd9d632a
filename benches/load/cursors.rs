//! What the clients cost MongoDB, by their number.

use std::time::Duration;

use super::Bench;
use super::crowd::{Crowd, Wants};
use super::report::{Figure, Goal, Row};
use super::rivals;
use super::sidecar::How;

const PATIENCE: Duration = Duration::from_secs(120);
const PAD: usize = 40;

pub fn run(bench: &mut Bench) {
    let events = bench.events(20_000);
    let counts = [1, bench.scaled(1_000), bench.scaled(10_000)];
    let few = bench.scaled(200);
    let mut cpu: [Vec<f64>; 3] = Default::default();
    let mut cursors = [0; 3];
    let mut theirs = Vec::new();
    for round in 0..bench.rounds() {
        // Those of others: the server's own, and what earlier groups left to time out.
        let others = bench.runtime.block_on(bench.mongo.open_cursors());
        for (at, clients) in counts.into_iter().enumerate() {
            let (micros, open) = ours(bench, clients, events);
            cpu[at].push(micros);
            cursors[at] = open - others;
        }
        if round == theirs.len() {
            match one_each(bench, few, events / 4) {
                Ok(micros) => theirs.push(micros),
                Err(why) => bench.report.absent("better-sse with a change stream per client", &why),
            }
        }
    }
    let one = Figure::median(cpu[0].clone());
    for (at, clients) in counts.into_iter().enumerate() {
        let id = format!("mongodb-cpu-{clients}");
        let what = format!("processor time of MongoDB for an insert, {clients} clients");
        let row = Row::new(&id, &what, "µs", Figure::median(cpu[at].clone()));
        let row = match at {
            0 => row,
            _ => row.beside("one client", one.clone()).goal(Goal::RatioAtMost(1.2)),
        };
        bench.report.add(row.note(format!("{} cursors more open on the server", cursors[at])));
    }
    if !theirs.is_empty() {
        let what = "processor time of MongoDB for an insert, any number of clients";
        let row = Row::new("mongodb-cpu-node", what, "µs", one);
        let who = format!("better-sse, a change stream for each of {few}");
        bench.report.add(row.beside(&who, Figure::median(theirs)));
    }
}

/// Processor time of MongoDB for one event, and the cursors that the server holds.
fn ours(bench: &Bench, clients: usize, events: u64) -> (f64, i64) {
    let sidecar = bench.start(&How::default());
    let keys = clients as u64;
    let crowd = Crowd::open(sidecar.address, clients, |number| {
        (format!("/_events/one?key={number}"), Wants::Key(number as u64, keys))
    });
    let mut crowd = crowd.unwrap_or_else(|why| panic!("{clients} clients: {why}"));
    let cpu = spent(bench, events, keys, &mut crowd);
    let cpu = cpu.unwrap_or_else(|why| panic!("{clients} clients: {why}"));
    let cursors = sidecar.metric("sidestream_upstream_cursors");
    bench.insist(cursors == 1.0, &format!("{cursors} cursors for {clients} clients"));
    (cpu, bench.runtime.block_on(bench.mongo.open_cursors()))
}

/// The same with a change stream for each client.
fn one_each(bench: &Bench, clients: usize, events: u64) -> Result<f64, String> {
    let rival = rivals::node(bench.dir.path(), "per-client.mjs", "better-sse", &bench.mongo.uri)?;
    let keys = clients as u64;
    let mut crowd = Crowd::open(rival.address, clients, |number| {
        (format!("/one?key={number}"), Wants::Key(number as u64, keys))
    })?;
    // Node says hello before its cursors are open.
    crowd.read_for(Duration::from_secs(2))?;
    spent(bench, events.max(1), keys, &mut crowd)
}

/// Processor time of MongoDB for one event, in microseconds, once everybody has theirs.
fn spent(bench: &Bench, events: u64, keys: u64, crowd: &mut Crowd) -> Result<f64, String> {
    let process = &bench.mongo.process;
    let cpu = process.cpu();
    bench.runtime.block_on(bench.mongo.insert(0, events, keys, PAD));
    crowd.read_until(events, PATIENCE)?;
    let unserved = crowd.unserved(events);
    if unserved > 0 {
        return Err(format!("{unserved} clients did not get exactly their events"));
    }
    Ok(process.cpu().saturating_sub(cpu).as_secs_f64() * 1e6 / events as f64)
}
