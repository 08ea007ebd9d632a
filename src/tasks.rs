//! The essential tasks of the process, in one supervised set.
//!
//! Invariants:
//!
//! - A panic is logged and counted. Then the task starts again ([`Tasks::keep`]), or the process is
//!   told to end ([`Tasks::require`]), or the task has ended ([`Tasks::spawn`]). The author of a
//!   task releases what others wait for, in `on_panic` or in a `Drop`.
//! - There are too many connections for a supervisor each, and no task waits for one. Their panics
//!   are counted ([`PanicCount`]), and their clients see the connection end.
//! - [`Tasks::stop`] drops every task at its current await, and [`Tasks::finished`] waits until
//!   they are gone. What they hold (cursors) is thus closed before what it depends on (the MongoDB
//!   client).

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::{IntCounterVec, Opts};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::error;

use crate::metrics::Metrics;

/// First and longest pause before a task that panicked starts again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// A task that ran for so long may panic as if for the first time.
const HEALTHY: Duration = Duration::from_secs(60);

/// Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Tasks(Arc<Set>);

#[derive(Debug)]
struct Set {
    /// By the name of the task.
    panics: IntCounterVec,
    stop: watch::Sender<bool>,
    running: AtomicUsize,
    ended: Notify,
    /// What cannot go on, once something cannot.
    failed: watch::Sender<Option<String>>,
    /// Tasks that a test wants to see panic.
    faults: Mutex<Vec<String>>,
    faulted: Notify,
}

impl Tasks {
    /// An empty set, whose panics are counted there.
    pub fn new(metrics: &Metrics) -> Tasks {
        Tasks::counting(metrics.task_panics_total.clone())
    }

    /// A set whose panics are counted here, by the name of the task.
    pub fn counting(panics: IntCounterVec) -> Tasks {
        Tasks(Arc::new(Set {
            panics,
            stop: watch::Sender::new(false),
            running: AtomicUsize::new(0),
            ended: Notify::new(),
            failed: watch::Sender::new(None),
            faults: Mutex::default(),
            faulted: Notify::new(),
        }))
    }

    /// Runs a task once.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let set = self.0.clone();
        self.start(async move {
            if let Err(panic) = set.run(name, task).await {
                error!(task = name, "a task panicked and has ended: {panic}");
            }
        });
    }

    /// Runs a task until it ends by itself, again and again after panics, with a growing pause.
    /// `on_panic` is called before the pause.
    pub fn keep<F>(
        &self,
        name: &'static str,
        on_panic: impl Fn(&str) + Send + 'static,
        mut make: impl FnMut() -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let set = self.0.clone();
        self.start(async move {
            let mut panics = 0u32;
            loop {
                let began = Instant::now();
                let Err(panic) = set.run(name, make()).await else { return };
                on_panic(&panic);
                panics = if began.elapsed() >= HEALTHY { 1 } else { panics.saturating_add(1) };
                let (first, longest) = BACKOFF;
                let pause = first.saturating_mul(1 << (panics - 1).min(10)).min(longest);
                error!(task = name, retry_in = ?pause, "a task panicked and is restarted: {panic}");
                tokio::time::sleep(pause).await;
            }
        });
    }

    /// Runs a task without which there is no use in going on: see [`Tasks::failed`].
    pub fn require(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let set = self.0.clone();
        self.start(async move {
            if let Err(panic) = set.run(name, task).await {
                error!(
                    task = name,
                    "a task panicked, and the sidecar cannot run without it: \
                                     {panic}"
                );
                set.failed.send_replace(Some(format!("{name}: {panic}")));
            }
        });
    }

    /// Resolves when a required task has panicked, with its name and what it said.
    pub async fn failed(&self) -> String {
        let mut failed = self.0.failed.subscribe();
        loop {
            if let Some(reason) = failed.borrow_and_update().clone() {
                return reason;
            }
            // The sender lives in `self`, so there is no error to hear of.
            let _ = failed.changed().await;
        }
    }

    /// Ends every task where it awaits.
    pub fn stop(&self) {
        self.0.stop.send_replace(true);
    }

    /// Waits until every task is gone.
    pub async fn finished(&self) {
        loop {
            let mut ended = pin!(self.0.ended.notified());
            // From here on an end is heard, also one that comes before the await.
            ended.as_mut().enable();
            if self.0.running.load(Ordering::Acquire) == 0 {
                return;
            }
            ended.await;
        }
    }

    /// For tests: makes a running task of this name panic.
    pub fn make_panic(&self, name: &str) {
        self.0.faults.lock().push(name.to_owned());
        self.0.faulted.notify_waiters();
    }

    fn start(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.running.fetch_add(1, Ordering::AcqRel);
        let running = Running(self.0.clone());
        let mut stopped = self.0.stop.subscribe();
        tokio::spawn(async move {
            // Given back last, when what the task holds is gone.
            let _running = running;
            // Boxed, so that it is gone at the end of the `select!`, and not with this future.
            let task = Box::pin(task);
            tokio::select! {
                () = task => {}
                // An error means that whoever could say it is gone: the same.
                _ = stopped.wait_for(|stop| *stop) => {}
            }
        });
    }
}

impl Default for Tasks {
    /// A set whose panics are not counted.
    fn default() -> Tasks {
        let opts = Opts::new("task_panics_total", "Panics.");
        // One label, and both names are good: a test makes one.
        let panics = IntCounterVec::new(opts, &["task"]).expect("a counter is well formed");
        Tasks::counting(panics)
    }
}

impl Set {
    /// Runs a task to its end, or to its panic, which is counted.
    async fn run(&self, name: &'static str, task: impl Future<Output = ()>) -> Result<(), String> {
        let ended = caught(async {
            tokio::select! {
                () = task => {}
                () = self.fault(name) => panic!("a test wants this task to panic"),
            }
        });
        let ended = Box::pin(ended).await;
        if ended.is_err() {
            self.panics.with_label_values(&[name]).inc();
        }
        ended
    }

    async fn fault(&self, name: &str) {
        loop {
            let mut faulted = pin!(self.faulted.notified());
            faulted.as_mut().enable();
            {
                let mut faults = self.faults.lock();
                if let Some(place) = faults.iter().position(|fault| fault == name) {
                    faults.remove(place);
                    return;
                }
            }
            faulted.await;
        }
    }
}

/// Held by a task without a supervisor, counts its panic.
#[derive(Debug)]
pub struct PanicCount {
    panics: IntCounterVec,
    name: &'static str,
}

impl PanicCount {
    /// `panics` has the label `task`, which is set to `name`.
    pub fn new(panics: &IntCounterVec, name: &'static str) -> PanicCount {
        PanicCount { panics: panics.clone(), name }
    }
}

impl Drop for PanicCount {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.panics.with_label_values(&[self.name]).inc();
        }
    }
}

/// A task that has not ended.
struct Running(Arc<Set>);

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.ended.notify_waiters();
        }
    }
}

/// What a future gives, or what it said when it panicked; it is not polled again after that.
async fn caught<F: Future>(future: F) -> Result<F::Output, String> {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| {
        // Nothing that it may have left half done is looked at again but what is shared with
        // others, and that is behind locks of its own.
        let polled = AssertUnwindSafe(|| future.as_mut().poll(cx));
        match std::panic::catch_unwind(polled) {
            Ok(polled) => polled.map(Ok),
            Err(panic) => Poll::Ready(Err(message(&*panic))),
        }
    })
    .await
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    crate::redact::uris(&text.unwrap_or_else(|| "no reason given".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(tasks: &Tasks, name: &str) -> u64 {
        tasks.0.panics.with_label_values(&[name]).get()
    }

    #[tokio::test(start_paused = true)]
    async fn a_kept_task_starts_again_and_pauses_longer_each_time() {
        let tasks = Tasks::default();
        let starts = Arc::new(Mutex::new(Vec::new()));
        let said = Arc::new(Mutex::new(Vec::new()));
        let began = Instant::now();
        tasks.keep(
            "odd",
            {
                let said = said.clone();
                move |panic| said.lock().push(panic.to_owned())
            },
            {
                let starts = starts.clone();
                move || {
                    let mut starts = starts.lock();
                    starts.push(began.elapsed().as_millis());
                    let number = starts.len();
                    async move { assert!(number > 3, "number {number}") }
                }
            },
        );
        tasks.finished().await;
        assert_eq!(*starts.lock(), [0, 100, 300, 700]);
        assert_eq!(*said.lock(), ["number 1", "number 2", "number 3"]);
        assert_eq!(counted(&tasks, "odd"), 3);
    }

    #[tokio::test]
    async fn a_panic_of_a_task_of_its_own_is_counted_and_its_end_is_not() {
        let tasks = Tasks::default();
        for panics in [false, true] {
            let count = PanicCount::new(&tasks.0.panics, "connection");
            let task = tokio::spawn(async move {
                let _count = count;
                assert!(!panics, "a bug");
            });
            assert_eq!(task.await.is_err(), panics);
            assert_eq!(counted(&tasks, "connection"), u64::from(panics));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_required_task_says_that_it_failed_and_the_set_outlives_it() {
        let tasks = Tasks::default();
        tasks.require("port", std::future::pending());
        let other = Arc::new(());
        tasks.spawn("other", {
            let other = other.clone();
            async move {
                let _held = other;
                std::future::pending::<()>().await;
            }
        });
        tasks.make_panic("port");
        assert!(tasks.failed().await.starts_with("port: "));
        assert_eq!(Arc::strong_count(&other), 2);
        tasks.stop();
        tasks.finished().await;
        assert_eq!(Arc::strong_count(&other), 1);
    }
}
