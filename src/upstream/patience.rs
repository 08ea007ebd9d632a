//! How long a server may be silent.
//!
//! A frozen server keeps its connections open, and a connection can be lost without notice. But a
//! busy server may need long, since the oplog may hold many entries that the pipeline leaves out.
//! Each time in a row that the server is silent, it may therefore take twice as long.

use std::future::Future;
use std::time::Duration;

use mongodb::error::Error;

/// For an answer of a cursor that is open.
const STALL: Duration = Duration::from_secs(15);
const MAX_DOUBLINGS: u32 = 6;

/// No answer came within this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no answer within {0:?}")]
pub struct Silence(pub Duration);

impl From<Silence> for Error {
    fn from(silence: Silence) -> Error {
        Error::custom(silence)
    }
}

/// Counts the silences since something was gained.
#[derive(Debug, Default)]
pub struct Patience {
    stalls: u32,
}

impl Patience {
    /// For the next answer.
    pub fn limit(&self) -> Duration {
        STALL * (1 << self.stalls.min(MAX_DOUBLINGS))
    }

    /// Something was gained, so that a new attempt would begin further on.
    pub fn gained(&mut self) {
        self.stalls = 0;
    }

    /// The next answer of an open cursor.
    ///
    /// # Errors
    /// That it takes too long.
    pub async fn answer<T>(&mut self, answer: impl Future<Output = T>) -> Result<T, Silence> {
        self.within(self.limit(), answer).await
    }

    /// What takes more than one answer: opening a cursor.
    ///
    /// # Errors
    /// Those of what is opened, and that it takes too long.
    pub async fn open<T, E: From<Silence>>(
        &mut self,
        opening: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        self.within(2 * self.limit(), opening).await?
    }

    async fn within<T>(
        &mut self,
        limit: Duration,
        what: impl Future<Output = T>,
    ) -> Result<T, Silence> {
        let done = tokio::time::timeout(limit, what).await;
        done.map_err(|_| {
            self.stalls += 1;
            Silence(limit)
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_may_take_twice_as_long_each_time() {
        let mut patience = Patience::default();
        let mut waited = Vec::new();
        for _ in 0..3 {
            let began = Instant::now();
            assert!(patience.answer(std::future::pending::<()>()).await.is_err());
            waited.push(began.elapsed().as_secs());
        }
        assert_eq!(waited, [15, 30, 60]);
        // A scan of a minute and a half is let finish, and does not make it forget.
        let scan = tokio::time::sleep(Duration::from_secs(90));
        assert!(patience.answer(scan).await.is_ok());
        assert_eq!(patience.limit(), Duration::from_secs(120));
        patience.gained();
        assert_eq!(patience.limit(), Duration::from_secs(15));
        let opening = std::future::pending::<Result<(), Silence>>();
        assert_eq!(patience.open(opening).await, Err(Silence(Duration::from_secs(30))));
        assert_eq!(patience.limit(), Duration::from_secs(30));
    }
}
