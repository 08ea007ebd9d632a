//! From the commit to the client, beside the driver's own change stream in the same run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mongodb::bson::RawDocumentBuf;
use mongodb::options::FullDocumentType;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::crowd::{Crowd, Wants};
use super::mongo::{DATABASE, item};
use super::report::{Figure, Goal, Row};
use super::sidecar::How;
use super::{Bench, now_micros};

const PATIENCE: Duration = Duration::from_secs(60);
const PER_SECOND: u64 = 1_000;

/// What arrived: the event's number, and microseconds since it was made.
type Arrivals = Vec<(u64, u32)>;

/// The figures of one round, in milliseconds: ours, the driver's, and by how much each event came
/// later to us.
struct Round {
    rate: f64,
    mine: Vec<f64>,
    theirs: Vec<f64>,
    behind: Vec<f64>,
}

pub fn run(bench: &mut Bench) {
    let clients = bench.scaled(1_000);
    let events = bench.events(15_000);
    let rounds: Vec<Round> = (0..bench.rounds()).map(|_| round(bench, clients, events)).collect();
    let rate = Figure::median(rounds.iter().map(|round| round.rate)).value;
    for (id, share, bound) in [("p50", 0.5, 0.3), ("p99", 0.99, 1.0)] {
        let figure = |of: fn(&Round) -> &Vec<f64>| {
            let at = |times: &Vec<f64>| times[(times.len() as f64 * share) as usize];
            Figure::median(rounds.iter().map(of).map(at))
        };
        let what = format!("from commit to client, {id}, {rate:.0} events/s, {clients} clients");
        let row = Row::new(&format!("latency-{id}"), &what, "ms", figure(|round| &round.mine));
        let row = row.beside("the driver's own stream", figure(|round| &round.theirs));
        let behind = figure(|round| &round.behind).value;
        let note = format!("each event later than at the driver: {behind:.3} ms");
        bench.report.add(row.goal(Goal::MoreByAtMost(bound)).note(note));
    }
}

fn round(bench: &Bench, clients: usize, events: u64) -> Round {
    let sidecar = bench.start(&How::default());
    let keys = clients as u64;
    let crowd = Crowd::open(sidecar.address, clients, |number| {
        (format!("/_events/one?key={number}"), Wants::Key(number as u64, keys))
    });
    let mut crowd = crowd.unwrap_or_else(|why| panic!("latency: {why}"));
    crowd.seen.latencies = Some(Vec::new());
    let is_watching = Arc::new(AtomicBool::new(false));
    let raw = bench.runtime.spawn(watch(bench.mongo.client.clone(), events, is_watching.clone()));
    while !is_watching.load(Ordering::Acquire) {
        crowd.read_for(Duration::from_millis(20)).expect("the crowd reads");
    }
    let writing = bench.runtime.spawn(write(bench.mongo.items(), events, keys));
    let is_all = crowd.read_until(events, PATIENCE).expect("the crowd reads");
    crowd.read_for(Duration::from_millis(200)).expect("the crowd reads");
    let took = bench.runtime.block_on(writing).expect("the writer");
    let raw = bench.runtime.block_on(raw).expect("the watcher");
    bench.insist(is_all, &format!("{} of {events} events came", crowd.seen.events));
    bench.insist(crowd.seen.resets == 0, &format!("resets: {:?}", crowd.seen.resets));
    bench.insist(raw.len() as u64 == events, "the driver has all events");

    let mut ours: Arrivals = crowd.seen.latencies.take().unwrap_or_default();
    ours.sort_unstable();
    ours.dedup_by_key(|(seq, _)| *seq);
    // Writers overlap, so numbers arrive out of order; each exactly once is what is insisted on.
    bench.insist(ours.len() as u64 == events, "every event came once");
    bench.insist(crowd.unserved(events) == 0, "every client got its number of events");
    let mut raw_sorted = raw;
    raw_sorted.sort_unstable();
    // The first second warms caches and connections.
    let warm = (events / 20).min(PER_SECOND);
    let of = |arrivals: &Arrivals| -> Vec<f64> {
        let kept = arrivals.iter().filter(|(seq, _)| *seq >= warm);
        let mut times: Vec<f64> = kept.map(|(_, micros)| f64::from(*micros) / 1000.0).collect();
        times.sort_by(f64::total_cmp);
        times
    };
    let mut behind: Vec<f64> = ours
        .iter()
        .zip(&raw_sorted)
        .filter(|((seq, _), _)| *seq >= warm)
        .map(|((_, ours), (_, raw))| (f64::from(*ours) - f64::from(*raw)) / 1000.0)
        .collect();
    behind.sort_by(f64::total_cmp);
    let rate = events as f64 / took.as_secs_f64();
    Round { rate, mine: of(&ours), theirs: of(&raw_sorted), behind }
}

/// Writes at a steady pace, several at a time: one after the other, a write that a majority has
/// takes too long.
async fn write(
    items: mongodb::Collection<mongodb::bson::Document>,
    events: u64,
    keys: u64,
) -> Duration {
    let began = Instant::now();
    let mut pace = interval(Duration::from_micros(1_000_000 / PER_SECOND));
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut writes = tokio::task::JoinSet::new();
    for seq in 0..events {
        pace.tick().await;
        let items = items.clone();
        writes.spawn(async move { items.insert_one(item(seq, keys, 40)).await });
        while let Some(written) = writes.try_join_next() {
            written.expect("a write").expect("it writes");
        }
    }
    while let Some(written) = writes.join_next().await {
        written.expect("a write").expect("it writes");
    }
    began.elapsed()
}

async fn watch(client: mongodb::Client, events: u64, is_watching: Arc<AtomicBool>) -> Arrivals {
    let database = client.database(DATABASE);
    // As the sidecar asks for it.
    let stream = database.watch().full_document(FullDocumentType::UpdateLookup);
    let mut stream = stream.await.expect("a change stream").with_type::<RawDocumentBuf>();
    is_watching.store(true, Ordering::Release);
    let mut arrivals = Vec::new();
    let began = Instant::now();
    while (arrivals.len() as u64) < events && began.elapsed() < PATIENCE {
        let Ok(Some(event)) = stream.next_if_any().await else { continue };
        let now = now_micros();
        let document = event.get_document("fullDocument").expect("an insert");
        let number = |name| document.get_i64(name).expect("a number").cast_unsigned();
        let micros = now.saturating_sub(number("sent"));
        arrivals.push((number("seq"), u32::try_from(micros).unwrap_or(u32::MAX)));
    }
    arrivals
}
