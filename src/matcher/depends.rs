//! Whether an update can move a document into or out of a filter, by the paths of its changes.

use bson::RawDocument;

use super::eval::BoundNode;
use super::node::Node;
use super::path::Path;
use crate::event::raw::{Elements, tag};

/// May say yes too often, never too seldom.
pub(super) fn may_depend(node: &BoundNode, update: &RawDocument) -> bool {
    Elements::new(update.as_bytes()).any(|(name, value)| match (name, value.tag) {
        (b"updatedFields", tag::DOCUMENT) => value.elements().any(|(path, _)| reads(node, path)),
        (b"removedFields", tag::ARRAY) => {
            value.elements().any(|(_, path)| reads(node, path.text()))
        }
        (b"truncatedArrays", tag::ARRAY) => value.elements().any(|(_, truncated)| {
            let path = truncated.elements().find_key(b"field");
            path.is_none_or(|path| reads(node, path.text()))
        }),
        (b"disambiguatedPaths", _) => false,
        // What a later server tells.
        _ => true,
    })
}

/// Whether a condition reads the value at a changed path, or above or below it.
fn reads(node: &BoundNode, changed: &[u8]) -> bool {
    match node {
        Node::Constant(_) => false,
        Node::And(nodes) | Node::Or(nodes) => nodes.iter().any(|node| reads(node, changed)),
        Node::Not(node) => reads(node, changed),
        // Conditions on elements read below their array's path.
        Node::Field { path, .. } | Node::All { path, .. } => touch(path, changed),
        Node::Expression(_) | Node::Schema(_) => true,
    }
}

/// Whether one of the paths leads through the other. Numbers may be indexes, which paths pass
/// over, so they do not count.
fn touch(path: &Path, changed: &[u8]) -> bool {
    let is_name = |part: &[u8]| part.is_empty() || !part.iter().all(u8::is_ascii_digit);
    let read = path.parts().iter().map(|part| part.as_bytes()).filter(|part| is_name(part));
    let changed = changed.split(|byte| *byte == b'.').filter(|part| is_name(part));
    read.zip(changed).all(|(read, changed)| read == changed)
}
