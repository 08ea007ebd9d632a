//! The end of the process: streams are closed spread over `drain`, so that their clients do not
//! all reconnect to the other replicas at once.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// The share of the drain time over which streams are closed; the rest is for their last bytes.
const SPREAD: f64 = 0.8;

/// Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Drain {
    shared: Arc<DrainState>,
}

#[derive(Debug)]
struct DrainState {
    /// Whether it was said that the end is near.
    announced: AtomicBool,
    /// When draining began, once it has.
    began: OnceLock<Instant>,
    /// Said once, right after that. Idle streams do not wait for it: they are woken by the list of
    /// listeners.
    beginning: Notify,
    over: Duration,
    open: AtomicUsize,
    emptied: Notify,
}

/// A connection that has to end before the process may.
#[derive(Debug)]
pub struct DrainHold {
    shared: Arc<DrainState>,
}

impl Drain {
    /// Streams are closed at random moments within `over`, once it has begun.
    pub fn new(over: Duration) -> Drain {
        let shared = DrainState {
            announced: AtomicBool::new(false),
            began: OnceLock::new(),
            beginning: Notify::new(),
            over,
            open: AtomicUsize::new(0),
            emptied: Notify::new(),
        };
        Drain { shared: Arc::new(shared) }
    }

    /// Says that the end is near: readiness ends, so that load balancers look elsewhere, and
    /// everything else goes on until [`Drain::begin`].
    pub fn announce(&self) {
        self.shared.announced.store(true, Ordering::Release);
    }

    /// Whether new clients should go elsewhere.
    pub fn is_leaving(&self) -> bool {
        self.shared.announced.load(Ordering::Acquire) || self.has_begun()
    }

    /// Begins it; the first call counts.
    pub fn begin(&self) {
        if self.shared.began.set(Instant::now()).is_ok() {
            self.shared.beginning.notify_waiters();
        }
    }

    /// Whether [`Drain::begin`] was called: streams end, and connections close after their answer.
    pub fn has_begun(&self) -> bool {
        self.shared.began.get().is_some()
    }

    /// Resolves when draining begins.
    pub async fn begun(&self) {
        let beginning = self.shared.beginning.notified();
        if !self.has_begun() {
            beginning.await;
        }
    }

    /// How long after the beginning a stream ends: somewhere within the drain time.
    pub fn turn(&self) -> Duration {
        self.shared.over.mul_f64(fastrand::f64() * SPREAD)
    }

    /// Counts a connection as open until the result is dropped.
    pub fn hold(&self) -> DrainHold {
        self.shared.open.fetch_add(1, Ordering::AcqRel);
        DrainHold { shared: self.shared.clone() }
    }

    /// Waits until nothing is open any more, or the drain time is over, counted from its beginning
    /// however often this is called. Gives how many connections are open all the same.
    pub async fn finished(&self) -> usize {
        self.begun().await;
        let began = self.shared.began.get().copied().unwrap_or_else(Instant::now);
        let empty = async {
            loop {
                let emptied = self.shared.emptied.notified();
                tokio::pin!(emptied);
                emptied.as_mut().enable();
                if self.shared.open.load(Ordering::Acquire) == 0 {
                    return;
                }
                emptied.await;
            }
        };
        let _ = tokio::time::timeout_at(began + self.shared.over, empty).await;
        self.shared.open.load(Ordering::Acquire)
    }
}

impl Drop for DrainHold {
    fn drop(&mut self) {
        if self.shared.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_ends_with_the_last_connection_and_not_later() {
        let drain = Drain::new(Duration::from_secs(10));
        let held = drain.hold();
        drain.begin();
        let began = Instant::now();
        let closing = async {
            tokio::time::sleep(drain.turn()).await;
            drop(held);
        };
        tokio::join!(drain.finished(), closing);
        assert!(began.elapsed() < Duration::from_secs(9));
    }

    #[tokio::test(start_paused = true)]
    async fn it_does_not_wait_longer_than_it_may() {
        let drain = Drain::new(Duration::from_secs(10));
        let _held = drain.hold();
        drain.begin();
        let began = Instant::now();
        // As a loop does that also waits for other things.
        let _ = tokio::time::timeout(Duration::from_secs(4), drain.finished()).await;
        drain.finished().await;
        assert_eq!(began.elapsed().as_secs(), 10);
    }
}
