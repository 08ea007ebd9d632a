//! The log of `sidestream run`.

use std::io::IsTerminal;

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};
use crate::redact;

/// Lines that wait to be written, at most; the next ones are dropped.
const LOG_LINES: usize = 8192;

/// A thread of its own writes the lines: a log whose reader or disk stalls must not stall streams,
/// nor the answers to probes.
pub fn start(log: Log) -> WorkerGuard {
    // These tell of every frame, and of every client that leaves; what matters of that we say
    // ourselves.
    let quiet = "h2=info,pingora=error,pingora_core=error";
    let level = log.level.as_str();
    let filter = EnvFilter::new(format!("{level},{quiet}"));
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(LOG_LINES)
        .thread_name("log")
        .finish(std::io::stderr());
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
    guard
}
