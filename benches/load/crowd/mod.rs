//! Many clients of event streams: counts what comes, and checks that each client gets every event that is
//! its own once and in order.
//!
//! They speak SSE, plain or compressed, NDJSON, long poll, or what is spoken over WebSocket. The crowd
//! shares the machine with what it measures, so it has to be cheap, in time and in memory. It reads in as
//! many threads as there are processors: one alone would still read while a server with a thread for each
//! has long sent everything, and what is measured would be the crowd.

mod client;
mod part;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use self::part::{Bell, Part};
use super::websocket::Speaks;

/// Connections opened before their answers are waited for: less than any server's backlog.
pub const WAVE: usize = 400;
/// Ports of one source address that are used: there are 28,000 by default, others want some.
const PER_ADDRESS: usize = 5_000;
/// Source addresses: 127.1.0.0 to 127.200.255.255. Each crowd takes the next ones, since the ports of
/// a crowd that has just left stay taken for a minute (TIME_WAIT).
const ADDRESSES: usize = 200 << 16;
static NEXT_ADDRESS: AtomicUsize = AtomicUsize::new(0);
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a thread waits for something to read before it looks at the clock.
const TURN: Duration = Duration::from_millis(50);

/// Which events a client should get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    All,
    /// Everything once, but in no order: from servers that keep none. Up to 64 events.
    AnyOrder,
    /// Those whose `seq` modulo the second number is the first.
    Key(u64, u64),
}

/// What the crowd has seen so far.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// Streams that were answered.
    pub opened: u64,
    pub events: u64,
    pub bytes: u64,
    /// Events that came twice, out of order, or to the wrong client.
    pub wrong: u64,
    /// `event: reset` and `event: end`.
    pub resets: u64,
    /// Connections that ended.
    pub closed: u64,
    /// `event: ready`, and whole answers to those who fetch.
    pub ready: u64,
    /// When the last event came, or the last `ready`.
    pub last: Option<Instant>,
    /// Microseconds from the stamp in an event to its arrival, where they are kept.
    pub latencies: Option<Vec<(u64, u32)>>,
}

impl Seen {
    /// With what another part has seen; its latencies are taken.
    fn add(&mut self, part: &mut Seen) {
        self.opened += part.opened;
        self.events += part.events;
        self.bytes += part.bytes;
        self.wrong += part.wrong;
        self.resets += part.resets;
        self.closed += part.closed;
        self.ready += part.ready;
        self.last = self.last.max(part.last);
        if let (Some(all), Some(some)) = (&mut self.latencies, &mut part.latencies) {
            all.append(some);
        }
    }
}

/// What is waited for, over all parts.
#[derive(Debug, Default)]
struct Progress {
    opened: AtomicU64,
    events: AtomicU64,
    ready: AtomicU64,
    is_over: AtomicBool,
}

pub struct Crowd {
    /// A thread reads each of them. Client n is in part n modulo their number.
    parts: Vec<Part>,
    /// Ends a wait of all parts.
    bell: Bell,
    clients: usize,
    /// The number of the first of its source addresses.
    first_address: usize,
    pub seen: Seen,
}

impl Crowd {
    /// Opens streams, the path and what is wanted by each client's number.
    pub fn open(
        address: SocketAddr,
        count: usize,
        ask: impl Fn(usize) -> (String, Wants),
    ) -> Result<Crowd, String> {
        Crowd::open_as(Speaks::Sse, WAVE, address, count, ask)
    }

    pub fn open_as(
        speaks: Speaks,
        wave: usize,
        address: SocketAddr,
        count: usize,
        ask: impl Fn(usize) -> (String, Wants),
    ) -> Result<Crowd, String> {
        let bell = Bell::new()?;
        let threads = available_parallelism().map_or(1, usize::from);
        let parts = (0..threads).map(|_| Part::new(&bell)).collect::<Result<_, _>>()?;
        let first_address =
            NEXT_ADDRESS.fetch_add(count.div_ceil(PER_ADDRESS).max(1), Ordering::Relaxed);
        let mut crowd = Crowd { parts, bell, clients: 0, first_address, seen: Seen::default() };
        while crowd.clients < count {
            for number in crowd.clients..(crowd.clients + wave).min(count) {
                let source = source_address(crowd.first_address + number / PER_ADDRESS);
                let part = &mut crowd.parts[number % threads];
                part.add((source.into(), address), speaks, ask(number))
                    .map_err(|error| format!("client {number}: {error}"))?;
                crowd.clients += 1;
            }
            let all = crowd.clients as u64;
            if !crowd.read(PATIENCE, |so_far| so_far.opened.load(Ordering::Relaxed) >= all)? {
                return Err(format!("{} of {all} streams were opened", crowd.seen.opened));
            }
        }
        Ok(crowd)
    }

    /// Reads until so many events have come since the crowd was opened; says whether they have.
    pub fn read_until(&mut self, events: u64, patience: Duration) -> Result<bool, String> {
        self.read(patience, |so_far| so_far.events.load(Ordering::Relaxed) >= events)
    }

    /// Reads until so many clients are ready; says whether they are.
    pub fn read_until_ready(&mut self, clients: u64, patience: Duration) -> Result<bool, String> {
        self.read(patience, |so_far| so_far.ready.load(Ordering::Relaxed) >= clients)
    }

    /// Reads for a while, whatever comes.
    pub fn read_for(&mut self, time: Duration) -> Result<(), String> {
        self.read(time, |_| false).map(drop)
    }

    /// How many clients have not had exactly what they should, of `events` from zero on.
    pub fn unserved(&self, events: u64) -> usize {
        self.parts.iter().map(|part| part.unserved(events)).sum()
    }

    /// Reads until this is so, in all threads; says whether it is.
    fn read(
        &mut self,
        patience: Duration,
        is_enough: impl Fn(&Progress) -> bool + Sync,
    ) -> Result<bool, String> {
        let until = Instant::now() + patience;
        let so_far = Progress {
            opened: self.seen.opened.into(),
            events: self.seen.events.into(),
            ready: self.seen.ready.into(),
            is_over: AtomicBool::new(false),
        };
        if is_enough(&so_far) {
            return Ok(true);
        }
        let (bell, keeps_latencies) = (&self.bell, self.seen.latencies.is_some());
        let read = |part: &mut Part| {
            if keeps_latencies {
                part.seen.latencies.get_or_insert_default();
            }
            let read = part.read(&so_far, until, &is_enough);
            if !so_far.is_over.swap(true, Ordering::Relaxed) {
                bell.ring();
            }
            read
        };
        let (first, others) = self.parts.split_first_mut().expect("there is one at least");
        let results = std::thread::scope(|threads| {
            let others: Vec<_> =
                others.iter_mut().map(|part| threads.spawn(|| read(part))).collect();
            let first = read(first);
            let others = others.into_iter().map(|thread| thread.join().expect("a part reads"));
            others.fold(first, |all, one| all.and(one))
        });
        self.bell.quieten();
        let latencies = self.seen.latencies.take();
        self.seen = Seen { latencies, ..Seen::default() };
        for part in &mut self.parts {
            self.seen.add(&mut part.seen);
        }
        results?;
        Ok(is_enough(&so_far))
    }
}

/// The loopback address with this number.
fn source_address(number: usize) -> [u8; 4] {
    let number = number % ADDRESSES;
    // Below 200, and two bytes: nothing is cut off.
    [127, 1 + (number >> 16) as u8, (number >> 8) as u8, number as u8]
}
