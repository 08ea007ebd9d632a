//! Conditions that are valid but almost never intended: an operator without its dollar, a whole
//! list or document instead of one of its values.

use std::sync::Arc;

use bson::{Bson, Document};

use crate::diagnostic::Reporter;
use crate::filter::tree::Tree;
use crate::matcher::Step;
use crate::yaml::Entry;

/// Operators that are no likely field names.
const OPERATORS: [&str; 11] =
    ["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "exists", "regex", "elemMatch"];
const LOGICAL: [&str; 4] = ["and", "or", "nor", "not"];

/// Looks through the conditions below an entry.
pub(in crate::filter) fn look_for(document: &Document, entry: &Entry, reporter: &mut Reporter<'_>) {
    let mut walk = Walk { tree: Tree::new(entry), path: Vec::new(), reporter };
    walk.document(document);
}

/// `{ $claim: … }` or `{ $param: … }`, however badly written.
pub(in crate::filter) fn is_placeholder(document: &Document) -> bool {
    document.contains_key("$claim") || document.contains_key("$param")
}

struct Walk<'w, 't, 'a> {
    tree: Tree<'t>,
    path: Vec<Step>,
    reporter: &'w mut Reporter<'a>,
}

impl Walk<'_, '_, '_> {
    fn warn(&mut self, message: String, hint: String) {
        let place = self.tree.locate(&self.path);
        self.reporter.warning(place, message, hint);
    }

    fn at(&mut self, step: Step, inner: impl FnOnce(&mut Self)) {
        self.path.push(step);
        inner(self);
        self.path.pop();
    }

    fn document(&mut self, document: &Document) {
        for (key, value) in document {
            self.at(Step::Key(Arc::from(key.as_str())), |walk| walk.entry(key, value));
        }
    }

    fn entry(&mut self, key: &str, value: &Bson) {
        match (key, value) {
            ("$and" | "$or" | "$nor", Bson::Array(branches)) => {
                for (index, branch) in branches.iter().enumerate() {
                    let Bson::Document(branch) = branch else { continue };
                    self.at(Step::Index(index), |walk| walk.document(branch));
                }
            }
            (key, _) if key.starts_with('$') => {}
            (key, Bson::Array(items))
                if LOGICAL.contains(&key)
                    && items.iter().any(|item| item.as_document().is_some()) =>
            {
                self.warn(
                    format!("`{key}` is a field here, not an operator"),
                    format!("write `${key}`"),
                );
            }
            (key, value) => {
                if self.path.len() == 1 {
                    self.event_field(key);
                }
                self.field(key, value);
            }
        }
    }

    /// A field of the change event, as a pipeline of a driver would name it.
    fn event_field(&mut self, key: &str) {
        let (first, rest) = key.split_once('.').unwrap_or((key, ""));
        let hint = match first {
            "fullDocument" | "fullDocumentBeforeChange" if !rest.is_empty() => {
                format!("write `{rest}`")
            }
            "documentKey" if !rest.is_empty() => format!("write `{rest}`"),
            "updateDescription" if !rest.is_empty() => {
                "write a condition on the field's value after the change".to_owned()
            }
            "operationType" => "list the operations under `operations`".to_owned(),
            "ns" if matches!(rest, "db" | "coll") => "name it in `collection`".to_owned(),
            _ => return,
        };
        self.warn(
            format!("`{key}` is a field of the change event, and `match` is about the document"),
            hint,
        );
    }

    fn field(&mut self, key: &str, value: &Bson) {
        match value {
            Bson::Array(items) if !items.is_empty() => self.warn(
                format!("`{key}` matches only exactly this list"),
                "write { $in: […] } for one of these values, { $all: […] } for a list that holds \
                 them all, or { $eq: […] } for exactly this list"
                    .to_owned(),
            ),
            Bson::Document(inner) if !inner.is_empty() && !is_placeholder(inner) => {
                self.inner(key, inner);
            }
            _ => {}
        }
    }

    fn inner(&mut self, key: &str, inner: &Document) {
        if inner.keys().any(|name| name.starts_with('$')) {
            return self.operators(inner);
        }
        let bare =
            inner.keys().find(|name| OPERATORS.contains(&name.as_str()) || name.as_str() == "not");
        if let Some(bare) = bare.cloned() {
            return self.at(Step::Key(Arc::from(bare.as_str())), |walk| {
                walk.warn(
                    format!("`{bare}` is a field here, not an operator"),
                    format!("write `${bare}`"),
                );
            });
        }
        // A compound key is one value.
        if key == "_id" || inner.values().any(|value| value.as_document().is_some_and(has_operator))
        {
            return;
        }
        let first = inner.keys().next().cloned().unwrap_or_default();
        self.warn(
            format!("`{key}` matches only a document with exactly these fields, in this order"),
            format!(
                "write the path with a dot, `{key}.{first}`, or {{ $eq: {{ … }} }} for \
                     exactly this document"
            ),
        );
    }

    fn operators(&mut self, operators: &Document) {
        for (operator, value) in operators {
            let step = Step::Key(Arc::from(operator.as_str()));
            match (operator.as_str(), value) {
                ("$exists", Bson::String(text)) => {
                    let meant = !text.eq_ignore_ascii_case("false");
                    self.at(step, |walk| {
                        walk.warn(
                            "`$exists` treats any text as true".to_owned(),
                            format!("write `$exists: {meant}`"),
                        );
                    });
                }
                ("$not", Bson::Document(inner)) => self.at(step, |walk| walk.operators(inner)),
                ("$elemMatch", Bson::Document(inner))
                    if !inner.keys().any(|name| {
                        name.starts_with('$') && !["$and", "$or", "$nor"].contains(&name.as_str())
                    }) =>
                {
                    self.at(step, |walk| walk.document(inner));
                }
                ("$gt" | "$gte" | "$lt" | "$lte", Bson::Array(_) | Bson::Document(_))
                    if !value.as_document().is_some_and(is_placeholder) =>
                {
                    self.at(step, |walk| {
                        walk.warn(
                            format!("`{operator}` compares with one value, not with {}", noun(value)),
                            "write one value; for a range, write `$gte` and `$lte` beside each other"
                                .to_owned(),
                        );
                    });
                }
                _ => {}
            }
        }
    }
}

fn has_operator(document: &Document) -> bool {
    document.keys().next().is_some_and(|key| key.starts_with('$'))
}

fn noun(value: &Bson) -> &'static str {
    if matches!(value, Bson::Array(_)) { "a list" } else { "a document" }
}
