//! What one event costs, by the number of routes: the index beside asking every route.
//!
//!     cargo bench --bench routes              up to a million routes
//!     cargo bench --bench routes -- --smoke   a hundred times fewer, to see that it runs
//!
//! Every row is measured in the same run as the linear evaluation beside it. These are times of
//! one machine on one day: compare the columns, not runs.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bson::{Bson, RawDocumentBuf, doc};
use sidestream::feed::routes::Index;
use sidestream::matcher::{Predicate, Template};

/// Long enough to be above the clock's grain and the machine's hiccups.
const LEAST_TIME: Duration = Duration::from_millis(300);

fn main() {
    let is_smoke = std::env::args().any(|argument| argument == "--smoke");
    let shrink = if is_smoke { 100 } else { 1 };
    println!(
        "one event of {} bytes against routes that want other values",
        order(0).as_bytes().len()
    );
    println!();
    println!(
        "{:<34} {:>9} {:>12} {:>12} {:>9} {:>10} {:>10}",
        "filter", "routes", "index", "linear", "ratio", "subscribe", "leave"
    );
    for routes in [1, 1_000, 100_000, 1_000_000] {
        row("customer = one of many", (routes / shrink).max(1), |number| {
            predicate(doc! { "customer": number as i64 })
        });
    }
    for routes in [1_000, 100_000] {
        row("customer in 50 of many", (routes / shrink).max(1), |number| {
            let values: Vec<Bson> =
                (0..50).map(|step| Bson::Int64((number * 50 + step) as i64)).collect();
            predicate(doc! { "customer": { "$in": values } })
        });
        row("total in a narrow range", (routes / shrink).max(1), |number| {
            let least = number as f64 * 10.0;
            predicate(doc! { "total": { "$gte": least, "$lt": least + 10.0 } })
        });
        row("everybody's", (routes / shrink).max(1), |_| predicate(doc! { "status": "paid" }));
    }
}

/// About the size of an order in a shop.
fn order(customer: i64) -> RawDocumentBuf {
    let line =
        |sku: i32| doc! { "sku": format!("article-{sku:05}"), "count": sku % 7, "price": 1.5 };
    let order = doc! {
        "_id": bson::oid::ObjectId::from_bytes([7; 12]),
        "status": "paid",
        "total": 12.5,
        "placed": bson::DateTime::from_millis(1_790_000_000_000),
        "address": { "street": "Long Street 12", "city": "Springfield", "zip": "12345" },
        "lines": (0..11).map(line).collect::<Vec<_>>(),
        "note": "ring twice, please; the bell is above the door",
        "customer": customer,
    };
    RawDocumentBuf::try_from(&order).expect("a document")
}

fn predicate(filter: bson::Document) -> Predicate {
    Template::parse(&filter).expect("a filter").bind(&mut |_| None)
}

fn row(name: &str, routes: usize, make: impl Fn(usize) -> Predicate) {
    let predicates: Vec<Predicate> = (0..routes).map(make).collect();
    let began = Instant::now();
    let mut index = Index::new();
    for (number, predicate) in predicates.iter().enumerate() {
        index.insert(number as u64, predicate);
    }
    let subscribe = began.elapsed() / routes as u32;

    let events: Vec<RawDocumentBuf> =
        (0..1_000).map(|step| order((step * 7_919 % routes) as i64)).collect();
    let mut found = Vec::new();
    let indexed = time(&events, |event| {
        found.clear();
        index.candidates(event, &mut found);
        found.iter().filter(|id| predicates[**id as usize].matches(event)).count()
    });
    let linear = time(&events, |event| {
        predicates.iter().filter(|predicate| predicate.matches(event)).count()
    });
    let count = |event| {
        let mut found = Vec::new();
        index.candidates(event, &mut found);
        found.iter().filter(|id| predicates[**id as usize].matches(event)).count()
    };
    for event in events.iter().step_by(250) {
        let all = predicates.iter().filter(|predicate| predicate.matches(event)).count();
        assert_eq!(count(event), all, "the index and the linear evaluation differ");
    }

    let leaving = routes.min(10_000);
    let began = Instant::now();
    for number in 0..leaving {
        index.remove(&(number as u64));
    }
    let leave = began.elapsed() / leaving as u32;
    println!(
        "{name:<34} {routes:>9} {:>12} {:>12} {:>8.1}x {:>10} {:>10}",
        show(indexed),
        show(linear),
        linear.as_secs_f64() / indexed.as_secs_f64(),
        show(subscribe),
        show(leave)
    );
}

/// The mean time of one event, over at least [`LEAST_TIME`].
fn time(events: &[RawDocumentBuf], mut work: impl FnMut(&RawDocumentBuf) -> usize) -> Duration {
    // Once around, so that caches are as they will be.
    black_box(work(&events[0]));
    let began = Instant::now();
    let mut count = 0;
    for event in events.iter().cycle() {
        black_box(work(event));
        count += 1;
        if count % 8 == 0 && began.elapsed() >= LEAST_TIME {
            break;
        }
    }
    began.elapsed() / count
}

fn show(time: Duration) -> String {
    match time.as_nanos() {
        nanos if nanos < 10_000 => format!("{nanos} ns"),
        nanos if nanos < 10_000_000 => format!("{:.1} µs", nanos as f64 / 1e3),
        nanos => format!("{:.1} ms", nanos as f64 / 1e6),
    }
}
