//! What an app team asks for, by annotations on the pod: read once, in one place. Every mistake is
//! found at once, and each says how to mend it.

use serde_json::{Map, Value};

use super::{HASH_ANNOTATION, INJECT_LABEL, INJECTED_LABEL, Mistake, names, shown};
use crate::config::parse_prefix;
use crate::diagnostic::nearest;

/// The part before the `/` of all our annotations and labels.
const DOMAIN: &str = "sidestream/";

/// The app's port: its number, 1 to 65535, or its name in the pod.
pub const APP_PORT: &str = "sidestream/app-port";
/// The name of the ConfigMap with the filter files, in the pod's namespace. Required.
pub const FILTERS: &str = "sidestream/filters";
/// The name of the Secret whose key `uri` is the connection string, in the pod's namespace.
pub const MONGODB_SECRET: &str = "sidestream/mongodb-secret";
/// The name of the ConfigMap with the key `sidestream.yaml`, in the pod's namespace.
pub const SETTINGS: &str = "sidestream/settings";
/// The reserved path, such as `/_events`.
pub const PREFIX: &str = "sidestream/prefix";
/// The sidecar's CPU request as a Kubernetes quantity, such as `100m`.
pub const CPU: &str = "sidestream/cpu";
/// The sidecar's memory request and limit as a Kubernetes quantity, such as `256Mi`.
pub const MEMORY: &str = "sidestream/memory";
/// The kind of container: `auto` (by the version of Kubernetes), `native` or `container`.
pub const MODE: &str = "sidestream/mode";

/// Every annotation.
pub const ALL: &[&str] = &[APP_PORT, FILTERS, MONGODB_SECRET, SETTINGS, PREFIX, CPU, MEMORY, MODE];

/// What people try to set that is the platform's to decide.
const PLATFORM_ONLY: &[&str] = &[
    "image",
    "image-pull-policy",
    "pull-policy",
    "security-context",
    "run-as-user",
    "trusted-proxies",
    "drain",
    "pre-stop",
    "listen",
    "port",
    "admin",
    "admin-port",
    "probes",
    "probes-port",
];

/// Which port is the app's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppPort {
    Name(String),
    Number(u16),
}

/// What kind of container the sidecar becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// An init container with `restartPolicy: Always`.
    Native,
    /// An ordinary container.
    Container,
}

impl Mode {
    /// As written in annotations and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Native => "native",
            Mode::Container => "container",
        }
    }
}

/// Whether the pod's label opts in or out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// `"true"`: what keeps the sidecar out is an error.
    Required,
    /// `"false"`.
    Never,
    /// No label: the namespace, or the command line, decides.
    Unsaid,
}

/// What the annotations say. What is not written is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wishes {
    pub app_port: Option<AppPort>,
    /// The ConfigMap with the filter files.
    pub filters: Option<String>,
    /// The Secret whose key `uri` is the connection string.
    pub mongodb_secret: Option<String>,
    /// The ConfigMap with `sidestream.yaml`.
    pub settings: Option<String>,
    pub prefix: Option<String>,
    pub cpu: Option<String>,
    pub memory: Option<String>,
    /// `None`: `auto`.
    pub mode: Option<Mode>,
}

/// Reads the pod's label.
///
/// # Errors
/// A value that is neither `"true"` nor `"false"`.
pub fn choice(metadata: Option<&Value>) -> Result<Choice, Mistake> {
    let label = metadata.and_then(|metadata| metadata.get("labels"));
    match label.and_then(|labels| labels.get(INJECT_LABEL)) {
        None => Ok(Choice::Unsaid),
        Some(Value::String(text)) if text == "true" => Ok(Choice::Required),
        Some(Value::String(text)) if text == "false" => Ok(Choice::Never),
        Some(value) => Err(Mistake::of(
            INJECT_LABEL,
            format!(
                "the label is {}; write \"true\" or \"false\", with the quotes",
                shown(&written(value))
            ),
        )),
    }
}

/// The mode with which the pod was injected already.
pub fn injected(metadata: Option<&Value>) -> Option<&str> {
    metadata?.get("labels")?.get(INJECTED_LABEL)?.as_str()
}

/// Reads the annotations.
///
/// # Errors
/// Every mistake; never an empty list.
pub fn parse(metadata: Option<&Value>) -> Result<Wishes, Vec<Mistake>> {
    let empty = Map::new();
    let annotations = metadata.and_then(|metadata| metadata.get("annotations"));
    let annotations = annotations.and_then(Value::as_object).unwrap_or(&empty);
    let mut wishes = Wishes::default();
    let mut mistakes = Vec::new();
    for (key, value) in annotations {
        if !key.starts_with(DOMAIN) || key == HASH_ANNOTATION {
            continue;
        }
        let outcome = match value.as_str() {
            Some(text) => read(&mut wishes, key, text),
            None => Err(format!("{} is not text; put it in quotes", shown(&written(value)))),
        };
        if let Err(message) = outcome {
            mistakes.push(Mistake::of(key, message));
        }
    }
    // A label would be passed over, and the pod left alone for want of the annotation.
    let labels = metadata.and_then(|metadata| metadata.get("labels")).and_then(Value::as_object);
    for key in labels.into_iter().flatten().map(|(key, _)| key.as_str()) {
        if ALL.contains(&key) && !annotations.contains_key(key) {
            let message = "this is an annotation, not a label; move it to the pod's annotations";
            mistakes.push(Mistake::of(key, message));
        }
    }
    if mistakes.is_empty() { Ok(wishes) } else { Err(mistakes) }
}

fn read(wishes: &mut Wishes, key: &str, text: &str) -> Result<(), String> {
    if ALL.contains(&key) && text.trim().is_empty() {
        return Err("the annotation is empty; give it a value, or remove it".to_owned());
    }
    match key {
        APP_PORT => wishes.app_port = Some(app_port(text)?),
        FILTERS => wishes.filters = Some(names::object_name(text)?),
        MONGODB_SECRET => wishes.mongodb_secret = Some(names::object_name(text)?),
        SETTINGS => wishes.settings = Some(names::object_name(text)?),
        PREFIX => {
            let prefix = parse_prefix(text);
            wishes.prefix = Some(prefix.map_err(|_| {
                format!("{} is not a path; write for example `/_events`", shown(text))
            })?);
        }
        CPU => wishes.cpu = Some(names::cpu(text)?),
        MEMORY => wishes.memory = Some(names::memory(text)?),
        MODE => {
            wishes.mode = match text {
                "auto" => None,
                "native" => Some(Mode::Native),
                "container" => Some(Mode::Container),
                _ => {
                    return Err(format!(
                        "{} is not a mode; write auto, native or container",
                        shown(text)
                    ));
                }
            }
        }
        _ => return Err(unknown(key)),
    }
    Ok(())
}

fn app_port(text: &str) -> Result<AppPort, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return match text.parse() {
            Ok(0) | Err(_) => Err(format!("{} is not a port; write 1 to 65535", shown(text))),
            Ok(number) => Ok(AppPort::Number(number)),
        };
    }
    if names::is_port_name(text) {
        return Ok(AppPort::Name(text.to_owned()));
    }
    Err(format!("{} is not a port; write the name or the number of one", shown(text)))
}

fn unknown(key: &str) -> String {
    let name = key.strip_prefix(DOMAIN).unwrap_or(key);
    if key == INJECT_LABEL {
        return "this is a label, not an annotation; move it to the pod's labels".to_owned();
    }
    if PLATFORM_ONLY.contains(&name) {
        return "the platform sets this for all pods (values of the Helm chart); remove the \
                annotation"
            .to_owned();
    }
    let names = ALL.iter().filter_map(|known| known.strip_prefix(DOMAIN));
    match nearest(name, names) {
        Some(known) => format!("there is no such annotation; did you mean `{DOMAIN}{known}`?"),
        None => format!("there is no such annotation; there are {}", ALL.join(", ")),
    }
}

/// A JSON value as its author sees it.
fn written(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mistakes(annotations: Value) -> Vec<String> {
        let metadata = json!({ "annotations": annotations });
        match parse(Some(&metadata)) {
            Ok(_) => Vec::new(),
            Err(found) => found.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn everything_that_can_be_asked_for() {
        let metadata = json!({ "annotations": {
            "other/thing": 3,
            APP_PORT: "web",
            FILTERS: "shop-filters",
            MONGODB_SECRET: "shop-mongodb",
            SETTINGS: "shop-settings",
            PREFIX: "/live",
            CPU: "100m",
            MEMORY: "128Mi",
            MODE: "native",
        }});
        let wishes = parse(Some(&metadata)).unwrap();
        assert_eq!(wishes.app_port, Some(AppPort::Name("web".into())));
        assert_eq!(wishes.filters.as_deref(), Some("shop-filters"));
        assert_eq!(wishes.mongodb_secret.as_deref(), Some("shop-mongodb"));
        assert_eq!(wishes.settings.as_deref(), Some("shop-settings"));
        assert_eq!(wishes.prefix.as_deref(), Some("/live"));
        assert_eq!(wishes.cpu.as_deref(), Some("100m"));
        assert_eq!(wishes.memory.as_deref(), Some("128Mi"));
        assert_eq!(wishes.mode, Some(Mode::Native));
        assert_eq!(parse(None).unwrap(), Wishes::default());
    }

    #[test]
    fn every_mistake_says_how_to_mend_it() {
        let rows = [
            (json!({ "sidestream/filter": "x" }), "did you mean `sidestream/filters`?"),
            (json!({ "sidestream/image": "x" }), "the platform sets this"),
            (json!({ "sidestream/drain": "10s" }), "the platform sets this"),
            (json!({ "sidestream/x": "1" }), "there is no such annotation; there are "),
            (json!({ "sidestream/inject": "true" }), "this is a label"),
            (json!({ APP_PORT: "0" }), "write 1 to 65535"),
            (json!({ APP_PORT: "70000" }), "write 1 to 65535"),
            (json!({ APP_PORT: "my_port" }), "write the name or the number"),
            (json!({ APP_PORT: 3000 }), "put it in quotes"),
            (json!({ FILTERS: "" }), "give it a value, or remove it"),
            (json!({ FILTERS: "ns/filters" }), "without the namespace"),
            (json!({ PREFIX: "events" }), "write for example `/_events`"),
            (json!({ MODE: "sidecar" }), "write auto, native or container"),
            (json!({ CPU: "500" }), "write `500m`"),
            (json!({ MEMORY: "128m" }), "write for example 128Mi"),
        ];
        for (annotations, expected) in rows {
            let found = mistakes(annotations.clone());
            assert_eq!(found.len(), 1, "{annotations}");
            assert!(found[0].contains(expected), "{}", found[0]);
        }
        assert_eq!(mistakes(json!({ CPU: "x", MEMORY: "x", "sidestream/x": "x" })).len(), 3);
    }

    #[test]
    fn an_annotation_among_the_labels_is_told() {
        let labels = json!({ FILTERS: "f", "app": "web", INJECTED_LABEL: "native" });
        let found = parse(Some(&json!({ "labels": labels }))).unwrap_err();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].key.as_deref(), Some(FILTERS));
        assert!(found[0].message.contains("move it to the pod's annotations"));
        let both = json!({ "labels": labels, "annotations": { FILTERS: "f" } });
        assert!(parse(Some(&both)).is_ok());
    }

    #[test]
    fn the_label() {
        let of = |value: Value| choice(Some(&json!({ "labels": { INJECT_LABEL: value } })));
        assert_eq!(of(json!("true")), Ok(Choice::Required));
        assert_eq!(of(json!("false")), Ok(Choice::Never));
        assert_eq!(choice(None), Ok(Choice::Unsaid));
        assert!(of(json!("yes")).unwrap_err().message.contains("\"true\" or \"false\""));
        assert!(of(json!(true)).is_err());
    }
}
