//! The table of settings: the one place that knows which keys there are.
//!
//! Unknown keys, defaults, ranges, flags and the JSON Schema all come from here.

use std::time::Duration;

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Dotted: `clients.heartbeat`.
    pub key: &'static str,
    pub kind: Kind,
    /// As one would write it; `None`: unset.
    pub default: Option<&'static str>,
    /// The flag of `sidestream run` that sets it.
    pub flag: Option<&'static str>,
    /// One line for help and the schema.
    pub about: &'static str,
}

impl Setting {
    /// Whether its value must never be shown.
    pub fn is_secret(&self) -> bool {
        matches!(self.kind, Kind::Mongodb | Kind::Secret)
    }
}

/// What a setting holds. Ranges include both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `host:port`, the host an IP address or `localhost`.
    Address,
    /// `http://host[:port]`, `https://…` or `unix:/path`.
    App,
    /// A path that starts with `/`.
    Prefix,
    /// A file or a directory.
    Path,
    /// A file that holds the secret named by the key without `_file`.
    SecretFile,
    /// A MongoDB connection string; a secret.
    Mongodb,
    /// `250ms`, `30s`, `5m`, `1h`. With `zero_means_none`, `0s` is also good and means no limit.
    Duration { least: Duration, most: Duration, zero_means_none: bool },
    /// `512B`, `64KiB`, `16MiB`, `1GiB`; in bytes.
    Size { least: u64, most: u64 },
    /// Text that must never be shown.
    Secret,
    /// Text.
    Text,
    /// `http://host[:port]/path` or `https://…`, without credentials.
    Url,
    /// A list of texts; the example is for hints.
    Texts { example: &'static str },
    /// A list of some of these words.
    Words(&'static [&'static str]),
    /// A whole number.
    Count { least: u64, most: u64 },
    /// A list of networks in CIDR notation, or single addresses.
    Networks,
    /// One of these words.
    Word(&'static [&'static str]),
}

impl Kind {
    /// Whether it is written as a list; for a hint, how.
    pub(super) fn list_example(self) -> Option<&'static str> {
        match self {
            Kind::Networks => Some("[127.0.0.0/8]"),
            Kind::Texts { example } => Some(example),
            Kind::Words(_) => Some("[RS256]"),
            _ => None,
        }
    }
}

/// Of the registry of RFC 7518 and RFC 8037, without `none`.
const ALGORITHMS: &[&str] = &[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256",
    "ES384", "EdDSA",
];

const KIB: u64 = 1024;
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

const fn duration(least: Duration, most: Duration) -> Kind {
    Kind::Duration { least, most, zero_means_none: false }
}

/// Every setting.
pub const SETTINGS: &[Setting] = &[
    Setting {
        key: "listen",
        kind: Kind::Address,
        default: Some("0.0.0.0:8080"),
        flag: Some("--listen"),
        about: "the public address",
    },
    Setting {
        key: "admin",
        kind: Kind::Address,
        default: Some("127.0.0.1:9180"),
        flag: Some("--admin"),
        about: "the address of health, metrics and console",
    },
    Setting {
        key: "app",
        kind: Kind::App,
        default: Some("http://127.0.0.1:3000"),
        flag: Some("--app"),
        about: "the app behind the sidecar",
    },
    Setting {
        key: "prefix",
        kind: Kind::Prefix,
        default: Some("/_events"),
        flag: Some("--prefix"),
        about: "the reserved path",
    },
    Setting {
        key: "filters",
        kind: Kind::Path,
        default: Some("./filters"),
        flag: Some("--filters"),
        about: "the directory of filter files, watched for changes",
    },
    Setting {
        key: "mongodb.uri",
        kind: Kind::Mongodb,
        default: Some("mongodb://127.0.0.1:27017/?replicaSet=rs0"),
        flag: Some("--mongodb"),
        about: "the connection string",
    },
    Setting {
        key: "mongodb.uri_file",
        kind: Kind::SecretFile,
        default: None,
        flag: None,
        about: "a file that holds the connection string",
    },
    Setting {
        key: "mongodb.max_cursors",
        kind: Kind::Count { least: 2, most: 10_000 },
        default: Some("256"),
        flag: None,
        about: "change streams at a time, replays included",
    },
    Setting {
        key: "replay.window",
        kind: duration(Duration::from_secs(1), DAY),
        default: Some("2m"),
        flag: None,
        about: "how much recent history is kept in memory",
    },
    Setting {
        key: "replay.max_bytes",
        kind: Kind::Size { least: KIB, most: KIB * KIB * KIB * KIB },
        default: Some("64MiB"),
        flag: None,
        about: "at most this much history is kept in memory",
    },
    Setting {
        key: "replay.max_concurrent",
        kind: Kind::Count { least: 1, most: 1000 },
        default: Some("8"),
        flag: None,
        about: "older resume points are read from the oplog, so many at a time",
    },
    Setting {
        key: "clients.heartbeat",
        kind: duration(Duration::from_millis(100), HOUR),
        default: Some("15s"),
        flag: None,
        about: "how long a stream may be quiet",
    },
    Setting {
        key: "clients.retry",
        kind: duration(Duration::from_millis(10), HOUR),
        default: Some("2s"),
        flag: None,
        about: "the retry field of Server-Sent Events, jittered",
    },
    Setting {
        key: "clients.max_connections",
        kind: Kind::Count { least: 1, most: 10_000_000 },
        default: Some("100000"),
        flag: None,
        about: "open streams at the same time",
    },
    Setting {
        key: "clients.max_connections_per_address",
        kind: Kind::Count { least: 0, most: 10_000_000 },
        default: Some("0"),
        flag: None,
        about: "open streams of one client address; 0: no limit",
    },
    Setting {
        key: "clients.max_connections_per_subject",
        kind: Kind::Count { least: 0, most: 10_000_000 },
        default: Some("0"),
        flag: None,
        about: "open streams of one signed-in caller; 0: no limit",
    },
    Setting {
        key: "clients.max_values_per_subject",
        kind: Kind::Count { least: 0, most: 10_000_000 },
        default: Some("1000"),
        flag: None,
        about: "different parameter values that one signed-in caller listens with; 0: no limit",
    },
    Setting {
        key: "clients.max_buffered",
        kind: Kind::Count { least: 1, most: 1_000_000 },
        default: Some("256"),
        flag: None,
        about: "recent events kept ready for each filter and values; a client that lags by more is served from history",
    },
    Setting {
        key: "clients.max_duration",
        kind: Kind::Duration {
            least: Duration::from_secs(1),
            most: Duration::from_secs(365 * 24 * 3600),
            zero_means_none: true,
        },
        default: Some("0s"),
        flag: None,
        about: "how long a stream may stay open; 0s: no limit",
    },
    Setting {
        key: "clients.send_timeout",
        kind: duration(Duration::from_millis(100), HOUR),
        default: Some("60s"),
        flag: None,
        about: "a client that takes nothing of an answer, or sends nothing of a request, for so long is let go",
    },
    Setting {
        key: "clients.max_requests_per_address",
        kind: Kind::Count { least: 0, most: 10_000_000 },
        default: Some("0"),
        flag: None,
        about: "requests to the app at the same time from one client address; 0: only as many as leave room for others",
    },
    Setting {
        key: "app_read_timeout",
        kind: Kind::Duration {
            least: Duration::from_millis(100),
            most: DAY,
            zero_means_none: true,
        },
        default: Some("0s"),
        flag: None,
        about: "how long the app may be silent in an answer; 0s: as long as it likes",
    },
    Setting {
        key: "auth.jwt.secret",
        kind: Kind::Secret,
        default: None,
        flag: None,
        about: "the shared secret of HS256, HS384 or HS512",
    },
    Setting {
        key: "auth.jwt.secret_file",
        kind: Kind::SecretFile,
        default: None,
        flag: None,
        about: "a file that holds the shared secret",
    },
    Setting {
        key: "auth.jwt.public_key_file",
        kind: Kind::Path,
        default: None,
        flag: None,
        about: "the public key of RS, PS, ES or EdDSA tokens, PEM",
    },
    Setting {
        key: "auth.jwt.jwks_url",
        kind: Kind::Url,
        default: None,
        flag: None,
        about: "where the issuer publishes its public keys",
    },
    Setting {
        key: "auth.jwt.algorithms",
        kind: Kind::Words(ALGORITHMS),
        default: None,
        flag: None,
        about: "the algorithms that are taken; required with a key, never taken from the token",
    },
    Setting {
        key: "auth.jwt.issuer",
        kind: Kind::Text,
        default: None,
        flag: None,
        about: "what `iss` must be; not checked when unset",
    },
    Setting {
        key: "auth.jwt.audience",
        kind: Kind::Text,
        default: None,
        flag: None,
        about: "what `aud` must be or hold; not checked when unset",
    },
    Setting {
        key: "auth.jwt.from",
        kind: Kind::Texts { example: "[authorization, cookie:token]" },
        default: Some("authorization"),
        flag: None,
        about: "where a token is looked for: authorization, cookie:NAME, query:NAME",
    },
    Setting {
        key: "auth.forward.url",
        kind: Kind::Url,
        default: None,
        flag: None,
        about: "what is asked, with the client's own credentials, who somebody is",
    },
    Setting {
        key: "auth.forward.headers",
        kind: Kind::Texts { example: "[cookie, authorization]" },
        default: Some("cookie, authorization"),
        flag: None,
        about: "the header fields that are credentials",
    },
    Setting {
        key: "auth.forward.claims",
        kind: Kind::Text,
        default: Some("body"),
        flag: None,
        about: "where the claims are in the answer: body, a JSON object, or header:NAME",
    },
    Setting {
        key: "auth.forward.cache",
        kind: duration(Duration::ZERO, HOUR),
        default: Some("10s"),
        flag: None,
        about: "how long an answer holds for new streams",
    },
    Setting {
        key: "auth.forward.recheck",
        kind: duration(Duration::from_millis(100), DAY),
        default: Some("60s"),
        flag: None,
        about: "open streams are asked about again this often; a refusal closes them",
    },
    Setting {
        key: "auth.forward.timeout",
        kind: duration(Duration::from_millis(100), Duration::from_secs(60)),
        default: Some("5s"),
        flag: None,
        about: "how long a new stream waits for the answer before it is refused with 503",
    },
    Setting {
        key: "auth.forward.max_outage",
        kind: duration(Duration::ZERO, DAY),
        default: Some("5m"),
        flag: None,
        about: "how long open streams outlive rechecks that get no answer",
    },
    Setting {
        key: "auth.allowed_origins",
        kind: Kind::Texts { example: "['https://shop.example']" },
        default: Some(""),
        flag: None,
        about: "pages elsewhere that may open streams; empty: same origin only",
    },
    Setting {
        key: "trusted_proxies",
        kind: Kind::Networks,
        default: Some("127.0.0.0/8"),
        flag: None,
        about: "whose X-Forwarded-* headers are believed",
    },
    Setting {
        key: "drain",
        kind: duration(Duration::ZERO, HOUR),
        default: Some("10s"),
        flag: None,
        about: "after SIGTERM, streams are closed spread over this long",
    },
    Setting {
        key: "tls.cert_file",
        kind: Kind::Path,
        default: None,
        flag: None,
        about: "the certificate chain of the public port, PEM",
    },
    Setting {
        key: "tls.key_file",
        kind: Kind::Path,
        default: None,
        flag: None,
        about: "the private key of the public port, PEM",
    },
    Setting {
        key: "log.format",
        kind: Kind::Word(&["text", "json"]),
        default: Some("text"),
        flag: None,
        about: "how log lines are written",
    },
    Setting {
        key: "log.level",
        kind: Kind::Word(&["error", "warn", "info", "debug", "trace"]),
        default: Some("info"),
        flag: None,
        about: "how much is logged",
    },
];

/// The setting with this key.
pub(super) fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// Whether the key stands for several settings: `clients`.
pub(super) fn is_group(key: &str) -> bool {
    SETTINGS
        .iter()
        .any(|setting| setting.key.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
}

/// The keys of a group, dotted; of the top level for an empty group.
pub(super) fn members(group: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for setting in SETTINGS {
        let rest = match group {
            "" => Some(setting.key),
            group => setting.key.strip_prefix(group).and_then(|rest| rest.strip_prefix('.')),
        };
        let Some(rest) = rest else { continue };
        let first = rest.split('.').next().unwrap_or(rest);
        if !found.iter().any(|known| known == first) {
            found.push(first.to_owned());
        }
    }
    found
}
