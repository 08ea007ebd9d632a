//! Rate-limited log lines, for events that clients can cause.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::warn;

/// The minimum time between two lines of a kind.
const PAUSE: Duration = Duration::from_secs(10);

/// One kind of line.
#[derive(Debug, Default)]
pub(crate) struct Limited(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    written_at: Option<Instant>,
    /// Since then.
    passed_over: u64,
}

impl Limited {
    /// Its first line is written at once.
    pub const fn new() -> Limited {
        Limited(Mutex::new(State { written_at: None, passed_over: 0 }))
    }

    /// Logs a warning, unless there was one recently; the next one says how many were left out.
    pub fn warn(&self, text: &str) {
        match self.turn() {
            None => {}
            Some(0) => warn!("{text}"),
            Some(more) => warn!("{text} (and {more} more times since the last line)"),
        }
    }

    /// How many were left out, if a line is due.
    pub fn turn(&self) -> Option<u64> {
        let mut state = self.0.lock();
        if state.written_at.is_some_and(|at| at.elapsed() < PAUSE) {
            state.passed_over += 1;
            return None;
        }
        state.written_at = Some(Instant::now());
        Some(std::mem::take(&mut state.passed_over))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_in_a_while_with_the_number_of_the_others() {
        let limited = Limited::default();
        assert_eq!(limited.turn(), Some(0));
        assert_eq!((0..1000).filter_map(|_| limited.turn()).count(), 0);
        tokio::time::advance(PAUSE).await;
        assert_eq!(limited.turn(), Some(1000));
    }
}
