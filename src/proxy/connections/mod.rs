//! The connections of the public port: which of them are waiting for their clients, and which are
//! closed when descriptors or handshakes run out.
//!
//! Anyone who can open a connection can hold it idle, with a handshake that does not begin or a
//! request that does not arrive. A waiting connection therefore has no claim to its place. When
//! there is no room, the connections that have waited longest are closed, starting with the address
//! that has the most of them. Behind a load balancer that hides its clients, all have one address,
//! and only the waiting time decides. No client is refused because of the connections of others.
//!
//! Invariants:
//!
//! - A connection is closed to make room only while it is waiting; one with a request is left
//!   alone. Both sides decide by the same atomic word ([`Entry::state`]), so that neither can miss
//!   the other.
//! - The lock is taken when a connection is added, removed or searched for; never for a request,
//!   except for the first one after a search.
//! - A search looks at each waiting connection, and at each other one at most once: a connection
//!   that it finds busy leaves the list ([`Entry::is_listed`]), and returns when it waits. A new
//!   connection therefore stays cheap when nearly all others are busy.

use std::collections::{BinaryHeap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::IntCounter;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::limits::requests::{HeldRequests, Requests};
use crate::access::network_of;
use crate::api::capacity::{Full, most_by_descriptors};

/// Handshakes at the same time, with what they have read and no certificate shown yet; fewer where
/// there are few descriptors.
const MAX_HANDSHAKES: usize = 4096;
/// Of all that may be closed, one in so many is closed at once: the search costs the same for one.
const SHARE: usize = 32;
/// A handshake that has not begun ages so many times as fast as others: whoever floods the port with
/// those, and opens them again, ends them before one that has begun. It is not ended first whatever
/// its age, since a single byte begins one.
const SILENCE_AGES: u64 = 4;
/// No handshake is ended for others before it counts as so old, in milliseconds: one that has not begun
/// after a quarter of it. Where all are younger, new connections
/// wait until they are accepted: however fast strangers come back, whoever shakes hands has this time.
/// A connection that has just been opened, and whose request is on its way, has it too, unless the last
/// descriptors are in use.
const LEAST_AGE: u64 = 600;
/// A search costs something, and is not made again before this.
const LEAST_WAIT: Duration = Duration::from_millis(5);

/// A connection that answers a request.
const BUSY: u64 = 0;
/// A connection that was told to go.
const CLOSED: u64 = u64::MAX;

/// Every open connection of the public port, and which of them can be closed to make room.
#[derive(Debug)]
pub struct Connections {
    began: Instant,
    /// Those that wait, and others that no search has met.
    listed: Mutex<HashMap<u64, Arc<Entry>>>,
    next: AtomicU64,
    handshakes: AtomicUsize,
    most_handshakes: usize,
    /// From this descriptor on, waiting connections make room.
    crowded: usize,
    /// From this descriptor on, nobody new comes in: the rest is for connections to the app, files
    /// and MongoDB.
    full: usize,
    pub requests: Requests,
    /// Those that were closed to make room.
    closed: IntCounter,
    /// Those whose tasks panicked.
    panicked: IntCounter,
}

#[derive(Debug)]
struct Entry {
    network: Option<IpAddr>,
    /// [`BUSY`], [`CLOSED`], or since when it waits: milliseconds after `began`, from 1.
    state: AtomicU64,
    is_shaking: AtomicBool,
    is_listed: AtomicBool,
    /// Nothing has come yet.
    is_silent: AtomicBool,
    task: OnceLock<AbortHandle>,
}

/// One connection's entry. Removed when dropped.
#[derive(Debug)]
pub struct Registration {
    connections: Arc<Connections>,
    number: u64,
    entry: Arc<Entry>,
    /// Requests from its address.
    pub held: HeldRequests,
}

/// By network: for how long each connection has waited, as that counts, and its state when that was
/// looked at.
type Waiting = HashMap<Option<IpAddr>, Vec<(u64, u64, Arc<Entry>)>>;

/// What became of a search.
#[derive(Debug, Default)]
struct MadeRoom {
    closed: usize,
    /// Of those that were too young, as that counts.
    oldest: u64,
}

impl Connections {
    /// `descriptors` is how many this process may have; `None`: no limit. `closed` counts those that
    /// are closed to make room, `panicked` those that end by a bug.
    pub fn new(
        descriptors: Option<u64>,
        most_requests: Option<usize>,
        (closed, panicked): (IntCounter, IntCounter),
    ) -> Arc<Connections> {
        let crowded = most_by_descriptors(descriptors);
        let most = descriptors.map_or(usize::MAX, |limit| limit.try_into().unwrap_or(usize::MAX));
        let full = crowded + (most - crowded) / 2;
        Arc::new(Connections {
            began: Instant::now(),
            listed: Mutex::default(),
            next: AtomicU64::new(0),
            handshakes: AtomicUsize::new(0),
            most_handshakes: MAX_HANDSHAKES.min(crowded / 4 * 3).max(1),
            crowded,
            full,
            requests: Requests::new(crowded, most_requests),
            closed,
            panicked,
        })
    }

    /// Takes in a connection that has this descriptor, or makes room first.
    ///
    /// # Errors
    /// There is no room, and no connection that could be closed to make room.
    pub fn enter(
        self: &Arc<Connections>,
        address: Option<IpAddr>,
        descriptor: usize,
        is_shaking: bool,
    ) -> Result<Registration, Full> {
        // Descriptors are given out from the lowest: this many are in use.
        if descriptor >= self.crowded {
            let is_full = descriptor >= self.full;
            let least_age = if is_full { 0 } else { LEAST_AGE };
            if self.make_room_of(least_age) == 0 && is_full {
                return Err(Full::Descriptors);
            }
        }
        let network = address.map(|address| network_of(address.to_canonical()));
        let entry = Arc::new(Entry {
            network,
            state: AtomicU64::new(self.now()),
            is_shaking: AtomicBool::new(is_shaking),
            is_listed: AtomicBool::new(true),
            is_silent: AtomicBool::new(true),
            task: OnceLock::new(),
        });
        if is_shaking {
            self.handshakes.fetch_add(1, Ordering::AcqRel);
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.listed.lock().insert(number, entry.clone());
        let held = self.requests.held_by(network);
        Ok(Registration { connections: self.clone(), number, entry, held })
    }

    /// Makes room for one more handshake. `Some`: there is none yet; when to ask again.
    pub fn wait_for_handshake(&self) -> Option<Duration> {
        if self.handshakes.load(Ordering::Acquire) < self.most_handshakes {
            return None;
        }
        let is_shaking = |entry: &Entry| entry.is_shaking.load(Ordering::Acquire);
        let made = self.close(self.most_handshakes / SHARE, LEAST_AGE, is_shaking);
        // What was closed leaves in a moment.
        let missing = LEAST_AGE.saturating_sub(made.oldest) / SILENCE_AGES;
        (made.closed == 0).then(|| Duration::from_millis(missing).max(LEAST_WAIT))
    }

    /// Whether so high a descriptor means that they run out.
    pub fn is_crowded(&self, descriptor: usize) -> bool {
        descriptor >= self.crowded
    }

    /// Closes some of the connections that wait; how many. Their descriptors are free as soon as
    /// their tasks have been dropped.
    pub fn make_room(&self) -> usize {
        self.make_room_of(0)
    }

    fn make_room_of(&self, least_age: u64) -> usize {
        self.close(self.crowded.min(1 << 20) / SHARE, least_age, |_| true).closed
    }

    /// Closes so many that count as at least so old.
    fn close(&self, count: usize, least_age: u64, may_go: impl Fn(&Entry) -> bool) -> MadeRoom {
        let now = self.now();
        let mut waiting = Waiting::new();
        self.listed.lock().retain(|_, entry| {
            let Some(state) = entry.waiting() else { return false };
            if may_go(entry) {
                let age = entry.age(now.saturating_sub(state));
                waiting.entry(entry.network).or_default().push((age, state, entry.clone()));
            }
            true
        });
        let mut crowds: BinaryHeap<(usize, Option<IpAddr>)> = BinaryHeap::new();
        for (network, entries) in &mut waiting {
            // The last one goes first: the one that has waited longest.
            entries.sort_unstable_by_key(|(age, ..)| *age);
            crowds.push((entries.len(), *network));
        }
        let mut made = MadeRoom::default();
        while made.closed < count.max(1)
            && let Some((_, network)) = crowds.pop()
        {
            let Some(entries) = waiting.get_mut(&network) else { continue };
            let Some((age, state, entry)) = entries.pop() else { continue };
            if age < least_age {
                // So are the others of this address.
                made.oldest = made.oldest.max(age);
                continue;
            }
            made.closed += usize::from(entry.close(state));
            crowds.push((entries.len(), network));
        }
        self.closed.inc_by(u64::try_from(made.closed).unwrap_or(0));
        made
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(CLOSED - 2) + 1
    }
}

impl Entry {
    /// How long it has waited, as that counts.
    fn age(&self, waited: u64) -> u64 {
        let is_handshake = self.is_shaking.load(Ordering::Acquire);
        match is_handshake && self.is_silent.load(Ordering::Acquire) {
            true => waited.saturating_mul(SILENCE_AGES),
            false => waited,
        }
    }

    /// Since when it waits.
    fn since(&self) -> Option<u64> {
        match self.state.load(Ordering::SeqCst) {
            BUSY | CLOSED => None,
            since => Some(since),
        }
    }

    /// The same; one that does not is taken off the list by this, and has to be removed.
    fn waiting(&self) -> Option<u64> {
        self.since().or_else(|| self.leave_list())
    }

    /// Since when it waits, if it has begun to since it was found busy: it may have seen itself on the
    /// list, and then nobody else puts it there.
    fn leave_list(&self) -> Option<u64> {
        self.is_listed.store(false, Ordering::SeqCst);
        self.since().filter(|_| !self.is_listed.swap(true, Ordering::SeqCst))
    }

    fn close(&self, since: u64) -> bool {
        let closed =
            self.state.compare_exchange(since, CLOSED, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if closed && let Some(task) = self.task.get() {
            task.abort();
        }
        closed
    }
}

impl Registration {
    /// What closes this connection; the task is what holds it.
    pub fn handle(&self) -> Handle {
        Handle(self.entry.clone())
    }

    /// The connection waits for its client, from now on; one that waited before and was closed stays
    /// closed.
    pub fn rest(&self) {
        let now = self.connections.now();
        let keep = |state| (state != CLOSED).then_some(now);
        let state = &self.entry.state;
        if state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, keep).is_err() {
            return;
        }
        if !self.entry.is_listed.swap(true, Ordering::SeqCst) {
            self.connections.listed.lock().insert(self.number, self.entry.clone());
        }
    }

    /// The client has said something while the connection waited.
    pub fn stir(&self) -> bool {
        self.entry.is_silent.store(false, Ordering::Release);
        self.change(self.connections.now())
    }

    /// The connection answers a request, from now on; `false` when it has to go instead.
    #[must_use]
    pub fn work(&self) -> bool {
        self.change(BUSY)
    }

    fn change(&self, to: u64) -> bool {
        let keep = |state| (state != CLOSED).then_some(to);
        self.entry.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, keep).is_ok()
    }

    /// The handshake is over.
    pub fn has_shaken(&self) {
        if self.entry.is_shaking.swap(false, Ordering::AcqRel) {
            self.connections.handshakes.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Where it is registered.
    pub fn connections(&self) -> &Arc<Connections> {
        &self.connections
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.has_shaken();
        if std::thread::panicking() {
            self.connections.panicked.inc();
        }
        self.connections.listed.lock().remove(&self.number);
        self.connections.requests.forget(self.entry.network, &mut self.held);
    }
}

/// Lets a connection be closed, once its task is known.
pub struct Handle(Arc<Entry>);

impl Handle {
    /// Closes it at once if that was decided before.
    pub fn is_for(self, task: AbortHandle) {
        // It is set once.
        let _ = self.0.task.set(task);
        if self.0.state.load(Ordering::Acquire) == CLOSED
            && let Some(task) = self.0.task.get()
        {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests;
