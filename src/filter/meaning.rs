//! What a filter file means, as one number: equal for texts that differ only in comments, layout,
//! description, or an order of keys that says nothing.
//!
//! Where the order of keys may mean something (documents that are compared as values, expressions)
//! it counts. So two texts of one meaning may get two numbers, but two meanings never get one, but
//! for a collision of 64 bits.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::{FullDocument, FullDocumentBeforeChange, Namespace, Operations};
use crate::yaml::{Entry, Kind, Node, Typed};

/// Keys of the file that say nothing about what is sent, and those that count as they were
/// understood, with their defaults.
const APART: [&str; 6] = [
    "description",
    "examples",
    "collection",
    "operations",
    "fullDocument",
    "fullDocumentBeforeChange",
];

/// What was understood of [`APART`].
#[derive(Hash)]
pub(super) struct Understood<'a> {
    pub namespace: &'a Namespace,
    pub operations: Operations,
    pub full_document: FullDocument,
    pub before_image: FullDocumentBeforeChange,
}

/// Of this process only: not for storing.
pub(super) fn digest(root: &Node, understood: &Understood<'_>) -> u64 {
    let mut text = String::new();
    let entries = root.entries().unwrap_or_default().iter();
    let counted = entries.filter(|entry| !APART.contains(&entry.key.as_str()));
    for entry in sorted(counted.filter(|entry| !is_empty(&entry.value))) {
        let order = match entry.key.as_str() {
            "match" | "project" => Order::Query,
            "access" => Order::Access,
            _ => Order::Free,
        };
        text.push_str(&format!("{:?}:", entry.key));
        write(&entry.value, order, &mut text);
        text.push(',');
    }
    let mut hasher = DefaultHasher::new();
    understood.hash(&mut hasher);
    text.hash(&mut hasher);
    hasher.finish()
}

/// `match: {}` is no condition, and a switch that is off might as well not be there.
fn is_empty(node: &Node) -> bool {
    match &node.kind {
        Kind::Mapping(entries) => entries.is_empty(),
        Kind::Scalar(scalar) => matches!(scalar.typed(), Ok(Typed::Bool(false))),
        Kind::Sequence(_) => false,
    }
}

/// Where the order of a mapping's keys means nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Here and below.
    Free,
    /// As [`Order::Free`], and what is under `match` is a query.
    Access,
    /// Of conditions, but not of what they compare with.
    Query,
    /// Nowhere.
    Kept,
}

impl Order {
    fn below(self, entry: &Entry) -> Order {
        match (self, entry.key.as_str()) {
            (Order::Free, _) => Order::Free,
            (Order::Kept, _) => Order::Kept,
            (Order::Access, "match") => Order::Query,
            (Order::Access, _) => Order::Free,
            (Order::Query, "$and" | "$or" | "$nor" | "$not" | "$elemMatch") => Order::Query,
            (Order::Query, key) if key.starts_with('$') => Order::Kept,
            // A field: either operators, or a value to be equal to.
            (Order::Query, _) => {
                let mut below = entry.value.entries().unwrap_or_default().iter();
                let is_value = below.any(|entry| !entry.key.starts_with('$'));
                // `{ $claim: a, type: objectId }` is a value, and its order means nothing either;
                // it is not worth telling apart.
                if is_value { Order::Kept } else { Order::Query }
            }
        }
    }
}

fn write(node: &Node, order: Order, out: &mut String) {
    match &node.kind {
        Kind::Scalar(scalar) => match scalar.typed() {
            Ok(typed) => out.push_str(&format!("{typed:?}")),
            Err(_) => out.push_str(&format!("{:?}", scalar.text)),
        },
        Kind::Sequence(items) => {
            out.push('[');
            for item in items {
                write(item, order, out);
                out.push(',');
            }
            out.push(']');
        }
        Kind::Mapping(entries) => {
            out.push('{');
            match order {
                Order::Kept => entries.iter().for_each(|entry| write_entry(entry, order, out)),
                _ => sorted(entries.iter()).for_each(|entry| write_entry(entry, order, out)),
            }
            out.push('}');
        }
    }
}

fn write_entry(entry: &Entry, order: Order, out: &mut String) {
    out.push_str(&format!("{:?}:", entry.key));
    write(&entry.value, order.below(entry), out);
    out.push(',');
}

fn sorted<'t>(entries: impl Iterator<Item = &'t Entry>) -> impl Iterator<Item = &'t Entry> {
    let mut sorted: Vec<&Entry> = entries.collect();
    sorted.sort_by(|a, b| a.key.cmp(&b.key));
    sorted.into_iter()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    fn meaning(text: &str) -> u64 {
        match super::super::parse_filter("orders", Path::new("orders.yaml"), text) {
            Ok(filter) => filter.meaning,
            Err(diagnostics) => panic!("{text}\n{diagnostics:?}"),
        }
    }

    const FILE: &str = "collection: shop.orders\naccess: public\n\
        match: { a: { $gte: 1, $lt: 5 }, b: { x: 1, y: 2 }, $or: [{ c: 1, d: 2 }, { e: { $param: p } }] }\n\
        params: { p: { type: int, min: 1 } }\n";

    #[test]
    fn texts_of_one_meaning_have_one_number() {
        for same in [
            FILE.to_owned(),
            format!("# said before\n{FILE}# and after\n"),
            format!("{FILE}description: of what customers do\n"),
            format!("{FILE}operations: [delete, update, insert, replace]\nfullDocument: updateLookup\n"),
            "params:\n  p:\n    min: 1\n    type: 'int'\nmatch:\n  $or:\n    - d: 2\n      c: 1\n    \
             - e: { $param: p }\n  b: { x: 1, y: 2 }\n  a: { $lt: 5, $gte: 1 }\naccess: \"public\"\n\
             collection: shop.orders\n"
                .to_owned(),
        ] {
            assert_eq!(meaning(FILE), meaning(&same), "{same}");
        }
    }

    #[test]
    fn other_meanings_have_other_numbers() {
        for (what, instead) in [
            ("shop.orders", "shop.bills"),
            ("$lt: 5", "$lte: 5"),
            ("$lt: 5", "$lt: 5.0"),
            ("$lt: 5", "$lt: '5'"),
            // A document that is compared as a value has an order.
            ("{ x: 1, y: 2 }", "{ y: 2, x: 1 }"),
            ("min: 1", "min: 2"),
            ("access: public", "access: authenticated"),
            ("access: public", "access: public\nproject: { a: 1 }"),
            (
                "access: public",
                "access: public\nfullDocumentBeforeChange: required\nsnapshot: true",
            ),
            ("access: public", "access: public\nfullDocument: default"),
            ("access: public", "access: public\noperations: [insert, update]"),
        ] {
            assert!(FILE.contains(what));
            assert_ne!(meaning(FILE), meaning(&FILE.replace(what, instead)), "{instead}");
        }
    }
}
