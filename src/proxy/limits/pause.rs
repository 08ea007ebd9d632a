//! How long a client may make no progress, in either direction, measured from when it is first
//! waited for, not from the beginning of the request.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// The 408 response for a client whose request does not arrive.
pub const TOO_LATE: &str = "no more of the request's body arrived in time";
/// Who lets us wait longer than this is slow: large buffers do nothing for him.
const SLOW: Duration = Duration::from_secs(1);

/// One timer, made when somebody is waited for for the first time, and set anew only when it is
/// over: most waits end long before. Progress reads no clock.
#[derive(Debug)]
pub struct Pause {
    most: Duration,
    /// `None`: no client is waited for.
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pause {
    /// `most` is how long nothing may move.
    pub fn new(most: Duration) -> Pause {
        Pause { most, since: None, timer: None }
    }

    /// There was progress. Whether it was waited for for so long that it was slow.
    pub fn has_moved(&mut self) -> bool {
        self.since.take().is_some_and(|since| since.elapsed() >= SLOW)
    }

    /// Ready when nothing has moved for too long.
    pub fn poll_too_long(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = *self.since.get_or_insert_with(Instant::now) + self.most;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        loop {
            if timer.deadline() > until {
                timer.as_mut().reset(until);
            }
            ready!(timer.as_mut().poll(cx));
            if until <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_counted_from_the_last_progress() {
        let mut pause = Pause::new(Duration::from_secs(60));
        let began = Instant::now();
        for _ in 0..3 {
            let waited = poll_fn(|cx| pause.poll_too_long(cx));
            assert!(tokio::time::timeout(Duration::from_secs(59), waited).await.is_err());
            assert!(pause.has_moved());
        }
        assert!(!pause.has_moved());
        poll_fn(|cx| pause.poll_too_long(cx)).await;
        assert_eq!(began.elapsed().as_secs(), 3 * 59 + 60);
    }
}
