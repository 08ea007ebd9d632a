//! `sidestream inject`: manifests as text in, the same text with sidecars out.
//!
//! Documents without pods pass byte for byte. In the others, only the lines that change are touched
//! ([`splice`]). If a layout does not allow that, the document is rewritten without its comments,
//! and a warning says so.

mod emit;
mod splice;

use std::path::Path;

use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::annotations;
use super::json_patch;
use super::pod::{self, Outcome, Situation, Takeover};
use super::workload::{self, PodTemplate};
use super::{INJECT_LABEL, Mistake, Platform, Version};
use crate::diagnostic::{Diagnostic, Reporter};
use crate::yaml::{self, Node, NodeKind, Place, Typed};

/// Marks a plain scalar that YAML's versions read differently (`0644`, `yes`) or that JSON would
/// write differently (`1.10`): such text stays as it is. No YAML text can hold it.
const PLAIN: char = '\0';

/// What became of a text.
#[derive(Debug)]
pub struct Injected {
    /// The manifests, to be printed where there is no error.
    pub text: String,
    /// Errors and warnings, in the order of the text.
    pub diagnostics: Vec<Diagnostic>,
    /// How many pod templates got a sidecar.
    pub count: usize,
}

impl Injected {
    /// Whether the text must not be used.
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_error)
    }
}

/// A template that got a sidecar: what is held against Services and NetworkPolicies.
struct Changed {
    namespace: Option<String>,
    labels: Map<String, Value>,
    takeover: Takeover,
}

/// Adds the sidecar to every pod template of a text. `file` is what diagnostics call it.
pub fn inject(file: &Path, text: &str, platform: &Platform, version: Version) -> Injected {
    let mut run = Run {
        platform,
        version,
        reporter: Reporter::new(file, text),
        changed: Vec::new(),
        others: Vec::new(),
        out: String::with_capacity(text.len() * 2),
    };
    for (first_line, document) in documents(text) {
        run.document(first_line, document);
    }
    run.tell_of_numbers();
    Injected { text: run.out, count: run.changed.len(), diagnostics: run.reporter.finish() }
}

struct Run<'a> {
    platform: &'a Platform,
    version: Version,
    reporter: Reporter<'a>,
    changed: Vec<Changed>,
    /// Services and NetworkPolicies: the line before their document, its tree, and the object.
    others: Vec<(usize, Node, Vec<String>, Value)>,
    out: String,
}

impl Run<'_> {
    /// One document; `before` counts the lines before it.
    fn document(&mut self, before: usize, text: &str) {
        let root = match yaml::parse_merging(text) {
            Ok(Some(root)) => root,
            Ok(None) => return self.out.push_str(text),
            // What has no pods need not be understood.
            Err(_) if !may_hold_pods(text) => return self.out.push_str(text),
            Err(problems) => {
                for problem in problems {
                    let hint = problem.hint.unwrap_or_else(|| "see the syntax of YAML".to_owned());
                    self.reporter.error(below(problem.place, before), problem.message, hint);
                }
                return;
            }
        };
        let old = to_value(&root);
        let mut new = old.clone();
        for template in workload::templates(&old) {
            self.template(before, &root, &old, &mut new, &template);
        }
        for (path, object) in workload::objects(&old) {
            if object.get("kind").is_some_and(|k| k == "Service" || k == "NetworkPolicy") {
                self.others.push((before, root.clone(), path, object.clone()));
            }
        }
        if new == old {
            return self.out.push_str(text);
        }
        if let Some(spliced) = spliced(text, &root, &old, &new) {
            return self.out.push_str(&spliced);
        }
        let is_json = text.trim_start().starts_with('{');
        if !is_json {
            self.reporter.warning(
                below(root.place, before),
                "this document was rewritten without its comments",
                "write lists and mappings of pods in block style, one entry per line, without \
                 anchors",
            );
        }
        self.out.push_str(&rewritten(text, &new, is_json));
    }

    fn template(
        &mut self,
        before: usize,
        root: &Node,
        old: &Value,
        new: &mut Value,
        template: &PodTemplate,
    ) {
        let Some(slot) = workload::at_mut(new, &template.path) else { return };
        self.tell_of_misplaced(before, root, old, template);
        let situation = Situation {
            platform: self.platform,
            version: self.version,
            is_of_job: template.is_of_job,
        };
        let place = |mistake: Option<&Mistake>| {
            below(place_of(root, template, mistake.and_then(|m| m.key.as_deref())), before)
        };
        let name = format!("{} {}", template.kind, name_of(old, template));
        match pod::inject(slot, situation) {
            Outcome::Injected { pod, takeover, warnings } => {
                for warning in warnings {
                    let hint = "see docs/kubernetes/troubleshooting.md";
                    self.reporter.warning(place(None), format!("{name}: {warning}"), hint);
                }
                let labels = pod.pointer("/metadata/labels").and_then(Value::as_object);
                self.changed.push(Changed {
                    namespace: namespace(at(old, &template.workload)),
                    labels: labels.cloned().unwrap_or_default(),
                    takeover,
                });
                *slot = pod;
            }
            Outcome::Unchanged { warning } => {
                if let Some(warning) = warning {
                    let hint = "if this is intended, set the label sidestream/inject: \"false\"";
                    self.reporter.warning(place(None), format!("{name}: {warning}"), hint);
                }
            }
            Outcome::Refused(mistakes) => {
                for mistake in mistakes {
                    let hint = "see docs/kubernetes/injection.md for labels and annotations";
                    let message = format!("{name}: {mistake}");
                    self.reporter.error(place(Some(&mistake)), message, hint);
                }
            }
        }
    }

    /// What stands on a workload and not on its pod template, where alone it is read.
    fn tell_of_misplaced(
        &mut self,
        before: usize,
        root: &Node,
        old: &Value,
        template: &PodTemplate,
    ) {
        let metadata = |path: &[String]| at(old, path).and_then(|object| object.get("metadata"));
        let (outer, inner) = (metadata(&template.workload), metadata(&template.path));
        let has = |metadata: Option<&Value>, group: &str, key: &str| {
            metadata.and_then(|metadata| metadata.get(group)?.get(key)).is_some()
        };
        let marks = annotations::ALL.iter().map(|&key| ("annotations", key));
        for (group, key) in marks.chain([("labels", INJECT_LABEL)]) {
            if template.path == template.workload
                || !has(outer, group, key)
                || has(inner, group, key)
            {
                continue;
            }
            let path = template.workload.iter().map(String::as_str).chain(["metadata", group, key]);
            let path: Vec<String> = path.map(str::to_owned).collect();
            let place = splice::find(root, &path).map_or(root.place, |node| node.place);
            let (kind, name) = (&template.kind, name_of(old, template));
            self.reporter.warning(
                below(place, before),
                format!("{kind} {name}: {key} has no effect on the {kind} itself"),
                format!("move it to the pod template: its `metadata.{group}`"),
            );
        }
    }

    /// Services and NetworkPolicies that use the app's number still mean the app.
    fn tell_of_numbers(&mut self) {
        for (before, root, path, object) in std::mem::take(&mut self.others) {
            for changed in &self.changed {
                if namespace(Some(&object)) != changed.namespace {
                    continue;
                }
                for (below_object, what) in numbers(&object, changed) {
                    let full: Vec<String> = path.iter().cloned().chain(below_object).collect();
                    let place = splice::find(&root, &full).map_or(root.place, |node| node.place);
                    let Takeover { name, app, listen } = &changed.takeover;
                    self.reporter.warning(
                        below(place, before),
                        format!("{what} by its number {app}, past the sidecar"),
                        format!("write the name `{name}`, or the sidecar's number {listen}"),
                    );
                }
            }
        }
    }
}

/// Where an object uses a number that is the app's, and what that does.
fn numbers(object: &Value, changed: &Changed) -> Vec<(Vec<String>, String)> {
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
    let path = |keys: &[&str]| keys.iter().map(|&key| key.to_owned()).collect::<Vec<String>>();
    let app = changed.takeover.app;
    let mut found = Vec::new();
    let list =
        |pointer: &str| object.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    if kind == "Service" && selects(object.pointer("/spec/selector"), changed) {
        for (index, port) in list("/spec/ports").enumerate() {
            let key = if port.get("targetPort").is_some() { "targetPort" } else { "port" };
            if port.get(key).is_some_and(|number| number == app) {
                let keys = path(&["spec", "ports", &index.to_string(), key]);
                found.push((keys, "this Service leads to the app".to_owned()));
            }
        }
    }
    if kind == "NetworkPolicy" && matches(object.pointer("/spec/podSelector"), &changed.labels) {
        for (rule, body) in list("/spec/ingress").enumerate() {
            let ports = body.get("ports").and_then(Value::as_array).into_iter().flatten();
            for (index, port) in ports.enumerate() {
                if opens(port, app) && !opens(port, changed.takeover.listen) {
                    let (rule, index) = (rule.to_string(), index.to_string());
                    let keys = path(&["spec", "ingress", &rule, "ports", &index, "port"]);
                    found.push((keys, "this NetworkPolicy opens the app".to_owned()));
                }
            }
        }
    }
    found
}

/// Whether a port of a NetworkPolicy, which may be a range, is this number.
fn opens(port: &Value, number: u16) -> bool {
    let of = |key: &str| port.get(key).and_then(Value::as_u64);
    let Some(first) = of("port") else { return false };
    (first..=of("endPort").unwrap_or(first)).contains(&u64::from(number))
}

/// Whether a label selector matches. An empty one matches everything.
fn matches(selector: Option<&Value>, labels: &Map<String, Value>) -> bool {
    let list = |value: Option<&Value>, key: &str| -> Vec<Value> {
        value.and_then(|value| value.get(key)?.as_array().cloned()).unwrap_or_default()
    };
    let wanted = selector.and_then(|selector| selector.get("matchLabels")?.as_object());
    let has_all = wanted.into_iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    has_all
        && list(selector, "matchExpressions").iter().all(|expression| {
            let text = |key: &str| expression.get(key).and_then(Value::as_str);
            let value = text("key").and_then(|key| labels.get(key));
            let is_listed = value.is_some_and(|v| list(Some(expression), "values").contains(v));
            match text("operator") {
                Some("In") => is_listed,
                Some("NotIn") => !is_listed,
                Some("Exists") => value.is_some(),
                Some("DoesNotExist") => value.is_none(),
                _ => false,
            }
        })
}

fn selects(selector: Option<&Value>, changed: &Changed) -> bool {
    let labels = selector.and_then(Value::as_object);
    labels.is_some_and(|labels| {
        !labels.is_empty()
            && labels.iter().all(|(key, value)| changed.labels.get(key) == Some(value))
    })
}

fn namespace(object: Option<&Value>) -> Option<String> {
    object?.pointer("/metadata/namespace")?.as_str().map(str::to_owned)
}

/// The steps made in the text, if it then says what it should.
fn spliced(text: &str, root: &Node, old: &Value, new: &Value) -> Option<String> {
    let steps = json_patch::diff(old, new);
    let spliced = splice::splice(text, root, &steps)?;
    let tree = yaml::parse_merging(&spliced).ok()??;
    // YAML lets keys in `{ … }` stand without quotes, and whoever gave JSON reads JSON.
    let is_json = |text| serde_json::from_str::<IgnoredAny>(text).is_ok();
    (to_value(&tree) == *new && (!is_json(text) || is_json(&spliced))).then_some(spliced)
}

fn rewritten(text: &str, new: &Value, is_json: bool) -> String {
    if is_json {
        return format!("{:#}\n", to_json(new));
    }
    let start = if text.starts_with("---") { "---\n" } else { "" };
    let lines = emit::document(new, emit::Style { flat_lists: false });
    format!("{start}{}\n", lines.join("\n"))
}

/// The texts of a stream, each with its `---` line, and how many lines are before it.
fn documents(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let is_marker = line.trim_end() == "---" || line.starts_with("--- ");
        if is_marker && at > start {
            found.push((start_line, &text[start..at]));
            (start, start_line) = (at, number);
        }
        at += line.len();
    }
    if at > start {
        found.push((start_line, &text[start..at]));
    }
    found
}

/// Whether a text that cannot be read could be of a kind that has pods.
fn may_hold_pods(text: &str) -> bool {
    text.lines().any(|line| {
        let line = line.trim().trim_start_matches("- ").replace(['"', '\''], "");
        let kind = line.strip_prefix("kind:").map(|rest| rest.trim().trim_end_matches(','));
        kind.is_some_and(workload::holds_pods)
    }) || text.trim_start().starts_with('{')
}

/// The tree as JSON. What JSON would say differently stays text, marked with [`PLAIN`].
fn to_value(node: &Node) -> Value {
    match &node.kind {
        NodeKind::Mapping(entries) => Value::Object(
            entries.iter().map(|entry| (entry.key.clone(), to_value(&entry.value))).collect(),
        ),
        NodeKind::Sequence(items) => Value::Array(items.iter().map(to_value).collect()),
        NodeKind::Scalar(scalar) => match scalar.typed() {
            Ok(Typed::Null) => Value::Null,
            Ok(Typed::Bool(value)) => value.into(),
            Ok(Typed::Int(value)) if scalar.text == value.to_string() => value.into(),
            Ok(Typed::String(text)) => text.into(),
            _ => format!("{PLAIN}{}", scalar.text).into(),
        },
    }
}

/// The same without marks: numbers as numbers. What JSON has no word for becomes text.
fn to_json(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            Value::Object(map.iter().map(|(key, value)| (key.clone(), to_json(value))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(to_json).collect()),
        Value::String(text) => match text.strip_prefix(PLAIN) {
            Some(written) => serde_json::from_str(written).unwrap_or_else(|_| written.into()),
            None => value.clone(),
        },
        other => other.clone(),
    }
}

fn at<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, key| match value {
        Value::Object(map) => map.get(key),
        Value::Array(items) => items.get(key.parse::<usize>().ok()?),
        _ => None,
    })
}

fn name_of(document: &Value, template: &PodTemplate) -> String {
    let metadata = at(document, &template.workload).and_then(|object| object.get("metadata"));
    let name = |key| metadata.and_then(|metadata| metadata.get(key)).and_then(Value::as_str);
    let name = name("name").or_else(|| name("generateName")).unwrap_or("without a name");
    super::shown(name)
}

/// The place of an annotation or label; else of the workload's name; else its first character.
fn place_of(root: &Node, template: &PodTemplate, key: Option<&str>) -> Place {
    let below = |path: &[String], keys: &[&str]| {
        let full: Vec<String> =
            path.iter().cloned().chain(keys.iter().map(|&key| key.to_owned())).collect();
        splice::find(root, &full)
    };
    let written = key.and_then(|key| {
        ["annotations", "labels"].iter().find_map(|group| {
            Some(below(&template.path, &["metadata", group])?.get(key)?.value.place)
        })
    });
    let name = || below(&template.workload, &["metadata", "name"]).map(|node| node.place);
    let workload = || splice::find(root, &template.workload).map(|node| node.place);
    written.or_else(name).or_else(workload).unwrap_or(root.place)
}

fn below(place: Place, lines: usize) -> Place {
    Place { line: place.line + lines, ..place }
}
