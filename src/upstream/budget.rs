//! How many change streams may be open at a time: `mongodb.max_cursors`.
//!
//! A change stream that waits for events holds one of the driver's connections, and scans the oplog
//! on the server. Without a limit, too many of them would take connections from each other and slow
//! all streams down. A stream beyond the limit waits, and this is reported.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use prometheus::IntGauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections beside those of the change streams: for opening them, and for looks at the server.
const OTHER_CONNECTIONS: usize = 16;
/// The same where the connection string has its own idea of the pool.
const FEW_CONNECTIONS: usize = 2;
/// The fewest change streams: a feed, and a replay for clients that come back.
const FEWEST_CURSORS: usize = 2;
/// What a smaller pool is raised to: in it, change streams that wait for events would keep all else
/// from MongoDB, and each other.
pub(super) const SMALLEST_POOL: u32 = 4;
const _: () = assert!(SMALLEST_POOL as usize == FEWEST_CURSORS + FEW_CONNECTIONS);
/// Of the change streams, one in so many is kept for replays.
const REPLAY_SHARE: usize = 16;

/// Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct CursorBudget {
    max_cursors: usize,
    /// Whether it is less than `mongodb.max_cursors`, since the connection string sets a small pool.
    is_cut: bool,
    /// Kept for replays.
    kept: usize,
    cursors: Arc<Semaphore>,
    /// Feeds hold theirs for long, and leave some to replays.
    feeds: Arc<Semaphore>,
}

/// Holds a change stream's place.
#[derive(Debug)]
pub struct CursorSlot {
    _cursor: OwnedSemaphorePermit,
    _feed: Option<OwnedSemaphorePermit>,
}

/// What a feed has when it is made: a change stream's place, or its turn to get one.
pub enum CursorPlace {
    Taken(CursorSlot),
    Waiting(Pin<Box<dyn Future<Output = CursorSlot> + Send>>),
}

/// A cursor that is counted as open.
pub(super) struct Counted(IntGauge);

impl Counted {
    /// One more in `gauge`, until it is dropped.
    pub fn new(gauge: &IntGauge) -> Counted {
        gauge.inc();
        Counted(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl CursorBudget {
    /// `max_cursors` is at least 2; `max_replays` at least 1; `pool` is what the connection string
    /// says of it: see [`pool_of`].
    pub fn new(max_cursors: usize, max_replays: usize, pool: Option<usize>) -> CursorBudget {
        // In MongoDB's words, a pool of 0 has no limit.
        let room = pool.filter(|pool| *pool > 0).map(|pool| pool.saturating_sub(FEW_CONNECTIONS));
        let most = room.map_or(max_cursors, |room| room.min(max_cursors)).max(FEWEST_CURSORS);
        let kept = (most / REPLAY_SHARE).clamp(1, max_replays);
        CursorBudget {
            max_cursors: most,
            is_cut: most < max_cursors,
            kept,
            cursors: Arc::new(Semaphore::new(most)),
            feeds: Arc::new(Semaphore::new(most - kept)),
        }
    }

    /// Without a limit worth mentioning.
    pub fn ample() -> CursorBudget {
        CursorBudget::new(1 << 16, 1, None)
    }

    /// Connections that the pool needs for these change streams, and so many snapshots at a time.
    pub fn pool(max_cursors: usize, max_snapshots: usize) -> u32 {
        let others = OTHER_CONNECTIONS.max(max_snapshots.saturating_add(FEW_CONNECTIONS));
        u32::try_from(max_cursors.saturating_add(others)).unwrap_or(u32::MAX)
    }

    /// How many feeds there is room for.
    pub fn feeds(&self) -> usize {
        self.max_cursors - self.kept
    }

    /// A feed's place, or its turn, which counts from this call on.
    pub fn line_up(&self) -> CursorPlace {
        let budget = self.clone();
        // Not held up by what else the task that asks has done.
        let mut turn = Box::pin(tokio::task::unconstrained(async move { budget.feed().await }));
        // A semaphore serves in the order in which it is first asked.
        match turn.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(slot) => CursorPlace::Taken(slot),
            Poll::Pending => CursorPlace::Waiting(turn),
        }
    }

    /// A feed's place, when one is free; in the order of asking.
    pub async fn feed(&self) -> CursorSlot {
        let feed = acquire(&self.feeds).await;
        CursorSlot { _cursor: acquire(&self.cursors).await, _feed: Some(feed) }
    }

    /// A replay's place, when one is free; in the order of asking.
    pub async fn replay(&self) -> CursorSlot {
        CursorSlot { _cursor: acquire(&self.cursors).await, _feed: None }
    }

    /// Why a feed has no place, and what to do.
    pub fn explain(&self) -> String {
        let CursorBudget { max_cursors, kept, .. } = self;
        let kept = match kept {
            1 => "one of them is".to_owned(),
            kept => format!("{kept} of them are"),
        };
        let (limit, what) = match self.is_cut {
            true => {
                ("maxPoolSize in mongodb.uri leaves room for", "raise maxPoolSize or remove it")
            }
            false => ("mongodb.max_cursors allows", "raise it"),
        };
        format!(
            "{limit} {max_cursors} change streams at a time ({kept} reserved for replays), and \
             all are in use: {what}, or use fewer databases and image modes in the filters"
        )
    }
}

async fn acquire(semaphore: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    loop {
        // It is never closed, so there is no error to hear of.
        if let Ok(permit) = semaphore.clone().acquire_owned().await {
            return permit;
        }
    }
}

/// `maxPoolSize`, where a connection string sets it.
pub fn pool_of(uri: &str) -> Option<usize> {
    let (_, options) = uri.split_once('?')?;
    let value = |option: &str| {
        let (name, value) = option.split_once('=')?;
        name.eq_ignore_ascii_case("maxPoolSize").then(|| value.parse().ok())?
    };
    options.split('&').find_map(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn feeds_leave_a_place_to_replays_and_replays_take_what_is_free() {
        let budget = CursorBudget::new(4, 8, None);
        let mut feeds = vec![budget.feed().await, budget.feed().await];
        let replays = [budget.replay().await, budget.replay().await];
        // A third feed would be within its share, and waits for a replay's end all the same.
        let taken = || match budget.line_up() {
            CursorPlace::Taken(slot) => Some(slot),
            CursorPlace::Waiting(_) => None,
        };
        assert!(taken().is_none());
        drop(replays);
        feeds.extend(taken());
        assert_eq!(feeds.len(), budget.feeds());
        assert!(taken().is_none());
        let replay = budget.replay().await;
        let waiting = budget.feed();
        tokio::pin!(waiting);
        let soon = std::time::Duration::from_secs(1);
        assert!(tokio::time::timeout(soon, waiting.as_mut()).await.is_err());
        feeds.pop();
        waiting.await;
        drop(replay);
    }

    #[tokio::test(start_paused = true)]
    async fn turns_come_in_the_order_of_lining_up_whoever_waits_first() {
        let budget = CursorBudget::new(2, 8, None);
        let only = budget.feed().await;
        let turn = || match budget.line_up() {
            CursorPlace::Waiting(turn) => turn,
            CursorPlace::Taken(_) => panic!("there was no place"),
        };
        let (mut first, mut second) = (turn(), turn());
        let soon = std::time::Duration::from_secs(1);
        assert!(tokio::time::timeout(soon, &mut second).await.is_err());
        drop(only);
        assert!(tokio::time::timeout(soon, &mut second).await.is_err());
        drop(tokio::time::timeout(soon, &mut first).await.expect("the first has its turn"));
        tokio::time::timeout(soon, &mut second).await.expect("then the second");
    }

    #[test]
    fn a_small_pool_is_a_smaller_budget() {
        let rows = [(256, None, 256), (256, Some(0), 256), (256, Some(10), 8), (4, Some(1), 2)];
        for (max_cursors, pool, expected) in rows {
            let budget = CursorBudget::new(max_cursors, 8, pool);
            assert_eq!(budget.max_cursors, expected);
            let is_about_the_pool = budget.explain().starts_with("maxPoolSize");
            assert_eq!(is_about_the_pool, expected < max_cursors);
        }
        for (uri, expected) in [
            ("mongodb://h/?replicaSet=a&maxpoolsize=12&w=1", Some(12)),
            ("mongodb://h/?maxPoolSize=x", None),
            ("mongodb://h/", None),
        ] {
            assert_eq!(pool_of(uri), expected, "{uri}");
        }
    }
}
