//! A sidecar that is there already: which one, and the pod as it was without it.
//!
//! An injected pod bears a hash of what was added to it. Where the same would be added today, it is
//! left alone, also where Kubernetes or another webhook has added to the sidecar meanwhile. Where it
//! would be something else (another image, other annotations, a newer cluster), the sidecar is taken
//! out, and today's is put in its place.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::sidecar::{APP_VARIABLE, VOLUMES};
use super::{CONTAINER, HASH_ANNOTATION, ports};

/// Where an earlier sidecar stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContainerRef {
    /// `containers` or `initContainers`.
    pub list: &'static str,
    pub index: usize,
}

/// Finds the sidecar of an injected pod.
pub fn find(spec: &Value) -> Option<ContainerRef> {
    ["containers", "initContainers"].into_iter().find_map(|list| {
        let index = items(spec, list).position(|item| is_named(item, CONTAINER))?;
        Some(ContainerRef { list, index })
    })
}

/// The hash of what is added to a pod.
pub fn hash(container: &Value, volumes: &[Value]) -> String {
    const BYTES: usize = 8;
    let digest = Sha256::digest(json!([container, volumes]).to_string().as_bytes());
    let hex: String = digest.iter().take(BYTES).map(|byte| format!("{byte:02x}")).collect();
    // Not digits alone, nor anything else that YAML takes for a number.
    format!("sha256-{hex}")
}

/// The hash that an injected pod bears.
pub fn hash_of(pod: &Value) -> Option<&str> {
    pod.get("metadata")?.get("annotations")?.get(HASH_ANNOTATION)?.as_str()
}

/// The pod without its sidecar and its volumes, and with the app's port by its own name. What was
/// raised of `terminationGracePeriodSeconds` stays: nobody knows what it was.
pub fn without(pod: &Value, place: ContainerRef) -> Value {
    let mut pod = pod.clone();
    let Some(spec) = pod.get_mut("spec") else { return pod };
    let container = match spec.get_mut(place.list).and_then(Value::as_array_mut) {
        Some(list) if place.index < list.len() => list.remove(place.index),
        _ => return pod,
    };
    if let Some(volumes) = spec.get_mut("volumes").and_then(Value::as_array_mut) {
        volumes.retain(|volume| !VOLUMES.iter().any(|name| is_named(volume, name)));
    }
    let name = container.pointer("/ports/0/name").and_then(Value::as_str);
    if let (Some(name), Some(number)) = (name, app_port(&container)) {
        ports::restore(spec, number, name);
    }
    pod
}

/// Puts the volumes of the new pod in the order of the old one's; those that are new come last.
pub fn keep_order(old: &Value, new: &mut Value) {
    let name = |volume: &Value| volume.get("name").cloned();
    let before: Vec<_> = items(&old["spec"], "volumes").map(name).collect();
    if let Some(volumes) = new.pointer_mut("/spec/volumes").and_then(Value::as_array_mut) {
        let place = |volume: &Value| before.iter().position(|found| *found == name(volume));
        volumes.sort_by_key(|volume| place(volume).unwrap_or(usize::MAX));
    }
}

/// The number of the app's port, as the sidecar was told it.
fn app_port(container: &Value) -> Option<u16> {
    let variable = items(container, "env").find(|entry| is_named(entry, APP_VARIABLE))?;
    variable.get("value")?.as_str()?.rsplit_once(':')?.1.parse().ok()
}

fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn is_named(item: &Value, name: &str) -> bool {
    item.get("name").is_some_and(|found| found == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_taken_out() {
        let app = |port: &str| {
            json!({ "name": "web", "ports": [{ "name": port, "containerPort": 3000 }],
            "readinessProbe": { "httpGet": { "port": port } } })
        };
        let sidecar = json!({ "name": CONTAINER, "ports": [{ "name": "http" }],
            "env": [{ "name": APP_VARIABLE, "value": "http://127.0.0.1:3000" }] });
        let (ours, other) = (json!({ "name": VOLUMES[0] }), json!({ "name": "data" }));
        let injected = json!({ "spec": {
            "containers": [app("app-http"), sidecar], "volumes": [ours, other],
        }});
        let place = find(&injected["spec"]).unwrap();
        assert_eq!(place, ContainerRef { list: "containers", index: 1 });
        let expected = json!({ "spec": { "containers": [app("http")], "volumes": [other] } });
        assert_eq!(without(&injected, place), expected);
        assert_eq!(super::find(&expected["spec"]), None);
        let new = |name: &str| json!({ "name": name });
        let mut again = json!({ "spec": { "volumes": [other, new(VOLUMES[1]), ours] } });
        keep_order(&injected, &mut again);
        assert_eq!(again["spec"]["volumes"], json!([ours, other, new(VOLUMES[1])]));
    }

    #[test]
    fn a_sidecar_that_was_tampered_with_does_no_harm() {
        for sidecar in [
            json!({ "name": CONTAINER }),
            json!({ "name": CONTAINER, "ports": 3, "env": "x" }),
            json!({ "name": CONTAINER, "ports": [{ "name": "http" }],
                "env": [{ "name": APP_VARIABLE, "value": "99999" }] }),
        ] {
            let injected = json!({ "spec": { "containers": [sidecar], "volumes": 1 } });
            let place = find(&injected["spec"]).unwrap();
            assert_eq!(without(&injected, place)["spec"]["containers"], json!([]));
        }
    }
}
