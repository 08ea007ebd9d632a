//! A snapshot, and the stream behind it: joined at a moment that MongoDB chose, while others write.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::TryStreamExt;
use mongodb::bson::{Bson, Document, RawDocumentBuf, Timestamp, doc};
use mongodb::options::Collation;
use mongodb::{Client, Collection};
use sidestream::event::Position;
use sidestream::feed::journal::JournalLimits;
use sidestream::feed::routes::Route;
use sidestream::feed::{Feed, FeedKey};
use sidestream::filter::parse_filter;
use sidestream::matcher::{Predicate, Template};
use sidestream::metrics::Metrics;
use sidestream::tasks::Tasks;
use sidestream::upstream::connect::Server;
use sidestream::upstream::snapshot::{
    self, Asker, Bounds, Given, Reading, Refused, SnapshotAnswer, SnapshotError, SnapshotQuery,
    Snapshots, Taken,
};

use super::{client, collection, filter};
use crate::generate::Generator;
use crate::support::sidecar::{self, Filters};
use crate::support::sse::Stream;
use crate::support::{mongo, unique};

const BOUNDS: Bounds = Bounds { documents: 10_000, bytes: 16 << 20, time: Duration::from_secs(10) };
/// Documents that are counted up one by one, and two that are counted up together.
const COUNTED: i64 = 8;
const PAIR: [i64; 2] = [100, 101];
/// How many others each writer has at a time.
const OTHERS: std::ops::Range<usize> = 4..20;
/// In so many rounds, or all if there are fewer, a place is tried that is wrong on purpose.
const WRONG_ROUNDS: usize = 40;

/// Counts up, inserts and deletes until told to stop; every change of a document adds one to its `n`.
async fn write(orders: Collection<Document>, client: Client, seed: u64, stop: Arc<AtomicBool>) {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut next, mut here) = (1_000_000 * (seed as i64 + 1), Vec::new());
    let up = doc! { "$inc": { "n": 1_i64 } };
    while !stop.load(Ordering::Relaxed) {
        match random.u32(0..10) {
            0..5 => {
                let id = random.i64(0..COUNTED);
                orders.update_one(doc! { "_id": id }, up.clone()).await.unwrap();
            }
            5..7 if here.len() < OTHERS.end => {
                orders.insert_one(doc! { "_id": next, "n": 0_i64 }).await.unwrap();
                here.push(next);
                next += 1;
            }
            5..8 if here.len() >= OTHERS.start => {
                let id = here.swap_remove(random.usize(..here.len()));
                orders.delete_one(doc! { "_id": id }).await.unwrap();
            }
            _ => {
                let mut session = client.start_session().await.unwrap();
                session.start_transaction().await.unwrap();
                let mut is_done = true;
                for id in PAIR {
                    let updating = orders.update_one(doc! { "_id": id }, up.clone());
                    is_done &= updating.session(&mut session).await.is_ok();
                }
                // The others write to the same two: whoever meets them begins again.
                let _ = match is_done {
                    true => session.commit_transaction().await,
                    false => session.abort_transaction().await,
                };
            }
        }
    }
}

/// `EVENTS_ROUNDS`: see docs/guarantees.md.
fn rounds() -> usize {
    let rounds = std::env::var("EVENTS_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    rounds.unwrap_or(WRONG_ROUNDS)
}

fn predicate(text: &str) -> Predicate {
    let filter = parse_filter("orders", std::path::Path::new("orders.yaml"), text).unwrap();
    filter.bind(&[], None).unwrap().predicate
}

/// Takes in what comes, and says what does not go together with what was shown.
async fn follow(mut stream: Stream, mut shown: BTreeMap<i64, i64>) -> Result<(), String> {
    for event in stream.events(20).await {
        let json = event.json();
        let key = json["documentKey"]["_id"].as_i64().unwrap();
        let n = json["fullDocument"]["n"].as_i64();
        let fits = match event.name() {
            "insert" => !shown.contains_key(&key),
            "update" => shown.get(&key).map(|n| n + 1) == n,
            "delete" => shown.contains_key(&key),
            _ => false,
        };
        if !fits {
            return Err(format!("{event:?}, shown {:?}", shown.get(&key)));
        }
        match n {
            Some(n) => drop(shown.insert(key, n)),
            None => drop(shown.remove(&key)),
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_stream_behind_a_snapshot_misses_nothing_and_repeats_nothing() {
    let rounds = rounds();
    let database = unique("join");
    let text = filter(&format!("{database}.orders"), "fullDocument: required\n");
    let filters = Filters::new(&[("orders", &text)]);
    let client = client().await;
    let orders = collection(&client, &database, "orders").await;
    for id in (0..COUNTED).chain(PAIR) {
        orders.insert_one(doc! { "_id": id, "n": 0_i64 }).await.unwrap();
    }
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|seed| tokio::spawn(write(orders.clone(), client.clone(), seed, stop.clone())))
        .collect();
    let everything = predicate(&text);
    let (mut tried, mut repeated, mut missed) = (0, 0, 0);
    for round in 0..rounds {
        let taken = snapshot::read(&client, wanted(&database, &everything), BOUNDS).await.unwrap();
        let shown: BTreeMap<i64, i64> = taken
            .documents
            .iter()
            .map(|document| (document.get_i64("_id").unwrap(), document.get_i64("n").unwrap()))
            .collect();
        assert_eq!(shown[&PAIR[0]], shown[&PAIR[1]], "a transaction is in it as a whole, or not");
        let follow = async |position: &Position| {
            let id = position.to_string();
            let stream = Stream::resume(sidecar.listen, "/_events/orders", &id).await;
            follow(stream, shown.clone()).await.map_err(|wrong| format!("behind {id}: {wrong}"))
        };
        if let Err(wrong) = follow(&taken.position).await {
            panic!("round {round}, {wrong}");
        }
        if !round.is_multiple_of((rounds / WRONG_ROUNDS).max(1)) {
            continue;
        }
        // One moment off, either way: to see that it would be noticed.
        tried += 1;
        let Timestamp { time, increment } = taken.position.time();
        let other = |increment| Position::before(Timestamp { time, increment });
        repeated += usize::from(follow(&other(increment - 1)).await.is_err());
        missed += usize::from(follow(&other(increment + 1)).await.is_err());
    }
    println!("{rounds} rounds; off by one: {repeated} of {tried} too early, {missed} too late");
    assert!(repeated > 0 && missed > 0);
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    sidecar.finish().await;
}

fn wanted<'a>(database: &'a str, predicate: &'a Predicate) -> SnapshotQuery<'a> {
    SnapshotQuery { database, collection: "orders", predicate, projection: None }
}

// The same as its clients have it: what was there, and every change behind it.
#[tokio::test]
async fn a_stream_with_a_snapshot_misses_nothing_and_repeats_nothing() {
    let rounds = rounds();
    let database = unique("begun");
    let more = "fullDocument: required\nsnapshot: true\nmatch: { _id: { $gte: 0 } }\n\
                params: { round: { type: int, required: false } }\n";
    let more = more.replace("$gte: 0", "$gte: 0, $ne: { $param: round }");
    let filters = Filters::new(&[("orders", &filter(&format!("{database}.orders"), &more))]);
    let client = client().await;
    let orders = collection(&client, &database, "orders").await;
    for id in (0..COUNTED).chain(PAIR) {
        orders.insert_one(doc! { "_id": id, "n": 0_i64 }).await.unwrap();
    }
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|seed| tokio::spawn(write(orders.clone(), client.clone(), seed, stop.clone())))
        .collect();
    for round in 0..rounds {
        // Every second one shares what the one before it got; the others have a query of their own.
        let target = format!("/_events/orders?round={}", -1 - (round as i64) / 2);
        let mut stream = Stream::open(sidecar.listen, &target).await;
        let before = stream.until_ready().await;
        let shown: BTreeMap<i64, i64> = before[1..]
            .iter()
            .map(|document| {
                let json = document.json();
                assert!(document.id.is_none() && json["operationType"] == "snapshot", "{json}");
                let id = json["documentKey"]["_id"].as_i64().unwrap();
                (id, json["fullDocument"]["n"].as_i64().unwrap())
            })
            .collect();
        assert_eq!(shown[&PAIR[0]], shown[&PAIR[1]], "a transaction is in it as a whole, or not");
        if let Err(wrong) = follow(stream, shown).await {
            panic!("round {round}: {wrong}");
        }
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    sidecar.finish().await;
}

#[tokio::test]
async fn a_snapshot_has_bounds() {
    let database = unique("bounds");
    let client = client().await;
    let orders = collection(&client, &database, "orders").await;
    let text = |more: &str| filter(&format!("{database}.orders"), more);
    let large = predicate(&text("match: { n: { $lt: 10 } }\n"));
    for n in 0..20_i64 {
        orders.insert_one(doc! { "_id": n, "n": n, "pad": "x".repeat(1_000) }).await.unwrap();
    }
    let all = wanted(&database, &large);
    let read = async |bounds: Bounds| snapshot::read(&client, all, bounds).await;
    // What does not match takes nothing of them.
    let taken = read(Bounds { documents: 10, bytes: 11_000, ..BOUNDS }).await.unwrap();
    assert_eq!(taken.documents.len(), 10);
    let first = taken.position;
    for (bounds, setting) in [
        (Bounds { documents: 9, ..BOUNDS }, "snapshot.max_documents"),
        (Bounds { bytes: 9_000, ..BOUNDS }, "snapshot.max_bytes"),
    ] {
        match read(bounds).await {
            Err(SnapshotError::TooLarge(what)) => assert_eq!(what, setting),
            other => panic!("{setting}: {other:?}"),
        }
    }
    // A collection that is not there has no documents, and a moment all the same.
    let missing = SnapshotQuery { collection: "missing", ..all };
    let taken = snapshot::read(&client, missing, BOUNDS).await.unwrap();
    assert!(taken.documents.is_empty() && taken.position >= first, "{:?}", taken.position);
}

// `find` is asked for a part of the conditions; the documents are those of all of them.
#[tokio::test]
async fn what_find_is_asked_for_is_never_too_little() {
    let database = unique("asked");
    let client = client().await;
    let documents = client.database(&database).collection::<Document>("documents");
    let seed = std::env::var("EVENTS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("EVENTS_SEED={seed}");
    let mut generator = Generator::new(seed);
    let stored: Vec<Document> = (0..200).map(|_| generator.document()).collect();
    let numbered = stored.iter().enumerate().map(|(number, document)| {
        let mut whole = doc! { "_id": number as i64 };
        whole.extend(document.clone());
        whole
    });
    let numbered: Vec<Document> = numbered.collect();
    documents.insert_many(&numbered).await.unwrap();
    let ids = |found: &[RawDocumentBuf]| -> Vec<Bson> {
        let id = |document: &RawDocumentBuf| Bson::try_from(document.get("_id").unwrap().unwrap());
        found.iter().map(|document| id(document).unwrap()).collect()
    };
    let (mut asked, mut narrowed) = (0, 0);
    for _ in 0..300 {
        let filter = generator.filter();
        let Ok(template) = Template::parse(&filter) else { continue };
        let predicate = template.bind(&mut |_| None);
        let simple = Collation::builder().locale("simple").build();
        let query = predicate.query();
        let finding = documents.clone_with_type::<RawDocumentBuf>();
        let finding = finding.find(query.clone()).sort(doc! { "_id": 1 }).collation(simple);
        let found: Vec<RawDocumentBuf> = match finding.await {
            Ok(found) => found.try_collect().await.unwrap(),
            Err(error) => panic!("seed {seed}: {query}, of {filter}: {error}"),
        };
        let wanted: Vec<RawDocumentBuf> = numbered
            .iter()
            .map(|document| RawDocumentBuf::try_from(document).unwrap())
            .filter(|document| predicate.matches(document))
            .collect();
        let matching: Vec<RawDocumentBuf> =
            found.iter().filter(|document| predicate.matches(document)).cloned().collect();
        assert_eq!(ids(&matching), ids(&wanted), "seed {seed}: {query}, of {filter}");
        asked += 1;
        narrowed += usize::from(found.len() < numbered.len());
    }
    println!("{narrowed} of {asked} queries leave something out");
    assert!(narrowed * 3 > asked, "seed {seed}: {narrowed} of {asked}");
}

#[tokio::test]
async fn clients_of_a_route_share_a_snapshot() {
    let database = unique("shared");
    let client = client().await;
    let orders = collection(&client, &database, "orders").await;
    let more = "match: { n: { $lt: 10 } }\nproject: { n: 1 }\nsnapshot: true\n\
                fullDocumentBeforeChange: required\n";
    let text = filter(&format!("{database}.orders"), more);
    let orders_filter = parse_filter("orders", std::path::Path::new("orders.yaml"), &text).unwrap();
    let orders_filter = Arc::new(orders_filter);
    for n in 0..3_i64 {
        orders.insert_one(doc! { "_id": n, "n": n, "secret": "s" }).await.unwrap();
    }
    let filters = Filters::new(&[]);
    let config = sidecar::settings(&mongo::uri(), filters.path(), sidecar::nowhere(), &[]);
    let server = Server::default();
    server.connect(&config.mongodb.uri, 10).await.unwrap();
    let limits = JournalLimits { window: Duration::from_secs(60), max_bytes: 1 << 20 };
    let feed = Arc::new(Feed::new(FeedKey::of(&orders_filter), limits, 16));
    feed.opened_at(&Position::before(Timestamp { time: 1, increment: 1 }));
    let route = feed.join(&orders_filter, orders_filter.bind(&[], None).unwrap()).route;

    let metrics = Arc::new(Metrics::default());
    let tasks = Tasks::new(&metrics);
    let made = |bounds| Snapshots::new(server.clone(), bounds, 2, metrics.clone(), tasks.clone());
    let snapshots = made(BOUNDS);
    let get = async |snapshots: &Snapshots| get(snapshots, &feed, &route).await;
    let (one, other) = tokio::join!(get(&snapshots), get(&snapshots));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert!(Arc::ptr_eq(&one, &other), "one query for both");
    let shown = documents(&one).await;
    let expected = |n: i64| {
        format!(
            r#"{{"operationType":"snapshot","ns":{{"db":"{database}","coll":"orders"}},"documentKey":{{"_id":{n}}},"fullDocument":{{"_id":{n},"n":{n}}}}}"#
        )
    };
    assert_eq!(shown, [expected(0), expected(1), expected(2)]);

    // Who comes later gets the same, and what came since from memory, as long as it is there.
    orders.insert_one(doc! { "_id": 3_i64, "n": 3_i64 }).await.unwrap();
    drop((one, other));
    let again = get(&snapshots).await.unwrap();
    assert_eq!(documents(&again).await.len(), 3);
    let Timestamp { time, .. } = again.position().time();
    feed.restart_at(&Position::before(Timestamp { time: time + 1, increment: 1 }));
    let anew = get(&snapshots).await.unwrap();
    assert_eq!(documents(&anew).await.len(), 4);

    // What is too large is not asked for again at once.
    let small = made(Bounds { documents: 2, ..BOUNDS });
    for _ in 0..2 {
        assert_eq!(get(&small).await.unwrap_err(), Refused::TooLarge);
        orders.delete_many(doc! { "_id": { "$gt": 0_i64 } }).await.unwrap();
    }
    tasks.stop();
    tasks.finished().await;
    server.close().await;
}

/// What a client is given of it, to its end.
async fn documents(taken: &Arc<Taken>) -> Vec<String> {
    let (mut reading, mut documents) = (Reading::new(taken), Vec::new());
    loop {
        match reading.next(2, usize::MAX) {
            Given::Documents(found) => {
                documents
                    .extend(found.iter().map(|json| String::from_utf8(json.to_vec()).unwrap()));
            }
            Given::NotYet => tokio::task::yield_now().await,
            Given::Complete => return documents,
            other => panic!("{other:?}"),
        }
    }
}

async fn get(
    snapshots: &Snapshots,
    feed: &Arc<Feed>,
    route: &Arc<Route>,
) -> Result<Arc<Taken>, Refused> {
    let mut has_waited = false;
    loop {
        match snapshots.ask(feed, route, None, has_waited, || Asker(0)) {
            SnapshotAnswer::Taken(taken, _) => return Ok(taken),
            SnapshotAnswer::Refused(refused) => return Err(refused),
            SnapshotAnswer::Asked(mut asked) => asked.changed().await,
        }
        has_waited = true;
    }
}
