//! Limits on the number of streams: in total, by address and by caller, and never so many that
//! ordinary requests run out of descriptors or memory.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::Resource;
use tokio::time::Instant;
use tracing::warn;

use crate::access::{Caller, network_of};
use crate::config::Clients;

/// Of the process's descriptors, one in twenty is not for streams, within these bounds: requests
/// to the app take two each, and MongoDB, files and timers some.
const SPARE_SHARE: u64 = 20;
const SPARE_LEAST: u64 = 64;
const SPARE_MOST: u64 = 4096;
/// Room for fewer streams is told at the start.
const FEW: usize = 100;
/// Of the memory that the container may use, one part in eight is not for new streams.
const MEMORY_SHARE: u64 = 8;
/// How often the memory in use is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    #[error("too many open streams in total")]
    Connections,
    #[error("too many open streams from this address")]
    Address,
    #[error("too many open streams of this caller")]
    Subject,
    #[error("this caller has streams with too many different parameter values")]
    Values,
    #[error("the sidecar has no file descriptors left for more streams")]
    Descriptors,
    #[error("the sidecar has no memory left for more streams")]
    Memory,
    #[error("too many requests at the same time from this address")]
    AddressRequests,
    #[error("too many requests at the same time")]
    Requests,
}

impl Full {
    /// 429 where the clients are too many, 503 where this sidecar is too small.
    pub fn status(self) -> u16 {
        match self {
            Full::Connections
            | Full::Address
            | Full::Subject
            | Full::Values
            | Full::AddressRequests => 429,
            Full::Descriptors | Full::Memory | Full::Requests => 503,
        }
    }

    /// For the metric `refused_total{limit}`.
    pub fn name(self) -> &'static str {
        match self {
            Full::Connections => "connections",
            Full::Address => "address",
            Full::Subject => "subject",
            Full::Values => "values",
            Full::Descriptors => "descriptors",
            Full::Memory => "memory",
            Full::AddressRequests => "address-requests",
            Full::Requests => "requests",
        }
    }
}

/// Lets the process have as many descriptors as the system allows it.
pub fn raise_descriptors() {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it is not allowed, the limit stays what it was, and streams are fewer.
    let _ = rustix::process::setrlimit(Resource::Nofile, limit);
}

/// How many connections leave enough descriptors for the rest.
pub fn most_by_descriptors(limit: Option<u64>) -> usize {
    let Some(limit) = limit else { return usize::MAX };
    let spare = (limit / SPARE_SHARE).clamp(SPARE_LEAST, SPARE_MOST);
    usize::try_from(limit.saturating_sub(spare).max(1)).unwrap_or(usize::MAX)
}

/// The limits of `clients.max_*`, and what is open now. All counts are of streams
/// (connections on the reserved path).
#[derive(Debug)]
pub struct StreamLimits {
    open: AtomicUsize,
    most: usize,
    most_by_descriptors: usize,
    per_address: Option<usize>,
    per_subject: Option<usize>,
    values_per_subject: Option<usize>,
    /// Open streams by address, where there is a limit. Taken when a stream opens or closes.
    addresses: Mutex<HashMap<IpAddr, usize>>,
    /// The same by caller.
    subjects: Mutex<HashMap<[u8; 32], Streams>>,
    hasher: RandomState,
    memory: Mutex<Memory>,
}

/// The open streams of one caller.
#[derive(Debug, Default)]
struct Streams {
    open: usize,
    /// How many with the same values.
    values: HashMap<u64, usize>,
}

/// What a connection is counted by, where there is a limit for it.
#[derive(Debug, Default)]
struct Counted {
    address: Option<IpAddr>,
    caller: Option<CountedCaller>,
}

/// The same for its caller.
#[derive(Debug)]
struct CountedCaller {
    subject: [u8; 32],
    /// What its streams listen with, each once.
    values: Vec<u64>,
}

/// One open connection. Given back when dropped.
#[derive(Debug)]
pub struct ConnectionSlot {
    limits: Arc<StreamLimits>,
    /// Boxed, since few have any.
    counted: Option<Box<Counted>>,
}

impl StreamLimits {
    /// By the settings, and by the descriptors that this process may have.
    pub fn new(clients: &Clients) -> StreamLimits {
        let most_by_descriptors =
            most_by_descriptors(rustix::process::getrlimit(Resource::Nofile).current);
        if most_by_descriptors < FEW.min(clients.max_connections) {
            warn!(
                "the limit of open files leaves room for {most_by_descriptors} streams: raise it \
                 (ulimit -n, or LimitNOFILE of the service)"
            );
        }
        StreamLimits {
            open: AtomicUsize::new(0),
            most: clients.max_connections,
            most_by_descriptors,
            per_address: clients.max_connections_per_address,
            per_subject: clients.max_connections_per_subject,
            values_per_subject: clients.max_values_per_subject,
            addresses: Mutex::default(),
            subjects: Mutex::default(),
            hasher: RandomState::new(),
            memory: Mutex::new(Memory::default()),
        }
    }

    /// Takes a place for a stream from this address, before anything is known of its caller.
    ///
    /// # Errors
    /// What is used up.
    pub fn take(self: &Arc<StreamLimits>, address: Option<IpAddr>) -> Result<ConnectionSlot, Full> {
        let open = self.open.fetch_add(1, Ordering::AcqRel);
        let mut place = ConnectionSlot { limits: self.clone(), counted: None };
        if open >= self.most {
            return Err(Full::Connections);
        }
        if open >= self.most_by_descriptors {
            return Err(Full::Descriptors);
        }
        if self.memory.lock().is_short() {
            return Err(Full::Memory);
        }
        if let (Some(most), Some(address)) = (self.per_address, address) {
            let address = network_of(address);
            let mut addresses = self.addresses.lock();
            let open = addresses.entry(address).or_default();
            if *open >= most {
                return Err(Full::Address);
            }
            *open += 1;
            place.counted.get_or_insert_default().address = Some(address);
        }
        Ok(place)
    }
}

impl ConnectionSlot {
    /// Counts a stream of the connection for its caller, too; `values` is what it listens with.
    ///
    /// # Errors
    /// What is used up.
    pub fn count_for(&mut self, caller: &Caller, values: &impl Hash) -> Result<(), Full> {
        let limits = &self.limits;
        if limits.per_subject.is_none() && limits.values_per_subject.is_none() {
            return Ok(());
        }
        let values = limits.hasher.hash_one(values);
        let counted = self.counted.as_ref().and_then(|counted| counted.caller.as_ref());
        // Whose claims have changed is another subject where they have no `sub`: the connection stays with
        // the first.
        let subject = counted.map_or(caller.subject, |counted| counted.subject);
        let mut subjects = limits.subjects.lock();
        let streams = subjects.entry(subject).or_default();
        if counted.is_some_and(|counted| counted.values.contains(&values)) {
            return Ok(());
        }
        let is_new = !streams.values.contains_key(&values);
        let is_first = counted.is_none();
        let full = if is_first && limits.per_subject.is_some_and(|most| streams.open >= most) {
            Some(Full::Subject)
        } else if is_new && limits.values_per_subject.is_some_and(|m| streams.values.len() >= m) {
            Some(Full::Values)
        } else {
            None
        };
        if let Some(full) = full {
            return Err(full);
        }
        streams.open += usize::from(is_first);
        *streams.values.entry(values).or_default() += 1;
        drop(subjects);
        let none = || CountedCaller { subject, values: Vec::new() };
        let counted = self.counted.get_or_insert_default();
        counted.caller.get_or_insert_with(none).values.push(values);
        Ok(())
    }

    /// Gives back what was counted for streams of the connection that have ended; these are open.
    pub fn keep_only<V: Hash>(&mut self, open: impl Iterator<Item = V>) {
        let counted = self.counted.as_mut().and_then(|counted| counted.caller.as_mut());
        let Some(counted) = counted.filter(|counted| !counted.values.is_empty()) else { return };
        let limits = &self.limits;
        let open: HashSet<u64> = open.map(|values| limits.hasher.hash_one(values)).collect();
        let mut subjects = limits.subjects.lock();
        let Some(streams) = subjects.get_mut(&counted.subject) else { return };
        counted.values.retain(|values| {
            let is_open = open.contains(values);
            if !is_open {
                lower(streams.values.entry(*values));
            }
            is_open
        });
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.limits.open.fetch_sub(1, Ordering::AcqRel);
        let Some(counted) = self.counted.take() else { return };
        if let Some(address) = counted.address {
            lower(self.limits.addresses.lock().entry(address));
        }
        if let Some(counted) = counted.caller {
            let mut subjects = self.limits.subjects.lock();
            if let Entry::Occupied(mut streams) = subjects.entry(counted.subject) {
                streams.get_mut().open -= 1;
                for values in &counted.values {
                    lower(streams.get_mut().values.entry(*values));
                }
                if streams.get().open == 0 {
                    streams.remove();
                }
            }
        }
    }
}

fn lower<K>(entry: Entry<'_, K, usize>) {
    if let Entry::Occupied(mut count) = entry {
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}

/// So many bytes, for all who share it.
#[derive(Debug)]
pub struct ByteBudget {
    left: AtomicUsize,
}

/// Some bytes of a budget. Given back when dropped.
#[derive(Debug)]
pub struct Lease {
    budget: &'static ByteBudget,
    bytes: usize,
}

impl ByteBudget {
    /// All of them free. Made for a `static`: leases refer to it.
    pub const fn new(bytes: usize) -> ByteBudget {
        ByteBudget { left: AtomicUsize::new(bytes) }
    }

    /// Whether there is anything left.
    pub fn has_left(&self) -> bool {
        self.left.load(Ordering::Acquire) > 0
    }

    /// So many bytes, if they are left.
    pub fn take(&'static self, bytes: usize) -> Option<Lease> {
        let less = |left: usize| left.checked_sub(bytes);
        self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).ok()?;
        Some(Lease { budget: self, bytes })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.budget.left.fetch_add(self.bytes, Ordering::AcqRel);
    }
}

/// The memory of this process, against what its container may use.
#[derive(Debug)]
struct Memory {
    /// `None`: nothing limits it.
    limit: Option<u64>,
    is_short: bool,
    looked_at: Option<Instant>,
}

impl Default for Memory {
    fn default() -> Memory {
        // Version 2 of control groups, then 1, which says "none" by a number near 2^63.
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let limits = files_of_limit(&own).into_iter().filter_map(|file| {
            std::fs::read_to_string(file).ok()?.trim().parse().ok().filter(|limit| *limit < 1 << 60)
        });
        Memory { limit: limits.min(), is_short: false, looked_at: None }
    }
}

/// The files that may limit this process, by `/proc/self/cgroup`: those of its own group, and of the root,
/// which is the container's own where it sees no other.
fn files_of_limit(own: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let path = path.trim_end_matches('/');
        if controllers.is_empty() {
            files.push(format!("/sys/fs/cgroup{path}/memory.max"));
        } else if controllers.split(',').any(|controller| controller == "memory") {
            files.push(format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes"));
        }
    }
    files.push("/sys/fs/cgroup/memory.max".to_owned());
    files.push("/sys/fs/cgroup/memory/memory.limit_in_bytes".to_owned());
    files
}

impl Memory {
    fn is_short(&mut self) -> bool {
        let Some(limit) = self.limit else { return false };
        if self.looked_at.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            self.looked_at = Some(Instant::now());
            self.is_short = resident_bytes().is_some_and(|used| is_short(used, limit));
        }
        self.is_short
    }
}

fn is_short(used: u64, limit: u64) -> bool {
    used >= limit - limit / MEMORY_SHARE
}

fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::claims::Claims;

    #[test]
    fn the_limit_of_memory_is_that_of_its_own_group() {
        let rows = [
            ("0::/\n", "/sys/fs/cgroup/memory.max"),
            ("0::/system.slice/a.service\n", "/sys/fs/cgroup/system.slice/a.service/memory.max"),
            (
                "5:cpu:/x\n4:memory,hugetlb:/y:z\n",
                "/sys/fs/cgroup/memory/y:z/memory.limit_in_bytes",
            ),
            ("", "/sys/fs/cgroup/memory.max"),
            ("nonsense\n", "/sys/fs/cgroup/memory.max"),
        ];
        for (own, first) in rows {
            assert_eq!(files_of_limit(own)[0], first, "{own}");
        }
    }

    fn limits(change: impl FnOnce(&mut StreamLimits)) -> Arc<StreamLimits> {
        let mut limits = StreamLimits {
            open: AtomicUsize::new(0),
            most: 100,
            most_by_descriptors: 100,
            per_address: None,
            per_subject: None,
            values_per_subject: None,
            addresses: Mutex::default(),
            subjects: Mutex::default(),
            hasher: RandomState::new(),
            memory: Mutex::new(Memory { limit: None, is_short: false, looked_at: None }),
        };
        change(&mut limits);
        Arc::new(limits)
    }

    #[test]
    fn places_are_given_back() {
        let address = Some(IpAddr::from([127, 0, 0, 1]));
        let limits = limits(|limits| (limits.most, limits.per_address) = (3, Some(2)));
        let one = limits.take(address).unwrap();
        let two = limits.take(address).unwrap();
        assert_eq!(limits.take(address).unwrap_err(), Full::Address);
        let other = limits.take(Some(IpAddr::from([127, 0, 0, 2]))).unwrap();
        assert_eq!(limits.take(None).unwrap_err(), Full::Connections);
        drop((one, two, other));
        assert_eq!(limits.open.load(Ordering::Relaxed), 0);
        assert!(limits.addresses.lock().is_empty());
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let limits = limits(|limits| limits.per_address = Some(1));
        let take = |text: &str| limits.take(Some(text.parse().unwrap()));
        let one = take("2001:db8:0:1::1").unwrap();
        assert_eq!(take("2001:db8:0:1:ffff::2").unwrap_err(), Full::Address);
        let _other = take("2001:db8:0:2::1").unwrap();
        drop(one);
        take("2001:db8:0:1::3").unwrap();
    }

    #[test]
    fn a_caller_has_so_many_streams_and_so_many_values() {
        let limits =
            limits(|limits| (limits.per_subject, limits.values_per_subject) = (Some(3), Some(2)));
        let caller = |name: &str| Caller::new(Claims::of_subject(name), None);
        let open = |name: &str, values: &str| {
            let mut place = limits.take(None).unwrap();
            place.count_for(&caller(name), &values).map(|()| place)
        };
        let one = open("ada", "a").unwrap();
        let two = open("ada", "b").unwrap();
        assert_eq!(open("ada", "c").unwrap_err(), Full::Values);
        let three = open("ada", "a").unwrap();
        assert_eq!(open("ada", "a").unwrap_err(), Full::Subject);
        let bob = open("bob", "c").unwrap();
        drop(two);
        let four = open("ada", "c").unwrap();
        drop((one, three, four, bob));
        assert!(limits.subjects.lock().is_empty());
        assert_eq!(limits.open.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn something_is_left_for_the_proxy() {
        assert_eq!(most_by_descriptors(None), usize::MAX);
        for (limit, most) in
            [(20_000, 19_000), (1024, 960), (256, 192), (65, 1), (1 << 20, 1_044_480)]
        {
            assert_eq!(most_by_descriptors(Some(limit)), most, "{limit}");
        }
        let few = limits(|limits| limits.most_by_descriptors = 1);
        let _one = few.take(None).unwrap();
        assert_eq!(few.take(None).unwrap_err(), Full::Descriptors);
        let short = limits(|limits| limits.memory.get_mut().limit = Some(1));
        assert_eq!(short.take(None).unwrap_err(), Full::Memory);
        assert!(!is_short(87, 100) && is_short(88, 100));
    }

    #[test]
    fn what_is_taken_of_a_budget_is_given_back() {
        static BUDGET: ByteBudget = ByteBudget::new(10);
        let one = BUDGET.take(6).unwrap();
        assert!(BUDGET.take(5).is_none());
        let two = BUDGET.take(4).unwrap();
        drop(one);
        assert!(BUDGET.take(7).is_none());
        drop(two);
        assert!(BUDGET.take(10).is_some());
    }
}
