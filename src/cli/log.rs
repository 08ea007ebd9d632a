//! The log of `sidestream run`.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tracing::warn;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};
use crate::metrics::Metrics;
use crate::redact;

/// Lines that wait to be written, at most; the next ones are dropped.
const LOG_LINES: usize = 8192;

/// How often it is looked whether lines were dropped.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The log while it is written.
pub struct Writing {
    /// Writes out what is left when it is dropped.
    _guard: WorkerGuard,
    dropped: Dropped,
}

/// Lines that were not written, since whoever takes them is too slow. Cheap to clone; all clones are
/// one.
#[derive(Clone)]
pub struct Dropped {
    counter: ErrorCounter,
    told: Arc<AtomicUsize>,
}

impl Writing {
    /// A handle that goes on counting, for the task that reports lost lines.
    pub fn dropped(&self) -> Dropped {
        self.dropped.clone()
    }

    /// Says what was dropped last, and writes out what is left.
    pub fn finish(self) {
        self.dropped.tell();
    }
}

impl Dropped {
    /// Counts and tells them for as long as the process runs.
    pub async fn watch(self, metrics: Arc<Metrics>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            metrics.log_lines_dropped_total.inc_by(self.tell() as u64);
        }
    }

    /// Says how many there are since the last time.
    fn tell(&self) -> usize {
        let now = self.counter.dropped_lines();
        let lines = now.saturating_sub(self.told.swap(now, Ordering::Relaxed));
        if lines > 0 {
            warn!(lines, "lines of this log were dropped: what reads it is too slow");
        }
        lines
    }
}

/// A thread of its own writes the lines: a log whose reader or disk stalls must not stall streams,
/// nor the answers to probes.
pub fn start(log: Log) -> Writing {
    // These tell of every frame, and of every client that leaves; what matters of that we say
    // ourselves.
    let quiet = "h2=info,pingora=error,pingora_core=error,notify=error";
    let level = log.level.as_str();
    let filter = EnvFilter::new(format!("{level},{quiet}"));
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(LOG_LINES)
        .thread_name("log")
        .finish(std::io::stderr());
    let dropped = Dropped { counter: writer.error_counter(), told: Arc::default() };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match log.format {
        LogFormat::Json => builder.json().init(),
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
    }
    // With its place, and as a line like the others. Tasks that are supervised say what follows.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or_default();
        tracing::error!(place, "a bug, please report it: {}", redact::uris(message));
    }));
    Writing { _guard: guard, dropped }
}
