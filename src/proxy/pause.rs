//! How long the body of a request may pause, whichever way it comes.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// A client has so long from one piece of a body to the next.
const PAUSE: Duration = Duration::from_secs(60);
/// What it is told then, as 408.
pub const TOO_LATE: &str = "the request's body did not come for a minute";

/// One timer, made when a body pauses for the first time, and set anew only when it is over.
#[derive(Debug)]
pub struct Pause {
    last_read: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Default for Pause {
    fn default() -> Pause {
        Pause { last_read: Instant::now(), timer: None }
    }
}

impl Pause {
    pub fn has_read(&mut self) {
        self.last_read = Instant::now();
    }

    /// Ready when nothing has been read for too long.
    pub fn poll_too_long(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = self.last_read + PAUSE;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if until <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
    }
}
