//! Tries one change on one filter: what a client would receive, and if nothing, why.
//!
//! The verdict and the bytes are those of a [`Route`](crate::feed::routes::Route), as in a running
//! sidecar; only the reason is computed here.

use std::fmt;
use std::sync::Arc;

use bson::{Bson, Document, RawDocumentBuf, doc};
use serde_json::{Value, json};

use crate::event::{ChangeEvent, OperationType};
use crate::feed::routes::RouteTable;
use crate::filter::{Bound, Filter, FullDocument, FullDocumentBeforeChange};
use crate::matcher::{Objection, Predicate};

/// A token for a made-up event. It is never shown.
const TOKEN: &str = "8266F3AAAA000000012B022C0100296E5A1004D3F0A1B2C3D4E5F60718293A4B5C6D7E46645F6964006466F3AAAA0123456789ABCDEF0004";

/// What a client gets.
#[derive(Debug)]
pub enum Trial {
    Sent {
        /// The type of the event, or `reset`.
        event: &'static str,
        /// What is sent.
        data: Value,
    },
    NotSent(Reason),
}

/// Why an event is not sent.
#[derive(Debug)]
pub enum Reason {
    /// The caller may not open the stream.
    NotAdmitted,
    OtherCollection(String),
    Operation(&'static str),
    /// The first condition that said no, and to which image.
    Condition {
        image: &'static str,
        objection: Objection,
    },
    /// A delete or an update without a document, and a key that does not decide.
    KeyAlone(&'static str),
    Hidden,
}

impl Trial {
    /// How the event moves the client's view, where that is known.
    pub fn view(&self) -> Option<&str> {
        match self {
            Trial::Sent { data, .. } => data["view"].as_str(),
            Trial::NotSent(_) => None,
        }
    }

    /// For machines.
    pub fn to_json(&self) -> Value {
        match self {
            Trial::Sent { event, data } => {
                json!({ "sent": true, "event": event, "view": self.view(), "data": data })
            }
            Trial::NotSent(reason) => {
                let mut told = json!({ "sent": false, "reason": reason.to_string() });
                if let Reason::Condition { image, objection } = reason {
                    told["image"] = json!(image);
                    told["condition"] = json!(objection.condition);
                    told["saw"] = json!(objection.saw);
                }
                told
            }
        }
    }
}

/// Tries an event on a filter with its values in.
pub fn try_event(filter: &Arc<Filter>, bound: Bound, event: &ChangeEvent) -> Trial {
    let predicate = bound.predicate.clone();
    let route = RouteTable::new(0, 1).join(filter, bound, 0);
    match route.deliver(0, event) {
        Some(delivery) => Trial::Sent {
            event: delivery.event_name(),
            data: serde_json::from_slice(&delivery.json).unwrap_or_default(),
        },
        None => Trial::NotSent(reason(filter, &predicate, event)),
    }
}

fn reason(filter: &Filter, predicate: &Predicate, event: &ChangeEvent) -> Reason {
    if let (Some(wanted), Some(collection)) = (&filter.namespace.collection, event.collection())
        && wanted != collection
    {
        return Reason::OtherCollection(collection.to_owned());
    }
    let operation = event.operation();
    if !filter.operations.contains(operation) {
        return Reason::Operation(operation.name());
    }
    let (image, document) = match (operation, event.full_document()) {
        (OperationType::Delete, _) => ("before", event.full_document_before_change()),
        (_, after) => ("after", after),
    };
    match document {
        Some(document) => match predicate.objection(document) {
            Some(objection) => Reason::Condition { image, objection },
            None => Reason::Hidden,
        },
        None => match (event.document_key(), operation) {
            (Some(key), _) if predicate.matches_key(key) == Some(false) => {
                match predicate.objection(key) {
                    Some(objection) => Reason::Condition { image: "key", objection },
                    None => Reason::KeyAlone(operation.name()),
                }
            }
            _ => Reason::KeyAlone(operation.name()),
        },
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NotAdmitted => {
                f.write_str("the caller may not open the stream: `access` does not hold")
            }
            Reason::OtherCollection(collection) => {
                write!(f, "the event is about the collection `{collection}`")
            }
            Reason::Operation(operation) => write!(f, "`operations` does not list `{operation}`"),
            Reason::Condition { image, objection } => {
                let of = match *image {
                    "before" => " in the document before the change",
                    "key" => " in the document's key",
                    _ => "",
                };
                write_objection(f, objection, of)
            }
            Reason::KeyAlone(operation) => write!(
                f,
                "{} carries no document, and its key alone does not decide",
                if *operation == "delete" { "a delete" } else { "the update" }
            ),
            Reason::Hidden => f.write_str("`project` hides everything that changed"),
        }
    }
}

fn write_objection(f: &mut fmt::Formatter<'_>, objection: &Objection, of: &str) -> fmt::Result {
    if !objection.branches.is_empty() {
        f.write_str("no branch of `$or` holds: ")?;
        for (index, branch) in objection.branches.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { "; " })?;
            write_objection(f, branch, of)?;
        }
        return Ok(());
    }
    write!(f, "{} does not hold", objection.condition)?;
    match objection.saw.as_slice() {
        _ if !objection.is_of_field => Ok(()),
        [] => write!(f, ": the field is missing{of}"),
        [value] => write!(f, ": the value is {value}{of}"),
        values => write!(f, ": the values are {}{of}", values.join(", ")),
    }
}

/// The event that MongoDB would send of a change, in the image mode of a filter.
pub fn event_of(
    filter: &Filter,
    operation: OperationType,
    before: Option<&Document>,
    after: Option<&Document>,
) -> Option<ChangeEvent> {
    let id = after.or(before).and_then(|document| document.get("_id")).cloned();
    let mut event = doc! {
        "operationType": operation.name(),
        "ns": {
            "db": &filter.namespace.database,
            "coll": filter.namespace.collection.as_deref().unwrap_or("any"),
        },
        "documentKey": { "_id": id.unwrap_or(Bson::Null) },
    };
    let carries_after = match operation {
        OperationType::Insert | OperationType::Replace => true,
        OperationType::Update => filter.full_document != FullDocument::Default,
        _ => false,
    };
    if let Some(after) = after.filter(|_| carries_after) {
        event.insert("fullDocument", after.clone());
    }
    let carries_before =
        operation != OperationType::Insert && filter.before_image != FullDocumentBeforeChange::Off;
    if let Some(before) = before.filter(|_| carries_before) {
        event.insert("fullDocumentBeforeChange", before.clone());
    }
    if operation == OperationType::Update {
        let (mut updated, mut removed) = (Document::new(), Vec::new());
        let nothing = Document::new();
        if let Some(after) = after {
            changes(before.unwrap_or(&nothing), after, "", &mut updated, &mut removed);
        }
        let removed: Vec<Bson> = removed.into_iter().map(Bson::String).collect();
        event.insert(
            "updateDescription",
            doc! { "updatedFields": updated, "removedFields": removed, "truncatedArrays": [] },
        );
    }
    parse(&event)
}

/// The fields that an update sets and removes; documents within are gone into.
fn changes(
    before: &Document,
    after: &Document,
    prefix: &str,
    updated: &mut Document,
    removed: &mut Vec<String>,
) {
    for (key, value) in after {
        let path = format!("{prefix}{key}");
        match (before.get(key), value) {
            (Some(old), new) if old == new => {}
            (Some(Bson::Document(old)), Bson::Document(new)) => {
                changes(old, new, &format!("{path}."), updated, removed);
            }
            (None, _) if prefix.is_empty() && key == "_id" => {}
            (_, new) => {
                updated.insert(path, new.clone());
            }
        }
    }
    let gone = before.keys().filter(|key| !after.contains_key(*key));
    removed.extend(gone.map(|key| format!("{prefix}{key}")));
}

/// A change event as it was written down; `None` where BSON cannot hold it.
fn parse(event: &Document) -> Option<ChangeEvent> {
    let mut whole = doc! { "_id": { "_data": TOKEN } };
    for (key, value) in event {
        if key != "_id" {
            whole.insert(key.clone(), value.clone());
        }
    }
    ChangeEvent::parse(RawDocumentBuf::try_from(&whole).ok()?).ok()
}

/// What somebody has at hand to ask about: a change event, also as `tail` prints it, `before` and
/// `after`, or a document, which is taken as inserted.
///
/// # Errors
/// What is wrong with it, for people.
pub fn event_from(filter: &Filter, written: &Document) -> Result<ChangeEvent, String> {
    let unusable = || "the event is not valid BSON".to_owned();
    if let (Ok(data), true) = (written.get_document("data"), written.contains_key("event")) {
        return event_from(filter, data);
    }
    if written.contains_key("operationType") {
        let mut event = written.clone();
        let operation = written.get_str("operationType").unwrap_or_default();
        if !["insert", "update", "replace", "delete"].contains(&operation) {
            return Err(format!(
                "an event of the type `{operation}` is not judged by a filter: give an insert, \
                 update, replace or delete"
            ));
        }
        // What is read without an image is judged without one.
        if filter.before_image == FullDocumentBeforeChange::Off {
            event.remove("fullDocumentBeforeChange");
        }
        if operation == "update" && filter.full_document == FullDocument::Default {
            event.remove("fullDocument");
        }
        if !event.contains_key("ns") {
            let coll = filter.namespace.collection.as_deref().unwrap_or("any");
            event.insert("ns", doc! { "db": &filter.namespace.database, "coll": coll });
        }
        return parse(&event).ok_or_else(unusable);
    }
    let image = |key: &str| written.get_document(key).ok();
    let is_pair =
        !written.is_empty() && written.keys().all(|key| key == "before" || key == "after");
    let (operation, before, after) = match (is_pair, image("before"), image("after")) {
        (true, before @ Some(_), after @ Some(_)) => (OperationType::Update, before, after),
        (true, before @ Some(_), None) => (OperationType::Delete, before, None),
        (true, None, after @ Some(_)) => (OperationType::Insert, None, after),
        _ => (OperationType::Insert, None, Some(written)),
    };
    event_of(filter, operation, before, after).ok_or_else(unusable)
}

/// The document that an event shows, as JSON.
pub fn shown_document(data: &Value) -> &Value {
    let image = |key: &str| Some(&data[key]).filter(|value| value.is_object());
    image("fullDocument")
        .or_else(|| image("fullDocumentBeforeChange"))
        .unwrap_or(&data["documentKey"])
}
