//! The shape of a parsed `match`, the same before and after binding.
//!
//! `V` is a value, `L` a list of values, and `E` a value in an expression: open
//! ([`operand::Operand`](super::operand::Operand)) in a template; in a predicate
//! [`Filled`](super::operand::Filled), and closed ([`Set`], [`Owned`]).

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::expr::Expression;
use super::operator::Operator;
use super::path::Path;
use super::pattern::Pattern;
use super::schema::Schema;
use super::value::compare::{self, Comparison};
use crate::event::raw::{Owned, Value, tag};

/// One condition, or several under a logical operator.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Node<V, L, E> {
    Constant(bool),
    And(Vec<Node<V, L, E>>),
    Or(Vec<Node<V, L, E>>),
    Not(Box<Node<V, L, E>>),
    /// Some value at the path passes the test.
    Field {
        path: Arc<Path>,
        test: Test<V, L, E>,
    },
    /// For each member, some value at the path equals it.
    All {
        path: Arc<Path>,
        members: L,
    },
    Expression(Expression<E>),
    Schema(Arc<Schema>),
}

/// What is asked of one value at a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Test<V, L, E> {
    Compare(Comparison, V),
    In(L),
    Operator(Operator),
    /// Some element, a document, matches as a document.
    ElementDocument(Box<Node<V, L, E>>),
    /// Some element passes tests of its own; the paths of these are empty.
    ElementValue(Box<Node<V, L, E>>),
}

impl<V, L, E> Test<V, L, E> {
    /// Whether the test is about an array as such, so that its elements are not asked.
    pub fn asks_for_array(&self) -> bool {
        match self {
            Test::Operator(operator) => operator.asks_for_array(),
            Test::ElementDocument(_) | Test::ElementValue(_) => true,
            Test::Compare(..) | Test::In(_) => false,
        }
    }

    /// Whether null and a missing field are distinguished.
    pub fn sees_null(&self) -> bool {
        matches!(self, Test::Operator(operator) if operator.sees_null())
    }
}

/// A closed list: sorted, so that asking it costs a binary search.
#[derive(Clone, Debug, Default)]
pub(crate) struct Set {
    /// Shared by the copies of a predicate: there may be a thousand.
    values: Arc<[Owned]>,
    /// Boxed, since few lists have any: [`Test`] is smaller then.
    regexes: Option<Box<Patterns>>,
    has_null: bool,
}

type Patterns = Vec<Arc<Pattern>>;

impl Set {
    /// Sorts the values and drops duplicates, as well as those that BSON cannot hold.
    pub fn new(mut values: Vec<Owned>, regexes: Vec<Arc<Pattern>>) -> Set {
        values.retain(|value| value.get().tag != tag::IMPOSSIBLE);
        values.sort_by(|a, b| compare::order(a.get(), b.get()));
        values.dedup_by(|a, b| compare::equal(a.get(), b.get()));
        let has_null = values.iter().any(|value| value.get().tag == tag::NULL);
        let regexes = (!regexes.is_empty()).then(|| Box::new(regexes));
        Set { values: values.into(), regexes, has_null }
    }

    /// Sorted in the order of BSON, each once; the regular expressions are not among them.
    pub fn values(&self) -> &[Owned] {
        &self.values
    }

    /// Patterns that a value may match instead of being equal to one of the values.
    pub fn regexes(&self) -> &[Arc<Pattern>] {
        self.regexes.as_deref().map_or(&[], Vec::as_slice)
    }

    /// Which of the values equals this one, as `$eq` has it: missing, undefined and null are one.
    pub fn place(&self, value: Option<Value<'_>>) -> Option<usize> {
        let value = match value {
            Some(value) if value.tag != tag::UNDEFINED => value,
            _ => Value::NULL,
        };
        self.values.binary_search_by(|member| compare::order(member.get(), value)).ok()
    }

    /// Whether the value equals one of the values or matches one of the patterns. A missing field
    /// (`None`) does so only if null is among the values.
    pub fn contains(&self, value: Option<Value<'_>>) -> bool {
        let Some(value) = value else { return self.has_null };
        if self.has_null && value.tag == tag::UNDEFINED {
            return true;
        }
        let found =
            self.values.binary_search_by(|member| compare::order(member.get(), value)).is_ok();
        found || self.regexes().iter().any(|regex| regex.matches(value))
    }
}

impl PartialEq for Set {
    fn eq(&self, other: &Set) -> bool {
        self.values == other.values && self.regexes == other.regexes
    }
}

impl Eq for Set {}

impl Hash for Set {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.values.hash(state);
        self.regexes.hash(state);
    }
}
