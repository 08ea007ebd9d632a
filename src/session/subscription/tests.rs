//! What only the inside of a subscription shows.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

use bson::{Timestamp, rawdoc};
use parking_lot::Mutex;
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

/// What all subscriptions share, of no server.
pub(crate) fn shared() -> Arc<Shared> {
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

/// One that nothing has been read of.
pub(crate) fn unread(filter: &Arc<Filter>) -> Feed {
    Feed::new(FeedKey::of(filter), LIMITS, 16)
}

/// Read from a time on, and not up to the present yet.
pub(crate) fn feed(filter: &Arc<Filter>, key: FeedKey, from: u32) -> Arc<Feed> {
    let feed = Arc::new(Feed::new(key, LIMITS, 16));
    feed.read_also(std::slice::from_ref(filter));
    feed.opened_at(&before(from));
    feed
}

/// An insert into `orders`, at this cluster time.
pub(crate) fn append(feed: &Feed, time: u32) {
    let raw = rawdoc! {
        "_id": { "_data": format!("82{time:08X}000000012B022C0100296E04") },
        "operationType": "insert",
        "ns": { "db": "shop", "coll": "orders" },
        "documentKey": { "_id": i64::from(time) },
        "fullDocument": { "_id": i64::from(time) },
    };
    assert!(feed.append(feed.collections().0, ChangeEvent::parse(raw).unwrap()));
}

/// A stream without values, of a connection of its own.
pub(crate) fn open(
    shared: &Arc<Shared>,
    feed: &Arc<Feed>,
    filter: &Arc<Filter>,
    from: From,
) -> Subscription {
    let bound = filter.bind(&[], None).unwrap();
    let listener = shared.listeners.add(0, None);
    let source = Arc::new(Source::new(shared.clone(), feed.clone()));
    Subscription::new(source, filter, bound, from, (listener, Listed::ALONE))
}

/// What it gives until it waits, or is retired: of events, their cluster times.
pub(crate) async fn frames(subscription: &mut Subscription) -> String {
    let mut told = Vec::new();
    // Time stands still while there is something to do.
    while let Ok(next) = timeout(Duration::from_secs(10), subscription.next(None, None)).await {
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
    assert!(matches!(subscription.next(Some(&mut timer), None).await, Some(FrameKind::Ready(..))));

    feed.restart_at(&before(20));
    subscription.heartbeat();
    assert!(subscription.ready.is_empty());
    append(&feed, 0x21);
    assert!(subscription.next_ready().is_none());
    let next = subscription.next(Some(&mut timer), None).await;
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
        assert!(matches!(subscription.next(None, None).await, Some(FrameKind::Delivery(_))));
        let ready = subscription.next(None, None).await;
        let Some(FrameKind::Ready(id, None)) = ready else { panic!("{ready:?}") };
        assert_eq!(id.names_document(), shown, "{id}");
        assert_eq!(id.time().time, 12);
        // What it has stays what it is.
        assert!(subscription.position().unwrap().names_document());
        append(&feed, 13);
        assert_eq!(frames(&mut subscription).await, "13");
    }
}

/// An outlet that does nothing: what it was given is looked at here.
#[derive(Default)]
struct Outside {
    waiting: Mutex<Option<(Follower, Waker)>>,
    is_full: AtomicBool,
}

impl Outlet for Outside {
    fn follow(self: Arc<Self>, mut follower: Follower, task: &Waker) -> Result<(), Follower> {
        let woken = follower.poll_woken(&mut Context::from_waker(task));
        if woken.is_ready() || self.is_full.load(Ordering::Relaxed) {
            return Err(follower);
        }
        *self.waiting.lock() = Some((follower, task.clone()));
        Ok(())
    }

    fn stop(&self) -> Option<Follower> {
        self.waiting.lock().take().map(|(follower, _)| follower)
    }

    fn is_behind(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }
}

impl Outside {
    /// What its follower gives until it waits, of events their cluster times; or that its task has to see.
    fn frames(&self, unread: &mut Unread) -> String {
        let mut waiting = self.waiting.lock();
        let Some((follower, task)) = &mut *waiting else { return "awake".to_owned() };
        let mut told = Vec::new();
        loop {
            match follower.look(unread, 1000) {
                Look::Events => {
                    let times = unread.events().iter().map(|it| it.token.time().time.to_string());
                    told.extend(times);
                }
                Look::Nothing if follower.poll_woken(&mut Context::from_waker(task)).is_ready() => {
                }
                Look::Nothing => return told.join(" "),
                Look::Other => {
                    follower.leave_to_task();
                    told.push("task".to_owned());
                    return told.join(" ");
                }
            }
        }
    }
}

/// What is next, if there is anything; else it waits, until this is dropped.
async fn next(subscription: &mut Subscription, outlet: &Arc<dyn Outlet>) -> Option<String> {
    let next = subscription.next(None, Some(outlet));
    match timeout(Duration::ZERO, next).await.ok()? {
        Some(FrameKind::Delivery(delivery)) => Some(delivery.token.time().time.to_string()),
        other => Some(format!("{other:?}")),
    }
}

#[tokio::test(start_paused = true)]
async fn what_follows_for_a_task_gives_what_comes_meanwhile_and_nothing_twice() {
    let filter = Arc::new(crate::filter::tests::good(""));
    let (shared, feed) = (shared(), feed(&filter, FeedKey::of(&filter), 10));
    feed.set_status(Status::Live);
    let outside = Arc::new(Outside::default());
    let outlet: Arc<dyn Outlet> = outside.clone();
    let mut subscription = open(&shared, &feed, &filter, From::Now);
    assert_eq!(frames(&mut subscription).await, "ready");

    for round in 0..3 {
        let at = 20 + 10 * round;
        {
            let mut wait = pin!(subscription.next(None, Some(&outlet)));
            assert!(timeout(Duration::from_millis(1), wait.as_mut()).await.is_err());
            for time in at..at + 3 {
                append(&feed, time);
            }
            let mut unread = Unread::default();
            let told = outside.frames(&mut unread);
            assert_eq!(told, format!("{at} {} {}", at + 1, at + 2));
            append(&feed, at + 3);
            assert_eq!(outside.frames(&mut unread), (at + 3).to_string());
            assert_eq!(outside.frames(&mut unread), "");
        }
        // Its task has it back, with what was given.
        assert_eq!(outside.frames(&mut Unread::default()), "awake");
        append(&feed, at + 4);
        assert_eq!(next(&mut subscription, &outlet).await, Some((at + 4).to_string()));
        assert_eq!(next(&mut subscription, &outlet).await, None);
    }
}

// As signs of life leave them: at places between which there is nothing for them.
#[tokio::test(start_paused = true)]
async fn what_is_read_from_one_place_is_given_from_those_behind_it() {
    let filter = Arc::new(crate::filter::tests::good("match: { _id: { $gte: 50 } }"));
    let (shared, feed) = (shared(), feed(&filter, FeedKey::of(&filter), 10));
    feed.set_status(Status::Live);
    let outside: [Arc<Outside>; 3] = Default::default();
    let mut subscriptions: Vec<Subscription> = Vec::new();
    for time in [11, 12, 13] {
        let mut subscription = open(&shared, &feed, &filter, From::Now);
        frames(&mut subscription).await;
        subscriptions.push(subscription);
        append(&feed, time);
    }
    let mut unread = Unread::default();
    let outlets: Vec<Arc<dyn Outlet>> = outside.iter().map(|it| it.clone() as _).collect();
    let mut waits: Vec<_> = subscriptions
        .iter_mut()
        .zip(&outlets)
        .map(|(subscription, outlet)| Box::pin(subscription.next(None, Some(outlet))))
        .collect();
    for wait in &mut waits {
        assert!(timeout(Duration::from_millis(1), wait.as_mut()).await.is_err());
    }
    append(&feed, 50);
    // The first one is furthest back.
    assert_eq!(outside[0].frames(&mut unread), "50");
    let serial = unread.serial();
    assert_eq!(outside[1].frames(&mut unread), "50");
    assert_eq!(outside[2].frames(&mut unread), "50");
    assert_eq!(unread.serial(), serial);
    append(&feed, 51);
    assert_eq!(outside[2].frames(&mut unread), "51");
    assert_eq!(outside[0].frames(&mut unread), "51");
}

// Two at the same place, and one that is ahead: what is read once is given to each where it is.
#[tokio::test(start_paused = true)]
async fn what_is_read_for_one_is_given_to_those_at_its_place() {
    let filter = Arc::new(crate::filter::tests::good(""));
    let (shared, feed) = (shared(), feed(&filter, FeedKey::of(&filter), 10));
    feed.set_status(Status::Live);
    append(&feed, 11);
    let begin = |from: u32| open(&shared, &feed, &filter, From::Position(before(from)));
    let mut subscriptions = [begin(12), begin(12), begin(12)];
    let outside: [Arc<Outside>; 3] = Default::default();
    let outlets: Vec<Arc<dyn Outlet>> = outside.iter().map(|it| it.clone() as _).collect();
    let mut waits = Vec::new();
    for (subscription, outlet) in subscriptions.iter_mut().zip(&outlets) {
        assert_eq!(frames(subscription).await, "ready");
        let mut wait = Box::pin(subscription.next(None, Some(outlet)));
        assert!(timeout(Duration::from_millis(1), wait.as_mut()).await.is_err());
        waits.push(wait);
    }
    let mut unread = Unread::default();
    append(&feed, 12);
    assert_eq!(outside[2].frames(&mut unread), "12");
    append(&feed, 13);
    assert_eq!(outside[0].frames(&mut unread), "12 13");
    let serial = unread.serial();
    assert_eq!(outside[1].frames(&mut unread), "12 13");
    assert_eq!(unread.serial(), serial);
    assert_eq!(outside[2].frames(&mut unread), "13");
    for outside in &outside {
        assert_eq!(outside.frames(&mut unread), "");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_small_event_is_left_to_the_task() {
    let filter = Arc::new(crate::filter::tests::good(""));
    let shared = shared();
    let feed = || feed(&filter, FeedKey::of(&filter), 10);
    let many = |feed: &Feed| (20..40).for_each(|time| append(feed, time));
    for (what, expected) in [
        (&(|feed: &Arc<Feed>| feed.restart_at(&before(20))) as &dyn Fn(&Arc<Feed>), "history-lost"),
        (&|feed: &Arc<Feed>| feed.retire(&filter), "retired"),
        // More than the thousand bytes of above.
        (
            &|feed: &Arc<Feed>| many(feed),
            "20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39",
        ),
    ] {
        let feed = feed();
        feed.set_status(Status::Live);
        let outside = Arc::new(Outside::default());
        let outlet: Arc<dyn Outlet> = outside.clone();
        let mut subscription = open(&shared, &feed, &filter, From::Now);
        assert_eq!(frames(&mut subscription).await, "ready");
        {
            let mut wait = pin!(subscription.next(None, Some(&outlet)));
            assert!(timeout(Duration::from_millis(1), wait.as_mut()).await.is_err());
            append(&feed, 15);
            assert_eq!(outside.frames(&mut Unread::default()), "15");
            what(&feed);
            assert_eq!(outside.frames(&mut Unread::default()), "task");
            // Until that has been there, nothing else is given.
            assert_eq!(outside.frames(&mut Unread::default()), "task");
        }
        assert_eq!(frames(&mut subscription).await, expected);
    }
    // And while nobody knows if its caller still has a right to it.
    {
        let feed = feed();
        feed.set_status(Status::Live);
        let outside = Arc::new(Outside::default());
        let outlet: Arc<dyn Outlet> = outside.clone();
        let mut subscription = open(&shared, &feed, &filter, From::Now);
        assert_eq!(frames(&mut subscription).await, "ready");
        let (listener, _) = subscription.listener();
        {
            let mut wait = pin!(subscription.next(None, Some(&outlet)));
            assert!(timeout(Duration::from_millis(1), wait.as_mut()).await.is_err());
            listener.hold(true);
            append(&feed, 15);
            assert_eq!(outside.frames(&mut Unread::default()), "task");
            listener.hold(false);
            assert_eq!(outside.frames(&mut Unread::default()), "task");
        }
        assert_eq!(frames(&mut subscription).await, "15");
    }
    // And one whose client has not taken everything.
    let feed = feed();
    feed.set_status(Status::Live);
    let outside = Arc::new(Outside::default());
    outside.is_full.store(true, Ordering::Relaxed);
    let outlet: Arc<dyn Outlet> = outside.clone();
    let mut subscription = open(&shared, &feed, &filter, From::Now);
    assert_eq!(frames(&mut subscription).await, "ready");
    let told = tokio::spawn({
        let feed = feed.clone();
        async move {
            // Behind the wait's first look.
            tokio::time::sleep(Duration::from_secs(1)).await;
            append(&feed, 20);
        }
    });
    let next = timeout(Duration::from_secs(5), subscription.next(None, Some(&outlet))).await;
    assert!(matches!(next, Ok(Some(FrameKind::Delivery(_)))), "{next:?}");
    told.await.unwrap();
}

// A connection may have many of them, side by side.
#[test]
fn one_of_several_is_small() {
    assert!(size_of::<Option<Subscription>>() <= 88, "{}", size_of::<Option<Subscription>>());
}
