//! Aggregation expressions, under `$expr`.
//!
//! A useful part of the language: comparisons, logic, arithmetic, conditions, and the common
//! functions of text, dates and arrays. What is missing is refused when the filter is parsed.
//!
//! Unlike the rest of the matcher, expressions may allocate: what they compute is new. A plain
//! comparison of fields does not, as long as no array lies on the way.
//!
//! Where `mongod` would fail the query on a document (a text added to a number), the document
//! does not match. Neither does one for which an expression takes too long: functions of arrays
//! within each other multiply.

use std::sync::Arc;

use super::operand::{Lookup, Operand};
use super::path::Path;
use super::pattern::Pattern;
use crate::event::raw::{Owned, Value};

mod arithmetic;
mod array;
mod date;
mod each;
mod each_parse;
mod eval;
mod function;
mod item;
mod parse;
mod scope;
mod text;

use date::DateCall;
use each::Each;
pub(super) use function::Function;
use scope::{Scope, Work};

/// A parsed expression.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Expression<V> {
    Literal(V),
    /// `$a.b`
    Path(Arc<Path>),
    /// `$$ROOT`, which `$$CURRENT` equals here.
    Root,
    Document(Vec<(Box<str>, Expression<V>)>),
    Array(Vec<Expression<V>>),
    Call(Function, Vec<Expression<V>>),
    RegexMatch(Box<Expression<V>>, Arc<Pattern>),
    /// `$$this.a`: a variable, counted from the innermost, and a path below it.
    Variable(usize, Arc<Path>),
    /// `$let`: the values of the variables, and the expression that sees them.
    Let(Vec<Expression<V>>, Box<Expression<V>>),
    Each(Each, Vec<Expression<V>>),
    Date(Arc<DateCall>, Vec<Expression<V>>),
}

/// An absent placeholder removes the whole expression.
pub(crate) fn bind(
    expression: &Expression<Operand>,
    lookup: Lookup<'_>,
) -> Option<Expression<Owned>> {
    Some(match expression {
        Expression::Literal(value) => Expression::Literal(value.bind_one(lookup)?),
        Expression::Path(path) => Expression::Path(Arc::clone(path)),
        Expression::Root => Expression::Root,
        Expression::Document(fields) => {
            let mut bound = Vec::with_capacity(fields.len());
            for (name, value) in fields {
                bound.push((name.clone(), bind(value, lookup)?));
            }
            Expression::Document(bound)
        }
        Expression::Array(values) => Expression::Array(bind_all(values, lookup)?),
        Expression::Call(function, arguments) => {
            Expression::Call(*function, bind_all(arguments, lookup)?)
        }
        Expression::RegexMatch(input, pattern) => {
            Expression::RegexMatch(Box::new(bind(input, lookup)?), Arc::clone(pattern))
        }
        Expression::Variable(index, path) => Expression::Variable(*index, Arc::clone(path)),
        Expression::Let(values, body) => {
            Expression::Let(bind_all(values, lookup)?, Box::new(bind(body, lookup)?))
        }
        Expression::Each(each, parts) => Expression::Each(*each, bind_all(parts, lookup)?),
        Expression::Date(call, arguments) => {
            Expression::Date(Arc::clone(call), bind_all(arguments, lookup)?)
        }
    })
}

fn bind_all(
    expressions: &[Expression<Operand>],
    lookup: Lookup<'_>,
) -> Option<Vec<Expression<Owned>>> {
    expressions.iter().map(|expression| bind(expression, lookup)).collect()
}

/// Whether the expression holds for the document; nothing where it fails.
pub(crate) fn is_true(expression: &Expression<Owned>, document: Value<'_>) -> Option<bool> {
    let work = Work::default();
    eval::eval(expression, Scope::new(document, &work)).map(|item| item.is_truthy()).ok()
}

/// Whether every field that the expression reads satisfies `is_known`.
pub(crate) fn reads_only(
    expression: &Expression<Owned>,
    is_known: &mut dyn FnMut(&Path) -> bool,
) -> bool {
    match expression {
        Expression::Literal(_) => true,
        Expression::Path(path) => is_known(path),
        Expression::Root => false,
        Expression::Document(fields) => fields.iter().all(|(_, value)| reads_only(value, is_known)),
        Expression::Array(values)
        | Expression::Call(_, values)
        | Expression::Each(_, values)
        | Expression::Date(_, values) => values.iter().all(|value| reads_only(value, is_known)),
        // What a variable holds was read where it was given.
        Expression::Variable(..) => true,
        Expression::Let(values, body) => {
            values.iter().chain([&**body]).all(|value| reads_only(value, is_known))
        }
        Expression::RegexMatch(input, _) => reads_only(input, is_known),
    }
}
