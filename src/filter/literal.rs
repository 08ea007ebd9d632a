//! From the YAML tree to BSON, Extended JSON included.
//!
//! Integers become int32 where they fit, else int64, as in the MongoDB shell's drivers. A document
//! whose only key is an Extended JSON name (`$oid`, `$date`, …) becomes that value; all other
//! `$` keys stay as they are, for the matcher to judge.

use std::collections::HashSet;

use bson::oid::ObjectId;
use bson::raw::CString;
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Decimal128, Document, Regex, Timestamp, Uuid};

use super::value;
use crate::diagnostic::Reporter;
use crate::yaml::{Entry, Kind, Node, Place, Scalar, Typed};

/// A document as far as it could be read.
pub(super) struct Read {
    pub document: Document,
    /// The places of values that could not be read: reported, and null in the document, so that
    /// the rest can be judged. Empty: all is well.
    pub broken: HashSet<Place>,
}

/// The mapping of an entry as a document. `None` where it is no mapping, which is reported.
pub(super) fn document(entry: &Entry, reporter: &mut Reporter<'_>) -> Option<Read> {
    let Some(entries) = entry.value.entries() else {
        reporter.error(
            entry.value.place,
            format!("`{}` is a mapping, not {}", entry.key, entry.value.noun()),
            format!("write `{}: {{ field: value }}`", entry.key),
        );
        return None;
    };
    let mut reader = Reader { reporter, broken: HashSet::new() };
    let document = reader.fields(entries);
    Some(Read { document, broken: reader.broken })
}

/// Any value. `None` after an error, which is reported.
pub(super) fn any(node: &Node, reporter: &mut Reporter<'_>) -> Option<Bson> {
    let mut reader = Reader { reporter, broken: HashSet::new() };
    let value = reader.any(node);
    reader.broken.is_empty().then_some(value)
}

struct Reader<'r, 'a> {
    reporter: &'r mut Reporter<'a>,
    broken: HashSet<Place>,
}

impl Reader<'_, '_> {
    fn fields(&mut self, entries: &[Entry]) -> Document {
        let mut document = Document::new();
        for entry in entries {
            if entry.key.contains('\0') {
                self.reporter.error(entry.key_place, "a field name with a NUL", "remove it");
                self.broken.insert(entry.value.place);
                continue;
            }
            document.insert(entry.key.clone(), self.any(&entry.value));
        }
        document
    }

    /// Null after an error.
    fn any(&mut self, node: &Node) -> Bson {
        let value = match &node.kind {
            Kind::Scalar(scalar) => scalar_value(node, scalar, self.reporter),
            Kind::Sequence(items) => {
                Some(Bson::Array(items.iter().map(|item| self.any(item)).collect()))
            }
            Kind::Mapping(entries) => match entries.iter().find(|e| is_extended(&e.key)) {
                None => Some(Bson::Document(self.fields(entries))),
                Some(entry) => extended_entry(entry, entries.len(), self.reporter),
            },
        };
        value.unwrap_or_else(|| {
            self.broken.insert(node.place);
            Bson::Null
        })
    }
}

fn extended_entry(entry: &Entry, siblings: usize, reporter: &mut Reporter<'_>) -> Option<Bson> {
    if siblings > 1 {
        reporter.error(
            entry.key_place,
            format!("`{}` stands alone in its document", entry.key),
            "it is Extended JSON for one value: move the other keys out",
        );
        return None;
    }
    extended(&entry.key, &entry.value)
        .map_err(|example| {
            let message = format!("not a value of `{}`", entry.key);
            reporter.error(entry.value.place, message, format!("write {example}"));
        })
        .ok()
}

fn scalar_value(node: &Node, scalar: &Scalar, reporter: &mut Reporter<'_>) -> Option<Bson> {
    if scalar.is_plain && scalar.text.is_empty() {
        reporter.error(node.place, "a value is missing", "write null where null is meant");
        return None;
    }
    match scalar.typed() {
        Ok(Typed::Null) => Some(Bson::Null),
        Ok(Typed::Bool(value)) => Some(Bson::Boolean(value)),
        Ok(Typed::Int(value)) => Some(match i32::try_from(value) {
            Ok(value) => Bson::Int32(value),
            Err(_) => Bson::Int64(value),
        }),
        Ok(Typed::Double(value)) => Some(Bson::Double(value)),
        Ok(Typed::String(text)) => {
            if scalar.is_plain && looks_like_date(text) {
                reporter.warning(
                    node.place,
                    format!("`{text}` is compared as text, not as a date"),
                    format!(
                        "write {{ $date: \"{}\" }} for a date, or \"{text}\" for text",
                        full_date(text)
                    ),
                );
            }
            Some(Bson::String(text.to_owned()))
        }
        Err(ambiguous) => {
            reporter.error(node.place, ambiguous.message, ambiguous.hint);
            None
        }
    }
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
        // Everything that looks like a date has its first ten characters in ASCII.
        Err(_) => format!("{}T00:00:00Z", text.get(..10).unwrap_or(text)),
    }
}

const EXTENDED: &[&str] = &[
    "$oid",
    "$date",
    "$numberInt",
    "$numberLong",
    "$numberDouble",
    "$numberDecimal",
    "$binary",
    "$uuid",
    "$timestamp",
    "$regularExpression",
    "$minKey",
    "$maxKey",
    "$symbol",
    "$code",
    "$dbPointer",
    "$undefined",
];

fn is_extended(key: &str) -> bool {
    EXTENDED.contains(&key)
}

/// The value of `{ key: node }`; else an example of how to write one.
fn extended(key: &str, node: &Node) -> Result<Bson, &'static str> {
    let text = node.scalar().map(|scalar| scalar.text.as_str());
    match key {
        "$oid" => text
            .and_then(|text| ObjectId::parse_str(text).ok())
            .map(Bson::ObjectId)
            .ok_or("{ $oid: \"…\" } with 24 hexadecimal digits"),
        "$date" => date(node).map(Bson::DateTime).ok_or("{ $date: \"2026-01-31T00:00:00Z\" }"),
        "$numberInt" => text
            .and_then(|text| text.parse().ok())
            .map(Bson::Int32)
            .ok_or("{ $numberInt: \"1\" }, in the range of 32 bits"),
        "$numberLong" => {
            long(node).map(Bson::Int64).ok_or("{ $numberLong: \"1\" }, in the range of 64 bits")
        }
        "$numberDouble" => text
            .and_then(|text| match text {
                "Infinity" => Some(f64::INFINITY),
                "-Infinity" => Some(f64::NEG_INFINITY),
                "NaN" => Some(f64::NAN),
                text => text.parse().ok().filter(|value: &f64| value.is_finite()),
            })
            .map(Bson::Double)
            .ok_or("{ $numberDouble: \"1.5\" }"),
        "$numberDecimal" => text
            .and_then(|text| match text {
                "Infinity" | "-Infinity" | "NaN" => text.parse::<Decimal128>().ok(),
                text => value::decimal(text),
            })
            .map(Bson::Decimal128)
            .ok_or("{ $numberDecimal: \"1.50\" }"),
        "$binary" => {
            binary(node).map(Bson::Binary).ok_or("{ $binary: { base64: \"…\", subType: \"00\" } }")
        }
        "$uuid" => text
            .and_then(|text| Uuid::parse_str(text).ok())
            .map(|uuid| Bson::Binary(Binary::from(uuid)))
            .ok_or("{ $uuid: \"…\" } with 32 hexadecimal digits and 4 hyphens"),
        "$timestamp" => {
            timestamp(node).map(Bson::Timestamp).ok_or("{ $timestamp: { t: 1700000000, i: 1 } }")
        }
        "$regularExpression" => regex(node)
            .map(Bson::RegularExpression)
            .ok_or("{ $regularExpression: { pattern: \"^a\", options: \"i\" } }"),
        "$minKey" => (text == Some("1")).then_some(Bson::MinKey).ok_or("{ $minKey: 1 }"),
        "$maxKey" => (text == Some("1")).then_some(Bson::MaxKey).ok_or("{ $maxKey: 1 }"),
        _ => Err("a value of another type: this one is deprecated, and not supported"),
    }
}

fn date(node: &Node) -> Option<DateTime> {
    let Some(scalar) = node.scalar() else {
        let entries = node.entries()?;
        let [entry] = entries else { return None };
        return (entry.key == "$numberLong")
            .then(|| long(&entry.value).map(DateTime::from_millis))
            .flatten();
    };
    if let Ok(Typed::Int(milliseconds)) = scalar.typed() {
        return Some(DateTime::from_millis(milliseconds));
    }
    DateTime::parse_rfc3339_str(&scalar.text).ok()
}

fn long(node: &Node) -> Option<i64> {
    node.scalar()?.text.parse().ok()
}

/// The texts of a mapping that has exactly these keys.
fn parts<'n, const N: usize>(node: &'n Node, keys: [&str; N]) -> Option<[&'n str; N]> {
    if node.entries()?.len() != N {
        return None;
    }
    let mut found = [""; N];
    for (slot, key) in found.iter_mut().zip(keys) {
        *slot = &node.get(key)?.value.scalar()?.text;
    }
    Some(found)
}

fn binary(node: &Node) -> Option<Binary> {
    let [base64, subtype] = parts(node, ["base64", "subType"])?;
    let subtype = u8::from_str_radix(subtype, 16).ok().map(BinarySubtype::from)?;
    Binary::from_base64(base64, subtype).ok()
}

fn timestamp(node: &Node) -> Option<Timestamp> {
    let [time, increment] = parts(node, ["t", "i"])?;
    Some(Timestamp { time: time.parse().ok()?, increment: increment.parse().ok()? })
}

fn regex(node: &Node) -> Option<Regex> {
    let [pattern, options] = match node.entries()?.len() {
        1 => [parts(node, ["pattern"])?[0], ""],
        _ => parts(node, ["pattern", "options"])?,
    };
    // MongoDB keeps the letters in alphabetical order, and compares them so.
    let mut letters: Vec<char> = options.chars().collect();
    letters.sort_unstable();
    let options: String = letters.into_iter().collect();
    Some(Regex {
        pattern: CString::try_from(pattern.to_owned()).ok()?,
        options: CString::try_from(options).ok()?,
    })
}
