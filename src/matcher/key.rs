//! What a part of a document decides: `true`, `false`, or nothing yet.
//!
//! A delete carries only its key. The fields of the key are known; all other fields are unknown.

use bson::RawDocument;

use super::eval::{self, BoundNode};
use super::expr;
use super::node::Node;
use super::path::{Leaf, Path};
use super::values::BoundValues;
use crate::event::raw::{Elements, Value, tag};

/// The verdict, where no field outside the key can change it.
pub(crate) fn decide(node: &BoundNode, values: &BoundValues, key: &RawDocument) -> Option<bool> {
    match node {
        Node::Constant(verdict) => Some(*verdict),
        Node::And(nodes) => all(nodes.iter().map(|node| decide(node, values, key))),
        Node::Or(nodes) => {
            all(nodes.iter().map(|node| decide(node, values, key).map(|v| !v))).map(|v| !v)
        }
        Node::Not(node) => decide(node, values, key).map(|verdict| !verdict),
        Node::Field { path, test } => {
            let known = known(path, key)?;
            if known.may_be_missing && test.sees_null() {
                return None;
            }
            let leaf = if test.asks_for_array() { Leaf::Whole } else { Leaf::Spread };
            Some(Path::any_below(known.rest, known.value, leaf, &mut |value| {
                eval::passes(test, values, value)
            }))
        }
        Node::All { path, members } => {
            let known = known(path, key)?;
            Some(eval::all_among(members, &|passes| {
                Path::any_below(known.rest, known.value, Leaf::Spread, passes)
            }))
        }
        // What is allowed beside the key is a question, too.
        Node::Schema(_) => None,
        Node::Expression(expression) => {
            let is_known = &mut |path: &Path| is_plainly_known(path, key);
            if !expr::reads_only(expression, is_known) {
                return None;
            }
            // An expression that fails makes the whole filter false, whatever stands around it.
            expr::is_true(expression, Value::document(key))
        }
    }
}

/// Whether the path begins at a field of the key that is certain to be in the document, too.
fn is_plainly_known(path: &Path, key: &RawDocument) -> bool {
    let Some(first) = path.parts().first() else { return false };
    let value = Elements::new(key.as_bytes()).find_key(first.as_bytes());
    value.is_some_and(|value| &**first == "_id" || value.tag != tag::NULL)
}

/// True if all are, false if one is, otherwise open.
fn all(verdicts: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut open = false;
    for verdict in verdicts {
        match verdict {
            Some(false) => return Some(false),
            Some(true) => {}
            None => open = true,
        }
    }
    (!open).then_some(true)
}

struct Known<'a> {
    value: Value<'a>,
    /// What is left of the path below the value.
    rest: &'a [Box<str>],
    /// A shard key shows a missing field as null.
    may_be_missing: bool,
}

/// The value from which the path can be followed. A shard key's fields are dotted names: a key
/// `a.b` answers for the paths `a.b` and `a.b.c`, but not for `a`.
fn known<'a>(path: &'a Path, key: &'a RawDocument) -> Option<Known<'a>> {
    for (name, value) in Elements::new(key.as_bytes()) {
        if let Some(rest) = below(path.parts(), name) {
            let may_be_missing = name != b"_id" && value.tag == tag::NULL;
            return Some(Known { value, rest, may_be_missing });
        }
    }
    None
}

/// What follows the dotted `name` in the path, if the path starts with it.
fn below<'p>(parts: &'p [Box<str>], name: &[u8]) -> Option<&'p [Box<str>]> {
    let mut rest = parts;
    let mut names = name.split(|byte| *byte == b'.');
    loop {
        let Some(name) = names.next() else { return Some(rest) };
        let (first, after) = rest.split_first()?;
        if first.as_bytes() != name {
            return None;
        }
        rest = after;
    }
}
