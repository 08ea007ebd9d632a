//! The part of a predicate that MongoDB evaluates: a condition that every matching document
//! fulfils.
//!
//! It contains only what `find` decides in the same way, with no error on any document and for all
//! values. The matcher decides about the documents that are returned. Use it with the simple
//! collation.

use bson::{Bson, Document, RawDocument, doc};

use super::eval::{BoundNode, BoundTest};
use super::node::{Node, Set, Test};
use super::path::Path;
use super::value::compare::Comparison;
use super::values::BoundValues;
use crate::event::raw::{Value, tag};

/// `None`: every document may match.
pub(super) fn of(node: &BoundNode, bound: &BoundValues) -> Option<Document> {
    match node {
        Node::Constant(false) => Some(nothing()),
        Node::And(nodes) => {
            let mut conditions: Vec<Document> =
                nodes.iter().filter_map(|node| of(node, bound)).collect();
            match conditions.len() {
                0 => None,
                1 => conditions.pop(),
                _ => Some(doc! { "$and": conditions }),
            }
        }
        Node::Or(branches) if branches.is_empty() => Some(nothing()),
        Node::Or(branches) => {
            let conditions: Option<Vec<Document>> =
                branches.iter().map(|branch| of(branch, bound)).collect();
            Some(doc! { "$or": conditions? })
        }
        Node::Field { path, test } => field(path, test, bound),
        Node::All { path, members } => {
            let values = listed(members)?;
            (!values.is_empty()).then(|| on(path, doc! { "$all": values }))?
        }
        Node::Constant(true) | Node::Not(_) | Node::Expression(_) | Node::Schema(_) => None,
    }
}

/// A condition that no document fulfils.
fn nothing() -> Document {
    doc! { "_id": { "$in": [] } }
}

fn field(path: &Path, test: &BoundTest, bound: &BoundValues) -> Option<Document> {
    let condition = match test {
        Test::Compare(Comparison::Equal, value) if value.get(bound).tag == tag::IMPOSSIBLE => {
            return Some(nothing());
        }
        Test::Compare(comparison, value) => {
            let operator = match comparison {
                Comparison::Equal => "$eq",
                Comparison::Less => "$lt",
                Comparison::LessOrEqual => "$lte",
                Comparison::Greater => "$gt",
                Comparison::GreaterOrEqual => "$gte",
            };
            doc! { operator: plain(value.get(bound))? }
        }
        Test::In(set) => doc! { "$in": listed(set)? },
        Test::Operator(operator) => operator.query()?,
        Test::ElementDocument(_) | Test::ElementValue(_) => return None,
    };
    on(path, condition)
}

/// Inside `$elemMatch` a path may be empty.
fn on(path: &Path, condition: Document) -> Option<Document> {
    let path = path.dotted();
    (!path.is_empty()).then(|| doc! { path: condition })
}

fn listed(set: &Set) -> Option<Vec<Bson>> {
    if !set.regexes().is_empty() {
        return None;
    }
    // In a list a document could be taken for an operator.
    let is_safe = |value: Value<'_>| value.tag != tag::DOCUMENT;
    let values = set.values().iter().map(|value| value.get());
    values.map(|value| is_safe(value).then(|| plain(value))?).collect()
}

/// A value that means the same to `find` under every operator here.
fn plain(value: Value<'_>) -> Option<Bson> {
    if !matches!(
        value.tag,
        tag::DOUBLE
            | tag::STRING
            | tag::DOCUMENT
            | tag::ARRAY
            | tag::BINARY
            | tag::OBJECT_ID
            | tag::BOOLEAN
            | tag::DATE
            | tag::NULL
            | tag::INT32
            | tag::TIMESTAMP
            | tag::INT64
            | tag::DECIMAL
    ) {
        return None;
    }
    let mut holder = super::value::write::Writer::document();
    holder.element(b"v", value);
    let holder = holder.finish();
    let holder: &RawDocument = &holder;
    Bson::try_from(holder.get("v").ok()??).ok()
}
