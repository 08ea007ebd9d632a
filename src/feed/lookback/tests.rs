use bson::{Timestamp, rawdoc};

use super::*;
use crate::event::Position;
use crate::feed::FeedKey;
use crate::feed::journal::JournalLimits;
use crate::feed::routes::Read;
use crate::filter::Filter;
use crate::filter::tests::good;

const KEEP: usize = 4;

struct Stage {
    feed: Arc<Feed>,
    filter: Arc<Filter>,
    generation: u64,
    appended: u32,
}

impl Stage {
    fn new(max_bytes: usize) -> Stage {
        let rest = "match: { room: { $param: room } }\nparams: { room: { type: int } }\n";
        let filter = Arc::new(good(rest));
        let limits = JournalLimits { window: Duration::from_secs(60), max_bytes };
        let feed = Arc::new(Feed::new(FeedKey::of(&filter), limits, KEEP));
        feed.read_also(std::slice::from_ref(&filter));
        let (generation, _) = feed.collections();
        feed.opened_at(&Position::before(Timestamp { time: 1, increment: 1 }));
        Stage { feed, filter, generation, appended: 0 }
    }

    /// The event's number is that of the document; the rooms take turns.
    fn append(&mut self, rooms: i32) {
        let number = self.appended;
        self.appended += 1;
        let raw = rawdoc! {
            "_id": { "_data": format!("82{:08X}000000012B022C0100296E04", number + 10) },
            "operationType": "insert",
            "ns": { "db": "shop", "coll": "orders" },
            "documentKey": { "_id": number.cast_signed() },
            "fullDocument": { "_id": number.cast_signed(), "room": number.cast_signed() % rooms },
        };
        assert!(self.feed.append(self.generation, ChangeEvent::parse(raw).unwrap()));
    }

    fn join(&self, room: i32) -> Arc<Route> {
        let bound = self.filter.bind(&[("room".to_string(), room.to_string())], None).unwrap();
        self.feed.join(&self.filter, bound).route
    }
}

/// The numbers from a cursor on, as a subscription reads them; `None` where they are gone.
async fn read(feed: &Arc<Feed>, route: &Arc<Route>, mut cursor: u64) -> Option<Vec<u64>> {
    let mut numbers = Vec::new();
    loop {
        let woken = route.wakers.woken();
        let found = match route.read(&mut cursor, 64) {
            Read::UpToDate => return Some(numbers),
            Read::Deliveries { found, .. } => found,
            Read::Behind => match feed.look_back(route, &mut cursor, 64) {
                Back::Deliveries(found) => found,
                Back::Gone => return None,
                Back::Asked => {
                    woken.await;
                    continue;
                }
            },
        };
        numbers.extend(found.iter().map(|delivery| delivery.number));
    }
}

fn expected(from: u64, to: u32, room: i32, rooms: i32) -> Vec<u64> {
    let is_theirs = |number: &u64| *number % u64::from(rooms.unsigned_abs()) == room as u64;
    (from..u64::from(to)).filter(is_theirs).collect()
}

#[tokio::test]
async fn everybody_gets_what_is_theirs_from_wherever_they_are() {
    let mut stage = Stage::new(64 << 20);
    for _ in 0..3_000 {
        stage.append(7);
    }
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..200_u64 {
        let room = (client % 7) as i32;
        let (feed, route) = (stage.feed.clone(), stage.join(room));
        clients.spawn(async move {
            // Some come while a pass for others is under way.
            for _ in 0..client {
                tokio::task::yield_now().await;
            }
            let from = client * 7919 % 3_000;
            (from, room, read(&feed, &route, from).await)
        });
    }
    while let Some(client) = clients.join_next().await {
        let (from, room, numbers) = client.unwrap();
        assert_eq!(numbers.unwrap(), expected(from, 3_000, room, 7), "from {from}, room {room}");
    }
}

// What is known is extended at both ends, and never claimed where nobody looked.
#[tokio::test]
async fn what_is_known_is_joined_to() {
    let mut stage = Stage::new(64 << 20);
    for _ in 0..1_000 {
        stage.append(3);
    }
    let (feed, route) = (stage.feed.clone(), stage.join(1));
    for from in [900, 500, 700, 100, 0] {
        let numbers = read(&feed, &route, from).await.unwrap();
        assert_eq!(numbers, expected(from, 1_000, 1, 3), "from {from}");
    }
    // More than the route keeps, so that the end has to be looked for, too.
    for _ in 0..100 {
        stage.append(3);
    }
    for from in [1_000, 950, 0] {
        let numbers = read(&feed, &route, from).await.unwrap();
        assert_eq!(numbers, expected(from, 1_100, 1, 3), "from {from}");
    }
}

#[tokio::test]
async fn what_the_journal_lost_is_gone_and_not_skipped() {
    let mut stage = Stage::new(20_000);
    for _ in 0..1_000 {
        stage.append(1);
    }
    let route = stage.join(0);
    let (first, _) = stage.feed.numbers();
    assert!(first > 500);
    assert_eq!(read(&stage.feed, &route, first - 1).await, None);
    assert_eq!(read(&stage.feed, &route, first).await.unwrap(), expected(first, 1_000, 0, 1));
    for _ in 0..500 {
        stage.append(1);
    }
    // Numbers are known of events that are not there any more.
    assert_eq!(read(&stage.feed, &route, first).await, None);
}

#[tokio::test]
async fn memory_is_bounded_however_much_is_asked_for() {
    let mut stage = Stage::new(64 << 10);
    // A broad filter and a small budget: many passes, of which each may note so much.
    let budget = stage.feed.lookback.budget;
    assert_eq!(budget, LEAST_BUDGET);
    for _ in 0..100 {
        stage.append(1);
    }
    let (first, end) = stage.feed.numbers();
    let entries = (end - first) as usize;
    let routes = 3 * budget / size_of::<Entry>() / entries;
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..routes {
        // All of them match everything, and none means the same as another.
        let filter = Arc::new(good(&format!("match: {{ absent{number}: null }}\n")));
        let (feed, bound) = (stage.feed.clone(), filter.bind(&[], None).unwrap());
        let route = feed.join(&filter, bound).route;
        clients.spawn(async move { read(&feed, &route, first).await });
    }
    let (mut most, feed) = (0, stage.feed.clone());
    while !clients.is_empty() {
        let pause = Duration::from_millis(1);
        if let Ok(Some(numbers)) = tokio::time::timeout(pause, clients.join_next()).await {
            assert_eq!(numbers.unwrap().unwrap(), (first..end).collect::<Vec<u64>>());
        }
        most = most.max(feed.lookback.state.lock().used);
    }
    // The last event that fitted may concern all of them.
    assert!(most <= budget + routes * size_of::<Entry>(), "{most} of {budget}");
    assert!(most > budget / 4, "{most} of {budget}");
}

#[tokio::test]
async fn who_waits_for_a_look_that_panics_is_let_go_and_reset() {
    let mut stage = Stage::new(1 << 20);
    for _ in 0..20 {
        stage.append(2);
    }
    let (feed, route) = (stage.feed.clone(), stage.join(1));
    let epoch = feed.epoch();
    let woken = route.wakers.woken();
    assert!(feed.lookback.ask(&route, 3));
    let task = Task { feed: feed.clone(), is_over: false };
    let bug = tokio::spawn(async move {
        let _task = task;
        panic!("a bug");
    });
    assert!(bug.await.is_err());
    tokio::time::timeout(Duration::from_secs(1), woken).await.expect("woken");
    assert!(!feed.is_looking_back(&route));
    assert_eq!(feed.epoch(), epoch + 1);
}
