//! One request at a time: callers that arrive while it is running wait for the same answer.

use std::future::Future;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::tasks::Tasks;

/// The request that is running, if there is one.
#[derive(Debug)]
pub struct Once<T> {
    // Held for a look or a swap, never across an await.
    asking: Mutex<Option<watch::Receiver<Option<T>>>>,
}

impl<T> Default for Once<T> {
    fn default() -> Once<T> {
        Once { asking: Mutex::new(None) }
    }
}

impl<T: Clone + Send + Sync + 'static> Once<T> {
    /// Asks, or waits for who does. The question runs in a task of its own, of this name: the one
    /// who began it may leave, and the others still get their answer. `None`: it panicked, or the
    /// process is ending.
    pub async fn ask<F>(
        &self,
        (tasks, name): (&Tasks, &'static str),
        question: impl FnOnce() -> F,
    ) -> Option<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut answer = self.begin((tasks, name), question);
        answer.wait_for(Option::is_some).await.ok()?.clone()
    }

    /// Asks without waiting, unless a request is already running.
    pub fn begin<F>(
        &self,
        (tasks, name): (&Tasks, &'static str),
        question: impl FnOnce() -> F,
    ) -> watch::Receiver<Option<T>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut asking = self.asking.lock();
        // Answered, or given up without an answer: either way over.
        let current = asking
            .as_ref()
            .filter(|answer| answer.borrow().is_none() && answer.has_changed().is_ok());
        if let Some(answer) = current {
            return answer.clone();
        }
        let (say, answer) = watch::channel(None);
        let question = question();
        tasks.spawn(name, async move {
            // Nobody may be left to hear it.
            say.send_replace(Some(question.await));
        });
        asking.insert(answer).clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_ask_once_and_later_again() {
        let once = Arc::new(Once::default());
        let count = Arc::new(AtomicUsize::new(0));
        let ask = |once: Arc<Once<usize>>, count: Arc<AtomicUsize>| async move {
            once.ask((&Tasks::default(), "question"), || async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                count.fetch_add(1, Ordering::Relaxed) + 1
            })
            .await
        };
        // The first one leaves before there is an answer.
        let first = ask(once.clone(), count.clone());
        assert!(tokio::time::timeout(Duration::from_millis(1), first).await.is_err());
        let all = (0..100).map(|_| tokio::spawn(ask(once.clone(), count.clone())));
        for answer in all.collect::<Vec<_>>() {
            assert_eq!(answer.await.unwrap(), Some(1));
        }
        assert_eq!(ask(once, count).await, Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_panics_leaves_nobody_waiting_and_is_asked_again() {
        let (once, tasks) = (Once::default(), Tasks::default());
        let ask = |panics: bool| {
            once.ask((&tasks, "question"), move || async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                assert!(!panics, "a bug");
            })
        };
        assert_eq!(tokio::join!(ask(true), ask(false)), (None, None));
        assert_eq!(ask(false).await, Some(()));
    }
}
