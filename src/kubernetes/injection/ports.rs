//! The ports of a pod: the one that the sidecar takes over, the names and numbers that are free, and
//! what refers to a port by name.

use std::collections::BTreeSet;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::annotations::{APP_PORT, AppPort};
use super::names::MAX_PORT_NAME;
use super::{Mistake, shown};

/// The name that is taken over where no other is asked for.
const DEFAULT_NAME: &str = "http";
/// What the app's own name of a port begins with once the sidecar has taken the name over.
const APP_PREFIX: &str = "app-";

/// The app's port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub number: u16,
    /// Where it is declared; `None`: nowhere, only the annotation names it.
    pub declared: Option<Declared>,
}

/// Where a port is declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// The index of the container.
    pub container: usize,
    /// The index in that container's `ports`.
    pub index: usize,
    pub name: Option<String>,
    pub host_port: Option<u64>,
}

/// Why there is no port to take over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// Nothing was asked for, and there is nothing to choose, or more than one.
    NoChoice(String),
    /// What was asked for is not there.
    Wrong(Mistake),
}

/// Finds the app's port.
///
/// # Errors
/// [`Missing`], with what to do.
pub fn find(spec: &Value, wish: Option<&AppPort>) -> Result<Found, Missing> {
    let ports = tcp_ports(spec);
    match wish {
        Some(AppPort::Number(number)) => {
            let declared = ports.into_iter().find(|(found, _)| found == number);
            Ok(Found { number: *number, declared: declared.map(|(_, declared)| declared) })
        }
        Some(AppPort::Name(name)) => {
            let mut named = ports.iter().filter(|(_, port)| port.name.as_ref() == Some(name));
            match (named.next(), named.next()) {
                (Some((number, declared)), None) => {
                    Ok(Found { number: *number, declared: Some(declared.clone()) })
                }
                (Some(_), Some(_)) => Err(Missing::Wrong(Mistake::of(
                    APP_PORT,
                    format!(
                        "more than one container has a port named {}; write the number of the \
                         app's",
                        shown(name)
                    ),
                ))),
                (None, _) => Err(Missing::Wrong(Mistake::of(
                    APP_PORT,
                    format!(
                        "no container has a TCP port named {}; {}",
                        shown(name),
                        listed(&ports)
                    ),
                ))),
            }
        }
        None => choose(&ports),
    }
}

fn choose(ports: &[(u16, Declared)]) -> Result<Found, Missing> {
    let mut named = ports.iter().filter(|(_, port)| port.name.as_deref() == Some(DEFAULT_NAME));
    let chosen = match (named.next(), named.next(), ports) {
        (Some(_), Some(_), _) => {
            return Err(Missing::NoChoice(format!(
                "more than one container has a port named {DEFAULT_NAME}; say which with the \
                 annotation {APP_PORT}, by number"
            )));
        }
        (Some(port), None, _) => port,
        (None, _, [only]) => only,
        (None, _, []) => {
            return Err(Missing::NoChoice(format!(
                "no container declares a TCP port; declare the app's under `ports`, or give its \
                 number with the annotation {APP_PORT}"
            )));
        }
        (None, _, _) => {
            return Err(Missing::NoChoice(format!(
                "no port is named {DEFAULT_NAME}, and there are several; say which with the \
                 annotation {APP_PORT}; {}",
                listed(ports)
            )));
        }
    };
    Ok(Found { number: chosen.0, declared: Some(chosen.1.clone()) })
}

/// The ports, for the end of a sentence.
fn listed(ports: &[(u16, Declared)]) -> String {
    const MAX_LISTED: usize = 8;
    if ports.is_empty() {
        return "none is declared: write a number, or declare it under `ports`".to_owned();
    }
    let names: Vec<String> = ports
        .iter()
        .take(MAX_LISTED)
        .map(|(number, port)| match &port.name {
            Some(name) => format!("{} ({number})", shown(name)),
            None => number.to_string(),
        })
        .collect();
    let more = if ports.len() > MAX_LISTED { ", …" } else { "" };
    format!("there are {}{more}", names.join(", "))
}

fn tcp_ports(spec: &Value) -> Vec<(u16, Declared)> {
    let mut found = Vec::new();
    for (container, body) in items(spec, "containers").enumerate() {
        for (index, port) in items(body, "ports").enumerate() {
            if !is_tcp(port) {
                continue;
            }
            let Some(number) = number_of(port, "containerPort") else { continue };
            let name = port.get("name").and_then(Value::as_str).map(str::to_owned);
            let host_port = port.get("hostPort").and_then(Value::as_u64).filter(|&port| port > 0);
            found.push((number, Declared { container, index, name, host_port }));
        }
    }
    found
}

fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// Also one without a protocol, however that is written.
fn is_tcp(port: &Value) -> bool {
    let protocol = port.get("protocol").and_then(Value::as_str);
    protocol.is_none_or(|protocol| protocol.is_empty() || protocol == "TCP")
}

fn number_of(value: &Value, key: &str) -> Option<u16> {
    value.get(key)?.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|&port| port > 0)
}

/// What the pod uses already.
pub struct Taken {
    numbers: BTreeSet<u16>,
    names: BTreeSet<String>,
}

impl Taken {
    /// All that containers of any kind declare, whatever the protocol, and what probes ask.
    pub fn of(spec: &Value) -> Taken {
        let mut taken = Taken { numbers: BTreeSet::new(), names: BTreeSet::new() };
        for key in ["containers", "initContainers"] {
            for container in items(spec, key) {
                for port in items(container, "ports") {
                    taken.numbers.extend(number_of(port, "containerPort"));
                    taken.names.extend(port.get("name").and_then(Value::as_str).map(str::to_owned));
                }
                for target in REFERENCES {
                    let found = container.pointer(target).and_then(Value::as_u64);
                    taken.numbers.extend(found.and_then(|number| u16::try_from(number).ok()));
                }
            }
        }
        taken
    }

    /// Takes this number.
    pub fn claim(&mut self, number: u16) {
        self.numbers.insert(number);
    }

    /// Takes the first free number from `first` on.
    pub fn next_free(&mut self, first: u16) -> u16 {
        // A pod that declares all of them has other problems; its ports then clash, as it says.
        let free = (first..=u16::MAX).find(|number| !self.numbers.contains(number));
        let free = free.unwrap_or(first);
        self.numbers.insert(free);
        free
    }

    /// Whether a port has this name.
    pub fn has_name(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// The app's new name for a port whose name the sidecar gets: `app-<name>`, cut to what a name
    /// may have, with a hash where something was cut or the name is taken.
    pub fn renamed(&self, name: &str) -> String {
        const HASH_CHARS: usize = 4;
        let plain = format!("{APP_PREFIX}{name}");
        if plain.len() <= MAX_PORT_NAME && !self.has_name(&plain) {
            return plain;
        }
        let hash: String =
            Sha256::digest(name.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        let room = MAX_PORT_NAME - HASH_CHARS - 1;
        // Names of ports are ASCII; of one that is not, the hash alone is left.
        let kept = plain.get(..room.min(plain.len())).unwrap_or(APP_PREFIX).trim_end_matches('-');
        // A second of two that clash takes the next part of the hash.
        let candidates = (0..hash.len() - HASH_CHARS)
            .filter_map(|at| hash.get(at..at + HASH_CHARS))
            .map(|part| format!("{kept}-{part}"));
        candidates.into_iter().find(|name| !self.has_name(name)).unwrap_or(plain)
    }
}

/// Where a container refers to a port of its own, by name or by number.
const REFERENCES: &[&str] = &[
    "/livenessProbe/httpGet/port",
    "/livenessProbe/tcpSocket/port",
    "/livenessProbe/grpc/port",
    "/readinessProbe/httpGet/port",
    "/readinessProbe/tcpSocket/port",
    "/readinessProbe/grpc/port",
    "/startupProbe/httpGet/port",
    "/startupProbe/tcpSocket/port",
    "/startupProbe/grpc/port",
    "/lifecycle/postStart/httpGet/port",
    "/lifecycle/postStart/tcpSocket/port",
    "/lifecycle/preStop/httpGet/port",
    "/lifecycle/preStop/tcpSocket/port",
];

/// Gives the app's port, which was renamed when its name was taken over, that name again.
pub fn restore(spec: &mut Value, number: u16, name: &str) {
    let renamed = tcp_ports(spec).into_iter().find_map(|(found, port)| {
        let old = port.name.clone()?;
        (found == number && old != name && old.starts_with(APP_PREFIX)).then_some((port, old))
    });
    if let Some((port, old)) = renamed {
        rename(&mut spec["containers"][port.container], port.index, &old, name);
    }
}

/// Whether a TCP port of any container has this name. Services take the first that they find, and
/// look at native sidecars last.
pub fn is_named_anywhere(spec: &Value, name: &str) -> bool {
    let has_name =
        |port: &Value| is_tcp(port) && port.get("name").is_some_and(|found| found == name);
    ["containers", "initContainers"]
        .iter()
        .any(|list| items(spec, list).any(|container| items(container, "ports").any(has_name)))
}

/// Renames a port of a container, with all that refers to it there.
pub fn rename(container: &mut Value, index: usize, old: &str, new: &str) {
    if let Some(name) = container.pointer_mut(&format!("/ports/{index}/name")) {
        *name = Value::from(new);
    }
    for target in REFERENCES {
        if let Some(port) = container.pointer_mut(target)
            && port == old
        {
            *port = Value::from(new);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kubernetes::injection::names::is_port_name;

    #[test]
    fn the_apps_port() {
        let port = |name: &str, number: u16| json!({ "name": name, "containerPort": number });
        let spec = |ports: Value| json!({ "containers": [{ "ports": ports }] });
        let number =
            |spec: Value, wish: Option<AppPort>| find(&spec, wish.as_ref()).map(|f| f.number);
        assert_eq!(number(spec(json!([port("web", 3000)])), None), Ok(3000));
        assert_eq!(number(spec(json!([port("web", 3000), port("http", 80)])), None), Ok(80));
        let two = spec(json!([port("web", 3000), port("rpc", 4000)]));
        assert_eq!(number(two.clone(), Some(AppPort::Name("rpc".into()))), Ok(4000));
        assert_eq!(number(two.clone(), Some(AppPort::Number(5000))), Ok(5000));
        let missing = |spec: Value, wish: Option<AppPort>| match find(&spec, wish.as_ref()) {
            Err(Missing::NoChoice(message)) => message,
            Err(Missing::Wrong(mistake)) => mistake.to_string(),
            Ok(found) => panic!("{found:?}"),
        };
        assert!(missing(two.clone(), None).contains("there are `web` (3000), `rpc` (4000)"));
        let same = json!({ "containers": [
            { "ports": [port("rpc", 1)] }, { "ports": [port("rpc", 2)] },
        ]});
        let wrong = missing(same, Some(AppPort::Name("rpc".into())));
        assert!(wrong.contains("more than one container has a port named `rpc`"), "{wrong}");
        let wrong = missing(two, Some(AppPort::Name("http".into())));
        assert!(wrong.contains("no container has a TCP port named `http`"), "{wrong}");
        assert!(missing(spec(json!([])), None).contains("no container declares a TCP port"));
        let udp = json!([{ "name": "http", "containerPort": 53, "protocol": "UDP" }]);
        assert!(missing(spec(udp), None).contains("no container declares a TCP port"));
    }

    #[test]
    fn new_names_are_names() {
        let mut taken = Taken::of(&json!({}));
        assert_eq!(taken.renamed("http"), "app-http");
        for name in ["twelve-chars", "abcdefghijklmno", "a-b-c-d-e-f-g-h"] {
            let new = taken.renamed(name);
            assert!(is_port_name(&new), "{new}");
            assert_ne!(new, name);
        }
        assert_ne!(taken.renamed("abcdefghijklmno"), taken.renamed("abcdefghijklmnx"));
        taken.names.insert("app-http".into());
        let other = taken.renamed("http");
        assert!(is_port_name(&other) && other != "app-http", "{other}");
        taken.names.insert(other.clone());
        assert_ne!(taken.renamed("http"), other);
    }

    #[test]
    fn numbers_that_are_free() {
        let spec = json!({
            "containers": [{
                "ports": [{ "containerPort": 18080 }],
                "livenessProbe": { "tcpSocket": { "port": 18081 } },
            }],
            "initContainers": [{ "ports": [{ "containerPort": 18082, "protocol": "UDP" }] }],
        });
        let mut taken = Taken::of(&spec);
        assert_eq!((taken.next_free(18080), taken.next_free(18080)), (18083, 18084));
    }
}
