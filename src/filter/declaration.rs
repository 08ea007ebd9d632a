//! A filter file as written: its top-level keys, each with its place.

use crate::diagnostic::{Reporter, nearest};
use crate::yaml::{Entry, Node};

/// Every key of a filter file, in the order in which the documentation has them.
pub(super) const KEYS: [&str; 11] = [
    "description",
    "collection",
    "operations",
    "match",
    "params",
    "project",
    "fullDocument",
    "fullDocumentBeforeChange",
    "access",
    "snapshot",
    "examples",
];

/// Keys that other tools have, in lower case; what to write here; the key that is meant.
const ELSEWHERE: [(&[&str], &str, &str); 12] = [
    (
        &["filter", "query", "where", "selector", "conditions", "pipeline"],
        "did you mean `match`?",
        "match",
    ),
    (&["fields", "select", "projection", "attributes"], "did you mean `project`?", "project"),
    (&["database", "db"], "write both into `collection: database.collection`", "collection"),
    (&["ns", "namespace", "table", "model"], "did you mean `collection`?", "collection"),
    (&["events", "ops", "on", "operationtypes"], "did you mean `operations`?", "operations"),
    (&["parameters", "args", "arguments", "variables", "vars"], "did you mean `params`?", "params"),
    (
        &["auth", "permissions", "allow", "roles", "role", "public"],
        "did you mean `access`?",
        "access",
    ),
    (&["name", "stream", "id"], "a stream is named after its file: rename the file", "collection"),
    (
        &["sort", "limit", "skip"],
        "events are sent one by one, in the order of the changes",
        "match",
    ),
    (&["optional", "nullable"], "write `required: false`", "required"),
    (&["tests", "cases", "test"], "did you mean `examples`?", "examples"),
    (&["values", "oneof", "choices", "allowed"], "did you mean `enum`?", "enum"),
];

/// What is written; nothing of it is judged yet but the names of the keys.
#[derive(Default)]
pub(super) struct Declaration<'t> {
    pub description: Option<&'t Entry>,
    pub collection: Option<&'t Entry>,
    pub operations: Option<&'t Entry>,
    pub matching: Option<&'t Entry>,
    pub params: Option<&'t Entry>,
    pub project: Option<&'t Entry>,
    pub full_document: Option<&'t Entry>,
    pub before_image: Option<&'t Entry>,
    pub access: Option<&'t Entry>,
    pub snapshot: Option<&'t Entry>,
    pub examples: Option<&'t Entry>,
    /// Known keys that are given without a value, or under a name that is nearly theirs: they have
    /// been complained about, and are not missing on top of that.
    misspelt: Vec<&'static str>,
}

impl<'t> Declaration<'t> {
    /// Sorts the keys out. `None` where the file is no mapping.
    pub fn read(root: &'t Node, reporter: &mut Reporter<'_>) -> Option<Declaration<'t>> {
        let Some(entries) = root.entries() else {
            reporter.error(
                root.place,
                format!("a filter file must be a mapping, not {}", root.noun()),
                "start with `collection: database.collection`",
            );
            return None;
        };
        let mut declaration = Declaration::default();
        for entry in entries {
            let slot = match entry.key.as_str() {
                "description" => &mut declaration.description,
                "collection" => &mut declaration.collection,
                "operations" => &mut declaration.operations,
                "match" => &mut declaration.matching,
                "params" => &mut declaration.params,
                "project" => &mut declaration.project,
                "fullDocument" => &mut declaration.full_document,
                "fullDocumentBeforeChange" => &mut declaration.before_image,
                "access" => &mut declaration.access,
                "snapshot" => &mut declaration.snapshot,
                "examples" => &mut declaration.examples,
                unknown => {
                    unknown_key(unknown, entry, &KEYS, reporter);
                    declaration.misspelt.extend(nearest(unknown, KEYS));
                    continue;
                }
            };
            if entry.value.is_null() {
                reporter.error(
                    entry.key_place,
                    format!("`{}` has no value", entry.key),
                    "give it one, or remove the key",
                );
                declaration.misspelt.extend(nearest(&entry.key, KEYS));
                continue;
            }
            *slot = Some(entry);
        }
        Some(declaration)
    }

    /// Whether this key was given, but not usably, which was reported: its absence is no second
    /// mistake.
    pub fn is_misspelt(&self, key: &str) -> bool {
        self.misspelt.contains(&key)
    }
}

/// Reports a key that is none of the known ones.
pub(super) fn unknown_key(key: &str, entry: &Entry, known: &[&str], reporter: &mut Reporter<'_>) {
    if reporter.is_full() {
        return reporter.error(entry.key_place, "unknown key", "");
    }
    let elsewhere = ELSEWHERE.iter().find(|(words, _, meant)| {
        (meant.is_empty() || known.contains(meant)) && words.contains(&key.to_lowercase().as_str())
    });
    let hint = match (elsewhere, nearest(key, known.iter().copied())) {
        (_, Some(known)) => format!("did you mean `{known}`?"),
        (Some((_, hint, _)), None) => (*hint).to_owned(),
        (None, None) => format!("known keys here: {}", known.join(", ")),
    };
    reporter.error(entry.key_place, format!("unknown key `{key}`"), hint);
}
