//! `inject` on every kind of workload, for several versions: what it prints is kept in
//! `tests/kubernetes/inject/expected`. With `UPDATE_GOLDEN=1` it is written anew, to be read before
//! it is committed.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use serde_json::{Value, json};
use sidestream::kubernetes::manifest::{self, Injected};
use sidestream::kubernetes::{Platform, Version, review};

use super::{documents, pods};

pub const VERSIONS: [&str; 4] = ["1.29", "1.31", "1.32", "1.37"];

pub fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubernetes/inject")
}

/// Every file that is injected: name and text.
pub fn inputs() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            found.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
    found.sort();
    assert!(found.len() >= 13, "{found:?}");
    found
}

/// The image has no version here: expected files outlive a release.
pub fn platform() -> Platform {
    Platform { image: "sidestream:test".to_owned(), ..Platform::default() }
}

pub fn inject(name: &str, text: &str, version: &str) -> Injected {
    manifest::inject(Path::new(name), text, &platform(), version.parse().unwrap())
}

fn shown(injected: &Injected) -> String {
    let told: String = injected.diagnostics.iter().map(|one| format!("{one}\n")).collect();
    let printed = if injected.has_errors() { "" } else { injected.text.as_str() };
    format!("{told}--- {} injected\n{printed}", injected.count)
}

#[test]
fn every_workload_becomes_what_is_expected() {
    let is_update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let expected = dir().join("expected");
    let mut wrong = Vec::new();
    for (name, text) in inputs() {
        for version in VERSIONS {
            let path = expected.join(format!("{name}.{version}.txt"));
            let found = shown(&inject(&name, &text, version));
            if is_update {
                fs::create_dir_all(&expected).unwrap();
                fs::write(&path, &found).unwrap();
            } else if fs::read_to_string(&path).unwrap_or_default() != found {
                wrong.push(format!("{}:\n{found}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn twice_is_once() {
    for (name, text) in inputs() {
        for version in VERSIONS {
            let once = inject(&name, &text, version);
            let twice = inject(&name, &once.text, version);
            assert_eq!(once.text, twice.text, "{name} for {version}");
            assert_eq!(twice.count, 0, "{name} for {version}");
        }
    }
}

/// The lines of `old` that are not in `new`, by a longest common subsequence.
fn lost<'a>(old: &'a str, new: &str) -> Vec<&'a str> {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let mut longest = vec![vec![0; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            longest[i][j] = match old[i] == new[j] {
                true => longest[i + 1][j + 1] + 1,
                false => longest[i + 1][j].max(longest[i][j + 1]),
            };
        }
    }
    let (mut i, mut j, mut lost) = (0, 0, Vec::new());
    while i < old.len() {
        if j < new.len() && old[i] == new[j] {
            (i, j) = (i + 1, j + 1);
        } else if j < new.len() && longest[i][j + 1] >= longest[i + 1][j] {
            j += 1;
        } else {
            lost.push(old[i]);
            i += 1;
        }
    }
    lost
}

#[test]
fn only_lines_that_must_change_do() {
    for (name, text) in inputs() {
        // Their layouts allow no insertion, or nothing is printed, or a sidecar is replaced.
        if matches!(
            name.as_str(),
            "alias.yaml"
                | "compact.yaml"
                | "deployment.json"
                | "earlier.yaml"
                | "oneline.json"
                | "refused.yaml"
        ) {
            continue;
        }
        let injected = inject(&name, &text, "1.37");
        let lost = lost(&text, &injected.text);
        assert!(lost.len() <= 5, "{name}: {lost:?}");
        for line in lost {
            let is_changed = ["port", "name: http", "name: web", "labels: {", "terminationgrace"]
                .iter()
                .any(|word| line.to_lowercase().contains(word));
            assert!(is_changed, "{name}: {line}");
        }
    }
}

#[test]
fn json_stays_json() {
    for (name, text) in inputs().iter().filter(|(name, _)| name.ends_with(".json")) {
        let injected = inject(name, text, "1.37");
        let read: Result<Value, _> = serde_json::from_str(&injected.text);
        assert!(read.is_ok(), "{name}: {read:?}\n{}", injected.text);
        assert_eq!(injected.count, 1, "{name}");
    }
}

#[test]
fn line_ends_and_a_missing_last_one_are_kept() {
    let (_, text) = inputs().into_iter().find(|(name, _)| name == "statefulset.yaml").unwrap();
    let unix = inject("a", &text, "1.37").text;
    let windows = inject("a", &text.replace('\n', "\r\n"), "1.37").text;
    assert_eq!(windows, unix.replace('\n', "\r\n"));
    let cut = inject("a", text.trim_end(), "1.37").text;
    assert_eq!(cut.trim_end(), unix.trim_end());
}

#[test]
fn a_byte_order_mark_and_a_tab_after_the_marker_are_kept() {
    let (_, text) = inputs().into_iter().find(|(name, _)| name == "statefulset.yaml").unwrap();
    let plain = inject("a", &text, "1.37").text;
    for before in ["\u{feff}", "---\t\n", "# a comment\n\n---   # another\n", "---\n---\n"] {
        let injected = inject("a", &format!("{before}{text}"), "1.37");
        assert_eq!(injected.text, format!("{before}{plain}"));
        assert_eq!((injected.count, injected.diagnostics.len()), (1, 0), "{before:?}");
    }
}

/// What the API server does with an answer.
pub fn patched(pod: &Value, answer: &Value) -> Value {
    let mut pod = pod.clone();
    let Some(patch) = answer["response"]["patch"].as_str() else { return pod };
    let patch = base64::engine::general_purpose::STANDARD.decode(patch).unwrap();
    let steps: Vec<Value> = serde_json::from_slice(&patch).unwrap();
    for step in steps {
        let path = step["path"].as_str().unwrap();
        let (parent, key) = path.rsplit_once('/').unwrap();
        let key = key.replace("~1", "/").replace("~0", "~");
        match pod.pointer_mut(parent).unwrap() {
            Value::Object(map) if step["op"] == "remove" => {
                assert!(map.shift_remove(&key).is_some(), "{step}");
            }
            Value::Object(map) => {
                let before = map.insert(key, step["value"].clone());
                assert_eq!(before.is_some(), step["op"] == "replace", "{step}");
            }
            Value::Array(items) if step["op"] == "add" => {
                items.insert(key.parse().unwrap(), step["value"].clone());
            }
            Value::Array(items) if step["op"] == "replace" => {
                items[key.parse::<usize>().unwrap()] = step["value"].clone();
            }
            other => panic!("{step} in {other}"),
        }
    }
    pod
}

pub fn review_of(pod: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "1",
            "kind": { "group": "", "version": "v1", "kind": "Pod" },
            "operation": "CREATE",
            "namespace": "shop",
            "object": pod,
        },
    })
}

#[test]
fn the_webhook_makes_the_same_pod() {
    let mut compared = 0;
    for (name, text) in inputs() {
        for version in VERSIONS {
            let injected = inject(&name, &text, version);
            if injected.has_errors() {
                continue;
            }
            let before: Vec<_> = documents(&text).iter().flat_map(pods).collect();
            let after: Vec<_> = documents(&injected.text).iter().flat_map(pods).collect();
            assert_eq!(before.len(), after.len(), "{name}");
            for ((before, is_of_job), (after, _)) in before.into_iter().zip(after) {
                let mut pod = before;
                let owner = json!([{ "apiVersion": "batch/v1", "kind": "Job", "name": "j" }]);
                if is_of_job {
                    pod["metadata"]["ownerReferences"] = owner.clone();
                }
                let body = review_of(&pod).to_string();
                let version: Version = version.parse().unwrap();
                let answer = review::answer(body.as_bytes(), &platform(), version).unwrap();
                let mut made = patched(&pod, &answer.review);
                if is_of_job {
                    made["metadata"].as_object_mut().unwrap().remove("ownerReferences");
                }
                assert_eq!(made, after, "{name} for {version}");
                compared += 1;
            }
        }
    }
    assert!(compared > 40, "{compared}");
}
