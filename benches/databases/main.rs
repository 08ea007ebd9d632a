//! A database for each tenant: how long an event takes with 4 of them, and with 40.
//!
//!     scripts/cargo bench --bench databases
//!     scripts/cargo bench --bench databases -- --events 50 --rounds 1    to see that it runs
//!
//! Each database has a filter, a change stream and a client. Events are written one at a time, with
//! a pause, into one database after the other; the time is from the acknowledgement of a majority to
//! the client. Rounds alternate, so that both numbers see the same machine. Prints, and never
//! fails because of a time. The `mongod` is the one in MONGOD, else what `scripts/fetch-mongod` finds or
//! fetches.

#[allow(dead_code)]
#[path = "../../tests/suite/support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use mongodb::Client;
use mongodb::bson::{Document, doc};
use mongodb::options::{Acknowledgment, CollectionOptions, WriteConcern};
use support::mongo::{Own, Setup};
use support::sidecar::{Filters, Program};
use support::sse::Stream;
use tokio::sync::mpsc;

/// Between two events, so that each is on its own.
const PAUSE: Duration = Duration::from_millis(20);
const FEW: usize = 4;
const MANY: usize = 40;

fn main() {
    let (events, rounds) = (argument("--events", 400), argument("--rounds", 3));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.expect("a runtime").block_on(run(events, rounds));
}

fn argument(name: &str, default: usize) -> usize {
    let mut arguments = std::env::args().skip_while(|argument| argument != name).skip(1);
    arguments.next().map_or(default, |value| value.parse().expect("a number"))
}

async fn run(events: usize, rounds: usize) {
    let own = Own::start(Setup { oplog_mib: 990, ..Setup::default() }).await;
    let client = own.client().await;
    let mut times: HashMap<usize, Vec<Duration>> = HashMap::new();
    for _ in 0..rounds {
        for databases in [FEW, MANY] {
            let round = round(&own, &client, databases, events).await;
            times.entry(databases).or_default().extend(round);
        }
    }
    println!(
        "from a majority's acknowledgement to the client, {events} events in each of {rounds} rounds:"
    );
    let mut p90 = HashMap::new();
    for databases in [FEW, MANY] {
        let times = times.get_mut(&databases).expect("measured");
        times.sort();
        let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1000.0;
        println!(
            "{databases:>3} databases: p50 {:>7.2} ms, p90 {:>7.2} ms, p99 {:>7.2} ms",
            at(50),
            at(90),
            at(99)
        );
        p90.insert(databases, at(90));
    }
    println!("p90 with {MANY} is {:.2} times that with {FEW}", p90[&MANY] / p90[&FEW]);
}

async fn round(own: &Own, client: &Client, databases: usize, events: usize) -> Vec<Duration> {
    let filters = Filters::new(&[]);
    for number in 0..databases {
        let text = format!("collection: tenant{number}.orders\naccess: public\n");
        filters.write(&format!("s{number}"), &text);
    }
    let (uri, path) = (own.uri(), filters.path().to_str().expect("a path"));
    let program = Program::start_ready(&["--mongodb", &uri, "--filters", path], &[]).await;
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    for number in 0..databases {
        let mut stream = Stream::open(program.listen, &format!("/_events/s{number}")).await;
        stream.settled().await;
        let arrived = arrived.clone();
        tokio::spawn(async move {
            while let Some(block) = stream.block().await {
                let is_event = block.data.is_some();
                if is_event && arrived.send((number, Instant::now())).is_err() {
                    return;
                }
            }
        });
    }
    let majority = WriteConcern::builder().w(Acknowledgment::Majority).build();
    let options = CollectionOptions::builder().write_concern(majority).build();
    let mut times = Vec::with_capacity(events);
    for event in 0..events {
        let number = event % databases;
        let orders = client
            .database(&format!("tenant{number}"))
            .collection_with_options::<Document>("orders", options.clone());
        orders.insert_one(doc! { "event": event as i64 }).await.expect("written");
        let written = Instant::now();
        let (of, at) = arrivals.recv().await.expect("an event");
        assert_eq!(of, number, "an event of another database");
        // It may be there before the acknowledgement is.
        times.push(at.saturating_duration_since(written));
        tokio::time::sleep(PAUSE).await;
    }
    times
}
