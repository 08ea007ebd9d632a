//! The operators by name: which are supported, which are not and why, and which was probably meant.

use crate::diagnostic::nearest;

/// Where an operator was written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Where {
    TopLevel,
    Field,
}

const TOP_LEVEL: [&str; 6] = ["$and", "$or", "$nor", "$expr", "$jsonSchema", "$comment"];

const FIELD: [&str; 21] = [
    "$eq",
    "$ne",
    "$gt",
    "$gte",
    "$lt",
    "$lte",
    "$in",
    "$nin",
    "$all",
    "$not",
    "$exists",
    "$type",
    "$mod",
    "$size",
    "$regex",
    "$options",
    "$elemMatch",
    "$bitsAllSet",
    "$bitsAllClear",
    "$bitsAnySet",
    "$bitsAnyClear",
];

/// Operators of MongoDB that the sidecar cannot or will not evaluate.
const REFUSED: [(&str, &str); 12] = [
    ("$where", "it runs JavaScript"),
    ("$function", "it runs JavaScript"),
    ("$text", "it needs a text index, which only the server has"),
    ("$near", "it orders by distance and needs an index"),
    ("$nearSphere", "it orders by distance and needs an index"),
    ("$geoIntersects", "geometry is not evaluated outside the server"),
    ("$geoWithin", "geometry is not evaluated outside the server"),
    ("$within", "geometry is not evaluated outside the server"),
    ("$geoNear", "it orders by distance and needs an index"),
    ("$sampleRate", "a stream sends every event that matches"),
    ("$collation", "texts are compared byte by byte"),
    ("collation", "texts are compared byte by byte"),
];

/// Words of other languages, of drivers and of aggregations, in lower case, and what is meant here.
const ELSEWHERE: [(&[&str], &str); 14] = [
    (&["$between", "$range"], "write `{ $gte: 1, $lte: 9 }`"),
    (
        &["$like", "$ilike", "$startswith", "$endswith", "$match_regex"],
        "use `$regex`: `{ $regex: '^new' }`",
    ),
    (
        &["$contains", "$includes", "$has", "$any"],
        "a list matches if any of its values does, as in `tags: new`; for a part of a text use \
         `$regex`",
    ),
    (&["$notin", "$not_in"], "did you mean `$nin`?"),
    (
        &["$isnull", "$null", "$is"],
        "write `field: null`, which also matches where the field is missing",
    ),
    (&["$notnull", "$isnotnull", "$notexists"], "use `$ne: null`, or `$exists`"),
    (&["$equals", "$equal", "$==", "$="], "did you mean `$eq`?"),
    (&["$notequal", "$notequals", "$neq", "$!="], "did you mean `$ne`?"),
    (&["$greaterthan", "$more", "$above", "$>"], "did you mean `$gt`?"),
    (&["$lessthan", "$less", "$below", "$<"], "did you mean `$lt`?"),
    (&["$atleast", "$min", "$ge"], "did you mean `$gte`?"),
    (&["$atmost", "$max", "$le"], "did you mean `$lte`?"),
    (&["$match", "$query", "$filter"], "write the conditions directly under `match`"),
    (
        &["$orderby", "$sort", "$limit", "$skip", "$project", "$lookup", "$group", "$hint"],
        "`match` takes conditions only: events are sent one by one, in the order of the changes",
    ),
];

/// Whether it is an operator of a field that works here.
pub(crate) fn is_known(name: &str) -> bool {
    FIELD.contains(&name)
}

/// What is wrong with an operator that is not known here.
pub(crate) fn complaint(name: &str, place: Where) -> String {
    if let Some((_, reason)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
        return format!("`{name}` is not supported: {reason}");
    }
    match place {
        Where::TopLevel if FIELD.contains(&name) => {
            format!("`{name}` applies to a field, not to the whole document")
        }
        Where::Field if TOP_LEVEL.contains(&name) => {
            format!("`{name}` cannot be applied to a field")
        }
        Where::Field if !name.starts_with('$') => {
            format!("`{name}` is not an operator; operators and field names cannot be mixed here")
        }
        _ => format!("unknown operator `{name}`"),
    }
}

/// What to do about it.
pub(crate) fn hint(name: &str, place: Where) -> Option<String> {
    match name {
        "$where" | "$function" => {
            return Some("write the condition with query operators, or with `$expr`".to_owned());
        }
        "$text" => return Some("use `$regex`".to_owned()),
        _ => {}
    }
    if REFUSED.iter().any(|(refused, _)| *refused == name) {
        let instead = match name {
            "$sampleRate" => "remove it",
            "$collation" | "collation" => {
                "use `$regex` with `$options: i`, or keep the text in lower case in another field"
            }
            _ => "have the app keep the area in a field of its own, and match on that",
        };
        return Some(instead.to_owned());
    }
    let lower = name.to_ascii_lowercase();
    if let Some((_, hint)) = ELSEWHERE.iter().find(|(words, _)| words.contains(&lower.as_str())) {
        return Some((*hint).to_owned());
    }
    match place {
        Where::TopLevel if FIELD.contains(&name) => {
            return Some(format!("write `field: {{ {name}: … }}`"));
        }
        Where::Field if TOP_LEVEL.contains(&name) => {
            return Some(match name {
                "$comment" => "write it at the top level".to_owned(),
                _ => format!("write it around the field: `{name}: [{{ field: … }}, …]`"),
            });
        }
        Where::Field if !name.starts_with('$') => {
            return Some("write a path with dots, `a.b`, to match a field inside".to_owned());
        }
        _ => {}
    }
    let known: &[&str] = if place == Where::TopLevel { &TOP_LEVEL } else { &FIELD };
    Some(match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("the operators here are {}", known.join(", ")),
    })
}
