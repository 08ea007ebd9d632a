//! Claims and parameters that are text, compared with a field that has another type: nothing would
//! ever match, with no error. Most apps refer to users by ObjectId, and tokens contain it as text.

use std::collections::BTreeSet;

use bson::raw::RawElement;
use bson::spec::{BinarySubtype, ElementType};
use bson::{Document, RawBsonRef, RawDocument, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use mongodb::Client;
use mongodb::error::Error;

use super::limits::MAX_TIME;
use super::{Finding, FindingKind};
use crate::filter::{Filter, ParamType};
use crate::matcher::{Placeholder, PlaceholderUse, Step};
use crate::upstream::failure::Failure;

/// So many documents are looked at, the first ones.
const DOCUMENTS: i64 = 20;

/// Whether there is anything to look at in a filter's collection.
pub(super) fn compares_text(filter: &Filter) -> bool {
    compared(filter).next().is_some()
}

/// The dotted fields that are compared with text, and with which.
fn compared(filter: &Filter) -> impl Iterator<Item = (String, &Placeholder)> {
    let uses = filter.template.uses().iter();
    uses.filter(|used| is_text(filter, &used.placeholder))
        .filter_map(|used| Some((field(used)?, &used.placeholder)))
}

/// Looks at a filter's fields that are compared with text, and reads no others. The server sends one
/// batch, of 16 MB at most: if these fields are so large, of fewer documents.
///
/// # Errors
/// Those of the driver, but for missing rights, which others tell.
pub(super) async fn look(
    client: &Client,
    (database, collection): (&str, &str),
    filter: &Filter,
) -> Result<Vec<Finding>, Error> {
    let compared: Vec<(String, &Placeholder)> = compared(filter).collect();
    let fields = projection(compared.iter().map(|(path, _)| path.as_str()));
    if fields.is_empty() {
        return Ok(Vec::new());
    }
    let documents = client.database(database).collection::<RawDocumentBuf>(collection);
    // A negative limit asks for one batch.
    let finding = documents.find(doc! {}).limit(-DOCUMENTS).projection(fields).max_time(MAX_TIME);
    let found = async { finding.batch().await?.try_next().await };
    let batch = match found.await {
        Err(error) if Failure::of(&error) == Failure::Privileges => return Ok(Vec::new()),
        batch => batch?,
    };
    let Some(batch) = batch else { return Ok(Vec::new()) };
    let documents: Vec<&RawDocument> = batch
        .doc_slices()?
        .into_iter()
        .filter_map(|document| document.ok()?.as_document())
        .collect();
    let misfits = compared.iter().filter_map(|(path, placeholder)| {
        let mut kinds = Vec::new();
        let steps: Vec<&str> = path.split('.').collect();
        documents.iter().for_each(|document| collect(document, &steps, &mut kinds));
        misfit(filter, (database, collection), path, placeholder, &kinds)
    });
    Ok(misfits.collect())
}

/// Shows these dotted fields and nothing else; empty where there are none. What lies below a name that
/// a projection cannot have (`$id`) is read with what holds it.
fn projection<'p>(paths: impl Iterator<Item = &'p str>) -> Document {
    let sayable = paths.map(|path| {
        let steps = path.split('.').take_while(|step| !step.is_empty() && !step.starts_with('$'));
        steps.collect::<Vec<_>>()
    });
    let sayable: BTreeSet<Vec<&str>> = sayable.filter(|steps| !steps.is_empty()).collect();
    // A projection must not have both a field and one below it.
    let is_within_another =
        |steps: &Vec<&str>| (1..steps.len()).any(|length| sayable.contains(&steps[..length]));
    let mut fields = Document::new();
    for steps in sayable.iter().filter(|steps| !is_within_another(steps)) {
        fields.insert(steps.join("."), 1);
    }
    if !fields.is_empty() && !fields.keys().any(|path| path.split('.').next() == Some("_id")) {
        fields.insert("_id", 0);
    }
    fields
}

fn is_text(filter: &Filter, placeholder: &Placeholder) -> bool {
    match placeholder {
        Placeholder::Claim(claim) => claim.kind.is_none(),
        Placeholder::Param(name) => {
            filter.params.get(name).is_some_and(|param| param.kind == ParamType::String)
        }
    }
}

/// The dotted field that a placeholder is compared with; `None` where that is no field.
fn field(used: &PlaceholderUse) -> Option<String> {
    let keys: Vec<&str> = used
        .path
        .iter()
        .filter_map(|step| match step {
            Step::Key(key) => Some(&**key),
            Step::Index(_) => None,
        })
        .collect();
    if keys.contains(&"$expr") {
        return None;
    }
    let names: Vec<&str> = keys.into_iter().filter(|key| !key.starts_with('$')).collect();
    (!names.is_empty()).then(|| names.join("."))
}

/// The types of a field's values; of an array, those of its items. Other values may be anything, also
/// what nobody can decode.
fn collect(document: &RawDocument, steps: &[&str], kinds: &mut Vec<Option<Kind>>) {
    let Some((first, rest)) = steps.split_first() else { return };
    let mut elements = document.iter_elements().map_while(Result::ok);
    let Some(value) = elements.find(|element| element.key().as_str() == *first) else { return };
    if value.element_type() != ElementType::Array {
        return item(&value, rest, kinds);
    }
    let Ok(RawBsonRef::Array(items)) = value.value() else { return };
    for element in items.iter_elements().map_while(Result::ok) {
        item(&element, rest, kinds);
    }
}

fn item(value: &RawElement<'_>, rest: &[&str], kinds: &mut Vec<Option<Kind>>) {
    match value.element_type() {
        ElementType::Null if rest.is_empty() => {}
        _ if rest.is_empty() => kinds.push(kind(value)),
        ElementType::EmbeddedDocument => {
            if let Ok(RawBsonRef::Document(inner)) = value.value() {
                collect(inner, rest, kinds);
            }
        }
        _ => {}
    }
}

/// That none of the values is text, and all are of one type that text can be read as.
fn misfit(
    filter: &Filter,
    (database, collection): (&str, &str),
    path: &str,
    placeholder: &Placeholder,
    kinds: &[Option<Kind>],
) -> Option<Finding> {
    let (kind, noun) = (*kinds.first()?)?;
    if !kinds.iter().all(|other| *other == Some((kind, noun))) {
        return None;
    }
    let holds = format!("`{path}` of `{database}.{collection}` holds {noun}");
    let (message, fix) = match placeholder {
        Placeholder::Claim(claim) => (
            format!("{holds}, and the claim `{0}` is text: nothing will match", claim.path),
            format!("write `{path}: {{ $claim: {}, type: {kind} }}`", claim.path),
        ),
        Placeholder::Param(name) => (
            format!("{holds}, and the parameter `{name}` is text: nothing will match"),
            format!("declare it as `{name}: {{ type: {kind} }}`"),
        ),
    };
    Some(Finding::of(filter, FindingKind::ValueType, message, fix))
}

/// The type by which a claim or a parameter is read as a value, and what such values are called.
type Kind = (&'static str, &'static str);

fn kind(value: &RawElement<'_>) -> Option<Kind> {
    match value.element_type() {
        ElementType::ObjectId => Some(("objectId", "ObjectIds")),
        ElementType::DateTime => Some(("date", "dates")),
        ElementType::Binary => match value.value() {
            Ok(RawBsonRef::Binary(binary)) if binary.subtype == BinarySubtype::Uuid => {
                Some(("uuid", "UUIDs"))
            }
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bson::oid::ObjectId;
    use bson::{Bson, DateTime};

    use super::*;

    #[test]
    fn only_what_is_compared_is_asked_for() {
        let rows: &[(&[&str], Document)] = &[
            (&[], doc! {}),
            (&["customer"], doc! { "customer": 1, "_id": 0 }),
            (&["a.b", "a.c"], doc! { "a.b": 1, "a.c": 1, "_id": 0 }),
            // MongoDB refuses a projection of both.
            (&["a.b", "a", "a.b.c", "ab"], doc! { "a": 1, "ab": 1, "_id": 0 }),
            (&["_id"], doc! { "_id": 1 }),
            (&["_id.user", "a"], doc! { "_id.user": 1, "a": 1 }),
            // What a projection cannot name.
            (&["author.$id"], doc! { "author": 1, "_id": 0 }),
            (&["a..b", "", ".c"], doc! { "a": 1, "_id": 0 }),
        ];
        for (paths, expected) in rows {
            assert_eq!(projection(paths.iter().copied()), *expected, "{paths:?}");
        }
    }

    /// The types at a path of a document whose first field is not text.
    fn kinds_of(path: &str, document: Document) -> Vec<Option<Kind>> {
        let mut whole = doc! { "odd": "xx", "list": ["xx", { "odd": "xx" }] };
        whole.extend(document);
        let mut bytes = whole.to_vec().unwrap();
        for at in 0..bytes.len() - 1 {
            if bytes[at..].starts_with(b"xx") {
                bytes[at..at + 2].copy_from_slice(b"\xe9\xff");
            }
        }
        let raw = RawDocumentBuf::from_bytes(bytes).unwrap();
        assert!(Document::try_from(&raw).is_err());
        let (steps, mut kinds): (Vec<&str>, _) = (path.split('.').collect(), Vec::new());
        collect(&raw, &steps, &mut kinds);
        kinds
    }

    #[test]
    fn values_are_told_apart_without_being_decoded() {
        let id = Some(("objectId", "ObjectIds"));
        let date = Some(("date", "dates"));
        let new = ObjectId::new;
        let rows = [
            ("a", doc! { "a": new() }, vec![id]),
            ("a", doc! { "a": DateTime::now() }, vec![date]),
            ("a", doc! { "a": [new(), "text", Bson::Null] }, vec![id, None]),
            ("a", doc! { "a": Bson::Null }, vec![]),
            ("a", doc! { "b": new() }, vec![]),
            ("a.b", doc! { "a": { "c": 1, "b": new() } }, vec![id]),
            ("a.b", doc! { "a": [{ "b": new() }, { "b": [DateTime::now()] }, 1] }, vec![id, date]),
            ("a.b", doc! { "a": new() }, vec![]),
            ("odd", doc! {}, vec![None]),
            ("list", doc! {}, vec![None, None]),
            ("list.odd", doc! {}, vec![None]),
        ];
        for (path, document, expected) in rows {
            assert_eq!(kinds_of(path, document.clone()), expected, "{path}: {document}");
        }
    }
}
