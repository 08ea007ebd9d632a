//! What the documents of all snapshots take together: see the law in [`super::shared`].

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::shared::Taken;

/// How long the clients of a new snapshot have before others may take its room.
const GRACE: Duration = Duration::from_secs(2);
/// How often it is looked whether clients have finished.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Kept {
    max_bytes: usize,
    snapshots: Mutex<Vec<Arc<Taken>>>,
}

impl Kept {
    pub fn new(max_bytes: usize) -> Kept {
        Kept { max_bytes, snapshots: Mutex::default() }
    }

    /// Waits until those that clients have begun to take leave room for another, or are no longer new.
    pub async fn has_room(&self) {
        let began = Instant::now();
        while self.busy_bytes() >= self.max_bytes && began.elapsed() < GRACE {
            sleep(LOOK).await;
        }
    }

    fn busy_bytes(&self) -> usize {
        let snapshots = self.snapshots.lock();
        let is_busy = |taken: &&Arc<Taken>| has_readers(taken) && taken.at.elapsed() < GRACE;
        snapshots.iter().filter(is_busy).map(|taken| taken.bytes).sum()
    }

    /// There is a newer one: lets go of this, unless somebody is being sent it.
    pub fn replace(&self, old: &Arc<Taken>) {
        self.snapshots.lock().retain(|taken| !Arc::ptr_eq(taken, old) || has_readers(taken));
    }

    pub fn keep(&self, taken: Arc<Taken>) {
        let mut snapshots = self.snapshots.lock();
        let mut bytes = taken.bytes + snapshots.iter().map(|taken| taken.bytes).sum::<usize>();
        if bytes > self.max_bytes {
            // Those to go first are last.
            let rank = |taken: &Arc<Taken>| (has_readers(taken), *taken.last_read.lock());
            snapshots.sort_by_cached_key(|taken| std::cmp::Reverse(rank(taken)));
            while bytes > self.max_bytes
                && let Some(gone) = snapshots.pop()
            {
                bytes -= gone.bytes;
            }
        }
        snapshots.push(taken);
    }
}

fn has_readers(taken: &Taken) -> bool {
    taken.readers.load(Ordering::Relaxed) > 0
}
