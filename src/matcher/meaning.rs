//! The meaning of a `match` as one number: equal for texts that differ only in how they are
//! written.
//!
//! It is computed from the parsed form, in which `a: 1` and `a: { $eq: 1 }` are already the same.
//! Conditions are a set, whatever their order and nesting, and so are the alternatives of an `$or`
//! and the values of an `$in`. Values are compared as written, with the order of their fields: a
//! document equals only one with the same order, and 1 and 1.0 are distinct although they match the
//! same documents.
//!
//! Two texts with the same meaning may get two numbers. Two meanings never get the same number,
//! except for a collision of 64 bits.

use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::bind::{OpenNode, OpenTest};
use super::node::{Node, Test};
use super::operand::OpenSet;

/// Of this process only: not for storing.
pub(super) fn digest(root: &OpenNode) -> u64 {
    of(root, Order::Free)
}

/// Whether the order of conditions says nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Free,
    /// Below an alternative or a negation with an `$expr` in it: whether one that fails is come to
    /// at all depends on what stands before it.
    Kept,
}

impl Order {
    fn below(self, nodes: &[&OpenNode]) -> Order {
        if nodes.iter().any(|node| has_expression(node)) { Order::Kept } else { self }
    }
}

fn of(node: &OpenNode, order: Order) -> u64 {
    match node {
        Node::And(_) => {
            let mut conditions = Vec::new();
            gather(node, order, &mut conditions);
            joined("and", conditions, order)
        }
        Node::Or(_) => {
            let mut branches = Vec::new();
            alternatives(node, &mut branches);
            let order = order.below(&branches);
            let branches = branches.into_iter().map(|branch| of(branch, order)).collect();
            joined("or", branches, order)
        }
        Node::Not(_) => {
            let mut conditions = Vec::new();
            gather(node, order, &mut conditions);
            joined("and", conditions, order)
        }
        Node::Field { path, test } => hash(&("field", text(path), of_test(test))),
        Node::All { path, members } => hash(&("all", text(path), of_set(members))),
        Node::Constant(_) | Node::Expression(_) | Node::Schema(_) => hash(&("leaf", text(node))),
    }
}

/// The conditions that all have to hold: nested lists are one list, and none of several is each of
/// them not.
fn gather(node: &OpenNode, order: Order, conditions: &mut Vec<u64>) {
    match node {
        Node::And(nodes) => nodes.iter().for_each(|node| gather(node, order, conditions)),
        Node::Not(inner) => {
            let mut branches = Vec::new();
            alternatives(inner, &mut branches);
            let order = order.below(&branches);
            conditions.extend(branches.into_iter().map(|branch| hash(&("not", of(branch, order)))));
        }
        node => conditions.push(of(node, order)),
    }
}

fn alternatives<'n>(node: &'n OpenNode, branches: &mut Vec<&'n OpenNode>) {
    match node {
        Node::Or(nodes) => nodes.iter().for_each(|node| alternatives(node, branches)),
        node => branches.push(node),
    }
}

/// One condition is itself, however it is wrapped.
fn joined(how: &str, mut parts: Vec<u64>, order: Order) -> u64 {
    if order == Order::Free {
        parts.sort_unstable();
        parts.dedup();
    }
    match parts.as_slice() {
        [only] => *only,
        parts => hash(&(how, parts)),
    }
}

fn of_test(test: &OpenTest) -> u64 {
    match test {
        Test::In(set) => hash(&("in", of_set(set))),
        // What is below is a query again, without `$expr`.
        Test::ElementDocument(node) => hash(&("document", of(node, Order::Free))),
        Test::ElementValue(node) => hash(&("value", of(node, Order::Free))),
        test => hash(&("test", text(test))),
    }
}

fn of_set(set: &OpenSet) -> u64 {
    match set {
        OpenSet::Whole(placeholder) => hash(&("whole", text(placeholder))),
        OpenSet::Listed { values, regexes } => {
            let values = values.iter().map(|value| hash(&text(value)));
            let regexes = regexes.iter().map(|regex| hash(&("regex", text(regex))));
            let mut members: Vec<u64> = values.chain(regexes).collect();
            members.sort_unstable();
            members.dedup();
            hash(&("listed", members))
        }
    }
}

fn has_expression(node: &OpenNode) -> bool {
    match node {
        Node::Expression(_) => true,
        Node::And(nodes) | Node::Or(nodes) => nodes.iter().any(has_expression),
        Node::Not(node) => has_expression(node),
        Node::Field { .. } | Node::All { .. } | Node::Constant(_) | Node::Schema(_) => false,
    }
}

fn text(value: &impl Debug) -> String {
    format!("{value:?}")
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
