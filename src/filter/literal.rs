//! From the YAML tree to BSON, Extended JSON included.
//!
//! Integers become int32 where they fit, else int64, as in the MongoDB shell's drivers. A document
//! whose only key is an Extended JSON name (`$oid`, `$date`, …) becomes that value; all other
//! `$` keys stay as they are, for the matcher to judge.

use std::collections::HashSet;
use std::path::Path;

use bson::oid::ObjectId;
use bson::raw::CString;
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Decimal128, Document, Regex, Timestamp, Uuid};

use super::{suspect, value};
use crate::diagnostic::{Diagnostic, Reporter, Severity};
use crate::yaml::{self, Entry, Node, NodeKind, Place, Scalar, Typed};

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
            format!("`{}` must be a mapping, not {}", entry.key, entry.value.noun()),
            match entry.key.as_str() {
                "project" => "write `project: { status: 1, total: 1 }`".to_owned(),
                key => format!("write `{key}: {{ field: value }}`"),
            },
        );
        return None;
    };
    let mut reader = Reader { reporter, broken: HashSet::new(), expressions: 0, is_wary: true };
    let document = reader.fields(entries);
    Some(Read { document, broken: reader.broken })
}

/// Any value. `None` after an error, which is reported.
pub(super) fn any(node: &Node, reporter: &mut Reporter<'_>) -> Option<Bson> {
    read_any(node, true, reporter)
}

/// Any value of JSON, such as a claim: texts are not doubted.
pub(super) fn json(node: &Node, reporter: &mut Reporter<'_>) -> Option<Bson> {
    read_any(node, false, reporter)
}

fn read_any(node: &Node, is_wary: bool, reporter: &mut Reporter<'_>) -> Option<Bson> {
    let mut reader = Reader { reporter, broken: HashSet::new(), expressions: 0, is_wary };
    let value = reader.any(node);
    reader.broken.is_empty().then_some(value)
}

/// A text that is one document, in YAML or JSON, with Extended JSON for the types that they lack.
/// `path` is only for showing.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse_document(path: &Path, text: &str) -> Result<Document, Vec<Diagnostic>> {
    let mut reporter = Reporter::new(path, text);
    match yaml::parse(text) {
        Ok(Some(node)) => match json(&node, &mut reporter) {
            Some(Bson::Document(document)) => return Ok(document),
            Some(_) => reporter.error(node.place, "not a document", "write { _id: 1, … }"),
            None => {}
        },
        Ok(None) => reporter.error(Place::START, "the file is empty", "write a document"),
        Err(problems) => {
            for yaml::YamlError { place, message, hint } in problems {
                reporter.add(Severity::Error, place, message, hint);
            }
        }
    }
    Err(reporter.finish())
}

struct Reader<'r, 'a> {
    reporter: &'r mut Reporter<'a>,
    broken: HashSet<Place>,
    /// How many `$expr` are around.
    expressions: usize,
    /// Whether texts that look like something else are told: of claims, which are JSON, they are
    /// just that.
    is_wary: bool,
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
            if let Some((key, value)) = glued(entry) {
                self.reporter.error(
                    entry.key_place,
                    format!("`{}` is one word: a space is missing after the colon", entry.key),
                    format!("write `{key}: {value}`"),
                );
                self.broken.insert(entry.value.place);
                document.insert(entry.key.clone(), Bson::Null);
                continue;
            }
            if self.is_wary
                && entry.key == "$regex"
                && let Some(scalar) = entry.value.scalar()
                && let Some(found) = suspect::look_at_pattern(scalar)
            {
                self.reporter.warning(entry.value.place, found.message, found.hint);
                document.insert(entry.key.clone(), Bson::String(scalar.text.clone()));
                continue;
            }
            let is_expression = usize::from(entry.key == "$expr");
            self.expressions += is_expression;
            document.insert(entry.key.clone(), self.any(&entry.value));
            self.expressions -= is_expression;
        }
        document
    }

    /// Null after an error.
    fn any(&mut self, node: &Node) -> Bson {
        let value = match &node.kind {
            NodeKind::Scalar(scalar) => {
                if self.is_wary
                    && let Some(found) = suspect::look_at(scalar, self.expressions > 0)
                {
                    self.reporter.warning(node.place, found.message, found.hint);
                }
                scalar_value(node, scalar, self.reporter)
            }
            NodeKind::Sequence(items) => {
                Some(Bson::Array(items.iter().map(|item| self.any(item)).collect()))
            }
            NodeKind::Mapping(entries) => match entries.iter().find(|e| is_extended(&e.key)) {
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

/// `{ status:new }`: a key with a colon in it, and no value.
fn glued(entry: &Entry) -> Option<(&str, &str)> {
    let scalar = entry.value.scalar()?;
    let is_missing = scalar.is_plain && scalar.text.is_empty();
    let (key, value) = entry.key.split_once(':').filter(|_| is_missing)?;
    (!key.is_empty() && !value.is_empty()).then_some((key, value))
}

fn extended_entry(entry: &Entry, siblings: usize, reporter: &mut Reporter<'_>) -> Option<Bson> {
    if siblings > 1 {
        reporter.error(
            entry.key_place,
            format!("`{}` must be the only key of its document", entry.key),
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
        reporter.error(
            node.place,
            "a value is missing",
            "write null if that is meant; text that starts with # needs quotes",
        );
        return None;
    }
    // An id with one `e` among digits would be a number, and not even nearly the right one.
    if scalar.is_plain
        && suspect::is_object_id(&scalar.text)
        && !matches!(scalar.typed(), Ok(Typed::String(_)))
    {
        reporter.error(
            node.place,
            format!("`{}` is a number here, not an ObjectId", scalar.text),
            format!("write {{ $oid: \"{0}\" }}, or \"{0}\" for text", scalar.text),
        );
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
        Ok(Typed::String(text)) => Some(Bson::String(text.to_owned())),
        Err(ambiguous) => {
            reporter.error(node.place, ambiguous.message, ambiguous.hint);
            None
        }
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
        _ => Err("a value of another type: this one is deprecated and not supported"),
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
