//! What only the inside of a subscription shows.

use bson::{Timestamp, rawdoc};

use super::*;
use crate::event::ChangeEvent;
use crate::feed::journal::JournalLimits;
use crate::feed::{FeedKey, Status};
use crate::upstream::connect::Server;
use crate::upstream::snapshot::Bounds;

fn before(time: u32) -> Position {
    Position::before(Timestamp { time, increment: 1 })
}

// A client that is cut off between such an id and the reset would have lost what lies between.
#[tokio::test]
async fn nothing_comes_between_a_break_of_the_history_and_its_reset() {
    let filter = Arc::new(crate::filter::tests::good(""));
    let limits = JournalLimits { window: Duration::from_secs(60), max_bytes: 1 << 20 };
    let feed = Arc::new(Feed::new(FeedKey::of(&filter), limits, 16));
    feed.read_also(std::slice::from_ref(&filter));
    let (generation, _) = feed.collections();
    feed.opened_at(&before(10));
    feed.set_status(Status::Live);
    let metrics = Arc::new(Metrics::default());
    let replayer = Replayer::new(Server::default(), limits, 1, metrics.clone());
    let tasks = crate::tasks::Tasks::new(&metrics);
    let bounds = Bounds { documents: 1, bytes: 1, time: Duration::from_secs(1) };
    let snapshots = Snapshots::new(Server::default(), bounds, 1, metrics.clone(), tasks);
    let shared = Arc::new(Shared {
        replayer,
        snapshots,
        metrics,
        heartbeat: Duration::from_secs(60),
        ids: Ids::Token,
        listeners: Arc::default(),
        began: Instant::now(),
    });
    let bound = filter.bind(&[], None).unwrap();
    let listener = shared.listeners.add(0, None);
    let source = Arc::new(Source::new(shared, feed.clone()));
    let listener = (listener, Listed::ALONE);
    let mut subscription = Subscription::new(source, &filter, bound, From::Now, listener);
    let mut timer = subscription.timer();
    assert!(matches!(subscription.next(Some(&mut timer)).await, Some(FrameKind::Ready(..))));

    feed.restart_at(&before(20));
    subscription.heartbeat();
    assert!(subscription.ready.is_empty());
    let raw = rawdoc! {
        "_id": { "_data": "8200000021000000012B022C0100296E04" },
        "operationType": "insert",
        "ns": { "db": "shop", "coll": "orders" },
        "documentKey": { "_id": 1 },
        "fullDocument": { "_id": 1 },
    };
    assert!(feed.append(generation, ChangeEvent::parse(raw).unwrap()));
    assert!(subscription.next_ready().is_none());
    let next = subscription.next(Some(&mut timer)).await;
    assert!(matches!(next, Some(FrameKind::Reset(ResetReason::HistoryLost, Some(_)))), "{next:?}");
}

// A connection may have many of them, side by side.
#[test]
fn one_of_several_is_small() {
    assert!(size_of::<Option<Subscription>>() <= 88, "{}", size_of::<Option<Subscription>>());
}
