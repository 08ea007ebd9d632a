//! From what is written to what is meant. The only step that can fail; it goes through everything
//! before it does.

use std::cmp::Ordering;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::layers::{Declared, Raw, Sources, Written};
use super::units::{Invalid, invalid, mistake};
use super::value::Group;
use super::{AppAddress, Config, ConfigErrors};
use crate::diagnostic::{Diagnostic, Source};

/// A secret in a file is one line; this is far more than any needs.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// Makes the settings of what the layers say. `problems` are those found so far.
///
/// # Errors
/// Every mistake, with its place.
pub(super) fn resolve(
    declared: &Declared,
    sources: &Sources,
    problems: Vec<Diagnostic>,
) -> Result<Config, ConfigErrors> {
    let working_dir = sources.working_dir.as_path();
    let mut resolver =
        Resolver { declared, working_dir, leaves_secrets: sources.leaves_secrets, problems };
    let config = Config::read(&mut resolver);
    if let Some(config) = &config {
        resolver.cross_check(config);
    }
    match config {
        Some(config) if resolver.problems.is_empty() => Ok(config),
        _ => Err(ConfigErrors { diagnostics: declared.with_sources(resolver.problems) }),
    }
}

/// Reads the values of the settings one by one, and collects what is wrong.
pub(super) struct Resolver<'a> {
    pub(super) declared: &'a Declared,
    pub(super) working_dir: &'a Path,
    /// Whether files that hold secrets or keys are left alone.
    pub(super) leaves_secrets: bool,
    problems: Vec<Diagnostic>,
}

impl Resolver<'_> {
    /// What is wrong between settings that are each fine.
    fn cross_check(&mut self, config: &Config) {
        if is_same_port(config.listen, config.admin) {
            self.problem_at(
                "admin",
                "is the same address as `listen`",
                "give the admin port an address of its own: it must not be public",
            );
        }
        for (other, name) in [(config.listen, "listen"), (config.admin, "admin")] {
            if config.probes.is_some_and(|probes| is_same_port(other, probes)) {
                self.problem_at(
                    "probes",
                    &format!("is the same address as `{name}`"),
                    "give the probes a port of their own, for kubelet and Prometheus only",
                );
            }
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
                    "is the sidecar's own `listen` address: requests would loop",
                    "write the address on which the app listens",
                );
            }
        }
    }

    pub(super) fn problem(&mut self, key: &str, origin: Source, invalid: Invalid) {
        let Invalid { message, hint } = invalid;
        self.problems.push(mistake(key, origin, message, hint));
    }

    /// At the place of the setting's value, whichever layer that is in.
    pub(super) fn problem_at(&mut self, key: &str, message: &str, hint: &str) {
        let origin = self.declared.get(key).map_or(Source::Default, |w| w.origin.clone());
        self.problem(key, origin, invalid(message, hint));
    }

    /// Whether a layer above the defaults sets it.
    pub(super) fn is_written(&self, key: &str) -> bool {
        self.declared.get(key).is_some_and(|written| written.rank > 0)
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
                self.problem(key, Source::Default, invalid("is missing", "set it"));
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

    /// Every item of a list, read with a parser.
    pub(super) fn list<T>(
        &mut self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, Invalid>,
    ) -> Option<Vec<T>> {
        let Some(written) = self.declared.get(key) else { return Some(Vec::new()) };
        let Raw::List(items) = &written.raw else { return Some(Vec::new()) };
        let mut values = Vec::new();
        let mut is_good = true;
        for (index, item) in items.iter().enumerate() {
            match parse(item) {
                Ok(value) => values.push(value),
                Err(invalid) => {
                    let origin: &Source =
                        written.item_origins.get(index).unwrap_or(&written.origin);
                    self.problem(key, origin.clone(), invalid);
                    is_good = false;
                }
            }
        }
        is_good.then_some(values)
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
}

/// A file that holds one value, without the line break at its end.
pub(super) fn read_text(path: &Path) -> Result<String, Invalid> {
    use std::io::Read;
    let hint = "name a readable file that contains only the value";
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
