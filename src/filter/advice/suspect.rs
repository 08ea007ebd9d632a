//! Texts that were probably meant as something else: shell syntax, ids and dates without their
//! type, numbers in the notation of other languages. They are valid, so they are reported as
//! warnings, each with what to write instead.

use bson::DateTime;

use crate::yaml::{Scalar, Typed};

/// What is odd about a text, and what to write instead.
pub(in crate::filter) struct Suspicion {
    pub message: String,
    pub hint: String,
}

/// So much of a text is repeated in a message, in characters.
const MAX_SHOWN_CHARS: usize = 48;

/// Looks at a text value of `match` or `access`. `is_expression`: inside `$expr`, where `$field`
/// is a field.
///
/// Quotes say "text", and are believed unless the text is one that nobody compares with.
pub(in crate::filter) fn look_at(scalar: &Scalar, is_expression: bool) -> Option<Suspicion> {
    let text = scalar.text.trim();
    let is_text = matches!(scalar.typed(), Ok(Typed::String(_)));
    if scalar.is_tagged || text.is_empty() || !is_text {
        return None;
    }
    if let Some(found) = shell_call(text).or_else(|| placeholder(text)) {
        return Some(found);
    }
    if is_object_id(text) {
        return suspicion(
            format!("`{text}` is compared as text, not as an ObjectId"),
            format!("write {{ $oid: \"{text}\" }}, or !!str {text} if the documents hold text"),
        );
    }
    if !scalar.is_plain {
        return None;
    }
    date(text)
        .or_else(|| number(text))
        .or_else(|| word(text))
        .or_else(|| field(text, is_expression))
}

/// 24 hexadecimal digits: also of a text that YAML would take for a number (`12345678901234567890e123`).
pub(in crate::filter) fn is_object_id(text: &str) -> bool {
    text.len() == 24 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn suspicion(message: String, hint: impl Into<String>) -> Option<Suspicion> {
    Some(Suspicion { message, hint: hint.into() })
}

fn short(text: &str) -> String {
    let mut shown: String = text.chars().take(MAX_SHOWN_CHARS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

/// `ObjectId("…")` and its like, as the MongoDB shell and drivers write them.
fn shell_call(text: &str) -> Option<Suspicion> {
    let call = text.strip_prefix("new ").unwrap_or(text).trim_start();
    let (name, argument) = call.strip_suffix(')')?.split_once('(')?;
    let argument = argument.trim().trim_matches(['"', '\'', '`']);
    let or =
        |example: &'static str| if argument.is_empty() { example } else { argument }.to_owned();
    let is_plain_number = argument.parse::<f64>().is_ok();
    let (what, hint) = match name.trim() {
        "ObjectId" | "ObjectID" | "Oid" => {
            ("an ObjectId", format!("write {{ $oid: \"{}\" }}", or("507f1f77bcf86cd799439011")))
        }
        "Date" | "Date.now" | "ISODate" if argument.is_empty() => (
            "a date",
            "a stream follows changes, so a filter has no clock: let the client send a time in a \
             parameter of type date"
                .to_owned(),
        ),
        "ISODate" | "Date" => ("a date", format!("write {{ $date: \"{}\" }}", full_date(argument))),
        "NumberLong" | "Long" | "Long.fromString" | "Long.fromNumber" | "Int64" => {
            ("a number", format!("write {{ $numberLong: \"{}\" }}", or("1")))
        }
        "NumberInt" | "Int32" | "NumberDouble" | "Double" | "Number" if is_plain_number => {
            ("a number", format!("write {argument}"))
        }
        "NumberDecimal" | "Decimal128" | "Decimal128.fromString" => {
            ("a decimal", format!("write {{ $numberDecimal: \"{}\" }}", or("1.50")))
        }
        "UUID" | "GUID" => (
            "a UUID",
            format!("write {{ $uuid: \"{}\" }}", or("123e4567-e89b-42d3-a456-426614174000")),
        ),
        "BinData" | "HexData" | "Binary" | "Binary.createFromBase64" => {
            ("binary data", "write { $binary: { base64: \"…\", subType: \"00\" } }".to_owned())
        }
        "Timestamp" => ("a timestamp", "write { $timestamp: { t: 1700000000, i: 1 } }".to_owned()),
        "MinKey" => ("the smallest value", "write { $minKey: 1 }".to_owned()),
        "MaxKey" => ("the largest value", "write { $maxKey: 1 }".to_owned()),
        "RegExp" => ("a regular expression", "write { $regex: \"^a\" }".to_owned()),
        _ => return None,
    };
    suspicion(format!("`{}` is compared as text, not as {what}", short(text)), hint)
}

/// `$param status`, `${status}`: a placeholder that is none.
fn placeholder(text: &str) -> Option<Suspicion> {
    for name in ["$param", "$claim"] {
        let Some(rest) = text.strip_prefix(name) else { continue };
        if rest.starts_with(|c: char| c.is_alphanumeric()) {
            continue;
        }
        let named = rest.trim_matches(|c: char| !c.is_alphanumeric() && c != '_');
        let named = match named.is_empty() || !named.bytes().all(|b| b.is_ascii_graphic()) {
            true => "name",
            false => named,
        };
        return suspicion(
            format!("`{}` is text here, not a placeholder", short(text)),
            format!("write {{ {name}: {named} }}, with braces and a colon"),
        );
    }
    let name = text.strip_prefix("${")?.strip_suffix('}')?;
    suspicion(
        format!("`{}` is text here: nothing is replaced in a filter file", short(text)),
        match name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !name.is_empty() {
            true => format!("declare the parameter `{name}` and write {{ $param: {name} }}"),
            false => "declare a parameter and write { $param: name }".to_owned(),
        },
    )
}

fn date(text: &str) -> Option<Suspicion> {
    if looks_like_date(text) {
        return suspicion(
            format!("`{}` is compared as text, not as a date", short(text)),
            format!(
                "write {{ $date: \"{}\" }} for a date, or \"{text}\" for text",
                full_date(text)
            ),
        );
    }
    if is_digits_between(text, &['/', '.', '-'], &[1..=2, 1..=2, 4..=4]) {
        return suspicion(
            format!("`{text}` is compared as text, not as a date"),
            format!(
                "write {{ $date: \"2026-01-31T00:00:00Z\" }} for a date, or \"{text}\" for text"
            ),
        );
    }
    None
}

/// `2026-01-31`, with or without a time behind it.
fn looks_like_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_digit = |index: usize| bytes.get(index).is_some_and(u8::is_ascii_digit);
    [0, 1, 2, 3, 5, 6, 8, 9].into_iter().all(is_digit)
        && bytes[4] == b'-'
        && bytes[7] == b'-'
        && matches!(bytes.get(10), None | Some(b'T' | b't' | b' '))
}

/// The date with a time and a zone, as `$date` wants it.
fn full_date(text: &str) -> String {
    match DateTime::parse_rfc3339_str(text) {
        Ok(_) => text.to_owned(),
        Err(_) if looks_like_date(text) => {
            // Everything that looks like a date has its first ten characters in ASCII.
            format!("{}T00:00:00Z", text.get(..10).unwrap_or(text))
        }
        Err(_) => "2026-01-31T00:00:00Z".to_owned(),
    }
}

/// Numbers as other languages, or older YAML, write them.
fn number(text: &str) -> Option<Suspicion> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let starts_with_digit = unsigned.starts_with(|c: char| c.is_ascii_digit());
    let is_made_of = |more: &str| {
        starts_with_digit && unsigned.chars().all(|c| c.is_ascii_digit() || more.contains(c))
    };
    if unsigned.contains('_') && is_made_of("_.") {
        return suspicion(
            format!("`{text}` is compared as text: YAML 1.2 has no `_` in numbers"),
            format!("write {} for the number, or \"{text}\" for text", text.replace('_', "")),
        );
    }
    let is_grouped = unsigned.contains(',')
        && is_made_of(",.")
        && unsigned
            .split(',')
            .skip(1)
            .all(|part| part.split('.').next().is_some_and(|d| d.len() == 3));
    if is_grouped {
        return suspicion(
            format!("`{text}` is compared as text, not as a number"),
            format!("write {} for the number, or \"{text}\" for text", text.replace(',', "")),
        );
    }
    if is_digits_between(unsigned, &[':'], &[1..=2, 2..=2])
        || is_digits_between(unsigned, &[':'], &[1..=2, 2..=2, 2..=2])
    {
        return suspicion(
            format!("`{text}` is a number to some YAML readers, and text here"),
            format!("write \"{text}\" for text, or a number of seconds"),
        );
    }
    None
}

/// Groups of digits of these lengths, with one kind of separator between them.
fn is_digits_between(
    text: &str,
    separators: &[char],
    lengths: &[std::ops::RangeInclusive<usize>],
) -> bool {
    separators.iter().any(|separator| {
        let parts: Vec<&str> = text.split(*separator).take(lengths.len() + 1).collect();
        parts.len() == lengths.len()
            && parts.iter().zip(lengths).all(|(part, length)| {
                length.contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
            })
    })
}

/// Words of other languages, and regular expressions between slashes.
fn word(text: &str) -> Option<Suspicion> {
    let write = match text {
        "None" | "nil" | "undefined" | "NIL" => Some("null"),
        "NaN" | "nan" => Some(".nan"),
        "Infinity" | "inf" => Some(".inf"),
        "-Infinity" | "-inf" => Some("-.inf"),
        _ => None,
    };
    if let Some(write) = write {
        return suspicion(
            format!("`{text}` is compared as text"),
            format!("write {write} if that is meant, or \"{text}\" for text"),
        );
    }
    let (pattern, options) = in_slashes(text)?;
    if options.is_empty() && !pattern.contains(['^', '$', '*', '+', '\\', '[', '(', '|']) {
        return None;
    }
    suspicion(
        format!("`{}` is compared as text, not as a regular expression", short(text)),
        format!("write {{ {} }}, or \"{}\" for text", regex(pattern, options), short(text)),
    )
}

/// Pattern and options of `/^AB-/i`, as JavaScript and the shell write a regular expression.
fn in_slashes(text: &str) -> Option<(&str, &str)> {
    let (pattern, options) = text.strip_prefix('/')?.rsplit_once('/')?;
    let is_regex = !pattern.is_empty() && options.bytes().all(|byte| b"imsxgu".contains(&byte));
    is_regex.then_some((pattern, options))
}

/// The same as MongoDB's operators.
fn regex(pattern: &str, options: &str) -> String {
    let known: String = options.chars().filter(|option| "imsx".contains(*option)).collect();
    let options = if known.is_empty() { String::new() } else { format!(", $options: {known}") };
    format!("$regex: '{}'{options}", short(pattern))
}

/// Looks at the pattern of a `$regex`: slashes around it would be a part of it. In quotes they may be
/// meant, as in a path.
pub(in crate::filter) fn look_at_pattern(scalar: &Scalar) -> Option<Suspicion> {
    let text = scalar.text.trim();
    let (pattern, options) = in_slashes(text)?;
    let is_sure = !options.is_empty() || pattern.starts_with('^') || pattern.ends_with('$');
    if scalar.is_tagged || !(scalar.is_plain || is_sure) {
        return None;
    }
    let keep = if scalar.is_plain { "quotes around it" } else { "!!str before it" };
    suspicion(
        format!("the slashes of `{}` are part of the pattern here", short(text)),
        format!("write {}, or {keep} if they are meant", regex(pattern, options)),
    )
}

/// `$total` where a value stands: only `$expr` reads it as a field.
fn field(text: &str, is_expression: bool) -> Option<Suspicion> {
    let name = text.strip_prefix('$')?;
    if is_expression || !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == '$')
    {
        return None;
    }
    suspicion(
        format!("`{}` is text here, not a field", short(text)),
        format!(
            "to compare fields with one another, write `$expr: {{ $eq: [$a, $b] }}`; quote it for \
             text: \"{}\"",
            short(text)
        ),
    )
}
