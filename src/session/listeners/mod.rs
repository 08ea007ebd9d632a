//! Open connections as an operator sees them: what can be read about them from outside their tasks,
//! and how one of them is ended.
//!
//! Invariants:
//!
//! - A connection has one [`Listener`], which is in the list from its creation until it is dropped. If
//!   the connection has several streams, its listener has a [`Part`] for each of them.
//! - A stream records its position when it has written everything that it was given: with a relaxed
//!   store, or, if it is one of several, under a lock that only an operator's request takes beside it.
//!   Everything else is computed when an operator asks, and otherwise costs nothing.
//! - To end a connection from outside, first set its flag, then wake its task. The task first
//!   registers, then reads the flag.
//!
//! The list's lock is taken when a connection opens or closes, and while the handles are copied for
//! a request. No other lock is taken meanwhile.

mod progress;

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
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

pub use progress::Progress;

/// The list.
#[derive(Debug)]
pub struct Listeners {
    slots: Mutex<Slots>,
    /// The last number that a connection or a stream was given, to tell it from those before.
    serial: AtomicU32,
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
}

/// A connection, with its streams.
#[derive(Debug)]
pub struct Listener {
    list: Arc<Listeners>,
    /// Of the task that serves the connection.
    waker: AtomicWaker,
    known: Mutex<Known>,
    /// How far the stream is that has the connection for itself.
    progress: AtomicU64,
    /// The client's network, as a digest: few need it, and an address is larger.
    network: u64,
    index: u32,
    /// Tells it from an earlier one in the same slot.
    serial: u32,
    /// In seconds after the list's beginning.
    opened_at: u32,
    /// By the number that `api` gives it: a listener is small.
    transport: u8,
    is_ended: AtomicBool,
    /// See [`Listener::hold`].
    is_held: AtomicBool,
}

#[derive(Debug, Default)]
struct Known {
    /// What the stream listens to that has the connection for itself, once there is one.
    route: Option<Arc<Route>>,
    /// The streams that share the connection. Boxed, since most connections have one stream.
    parts: Option<Box<Parts>>,
    caller: Option<Arc<Caller>>,
}

/// Each at the number of its stream's [`Listed`]; that of one that has ended is given again.
type Parts = Vec<Option<Part>>;

/// One of several streams on a connection.
#[derive(Debug)]
struct Part {
    route: Arc<Route>,
    /// As in [`Progress::packed`].
    progress: u64,
    /// Tells it from an earlier one at the same number.
    serial: u32,
    /// In seconds after the list's beginning.
    opened_at: u32,
}

/// Where a stream is on its connection's listener: by itself, or at a number among several. In two bytes,
/// since every stream has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed(u16);

impl Listed {
    /// It has the connection for itself.
    pub const ALONE: Listed = Listed(u16::MAX);
    /// It is one of several, and has no number yet.
    pub const NEW: Listed = Listed(u16::MAX - 1);
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

/// How a stream is doing.
#[derive(Debug, Clone, Copy)]
struct Standing {
    lag_seconds: Option<f64>,
    source: &'static str,
    serial: u32,
    opened_at: u32,
    is_one_of_several: bool,
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
            serial: AtomicU32::new(0),
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
        let (serial, opened_at) = (self.next_serial(), self.age());
        let mut slots = self.slots.lock();
        let fresh = u32::try_from(slots.listeners.len()).unwrap_or(u32::MAX);
        let index = slots.free.pop().unwrap_or(fresh);
        let listener = Arc::new(Listener {
            list: self.clone(),
            waker: AtomicWaker::new(),
            known: Mutex::default(),
            progress: AtomicU64::new(Progress::Waiting.packed()),
            network,
            index,
            serial,
            opened_at,
            transport,
            is_ended: AtomicBool::new(false),
            is_held: AtomicBool::new(false),
        });
        match slots.listeners.get_mut(index as usize) {
            Some(slot) => *slot = Arc::downgrade(&listener),
            None => slots.listeners.push(Arc::downgrade(&listener)),
        }
        listener
    }

    fn next_serial(&self) -> u32 {
        self.serial.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// Of the list, in seconds.
    fn age(&self) -> u32 {
        u32::try_from(self.began.elapsed().as_secs()).unwrap_or(u32::MAX)
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
        for listener in self.all() {
            let mut seen = HashSet::new();
            for part in listener.known.lock().parts.iter().flat_map(|parts| parts.iter().flatten())
            {
                let name = &part.route.filter().name;
                if !seen.insert(name.clone()) {
                    *repeated.entry(name.clone()).or_default() += 1;
                }
            }
        }
        repeated
    }

    /// Those of a stream, with the one that lags most first: at most `most`, and how many there are.
    /// `feed` is what the stream reads now.
    pub fn of(&self, stream: &str, feed: &Feed, most: usize) -> (Vec<ListenerReport>, usize) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let mut found: Vec<(Standing, Arc<Listener>)> = Vec::new();
        for listener in self.all() {
            listener.stand(stream, feed, now, &mut found);
        }
        let total = found.len();
        let order = |(a, _): &(Standing, Arc<Listener>), (b, _): &(Standing, Arc<Listener>)| {
            b.weight().total_cmp(&a.weight()).then(a.opened_at.cmp(&b.opened_at))
        };
        // A console asks every two seconds, and there may be ten thousands: most of them are only
        // looked at.
        if total > most {
            found.select_nth_unstable_by(most, order);
            found.truncate(most);
        }
        found.sort_by(order);
        let age = self.age();
        let reports = found.iter().map(|(standing, listener)| listener.report(*standing, age));
        (reports.collect(), total)
    }

    /// Ends the connection of a listener; says whether there was one of this id.
    pub fn end(&self, id: &str) -> bool {
        let Some(listener) = self.find(id) else { return false };
        listener.end();
        true
    }

    fn find(&self, id: &str) -> Option<Arc<Listener>> {
        let (index, serial) = id.split_once('-')?;
        let index: usize = index.parse().ok()?;
        let serial: u32 = serial.parse().ok()?;
        let listener = self.slots.lock().listeners.get(index)?.upgrade()?;
        listener.has(serial).then_some(listener)
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
    /// Whose connection it is.
    pub fn set_caller(&self, caller: Arc<Caller>) {
        self.known.lock().caller = Some(caller);
    }

    /// A stream listens here from now on, or to another route than before. Gives where it is listed then.
    pub(super) fn listen_on(&self, route: Arc<Route>, listed: Listed) -> Listed {
        let mut known = self.known.lock();
        match listed {
            Listed::ALONE => known.route = Some(route),
            Listed::NEW => {
                let progress = Progress::Waiting.packed();
                let (serial, opened_at) = (self.list.next_serial(), self.list.age());
                self.list.of_several.fetch_add(1, Ordering::Relaxed);
                return known.add(Part { route, progress, serial, opened_at });
            }
            among => {
                if let Some(Some(part)) = known.part(among) {
                    part.route = route;
                }
            }
        }
        listed
    }

    /// A stream has left this route. It may listen to another one by now.
    pub(super) fn leave(&self, route: &Arc<Route>, listed: Listed) {
        let mut known = self.known.lock();
        if let Some(place) = known.part(listed)
            && place.take_if(|part| Arc::ptr_eq(&part.route, route)).is_some()
        {
            self.list.of_several.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Notes that everything of a stream up to this place was written.
    pub(super) fn note(&self, listed: Listed, progress: Progress) {
        if listed == Listed::ALONE {
            self.progress.store(progress.packed(), Ordering::Relaxed);
        } else if let Some(Some(part)) = self.known.lock().part(listed) {
            part.progress = progress.packed();
        }
    }

    /// Has this task woken when there is something to look at.
    pub(super) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Whether an operator has ended it.
    pub(super) fn is_ended(&self) -> bool {
        self.is_ended.load(Ordering::Acquire)
    }

    /// Whether nothing is written of its streams past its task: the task is finding out whether their caller
    /// still has a right to them.
    pub(super) fn hold(&self, is_held: bool) {
        self.is_held.store(is_held, Ordering::Release);
    }

    pub(super) fn is_held(&self) -> bool {
        self.is_held.load(Ordering::Acquire)
    }

    fn end(&self) {
        self.is_ended.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Whether it, or one of its streams, has this number.
    fn has(&self, serial: u32) -> bool {
        let known = self.known.lock();
        let mut parts = known.parts.iter().flat_map(|parts| parts.iter().flatten());
        self.serial == serial || parts.any(|part| part.serial == serial)
    }

    /// Adds how its streams are doing that listen to this one.
    fn stand(
        self: Arc<Self>,
        stream: &str,
        feed: &Feed,
        now: f64,
        found: &mut Vec<(Standing, Arc<Listener>)>,
    ) {
        // With the routes, since the feed has a lock of its own.
        let mut reading: Vec<(Arc<Route>, Progress, Standing)> = Vec::new();
        let mut add = |route: &Arc<Route>, progress: u64, serial: u32, opened_at: u32, several| {
            if route.filter().name == stream {
                let standing = Standing {
                    lag_seconds: None,
                    source: "waiting",
                    serial,
                    opened_at,
                    is_one_of_several: several,
                };
                reading.push((route.clone(), Progress::unpacked(progress), standing));
            }
        };
        {
            let known = self.known.lock();
            if let Some(route) = &known.route {
                let progress = self.progress.load(Ordering::Relaxed);
                add(route, progress, self.serial, self.opened_at, false);
            }
            for part in known.parts.iter().flat_map(|parts| parts.iter().flatten()) {
                add(&part.route, part.progress, part.serial, part.opened_at, true);
            }
        }
        for (route, progress, mut standing) in reading {
            (standing.source, standing.lag_seconds) = progress.lag(&route, feed, now);
            found.push((standing, self.clone()));
        }
    }

    fn report(&self, standing: Standing, age: u32) -> ListenerReport {
        ListenerReport {
            id: format!("{}-{}", self.index, standing.serial),
            age_seconds: u64::from(age.saturating_sub(standing.opened_at)),
            transport: self.transport,
            is_one_of_several: standing.is_one_of_several,
            lag_seconds: standing.lag_seconds,
            source: standing.source,
            caller: self.known.lock().caller.clone(),
        }
    }

    /// Who has a share in what all clients wait for: the caller, where one is known, since many of
    /// them may be behind one address; else the client's network.
    pub(super) fn asker(&self) -> Asker {
        let caller = self.known.lock().caller.clone();
        let digest = |caller: Arc<Caller>| self.list.hasher.hash_one(caller.subject);
        Asker(caller.map_or(self.network, digest))
    }
}

impl Known {
    /// `None` for a stream that is alone.
    fn part(&mut self, listed: Listed) -> Option<&mut Option<Part>> {
        self.parts.as_mut()?.get_mut(usize::from(listed.0))
    }

    fn add(&mut self, part: Part) -> Listed {
        let parts = self.parts.get_or_insert_default();
        let number = match parts.iter().position(Option::is_none) {
            Some(free) => {
                parts[free] = Some(part);
                free
            }
            None => {
                // There are many connections, with few streams each.
                parts.reserve_exact(1);
                parts.push(Some(part));
                parts.len() - 1
            }
        };
        // There are far fewer than that.
        u16::try_from(number).map_or(Listed::NEW, Listed)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
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

#[cfg(test)]
mod tests;
