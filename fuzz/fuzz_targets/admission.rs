//! Admission reviews, annotations and manifests: whatever is sent, a review with a `uid` gets an
//! answer to it, an injected pod is not injected again, and a manifest with a sidecar can be read.
//!
//! The first byte of the input says what the rest is: a review, a pod, annotations (one a line), or
//! a manifest.

#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use sidestream_fuzz::kubernetes::injection::pod::{self, Outcome, Situation};
use sidestream_fuzz::kubernetes::injection::{Platform, Version, json_patch, manifest, review};

static PLATFORM: LazyLock<Platform> = LazyLock::new(Platform::default);

const VERSIONS: [Version; 3] =
    [Version { major: 1, minor: 28 }, Version { major: 1, minor: 31 }, Version::CURRENT];

fn inject(pod: &Value, version: Version, is_of_job: bool) {
    let situation = Situation { platform: &PLATFORM, version, is_of_job };
    match pod::inject(pod, situation) {
        Outcome::Injected { pod: made, .. } => {
            assert!(!json_patch::diff(pod, &made).is_empty());
            let again = pod::inject(&made, situation);
            assert_eq!(again, Outcome::Unchanged { warning: None });
        }
        Outcome::Unchanged { .. } => {}
        Outcome::Refused(mistakes) => assert!(!mistakes.is_empty()),
    }
}

fn answer(body: &[u8], version: Version) {
    if let Ok(answered) = review::answer(body, &PLATFORM, version) {
        let asked: Value = serde_json::from_slice(body).expect("it was answered");
        let response = &answered.review["response"];
        assert_eq!(response["uid"], asked["request"]["uid"]);
        assert!(response["allowed"].is_boolean());
        assert!(response["allowed"] == true || response["status"]["message"].is_string());
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&kind, rest)) = input.split_first() else { return };
    let version = VERSIONS[usize::from(kind >> 4) % VERSIONS.len()];
    match kind % 4 {
        0 => answer(rest, version),
        1 => {
            let Ok(pod) = serde_json::from_slice::<Value>(rest) else { return };
            inject(&pod, version, kind & 8 != 0);
        }
        2 => {
            let text = String::from_utf8_lossy(rest);
            let annotations: serde_json::Map<String, Value> = text
                .lines()
                .map(|line| line.split_once('=').unwrap_or((line, "")))
                .map(|(key, value)| (format!("sidestream/{key}"), value.into()))
                .collect();
            let pod = json!({
                "metadata": { "annotations": annotations },
                "spec": { "containers": [
                    { "name": "a", "ports": [{ "name": "http", "containerPort": 80 }] },
                ]},
            });
            inject(&pod, version, false);
        }
        _ => {
            let text = String::from_utf8_lossy(rest);
            let once = manifest::inject(Path::new("a"), &text, &PLATFORM, version);
            if once.has_errors() {
                return;
            }
            if once.count == 0 {
                assert_eq!(once.text, text);
                return;
            }
            assert!(!once.text.contains('\0') || text.contains('\0'));
            let twice = manifest::inject(Path::new("a"), &once.text, &PLATFORM, version);
            assert!(!twice.has_errors());
            assert_eq!((twice.count, twice.text), (0, once.text));
        }
    }
});
