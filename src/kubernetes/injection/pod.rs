//! Adds the sidecar to one pod: whether, how, and what is changed. The one place for it.

use serde_json::{Map, Value};

use super::annotations::{self, Choice, FILTERS, MODE, MONGODB_SECRET, Mode, SETTINGS, Wishes};
use super::earlier::{self, ContainerRef};
use super::platform::Platform;
use super::ports::{self, Missing, Taken};
use super::sidecar::{self, FALLBACK_PORT_NAME, SidecarSpec};
use super::version::Version;
use super::{CONTAINER, HASH_ANNOTATION, INJECT_LABEL, INJECTED_LABEL, Mistake};

/// How long a pod has to end where it does not say so, in seconds.
const DEFAULT_GRACE_SECONDS: u64 = 30;

/// Where a pod is injected.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    pub platform: &'a Platform,
    /// Of the cluster.
    pub version: Version,
    /// Whether a Job made the pod, or will.
    pub is_of_job: bool,
}

/// What becomes of a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The changed pod, and what its owner should know.
    Injected { pod: Value, takeover: Takeover, warnings: Vec<String> },
    /// Left alone; where there is something to tell, why.
    Unchanged { warning: Option<String> },
    /// What is asked for cannot be done. Never empty.
    Refused(Vec<Mistake>),
}

/// Which port leads where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Takeover {
    /// The name that leads to the sidecar now.
    pub name: String,
    /// The number of the app's port.
    pub app: u16,
    /// The number of the sidecar's.
    pub listen: u16,
}

/// Why a pod is not injected.
enum Stop {
    /// What was asked for is wrong.
    Wrong(Vec<Mistake>),
    /// Something is missing: an error only where the pod itself asks for the sidecar.
    Missing(String),
}

impl From<Mistake> for Stop {
    fn from(mistake: Mistake) -> Stop {
        Stop::Wrong(vec![mistake])
    }
}

/// Adds the sidecar to a pod, or to a pod template: an object with `metadata` and `spec`.
pub fn inject(pod: &Value, situation: Situation<'_>) -> Outcome {
    let metadata = pod.get("metadata");
    let choice = match annotations::choice(metadata) {
        Ok(Choice::Never) => return Outcome::Unchanged { warning: None },
        Ok(choice) => choice,
        Err(mistake) => return Outcome::Refused(vec![mistake]),
    };
    let is_injected = annotations::injected(metadata).is_some();
    let earlier = pod.get("spec").filter(|_| is_injected).and_then(earlier::find);
    let bare = earlier.map(|place| earlier::without(pod, place));
    match change(bare.as_ref().unwrap_or(pod), earlier, situation) {
        Ok((new, ..)) if earlier.is_some() && earlier::hash_of(pod) == earlier::hash_of(&new) => {
            Outcome::Unchanged { warning: None }
        }
        Ok((mut new, takeover, warnings)) => {
            if earlier.is_some() {
                earlier::keep_order(pod, &mut new);
            }
            Outcome::Injected { pod: new, takeover, warnings }
        }
        Err(Stop::Wrong(mistakes)) => Outcome::Refused(mistakes),
        Err(Stop::Missing(why)) if choice == Choice::Required => {
            Outcome::Refused(vec![Mistake::of_pod(format!(
                "the label {INJECT_LABEL} asks for a sidecar, but {why}"
            ))])
        }
        Err(Stop::Missing(why)) if earlier.is_some() => {
            Outcome::Unchanged { warning: Some(format!("the sidecar that is there stays: {why}")) }
        }
        Err(Stop::Missing(why)) => {
            Outcome::Unchanged { warning: Some(format!("no sidecar was added: {why}")) }
        }
    }
}

/// `earlier`: where a sidecar was that was taken out.
fn change(
    pod: &Value,
    earlier: Option<ContainerRef>,
    situation: Situation<'_>,
) -> Result<(Value, Takeover, Vec<String>), Stop> {
    let Situation { platform, .. } = situation;
    let wishes = annotations::parse(pod.get("metadata")).map_err(Stop::Wrong)?;
    let spec = pod.get("spec").filter(|spec| spec.is_object());
    let Some(spec) = spec.filter(|spec| spec.get("containers").is_some_and(Value::is_array)) else {
        return Err(Stop::Missing("the pod has no containers".to_owned()));
    };
    let Some(filters) = wishes.filters.as_deref() else {
        return Err(Stop::Missing(format!(
            "the pod has no annotation {FILTERS}; add it, with the name of the ConfigMap that has \
             the filter files"
        )));
    };
    check_spec(spec, &wishes)?;
    let (mode, mode_warning) = mode(spec, wishes.mode, situation)?;
    let app = match ports::find(spec, wishes.app_port.as_ref()) {
        Ok(app) => app,
        Err(Missing::NoChoice(why)) => return Err(Stop::Missing(why)),
        Err(Missing::Wrong(mistake)) => return Err(mistake.into()),
    };

    let mut warnings: Vec<String> = mode_warning.into_iter().collect();
    let mut changed = pod.clone();
    let mut taken = Taken::of(spec);
    taken.claim(app.number);
    let (listen, admin, probes) = sidecar::own_ports(&mut taken);
    let name = app.declared.as_ref().and_then(|declared| declared.name.as_deref());
    let spec = &mut changed["spec"];
    if let (Some(declared), Some(name)) = (&app.declared, name) {
        let new = taken.renamed(name);
        ports::rename(&mut spec["containers"][declared.container], declared.index, name, &new);
        if ports::is_named_anywhere(spec, name) {
            warnings.push(format!(
                "another container has a port named `{name}`, too, and Services find that one \
                 before the sidecar's; give it another name"
            ));
        }
    } else {
        warnings.push(format!(
            "port {} has no name to take over, so Services still lead to the app; set their \
             targetPort to `{FALLBACK_PORT_NAME}` ({listen})",
            app.number
        ));
    }
    if let Some(host_port) = app.declared.as_ref().and_then(|declared| declared.host_port) {
        warnings.push(format!(
            "hostPort {host_port} still leads to the app, past the sidecar; use a Service instead"
        ));
    }
    let sidecar = SidecarSpec {
        platform,
        wishes: &wishes,
        mode,
        app: app.number,
        port_name: name.unwrap_or(FALLBACK_PORT_NAME),
        filters,
        listen,
        admin,
        probes,
    };
    let (container, volumes) = (sidecar.container(), sidecar.volumes());
    let hash = earlier::hash(&container, &volumes);
    add(spec, mode, container, volumes, earlier)?;
    raise_grace(spec, platform);
    mark(&mut changed, "labels", INJECTED_LABEL, mode.as_str());
    mark(&mut changed, "annotations", HASH_ANNOTATION, &hash);
    let name = sidecar.port_name.to_owned();
    Ok((changed, Takeover { name, app: app.number, listen }, warnings))
}

/// What keeps a sidecar out, whatever the mode.
fn check_spec(spec: &Value, wishes: &Wishes) -> Result<(), Stop> {
    let mut mistakes = Vec::new();
    if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        mistakes.push(Mistake::of_pod(format!(
            "the pod has hostNetwork, where the sidecar's ports would be the node's; remove \
             hostNetwork, or set the label {INJECT_LABEL}: \"false\""
        )));
    }
    let os = spec.pointer("/os/name").or_else(|| spec.pointer("/nodeSelector/kubernetes.io~1os"));
    if os.is_some_and(|os| os == "windows") {
        mistakes.push(Mistake::of_pod(format!(
            "the pod runs on Windows, and the sidecar on Linux only; set the label \
             {INJECT_LABEL}: \"false\""
        )));
    }
    if wishes.mongodb_secret.is_none() && wishes.settings.is_none() {
        mistakes.push(Mistake::of_pod(format!(
            "the pod has no MongoDB connection; use the annotation {MONGODB_SECRET} to name a \
             Secret whose key `uri` is the connection string, or {SETTINGS} to name a ConfigMap \
             with sidestream.yaml"
        )));
    }
    for key in ["containers", "initContainers"] {
        if named(spec, key, CONTAINER).is_some() {
            mistakes.push(Mistake::of_pod(format!(
                "a container is already named `{CONTAINER}`; rename it, or set the label \
                 {INJECT_LABEL}: \"false\" if it is a sidecar written by hand"
            )));
        }
    }
    for volume in sidecar::VOLUMES {
        if named(spec, "volumes", volume).is_some() {
            mistakes.push(Mistake::of_pod(format!(
                "a volume is already named `{volume}`, a name that the sidecar needs; rename it"
            )));
        }
    }
    if mistakes.is_empty() { Ok(()) } else { Err(Stop::Wrong(mistakes)) }
}

/// Which kind of container, and what to know about it.
fn mode(
    spec: &Value,
    wish: Option<Mode>,
    situation: Situation<'_>,
) -> Result<(Mode, Option<String>), Stop> {
    let version = situation.version;
    let policy = spec.get("restartPolicy").and_then(Value::as_str);
    let ends =
        situation.is_of_job || policy.is_some_and(|policy| matches!(policy, "OnFailure" | "Never"));
    match wish {
        Some(Mode::Native) if version < Version::NATIVE_SIDECARS => Err(Mistake::of(
            MODE,
            format!(
                "Kubernetes {version} has no native sidecars, which came with {}; write auto or \
                 container",
                Version::NATIVE_SIDECARS
            ),
        )
        .into()),
        Some(Mode::Native) if version < Version::NATIVE_PORTS => Ok((
            Mode::Native,
            Some(format!(
                "before Kubernetes {}, Services do not find the named ports of native sidecars; \
                 this cluster has {version}: use a targetPort by number, or the mode container",
                Version::NATIVE_PORTS
            )),
        )),
        Some(Mode::Container) if ends => Err(Mistake::of(
            MODE,
            "this pod runs to completion, and an ordinary container would keep it running; write \
             auto or native",
        )
        .into()),
        Some(mode) => Ok((mode, None)),
        None if ends && version >= Version::NATIVE_SIDECARS => Ok((Mode::Native, None)),
        None if ends => Err(Stop::Missing(format!(
            "the pod runs to completion, and before Kubernetes {} the sidecar would keep it \
             running; this cluster has {version}",
            Version::NATIVE_SIDECARS
        ))),
        None if version >= Version::NATIVE_PORTS => Ok((Mode::Native, None)),
        None => Ok((Mode::Container, None)),
    }
}

/// Adds container and volumes, each as the last of its list: `kubectl logs` and `exec` still choose
/// the app's first container, and a native sidecar starts when the init containers are through. One
/// that was there keeps its place.
fn add(
    spec: &mut Value,
    mode: Mode,
    container: Value,
    volumes: Vec<Value>,
    earlier: Option<ContainerRef>,
) -> Result<(), Stop> {
    let list = match mode {
        Mode::Native => "initContainers",
        Mode::Container => "containers",
    };
    let index = earlier.filter(|place| place.list == list).map(|place| place.index);
    insert(spec, list, vec![container], index)?;
    insert(spec, "volumes", volumes, None)
}

/// `index`: `None` is the end.
fn insert(
    spec: &mut Value,
    key: &str,
    items: Vec<Value>,
    index: Option<usize>,
) -> Result<(), Stop> {
    let list = &mut spec[key];
    match list {
        Value::Null => *list = Value::Array(items),
        Value::Array(list) => {
            let index = index.unwrap_or(list.len()).min(list.len());
            list.splice(index..index, items);
        }
        _ => return Err(Mistake::of_pod(format!("`{key}` of the pod is not a list")).into()),
    }
    Ok(())
}

fn raise_grace(spec: &mut Value, platform: &Platform) {
    const KEY: &str = "terminationGracePeriodSeconds";
    let needed = platform.grace_seconds();
    let has = match spec.get(KEY) {
        None | Some(Value::Null) => DEFAULT_GRACE_SECONDS,
        // What is no number is refused by Kubernetes, with its own words.
        Some(value) => value.as_u64().unwrap_or(u64::MAX),
    };
    if has < needed {
        spec[KEY] = needed.into();
    }
}

fn mark(pod: &mut Value, group: &str, key: &str, value: &str) {
    let metadata = &mut pod["metadata"];
    if !metadata.is_object() {
        *metadata = Value::Object(Map::new());
    }
    let marks = &mut metadata[group];
    if !marks.is_object() {
        *marks = Value::Object(Map::new());
    }
    marks[key] = value.into();
}

fn named<'a>(spec: &'a Value, key: &str, name: &str) -> Option<&'a Value> {
    let items = spec.get(key)?.as_array()?;
    items.iter().find(|item| item.get("name").is_some_and(|found| found == name))
}
