//! The `examples` of a filter file, as written. They are only parsed here; `session::trial` runs
//! them.

use bson::{Bson, Document, RawDocumentBuf};

use super::declaration::unknown_key;
use super::{FullDocumentBeforeChange, literal, value};
use crate::diagnostic::{Diagnostic, Reporter, Severity, nearest};
use crate::event::OperationType;
use crate::yaml::{Entry, Node};

pub(super) const KEYS: [&str; 8] =
    ["name", "operation", "claims", "params", "before", "after", "expect", "shows"];
/// The most examples of a file.
const MAX_EXAMPLES: usize = 100;

/// What an example says its client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    Enter,
    Stay,
    Leave,
    /// An event, whatever it does to the view.
    Sent,
    None,
}

impl Expect {
    pub(super) const KNOWN: [(Expect, &str); 5] = [
        (Expect::Enter, "enter"),
        (Expect::Stay, "stay"),
        (Expect::Leave, "leave"),
        (Expect::Sent, "sent"),
        (Expect::None, "none"),
    ];

    /// As written in `expect` of a filter file.
    pub fn name(self) -> &'static str {
        match self {
            Expect::Enter => "enter",
            Expect::Stay => "stay",
            Expect::Leave => "leave",
            Expect::Sent => "sent",
            Expect::None => "none",
        }
    }
}

/// One example: a change, a client, and what the client gets.
#[derive(Debug, Clone)]
pub struct Example {
    /// As written, or its number.
    pub name: String,
    pub operation: OperationType,
    /// `None`: not signed in.
    pub claims: Option<RawDocumentBuf>,
    /// As the query of a request.
    pub params: Vec<(String, String)>,
    pub before: Option<Document>,
    pub after: Option<Document>,
    pub expect: Expect,
    /// The document as it is sent.
    pub shows: Option<Document>,
    /// To report a failure with the place of `expect`, and of `shows`.
    at_expect: Diagnostic,
    at_shows: Diagnostic,
}

impl Example {
    /// A failure of what is expected.
    pub fn wrong_outcome(&self, message: String, hint: Option<String>) -> Diagnostic {
        Diagnostic { message, hint, ..self.at_expect.clone() }
    }

    /// A failure of what is shown.
    pub fn wrong_document(&self, message: String, hint: Option<String>) -> Diagnostic {
        Diagnostic { message, hint, ..self.at_shows.clone() }
    }
}

/// Reads `examples`. What could not be read is reported and left out.
pub(super) fn read(
    entry: &Entry,
    images: FullDocumentBeforeChange,
    reporter: &mut Reporter<'_>,
) -> Vec<Example> {
    let Some(items) = entry.value.items() else {
        reporter.error(
            entry.value.place,
            format!("`examples` must be a list, not {}", entry.value.noun()),
            "write `examples: [{ after: { _id: 1, status: paid }, expect: sent }]`",
        );
        return Vec::new();
    };
    if items.len() > MAX_EXAMPLES {
        let message = format!("more than {MAX_EXAMPLES} examples");
        reporter.error(entry.key_place, message, "keep one for each rule");
    }
    let items = items.iter().take(MAX_EXAMPLES).enumerate();
    items.filter_map(|(index, node)| example(index, node, images, reporter)).collect()
}

fn example(
    index: usize,
    node: &Node,
    images: FullDocumentBeforeChange,
    reporter: &mut Reporter<'_>,
) -> Option<Example> {
    let Some(entries) = node.entries() else {
        let message = format!("an example must be a mapping, not {}", node.noun());
        reporter.error(node.place, message, "write `{ after: { _id: 1 }, expect: sent }`");
        return None;
    };
    for inner in entries.iter().filter(|inner| !KEYS.contains(&inner.key.as_str())) {
        unknown_key(&inner.key, inner, &KEYS, reporter);
    }
    let get = |key: &str| node.get(key);
    let name = get("name").and_then(|entry| entry.value.scalar()).map(|scalar| scalar.text.clone());
    let before = get("before").map(|entry| document(entry, reporter));
    let after = get("after").map(|entry| document(entry, reporter));
    let shows = get("shows").map(|entry| document(entry, reporter));
    let claims = get("claims").map(|entry| claims(entry, reporter));
    let params = get("params").map(|entry| params(entry, reporter)).unwrap_or_default();
    let operation = operation(get("operation"), before.is_some(), after.is_some(), node, reporter);
    let expect = expect(get("expect"), images, node, reporter);
    let spot = |key: &str| {
        let place = get(key).map_or(node.place, |entry| entry.value.place);
        reporter.make(Severity::Error, place, String::new(), None)
    };
    let (at_expect, at_shows) = (spot("expect"), spot("shows"));
    // An inner `None` has been reported.
    Some(Example {
        name: name.unwrap_or_else(|| format!("example {}", index + 1)),
        operation: operation?,
        claims: claims.map_or(Some(None), |claims| claims.map(Some))?,
        params,
        before: before.map_or(Some(None), |before| before.map(Some))?,
        after: after.map_or(Some(None), |after| after.map(Some))?,
        expect: expect?,
        shows: shows.map_or(Some(None), |shows| shows.map(Some))?,
        at_expect,
        at_shows,
    })
}

fn document(entry: &Entry, reporter: &mut Reporter<'_>) -> Option<Document> {
    let literal::Read { document, broken } = literal::document(entry, reporter)?;
    broken.is_empty().then_some(document)
}

/// Claims are JSON: a token holds no ObjectId.
fn claims(entry: &Entry, reporter: &mut Reporter<'_>) -> Option<RawDocumentBuf> {
    let Bson::Document(claims) = literal::json(&entry.value, reporter)? else {
        let message = format!("`claims` must be a mapping, not {}", entry.value.noun());
        reporter.error(entry.value.place, message, "write `claims: { sub: ada }`");
        return None;
    };
    if !claims.values().all(is_json) {
        reporter.error(
            entry.key_place,
            "claims are JSON, which has no such type",
            "write what the token holds: the text of an ObjectId, a date in text or seconds",
        );
        return None;
    }
    RawDocumentBuf::try_from(&claims).ok()
}

fn is_json(value: &Bson) -> bool {
    match value {
        Bson::Document(inner) => inner.values().all(is_json),
        Bson::Array(values) => values.iter().all(is_json),
        Bson::String(_)
        | Bson::Int32(_)
        | Bson::Int64(_)
        | Bson::Double(_)
        | Bson::Boolean(_)
        | Bson::Null => true,
        _ => false,
    }
}

/// As a query would have them: a list is given value by value.
fn params(entry: &Entry, reporter: &mut Reporter<'_>) -> Vec<(String, String)> {
    let Some(entries) = entry.value.entries() else {
        let message = format!("`params` must be a mapping, not {}", entry.value.noun());
        reporter.error(entry.value.place, message, "write `params: { status: paid }`");
        return Vec::new();
    };
    let mut query = Vec::new();
    for entry in entries {
        let values = entry.value.items().unwrap_or(std::slice::from_ref(&entry.value));
        for node in values {
            let text = match node.scalar() {
                Some(scalar) => Some(scalar.text.clone()),
                None => literal::any(node, reporter).map(|value| value::text(&value)),
            };
            query.extend(text.map(|text| (entry.key.clone(), text)));
        }
    }
    query
}

/// As written, or what the images say.
fn operation(
    entry: Option<&Entry>,
    has_before: bool,
    has_after: bool,
    node: &Node,
    reporter: &mut Reporter<'_>,
) -> Option<OperationType> {
    const KNOWN: [(OperationType, &str); 4] = [
        (OperationType::Insert, "insert"),
        (OperationType::Update, "update"),
        (OperationType::Replace, "replace"),
        (OperationType::Delete, "delete"),
    ];
    let Some(entry) = entry else {
        return match (has_before, has_after) {
            (false, true) => Some(OperationType::Insert),
            (true, true) => Some(OperationType::Update),
            (true, false) => Some(OperationType::Delete),
            (false, false) => {
                reporter.error(
                    node.place,
                    "the example has no document",
                    "write `after`, for a delete `before`, for an update both",
                );
                None
            }
        };
    };
    let word = entry.value.scalar().map(|scalar| scalar.text.as_str()).unwrap_or_default();
    let found = KNOWN.into_iter().find(|(_, name)| *name == word).map(|(operation, _)| operation);
    let needs = match found {
        Some(OperationType::Delete) if !has_before => Some("`before`"),
        Some(OperationType::Delete) => None,
        Some(_) if !has_after => Some("`after`"),
        _ => None,
    };
    if let Some(needs) = needs {
        reporter.error(node.place, format!("a {word} needs {needs}"), format!("write {needs}"));
        return None;
    }
    if found.is_none() {
        let message = format!("`{word}` is not an operation");
        reporter.error(entry.value.place, message, "write insert, update, replace or delete");
    }
    found
}

fn expect(
    entry: Option<&Entry>,
    images: FullDocumentBeforeChange,
    node: &Node,
    reporter: &mut Reporter<'_>,
) -> Option<Expect> {
    let has_images = images != FullDocumentBeforeChange::Off;
    let words = if has_images { "enter, stay, leave or none" } else { "sent or none" };
    let Some(entry) = entry else {
        reporter.error(
            node.place,
            "the example has no `expect`",
            format!("write `expect`: {words}"),
        );
        return None;
    };
    let word = entry.value.scalar().map(|scalar| scalar.text.as_str()).unwrap_or_default();
    let found = Expect::KNOWN.into_iter().find(|(_, name)| *name == word).map(|(expect, _)| expect);
    const HINT: &str = "write `sent`, or ask for images: `fullDocumentBeforeChange: whenAvailable`";
    match found {
        // What is sent is in view; whether it has just come there, nobody is told.
        Some(Expect::Enter | Expect::Stay) if !has_images => {
            let message = format!("`{word}` needs before-images, and means `sent` without");
            reporter.warning(entry.value.place, message, HINT);
            Some(Expect::Sent)
        }
        Some(Expect::Leave) if !has_images => {
            reporter.error(entry.value.place, "`leave` needs before-images", HINT);
            None
        }
        Some(found) => Some(found),
        None => {
            let known = Expect::KNOWN.map(|(_, name)| name);
            let hint = match nearest(word, known) {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("write {words}"),
            };
            reporter.error(entry.value.place, format!("`{word}` is not a value of `expect`"), hint);
            None
        }
    }
}
