//! What the feed promises to those who read while it is written.

use std::time::Duration;

use bson::{Timestamp, rawdoc};

use super::*;
use crate::filter::tests::good;

/// The operation of this index within one transaction.
fn operation(index: u8) -> ChangeEvent {
    let token = format!("8266F3AAAA000000012B042C01002B{index:02X}6E5A1004D3F046645F0004");
    let raw = rawdoc! {
        "_id": { "_data": token },
        "operationType": "insert",
        "ns": { "db": "shop", "coll": "orders" },
        "documentKey": { "_id": 1 },
        "fullDocument": { "_id": 1 },
    };
    ChangeEvent::parse(raw).unwrap()
}

// A file that is changed, and changed back while somebody has not taken notice yet.
#[test]
fn nobody_joins_a_route_that_was_retired() {
    let (old, new) = (Arc::new(good("")), Arc::new(good("")));
    let limits = JournalLimits { window: Duration::from_secs(60), max_bytes: 1 << 20 };
    let feed = Feed::new(FeedKey::of(&old), limits, 16);
    let join = |filter: &Arc<Filter>| feed.join(filter, filter.bind(&[], None).unwrap()).route;
    let slow = join(&old);
    feed.retire(&old);
    let first = join(&new);
    assert!(slow.is_retired() && !first.is_retired());
    feed.leave(&slow);
    assert!(Arc::ptr_eq(&first, &join(&new)));
    assert_eq!(feed.route_count(), 1);
}

#[test]
fn nobody_is_told_a_position_behind_what_is_not_handed_out() {
    let filter = Arc::new(good(""));
    let limits = JournalLimits { window: Duration::from_secs(60), max_bytes: 1 << 20 };
    let feed = Feed::new(FeedKey::of(&filter), limits, 16);
    feed.read_also(std::slice::from_ref(&filter));
    let (generation, _) = feed.collections();
    feed.opened_at(&Position::before(Timestamp { time: 1, increment: 1 }));
    let join = || feed.join(&filter, filter.bind(&[], None).unwrap()).route;
    let route = join();
    assert!(feed.append(generation, operation(2)));
    let told = |cursor| feed.position_without_document(&route, cursor);
    let (before, 1) = told(1).unwrap() else { panic!("one event") };

    let offered = feed.take_in(generation, [operation(4), operation(6)]).unwrap();
    assert_eq!(feed.now(), Some((operation(6).token().clone(), 3)));
    assert_eq!(told(1), Some((before, 1)));
    // One that comes now begins behind them, and is told so when that is sure.
    let newcomer = join();
    assert_eq!(feed.position_without_document(&newcomer, 3), None);
    offered.hand_out();
    assert_eq!(told(1), None);
    assert!(
        matches!(route.read(&mut 1, 9), routes::Read::Deliveries { found, .. } if found.len() == 2)
    );
    let (after, 3) = told(3).unwrap() else { panic!("three events") };
    assert!(after > *operation(6).token());
    assert_eq!(feed.position_without_document(&newcomer, 3), Some((after, 3)));

    // Should anything go wrong in between, everybody is told.
    let epoch = feed.epoch();
    drop(feed.take_in(generation, [operation(8)]));
    assert_eq!(feed.epoch(), epoch + 1);
    assert_eq!(feed.locate(operation(6).token()), Some(Located::Gone));
    assert!(feed.append(generation, operation(10)));
    let (_, 5) = told(5).unwrap() else { panic!("five events") };
}

// A cursor that resumes behind the first event, on a server whose majority lags, finds nothing
// at first and says only that it is still there.
#[test]
fn a_position_within_a_transaction_skips_nothing_of_the_rest() {
    let filter = Arc::new(good(""));
    let limits = JournalLimits { window: Duration::from_secs(60), max_bytes: 1 << 20 };
    let feed = Feed::new(FeedKey::of(&filter), limits, 16);
    feed.read_also(std::slice::from_ref(&filter));
    let (generation, _) = feed.collections();
    feed.opened_at(&Position::before(Timestamp { time: 1, increment: 1 }));
    let route = feed.join(&filter, filter.bind(&[], None).unwrap()).route;

    assert!(feed.append(generation, operation(2)));
    assert!(feed.advance(generation, operation(2).token().clone()));
    let (told, next) = feed.position_without_document(&route, 1).unwrap();
    assert_eq!(next, 1);
    assert!(!told.names_document());
    assert!(*operation(2).token() < told && told < *operation(4).token());
    assert!(feed.append(generation, operation(4)));
    assert_eq!(feed.locate(&told), Some(Located::At(1)));
    // Read once more, they change nothing.
    for again in [2, 3, 4] {
        assert!(feed.append(generation, operation(again)));
        assert_eq!(feed.now(), Some((operation(4).token().clone(), 2)));
    }

    feed.set_sharded(true);
    let (told, _) = feed.position_without_document(&route, 2).unwrap();
    assert_eq!(told, Position::before(Timestamp { time: 0x66F3_AAAA, increment: 1 }));
}
