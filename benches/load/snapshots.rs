//! Streams that begin with what is there now: many clients at once beside an app that answers each with a
//! `find`, a long snapshot beside the driver's own `find`, and memory while clients do not read theirs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::{Document, RawDocumentBuf, doc};

use super::Bench;
use super::crowd::{Crowd, WAVE, Wants};
use super::mongo::DATABASE;
use super::report::{Figure, Goal, Row};
use super::rivals;
use super::sidecar::{How, Sidecar};
use super::websocket::Speaks;

const PATIENCE: Duration = Duration::from_secs(120);
const LISTS: &str = "lists";
const INDEX: &str = "key_1";
/// The keys of long lists begin here; below are those of short ones.
const LONG: usize = 1_000_000;
/// So that a document's JSON has about 300 bytes.
const PAD: usize = 200;
const MIB: f64 = 1048576.0;
/// How often memory is looked at while clients do not read.
const LOOKS: u32 = 10;

/// The lists, and the sidecar's filter on them.
struct Lists {
    filters: PathBuf,
    /// How many short lists there are, and how many documents each of them has.
    short: (usize, usize),
    /// The same of long lists.
    long: (usize, usize),
}

pub fn run(bench: &mut Bench) {
    let lists = Lists {
        filters: filters(bench.dir.path()),
        short: (bench.scaled(100).max(10), bench.scaled(100).max(10)),
        // One to warm up, and two for each round.
        long: (1 + 2 * bench.rounds(), bench.scaled(10_000)),
    };
    bench.runtime.block_on(fill(bench, &lists));
    at_once(bench, &lists);
    long(bench, &lists);
    slow(bench, &lists);
}

/// In a directory of their own, since the other groups expect a single change stream.
fn filters(dir: &Path) -> PathBuf {
    let filters = dir.join("filters-snapshots");
    std::fs::create_dir_all(&filters).expect("a directory");
    let list = format!(
        "collection: {DATABASE}.{LISTS}\naccess: public\nsnapshot: true\n\
         fullDocumentBeforeChange: whenAvailable\nmatch: {{ key: {{ $param: key }} }}\n\
         params: {{ key: {{ type: int }} }}\nproject: {{ pad: 1, seq: 1 }}\n"
    );
    std::fs::write(filters.join("list.yaml"), list).expect("a file");
    filters
}

async fn fill(bench: &Bench, lists: &Lists) {
    let database = bench.mongo.client.database(DATABASE);
    let images = doc! { "enabled": true };
    let create = doc! { "create": LISTS, "changeStreamPreAndPostImages": images };
    database.run_command(create).await.expect("a collection");
    let index = doc! { "key": { "key": 1 }, "name": INDEX };
    let create = doc! { "createIndexes": LISTS, "indexes": [index] };
    database.run_command(create).await.expect("an index");
    let item = |key: usize, seq: usize| {
        doc! { "key": key as i64, "seq": seq as i64, "pad": "x".repeat(PAD) }
    };
    let (values, each) = lists.short;
    let mut items: Vec<Document> = (0..values * each).map(|seq| item(seq % values, seq)).collect();
    for list in 0..lists.long.0 {
        items.extend((0..lists.long.1).map(|seq| item(LONG + list, seq)));
    }
    let collection = collection(bench);
    for part in items.chunks(1_000) {
        collection.insert_many(part).await.expect("it writes");
    }
}

fn collection(bench: &Bench) -> Collection<Document> {
    bench.mongo.client.database(DATABASE).collection(LISTS)
}

/// How many queries have used the index since the server started.
async fn queries(bench: &Bench) -> i64 {
    let stages = [doc! { "$indexStats": {} }, doc! { "$match": { "name": INDEX } }];
    let stats = collection(bench).aggregate(stages).await.expect("the index's use");
    let stats: Vec<Document> = stats.try_collect().await.expect("the index's use");
    let used = stats.first().and_then(|stats| stats.get_document("accesses").ok());
    used.and_then(|used| used.get_i64("ops").ok()).expect("how often it was used")
}

fn start(bench: &Bench, lists: &Lists) -> Sidecar {
    bench.start(&How { filters: Some(&lists.filters), ..How::default() })
}

/// Ours, of this list.
fn target(key: usize) -> String {
    format!("/_events/list?key={key}")
}

/// How long it took, and how many queries MongoDB had.
struct Opened {
    seconds: f64,
    queries: f64,
}

/// Many clients open few lists at the same time.
fn at_once(bench: &mut Bench, lists: &Lists) {
    let clients = bench.scaled(10_000);
    let (values, each) = lists.short;
    let (mut ours, mut theirs): (Vec<Opened>, Vec<Opened>) = (Vec::new(), Vec::new());
    for round in 0..bench.rounds() {
        let sidecar = start(bench, lists);
        let mine = open_all(bench, lists, (sidecar.address, Speaks::Sse), clients, target);
        ours.push(mine.unwrap_or_else(|why| panic!("snapshots: {why}")));
        drop(sidecar);
        if round > theirs.len() {
            continue;
        }
        let rival = rivals::node(bench.dir.path(), "lists.mjs", "mongodb", &bench.mongo.uri);
        let other = rival.and_then(|rival| {
            let address = (rival.address, Speaks::Fetch);
            open_all(bench, lists, address, clients, |key| format!("/list?key={key}"))
        });
        match other {
            Ok(opened) => theirs.push(opened),
            Err(why) => bench.report.absent("a `find` for each client", &why),
        }
    }
    let seconds = |rounds: &[Opened]| Figure::median(rounds.iter().map(|round| round.seconds));
    let asked = |rounds: &[Opened]| Figure::median(rounds.iter().map(|round| round.queries));
    let most = ours.iter().map(|round| round.queries).fold(0.0, f64::max);
    bench.insist(most <= values as f64, &format!("{most} queries for {values} values"));
    let what = format!(
        "{clients} clients open {values} values at once, {each} documents each, until all are ready"
    );
    let time = Row::new("snapshots-open", &what, "s", seconds(&ours)).goal(Goal::AtMost(5.0));
    let what = format!("queries of {clients} clients with {values} values, counted by MongoDB");
    let count = Row::new("snapshots-queries", &what, "queries", asked(&ours));
    let count = count.goal(Goal::AtMost(values as f64));
    let who = "a Node.js app, a `find` for each";
    let beside = |row: Row, figure: Figure| match theirs.is_empty() {
        true => row,
        false => row.beside(who, figure),
    };
    let note = format!("the app is asked {WAVE} times at once, and no change follows");
    bench.report.add(beside(time, seconds(&theirs)).note(note));
    bench.report.add(beside(count, asked(&theirs)));
}

fn open_all(
    bench: &Bench,
    lists: &Lists,
    (address, speaks): (SocketAddr, Speaks),
    clients: usize,
    target: impl Fn(usize) -> String,
) -> Result<Opened, String> {
    let (values, each) = lists.short;
    let before = bench.runtime.block_on(queries(bench));
    let began = Instant::now();
    let mut crowd = Crowd::open_as(speaks, WAVE, address, clients, |number| {
        let key = number % values;
        (target(key), Wants::Key(key as u64, values as u64))
    })?;
    let is_all = crowd.read_until_ready(clients as u64, PATIENCE)?;
    let took = crowd.seen.last.unwrap_or(began).duration_since(began);
    let (seen, unserved) = (&crowd.seen, crowd.unserved((values * each) as u64));
    if !is_all || unserved > 0 || seen.wrong > 0 || seen.resets > 0 {
        return Err(format!("{unserved} of {clients} clients did not get their list: {seen:?}"));
    }
    let asked = bench.runtime.block_on(queries(bench)) - before;
    Ok(Opened { seconds: took.as_secs_f64(), queries: asked as f64 })
}

/// One client and one long list.
fn long(bench: &mut Bench, lists: &Lists) {
    let (count, each) = lists.long;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let sidecar = start(bench, lists);
    for list in 0..count {
        // Each has every second turn to be the first who reads a list.
        let mut by_driver = || {
            let took = bench.runtime.block_on(find(bench, LONG + list, each));
            theirs.push(took.as_secs_f64() * 1000.0);
        };
        if list % 2 == 0 {
            by_driver();
        }
        let began = Instant::now();
        let crowd = taken(&sidecar, LONG + list, 1);
        let took = crowd.seen.last.unwrap_or(began).duration_since(began);
        bench.insist(crowd.unserved(each as u64) == 0, "a long snapshot is complete");
        ours.push(took.as_secs_f64() * 1000.0);
        if list % 2 == 1 {
            by_driver();
        }
    }
    // The first warms caches and connections.
    let figure = |mut times: Vec<f64>| Figure::median(times.split_off(1));
    let what = format!("a snapshot of {each} documents, from the request to `ready`");
    let row = Row::new("snapshots-long", &what, "ms", figure(ours));
    let row = row.beside("the driver's own `find`", figure(theirs));
    bench.report.add(row.goal(Goal::RatioAtMost(1.3)));
}

async fn find(bench: &Bench, key: usize, expected: usize) -> Duration {
    let lists = collection(bench).clone_with_type::<RawDocumentBuf>();
    let began = Instant::now();
    let shown = doc! { "pad": 1, "seq": 1 };
    let found = lists.find(doc! { "key": key as i64 }).projection(shown).await;
    let mut found = found.expect("a cursor");
    let mut count = 0;
    while found.advance().await.expect("the next document") {
        count += 1;
    }
    let took = began.elapsed();
    bench.insist(count == expected, &format!("`find` finds {count} of {expected} documents"));
    took
}

/// Clients that have been given this list.
fn taken(sidecar: &Sidecar, key: usize, clients: usize) -> Crowd {
    let crowd = Crowd::open(sidecar.address, clients, |_| (target(key), Wants::All));
    let mut crowd = crowd.unwrap_or_else(|why| panic!("a long snapshot: {why}"));
    let is_all = crowd.read_until_ready(clients as u64, PATIENCE);
    assert!(is_all.expect("the crowd reads"), "a long snapshot: {:?}", crowd.seen);
    crowd
}

/// Many clients are in the middle of one snapshot, and do not read.
fn slow(bench: &mut Bench, lists: &Lists) {
    let clients = bench.scaled(1_000);
    let each = lists.long.1;
    let before = bench.runtime.block_on(queries(bench));
    let (mut many, mut alone) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds() {
        let sidecar = start(bench, lists);
        std::thread::sleep(bench.settle());
        let at_start = sidecar.process.rss();
        let more = || sidecar.process.rss().saturating_sub(at_start) as f64 / MIB;
        let one = taken(&sidecar, LONG, 1);
        alone.push(more());
        drop(one);
        let crowd = Crowd::open(sidecar.address, clients, |_| (target(LONG), Wants::All));
        let mut crowd = crowd.unwrap_or_else(|why| panic!("slow clients: {why}"));
        let mut most = more();
        for _ in 0..LOOKS {
            std::thread::sleep(bench.settle() / LOOKS);
            most = more().max(most);
        }
        many.push(most);
        // Nobody has lost anything by that.
        let is_all = crowd.read_until_ready(clients as u64, PATIENCE);
        bench.insist(is_all.expect("the crowd reads"), "slow clients get all of it");
        bench.insist(crowd.seen.wrong == 0 && crowd.seen.resets == 0, "nothing twice");
        bench.insist(crowd.unserved(each as u64) == 0, "a slow client's snapshot is complete");
    }
    let asked = bench.runtime.block_on(queries(bench)) - before;
    bench.insist(asked == bench.rounds() as i64, &format!("{asked} queries, one for each round"));
    let what =
        format!("memory while {clients} clients do not read their snapshot of {each} documents");
    let (many, alone) = (Figure::median(many), Figure::median(alone));
    let note = format!("{:.1} KiB for each", (many.value - alone.value) * 1024.0 / clients as f64);
    let row = Row::new("snapshots-slow", &what, "MiB", many).note(note);
    bench.report.add(row.beside("one client that has read it", alone));
}
