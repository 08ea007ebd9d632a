//! Pods and manifests that have a sidecar already: today's is left alone, another one is replaced.

use serde_json::{Value, json};
use sidestream::kubernetes::injection::pod::{self, Outcome, Situation};
use sidestream::kubernetes::{Platform, Version, manifest};

use super::golden::{VERSIONS, inputs, platform};
use super::{documents, pods};

fn newer() -> Platform {
    Platform { image: "sidestream:newer".to_owned(), memory: "300Mi".to_owned(), ..platform() }
}

fn inject(text: &str, platform: &Platform, version: &str) -> manifest::Injected {
    manifest::inject("a.yaml".as_ref(), text, platform, version.parse().unwrap())
}

fn all_pods(text: &str) -> Vec<Value> {
    documents(text).iter().flat_map(pods).map(|(pod, _)| pod).collect()
}

#[test]
fn an_earlier_sidecar_becomes_todays() {
    let mut replaced = 0;
    for (name, text) in inputs() {
        // Where two versions make the same of it, so do all that come after it.
        let mut earlier: Vec<(&str, manifest::Injected)> = Vec::new();
        for before in VERSIONS {
            let first = inject(&text, &platform(), before);
            let made = |of: &manifest::Injected| (of.text.clone(), of.count, of.has_errors());
            if !earlier.iter().any(|(_, other)| made(other) == made(&first)) {
                earlier.push((before, first));
            }
        }
        for now in VERSIONS {
            let direct = inject(&text, &newer(), now);
            for (before, first) in &earlier {
                // One that Kubernetes 1.29 has no place for is refused, or left alone.
                if first.has_errors() || direct.has_errors() || first.count != direct.count {
                    continue;
                }
                let second = inject(&first.text, &newer(), now);
                assert_eq!(second.count, direct.count, "{name}: {before}, then {now}");
                for (found, expected) in all_pods(&second.text).iter().zip(all_pods(&direct.text)) {
                    assert_eq!(tidy(found), tidy(&expected), "{name}: {before}, then {now}");
                }
                replaced += second.count;
                let third = inject(&second.text, &newer(), now);
                assert_eq!((third.count, &third.text), (0, &second.text), "{name}");
            }
        }
    }
    assert!(replaced > 100, "{replaced}");
}

/// A list that is empty is one that is not there: a sidecar that moves to the other list leaves one,
/// and is the last there, wherever it stood before. Order does not count here.
fn tidy(pod: &Value) -> Value {
    let mut pod = pod.clone();
    if let Some(spec) = pod["spec"].as_object_mut() {
        spec.retain(|_, value| *value != json!([]));
        for list in spec.values_mut().filter_map(Value::as_array_mut) {
            list.sort_by_key(|item| item["name"].as_str().map(str::to_owned));
        }
    }
    pod
}

#[test]
fn another_image_changes_the_lines_that_name_it() {
    let (_, text) = inputs().into_iter().find(|(name, _)| name == "deployment.yaml").unwrap();
    let once = inject(&text, &platform(), "1.37");
    let other = Platform { image: "sidestream:newer".to_owned(), ..platform() };
    let twice = inject(&once.text, &other, "1.37");
    assert!(twice.diagnostics.is_empty(), "{:?}", twice.diagnostics);
    let changed: Vec<(&str, &str)> =
        once.text.lines().zip(twice.text.lines()).filter(|(old, new)| old != new).collect();
    assert_eq!(once.text.lines().count(), twice.text.lines().count());
    let keys: Vec<&str> =
        changed.iter().map(|(_, new)| new.trim().split(':').next().unwrap()).collect();
    assert_eq!(keys, ["sidestream/sidecar-hash", "image"], "{changed:?}");
}

fn inject_pod(pod: &Value, platform: &Platform) -> Outcome {
    let version = Version::CURRENT;
    pod::inject(pod, Situation { platform, version, is_of_job: false })
}

#[test]
fn what_others_added_to_todays_sidecar_stays() {
    let pod = json!({
        "metadata": { "annotations": {
            "sidestream/filters": "f", "sidestream/mongodb-secret": "m",
        }},
        "spec": { "containers": [{ "name": "web", "ports": [{ "name": "http", "containerPort": 80 }] }] },
    });
    let Outcome::Injected { pod: mut injected, .. } = inject_pod(&pod, &platform()) else {
        panic!("not injected")
    };
    // As Kubernetes does by itself, and other webhooks.
    let sidecar = &mut injected["spec"]["initContainers"][0];
    sidecar["terminationMessagePath"] = "/dev/termination-log".into();
    sidecar["env"].as_array_mut().unwrap().push(json!({ "name": "TRACE", "value": "1" }));
    injected["spec"]["volumes"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "name": "kube-api-access-x" }));
    assert_eq!(inject_pod(&injected, &platform()), Outcome::Unchanged { warning: None });

    let Outcome::Injected { pod: replaced, .. } = inject_pod(&injected, &newer()) else {
        panic!("not replaced")
    };
    assert_eq!(replaced["spec"]["initContainers"][0]["image"], "sidestream:newer");
    assert_eq!(replaced["spec"]["volumes"].as_array().unwrap().len(), 4);

    // An annotation that changed is a change, too; and one that went leaves the sidecar as it is.
    injected["metadata"]["annotations"]["sidestream/prefix"] = "/live".into();
    assert!(matches!(inject_pod(&injected, &platform()), Outcome::Injected { .. }));
    injected["metadata"]["annotations"].as_object_mut().unwrap().remove("sidestream/filters");
    let Outcome::Unchanged { warning: Some(warning) } = inject_pod(&injected, &platform()) else {
        panic!("changed")
    };
    assert!(warning.starts_with("the sidecar that is there stays: "), "{warning}");
}
