//! What one event costs, by the number of routes: the index beside asking every route.
//!
//!     scripts/cargo bench --bench routes              up to a million routes
//!     scripts/cargo bench --bench routes -- --smoke   a hundred times fewer, to see that it runs
//!     scripts/cargo bench --bench routes -- large     only what a large event costs others
//!     scripts/cargo bench --bench routes -- kept      only what a kept delivery takes
//!     scripts/cargo bench --bench routes -- own       only what clients with values of their own cost
//!
//! Every row is measured in the same run as the linear evaluation beside it. These are times of
//! one machine on one day: compare the columns, not runs.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bson::{Bson, RawDocumentBuf, doc};
use sidestream::event::seal::Ids;
use sidestream::event::{ChangeEvent, Position};
use sidestream::feed::journal::JournalLimits;
use sidestream::feed::routes::Index;
use sidestream::feed::{Feed, FeedKey};
use sidestream::filter::{Filter, parse_filter};
use sidestream::matcher::{Predicate, Template};

// As the product: what a delivery takes depends on it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Long enough to be above the clock's grain and the machine's hiccups.
const LEAST_TIME: Duration = Duration::from_millis(300);

fn main() {
    let is_smoke = std::env::args().any(|argument| argument == "--smoke");
    let shrink = if is_smoke { 100 } else { 1 };
    if std::env::args().any(|argument| argument == "large") {
        return large_event(16 << 20);
    }
    if std::env::args().any(|argument| argument == "kept") {
        return kept_deliveries(100_000);
    }
    if std::env::args().any(|argument| argument == "own") {
        return own_values(100_000 / shrink);
    }
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
    large_event(if is_smoke { 1 << 18 } else { 16 << 20 });
    kept_deliveries(100_000 / shrink);
    own_values(100_000 / shrink);
}

/// What routes of one filter cost, each with a value of its own, through all that a client comes by.
fn own_values(routes: usize) {
    let condition = |operator: &str| {
        format!(
            "match: {{ key: {{ {operator}: {{ $param: key }} }} }}\nparams: {{ key: {{ type: int }} }}\n"
        )
    };
    for (operator, wanted) in [("$eq", "one of them"), ("$gte", "all of them")] {
        let (feed, filter) = feed_of(&condition(operator), 16);
        let mut joined = Vec::with_capacity(routes);
        let began = Instant::now();
        for key in 0..routes {
            let bound = filter.bind(&[("key".to_owned(), key.to_string())], None).expect("bound");
            joined.push(feed.join(&filter, bound).route);
        }
        let join = began.elapsed() / routes as u32;
        let (generation, _) = feed.collections();
        let events = if operator == "$gte" { 10 } else { routes };
        // `$gte` is of those whose value is no larger.
        let key = |number: usize| if operator == "$gte" { routes - 1 } else { number % routes };
        let events: Vec<ChangeEvent> =
            (0..events).map(|number| keyed(number, key(number))).collect();
        let (count, began) = (events.len() as u32, Instant::now());
        for event in events {
            assert!(feed.append(generation, event), "it is taken");
        }
        let each = began.elapsed() / count;
        let began = Instant::now();
        for route in joined {
            feed.leave(&route);
        }
        let leave = began.elapsed() / routes as u32;
        println!();
        println!(
            "{routes} routes by `{operator}`: joining takes {}, leaving {}, and an event for {wanted} {}",
            show(join),
            show(leave),
            show(each)
        );
    }
}

/// An event of a document with a key.
fn keyed(number: usize, key: usize) -> ChangeEvent {
    let raw = doc! {
        "_id": { "_data": format!("8266F3AAAA{:08X}2B022C0100296E5A1004D3F0A1B2C3D4E5F60718293A4B5C6D7E46645F6964002B020004", number + 1) },
        "operationType": "insert",
        "fullDocument": { "_id": 1, "key": key as i32, "pad": "x".repeat(40) },
        "ns": { "db": "shop", "coll": "orders" },
        "documentKey": { "_id": 1 },
    };
    ChangeEvent::parse(RawDocumentBuf::try_from(&raw).expect("an event")).expect("an event")
}

/// A feed that keeps everything, with the one filter that it reads.
fn feed_of(rest: &str, keep: usize) -> (Feed, Arc<Filter>) {
    let text = format!("collection: shop.orders\naccess: public\n{rest}");
    let filter = parse_filter("orders", Path::new("orders.yaml"), &text).expect("a filter");
    let filter = Arc::new(filter);
    // A quarter of it is for deliveries.
    let limits = JournalLimits { window: Duration::from_secs(3600), max_bytes: 4 << 30 };
    let feed = Feed::new(FeedKey::of(&filter), limits, keep);
    feed.read_also(std::slice::from_ref(&filter));
    feed.opened_at(&Position::before(bson::Timestamp { time: 1, increment: 1 }));
    (feed, filter)
}

/// What a delivery takes that a route keeps, with the id that its clients are sent: the difference
/// between two feeds that have read the same, of which one has a client.
fn kept_deliveries(events: usize) {
    let read = |feed: &Feed| {
        let (generation, _) = feed.collections();
        let before = resident();
        for number in 0..events {
            let raw = doc! {
                "_id": { "_data": format!("8266F3AAAA{:08X}2B022C0100296E5A1004D3F0A1B2C3D4E5F60718293A4B5C6D7E46645F6964006466F3AAAA0123456789ABCDEF0004", number + 1) },
                "operationType": "insert",
                "clusterTime": bson::Timestamp { time: 0x66F3_AAAA, increment: number as u32 + 1 },
                "wallTime": bson::DateTime::from_millis(1_790_000_000_123),
                "fullDocument": { "_id": bson::oid::ObjectId::from_bytes([7; 12]), "seq": number as i64, "pad": "x".repeat(40) },
                "ns": { "db": "shop", "coll": "orders" },
                "documentKey": { "_id": bson::oid::ObjectId::from_bytes([7; 12]) },
            };
            let raw = RawDocumentBuf::try_from(&raw).expect("an event");
            let event = ChangeEvent::parse(raw).expect("an event");
            assert!(feed.append(generation, event), "it is taken");
        }
        for delivery in feed.latest("orders", 0, events) {
            black_box(delivery.shown_id(&Ids::Token));
        }
        resident().saturating_sub(before)
    };
    let (quiet, _) = feed_of("", events);
    let journal = read(&quiet);
    let (busy, filter) = feed_of("", events);
    let _joined = busy.join(&filter, filter.bind(&[], None).expect("bound"));
    let both = read(&busy);
    let kept = busy.latest("orders", 0, events);
    assert_eq!(kept.len(), events, "all are kept");
    let json: usize = kept.iter().map(|delivery| delivery.json.len()).sum();
    let each = |bytes: usize| bytes as f64 / events as f64;
    println!();
    println!(
        "a kept delivery takes {:.0} bytes, with {:.0} of JSON ({:.2} of it); its event in the journal {:.0}",
        each(both.saturating_sub(journal)),
        each(json),
        both.saturating_sub(journal) as f64 / json as f64,
        each(journal)
    );
}

/// Of this process, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("its memory");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("a number") * 4096
}

/// How long others wait for the feed while a large event is taken in. As long as the whole of it,
/// were it judged and encoded in between.
fn large_event(bytes: usize) {
    let (feed, filter) = feed_of("project: { secret: 0 }\n", 16);
    let bind = || filter.bind(&[], None).expect("bound");
    let _stays = feed.join(&filter, bind());
    let line = doc! { "sku": "article-00001", "count": 3, "price": 1.5, "note": "n".repeat(900) };
    let lines = vec![line; bytes / 1000];
    let document = doc! { "_id": 1, "secret": 1, "lines": lines };
    let raw = doc! {
        "_id": { "_data": "8266F3AAAA000000012B022C0100296E5A1004D3F0A1B2C3D4E5F60718293A4B5C6D7E46645F6964002B020004" },
        "operationType": "insert",
        "ns": { "db": "shop", "coll": "orders" },
        "documentKey": { "_id": 1 },
        "fullDocument": document,
    };
    let raw = RawDocumentBuf::try_from(&raw).expect("an event");
    let size = raw.as_bytes().len();
    let event = ChangeEvent::parse(raw).expect("an event");
    let is_over = AtomicBool::new(false);
    let (took, longest) = std::thread::scope(|scope| {
        let joining = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            while !is_over.load(Ordering::Relaxed) {
                let began = Instant::now();
                let joined = feed.join(&filter, bind());
                longest = longest.max(began.elapsed());
                feed.leave(&joined.route);
            }
            longest
        });
        std::thread::sleep(Duration::from_millis(20));
        let (generation, _) = feed.collections();
        let began = Instant::now();
        assert!(feed.append(generation, event), "it is taken");
        let took = began.elapsed();
        is_over.store(true, Ordering::Relaxed);
        (took, joining.join().expect("it joins"))
    });
    println!();
    println!(
        "an event of {size} bytes: taken in after {took:.1?}; a join meanwhile took {longest:.1?} at most"
    );
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
        index.insert(number as u32, predicate);
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
        index.remove(number as u32);
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
