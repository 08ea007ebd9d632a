//! Events to many clients: to all of them, and to one of them each.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::Bench;
use super::crowd::{Crowd, Wants};
use super::holders::{Held, Holder};
use super::mongo::Mongo;
use super::process::{self, Process};
use super::report::{Figure, Goal, Row};
use super::sidecar::How;

const PATIENCE: Duration = Duration::from_secs(45);
/// So that an event's `data` has about 300 bytes.
const PAD: usize = 40;
/// One at a time, and in bursts that a sender may put together.
const KINDS: [(u64, &str); 2] = [(1, "one at a time"), (25, "25 at once")];

/// What sending cost.
#[derive(Debug, Clone, Copy)]
struct Sent {
    per_second: f64,
    /// Of the sender, for one event to one client.
    cpu_micros: f64,
    /// Of one event on the wire.
    bytes: f64,
    /// Streams that were lost before anything was sent.
    gone: u64,
}

/// What somebody has shown, of each kind, in the rounds so far.
struct Shown {
    holder: Holder,
    sent: [Vec<Sent>; 2],
    failures: usize,
}

pub fn run(bench: &mut Bench) {
    let many = (bench.scaled(10_000), bench.rounds());
    let ours = Holder::Sidestream;
    to_all(bench, many, "fanout", ours, &[Holder::Floor, Holder::Nchan, Holder::Pushpin]);
    // Node.js is given fewer clients: it would take minutes.
    let few = (bench.scaled(3_000), bench.rounds());
    to_all(bench, few, "fanout-few", ours, &[Holder::BetterSse, Holder::SocketIo, Holder::Parse]);
}

/// The product and these rivals, one after the other, in so many rounds.
pub fn to_all(
    bench: &mut Bench,
    (clients, rounds): (usize, usize),
    name: &str,
    ours: Holder,
    rivals: &[Holder],
) {
    let shown = |holder| Shown { holder, sent: Default::default(), failures: 0 };
    let mut ours = shown(ours);
    let mut rivals: Vec<Shown> = rivals.iter().copied().map(shown).collect();
    let events = bench.events(50).max(3);
    for _ in 0..rounds {
        for (kind, (at_once, _)) in KINDS.into_iter().enumerate() {
            let load = (clients, events, at_once);
            let sent = measure(bench, ours.holder, load, 0);
            let sent = sent.unwrap_or_else(|why| panic!("fan-out: {why}"));
            let size = sent.bytes as usize;
            ours.sent[kind].push(sent);
            for rival in &mut rivals {
                if rival.failures >= rounds {
                    continue;
                }
                match measure(bench, rival.holder, load, size) {
                    Ok(sent) => rival.sent[kind].push(sent),
                    Err(why) => {
                        // As often as there are rounds is enough: patience takes long.
                        rival.failures += 1;
                        let who = format!("{}, fan-out to {clients}", rival.holder.name());
                        bench.report.absent(&who, &why);
                    }
                }
            }
        }
    }
    for (kind, (_, when)) in KINDS.into_iter().enumerate() {
        let by = match ours.holder {
            Holder::Sidestream => String::new(),
            holder => format!(" by {}", holder.name()),
        };
        let what = format!("fan-out to {clients} clients, {when}{by}");
        for rival in rivals.iter().filter(|rival| !rival.sent[kind].is_empty()) {
            add(bench, (name, kind, &what), &ours, rival);
        }
    }
}

fn goal_of(ours: Holder, rival: Holder) -> Option<Goal> {
    match (ours, rival) {
        (_, Holder::Floor) => Some(Goal::RatioAtLeast(0.8)),
        (Holder::Sidestream, Holder::Nchan) => Some(Goal::RatioAtLeast(2.0)),
        (Holder::WebSocket, Holder::Ws | Holder::SocketIo) => Some(Goal::RatioAtLeast(2.0)),
        (Holder::WebSocket | Holder::Ndjson, Holder::Sidestream) => Some(Goal::RatioAtLeast(0.9)),
        _ => None,
    }
}

fn add(bench: &mut Bench, (name, kind, what): (&str, usize, &str), ours: &Shown, rival: &Shown) {
    let is_compressed = ours.holder == Holder::Gzip;
    let goal = goal_of(ours.holder, rival.holder);
    let (ours, theirs) = (&ours.sent[kind], &rival.sent[kind]);
    let per_second = |sent: &[Sent]| {
        Figure::chosen(best(sent).per_second, sent.iter().map(|sent| sent.per_second))
    };
    let cpu = |sent: &[Sent]| {
        Figure::chosen(best(sent).cpu_micros, sent.iter().map(|sent| sent.cpu_micros))
    };
    let (who, slug) = (rival.holder.name(), rival.holder.slug());
    let id = format!("{name}-{kind}-{slug}");
    let row = Row::new(&id, what, "events/s", per_second(ours)).beside(who, per_second(theirs));
    let row = match goal {
        Some(goal) => row.goal(goal),
        None => row,
    };
    let (mine, others) = (best(ours).bytes, best(theirs).bytes);
    let mut note = format!("{mine:.0} bytes on the wire for each, {others:.0} of {who}");
    if !rival.holder.keeps_order() {
        note.push_str(", in no order");
    }
    let gone: u64 = theirs.iter().map(|sent| sent.gone).sum();
    if gone > 0 {
        note.push_str(&format!(", which lost {gone} streams at the start"));
    }
    bench.report.add(row.note(note));
    let each = format!("processor time for each, {what}");
    let row = Row::new(&format!("{name}-cpu-{kind}-{slug}"), &each, "µs", cpu(ours));
    bench.report.add(row.beside(who, cpu(theirs)));
    if is_compressed {
        let bytes = |sent: &[Sent]| Figure::median(sent.iter().map(|sent| sent.bytes));
        let each = format!("bytes on the wire for each, {what}");
        let row = Row::new(&format!("{name}-bytes-{kind}-{slug}"), &each, "bytes", bytes(ours));
        bench.report.add(row.beside(who, bytes(theirs)));
    }
}

/// The quickest: what disturbs only ever slows down.
fn best(sent: &[Sent]) -> Sent {
    let quickest = sent.iter().max_by(|a, b| a.per_second.total_cmp(&b.per_second));
    *quickest.expect("something was measured")
}

/// Sends events one after the other, the next one when everybody has the last, or all at once.
fn measure(
    bench: &Bench,
    holder: Holder,
    (clients, events, at_once): (usize, u64, u64),
    size: usize,
) -> Result<Sent, String> {
    let held: Held = holder.start(bench)?;
    let process = held.process();
    let mut crowd = held.listen_to_all(clients)?;
    crowd.read_for(Duration::from_millis(500))?;
    let gone = crowd.seen.closed;
    if gone > holder.may_lose(clients) {
        return Err(format!("{gone} of {clients} streams did not stay"));
    }
    let there = clients as u64 - gone;
    let (cpu, bytes) = (process.cpu(), crowd.seen.bytes);
    let began = Instant::now();
    let mut sent = 0;
    while sent < events {
        let now = at_once.min(events - sent);
        // Beside the reading: some answer who publishes only when everybody was written to.
        let is_all = std::thread::scope(|threads| {
            threads.spawn(|| held.publish(bench, sent, now, size));
            crowd.read_until((sent + now) * there, PATIENCE)
        })?;
        sent += now;
        if !is_all {
            let (had, all) = (crowd.seen.events, sent * there);
            let closed = crowd.seen.closed - gone;
            return Err(format!("{had} of {all} events came, {closed} streams closed"));
        }
    }
    let took = crowd.seen.last.unwrap_or(began).duration_since(began);
    let cpu = process.cpu().saturating_sub(cpu);
    // What comes twice comes late.
    crowd.read_for(Duration::from_millis(200))?;
    if crowd.seen.wrong > 0 || crowd.seen.resets > 0 || crowd.unserved(events) as u64 > gone {
        let (wrong, resets) = (crowd.seen.wrong, crowd.seen.resets);
        let unserved = crowd.unserved(events);
        return Err(format!("{wrong} events wrong, {resets} resets, {unserved} clients unserved"));
    }
    let all = (events * there) as f64;
    Ok(Sent {
        per_second: all / took.as_secs_f64(),
        cpu_micros: cpu.as_secs_f64() * 1e6 / all,
        bytes: (crowd.seen.bytes - bytes) as f64 / all,
        gone,
    })
}

/// Each event is for one client, by a value of its own. The sidecar is held while the events are
/// written, so that it is its own speed that shows, and not that of writing.
pub fn to_one_each(bench: &mut Bench) {
    let clients = bench.scaled(10_000);
    let events = bench.events(100_000);
    let rounds: Vec<Routed> = (0..bench.rounds()).map(|_| routed(bench, clients, events)).collect();
    let figure = |of: fn(&Routed) -> f64| Figure::median(rounds.iter().map(of));
    let what = format!("events into the sidecar, {clients} values, each for one client");
    let row = Row::new("routing", &what, "events/s", figure(|routed| routed.per_second));
    let row = row.beside("the driver alone, reading them", figure(|routed| routed.alone));
    let micros = |of: fn(&Routed) -> f64| figure(of).value;
    let replays: f64 = rounds.iter().map(|routed| routed.replays).sum();
    let note = format!(
        "{:.1} µs of processor time for each, beside {:.1} of MongoDB and {:.1} of the clients; alone, \
         the driver takes {:.1} and MongoDB {:.1}; {replays} read again",
        micros(|routed| routed.cpu.ours),
        micros(|routed| routed.cpu.mongod),
        micros(|routed| routed.cpu.harness),
        micros(|routed| routed.alone_cpu.harness),
        micros(|routed| routed.alone_cpu.mongod),
    );
    bench.report.add(row.goal(Goal::AtLeast(20_000.0)).note(note));
}

struct Routed {
    per_second: f64,
    /// The driver, reading the same.
    alone: f64,
    cpu: Micros,
    alone_cpu: Micros,
    replays: f64,
}

/// Processor time for one event, in microseconds.
struct Micros {
    ours: f64,
    mongod: f64,
    /// Of this process: of the clients, or of the driver alone.
    harness: f64,
}

impl Micros {
    /// So far, of all events.
    fn so_far(bench: &Bench, sidecar: Option<&Process>) -> Micros {
        let micros = |cpu: Duration| cpu.as_secs_f64() * 1e6;
        Micros {
            ours: sidecar.map_or(0.0, |process| micros(process.cpu())),
            mongod: micros(bench.mongo.process.cpu()),
            harness: micros(process::own_cpu()),
        }
    }

    fn since(&self, before: &Micros, events: u64) -> Micros {
        let each = |now: f64, before: f64| (now - before) / events as f64;
        Micros {
            ours: each(self.ours, before.ours),
            mongod: each(self.mongod, before.mongod),
            harness: each(self.harness, before.harness),
        }
    }
}

fn routed(bench: &Bench, clients: usize, events: u64) -> Routed {
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
    let (before, began) = (Micros::so_far(bench, Some(&sidecar.process)), Instant::now());
    sidecar.process.signal(Signal::CONT);
    let is_all = crowd.read_until(events, 3 * PATIENCE).expect("the crowd reads");
    let took = crowd.seen.last.unwrap_or(began).duration_since(began);
    let cpu = Micros::so_far(bench, Some(&sidecar.process)).since(&before, events);
    crowd.read_for(Duration::from_millis(200)).expect("the crowd reads");
    let (seen, unserved) = (crowd.seen.clone(), crowd.unserved(events));
    bench.insist(is_all, &format!("{} of {events} events came", seen.events));
    bench.insist(seen.wrong == 0 && seen.resets == 0, &format!("events to one each: {seen:?}"));
    bench.insist(unserved == 0, &format!("{unserved} clients did not get exactly their events"));
    let replays = sidecar.metric("sidestream_replays_total");
    drop(crowd);
    drop(sidecar);
    let before = Micros::so_far(bench, None);
    let raw = bench.runtime.block_on(read_raw(&bench.mongo, start, events));
    let alone_cpu = Micros::so_far(bench, None).since(&before, events);
    Routed {
        per_second: events as f64 / took.as_secs_f64(),
        alone: events as f64 / raw.as_secs_f64(),
        cpu,
        alone_cpu,
        replays,
    }
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
