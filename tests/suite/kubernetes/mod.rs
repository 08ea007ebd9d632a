//! Kubernetes: manifests, admission reviews, the webhook's certificate and leader, the drain.

mod again;
mod cluster;
mod commands;
mod drain;
mod golden;
mod leader;
mod pods;
mod profile;
mod webhook;

use serde_json::Value;
use sidestream::yaml::{self, Node, NodeKind, Typed};

/// The documents of a YAML text, as a Kubernetes client reads them. Text that YAML's versions read
/// differently stays text.
fn documents(text: &str) -> Vec<Value> {
    let mut parts = vec![String::new()];
    for line in text.lines() {
        if line == "---" || line.starts_with("--- ") {
            parts.push(String::new());
        } else {
            let part = parts.last_mut().unwrap();
            part.push_str(line);
            part.push('\n');
        }
    }
    let trees = parts.iter().filter_map(|part| yaml::parse_merging(part).ok().flatten());
    trees.map(|tree| value(&tree)).collect()
}

fn value(node: &Node) -> Value {
    match &node.kind {
        NodeKind::Mapping(entries) => {
            entries.iter().map(|entry| (entry.key.clone(), value(&entry.value))).collect()
        }
        NodeKind::Sequence(items) => items.iter().map(value).collect(),
        NodeKind::Scalar(scalar) => match scalar.typed() {
            Ok(Typed::Null) => Value::Null,
            Ok(Typed::Bool(value)) => value.into(),
            Ok(Typed::Int(value)) => value.into(),
            _ => scalar.text.clone().into(),
        },
    }
}

/// The pods of a document, and whether they are of a Job.
fn pods(document: &Value) -> Vec<(Value, bool)> {
    let items = match document["kind"].as_str() {
        Some("List") => document["items"].as_array().unwrap().clone(),
        _ => vec![document.clone()],
    };
    let mut found = Vec::new();
    for item in items {
        match item["kind"].as_str().unwrap_or_default() {
            "Pod" => found.push((item, false)),
            "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" => {
                found.push((item["spec"]["template"].clone(), false));
            }
            "Job" => found.push((item["spec"]["template"].clone(), true)),
            "CronJob" => {
                found.push((item["spec"]["jobTemplate"]["spec"]["template"].clone(), true));
            }
            _ => {}
        }
    }
    found
}
