//! Open connections as an operator sees them: what can be read about them from outside their tasks,
//! and how one of them is ended.
//!
//! Invariants:
//!
//! - A connection has one [`Listener`]. If it has several streams, each of these has one too. A
//!   listener is in the list from its creation until it is dropped.
//! - A stream records its position with two relaxed stores when it has written everything that it
//!   was given. Everything else is computed when an operator asks, and otherwise costs nothing.
//! - To end a connection from outside, first set its flag, then wake its task. The task first
//!   registers, then reads the flag.
//!
//! The list's lock is taken when a connection opens or closes, and while the handles are copied for
//! a request. No other lock is taken meanwhile.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::access::{Caller, network_of};
use crate::feed::Feed;
use crate::feed::routes::Route;
use crate::upstream::snapshot::Asker;

/// The list.
#[derive(Debug)]
pub struct Listeners {
    slots: Mutex<Slots>,
    /// How many there are of streams that share a connection.
    of_several: AtomicUsize,
    began: Instant,
    /// Keyed anew for each process: a subject's digest cannot be found by trying names elsewhere.
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Slots {
    listeners: Vec<Weak<Listener>>,
    free: Vec<u32>,
    serial: u32,
}

/// A connection, or one stream of several on a connection.
#[derive(Debug)]
pub struct Listener {
    list: Arc<Listeners>,
    /// Of the task that serves the connection.
    waker: AtomicWaker,
    known: Mutex<Known>,
    /// By `phase`: the number in the journal from which it reads on, or the cluster time of what it
    /// has, in seconds.
    place: AtomicU64,
    /// The client's network, as a digest: few need it, and an address is larger.
    network: u64,
    index: u32,
    /// Tells it from an earlier one in the same slot.
    serial: u32,
    /// In seconds after the list's beginning.
    opened_at: u32,
    phase: AtomicU8,
    /// By the number that `api` gives it: a listener is small.
    transport: u8,
    is_ended: AtomicBool,
}

#[derive(Debug, Default)]
struct Known {
    /// The stream, once it has one.
    route: Option<Arc<Route>>,
    owner: Owner,
}

/// Whose it is.
#[derive(Debug, Default)]
enum Owner {
    #[default]
    Nobody,
    Caller(Arc<Caller>),
    /// One of several streams of this connection.
    Connection(Arc<Listener>),
}

/// Where a stream is with its reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Its feed was not read yet, or its snapshot is not complete.
    Waiting,
    /// In the journal: from this number on.
    Following(u64),
    /// In a replay: what it has is of this cluster time, in seconds.
    Replaying(u32),
}

/// What is reported about one.
#[derive(Debug, Clone)]
pub struct ListenerReport {
    /// To end it by; of this process.
    pub id: String,
    pub age_seconds: u64,
    /// As it was given to [`Listeners::add`].
    pub transport: u8,
    /// Whether its connection has other streams.
    pub is_one_of_several: bool,
    /// How old the oldest event is that it should have and has not, in seconds; `None`: unknown,
    /// since its feed was not read yet.
    pub lag_seconds: Option<f64>,
    /// Where its next event comes from: `memory`, `look-back`, `replay` or `waiting`.
    pub source: &'static str,
    /// Who the caller is, where the stream asks for one.
    pub caller: Option<Arc<Caller>>,
}

/// How a listener is doing.
#[derive(Debug, Clone, Copy)]
struct Standing {
    lag_seconds: Option<f64>,
    source: &'static str,
}

impl Standing {
    /// What nobody knows comes first: it waits.
    fn weight(self) -> f64 {
        self.lag_seconds.unwrap_or(f64::INFINITY)
    }
}

impl Default for Listeners {
    fn default() -> Listeners {
        Listeners {
            slots: Mutex::default(),
            of_several: AtomicUsize::new(0),
            began: Instant::now(),
            hasher: RandomState::new(),
        }
    }
}

impl Listeners {
    /// Adds a connection; `transport` is what its reports say again, and `address` where its client
    /// is, if that is known.
    pub fn add(self: &Arc<Listeners>, transport: u8, address: Option<IpAddr>) -> Arc<Listener> {
        let network = self.hasher.hash_one(address.map(network_of));
        self.insert(transport, network, Owner::Nobody)
    }

    fn insert(self: &Arc<Listeners>, transport: u8, network: u64, owner: Owner) -> Arc<Listener> {
        let opened_at = u32::try_from(self.began.elapsed().as_secs()).unwrap_or(u32::MAX);
        let mut slots = self.slots.lock();
        let fresh = u32::try_from(slots.listeners.len()).unwrap_or(u32::MAX);
        let index = slots.free.pop().unwrap_or(fresh);
        slots.serial = slots.serial.wrapping_add(1);
        let listener = Arc::new(Listener {
            list: self.clone(),
            waker: AtomicWaker::new(),
            known: Mutex::new(Known { route: None, owner }),
            place: AtomicU64::new(0),
            network,
            index,
            serial: slots.serial,
            opened_at,
            phase: AtomicU8::new(Progress::WAITING),
            transport,
            is_ended: AtomicBool::new(false),
        });
        match slots.listeners.get_mut(index as usize) {
            Some(slot) => *slot = Arc::downgrade(&listener),
            None => slots.listeners.push(Arc::downgrade(&listener)),
        }
        listener
    }

    fn all(&self) -> Vec<Arc<Listener>> {
        self.slots.lock().listeners.iter().filter_map(Weak::upgrade).collect()
    }

    /// By stream: how many subscriptions to it are on a connection that already has one.
    pub fn repeated(&self) -> HashMap<String, usize> {
        let mut repeated = HashMap::new();
        // Then each connection has one stream, and there is nothing to look for.
        if self.of_several.load(Ordering::Relaxed) == 0 {
            return repeated;
        }
        let mut seen = HashSet::new();
        for listener in self.all() {
            let known = listener.known.lock();
            let (Some(route), Owner::Connection(connection)) = (&known.route, &known.owner) else {
                continue;
            };
            let name = &route.filter().name;
            if !seen.insert((Arc::as_ptr(connection), name.clone())) {
                *repeated.entry(name.clone()).or_default() += 1;
            }
        }
        repeated
    }

    /// Those of a stream, with the one that lags most first: at most `most`, and how many there are.
    /// `feed` is what the stream reads now.
    pub fn of(&self, stream: &str, feed: &Feed, most: usize) -> (Vec<ListenerReport>, usize) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let mut found: Vec<(Standing, Arc<Listener>)> = self
            .all()
            .into_iter()
            .filter_map(|listener| Some((listener.standing(stream, feed, now)?, listener)))
            .collect();
        let total = found.len();
        let order = |(a, one): &(Standing, Arc<Listener>),
                     (b, other): &(Standing, Arc<Listener>)| {
            b.weight().total_cmp(&a.weight()).then(one.opened_at.cmp(&other.opened_at))
        };
        // A console asks every two seconds, and there may be ten thousands: most of them are only
        // looked at.
        if total > most {
            found.select_nth_unstable_by(most, order);
            found.truncate(most);
        }
        found.sort_by(order);
        let age = self.began.elapsed().as_secs();
        let reports = found.iter().map(|(standing, listener)| listener.report(*standing, age));
        (reports.collect(), total)
    }

    /// Ends the connection of a listener; says whether there was one of this id.
    pub fn end(&self, id: &str) -> bool {
        let Some(listener) = self.find(id) else { return false };
        let connection = match &listener.known.lock().owner {
            Owner::Connection(connection) => Some(connection.clone()),
            Owner::Nobody | Owner::Caller(_) => None,
        };
        connection.unwrap_or(listener).end();
        true
    }

    fn find(&self, id: &str) -> Option<Arc<Listener>> {
        let (index, _) = id.split_once('-')?;
        let index: usize = index.parse().ok()?;
        let listener = self.slots.lock().listeners.get(index)?.upgrade()?;
        (listener.id() == id).then_some(listener)
    }

    /// Wakes every connection, for what concerns all of them.
    pub fn wake_all(&self) {
        self.all().iter().for_each(|listener| listener.waker.wake());
    }

    /// A caller as an operator may tell it from others, without knowing who it is.
    pub fn digest(&self, caller: &Caller) -> String {
        format!("{:016x}", self.hasher.hash_one(caller.subject))
    }
}

impl Listener {
    /// One of several streams on this connection.
    pub fn stream(self: &Arc<Listener>) -> Arc<Listener> {
        self.list.of_several.fetch_add(1, Ordering::Relaxed);
        self.list.insert(self.transport, self.network, Owner::Connection(self.clone()))
    }

    /// Whose connection it is.
    pub fn set_caller(&self, caller: Arc<Caller>) {
        self.known.lock().owner = Owner::Caller(caller);
    }

    /// It listens here from now on.
    pub(super) fn listen_on(&self, route: Arc<Route>) {
        self.known.lock().route = Some(route);
    }

    /// Notes that everything up to this place was written.
    pub(super) fn note(&self, place: Progress) {
        let (phase, value) = match place {
            Progress::Waiting => (Progress::WAITING, 0),
            Progress::Following(number) => (Progress::FOLLOWING, number),
            Progress::Replaying(seconds) => (Progress::REPLAYING, u64::from(seconds)),
        };
        self.place.store(value, Ordering::Relaxed);
        self.phase.store(phase, Ordering::Relaxed);
    }

    /// Has this task woken when there is something to look at.
    pub(super) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Whether an operator has ended it.
    pub(super) fn is_ended(&self) -> bool {
        self.is_ended.load(Ordering::Acquire)
    }

    fn end(&self) {
        self.is_ended.store(true, Ordering::Release);
        self.waker.wake();
    }

    fn id(&self) -> String {
        format!("{}-{}", self.index, self.serial)
    }

    /// How it is doing, if it listens to this stream.
    fn standing(&self, stream: &str, feed: &Feed, now: f64) -> Option<Standing> {
        let known = self.known.lock();
        let route = known.route.as_ref().filter(|route| route.filter().name == stream)?;
        let seconds_since = |time: u32| (now - f64::from(time)).max(0.0);
        let place = self.place.load(Ordering::Relaxed);
        let (source, lag_seconds) = match self.phase.load(Ordering::Relaxed) {
            Progress::FOLLOWING => match route.unread_from(place) {
                Some(number) => {
                    let is_behind = route.is_behind(place);
                    // The feed has a lock of its own.
                    drop(known);
                    // Trimmed between two looks: it has just gone by.
                    let lag = feed.time_at(number).map_or(0.0, seconds_since);
                    (if is_behind && lag > 0.0 { "look-back" } else { "memory" }, Some(lag))
                }
                None => ("memory", Some(0.0)),
            },
            Progress::REPLAYING => {
                // The cluster time of what it has: there are 32 bits of it.
                ("replay", Some(seconds_since(u32::try_from(place).unwrap_or(u32::MAX))))
            }
            _ => ("waiting", None),
        };
        Some(Standing { lag_seconds, source })
    }

    fn report(&self, standing: Standing, age: u64) -> ListenerReport {
        let (caller, is_one_of_several) = match &self.known.lock().owner {
            Owner::Nobody => (None, false),
            Owner::Caller(caller) => (Some(caller.clone()), false),
            Owner::Connection(connection) => (connection.caller(), true),
        };
        ListenerReport {
            id: self.id(),
            age_seconds: age.saturating_sub(u64::from(self.opened_at)),
            transport: self.transport,
            is_one_of_several,
            lag_seconds: standing.lag_seconds,
            source: standing.source,
            caller,
        }
    }

    /// Who has a share in what all clients wait for: the caller, where one is known, since many of
    /// them may be behind one address; else the client's network.
    pub(super) fn asker(&self) -> Asker {
        let caller = match &self.known.lock().owner {
            Owner::Connection(connection) => connection.caller(),
            Owner::Caller(caller) => Some(caller.clone()),
            Owner::Nobody => None,
        };
        let digest = |caller: Arc<Caller>| self.list.hasher.hash_one(caller.subject);
        Asker(caller.map_or(self.network, digest))
    }

    fn caller(&self) -> Option<Arc<Caller>> {
        match &self.known.lock().owner {
            Owner::Caller(caller) => Some(caller.clone()),
            Owner::Nobody | Owner::Connection(_) => None,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if matches!(self.known.get_mut().owner, Owner::Connection(_)) {
            self.list.of_several.fetch_sub(1, Ordering::Relaxed);
        }
        let mut slots = self.list.slots.lock();
        if let Some(slot) = slots.listeners.get_mut(self.index as usize) {
            *slot = Weak::new();
            slots.free.push(self.index);
        }
        if slots.free.len() == slots.listeners.len() {
            // A crowd has left: its room is given back.
            (slots.listeners, slots.free) = (Vec::new(), Vec::new());
        }
    }
}

impl Progress {
    const WAITING: u8 = 0;
    const FOLLOWING: u8 = 1;
    const REPLAYING: u8 = 2;
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Count>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    // What each of ten thousands of idle connections holds, in one of the allocator's classes.
    #[test]
    fn a_listener_is_small() {
        let counts = 2 * size_of::<usize>();
        assert!(size_of::<Listener>() + counts <= 112, "{}", size_of::<Listener>());
    }

    #[test]
    fn slots_are_used_again_and_their_ids_are_not() {
        let list = Arc::new(Listeners::default());
        let first = list.add(0, None);
        let id = first.id();
        drop(first);
        let second = list.add(1, None);
        assert_eq!((second.index, list.slots.lock().listeners.len()), (0, 1));
        assert!(second.id() != id && !list.end(&id) && !second.is_ended());
        let others: Vec<_> = (0..10).map(|_| list.add(0, None)).collect();
        drop(others);
        assert_eq!(list.all().len(), 1);
        drop(second);
        assert_eq!(list.slots.lock().listeners.capacity(), 0);
    }

    #[test]
    fn who_ends_a_stream_ends_its_connection_and_wakes_it() {
        let list = Arc::new(Listeners::default());
        let connection = list.add(1, None);
        let count = Arc::new(Count::default());
        connection.register(&Waker::from(count.clone()));
        let (stream, other) = (connection.stream(), connection.stream());
        assert!(list.end(&other.id()));
        assert!(connection.is_ended() && !stream.is_ended());
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        connection.register(&Waker::from(count.clone()));
        list.wake_all();
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
    }
}
