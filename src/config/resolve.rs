//! From what is written to what is meant. The only step that can fail; it goes through everything
//! before it does.

use std::cmp::Ordering;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use super::layers::{Declared, Raw, Written, show_written};
use super::settings::{self, Kind, Setting};
use super::units::{
    Invalid, invalid, mistake, parse_count, parse_duration, parse_network, parse_size,
    show_duration, show_size,
};
use super::{
    AppAddress, Clients, Config, ConfigErrors, Log, LogFormat, LogLevel, Mongodb, MongodbUri,
    Replay, Tls, address,
};
use crate::diagnostic::{Diagnostic, Origin};

/// A secret in a file is one line; this is far more than any needs.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

pub(super) fn resolve(
    declared: &Declared,
    working_dir: &Path,
    problems: Vec<Diagnostic>,
) -> Result<Config, ConfigErrors> {
    let mut resolver = Resolver { declared, working_dir, problems };
    let config = resolver.config();
    if let Some(config) = &config {
        resolver.cross_check(config);
    }
    match config {
        Some(config) if resolver.problems.is_empty() => Ok(config),
        _ => Err(ConfigErrors { diagnostics: declared.with_sources(resolver.problems) }),
    }
}

pub(super) struct Resolver<'a> {
    pub(super) declared: &'a Declared,
    pub(super) working_dir: &'a Path,
    problems: Vec<Diagnostic>,
}

impl Resolver<'_> {
    /// `None` only with a problem on the list. Everything is read before the first `?`, so that
    /// one mistake does not hide the next.
    fn config(&mut self) -> Option<Config> {
        let working_dir = self.working_dir;
        let listen = self.read("listen", address::parse_listen);
        let admin = self.read("admin", address::parse_listen);
        let app = self.read("app", |text| AppAddress::parse(text, working_dir));
        let prefix = self.read("prefix", address::parse_prefix);
        let filters = self.path("filters");
        let uri = self.mongodb_uri();
        let max_cursors = self.count("mongodb.max_cursors");
        let window = self.duration("replay.window");
        let max_bytes = self.size("replay.max_bytes");
        let max_concurrent = self.count("replay.max_concurrent");
        let heartbeat = self.duration("clients.heartbeat");
        let retry = self.duration("clients.retry");
        let max_connections = self.count("clients.max_connections");
        let max_per_address = self.count("clients.max_connections_per_address");
        let max_buffered = self.count("clients.max_buffered");
        let max_duration = self.duration("clients.max_duration");
        let send_timeout = self.duration("clients.send_timeout");
        let max_requests = self.count("clients.max_requests_per_address");
        let app_read_timeout = self.duration("app_read_timeout");
        let max_per_subject = self.count("clients.max_connections_per_subject");
        let max_values_per_subject = self.count("clients.max_values_per_subject");
        let auth = self.auth();
        let trusted_proxies = self.networks("trusted_proxies");
        let drain = self.duration("drain");
        let tls = self.tls();
        let format = self.word("log.format", &[LogFormat::Text, LogFormat::Json]);
        let level = self.word(
            "log.level",
            &[LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace],
        );
        Some(Config {
            listen: listen?,
            admin: admin?,
            app: app?,
            prefix: prefix?,
            filters: filters?,
            mongodb: Mongodb { uri: uri?, max_cursors: max_cursors? },
            replay: Replay {
                window: window?,
                max_bytes: max_bytes?,
                max_concurrent: max_concurrent?,
            },
            clients: Clients {
                heartbeat: heartbeat?,
                retry: retry?,
                max_connections: max_connections?,
                max_connections_per_address: Some(max_per_address?).filter(|count| *count > 0),
                max_connections_per_subject: Some(max_per_subject?).filter(|count| *count > 0),
                max_values_per_subject: Some(max_values_per_subject?).filter(|count| *count > 0),
                max_buffered: max_buffered?,
                max_duration: Some(max_duration?).filter(|duration| !duration.is_zero()),
                send_timeout: send_timeout?,
                max_requests_per_address: Some(max_requests?).filter(|count| *count > 0),
            },
            app_read_timeout: Some(app_read_timeout?).filter(|duration| !duration.is_zero()),
            auth: auth?,
            trusted_proxies: trusted_proxies?,
            drain: drain?,
            tls: tls?,
            log: Log { format: format?, level: level? },
        })
    }

    /// What is wrong between settings that are each fine.
    fn cross_check(&mut self, config: &Config) {
        if is_same_port(config.listen, config.admin) {
            self.problem_at(
                "admin",
                "is the same address as `listen`",
                "give the admin port an address of its own: it must never be the public one",
            );
        }
        if let AppAddress::Tcp { host, port, .. } = &config.app {
            let ip = match host.as_str() {
                "localhost" => Some(IpAddr::from([127, 0, 0, 1])),
                host => host.parse().ok(),
            };
            let app = ip.map(|ip| SocketAddr::new(ip, *port));
            if app.is_some_and(|app| is_served_by(config.listen, app)) {
                self.problem_at(
                    "app",
                    "is the sidecar's own `listen` address: requests would go round in circles",
                    "point it at the port that the app listens on",
                );
            }
        }
    }

    pub(super) fn problem(&mut self, key: &str, origin: Origin, invalid: Invalid) {
        let Invalid { message, hint } = invalid;
        self.problems.push(mistake(key, origin, message, hint));
    }

    pub(super) fn problem_at(&mut self, key: &str, message: &str, hint: &str) {
        let origin = self.declared.get(key).map_or(Origin::Default, |w| w.origin.clone());
        self.problem(key, origin, invalid(message, hint));
    }

    /// Reads one text with a parser.
    pub(super) fn read<T>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, Invalid>,
    ) -> Option<T> {
        let written = self.declared.get(key);
        let (text, origin) = match written {
            Some(Written { raw: Raw::Text(text), origin, .. }) => (text.as_str(), origin.clone()),
            // A key without a default that nobody set; or a list, which `layers` keeps away.
            _ => {
                self.problem(key, Origin::Default, invalid("is missing", "set it"));
                return None;
            }
        };
        match parse(text) {
            Ok(value) => Some(value),
            Err(invalid) => {
                self.problem(key, origin, invalid);
                None
            }
        }
    }

    pub(super) fn duration(&mut self, key: &str) -> Option<Duration> {
        let setting = self.setting(key)?;
        self.read(key, |text| {
            let duration = parse_duration(text)?;
            let Kind::Duration { least, most, zero_means_none } = setting.kind else {
                return Ok(duration);
            };
            let is_good =
                (least..=most).contains(&duration) || (zero_means_none && duration.is_zero());
            if is_good {
                return Ok(duration);
            }
            let or_zero = if zero_means_none { "0s for no limit, or " } else { "" };
            let (least, most) = (show_duration(least), show_duration(most));
            Err(out_of_range(setting, text, format!("{or_zero}{least} to {most}")))
        })
    }

    fn size(&mut self, key: &str) -> Option<usize> {
        let setting = self.setting(key)?;
        self.read(key, |text| {
            let bytes = parse_size(text)?;
            let (least, most) = match setting.kind {
                Kind::Size { least, most } => (least, most),
                _ => (0, u64::MAX),
            };
            match usize::try_from(bytes) {
                Ok(size) if (least..=most).contains(&bytes) => Ok(size),
                _ => {
                    let range = format!("{} to {}", show_size(least), show_size(most));
                    Err(out_of_range(setting, text, range))
                }
            }
        })
    }

    fn count(&mut self, key: &str) -> Option<usize> {
        let setting = self.setting(key)?;
        self.read(key, |text| {
            let count = parse_count(text)?;
            let (least, most) = match setting.kind {
                Kind::Count { least, most } => (least, most),
                _ => (0, u64::MAX),
            };
            match usize::try_from(count) {
                Ok(size) if (least..=most).contains(&count) => Ok(size),
                _ => Err(out_of_range(setting, text, format!("{least} to {most}"))),
            }
        })
    }

    /// The value at the place of the written word in the setting's list of words.
    fn word<T: Copy>(&mut self, key: &str, values: &[T]) -> Option<T> {
        let setting = self.setting(key)?;
        self.read(key, |text| {
            let words = match setting.kind {
                Kind::Word(words) => words,
                _ => &[],
            };
            let found = words.iter().zip(values).find(|(word, _)| **word == text);
            found.map(|(_, value)| *value).ok_or_else(|| {
                let shown = show_written(setting, text);
                invalid(
                    format!("{shown} is not one of {}", words.join(", ")),
                    match crate::diagnostic::nearest(text, words.iter().copied()) {
                        Some(word) => format!("did you mean {word}?"),
                        None => format!("write {}", words.join(" or ")),
                    },
                )
            })
        })
    }

    fn path(&mut self, key: &str) -> Option<PathBuf> {
        let working_dir = self.working_dir;
        self.read(key, |text| match text {
            "" => Err(invalid("is empty", "write a path")),
            text => Ok(working_dir.join(text)),
        })
    }

    fn networks(&mut self, key: &str) -> Option<Vec<IpNet>> {
        let written = self.declared.get(key)?;
        let Raw::List(items) = &written.raw else { return Some(Vec::new()) };
        let mut networks = Vec::new();
        let mut invalids = Vec::new();
        for (index, item) in items.iter().enumerate() {
            match parse_network(item) {
                Ok(network) => networks.push(network),
                Err(invalid) => {
                    let origin = written.item_origins.get(index).unwrap_or(&written.origin);
                    invalids.push((origin.clone(), invalid));
                }
            }
        }
        for (origin, invalid) in invalids {
            self.problem(key, origin, invalid);
        }
        Some(networks)
    }

    /// Of a secret and its twin that are both given, the one of the higher layer; one layer gives
    /// only one.
    pub(super) fn winner<'k>(&mut self, direct: &'k str, file: &'k str) -> Option<&'k str> {
        let rank = |key| self.declared.get(key).map_or(0, |written: &Written| written.rank);
        match rank(direct).cmp(&rank(file)) {
            Ordering::Greater => Some(direct),
            Ordering::Less => Some(file),
            Ordering::Equal => {
                let message = format!("is given together with `{direct}`");
                self.problem_at(file, &message, "keep one of them");
                None
            }
        }
    }

    fn mongodb_uri(&mut self) -> Option<MongodbUri> {
        const KEYS: [&str; 2] = ["mongodb.uri", "mongodb.uri_file"];
        let [direct, file] = KEYS;
        let has_both = KEYS.iter().all(|key| self.declared.get(key).is_some());
        let is_direct = match has_both {
            true => self.winner(direct, file)? == direct,
            false => self.declared.get(file).is_none(),
        };
        if is_direct {
            return self.read(direct, MongodbUri::parse);
        }
        let working_dir = self.working_dir;
        self.read(file, |text| {
            let secret = read_text(&working_dir.join(text))?;
            MongodbUri::parse(&secret)
                .map_err(|error| invalid(format!("in the file: {}", error.message), error.hint))
        })
    }

    /// The outer `None` is a problem, the inner one no TLS.
    fn tls(&mut self) -> Option<Option<Tls>> {
        const KEYS: [&str; 2] = ["tls.cert_file", "tls.key_file"];
        let [has_cert, has_key] = KEYS.map(|key| self.declared.get(key).is_some());
        let given = match (has_cert, has_key) {
            (false, false) => return Some(None),
            (true, true) => None,
            (true, false) => Some((KEYS[0], KEYS[1])),
            (false, true) => Some((KEYS[1], KEYS[0])),
        };
        if let Some((given, missing)) = given {
            let message = format!("needs `{missing}` as well");
            self.problem_at(given, &message, "give both files, or neither for plain HTTP");
            return None;
        }
        let [cert_file, key_file] = KEYS.map(|key| {
            let path = self.path(key)?;
            // Opened, not just looked at: what counts is whether we may read it.
            if let Err(error) = std::fs::File::open(&path) {
                let message = format!("cannot read {}: {error}", path.display());
                self.problem_at(key, &message, "name a readable PEM file");
                return None;
            }
            Some(path)
        });
        Some(Some(Tls { cert_file: cert_file?, key_file: key_file? }))
    }

    fn setting(&self, key: &str) -> Option<&'static Setting> {
        settings::find(key)
    }
}

/// A file that holds one value, without the line break at its end.
pub(super) fn read_text(path: &Path) -> Result<String, Invalid> {
    use std::io::Read;
    let hint = "name a readable file that holds the value and nothing else";
    let error = |message: String| invalid(message, hint);
    let cannot_read =
        |source: std::io::Error| error(format!("cannot read {}: {source}", path.display()));
    let file = std::fs::File::open(path).map_err(cannot_read)?;
    let mut bytes = Vec::new();
    file.take(MAX_SECRET_BYTES + 1).read_to_end(&mut bytes).map_err(cannot_read)?;
    if bytes.len() as u64 > MAX_SECRET_BYTES {
        return Err(error(format!("{} is larger than 64 KiB", path.display())));
    }
    let text =
        String::from_utf8(bytes).map_err(|_| error(format!("{} is not UTF-8", path.display())))?;
    // Editors and `echo` end a file with a line break that is not part of the secret.
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.is_empty() {
        return Err(error(format!("{} is empty", path.display())));
    }
    Ok(secret.to_owned())
}

fn out_of_range(setting: &Setting, text: &str, range: String) -> Invalid {
    let shown = show_written(setting, text);
    invalid(format!("{shown} is out of range"), format!("the range is {range}"))
}

/// Whether binding both would fail, or make them one.
fn is_same_port(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() != 0
        && a.port() == b.port()
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

/// Whether a connection to `target` would reach the listener.
fn is_served_by(listener: SocketAddr, target: SocketAddr) -> bool {
    let is_local = target.ip().is_loopback() || target.ip().is_unspecified();
    listener.port() == target.port()
        && (listener.ip() == target.ip() || (listener.ip().is_unspecified() && is_local))
}
