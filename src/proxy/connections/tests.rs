//! Connections that wait, and searches that close them.

use super::*;

fn connections() -> Arc<Connections> {
    Connections::new(Some(1024), None, counters())
}

fn counters() -> (IntCounter, IntCounter) {
    let counter = |name| IntCounter::new(name, "for a test").unwrap();
    (counter("closed"), counter("panicked"))
}

fn address(last: u8) -> Option<IpAddr> {
    Some(IpAddr::from([192, 0, 2, last]))
}

fn is_closed(registration: &Registration) -> bool {
    registration.entry.state.load(Ordering::Acquire) == CLOSED
}

#[tokio::test(start_paused = true)]
async fn the_one_that_waited_longest_goes_of_the_address_that_holds_most() {
    let connections = connections();
    let enter = |last| connections.enter(address(last), 5, false).unwrap();
    let lone = enter(1);
    let mut many = Vec::new();
    for _ in 0..3 {
        tokio::time::advance(std::time::Duration::from_millis(10)).await;
        many.push(enter(2));
    }
    tokio::time::advance(std::time::Duration::from_millis(10)).await;
    // It waited longest, but has said something since, and another has a request.
    many[0].rest();
    assert!(many[1].work());
    assert_eq!(connections.close(1, 0, |_| true).closed, 1);
    let gone: Vec<bool> = many.iter().map(is_closed).collect();
    assert_eq!(gone, [false, false, true]);
    assert!(!is_closed(&lone) && !many[2].work() && !many[2].stir());
    many[2].rest();
    assert!(is_closed(&many[2]));
    // With one each, age decides.
    assert_eq!(connections.close(1, 0, |_| true).closed, 1);
    assert!(is_closed(&lone) != is_closed(&many[0]));
    assert_eq!(connections.close(9, 0, |_| true).closed, 1);
    // Nobody who waits is left.
    assert_eq!(connections.close(9, 0, |_| true).closed, 0);
    assert_eq!(connections.closed.get(), 3);
    drop((lone, many));
    assert!(connections.listed.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_has_not_begun_goes_before_one_that_has() {
    let connections = connections();
    let enter = || connections.enter(address(1), 5, true).unwrap();
    let begun = enter();
    assert!(begun.stir());
    tokio::time::advance(std::time::Duration::from_millis(300)).await;
    let silent = enter();
    tokio::time::advance(std::time::Duration::from_millis(150)).await;
    assert_eq!(connections.close(1, 0, |_| true).closed, 1);
    assert!(is_closed(&silent) && !is_closed(&begun));
    // One that is new is not told from one that will begin.
    tokio::time::advance(std::time::Duration::from_millis(300)).await;
    let new = enter();
    assert_eq!(connections.close(1, 0, |_| true).closed, 1);
    assert!(is_closed(&begun) && !is_closed(&new));
}

#[tokio::test(start_paused = true)]
async fn a_handshake_has_its_time_however_many_others_come() {
    let connections = Connections::new(Some(256), None, counters());
    let most = connections.most_handshakes;
    let enter = || connections.enter(address(1), 5, true).unwrap();
    let begun = enter();
    assert!(begun.stir());
    let mut silent: Vec<Registration> = (1..most).map(|_| enter()).collect();
    let wait = connections.wait_for_handshake().unwrap();
    assert_eq!(wait, Duration::from_millis(LEAST_AGE / SILENCE_AGES));
    tokio::time::advance(wait - Duration::from_millis(1)).await;
    assert!(connections.wait_for_handshake().is_some());
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(connections.wait_for_handshake(), None);
    let gone = silent.iter().filter(|one| is_closed(one)).count();
    assert_eq!((gone, is_closed(&begun)), ((most / SHARE).max(1), false));
    silent.retain(|one| !is_closed(one));
    assert_eq!(connections.wait_for_handshake(), None);
    // Those who are past it are not counted.
    silent.extend((silent.len() + 1..most).map(|_| enter()));
    assert!(silent.last().unwrap().stir());
    begun.has_shaken();
    assert_eq!(connections.wait_for_handshake(), None);
}

#[tokio::test]
async fn a_connection_that_panics_is_counted_and_gone() {
    let connections = connections();
    let guest = connections.enter(address(1), 5, false).unwrap();
    let task = tokio::spawn(async move {
        let _guest = guest;
        panic!("a bug");
    });
    assert!(task.await.is_err());
    drop(connections.enter(address(1), 5, false).unwrap());
    assert_eq!(connections.panicked.get(), 1);
    assert!(connections.listed.lock().is_empty());
}

#[test]
fn a_search_meets_a_busy_connection_once() {
    let connections = connections();
    let mut busy: Vec<Registration> =
        (0..1000).map(|_| connections.enter(address(1), 5, false).unwrap()).collect();
    assert!(busy.iter().all(Registration::work));
    let is_full = |count| connections.listed.lock().len() == count;
    assert!(is_full(1000));
    assert_eq!(connections.close(1, 0, |_| true).closed, 0);
    assert!(is_full(0));
    // Whoever waits again can be found again, and who comes anew is all that is looked at.
    busy[7].rest();
    assert!(is_full(1) && connections.close(1, 0, |_| true).closed == 1 && is_closed(&busy[7]));
    for _ in 0..10 {
        let new = connections.enter(address(1), 5, false).unwrap();
        assert!(connections.listed.lock().len() <= 2 && new.work());
        assert_eq!(connections.close(1, 0, |_| true).closed, 0);
        busy.push(new);
    }
    drop(busy);
    assert!(is_full(0));
}

#[test]
fn one_that_begins_to_wait_while_a_search_looks_at_it_stays_on_the_list() {
    let connections = connections();
    let guest = connections.enter(address(1), 5, false).unwrap();
    // The search has seen it busy by then, and it sees itself on the list.
    assert!(guest.work());
    guest.rest();
    assert!(guest.entry.leave_list().is_some());
    assert!(guest.entry.is_listed.load(Ordering::SeqCst));
    // It begins to wait when it is off the list: it comes back by itself.
    assert!(guest.work());
    assert!(guest.entry.leave_list().is_none());
    connections.listed.lock().clear();
    guest.rest();
    assert_eq!(connections.listed.lock().len(), 1);
}

// Between the two words that a search and a connection look at.
#[test]
fn nobody_who_waits_is_lost_to_a_search_beside_it() {
    let connections = connections();
    let guests: Vec<Registration> =
        (0..4).map(|_| connections.enter(address(1), 5, false).unwrap()).collect();
    for _ in 0..200 {
        assert!(guests.iter().all(Registration::work));
        std::thread::scope(|scope| {
            for guest in &guests {
                scope.spawn(|| {
                    for _ in 0..50 {
                        guest.rest();
                        assert!(guest.work());
                    }
                    guest.rest();
                });
            }
            // Nobody may go, and those who are busy leave the list.
            (0..50).for_each(|_| assert_eq!(connections.close(1, 0, |_| false).closed, 0));
        });
        assert_eq!(connections.listed.lock().len(), guests.len());
    }
}

#[tokio::test(start_paused = true)]
async fn handshakes_go_for_handshakes() {
    let connections = connections();
    let ready = connections.enter(address(1), 5, false).unwrap();
    let most = connections.most_handshakes;
    let mut shaking: Vec<Registration> =
        (0..most).map(|_| connections.enter(address(1), 5, true).unwrap()).collect();
    tokio::time::advance(Duration::from_secs(9)).await;
    assert_eq!(shaking.iter().filter(|registration| is_closed(registration)).count(), 0);
    assert_eq!(connections.wait_for_handshake(), None);
    shaking.push(connections.enter(address(1), 5, true).unwrap());
    assert_eq!(shaking.iter().filter(|registration| is_closed(registration)).count(), most / SHARE);
    assert!(!is_closed(&ready) && !is_closed(&shaking[most]));
    shaking.iter().for_each(Registration::has_shaken);
    drop(shaking);
    assert_eq!(connections.handshakes.load(Ordering::Acquire), 0);
}

#[tokio::test(start_paused = true)]
async fn the_last_descriptors_are_kept_back() {
    let connections = connections();
    let (crowded, full) = (connections.crowded, connections.full);
    assert!(crowded < full && full < 1024);
    let waiting = connections.enter(address(1), crowded - 1, false).unwrap();
    let busy = connections.enter(address(1), crowded, false).unwrap();
    // Its request may be on its way.
    assert!(!is_closed(&waiting) && busy.work());
    tokio::time::advance(Duration::from_secs(1)).await;
    let last = connections.enter(address(1), full - 1, false).unwrap();
    assert!(is_closed(&waiting));
    // The last one goes to whoever comes, where somebody waits.
    let newest = connections.enter(address(1), full, false).unwrap();
    assert!(is_closed(&last) && newest.work());
    assert_eq!(connections.enter(address(1), full, false).unwrap_err(), Full::Descriptors);
    let boundless = Connections::new(None, None, counters());
    assert!(boundless.enter(None, 1_000_000, false).is_ok());
}
