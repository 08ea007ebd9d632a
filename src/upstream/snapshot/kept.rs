//! What the documents of all snapshots take together: see the law in [`super::shared`].

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::taken::Taken;

/// How long the clients of a new snapshot have before others may take its room.
const GRACE: Duration = Duration::from_secs(2);
/// How often it is looked whether clients have finished.
const LOOK: Duration = Duration::from_millis(50);

/// The documents of all snapshots that are being sent, within a limit.
#[derive(Debug)]
pub(super) struct Kept {
    max_bytes: usize,
    snapshots: Mutex<Vec<Arc<Taken>>>,
}

impl Kept {
    /// `snapshot.max_bytes`, for the documents of all snapshots together.
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
        let is_new = |taken: &Taken| taken.completed_at().is_none_or(|at| at.elapsed() < GRACE);
        let is_busy = |taken: &&Arc<Taken>| taken.has_readers() && is_new(taken);
        snapshots.iter().filter(is_busy).map(|taken| taken.bytes()).sum()
    }

    /// There is a newer one: lets go of this, unless somebody is being sent it.
    pub fn replace(&self, old: &Arc<Taken>) {
        self.snapshots.lock().retain(|taken| !Arc::ptr_eq(taken, old) || taken.has_readers());
    }

    /// Adds a snapshot. If there is no room, others go: first those without readers, then those
    /// that were read least recently.
    pub fn keep(&self, taken: Arc<Taken>) {
        let mut snapshots = self.snapshots.lock();
        let mut bytes = taken.bytes() + snapshots.iter().map(|taken| taken.bytes()).sum::<usize>();
        if bytes > self.max_bytes {
            // Those to go first are last.
            let rank = |taken: &Arc<Taken>| (taken.has_readers(), taken.last_read());
            snapshots.sort_by_cached_key(|taken| std::cmp::Reverse(rank(taken)));
            while bytes > self.max_bytes
                && let Some(gone) = snapshots.pop()
            {
                bytes -= gone.bytes();
            }
        }
        snapshots.push(taken);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use bson::Timestamp;

    use super::*;
    use crate::event::Position;
    use crate::upstream::snapshot::taken::Chunk;
    use crate::upstream::snapshot::{Given, Reading};

    /// So large that what it takes beside its documents does not count.
    fn taken(kibibytes: usize) -> Arc<Taken> {
        let bytes = kibibytes * 1024;
        let taken = Taken::new(Position::before(Timestamp { time: 1, increment: 1 }));
        taken.add([Chunk { json: vec![b' '; bytes].into(), ends: Box::new([bytes as u32]) }]);
        taken.complete();
        Arc::new(taken)
    }

    #[tokio::test(start_paused = true)]
    async fn the_room_is_bounded_and_goes_to_those_who_take_it() {
        let kept = Kept::new(100 * 1024);
        let add = async |kibibytes: usize| {
            // So that one is older than the other.
            tokio::time::advance(Duration::from_millis(1)).await;
            let taken = taken(kibibytes);
            kept.keep(taken.clone());
            taken
        };
        let is_there = |of: &Weak<Taken>| of.strong_count() > 0;
        let (idle, read, slow) = (add(30).await, add(30).await, add(30).await);
        let slow_reading = Reading::new(&slow);
        tokio::time::advance(GRACE).await;
        let mut reading = Reading::new(&read);
        reading.next(1, 1);
        let all = [&idle, &slow, &read].map(Arc::downgrade);
        drop((idle, slow, read));
        assert_eq!(all.each_ref().map(is_there), [true; 3]);
        // Nobody is sent it.
        add(30).await;
        assert_eq!(all.each_ref().map(is_there), [false, true, true]);
        // Its client takes nothing.
        let newest = Arc::downgrade(&add(60).await);
        assert_eq!(all.each_ref().map(is_there), [false, false, true]);
        let mut slow_reading = slow_reading;
        let has_gone = |reading: &mut Reading| matches!(reading.next(1, 1), Given::Gone);
        assert!(has_gone(&mut slow_reading) && !has_gone(&mut reading));
        // One that is larger than everything has it alone.
        let large = Arc::downgrade(&add(300).await);
        assert!(is_there(&large) && !is_there(&newest) && has_gone(&mut reading));

        // Another waits a moment for the clients of a new one.
        let Some(large) = large.upgrade() else { panic!("it is there") };
        let reading = Reading::new(&large);
        let began = Instant::now();
        kept.has_room().await;
        assert!(began.elapsed() > GRACE / 2 && began.elapsed() <= GRACE + LOOK);
        drop(reading);
        let began = Instant::now();
        kept.has_room().await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
