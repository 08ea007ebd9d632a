//! Events to many clients: to all of them, and to one of them each.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::Bench;
use super::crowd::{Crowd, Wants};
use super::mongo::Mongo;
use super::process::{Process, free_port, log_in, loopback, wait_for_port};
use super::report::{Goal, Row};
use super::rivals;
use super::sidecar::{How, Sidecar, post};

const PATIENCE: Duration = Duration::from_secs(120);
/// So that an event's `data` has about 300 bytes.
const PAD: usize = 40;

/// What sending cost.
#[derive(Debug, Clone, Copy)]
struct Sent {
    per_second: f64,
    /// Of the sender, for one event to one client.
    cpu_micros: f64,
    /// Of one event on the wire.
    bytes: f64,
}

pub fn run(bench: &mut Bench) {
    to_all(bench);
    to_one_each(bench);
}

/// Sends events one after the other, the next one when everybody has the last, or all at once.
fn measure(
    process: &Process,
    address: SocketAddr,
    path: &str,
    (clients, events, at_once): (usize, u64, u64),
    mut publish: impl FnMut(u64, u64),
) -> Result<Sent, String> {
    let mut crowd = Crowd::open(address, clients, |_| (path.to_owned(), Wants::All))?;
    crowd.read_for(Duration::from_millis(500))?;
    let (cpu, bytes) = (process.cpu(), crowd.seen.bytes);
    let began = Instant::now();
    let mut sent = 0;
    while sent < events {
        let now = at_once.min(events - sent);
        publish(sent, now);
        sent += now;
        if !crowd.read_until(sent * clients as u64, PATIENCE)? {
            let (had, all) = (crowd.seen.events, sent * clients as u64);
            return Err(format!("{had} of {all} events came"));
        }
    }
    let took = crowd.seen.last.unwrap_or(began).duration_since(began);
    let cpu = process.cpu().saturating_sub(cpu);
    // What comes twice comes late.
    crowd.read_for(Duration::from_millis(200))?;
    if crowd.seen.wrong > 0 || crowd.seen.resets > 0 || crowd.unserved(events) > 0 {
        let (wrong, resets) = (crowd.seen.wrong, crowd.seen.resets);
        let unserved = crowd.unserved(events);
        return Err(format!("{wrong} events wrong, {resets} resets, {unserved} clients unserved"));
    }
    let all = (events * clients as u64) as f64;
    Ok(Sent {
        per_second: all / took.as_secs_f64(),
        cpu_micros: cpu.as_secs_f64() * 1e6 / all,
        bytes: (crowd.seen.bytes - bytes) as f64 / all,
    })
}

fn to_all(bench: &mut Bench) {
    let clients = bench.scaled(10_000);
    let mut ours: [Vec<Sent>; 2] = Default::default();
    let mut floors: [Vec<Sent>; 2] = Default::default();
    let mut nchans: [Vec<Sent>; 2] = Default::default();
    let rounds = if bench.is_smoke { 1 } else { 2 };
    for _ in 0..rounds {
        // One at a time, and in bursts that a sender may put together.
        for (kind, at_once) in [(0, 1), (1, 25)] {
            let load = (clients, bench.events(25).max(3), at_once);
            let sidecar = bench.start(&How::default());
            let sent = ours_to_all(bench, &sidecar, load);
            drop(sidecar);
            let sent = match sent {
                Ok(sent) => sent,
                Err(why) => panic!("fan-out: {why}"),
            };
            ours[kind].push(sent);
            match floor(bench, load, sent.bytes as usize) {
                Ok(sent) => floors[kind].push(sent),
                Err(why) => bench.report.absent("the floor", &why),
            }
            match nchan(bench, load) {
                Ok(sent) => nchans[kind].push(sent),
                Err(why) => bench.report.absent("Nchan, fan-out", &why),
            }
        }
    }
    let names = ["one at a time", "25 at once"];
    for (kind, name) in names.into_iter().enumerate() {
        let mine = best(&ours[kind]);
        let what = format!("fan-out to {clients} clients, {name}");
        let bytes = mine.bytes;
        let mut row = Row::new(&format!("fanout-{kind}"), &what, "events/s", mine.per_second);
        if !floors[kind].is_empty() {
            let floor = best(&floors[kind]);
            row = row.beside("bare write() loop", floor.per_second);
            row = row.goal(Goal::RatioAtLeast(0.8));
        }
        bench.report.add(row.note(format!("{bytes:.0} bytes on the wire for each")));
        if !nchans[kind].is_empty() {
            let nchan = best(&nchans[kind]);
            let id = format!("fanout-{kind}-nchan");
            let row = Row::new(&id, &what, "events/s", mine.per_second);
            let row = row.beside("Nchan", nchan.per_second).goal(Goal::RatioAtLeast(2.0));
            bench.report.add(row.note(format!("{:.0} bytes of Nchan", nchan.bytes)));
        }
        let who = [("bare write() loop", &floors[kind]), ("Nchan", &nchans[kind])];
        for (who, sent) in who.into_iter().filter(|(_, sent)| !sent.is_empty()) {
            let id = format!("fanout-{kind}-cpu-{}", who.split(' ').next().unwrap_or_default());
            let row = Row::new(&id, &format!("its processor time, {name}"), "µs", mine.cpu_micros);
            bench.report.add(row.beside(who, best(sent).cpu_micros));
        }
    }
}

/// The quickest: what disturbs only ever slows down.
fn best(sent: &[Sent]) -> Sent {
    let quickest = sent.iter().max_by(|a, b| a.per_second.total_cmp(&b.per_second));
    *quickest.expect("something was measured")
}

fn ours_to_all(bench: &Bench, sidecar: &Sidecar, load: (usize, u64, u64)) -> Result<Sent, String> {
    measure(&sidecar.process, sidecar.address, "/_events/all", load, |from, count| {
        bench.runtime.block_on(bench.mongo.insert(from, count, 1, PAD));
    })
}

fn floor(bench: &Bench, load: (usize, u64, u64), bytes: usize) -> Result<Sent, String> {
    let port = free_port();
    let arguments = ["serve-floor".to_owned(), port.to_string()];
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let log = log_in(bench.dir.path(), "floor");
    let process = Process::start(&program, &arguments, &[], &log);
    if !wait_for_port(port, PATIENCE) {
        return Err(process.said());
    }
    let address = loopback(port);
    measure(&process, address, "/", load, |from, count| {
        for seq in from..from + count {
            let mut body = format!("data: {{\"seq\":{seq},\"pad\":\"");
            let left = bytes.saturating_sub(body.len() + 4);
            body.extend(std::iter::repeat_n('x', left));
            body.push_str("\"}\n\n");
            post(address, "/", "text/plain", &body);
        }
    })
}

fn nchan(bench: &Bench, load: (usize, u64, u64)) -> Result<Sent, String> {
    let rival = rivals::nchan(bench.dir.path())?;
    measure(&rival.process, rival.address, "/subscribe/all", load, |from, count| {
        for seq in from..from + count {
            let body = format!("{{\"seq\":{seq},\"pad\":\"{}\"}}", "x".repeat(280));
            post(rival.publish, "/publish/all", "application/json", &body);
        }
    })
}

/// Each event is for one client, by a value of its own. The sidecar is held while the events are
/// written, so that it is its own speed that shows, and not that of writing.
fn to_one_each(bench: &mut Bench) {
    let clients = bench.scaled(10_000);
    let events = bench.events(100_000);
    let sidecar = bench.start(&How::default());
    let keys = clients as u64;
    let crowd = Crowd::open(sidecar.address, clients, |number| {
        (format!("/_events/one?key={number}"), Wants::Key(number as u64, keys))
    });
    let mut crowd = crowd.unwrap_or_else(|why| panic!("10,000 values: {why}"));
    // Where they go on from, for the driver's turn.
    let start = bench.runtime.block_on(position(&bench.mongo));
    crowd.read_for(Duration::from_millis(500)).expect("the crowd reads");
    sidecar.process.signal(Signal::STOP);
    bench.runtime.block_on(bench.mongo.insert(0, events, keys, PAD));
    let (cpu, began) = (sidecar.process.cpu(), Instant::now());
    sidecar.process.signal(Signal::CONT);
    let is_all = crowd.read_until(events, PATIENCE).expect("the crowd reads");
    let took = crowd.seen.last.unwrap_or(began).duration_since(began);
    let cpu = sidecar.process.cpu().saturating_sub(cpu);
    crowd.read_for(Duration::from_millis(200)).expect("the crowd reads");
    let (seen, unserved) = (crowd.seen.clone(), crowd.unserved(events));
    bench.insist(is_all, &format!("{} of {events} events came", seen.events));
    bench.insist(seen.wrong == 0 && seen.resets == 0, &format!("events to one each: {seen:?}"));
    bench.insist(unserved == 0, &format!("{unserved} clients did not get exactly their events"));
    let replays = sidecar.metric("sidestream_replays_total");
    drop(crowd);
    drop(sidecar);
    let raw = bench.runtime.block_on(read_raw(&bench.mongo, start, events));
    let what = format!("events into the sidecar, {clients} values, each for one client");
    let row = Row::new("routing", &what, "events/s", events as f64 / took.as_secs_f64());
    let row = row.beside("the driver alone, reading them", events as f64 / raw.as_secs_f64());
    let cpu = cpu.as_secs_f64() * 1e6 / events as f64;
    let note = format!("{cpu:.1} µs of processor time for each; {replays} read again");
    bench.report.add(row.goal(Goal::AtLeast(20_000.0)).note(note));
}

async fn position(mongo: &Mongo) -> mongodb::bson::Timestamp {
    let database = mongo.client.database("admin");
    let hello = database.run_command(mongodb::bson::doc! { "hello": 1 }).await.expect("hello");
    hello.get_timestamp("operationTime").expect("the server's time")
}

/// Reads so many events with the driver, undecoded.
async fn read_raw(mongo: &Mongo, from: mongodb::bson::Timestamp, events: u64) -> Duration {
    let database = mongo.client.database(super::mongo::DATABASE);
    let stream = database.watch().start_at_operation_time(from).await.expect("a change stream");
    let mut stream = stream.with_type::<mongodb::bson::RawDocumentBuf>();
    let began = Instant::now();
    let mut count = 0;
    while count < events {
        match stream.next_if_any().await {
            Ok(Some(_)) => count += 1,
            Ok(None) => {}
            Err(error) => panic!("the driver's stream: {error}"),
        }
    }
    began.elapsed()
}

/// What the clients cost MongoDB, by their number.
pub fn mongodb(bench: &mut Bench) {
    let events = bench.events(20_000);
    let mut first = None;
    // Those of others: the server's own, and what earlier groups left to time out.
    let others = bench.runtime.block_on(bench.mongo.open_cursors());
    for clients in [1, bench.scaled(1_000), bench.scaled(10_000)] {
        let sidecar = bench.start(&How::default());
        let keys = clients as u64;
        let crowd = Crowd::open(sidecar.address, clients, |number| {
            (format!("/_events/one?key={number}"), Wants::Key(number as u64, keys))
        });
        let mut crowd = crowd.unwrap_or_else(|why| panic!("{clients} clients: {why}"));
        let cpu = spent(bench, events, keys, &mut crowd);
        let cursors = sidecar.metric("sidestream_upstream_cursors");
        bench.insist(cursors == 1.0, &format!("{cursors} cursors for {clients} clients"));
        let id = format!("mongodb-cpu-{clients}");
        let what = format!("processor time of MongoDB for an insert, {clients} clients");
        let mut row = Row::new(&id, &what, "µs", cpu);
        match first {
            None => first = Some(cpu),
            Some(one) => row = row.beside("one client", one).goal(Goal::RatioAtMost(1.2)),
        }
        let open = bench.runtime.block_on(bench.mongo.open_cursors());
        bench.report.add(row.note(format!("{} cursors more open on the server", open - others)));
    }
    let Some(one) = first else { return };
    let clients = bench.scaled(200);
    match rivals::node(bench.dir.path(), "per-client.mjs", &bench.mongo.uri) {
        Err(why) => bench.report.absent("better-sse with a change stream per client", &why),
        Ok(rival) => {
            let keys = clients as u64;
            let crowd = Crowd::open(rival.address, clients, |number| {
                (format!("/one?key={number}"), Wants::Key(number as u64, keys))
            });
            match crowd {
                Err(why) => bench.report.absent("better-sse, a change stream each", &why),
                Ok(mut crowd) => {
                    // Node says hello before its cursors are open.
                    crowd.read_for(Duration::from_secs(2)).expect("the crowd reads");
                    let theirs = spent(bench, events / 4, keys, &mut crowd);
                    let what = "processor time of MongoDB for an insert, any number of clients";
                    let row = Row::new("mongodb-cpu-node", what, "µs", one);
                    let who = format!("better-sse, a change stream for each of {clients}");
                    bench.report.add(row.beside(&who, theirs));
                }
            }
        }
    }
}

/// Processor time of MongoDB for one event, in microseconds, once everybody has theirs.
fn spent(bench: &Bench, events: u64, keys: u64, crowd: &mut Crowd) -> f64 {
    let process = &bench.mongo.process;
    let cpu = process.cpu();
    bench.runtime.block_on(bench.mongo.insert(0, events, keys, PAD));
    let _ = crowd.read_until(events, PATIENCE);
    let unserved = crowd.unserved(events);
    bench.insist(unserved == 0, &format!("{unserved} clients did not get exactly their events"));
    process.cpu().saturating_sub(cpu).as_secs_f64() * 1e6 / events as f64
}
