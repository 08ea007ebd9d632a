//! What becomes of a pod, case by case, as the API server is told: which are injected, which are left
//! alone with a warning, which are refused with which sentence, and what must not change in them.

use serde_json::{Value, json};
use sidestream::kubernetes::injection::pod::{self, Outcome, Situation};
use sidestream::kubernetes::{Platform, Version, review};

use super::golden::{patched, platform, review_of};

/// A pod that is injected: one container with the port `http`.
fn pod() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "web-",
            "labels": { "app": "web" },
            "annotations": { "sidestream/filters": "f", "sidestream/mongodb-secret": "m" },
        },
        "spec": { "containers": [
            { "name": "web", "image": "web:1", "ports": [{ "name": "http", "containerPort": 3000 }] },
        ]},
    })
}

/// With the value at a JSON pointer set, whose parent must be there; `/-` adds to a list.
fn with(mut pod: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let key = key.replace("~1", "/");
    match pod.pointer_mut(parent).unwrap() {
        Value::Array(items) => items.push(value),
        other => other[key] = value,
    }
    pod
}

fn without(mut pod: Value, parent: &str, key: &str) -> Value {
    pod.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key).unwrap();
    pod
}

fn annotated(key: &str, value: &str) -> Value {
    with(pod(), &format!("/metadata/annotations/sidestream~1{key}"), value.into())
}

fn labelled(pod: Value, value: &str) -> Value {
    with(pod, "/metadata/labels/sidestream~1inject", value.into())
}

fn of_job(pod: Value) -> Value {
    let owner = json!([{ "apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "1" }]);
    with(pod, "/metadata/ownerReferences", owner)
}

fn ask(review: &Value, version: &str) -> Value {
    let version: Version = version.parse().unwrap();
    review::answer(review.to_string().as_bytes(), &platform(), version).unwrap().review
}

fn answer(pod: &Value, version: &str) -> Value {
    ask(&review_of(pod), version)["response"].clone()
}

/// Injected as this kind, with this many warnings.
fn injected(pod: &Value, version: &str, list: &str, warnings: usize) -> Value {
    let review = ask(&review_of(pod), version);
    let response = &review["response"];
    assert_eq!(response["allowed"], true, "{response}");
    assert_eq!(response["patchType"], "JSONPatch", "{response}");
    assert_eq!(response["warnings"].as_array().map_or(0, Vec::len), warnings, "{response}");
    let made = patched(pod, &review);
    let names = |list: &str| -> Vec<Value> {
        let items = made["spec"][list].as_array().into_iter().flatten();
        items.map(|item| item["name"].clone()).collect()
    };
    assert_eq!(names(list).last(), Some(&json!("sidestream")), "{made}");
    made
}

/// Left alone, with a warning that contains this.
fn warned(pod: &Value, version: &str, word: &str) {
    let response = answer(pod, version);
    assert_eq!(response["allowed"], true, "{response}");
    assert!(response.get("patch").is_none(), "{response}");
    let warning = response["warnings"][0].as_str().unwrap_or_default();
    assert!(warning.starts_with("sidestream: ") && warning.contains(word), "{word}: {response}");
}

/// Refused, with a sentence that contains this.
fn refused(pod: &Value, version: &str, word: &str) {
    let response = answer(pod, version);
    assert_eq!(response["allowed"], false, "{word}: {response}");
    assert!(response.get("patch").is_none(), "{response}");
    let message = response["status"]["message"].as_str().unwrap();
    assert!(message.starts_with("sidestream: ") && message.contains(word), "{word}: {response}");
}

#[test]
fn what_is_missing_is_a_warning_and_an_error_where_the_pod_asks() {
    let rows = [
        (
            without(pod(), "/metadata/annotations", "sidestream/filters"),
            "no annotation sidestream/filters",
        ),
        (without(pod(), "/spec/containers/0", "ports"), "no container declares a TCP port"),
        (
            with(
                pod(),
                "/spec/containers/-",
                json!({ "name": "b", "ports": [
            { "name": "http", "containerPort": 4000 }] }),
            ),
            "more than one container has a port named http",
        ),
        (
            with(
                with(
                    pod(),
                    "/spec/containers/0/ports/-",
                    json!({ "name": "rpc", "containerPort": 1 }),
                ),
                "/spec/containers/0/ports/0/name",
                "web".into(),
            ),
            "no port is named http, and there are several",
        ),
        (
            with(pod(), "/spec/containers/0/ports/0/protocol", "UDP".into()),
            "no container declares a TCP port",
        ),
    ];
    for (row, word) in rows {
        warned(&row, "1.33", word);
        refused(&labelled(row.clone(), "true"), "1.33", word);
        assert_eq!(answer(&labelled(row, "false"), "1.33"), json!({ "uid": "1", "allowed": true }));
    }
}

#[test]
fn a_wrong_annotation_refuses_the_pod_whatever_else_is_missing() {
    let long = "a".repeat(254);
    let rows = [
        ("filters", "", "give it a value, or remove it"),
        ("filters", " ", "give it a value, or remove it"),
        ("filters", "Shop", "is not a name of an object"),
        ("filters", "shop/filters", "without the namespace or the kind"),
        ("filters", "a,b", "is not a name of an object"),
        ("filters", long.as_str(), "is not a name of an object"),
        ("mongodb-secret", "mongodb://user:secret@host/", "is not a name of an object"),
        ("settings", "settings.yaml/", "is not a name of an object"),
        ("app-port", "0", "write 1 to 65535"),
        ("app-port", "65536", "write 1 to 65535"),
        ("app-port", "-1", "write the name or the number of one"),
        ("app-port", "3000/tcp", "write the name or the number of one"),
        ("app-port", "3000 ", "write the name or the number of one"),
        ("app-port", "Web", "write the name or the number of one"),
        ("app-port", "a-name-that-is-too-long", "write the name or the number of one"),
        ("app-port", "web", "no container has a TCP port named `web`; "),
        ("prefix", "events", "write for example `/_events`"),
        ("prefix", "https://shop.example/x", "write for example `/_events`"),
        ("prefix", "/a b", "write for example `/_events`"),
        ("prefix", "/a?b", "write for example `/_events`"),
        ("prefix", "/../a", "write for example `/_events`"),
        ("cpu", "lots", "write 100m or 0.5"),
        ("cpu", "0", "is less than 1m"),
        ("cpu", "-1", "write 100m or 0.5"),
        ("cpu", "1Gi", "write 100m or 0.5"),
        ("cpu", "200", "write `200m`"),
        ("memory", "64", "needs 32Mi at least"),
        ("memory", "128MB", "write for example 128Mi"),
        ("memory", "128 Mi", "write for example 128Mi"),
        ("memory", "-128Mi", "write for example 128Mi"),
        ("mode", "Native", "write auto, native or container"),
        ("mode", "sidecar", "write auto, native or container"),
        ("image", "evil:latest", "the platform sets this for all pods"),
        ("trusted-proxies", "0.0.0.0/0", "the platform sets this for all pods"),
        ("security-context", "{}", "the platform sets this for all pods"),
        ("admin", "0.0.0.0:9180", "the platform sets this for all pods"),
        ("inject", "true", "this is a label, not an annotation"),
        ("filter", "f", "did you mean `sidestream/filters`?"),
        ("mongodb_secret", "m", "did you mean `sidestream/mongodb-secret`?"),
        ("zzzzzzzzzzzzzzz", "x", "there is no such annotation; there are sidestream/app-port"),
    ];
    for (key, value, word) in rows {
        let wrong = annotated(key, value);
        refused(&wrong, "1.33", word);
        refused(&wrong, "1.33", &format!("sidestream/{key}: "));
        refused(&with(wrong.clone(), "/spec/containers", json!([])), "1.33", word);
        // The pod itself has the last word.
        assert_eq!(answer(&labelled(wrong, "false"), "1.33")["allowed"], true);
    }
    let number = with(pod(), "/metadata/annotations/sidestream~1app-port", 3000.into());
    refused(&number, "1.33", "`3000` is not text; put it in quotes");
    let label = without(pod(), "/metadata/annotations", "sidestream/filters");
    let label = with(label, "/metadata/labels/sidestream~1filters", "f".into());
    refused(&label, "1.33", "move it to the pod's annotations");
    for value in ["True", "yes", "", "enabled"] {
        refused(&labelled(pod(), value), "1.33", "write \"true\" or \"false\", with the quotes");
    }
    // Others' annotations are theirs.
    let others = with(pod(), "/metadata/annotations/sidestream.example~1filter", "x".into());
    injected(&others, "1.33", "initContainers", 0);
}

#[test]
fn what_cannot_have_a_sidecar_is_refused() {
    let no_secret = without(pod(), "/metadata/annotations", "sidestream/mongodb-secret");
    let volume = json!([{ "name": "sidestream-filters", "emptyDir": {} }]);
    let rows = [
        (with(pod(), "/spec/hostNetwork", true.into()), "remove hostNetwork"),
        (with(pod(), "/spec/os", json!({ "name": "windows" })), "runs on Windows"),
        (
            with(pod(), "/spec/nodeSelector", json!({ "kubernetes.io/os": "windows" })),
            "runs on Windows",
        ),
        (no_secret, "the pod has no MongoDB connection"),
        (
            with(pod(), "/spec/containers/-", json!({ "name": "sidestream" })),
            "already named `sidestream`",
        ),
        (
            with(pod(), "/spec/initContainers", json!([{ "name": "sidestream" }])),
            "already named `sidestream`",
        ),
        (with(pod(), "/spec/volumes", volume), "already named `sidestream-filters`"),
        (with(pod(), "/spec/volumes", json!({})), "`volumes` of the pod is not a list"),
    ];
    for (row, word) in rows {
        refused(&row, "1.33", word);
        refused(&labelled(row, "true"), "1.33", word);
    }
    injected(&with(pod(), "/spec/hostNetwork", false.into()), "1.33", "initContainers", 0);
}

#[test]
fn the_mode_depends_on_the_version_and_on_whether_the_pod_ends() {
    let mode = |mode: &str| annotated("mode", mode);
    let ends = with(pod(), "/spec/restartPolicy", "OnFailure".into());
    let always = with(pod(), "/spec/restartPolicy", "Always".into());
    for (version, list) in [
        ("1.28", "containers"),
        ("1.29", "containers"),
        ("1.31", "containers"),
        ("1.32", "initContainers"),
        ("1.33+", "initContainers"),
        ("1.40", "initContainers"),
        ("2.0", "initContainers"),
    ] {
        for pod in [pod(), mode("auto"), always.clone()] {
            let made = injected(&pod, version, list, 0);
            assert_eq!(made["metadata"]["labels"]["app"], "web");
            let name = if list == "containers" { "container" } else { "native" };
            assert_eq!(made["metadata"]["labels"]["sidestream/injected"], name);
        }
        injected(&mode("container"), version, "containers", 0);
    }
    for pod in [of_job(pod()), ends, with(pod(), "/spec/restartPolicy", "Never".into())] {
        warned(&pod, "1.28", "runs to completion, and before Kubernetes 1.29");
        refused(&labelled(pod.clone(), "true"), "1.28", "runs to completion");
        injected(&pod, "1.29", "initContainers", 0);
        injected(&pod, "1.37", "initContainers", 0);
        let container = with(pod, "/metadata/annotations/sidestream~1mode", "container".into());
        refused(&container, "1.37", "an ordinary container would keep it running");
    }
    refused(&mode("native"), "1.28", "has no native sidecars, which came with 1.29");
    injected(&mode("native"), "1.29", "initContainers", 1);
    injected(&mode("native"), "1.31", "initContainers", 1);
    injected(&mode("native"), "1.32", "initContainers", 0);
}

/// A pod with much of what a pod can have.
fn full() -> Value {
    let mut pod = pod();
    let metadata = json!({
        "finalizers": ["a/b"],
        "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "2" }],
        "managedFields": [{ "manager": "kubectl", "fieldsV1": { "f:spec": {} } }],
    });
    pod["metadata"].as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
    pod["metadata"]["annotations"]["a/b~c"] = "ä: #\n".into();
    pod["spec"] = json!({
        "automountServiceAccountToken": false,
        "serviceAccountName": "web",
        "shareProcessNamespace": true,
        "hostname": "web",
        "dnsConfig": { "options": [{ "name": "ndots", "value": "1" }] },
        "securityContext": { "runAsUser": 1, "fsGroup": 2 },
        "tolerations": [{ "key": "a", "operator": "Exists" }],
        "topologySpreadConstraints": [{ "maxSkew": 1 }],
        "readinessGates": [{ "conditionType": "a/b" }],
        "terminationGracePeriodSeconds": 120,
        "unknown": { "later": [1.5, -0.0, 1e30, null, true, 18446744073709551615u64] },
        "initContainers": [
            { "name": "migrate", "image": "web:1", "args": ["migrate"] },
            { "name": "mesh", "image": "mesh:1", "restartPolicy": "Always",
              "ports": [{ "name": "mesh", "containerPort": 18080 }],
              "livenessProbe": { "httpGet": { "port": "mesh" } } },
        ],
        "containers": [
            { "name": "web", "image": "web:1",
              "ports": [{ "name": "http", "containerPort": 9181 }, { "name": "debug", "containerPort": 9180 }],
              "livenessProbe": { "httpGet": { "path": "/", "port": "http" } },
              "readinessProbe": { "tcpSocket": { "port": 9181 } },
              "startupProbe": { "grpc": { "port": 9181 } },
              "lifecycle": { "postStart": { "httpGet": { "port": "http" } }, "preStop": { "tcpSocket": { "port": "http" } } },
              "volumeMounts": [{ "name": "all", "mountPath": "/all" }] },
            { "name": "helper", "image": "helper:1",
              "livenessProbe": { "httpGet": { "port": 18081 } } },
        ],
        "ephemeralContainers": [{ "name": "debugger", "image": "busybox" }],
        "volumes": [{ "name": "all", "projected": { "sources": [
            { "serviceAccountToken": { "path": "t" } }, { "secret": { "name": "s" } },
        ]}}],
    });
    pod
}

#[test]
fn nothing_else_changes() {
    for (version, list) in [("1.31", "containers"), ("1.37", "initContainers")] {
        let mut made = injected(&full(), version, list, 0);
        let sidecar = made["spec"][list].as_array_mut().unwrap().pop().unwrap();
        let names: Vec<&str> =
            sidecar["env"].as_array().unwrap().iter().filter_map(|e| e["name"].as_str()).collect();
        let env = |name: &str| {
            let at = names.iter().position(|found| *found == name).unwrap();
            sidecar["env"][at]["value"].as_str().unwrap()
        };
        // Every number that is used in the pod is passed over, also where only a probe names it.
        assert_eq!(env("SIDESTREAM_LISTEN"), "0.0.0.0:18082");
        assert_eq!(env("SIDESTREAM_ADMIN"), "127.0.0.1:9182");
        assert_eq!(env("SIDESTREAM_PROBES"), "0.0.0.0:9183");
        assert_eq!(env("SIDESTREAM_APP"), "http://127.0.0.1:9181");
        assert_eq!(sidecar["ports"][0]["name"], "http");
        assert_eq!(sidecar["ports"][0]["containerPort"], 18082);
        let container = &made["spec"]["containers"][0];
        assert_eq!(container["ports"][0]["name"], "app-http");
        for pointer in
            ["livenessProbe/httpGet", "lifecycle/postStart/httpGet", "lifecycle/preStop/tcpSocket"]
        {
            let port = made.pointer(&format!("/spec/containers/0/{pointer}/port"));
            assert_eq!(port, Some(&json!("app-http")), "{pointer}");
        }
        // Undone by hand, it is the pod that it was.
        let mut undone = serde_json::to_string(&made).unwrap().replace("\"app-http\"", "\"http\"");
        undone = undone.replace(",\"sidestream/injected\":\"container\"", "");
        undone = undone.replace(",\"sidestream/injected\":\"native\"", "");
        let mut undone: Value = serde_json::from_str(&undone).unwrap();
        let annotations = undone["metadata"]["annotations"].as_object_mut().unwrap();
        assert!(annotations.remove("sidestream/sidecar-hash").is_some());
        undone["spec"]["volumes"].as_array_mut().unwrap().truncate(1);
        assert_eq!(undone, full(), "{version}");
    }
}

#[test]
fn lists_and_groups_that_are_null_or_missing_are_made() {
    let mut bare = pod();
    bare["metadata"]["labels"] = Value::Null;
    for key in ["volumes", "initContainers", "terminationGracePeriodSeconds", "restartPolicy"] {
        bare["spec"][key] = Value::Null;
    }
    bare["spec"]["containers"][0]["ports"][0]["protocol"] = Value::Null;
    injected(&bare, "1.28", "containers", 0);
    let made = injected(&bare, "1.37", "initContainers", 0);
    assert_eq!(made["metadata"]["labels"], json!({ "sidestream/injected": "native" }));
    let mut none = pod();
    none["metadata"].as_object_mut().unwrap().remove("labels");
    let made = injected(&none, "1.31", "containers", 0);
    assert_eq!(made["metadata"]["labels"], json!({ "sidestream/injected": "container" }));
}

#[test]
fn the_grace_period_covers_the_drain() {
    let inject = |pod: &Value, platform: &Platform| {
        let situation = Situation { platform, version: Version::CURRENT, is_of_job: false };
        match pod::inject(pod, situation) {
            Outcome::Injected { pod, .. } => pod["spec"]["terminationGracePeriodSeconds"].clone(),
            other => panic!("{other:?}"),
        }
    };
    let seconds = |seconds: u64| with(pod(), "/spec/terminationGracePeriodSeconds", seconds.into());
    let long = Platform { drain: std::time::Duration::from_millis(59_500), ..platform() };
    // Kubernetes' own 30 seconds are more than 5 + 10 + 5, and less than 5 + 59.5 + 5.
    for (pod, expected, with_long) in [
        (pod(), Value::Null, json!(70)),
        (seconds(0), json!(20), json!(70)),
        (seconds(19), json!(20), json!(70)),
        (seconds(20), json!(20), json!(70)),
        (seconds(3600), json!(3600), json!(3600)),
    ] {
        assert_eq!(inject(&pod, &platform()), expected);
        assert_eq!(inject(&pod, &long), with_long);
    }
}

#[test]
fn services_that_would_find_another_port_are_told() {
    let second = json!({ "name": "b", "ports": [{ "name": "http", "containerPort": 4000 }] });
    let both = with(pod(), "/spec/containers/-", second);
    let number = with(both.clone(), "/metadata/annotations/sidestream~1app-port", "3000".into());
    injected(&number, "1.33", "initContainers", 1);
    let response = answer(&number, "1.33");
    let warning = response["warnings"][0].as_str().unwrap();
    assert!(warning.contains("another container has a port named `http`, too"), "{warning}");
    let name = with(both, "/metadata/annotations/sidestream~1app-port", "http".into());
    refused(&name, "1.33", "more than one container has a port named `http`; write the number");
    // The same name in UDP is another port.
    let dns = json!({ "name": "b", "ports": [{ "name": "http", "containerPort": 53, "protocol": "UDP" }] });
    injected(&with(pod(), "/spec/containers/-", dns), "1.33", "initContainers", 0);
}

#[test]
fn a_dry_run_and_being_asked_again_make_no_difference() {
    for pod in [pod(), full(), labelled(annotated("mode", "x"), "true")] {
        let review = review_of(&pod);
        let mut dry = review.clone();
        dry["request"]["dryRun"] = true.into();
        dry["request"]["options"] = json!({ "kind": "CreateOptions", "dryRun": ["All"] });
        assert_eq!(ask(&dry, "1.33"), ask(&review, "1.33"));
    }
    // Another webhook came in between, and changed what it liked.
    let mut made = injected(&full(), "1.33", "initContainers", 0);
    made["metadata"]["labels"]["mesh"] = "on".into();
    made["spec"]["containers"].as_array_mut().unwrap().insert(0, json!({ "name": "first" }));
    let list = made["spec"]["initContainers"].as_array_mut().unwrap();
    let sidecar = list.pop().unwrap();
    list.insert(0, sidecar);
    list.push(json!({ "name": "another" }));
    assert_eq!(answer(&made, "1.33"), json!({ "uid": "1", "allowed": true }));
}

#[test]
fn only_pods_that_are_created_are_looked_at() {
    let asked = |pointer: &str, value: Value| {
        let mut review = review_of(&pod());
        review["request"]["subResource"] = Value::Null;
        *review.pointer_mut(pointer).unwrap() = value;
        ask(&review, "1.33")["response"].clone()
    };
    let alone = json!({ "uid": "1", "allowed": true });
    for (pointer, value) in [
        ("/request/operation", json!("UPDATE")),
        ("/request/operation", json!("DELETE")),
        ("/request/operation", json!("CONNECT")),
        ("/request/kind/kind", json!("Deployment")),
        ("/request/kind/group", json!("example.com")),
        ("/request/subResource", json!("ephemeralcontainers")),
        ("/request/subResource", json!("status")),
    ] {
        assert_eq!(asked(pointer, value.clone()), alone, "{pointer} {value}");
    }
    assert!(asked("/request/namespace", json!("other"))["patch"].is_string());
}
