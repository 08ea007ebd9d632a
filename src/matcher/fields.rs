//! Which fields of a document a predicate reads: what a query has to bring for it to decide.

use std::collections::BTreeSet;

use super::eval::BoundNode;
use super::node::Node;

/// Puts the names of top-level fields into `into`. Says whether these are all: an expression may
/// read the whole document.
pub(super) fn read(node: &BoundNode, into: &mut BTreeSet<String>) -> bool {
    match node {
        Node::Constant(_) => true,
        Node::And(nodes) | Node::Or(nodes) => nodes.iter().all(|node| read(node, into)),
        Node::Not(node) => read(node, into),
        // Conditions on elements read below their array's path.
        Node::Field { path, .. } | Node::All { path, .. } => {
            let Some(first) = path.parts().first() else { return false };
            into.insert(first.to_string());
            true
        }
        Node::Expression(_) | Node::Schema(_) => false,
    }
}
