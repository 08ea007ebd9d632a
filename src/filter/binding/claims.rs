//! The value of a claim, as data to bind.
//!
//! A claim is read by its JSON type, or as the type that the filter names: most documents refer to
//! users by ObjectId, and tokens contain it as text.

use bson::{Bson, RawBsonRef, RawDocument};

use crate::filter::bind::{BindError, set_of};
use crate::filter::value::ParamType;
use crate::matcher::Claim;

/// The value of a claim. The whole name wins over a path, since names of claims are often
/// addresses with dots in them.
///
/// # Errors
/// A claim that is not there, or one that is not of the type that is asked for.
pub(in crate::filter) fn value(
    claims: Option<&RawDocument>,
    claim: &Claim,
) -> Result<Bson, BindError> {
    let missing = || BindError::MissingClaim(claim.path.clone());
    let found = claims.and_then(|claims| walk(claims, &claim.path));
    // Null is no value: bound, it would match every document that lacks the field. For the same
    // reason it is not one of a set.
    let value = match found.and_then(|value| Bson::try_from(value).ok()) {
        None | Some(Bson::Null | Bson::Undefined) => return Err(missing()),
        Some(value) => value,
    };
    let Some(kind) = &claim.kind else {
        return Ok(match value {
            Bson::Array(values) => {
                Bson::Array(values.into_iter().filter(|value| *value != Bson::Null).collect())
            }
            value => value,
        });
    };
    // A file with another type does not load.
    let kind = ParamType::named(kind).ok_or_else(missing)?;
    read(kind, &value)
        .ok_or_else(|| BindError::UnusableClaim { path: claim.path.clone(), wants: kind.wants() })
}

/// The same where no set fits.
///
/// # Errors
/// As [`value`], and a list.
pub(in crate::filter) fn single(
    claims: Option<&RawDocument>,
    claim: &Claim,
) -> Result<Bson, BindError> {
    match value(claims, claim)? {
        Bson::Array(_) => Err(BindError::UnusableClaim {
            path: claim.path.clone(),
            wants: claim
                .kind
                .as_deref()
                .and_then(ParamType::named)
                .map_or("one value", |kind| kind.wants()),
        }),
        value => Ok(value),
    }
}

const SHOWN: &str = "$claim ";

/// How a bound claim is called.
pub(in crate::filter) fn shown(claim: &Claim) -> String {
    match &claim.kind {
        None => format!("{SHOWN}{}", claim.path),
        Some(kind) => format!("{SHOWN}{} as {kind}", claim.path),
    }
}

/// Whether this is the name of a bound claim. No parameter has a blank in its name.
pub(super) fn is_shown(name: &str) -> bool {
    name.starts_with(SHOWN)
}

fn walk<'c>(claims: &'c RawDocument, path: &str) -> Option<RawBsonRef<'c>> {
    if let Ok(Some(value)) = claims.get(path) {
        return Some(value);
    }
    path.match_indices('.').find_map(|(dot, _)| {
        let inner = claims.get(&path[..dot]).ok()??.as_document()?;
        walk(inner, &path[dot + 1..])
    })
}

/// A claim's value as this type; a list as a set of it, of which every item has to fit.
fn read(kind: ParamType, value: &Bson) -> Option<Bson> {
    match value {
        Bson::Array(values) => {
            values.iter().map(|value| read_one(kind, value)).collect::<Option<Vec<_>>>().map(set_of)
        }
        value => read_one(kind, value),
    }
}

/// As a parameter of the same text would be read. JSON has one kind of number, so its text is taken;
/// a truth value is only ever a bool.
pub(in crate::filter) fn read_one(kind: ParamType, value: &Bson) -> Option<Bson> {
    let text = match value {
        Bson::String(text) => text.clone(),
        Bson::Boolean(_) => return (kind == ParamType::Bool).then(|| value.clone()),
        Bson::Int32(number) => number.to_string(),
        Bson::Int64(number) => number.to_string(),
        Bson::Decimal128(number) => number.to_string(),
        // Of a number with a fraction there is no one text.
        Bson::Double(number) if kind != ParamType::String || number.fract() == 0.0 => {
            number.to_string()
        }
        _ => return None,
    };
    kind.parse(&text).ok()
}
