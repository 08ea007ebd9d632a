//! What the sidecars' memory does meanwhile: sampled the whole time, held against what their
//! settings allow.
//!
//! The kernel's own high-water mark is read, so that nothing between two samples is missed; a
//! process that was killed counts with its last sample. One that was started again begins anew.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::support::process::{Memory, forget_peak, memory_of};

const SAMPLE: Duration = Duration::from_millis(50);
const MIB: u64 = 1 << 20;

/// Beyond what is counted here: the program itself, what the driver holds of a batch, what the
/// allocator has not given back yet, unoptimized code.
const SLACK: u64 = 48 * MIB;
/// Databases and image modes that are read; see the streams.
const FEEDS: u64 = 3;
/// Replays of one of these at a time.
const PASSES: u64 = 2;
/// What a client's stream holds at most: the write that is under way and what was read for the
/// next one, each 64 KiB, as deliveries and as they are sent.
const CLIENT: u64 = 256 * 1024;

/// What a sidecar with these settings may take beyond what it took when it began.
pub fn allowed(journal_bytes: u64, clients: u64) -> u64 {
    // As the documentation says: a quarter for deliveries and an eighth for looks back, but a
    // mebibyte at least; a quarter for the ring of a replay.
    let with_readers = |bytes: u64| bytes + (bytes / 4).max(MIB) + (bytes / 8).max(MIB);
    let feed = with_readers(journal_bytes) + PASSES * with_readers(journal_bytes / 4);
    FEEDS * feed + clients * CLIENT + SLACK
}

/// One process.
#[derive(Debug, Clone)]
struct Watched {
    sidecar: usize,
    id: u32,
    is_gone: bool,
    /// When it began to listen.
    start: u64,
    allowed: u64,
    before: u64,
    most: u64,
    now: u64,
}

/// One sidecar in one phase, all its processes together, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    pub before: u64,
    pub most: u64,
    pub after: u64,
    /// That of the process that came nearest to it.
    pub limit: u64,
}

pub struct Watch {
    watched: Arc<Mutex<Vec<Watched>>>,
    sampling: tokio::task::JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.sampling.abort();
    }
}

impl Watch {
    pub fn start() -> Watch {
        let watched: Arc<Mutex<Vec<Watched>>> = Arc::default();
        let all = watched.clone();
        let sampling = tokio::spawn(async move {
            loop {
                all.lock().iter_mut().for_each(Watched::sample);
                tokio::time::sleep(SAMPLE).await;
            }
        });
        Watch { watched, sampling }
    }

    /// A process has begun to listen.
    pub fn begin(&self, sidecar: usize, id: u32, allowed: u64) {
        let start = memory_of(id).map_or(0, |memory| memory.resident);
        self.watched.lock().push(Watched {
            sidecar,
            id,
            is_gone: false,
            start,
            allowed,
            before: start,
            most: start,
            now: start,
        });
    }

    /// The next phase begins.
    pub fn forget(&self) {
        let mut watched = self.watched.lock();
        watched.retain(|process| !process.is_gone);
        for process in watched.iter_mut() {
            forget_peak(process.id);
            process.most = 0;
            process.sample();
            process.before = process.now;
        }
    }

    /// What was seen since, by sidecar.
    pub fn figures(&self) -> Vec<Figures> {
        let mut watched = self.watched.lock();
        let mut figures = Vec::new();
        for process in watched.iter_mut() {
            process.sample();
            if figures.len() <= process.sidecar {
                figures.resize(process.sidecar + 1, Figures::default());
            }
            let sidecar = &mut figures[process.sidecar];
            if sidecar.before == 0 {
                sidecar.before = process.before;
            }
            let limit = process.start + process.allowed;
            if sidecar.limit == 0 || limit - limit.min(process.most) < sidecar.room() {
                (sidecar.most, sidecar.limit) = (process.most, limit);
            }
            sidecar.after = process.now;
        }
        figures
    }
}

impl Watched {
    fn sample(&mut self) {
        match memory_of(self.id) {
            Some(Memory { resident, most, .. }) => {
                self.now = resident;
                self.most = self.most.max(most);
            }
            None => self.is_gone = true,
        }
    }
}

impl Figures {
    fn room(&self) -> u64 {
        self.limit.saturating_sub(self.most)
    }

    pub fn is_over(&self) -> bool {
        self.most > self.limit
    }

    /// With another phase's.
    pub fn join(&mut self, other: &Figures) {
        if self.limit == 0 {
            *self = *other;
            return;
        }
        if other.most > self.most {
            (self.most, self.limit) = (other.most, other.limit);
        }
        self.after = other.after;
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mib = |bytes: u64| bytes.div_ceil(MIB);
        let (before, most, after) = (mib(self.before), mib(self.most), mib(self.after));
        write!(f, "{before} MiB, at most {most} of {}, then {after}", mib(self.limit))
    }
}
