//! Where the objects of Kubernetes have their pod templates.

use serde_json::Value;

/// A pod, or a template of pods, in an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodTemplate {
    /// The keys and indexes that lead to it.
    pub path: Vec<String>,
    /// The keys and indexes that lead to the workload itself.
    pub workload: Vec<String>,
    /// `Deployment`, `Pod` and so on.
    pub kind: String,
    /// Whether its pods are of a Job.
    pub is_of_job: bool,
}

/// The kinds that have pods, where they have them, and whether these are of a Job.
const KINDS: &[(&str, &[&str], bool)] = &[
    ("Pod", &[], false),
    ("Deployment", &["spec", "template"], false),
    ("StatefulSet", &["spec", "template"], false),
    ("DaemonSet", &["spec", "template"], false),
    ("ReplicaSet", &["spec", "template"], false),
    ("Job", &["spec", "template"], true),
    ("CronJob", &["spec", "jobTemplate", "spec", "template"], true),
];

/// Whether an object of this kind can hold a pod template.
pub fn holds_pods(kind: &str) -> bool {
    kind == "List" || KINDS.iter().any(|(name, ..)| *name == kind)
}

/// All objects of a document: itself, or the items of a List.
pub fn objects(document: &Value) -> Vec<(Vec<String>, &Value)> {
    if document.get("kind").is_some_and(|kind| kind == "List") {
        let items = document.get("items").and_then(Value::as_array).into_iter().flatten();
        return items
            .enumerate()
            .map(|(index, item)| (vec!["items".to_owned(), index.to_string()], item))
            .collect();
    }
    vec![(Vec::new(), document)]
}

/// All pod templates of a document.
pub fn templates(document: &Value) -> Vec<PodTemplate> {
    let mut found = Vec::new();
    for (workload, object) in objects(document) {
        let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
        let Some((_, below, is_of_job)) = KINDS.iter().find(|(name, ..)| *name == kind) else {
            continue;
        };
        let below = below.iter().map(|&key| key.to_owned());
        let path = workload.iter().cloned().chain(below).collect();
        let is_of_job = *is_of_job || is_owned_by_job(object);
        found.push(PodTemplate { path, workload, kind: kind.to_owned(), is_of_job });
    }
    found
}

/// Whether a Job made this object.
pub fn is_owned_by_job(object: &Value) -> bool {
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    owners.into_iter().flatten().any(|owner| {
        let group = owner.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
        owner.get("kind").is_some_and(|kind| kind == "Job") && group.starts_with("batch/")
    })
}

/// The value at a path, to be changed.
pub fn at_mut<'a>(value: &'a mut Value, path: &[String]) -> Option<&'a mut Value> {
    path.iter().try_fold(value, |value, key| match value {
        Value::Object(map) => map.get_mut(key),
        Value::Array(items) => items.get_mut(key.parse::<usize>().ok()?),
        _ => None,
    })
}
