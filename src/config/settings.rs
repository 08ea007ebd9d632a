//! The settings: each is declared here once, in its group. Those of `auth`, `tls` and `ids`, which
//! depend on each other, are in files of their own.
//!
//! How a declaration is made, and what comes of it, is in [`super::setting`].

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::address::AppAddress;
use super::auth::Auth;
use super::ids::Ids;
use super::secret::MongodbUri;
use super::setting::{
    DAY, HOUR, MILLISECOND, SECOND, Setting, SettingKind, count, declared, duration, limit,
    settings, unset,
};
use super::tls::Tls;
use super::value::{Endpoint, Group, Words};

const KIB: u64 = 1024;
const TIB: u64 = KIB * KIB * KIB * KIB;

/// Every declaration, in the order of the documentation.
pub(super) fn declarations() -> Vec<Setting> {
    let mut settings = Vec::new();
    Config::declare(&mut settings);
    settings
}

settings! {
    /// The settings, resolved: every value is in its range and every path is absolute or starts at
    /// the working directory.
    pub struct Config in "" {
        /// The public address. Port 0 takes any free port.
        listen: SocketAddr = declared(SettingKind::Address, "0.0.0.0:8080").flag("--listen"),
        /// The address of health, metrics and console: never on the public port.
        admin: SocketAddr = declared(SettingKind::Address, "127.0.0.1:9180").flag("--admin"),
        /// An address that serves only `/healthz`, `/readyz` and `/metrics`, for kubelet and
        /// Prometheus, for example `0.0.0.0:9181`; empty: off.
        probes: Option<SocketAddr> = declared(SettingKind::Address, "").flag("--probes"),
        /// The app behind the sidecar: `http://`, `https://` or `unix:/path`.
        app: AppAddress = declared(SettingKind::App, "http://127.0.0.1:3000").flag("--app"),
        /// The reserved path.
        prefix: String = declared(SettingKind::Prefix, "/_events").flag("--prefix"),
        /// The directory of filter files, watched for changes. It may be created later.
        filters: PathBuf = declared(SettingKind::Path, "./filters").flag("--filters"),
        /// How long the app may send nothing of a response, once it has the whole request; `0s`:
        /// no limit.
        app_read_timeout: Option<Duration> = limit("0s", MILLISECOND.saturating_mul(100), DAY),
        /// Networks whose `X-Forwarded-*` headers are trusted.
        trusted_proxies: Vec<IpNet> = declared(SettingKind::Networks, "127.0.0.0/8"),
        /// The time over which streams are closed after SIGTERM.
        drain: Duration = duration("10s", Duration::ZERO, HOUR),
        ..
        /// The MongoDB deployment.
        mongodb: Mongodb,
        /// Recent events in memory, and reading older ones from the oplog.
        replay: Replay,
        /// Streams and requests of clients, and their limits.
        clients: Clients,
        /// The matching documents that a stream with `snapshot: true` begins with.
        snapshot: Snapshot,
        /// How callers are authenticated.
        auth: Auth,
        /// TLS on the public port, if set.
        tls: Option<Tls>,
        /// The form of the ids that clients see.
        ids: Ids,
        /// Traces for OpenTelemetry.
        trace: Trace,
        /// The console on the admin port.
        console: Console,
        /// The log.
        log: Log,
    }
}

settings! {
    /// The MongoDB deployment.
    pub struct Mongodb in "mongodb." {
        /// The connection string.
        uri: MongodbUri =
            declared(SettingKind::Mongodb, "mongodb://127.0.0.1:27017/?replicaSet=rs0").flag("--mongodb"),
        /// Change streams that may be open at the same time, replays included.
        max_cursors: usize = count("256", 2, 10_000),
    }
}

settings! {
    /// Recent events in memory, and reading older ones from the oplog.
    #[derive(PartialEq, Eq)]
    pub struct Replay in "replay." {
        /// How much recent history is kept in memory.
        window: Duration = duration("2m", SECOND, DAY),
        /// The maximum size of the history in memory, for each database and image mode, in bytes.
        max_bytes: usize = declared(SettingKind::Size { least: KIB, most: TIB }, "64MiB"),
        /// Replays of older events from the oplog at the same time.
        max_concurrent: usize = count("8", 1, 1000),
    }
}

settings! {
    /// Streams and requests of clients, and their limits.
    #[derive(PartialEq, Eq)]
    pub struct Clients in "clients." {
        /// The longest time in which a stream sends nothing.
        heartbeat: Duration = duration("15s", MILLISECOND.saturating_mul(100), HOUR),
        /// The `retry` field of Server-Sent Events: how long a browser waits after a cut; jittered.
        retry: Duration = duration("2s", MILLISECOND.saturating_mul(10), HOUR),
        /// Open streams at the same time.
        max_connections: usize = count("100000", 1, 10_000_000),
        /// Open streams of one client address; an IPv6 network (/64) counts as one address. 0: no
        /// limit.
        max_connections_per_address: Option<usize> = count("0", 0, 10_000_000),
        /// Open streams of one signed-in caller; 0: no limit.
        max_connections_per_subject: Option<usize> = count("0", 0, 10_000_000),
        /// Different parameter values in the open streams of one signed-in caller; 0: no limit.
        max_values_per_subject: Option<usize> = count("1000", 0, 10_000_000),
        /// Streams on one connection. Under one id, as `?stream=a&stream=b`, it is 32 at most; a
        /// WebSocket to which `subscribe` adds streams may have more.
        max_streams_per_connection: usize = count("32", 1, 1000),
        /// Requests to the app at the same time from one client address; 0: a share that leaves
        /// room for other addresses.
        max_requests_per_address: Option<usize> = count("0", 0, 10_000_000),
        /// Recent events kept ready for each filter and set of values; slower clients are served
        /// from history.
        max_buffered: usize = count("256", 1, 1_000_000),
        /// How long a stream may stay open; `0s`: no limit.
        max_duration: Option<Duration> = limit("0s", SECOND, DAY.saturating_mul(365)),
        /// A client that takes nothing of a response, or sends nothing of a request, for this long
        /// is disconnected.
        send_timeout: Duration = duration("60s", MILLISECOND.saturating_mul(100), HOUR),
        /// How Server-Sent Events and NDJSON are compressed for clients that accept it, best first;
        /// empty: not at all.
        compression: Vec<Compression> = declared(
            SettingKind::Words { words: Compression::NAMES, example: "[gzip]" },
            "",
        ),
    }
}

settings! {
    /// The matching documents that a stream with `snapshot: true` begins with.
    #[derive(Copy, PartialEq, Eq)]
    pub struct Snapshot in "snapshot." {
        /// The maximum number of documents in one snapshot; a stream that needs more is ended.
        max_documents: usize = count("10000", 1, 10_000_000),
        /// The maximum size of one snapshot as BSON, and of the snapshots kept for further clients;
        /// in bytes.
        max_bytes: usize = declared(SettingKind::Size { least: KIB, most: TIB }, "16MiB"),
        /// How long the query of one snapshot may take.
        max_time: Duration = duration("10s", MILLISECOND.saturating_mul(10), HOUR),
        /// Queries at the same time; further ones wait.
        max_concurrent: usize = count("4", 1, 1000),
    }
}

settings! {
    /// Traces for OpenTelemetry.
    #[derive(PartialEq, Eq)]
    pub struct Trace in "trace." {
        /// The collector that receives traces by OTLP over HTTP, for example `http://collector:4318`.
        /// If unset, `OTEL_EXPORTER_OTLP_ENDPOINT` names it; without either, nothing is traced.
        otlp: Option<Endpoint> = unset(SettingKind::Url),
    }
}

settings! {
    /// The console on the admin port.
    #[derive(PartialEq, Eq)]
    pub struct Console in "console." {
        /// Whether the console may show the events that a stream sends, as its clients see them. The log
        /// says who looked.
        tap: bool = declared(SettingKind::Switch, "false"),
        /// Host names for which the admin port answers, besides IP addresses and `localhost`.
        hosts: Vec<String> = declared(SettingKind::Texts { example: "[sidestream.internal]" }, ""),
        /// How the console shows listeners: `hashed`, a digest that tells them apart; or `shown`,
        /// their subject.
        subjects: Subjects = declared(SettingKind::Word(Subjects::NAMES), "hashed"),
    }
}

settings! {
    /// The log.
    #[derive(Copy, PartialEq, Eq)]
    pub struct Log in "log." {
        /// The format of log lines.
        format: LogFormat = declared(SettingKind::Word(LogFormat::NAMES), "text"),
        /// The lowest level that is logged.
        level: LogLevel = declared(SettingKind::Word(LogLevel::NAMES), "info"),
        /// Whether requests are logged, one line each.
        requests: bool = declared(SettingKind::Switch, "false"),
        /// One in this many requests is logged; each that fails with a 5xx always is.
        requests_every: usize = count("1", 1, 1_000_000),
    }
}

/// A content coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    Zstd,
    Brotli,
    Gzip,
}

impl Words for Compression {
    const NAMES: &[&str] = &["zstd", "br", "gzip"];
    const VALUES: &[Compression] = &[Compression::Zstd, Compression::Brotli, Compression::Gzip];
}

impl Compression {
    /// As in `Content-Encoding`, and as written in the settings.
    pub fn name(self) -> &'static str {
        Compression::NAMES[self as usize]
    }
}

/// How the console shows callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subjects {
    Hashed,
    Shown,
}

impl Words for Subjects {
    const NAMES: &[&str] = &["hashed", "shown"];
    const VALUES: &[Subjects] = &[Subjects::Hashed, Subjects::Shown];
}

/// How lines of the log are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

impl Words for LogFormat {
    const NAMES: &[&str] = &["text", "json"];
    const VALUES: &[LogFormat] = &[LogFormat::Text, LogFormat::Json];
}

/// What is logged: the level, and those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Words for LogLevel {
    const NAMES: &[&str] = &["error", "warn", "info", "debug", "trace"];
    const VALUES: &[LogLevel] =
        &[LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];
}

impl LogLevel {
    /// As written in the settings; also a directive of `tracing_subscriber::EnvFilter`.
    pub fn as_str(self) -> &'static str {
        LogLevel::NAMES[self as usize]
    }
}
