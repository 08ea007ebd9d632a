//! Evaluates a predicate on a document, without allocating.

use std::cell::Cell;
use std::sync::Arc;

use super::expr;
use super::node::{Node, Set, Test};
use super::operand::Filled;
use super::path::{Leaf, Path};
use super::pattern::Pattern;
use super::value::compare;
use super::values::BoundValues;
use crate::event::raw::{Elements, Owned, Value};

pub(crate) type BoundNode = Node<Filled, Set, Owned>;
pub(crate) type BoundTest = Test<Filled, Set, Owned>;

/// Where a condition looks: into the fields of a document, or at one element of an array, which
/// has no path.
#[derive(Clone, Copy)]
pub(crate) enum Subject<'a> {
    Fields(Value<'a>),
    Element(Value<'a>),
}

/// Whether the subject fulfils the condition, and no `$expr` on the way failed: a failure under a
/// negation is no match either.
pub(crate) fn holds(node: &BoundNode, values: &BoundValues, subject: Subject<'_>) -> bool {
    let failed = Cell::new(false);
    matches(node, values, subject, &failed) && !failed.get()
}

fn matches(
    node: &BoundNode,
    values: &BoundValues,
    subject: Subject<'_>,
    failed: &Cell<bool>,
) -> bool {
    match node {
        Node::Constant(verdict) => *verdict,
        Node::And(nodes) => nodes.iter().all(|node| matches(node, values, subject, failed)),
        Node::Or(nodes) => nodes.iter().any(|node| matches(node, values, subject, failed)),
        Node::Not(node) => !matches(node, values, subject, failed),
        Node::Field { path, test } => field_matches(path, test, values, subject),
        Node::All { path, members } => all_match(path, members, subject),
        Node::Schema(schema) => match subject {
            Subject::Fields(document) => schema.admits(document),
            Subject::Element(_) => false,
        },
        Node::Expression(expression) => match subject {
            Subject::Fields(document) => {
                let verdict = expr::is_true(expression, document);
                failed.set(failed.get() || verdict.is_none());
                verdict == Some(true)
            }
            // Parsing refuses these two below `$elemMatch`.
            Subject::Element(_) => false,
        },
    }
}

fn field_matches(
    path: &Path,
    test: &BoundTest,
    values: &BoundValues,
    subject: Subject<'_>,
) -> bool {
    let leaf = if test.asks_for_array() { Leaf::Whole } else { Leaf::Spread };
    match subject {
        Subject::Fields(value) => {
            path.any(Elements::new(value.data), leaf, &mut |value| passes(test, values, value))
        }
        Subject::Element(value) => passes(test, values, Some(value)),
    }
}

fn all_match(path: &Path, members: &Set, subject: Subject<'_>) -> bool {
    all_among(members, &|passes| match subject {
        Subject::Fields(value) => path.any(Elements::new(value.data), Leaf::Spread, passes),
        Subject::Element(value) => passes(Some(value)),
    })
}

/// Asks the values one by one, until one passes.
pub(crate) type SomeValue<'f> = &'f dyn Fn(Passes<'_>) -> bool;
type Passes<'p> = &'p mut dyn FnMut(Option<Value<'_>>) -> bool;

/// Whether each member is among the values, of which `some_value` tells whether one passes. `$all`
/// of nothing matches nothing.
pub(crate) fn all_among(members: &Set, some_value: SomeValue<'_>) -> bool {
    let (values, regexes) = (members.values(), members.regexes());
    if values.is_empty() && regexes.is_empty() {
        return false;
    }
    let fits = |regex: &Arc<Pattern>| {
        some_value(&mut |value| value.is_some_and(|value| regex.matches(value)))
    };
    has_all(members, some_value) && regexes.iter().all(fits)
}

/// So many members are ticked off without allocating.
const TICKED_IN_PLACE: usize = 64;

/// Goes over the values once and ticks the members off, so that a long list and a long array do
/// not cost their product.
fn has_all(members: &Set, some_value: SomeValue<'_>) -> bool {
    let count = members.values().len();
    let (mut few, mut many) = ([0_u64; 1], Vec::new());
    let ticks: &mut [u64] = if count <= TICKED_IN_PLACE {
        &mut few
    } else {
        many.resize(count.div_ceil(64), 0);
        &mut many
    };
    let mut left = count;
    left == 0
        || some_value(&mut |value| {
            if let Some(place) = members.place(value)
                && ticks[place / 64] >> (place % 64) & 1 == 0
            {
                ticks[place / 64] |= 1 << (place % 64);
                left -= 1;
            }
            left == 0
        })
}

/// Whether one value (`None`: the field is missing) passes the test.
pub(crate) fn passes(test: &BoundTest, values: &BoundValues, value: Option<Value<'_>>) -> bool {
    if let Test::Compare(comparison, operand) = test {
        return compare::passes(*comparison, value, operand.get(values));
    }
    if let Test::In(set) = test {
        return set.contains(value);
    }
    let Some(value) = value else { return false };
    match test {
        Test::Compare(..) | Test::In(_) => false,
        Test::Operator(operator) => operator.passes(value),
        Test::ElementDocument(node) => {
            value.is_array()
                && value.elements().any(|(_, element)| {
                    element.is_container() && holds(node, values, Subject::Fields(element))
                })
        }
        Test::ElementValue(node) => {
            value.is_array()
                && value
                    .elements()
                    .any(|(_, element)| holds(node, values, Subject::Element(element)))
        }
    }
}
