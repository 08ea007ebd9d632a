//! What a predicate requires of a document, as far as an index can use it.

use std::sync::Arc;

use crate::event::raw::{Owned, tag};
use crate::matcher::eval::{BoundNode, BoundTest};
use crate::matcher::node::{Node, Test};
use crate::matcher::path::Path;
use crate::matcher::value::compare::Comparison;
use crate::matcher::{BoundValues, Predicate};

/// Values of one `$in`, branches of one `$or`: beyond this a term is no longer worth its entries.
const MAX_ENTRIES: usize = 1_000;

/// One requirement on a document. Every matching document fulfils it; the reverse need not hold.
#[derive(Clone, Debug)]
pub(super) enum Term {
    /// Some value at the path equals this one.
    Equal(Arc<Path>, Owned),
    /// Some value at the path is at least, or at most, this one and of its type.
    AtLeast(Arc<Path>, Owned),
    AtMost(Arc<Path>, Owned),
    /// The path leads somewhere.
    Exists(Arc<Path>),
}

/// Alternatives: a matching document fulfils at least one of these terms.
pub(super) type Terms = Vec<Term>;

/// Every way to file the predicate, the best first; empty where nothing is demanded. A way
/// without terms means that nothing can match.
pub(super) fn ways(predicate: &Predicate) -> Vec<Terms> {
    let mut ways = Vec::new();
    collect(predicate.root(), predicate.values(), &mut ways);
    // Stable, so that of equal ones the first written stays first.
    ways.sort_by_key(cost);
    ways
}

/// Rough cost of a way: how many documents it lets through, then how many entries it takes.
fn cost(way: &Terms) -> (u8, usize) {
    (way.iter().map(coarseness).max().unwrap_or(0), way.len())
}

fn coarseness(term: &Term) -> u8 {
    match term {
        Term::Equal(_, value) => match value.get().tag {
            // Most likely an identity.
            tag::OBJECT_ID | tag::BINARY => 1,
            tag::STRING if value.get().text().len() >= 16 => 1,
            tag::BOOLEAN => 4,
            tag::NULL | tag::UNDEFINED => 5,
            tag::STRING | tag::SYMBOL => 3,
            _ => 2,
        },
        Term::AtLeast(..) | Term::AtMost(..) => 6,
        Term::Exists(_) => 7,
    }
}

/// Collects all demands of a condition; each is a way of its own, since all must be fulfilled.
fn collect(node: &BoundNode, bound: &BoundValues, ways: &mut Vec<Terms>) {
    match node {
        Node::And(nodes) => nodes.iter().for_each(|node| collect(node, bound, ways)),
        Node::Or(branches) => ways.extend(alternatives(branches, bound)),
        Node::Constant(false) => ways.push(Vec::new()),
        Node::Field { path, test } => collect_test(path, test, bound, ways),
        Node::All { path, members } => {
            ways.extend(members.values().iter().filter_map(|value| equal(path, value.clone())));
            if members.values().is_empty() && members.regexes().is_empty() {
                ways.push(Vec::new());
            }
            if !members.regexes().is_empty() {
                ways.push(vec![Term::Exists(Arc::clone(path))]);
            }
        }
        Node::Constant(true) | Node::Not(_) | Node::Expression(_) | Node::Schema(_) => {}
    }
}

/// An `$or` demands one of its branches: the best way of each, taken together.
fn alternatives(branches: &[BoundNode], bound: &BoundValues) -> Option<Terms> {
    let mut all = Vec::new();
    for branch in branches {
        let mut ways = Vec::new();
        collect(branch, bound, &mut ways);
        ways.sort_by_key(cost);
        all.extend(ways.into_iter().next()?);
        if all.len() > MAX_ENTRIES {
            return None;
        }
    }
    Some(all)
}

fn collect_test(path: &Arc<Path>, test: &BoundTest, bound: &BoundValues, ways: &mut Vec<Terms>) {
    match test {
        Test::Compare(Comparison::Equal, value) => ways.extend(equal(path, value.owned(bound))),
        Test::In(set) if set.regexes().is_empty() && set.values().len() <= MAX_ENTRIES => {
            let terms = set.values().iter().map(|v| Term::Equal(Arc::clone(path), v.clone()));
            ways.push(terms.collect());
        }
        Test::In(set) => {
            // Of a long list, only whether it can match a missing field is of use.
            if !set.contains(None) {
                ways.push(vec![Term::Exists(Arc::clone(path))]);
            }
        }
        Test::Compare(comparison, value) => {
            ways.extend(range(path, *comparison, value.owned(bound)))
        }
        Test::ElementDocument(node) => collect_element(path, node, bound, ways),
        Test::ElementValue(node) => {
            // At an index, an array is one value and its elements are not spread.
            let ends_in_index = path
                .parts()
                .last()
                .is_some_and(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
            if !ends_in_index {
                collect_itself(path, node, bound, ways);
            }
            ways.push(vec![Term::Exists(Arc::clone(path))]);
        }
        Test::Operator(_) => ways.push(vec![Term::Exists(Arc::clone(path))]),
    }
}

/// Conditions on an element as such are conditions on some value at the path. Except that a
/// further `$elemMatch` asks for values one array deeper, where the path does not lead.
fn collect_itself(path: &Arc<Path>, node: &BoundNode, bound: &BoundValues, ways: &mut Vec<Terms>) {
    match node {
        Node::And(nodes) => nodes.iter().for_each(|node| collect_itself(path, node, bound, ways)),
        Node::Field { test: Test::ElementDocument(_) | Test::ElementValue(_), .. } => {}
        Node::Field { test, .. } => collect_test(path, test, bound, ways),
        Node::All { members, .. } => {
            ways.extend(members.values().iter().filter_map(|value| equal(path, value.clone())));
        }
        Node::Constant(_) | Node::Or(_) | Node::Not(_) | Node::Expression(_) | Node::Schema(_) => {}
    }
}

/// Conditions on the documents of an array are conditions on longer paths. Except where the path
/// inside starts with a number: it may be the index of an array inside the array, where the
/// longer path does not lead. And except where a missing field fulfils them: below an array
/// without documents a longer path is not even missing.
fn collect_element(path: &Arc<Path>, node: &BoundNode, bound: &BoundValues, ways: &mut Vec<Terms>) {
    let mut inner = Vec::new();
    collect(node, bound, &mut inner);
    for way in inner {
        let is_usable = way.iter().all(|term| {
            let (Term::Equal(path, _)
            | Term::AtLeast(path, _)
            | Term::AtMost(path, _)
            | Term::Exists(path)) = term;
            let starts_with_name = path
                .parts()
                .first()
                .is_some_and(|part| !part.bytes().all(|byte| byte.is_ascii_digit()));
            let takes_missing = matches!(term, Term::Equal(_, value)
                if matches!(value.get().tag, tag::NULL | tag::UNDEFINED));
            starts_with_name && !takes_missing
        });
        if is_usable {
            ways.push(relocate(way, |inner| Arc::new(path.join(inner))));
        }
    }
    ways.push(vec![Term::Exists(Arc::clone(path))]);
}

fn relocate(terms: Terms, to: impl Fn(&Path) -> Arc<Path>) -> Terms {
    terms
        .into_iter()
        .map(|term| match term {
            Term::Equal(path, value) => Term::Equal(to(&path), value),
            Term::AtLeast(path, value) => Term::AtLeast(to(&path), value),
            Term::AtMost(path, value) => Term::AtMost(to(&path), value),
            Term::Exists(path) => Term::Exists(to(&path)),
        })
        .collect()
}

/// A value that equals nothing needs no entry.
fn equal(path: &Arc<Path>, value: Owned) -> Option<Terms> {
    Some(match value.get().tag {
        tag::IMPOSSIBLE => Vec::new(),
        _ => vec![Term::Equal(Arc::clone(path), value)],
    })
}

fn range(path: &Arc<Path>, comparison: Comparison, value: Owned) -> Option<Terms> {
    match value.get().tag {
        tag::IMPOSSIBLE => Some(Vec::new()),
        // These let a missing field pass.
        tag::NULL | tag::UNDEFINED | tag::MIN_KEY | tag::MAX_KEY => None,
        _ => {
            let path = Arc::clone(path);
            Some(vec![match comparison {
                Comparison::Greater | Comparison::GreaterOrEqual => Term::AtLeast(path, value),
                _ => Term::AtMost(path, value),
            }])
        }
    }
}
