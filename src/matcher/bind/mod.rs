//! From a template to a predicate: values take the place of placeholders.

use std::sync::Arc;

pub(super) mod share;

use super::Placeholder;
use super::eval::{BoundNode, BoundTest};
use super::expr;
use super::node::{Node, Test};
use super::operand::{Bound, Filled, Lookup, OpenSet, Operand};
use super::value::compare::Comparison;
use crate::event::raw::Owned;

pub(crate) type OpenNode = Node<Operand, OpenSet, Operand>;
pub(crate) type OpenTest = Test<Operand, OpenSet, Operand>;

/// The bound condition, or nothing where an absent value removed it.
pub(crate) fn bind(node: &OpenNode, lookup: Lookup<'_>) -> Option<BoundNode> {
    Some(match node {
        Node::Constant(verdict) => Node::Constant(*verdict),
        Node::And(nodes) => join(bind_all(nodes, lookup)?, Node::And),
        Node::Or(nodes) => join(bind_all(nodes, lookup)?, Node::Or),
        Node::Not(node) => Node::Not(Box::new(bind(node, lookup)?)),
        Node::Field { path, test } => {
            Node::Field { path: Arc::clone(path), test: bind_test(test, lookup)? }
        }
        Node::All { path, members } => {
            Node::All { path: Arc::clone(path), members: members.bind(lookup)? }
        }
        Node::Schema(schema) => Node::Schema(Arc::clone(schema)),
        Node::Expression(expression) => Node::Expression(expr::bind(expression, lookup)?),
    })
}

/// The branches that are left; nothing where there were some and all of them went.
fn bind_all(nodes: &[OpenNode], lookup: Lookup<'_>) -> Option<Vec<BoundNode>> {
    let bound: Vec<BoundNode> = nodes.iter().filter_map(|node| bind(node, lookup)).collect();
    (nodes.is_empty() || !bound.is_empty()).then_some(bound)
}

fn join(mut nodes: Vec<BoundNode>, wrap: fn(Vec<BoundNode>) -> BoundNode) -> BoundNode {
    match nodes.pop() {
        Some(only) if nodes.is_empty() => only,
        Some(last) => {
            nodes.push(last);
            wrap(nodes)
        }
        None => wrap(nodes),
    }
}

fn bind_test(test: &OpenTest, lookup: Lookup<'_>) -> Option<BoundTest> {
    Some(match test {
        Test::Compare(comparison, operand) => match operand.bind(lookup) {
            Bound::Absent => return None,
            Bound::One(value) => Test::Compare(*comparison, Filled::Fixed(value)),
            Bound::Any(set) => {
                debug_assert_eq!(*comparison, Comparison::Equal, "only equality takes a set");
                Test::In(set)
            }
        },
        Test::In(set) => Test::In(set.bind(lookup)?),
        Test::Operator(operator) => Test::Operator(operator.clone()),
        Test::ElementDocument(node) => Test::ElementDocument(Box::new(bind(node, lookup)?)),
        Test::ElementValue(node) => Test::ElementValue(Box::new(bind(node, lookup)?)),
    })
}

/// The placeholders that stand in one condition together, condition by condition: where one of them
/// is absent, the others go with it.
pub(crate) fn together(node: &OpenNode, found: &mut Vec<Vec<Placeholder>>) {
    let mut seen = Vec::new();
    let mut note = |placeholder: &Placeholder| {
        seen.push(placeholder.clone());
        // Nothing is absent, so nothing is left out.
        Some(Owned::null())
    };
    match node {
        Node::And(nodes) | Node::Or(nodes) => nodes.iter().for_each(|node| together(node, found)),
        Node::Not(node) => together(node, found),
        Node::Field { test, .. } => match test {
            Test::ElementDocument(node) | Test::ElementValue(node) => together(node, found),
            Test::Compare(_, operand) => drop(operand.bind(&mut note)),
            Test::In(set) => set.together(found),
            _ => {}
        },
        Node::All { members, .. } => members.together(found),
        Node::Expression(expression) => drop(expr::bind(expression, &mut note)),
        Node::Constant(_) | Node::Schema(_) => {}
    }
    if seen.len() > 1 {
        found.push(seen);
    }
}
