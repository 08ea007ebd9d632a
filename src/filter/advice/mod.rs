//! What is allowed but probably not meant: warnings.

pub(super) mod contradiction;
pub(super) mod elements;
pub(super) mod mistakes;
pub(super) mod suspect;

use std::collections::{BTreeSet, HashSet};

use bson::{Bson, Document};

use crate::diagnostic::Reporter;
use crate::event::OperationType;
use crate::filter::declaration::Declaration;
use crate::filter::{Access, Filter, FullDocument, FullDocumentBeforeChange};
use crate::matcher::{Placeholder, Template};
use crate::yaml::{Entry, Place};

/// Parameters that no condition uses.
pub(in crate::filter) fn unused_params(
    template: &Template,
    access: Option<&Access>,
    params: Option<&Entry>,
    reporter: &mut Reporter<'_>,
) {
    let mut uses = template.placeholders();
    if let Some(Access::Match(rule)) = access {
        uses.extend(rule.template.placeholders());
    }
    let used: HashSet<&str> = uses
        .iter()
        .filter_map(|one| match &one.placeholder {
            Placeholder::Param(name) => Some(name.as_str()),
            Placeholder::Claim(_) => None,
        })
        .collect();
    for entry in params.and_then(|entry| entry.value.entries()).unwrap_or_default() {
        if !used.contains(entry.key.as_str()) {
            reporter.warning(
                entry.key_place,
                format!("the parameter `{}` is not used", entry.key),
                format!("use it in `match` as {{ $param: {} }}, or remove it", entry.key),
            );
        }
    }
}

/// The command, for `mongosh`, that has the collection keep images of its documents.
pub(super) fn enable_images(filter: &Filter) -> String {
    let collection = filter.namespace.collection.as_deref().unwrap_or("NAME");
    format!(
        "db.runCommand({{ collMod: {collection:?}, changeStreamPreAndPostImages: {{ enabled: true }} }})"
    )
}

/// What the choice of operations and images means for the conditions.
pub(in crate::filter) fn advise(
    filter: &Filter,
    document: &Document,
    declaration: &Declaration<'_>,
    reporter: &mut Reporter<'_>,
) {
    let fields = fields_beside_key(document);
    if fields.is_empty() {
        return;
    }
    let fields = list(&fields);
    let operations = place_of(declaration.operations.or(declaration.matching));

    if filter.operations.contains(OperationType::Delete)
        && filter.before_image == FullDocumentBeforeChange::Off
    {
        reporter.warning(
            operations,
            format!("deletes are not sent: they carry only the key, and `match` needs {fields}"),
            format!(
                "write `fullDocumentBeforeChange: whenAvailable` and enable pre-images with `{}`, or \
                 leave `delete` out of `operations`",
                enable_images(filter)
            ),
        );
    }
    if filter.operations.contains(OperationType::Update)
        && filter.full_document == FullDocument::Default
    {
        reporter.warning(
            place_of(declaration.full_document),
            format!(
                "updates are not sent: under `fullDocument: default` they carry no document, and \
                 `match` needs {fields}"
            ),
            "write `fullDocument: updateLookup`, or leave `update` out of `operations`",
        );
    }
}

/// The dotted fields that conditions ask for and a delete does not carry. Its key holds `_id`; the
/// fields of a shard key too, but no file tells those.
pub(in crate::filter) fn fields_beside_key(document: &Document) -> BTreeSet<String> {
    let mut fields = BTreeSet::new();
    collect_fields(document, &mut fields);
    fields.retain(|field| field != "_id" && !field.starts_with("_id."));
    fields
}

/// The dotted fields that conditions ask for. What reads the document in other ways (`$expr`)
/// counts under its own name.
fn collect_fields(document: &Document, fields: &mut BTreeSet<String>) {
    for (key, value) in document {
        match (key.as_str(), value) {
            ("$and" | "$or" | "$nor", Bson::Array(branches)) => {
                for branch in branches.iter().filter_map(Bson::as_document) {
                    collect_fields(branch, fields);
                }
            }
            ("$comment", _) => {}
            (key, _) => {
                fields.insert(key.to_owned());
            }
        }
    }
}

/// At most three, in backticks.
pub(in crate::filter) fn list(fields: &BTreeSet<String>) -> String {
    let mut shown: Vec<String> = fields.iter().take(3).map(|field| format!("`{field}`")).collect();
    if fields.len() > shown.len() {
        shown.push("…".to_owned());
    }
    shown.join(", ")
}

/// Of the key; the beginning of the file where there is none.
pub(in crate::filter) fn place_of(entry: Option<&Entry>) -> Place {
    entry.map_or(Place::START, |entry| entry.key_place)
}
