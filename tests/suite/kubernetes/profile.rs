//! The restricted profile of the Pod Security Standards, rule by rule, on every sidecar that is
//! made.

use serde_json::{Value, json};

use super::golden::{VERSIONS, inject, inputs};
use super::{documents, pods};

/// What the profile says of one container, as Kubernetes checks it.
fn violations(container: &Value) -> Vec<String> {
    let context = &container["securityContext"];
    let mut found = Vec::new();
    let mut rule = |is_met: bool, what: &str| {
        if !is_met {
            found.push(what.to_owned());
        }
    };
    rule(context.get("privileged").is_none(), "privileged");
    rule(context["allowPrivilegeEscalation"] == json!(false), "allowPrivilegeEscalation");
    rule(context["runAsNonRoot"] == json!(true), "runAsNonRoot");
    rule(context["runAsUser"].as_u64().is_some_and(|user| user > 0), "runAsUser");
    rule(context["capabilities"]["drop"] == json!(["ALL"]), "capabilities.drop");
    rule(context["capabilities"].get("add").is_none(), "capabilities.add");
    rule(context["seccompProfile"]["type"] == json!("RuntimeDefault"), "seccompProfile");
    rule(context.get("procMount").is_none(), "procMount");
    rule(context.get("seLinuxOptions").is_none(), "seLinuxOptions");
    let ports = container["ports"].as_array().unwrap();
    rule(ports.iter().all(|port| port.get("hostPort").is_none()), "hostPort");
    // Not of the profile, but promised.
    rule(context["readOnlyRootFilesystem"] == json!(true), "readOnlyRootFilesystem");
    let resources = &container["resources"];
    rule(resources["requests"]["cpu"].is_string(), "requests.cpu");
    rule(resources["requests"]["memory"] == resources["limits"]["memory"], "memory");
    // Kubernetes mounts the account's token where nothing else is.
    let mounts = container["volumeMounts"].as_array().unwrap();
    let path = "/var/run/secrets/kubernetes.io/serviceaccount";
    let has_own = mounts.iter().any(|m| m["mountPath"] == path && m["readOnly"] == json!(true));
    rule(has_own, "the account's token");
    found
}

#[test]
fn a_sidecar_meets_the_restricted_profile() {
    let mut checked = 0;
    for (name, text) in inputs() {
        for version in VERSIONS {
            let injected = inject(&name, &text, version);
            for (pod, _) in documents(&injected.text).iter().flat_map(pods) {
                let spec = &pod["spec"];
                let all = ["initContainers", "containers"];
                let all = all.iter().filter_map(|key| spec[key].as_array()).flatten();
                for container in all.filter(|container| container["name"] == "sidestream") {
                    assert_eq!(violations(container), [""; 0], "{name} for {version}");
                    checked += 1;
                }
                for volume in spec["volumes"].as_array().into_iter().flatten() {
                    let is_ours = volume["name"].as_str().unwrap().starts_with("sidestream-");
                    let kinds = ["configMap", "secret", "emptyDir"];
                    let is_allowed = kinds.iter().any(|kind| volume[kind].is_object());
                    assert!(!is_ours || is_allowed, "{volume}");
                }
            }
        }
    }
    assert!(checked > 30, "{checked}");
}
