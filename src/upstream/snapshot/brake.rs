//! How long who has to begin a snapshot again waits before that, so that no loop arises: for one filter
//! with its values, whoever of its clients it is.

use std::time::Duration;

use tokio::time::Instant;

/// The pause from the second time on, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Who comes so soon after a pause begins again for the same reason, unless it did so after that pause.
const SAME: Duration = Duration::from_millis(500);
/// After so long, it is as if nothing had been.
const CALM: Duration = Duration::from_secs(120);

/// Which pause a client has begun again after, so that it does so once for each: 0 for none yet, and
/// 1 again after [`MAX_ROUND`].
pub type Round = u8;
/// In six bits, for those who keep one for each client.
pub const MAX_ROUND: Round = 0x3f;

/// The growing pause between restarts of the snapshots of one route.
#[derive(Debug, Default)]
pub(super) struct Brake {
    pause: Duration,
    /// When those of the last time may begin.
    until: Option<Instant>,
    /// Of the last time.
    round: Round,
}

impl Brake {
    /// When to begin, for a client that has begun again in this round, and its new round.
    pub fn next(&mut self, had: Round, now: Instant) -> (Instant, Round) {
        let Some(until) = self.until.filter(|until| now < *until + CALM) else {
            self.pause = Duration::ZERO;
            return self.begin(now);
        };
        let is_of_last_time = now < until || (now < until + SAME && had != self.round);
        if is_of_last_time {
            return (until, self.round);
        }
        let (first, longest) = PAUSE;
        self.pause = (self.pause * 2).clamp(first, longest);
        self.begin(now + self.pause)
    }

    fn begin(&mut self, at: Instant) -> (Instant, Round) {
        self.until = Some(at);
        self.round = self.round % MAX_ROUND + 1;
        (at, self.round)
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
        let (at, mut round) = brake.next(0, start);
        assert_eq!(at, start);
        // All of one route, for one reason.
        assert_eq!(brake.next(0, start + SAME / 2), (start, round));
        let mut now = start;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            // At once, since it has begun again after the last pause.
            let (at, next) = brake.next(round, now);
            assert_ne!(next, round);
            assert_eq!(brake.next(round, now + (at - now) / 2), (at, next));
            assert_eq!(brake.next(next, now + (at - now) / 2), (at, next));
            assert_eq!(brake.next(round, at + SAME / 2), (at, next));
            pauses.push((at - now).as_secs());
            (now, round) = (at, next);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert!(brake.is_of_use());
        assert_eq!(brake.next(round, now + CALM).0, now + CALM);
    }

    #[test]
    fn who_comes_late_for_the_first_time_waits_too() {
        let mut brake = Brake::default();
        let start = Instant::now();
        brake.next(0, start);
        assert_eq!(brake.next(0, start + SAME).0, start + SAME + PAUSE.0);
    }
}
