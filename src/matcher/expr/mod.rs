//! Aggregation expressions under `$expr`.

use super::number::is_truthy;
use super::operand::{Lookup, Operand};
use super::path::Path;
use crate::event::raw::{Owned, Value};

/// A parsed expression.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Expression<V> {
    Literal(V),
}

pub(crate) fn bind(
    expression: &Expression<Operand>,
    lookup: Lookup<'_>,
) -> Option<Expression<Owned>> {
    match expression {
        Expression::Literal(value) => Some(Expression::Literal(value.bind_one(lookup)?)),
    }
}

pub(crate) fn is_true(expression: &Expression<Owned>, _document: Value<'_>) -> bool {
    match expression {
        Expression::Literal(value) => is_truthy(value.get()),
    }
}

/// Whether every field that the expression reads satisfies `is_known`.
pub(crate) fn reads_only(
    expression: &Expression<Owned>,
    _is_known: &mut dyn FnMut(&Path) -> bool,
) -> bool {
    match expression {
        Expression::Literal(_) => true,
    }
}
