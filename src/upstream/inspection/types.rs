//! Claims and parameters that are text, compared with a field that has another type: nothing would
//! ever match, with no error. Most apps refer to users by ObjectId, and tokens contain it as text.

use bson::{Bson, Document, doc, spec::BinarySubtype};
use mongodb::Client;
use mongodb::error::Error;

use super::{Finding, FindingKind};
use crate::filter::{Filter, ParamType};
use crate::matcher::{Placeholder, PlaceholderUse, Step};
use crate::upstream::failure::Failure;

/// So many documents are looked at, the first ones.
const DOCUMENTS: i64 = 20;

/// Looks at a filter's fields that are compared with text.
///
/// # Errors
/// Those of the driver, but for missing rights, which others tell.
pub(super) async fn look(
    client: &Client,
    (database, collection): (&str, &str),
    filter: &Filter,
    findings: &mut Vec<Finding>,
) -> Result<(), Error> {
    let compared: Vec<(String, &Placeholder)> = filter
        .template
        .uses()
        .iter()
        .filter(|used| is_text(filter, &used.placeholder))
        .filter_map(|used| Some((field(used)?, &used.placeholder)))
        .collect();
    if compared.is_empty() {
        return Ok(());
    }
    let documents = client.database(database).collection::<Document>(collection);
    let found = async {
        let mut found = documents.find(doc! {}).limit(DOCUMENTS).await?;
        let mut read = Vec::new();
        while found.advance().await? {
            read.push(found.deserialize_current()?);
        }
        Ok(read)
    };
    let documents = match found.await {
        Err(error) if Failure::of(&error) == Failure::Privileges => return Ok(()),
        documents => documents?,
    };
    for (path, placeholder) in compared {
        let mut values = Vec::new();
        let steps: Vec<&str> = path.split('.').collect();
        documents.iter().for_each(|document| collect(document, &steps, &mut values));
        if let Some(finding) = misfit(filter, (database, collection), &path, placeholder, &values) {
            findings.push(finding);
        }
    }
    Ok(())
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

fn collect<'d>(document: &'d Document, steps: &[&str], values: &mut Vec<&'d Bson>) {
    let Some((first, rest)) = steps.split_first() else { return };
    let Some(value) = document.get(first) else { return };
    let items = match value {
        Bson::Array(items) => items.as_slice(),
        value => std::slice::from_ref(value),
    };
    for item in items {
        match (rest.is_empty(), item) {
            (true, item) => values.push(item),
            (false, Bson::Document(inner)) => collect(inner, rest, values),
            (false, _) => {}
        }
    }
}

/// That none of the values is text, and all are of one type that text can be read as.
fn misfit(
    filter: &Filter,
    (database, collection): (&str, &str),
    path: &str,
    placeholder: &Placeholder,
    values: &[&Bson],
) -> Option<Finding> {
    let mut kinds = values.iter().filter(|value| !matches!(value, Bson::Null)).map(|it| kind(it));
    let (kind, noun) = kinds.next()??;
    if !kinds.all(|other| other == Some((kind, noun))) {
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

/// The type by which a claim or a parameter is read as such a value, and what they are called.
fn kind(value: &Bson) -> Option<(&'static str, &'static str)> {
    match value {
        Bson::ObjectId(_) => Some(("objectId", "ObjectIds")),
        Bson::DateTime(_) => Some(("date", "dates")),
        Bson::Binary(binary) if binary.subtype == BinarySubtype::Uuid => Some(("uuid", "UUIDs")),
        _ => None,
    }
}
