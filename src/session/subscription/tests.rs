//! What only the inside of a subscription shows.

use bson::{Timestamp, rawdoc};
use tokio::time::timeout;

use super::*;
use crate::event::ChangeEvent;
use crate::feed::journal::JournalLimits;
use crate::feed::{FeedKey, Status};
use crate::upstream::connect::Server;
use crate::upstream::snapshot::Bounds;

fn before(time: u32) -> Position {
    Position::before(Timestamp { time, increment: 1 })
}

/// What is kept of the journal: everything here.
const LIMITS: JournalLimits =
    JournalLimits { window: Duration::from_secs(3600), max_bytes: 1 << 20 };

fn shared() -> Arc<Shared> {
    let metrics = Arc::new(Metrics::default());
    let replayer = Replayer::new(Server::default(), LIMITS, 1, metrics.clone());
    let tasks = crate::tasks::Tasks::new(&metrics);
    let bounds = Bounds { documents: 1, bytes: 1, time: Duration::from_secs(1) };
    let snapshots = Snapshots::new(Server::default(), bounds, 1, metrics.clone(), tasks);
    Arc::new(Shared {
        replayer,
        snapshots,
        metrics,
        heartbeat: Duration::from_secs(60),
        ids: Ids::Token,
        listeners: Arc::default(),
        began: Instant::now(),
    })
}

/// Read from a time on, and not up to the present yet.
fn feed(filter: &Arc<Filter>, key: FeedKey, from: u32) -> Arc<Feed> {
    let feed = Arc::new(Feed::new(key, LIMITS, 16));
    feed.read_also(std::slice::from_ref(filter));
    feed.opened_at(&before(from));
    feed
}

fn append(feed: &Feed, time: u32) {
    let raw = rawdoc! {
        "_id": { "_data": format!("82{time:08X}000000012B022C0100296E04") },
        "operationType": "insert",
        "ns": { "db": "shop", "coll": "orders" },
        "documentKey": { "_id": i64::from(time) },
        "fullDocument": { "_id": i64::from(time) },
    };
    assert!(feed.append(feed.collections().0, ChangeEvent::parse(raw).unwrap()));
}

fn open(shared: &Arc<Shared>, feed: &Arc<Feed>, filter: &Arc<Filter>, from: From) -> Subscription {
    let bound = filter.bind(&[], None).unwrap();
    let listener = shared.listeners.add(0, None);
    let source = Arc::new(Source::new(shared.clone(), feed.clone()));
    Subscription::new(source, filter, bound, from, (listener, Listed::ALONE))
}

/// What it gives until it waits, or is retired: of events, their cluster times.
async fn frames(subscription: &mut Subscription) -> String {
    let mut told = Vec::new();
    // Time stands still while there is something to do.
    while let Ok(next) = timeout(Duration::from_secs(10), subscription.next(None)).await {
        told.push(match next {
            Some(FrameKind::Delivery(delivery)) => delivery.token.time().time.to_string(),
            Some(FrameKind::Ready(..)) => "ready".to_owned(),
            Some(FrameKind::Reset(reason, _)) => reason.name().to_owned(),
            Some(other) => format!("{other:?}"),
            None => {
                told.push("retired".to_owned());
                break;
            }
        });
    }
    told.join(" ")
}

// A client that is cut off between such an id and the reset would have lost what lies between.
#[tokio::test]
async fn nothing_comes_between_a_break_of_the_history_and_its_reset() {
    let filter = Arc::new(crate::filter::tests::good(""));
    let (shared, feed) = (shared(), feed(&filter, FeedKey::of(&filter), 10));
    feed.set_status(Status::Live);
    let mut subscription = open(&shared, &feed, &filter, From::Now);
    let mut timer = subscription.timer();
    assert!(matches!(subscription.next(Some(&mut timer)).await, Some(FrameKind::Ready(..))));

    feed.restart_at(&before(20));
    subscription.heartbeat();
    assert!(subscription.ready.is_empty());
    append(&feed, 0x21);
    assert!(subscription.next_ready().is_none());
    let next = subscription.next(Some(&mut timer)).await;
    assert!(matches!(next, Some(FrameKind::Reset(ResetReason::HistoryLost, Some(_)))), "{next:?}");
}

#[tokio::test(start_paused = true)]
async fn one_that_moves_has_each_event_once_and_says_nothing_of_it() {
    let filter = Arc::new(crate::filter::tests::good(""));
    let shared = shared();
    let (old, new) =
        (feed(&filter, FeedKey::of(&filter), 10), feed(&filter, FeedKey::alone(&filter), 10));
    old.set_status(Status::Live);
    let mut subscription = open(&shared, &old, &filter, From::Now);
    assert_eq!(frames(&mut subscription).await, "ready");
    for time in 11..14 {
        append(&old, time);
        append(&new, time);
    }
    assert_eq!(frames(&mut subscription).await, "11 12 13");
    old.retire(&filter);
    // What the old one reads now comes from the new one.
    append(&old, 14);
    assert_eq!(frames(&mut subscription).await, "retired");
    let source = Arc::new(Source::new(shared.clone(), new.clone()));
    subscription.move_to(source);
    assert!(subscription.reads(&new) && old.route_count() == 0);
    assert_eq!(frames(&mut subscription).await, "");
    append(&new, 14);
    new.set_status(Status::Live);
    append(&new, 15);
    assert_eq!(frames(&mut subscription).await, "14 15");
    subscription.count_sent();
    assert!(shared.metrics.text().contains("sidestream_events_sent_total{stream=\"orders\"} 1"));

    // To one that is behind: nothing again, though its journal ends before.
    let behind = feed(&filter, FeedKey::of(&filter), 5);
    subscription.move_to(Arc::new(Source::new(shared.clone(), behind.clone())));
    for time in 6..17 {
        append(&behind, time);
    }
    behind.set_status(Status::Live);
    assert_eq!(frames(&mut subscription).await, "16");
}

#[tokio::test(start_paused = true)]
async fn one_that_moves_while_it_waits_keeps_what_it_came_for() {
    let filter = Arc::new(crate::filter::tests::good(""));
    let shared = shared();
    let unread = Arc::new(Feed::new(FeedKey::of(&filter), LIMITS, 16));
    for (from, told) in [
        (From::Now, "started ready"),
        (From::Invalid, "invalid-token ready"),
        (From::Position(before(12)), "12 13 14 ready"),
        (From::Ago(1), "13 14 ready"),
        (From::FilterChanged { was_ready: true, beyond: None }, "filter-changed"),
    ] {
        let mut subscription = open(&shared, &unread, &filter, from.clone());
        assert_eq!(frames(&mut subscription).await, "");
        let new = feed(&filter, FeedKey::alone(&filter), 10);
        for time in 11..15 {
            append(&new, time);
        }
        // Before it is read up to the present, or behind that.
        let moves_late = matches!(from, From::Now | From::Ago(_));
        if moves_late {
            new.set_status(Status::Live);
        }
        subscription.move_to(Arc::new(Source::new(shared.clone(), new.clone())));
        new.set_status(Status::Live);
        assert_eq!(frames(&mut subscription).await, told, "{from:?}");
    }
}

// The new feed knows nothing of the gap.
#[tokio::test(start_paused = true)]
async fn one_that_moves_before_it_was_told_of_a_break_is_told_there() {
    let filter = Arc::new(crate::filter::tests::good(""));
    let shared = shared();
    let (old, new) =
        (feed(&filter, FeedKey::of(&filter), 10), feed(&filter, FeedKey::alone(&filter), 10));
    old.set_status(Status::Live);
    new.set_status(Status::Live);
    let mut subscription = open(&shared, &old, &filter, From::Now);
    assert_eq!(frames(&mut subscription).await, "ready");
    old.restart_at(&before(20));
    old.retire(&filter);
    subscription.move_to(Arc::new(Source::new(shared.clone(), new)));
    assert_eq!(frames(&mut subscription).await, "history-lost");
}

// As after a start with a long `replay.window`: what comes first is far behind.
#[tokio::test(start_paused = true)]
async fn an_id_is_not_judged_by_a_feed_that_reads_what_was_before_the_start() {
    let filter = Arc::new(crate::filter::tests::good(""));
    let shared = shared();
    let feed = feed(&filter, FeedKey::of(&filter), 1000);
    let recent = before(1000 + 3000);
    let mut subscription = open(&shared, &feed, &filter, From::Position(recent));
    assert_eq!(frames(&mut subscription).await, "");
    append(&feed, 1001);
    append(&feed, 4001);
    feed.set_status(Status::Live);
    assert_eq!(frames(&mut subscription).await, "4001 ready");
    // One of the future is, once that is known.
    let mut subscription = open(&shared, &feed, &filter, From::Position(before(9000)));
    assert_eq!(frames(&mut subscription).await, "invalid-token ready");
}

// On a sharded cluster, the place of an event cannot be said exactly in another form.
#[tokio::test(start_paused = true)]
async fn the_id_of_ready_names_no_document_that_was_not_shown() {
    let shared = shared();
    for (rest, shown) in [("project: { _id: 0 }", false), ("", true)] {
        let filter = Arc::new(crate::filter::tests::good(rest));
        let feed = feed(&filter, FeedKey::of(&filter), 10);
        feed.set_sharded(true);
        feed.set_status(Status::Live);
        append(&feed, 12);
        let mut subscription = open(&shared, &feed, &filter, From::Position(before(11)));
        assert!(matches!(subscription.next(None).await, Some(FrameKind::Delivery(_))));
        let ready = subscription.next(None).await;
        let Some(FrameKind::Ready(id, None)) = ready else { panic!("{ready:?}") };
        assert_eq!(id.names_document(), shown, "{id}");
        assert_eq!(id.time().time, 12);
        // What it has stays what it is.
        assert!(subscription.position().unwrap().names_document());
        append(&feed, 13);
        assert_eq!(frames(&mut subscription).await, "13");
    }
}

// A connection may have many of them, side by side.
#[test]
fn one_of_several_is_small() {
    assert!(size_of::<Option<Subscription>>() <= 88, "{}", size_of::<Option<Subscription>>());
}
