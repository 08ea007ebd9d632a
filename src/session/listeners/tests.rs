//! What only the inside of the list shows.

use std::sync::atomic::AtomicUsize;
use std::task::Wake;
use std::time::Duration;

use super::*;
use crate::feed::FeedKey;
use crate::feed::journal::JournalLimits;
use crate::filter::tests::good;

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Count>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn id(listener: &Listener) -> String {
    format!("{}-{}", listener.index, listener.serial)
}

fn feed() -> Feed {
    let limits = JournalLimits { window: Duration::from_secs(60), max_bytes: 1 << 20 };
    Feed::new(FeedKey::of(&good("")), limits, 16)
}

fn route(feed: &Feed, name: &str) -> Arc<Route> {
    let mut filter = good("");
    filter.name = name.to_owned();
    let bound = filter.bind(&[], None).unwrap();
    let route = feed.join(&Arc::new(filter), bound).route;
    // The next one is another.
    route.retire();
    route
}

// What each of ten thousands of idle connections holds, in one of the allocator's classes.
#[test]
fn a_listener_is_small() {
    let counts = 2 * size_of::<usize>();
    assert!(size_of::<Listener>() + counts <= 112, "{}", size_of::<Listener>());
    assert_eq!(size_of::<Option<Part>>(), 24);
}

#[test]
fn slots_are_used_again_and_their_ids_are_not() {
    let list = Arc::new(Listeners::default());
    let first = list.add(0, None);
    let id = id(&first);
    drop(first);
    let second = list.add(1, None);
    assert_eq!((second.index, list.slots.lock().listeners.len()), (0, 1));
    assert!(self::id(&second) != id && !list.end(&id) && !second.is_ended());
    let others: Vec<_> = (0..10).map(|_| list.add(0, None)).collect();
    drop(others);
    assert_eq!(list.all().len(), 1);
    drop(second);
    assert_eq!(list.slots.lock().listeners.capacity(), 0);
}

#[test]
fn who_ends_a_stream_ends_its_connection_and_wakes_it() {
    let (list, feed) = (Arc::new(Listeners::default()), feed());
    let connection = list.add(1, None);
    let count = Arc::new(Count::default());
    connection.register(&Waker::from(count.clone()));
    for _ in 0..2 {
        connection.listen_on(route(&feed, "one"), Listed::NEW);
    }
    let (reports, total) = list.of("one", &feed, 10);
    assert!(total == 2 && reports.iter().all(|report| report.is_one_of_several));
    assert!(reports[0].id != reports[1].id && list.end(&reports[1].id));
    assert!(connection.is_ended());
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
    connection.register(&Waker::from(count.clone()));
    list.wake_all();
    assert_eq!(count.0.load(Ordering::Relaxed), 2);
}

// A stream whose file was edited joins another route before it leaves the old one.
#[test]
fn streams_of_a_connection_come_and_go() {
    let (list, feed) = (Arc::new(Listeners::default()), feed());
    let connection = list.add(1, None);
    let routes = ["one", "one", "two"].map(|name| route(&feed, name));
    let listed = routes.clone().map(|route| connection.listen_on(route, Listed::NEW));
    assert_eq!(list.repeated(), HashMap::from([("one".to_owned(), 1)]));
    connection.note(listed[1], Progress::Following(7));
    let before = list.of("one", &feed, 10).0;
    let edited = route(&feed, "one");
    assert_eq!(connection.listen_on(edited.clone(), listed[0]), listed[0]);
    connection.leave(&routes[0], listed[0]);
    let ids = |reports: &[ListenerReport]| {
        let mut ids: Vec<String> = reports.iter().map(|report| report.id.clone()).collect();
        ids.sort_unstable();
        ids
    };
    assert_eq!(ids(&list.of("one", &feed, 10).0), ids(&before));
    connection.leave(&edited, listed[0]);
    let (left, total) = list.of("one", &feed, 10);
    assert_eq!((left[0].source, total, list.repeated().len()), ("memory", 1, 0));
    // Its number is given again, and its id is not.
    assert_eq!(connection.listen_on(edited, Listed::NEW), listed[0]);
    let after = ids(&list.of("one", &feed, 10).0);
    assert_eq!(after.iter().filter(|id| ids(&before).contains(id)).count(), 1);
    assert_eq!(list.of_several.load(Ordering::Relaxed), 3);
}
