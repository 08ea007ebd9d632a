//! How long who has to begin a snapshot again waits before that, so that no loop arises: for one filter
//! with its values, whoever of its clients it is.

use std::time::Duration;

use tokio::time::Instant;

/// The pause from the second time on, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Who comes so soon after a pause begins again for the same reason.
const SAME: Duration = Duration::from_millis(500);
/// After so long, it is as if nothing had been.
const CALM: Duration = Duration::from_secs(120);

/// The growing pause between restarts of the snapshots of one route.
#[derive(Debug, Default)]
pub(super) struct Brake {
    pause: Duration,
    /// When those of the last time may begin.
    until: Option<Instant>,
}

impl Brake {
    /// When to begin.
    pub fn next(&mut self, now: Instant) -> Instant {
        let Some(until) = self.until.filter(|until| now < *until + CALM) else {
            self.pause = Duration::ZERO;
            self.until = Some(now);
            return now;
        };
        if now < until + SAME {
            return until;
        }
        let (first, longest) = PAUSE;
        self.pause = (self.pause * 2).clamp(first, longest);
        let next = now + self.pause;
        self.until = Some(next);
        next
    }

    /// Whether a new one would behave differently; false if nothing began again for two minutes.
    pub fn is_of_use(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until + CALM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_forgotten() {
        let mut brake = Brake::default();
        let start = Instant::now();
        let after = |now: Instant, brake: &mut Brake| brake.next(now) - now;
        assert_eq!(after(start, &mut brake), Duration::ZERO);
        // All of one route, for one reason.
        assert_eq!(brake.next(start + SAME / 2), start);
        let mut now = start + SAME;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let pause = after(now, &mut brake);
            assert_eq!(brake.next(now + pause / 2), now + pause);
            pauses.push(pause.as_secs());
            now += pause + SAME;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert!(brake.is_of_use());
        assert_eq!(after(now + CALM, &mut brake), Duration::ZERO);
    }
}
