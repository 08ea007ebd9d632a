//! The open connections of the webhook's port, and which of them closes when there is no room.
//!
//! Any client that can reach the pod can hold connections for nothing. So a full port closes one of
//! them for each new one: the oldest that was never answered, or else the oldest that waits for its next
//! request. The API server's connections are answered at once, so clients that never ask cannot push
//! them out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

/// Not answered yet.
const NEW: u8 = 0;
const ANSWERING: u8 = 1;
/// Answered, and waiting for the next request.
const IDLE: u8 = 2;

/// What a connection says of itself. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Stage(Arc<AtomicU8>);

impl Stage {
    /// A request came. The first one does not count before it is answered.
    pub fn begin(&self) {
        let _ = self.0.compare_exchange(IDLE, ANSWERING, Ordering::AcqRel, Ordering::Acquire);
    }

    /// A request was answered.
    pub fn end(&self) {
        self.0.store(IDLE, Ordering::Release);
    }

    fn is(&self, stage: u8) -> bool {
        self.0.load(Ordering::Acquire) == stage
    }
}

/// The tasks of all connections, the oldest first.
#[derive(Debug)]
pub(super) struct Open {
    most: usize,
    tasks: JoinSet<()>,
    entries: Vec<(Stage, AbortHandle)>,
}

impl Open {
    /// `most`: connections at a time.
    pub fn new(most: usize) -> Open {
        Open { most, tasks: JoinSet::new(), entries: Vec::new() }
    }

    /// Makes room for one more, by closing another if need be. Says whether there is any.
    pub fn make_room(&mut self) -> bool {
        while self.tasks.try_join_next().is_some() {}
        self.entries.retain(|(_, task)| !task.is_finished());
        if self.entries.len() < self.most {
            return true;
        }
        let first = |wanted| self.entries.iter().position(|(stage, _)| stage.is(wanted));
        let Some(at) = first(NEW).or_else(|| first(IDLE)) else { return false };
        self.entries.remove(at).1.abort();
        true
    }

    /// Runs a connection, for which there is room.
    pub fn add(&mut self, stage: Stage, connection: impl Future<Output = ()> + Send + 'static) {
        let task = self.tasks.spawn(connection);
        self.entries.push((stage, task));
    }

    /// Waits until all have ended, for so long.
    pub async fn finish(mut self, patience: Duration) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let _ = timeout(patience, all).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn those_that_were_answered_stay_longest() {
        let mut open = Open::new(3);
        let stages: Vec<Stage> = (0..3).map(|_| Stage::default()).collect();
        for stage in &stages {
            assert!(open.make_room());
            open.add(stage.clone(), std::future::pending());
        }
        let is_open = |open: &Open, stage: &Stage| {
            open.entries.iter().any(|(other, _)| Arc::ptr_eq(&other.0, &stage.0))
        };
        // The first request of the second is under way: it counts when it is answered.
        stages[0].end();
        stages[1].begin();
        assert!(open.make_room() && !is_open(&open, &stages[1]));
        assert!(is_open(&open, &stages[0]) && is_open(&open, &stages[2]));
        stages[2].end();
        let third = Stage::default();
        open.add(third.clone(), std::future::pending());
        third.end();
        // All were answered, and one is being answered again.
        stages[0].begin();
        assert!(open.make_room() && !is_open(&open, &stages[2]));
        // When all are being answered, there is no room for another.
        third.begin();
        let busy = Stage::default();
        busy.end();
        busy.begin();
        open.add(busy, std::future::pending());
        assert!(!open.make_room());
        assert_eq!(open.entries.len(), 3);
    }
}
