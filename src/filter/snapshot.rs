//! `snapshot: true`: what a filter needs so that the documents that match now and the changes after
//! them are together what the collection shows.

use bson::Document;

use super::advice::{enable_images, fields_beside_key, list, place_of};
use super::declaration::Declaration;
use super::{Filter, FullDocument, FullDocumentBeforeChange, Operations};
use crate::diagnostic::Reporter;
use crate::event::OperationType;
use crate::yaml::{Entry, Typed};

/// What is written.
pub(super) fn read(entry: &Entry, reporter: &mut Reporter<'_>) -> bool {
    let scalar = entry.value.scalar();
    if let Some(Ok(Typed::Bool(value))) = scalar.map(|scalar| scalar.typed()) {
        return value;
    }
    let message = match scalar {
        Some(scalar) => format!("`{}` is not a value of `snapshot`", scalar.text),
        None => format!("`snapshot` must be true or false, not {}", entry.value.noun()),
    };
    reporter.error(entry.value.place, message, "write `snapshot: true`, or remove it");
    false
}

/// Every document that enters, changes or leaves can be told, or else a client's set of documents
/// would slowly become wrong.
pub(super) fn check(
    filter: &Filter,
    document: &Document,
    declaration: &Declaration<'_>,
    reporter: &mut Reporter<'_>,
) {
    let snapshot = declaration.snapshot;
    let mut error = |entry: Option<&Entry>, message: String, hint: &str| {
        reporter.error(place_of(entry.or(snapshot)), message, hint.to_owned());
    };
    if filter.namespace.collection.is_none() {
        error(
            declaration.collection,
            "a snapshot covers one collection, not a whole database".to_owned(),
            "write `collection: database.collection`, or remove `snapshot`",
        );
    }
    if filter.operations.is_only(OperationType::Insert) {
        return;
    }
    if filter.operations != Operations::ALL {
        error(
            declaration.operations,
            "with a snapshot, `operations` must be all four, or `insert` alone".to_owned(),
            "remove `operations`, or write `operations: [insert]`; otherwise clients would keep \
             what has changed or gone",
        );
        return;
    }
    if filter.full_document == FullDocument::Default {
        error(
            declaration.full_document,
            "with a snapshot, updates must carry the document".to_owned(),
            "write `fullDocument: updateLookup`, or `whenAvailable` with post-images",
        );
    }
    let fields = fields_beside_key(document);
    if filter.before_image == FullDocumentBeforeChange::Off && !fields.is_empty() {
        error(
            declaration.before_image.or(declaration.matching),
            format!(
                "with a snapshot, clients must be told of documents that leave, and `match` needs \
                 {} of the document before the change",
                list(&fields)
            ),
            &format!(
                "write `fullDocumentBeforeChange: whenAvailable` and enable pre-images with \
                 `{}`, or match on `_id` alone, or write `operations: [insert]`",
                enable_images(filter)
            ),
        );
    }
    // Some other field may tell documents apart, but not where one leaves: that tells the key alone.
    if filter.projection.as_ref().is_some_and(|shown| !shown.shows_whole(b"_id")) {
        reporter.warning(
            place_of(declaration.project.or(declaration.snapshot)),
            "`project` hides `_id`: with a snapshot, clients cannot tell which document changes or \
             leaves",
            "show `_id`, or remove `snapshot`",
        );
    }
}
