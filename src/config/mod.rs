//! Settings: layers of what is written, merged and resolved to one validated [`Config`].
//!
//! Two types, as written and as resolved: [`Declared`] is what the layers say, each value with its
//! place; [`Config`] is what the rest of the program uses. Resolving is the only step that fails,
//! and it reports every mistake at once. Layers, lowest first: built-in defaults, the file,
//! `SIDESTREAM_*` environment variables, flags. Which keys there are, with their defaults and
//! ranges, is one table: [`SETTINGS`].
//!
//! This room and no other reads the settings file and the environment. Relative paths, wherever
//! they are written, start at the working directory, not at the settings file.

mod address;
mod auth;
mod layers;
mod resolve;
mod secret;
mod settings;
mod units;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::diagnostic::Diagnostic;

pub use address::AppAddress;
pub use auth::{Auth, ClaimsFrom, ForwardAuth, Jwt, JwtKey, TokenSource};
pub use layers::{Declared, Flags, Raw, Sources, Written};
pub use secret::{MongodbUri, Secret};
pub use settings::{Kind, SETTINGS, Setting};
pub use units::{Invalid, parse_duration, parse_size};

/// The settings, resolved: every value is in its range and every path is absolute or starts at the
/// working directory.
#[derive(Debug, Clone)]
pub struct Config {
    /// The public port. Port 0 takes any free one.
    pub listen: SocketAddr,
    /// Health, metrics and console. Port 0 takes any free one.
    pub admin: SocketAddr,
    /// The app behind the sidecar.
    pub app: AppAddress,
    /// The reserved path: starts with `/`, does not end with it, is not `/` alone, and holds only
    /// unreserved characters (RFC 3986) and `/`.
    pub prefix: String,
    /// The directory of filter files. It need not exist yet.
    pub filters: PathBuf,
    pub mongodb: Mongodb,
    pub replay: Replay,
    pub clients: Clients,
    /// How long the app may be silent in an answer: between two reads of it, once it has the whole
    /// request. At least 100 milliseconds; `None`: as long as it likes.
    pub app_read_timeout: Option<Duration>,
    pub auth: Auth,
    /// Whose `X-Forwarded-*` headers are believed.
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// After SIGTERM, streams are closed spread over this long. 0 to 1 hour.
    pub drain: Duration,
    /// TLS on the public port, where set.
    pub tls: Option<Tls>,
    pub log: Log,
}

/// Where the deployment is.
#[derive(Debug, Clone)]
pub struct Mongodb {
    pub uri: MongodbUri,
    /// Change streams at a time, replays included. 2 to 10,000.
    pub max_cursors: usize,
}

/// The journal in memory, and reading the oplog for what is older.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// How much recent history is kept in memory. 1 second to 24 hours.
    pub window: Duration,
    /// And at most this many bytes. 1 KiB to 1 TiB.
    pub max_bytes: usize,
    /// Replays from the oplog at the same time. 1 to 1,000.
    pub max_concurrent: usize,
}

/// What a client gets, and how much of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clients {
    /// How long a stream may be quiet. 100 milliseconds to 1 hour.
    pub heartbeat: Duration,
    /// The `retry` field of Server-Sent Events, before jitter. 10 milliseconds to 1 hour.
    pub retry: Duration,
    /// Open streams at the same time. 1 to 10,000,000.
    pub max_connections: usize,
    /// Open streams of one client address; `None`: no limit.
    pub max_connections_per_address: Option<usize>,
    /// Open streams of one signed-in caller; `None`: no limit.
    pub max_connections_per_subject: Option<usize>,
    /// Different parameter values that one signed-in caller listens with; `None`: no limit.
    pub max_values_per_subject: Option<usize>,
    /// Recent events kept ready for each filter and values; who lags by more is served from history.
    /// 1 to 1,000,000.
    pub max_buffered: usize,
    /// How long a stream may stay open, at least 1 second; `None`: no limit.
    pub max_duration: Option<Duration>,
    /// How long a client may take nothing of an answer, or send nothing of a request: between two
    /// reads or writes. 100 milliseconds to 1 hour.
    pub send_timeout: Duration,
    /// Requests to the app at the same time from one client address; `None`: as many as leave room
    /// for those of others.
    pub max_requests_per_address: Option<usize>,
}

/// Certificate and key, as PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    pub format: LogFormat,
    pub level: LogLevel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// As written in the settings; also a directive of `tracing_subscriber::EnvFilter`.
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

/// Every mistake in the settings; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    pub diagnostics: Vec<Diagnostic>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.diagnostics.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{diagnostic}")?;
        }
        Ok(())
    }
}

impl Config {
    /// Reads all layers and resolves them.
    ///
    /// # Errors
    /// Every mistake of every layer at once, each with its key, its place and what to do. A secret
    /// never shows in an error.
    pub fn load(sources: Sources) -> Result<Config, ConfigErrors> {
        let (declared, problems) = layers::declare(&sources);
        resolve::resolve(&declared, &sources.working_dir, problems)
    }
}
