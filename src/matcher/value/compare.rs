//! The order of BSON values, and the two ways in which the query language uses it.
//!
//! [`order`] is the order across all types that sorting and `$expr` use. [`passes`] is what `$eq`,
//! `$gt` and the like ask: with few exceptions they compare values of one type only.

use std::cmp::Ordering;

use super::number::Number;
use crate::event::raw::{Value, tag};

/// A comparison of the query language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Comparison {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    fn accepts(self, ordering: Ordering) -> bool {
        match self {
            Comparison::Equal => ordering.is_eq(),
            Comparison::Less => ordering.is_lt(),
            Comparison::LessOrEqual => ordering.is_le(),
            Comparison::Greater => ordering.is_gt(),
            Comparison::GreaterOrEqual => ordering.is_ge(),
        }
    }

    fn includes_equal(self) -> bool {
        !matches!(self, Comparison::Less | Comparison::Greater)
    }
}

/// The rank of a type in the order of values. Types of one rank are compared by content.
pub(crate) fn rank(kind: u8) -> u8 {
    match kind {
        tag::MIN_KEY => 1,
        tag::UNDEFINED => 2,
        tag::NULL => 5,
        tag::INT32 | tag::INT64 | tag::DOUBLE | tag::DECIMAL => 10,
        tag::STRING | tag::SYMBOL => 15,
        tag::DOCUMENT => 20,
        tag::ARRAY => 25,
        tag::BINARY => 30,
        tag::OBJECT_ID => 35,
        tag::BOOLEAN => 40,
        tag::DATE => 45,
        tag::TIMESTAMP => 47,
        tag::REGEX => 50,
        tag::DB_POINTER => 55,
        tag::CODE => 60,
        tag::CODE_WITH_SCOPE => 65,
        tag::MAX_KEY => 127,
        // An impossible value; after everything, and never equal by `passes`.
        _ => 255,
    }
}

/// Whether the value (`None`: the field is missing) stands in that relation to the operand.
pub(crate) fn passes(comparison: Comparison, value: Option<Value<'_>>, operand: Value<'_>) -> bool {
    if operand.tag == tag::IMPOSSIBLE {
        return false;
    }
    let missing = Value { tag: tag::UNDEFINED, data: &[] };
    let value = value.unwrap_or(missing);
    if rank(value.tag) != rank(operand.tag) {
        return match (value.tag, operand.tag) {
            // Missing, undefined and null are one value to the query language.
            (tag::NULL, tag::UNDEFINED) | (tag::UNDEFINED, tag::NULL) => {
                comparison.includes_equal()
            }
            (_, tag::MAX_KEY) => matches!(comparison, Comparison::Less | Comparison::LessOrEqual),
            (_, tag::MIN_KEY) => {
                matches!(comparison, Comparison::Greater | Comparison::GreaterOrEqual)
            }
            _ => false,
        };
    }
    if let (Some(left), Some(right)) = (Number::read(value), Number::read(operand)) {
        // NaN has no order: it is equal to itself and nothing else holds.
        if left.is_nan() || right.is_nan() {
            return comparison.includes_equal() && left.is_nan() && right.is_nan();
        }
        return comparison.accepts(left.compare(right));
    }
    comparison.accepts(order_within(value, operand))
}

/// Equality as in `$in` and `$expr`, where undefined is not null.
pub(crate) fn equal(left: Value<'_>, right: Value<'_>) -> bool {
    // Most unequal values differ in type or length; equal bytes of one type are equal, NaN too.
    if left.tag == right.tag && left.data == right.data {
        return left.tag != tag::IMPOSSIBLE;
    }
    order(left, right).is_eq()
}

/// The order of all values, types by rank first.
pub(crate) fn order(left: Value<'_>, right: Value<'_>) -> Ordering {
    rank(left.tag).cmp(&rank(right.tag)).then_with(|| order_within(left, right))
}

/// Nesting is followed so far and no further: deeper values count as equal. `mongod` refuses
/// documents nested deeper than about 180 levels, so that only broken input gets here.
const MAX_DEPTH: u32 = 250;

/// The order of two values of one rank.
fn order_within(left: Value<'_>, right: Value<'_>) -> Ordering {
    order_nested(left, right, MAX_DEPTH)
}

fn order_nested(left: Value<'_>, right: Value<'_>, depth: u32) -> Ordering {
    match left.tag {
        tag::INT32 | tag::INT64 | tag::DOUBLE | tag::DECIMAL => {
            match (Number::read(left), Number::read(right)) {
                (Some(left), Some(right)) => left.compare(right),
                _ => Ordering::Equal,
            }
        }
        tag::STRING | tag::SYMBOL | tag::CODE => left.text().cmp(right.text()),
        tag::DOCUMENT | tag::ARRAY => order_fields(left, right, depth),
        tag::BINARY => {
            let ((left_type, left), (right_type, right)) = (left.binary(), right.binary());
            left.len()
                .cmp(&right.len())
                .then(left_type.cmp(&right_type))
                .then_with(|| left.cmp(right))
        }
        tag::OBJECT_ID | tag::BOOLEAN => left.data.cmp(right.data),
        tag::DATE => left.i64().cmp(&right.i64()),
        tag::TIMESTAMP => (left.i64() as u64).cmp(&(right.i64() as u64)),
        tag::REGEX => left.regex().cmp(&right.regex()),
        tag::DB_POINTER => {
            left.data.len().cmp(&right.data.len()).then_with(|| left.data.cmp(right.data))
        }
        tag::CODE_WITH_SCOPE => match (left.code_with_scope(), right.code_with_scope()) {
            (Some((left_code, left_scope)), Some((right_code, right_scope))) => left_code
                .text()
                .cmp(right_code.text())
                .then_with(|| order_fields(left_scope, right_scope, depth)),
            _ => left.data.cmp(right.data),
        },
        _ => Ordering::Equal,
    }
}

/// Field by field: type, then name, then content; the shorter first where one is a prefix.
fn order_fields(left: Value<'_>, right: Value<'_>, depth: u32) -> Ordering {
    let Some(depth) = depth.checked_sub(1) else { return Ordering::Equal };
    let (mut left, mut right) = (left.elements(), right.elements());
    loop {
        let ((left_key, left), (right_key, right)) = match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(left), Some(right)) => (left, right),
        };
        let ordering = rank(left.tag)
            .cmp(&rank(right.tag))
            .then_with(|| left_key.cmp(right_key))
            .then_with(|| order_nested(left, right, depth));
        if ordering != Ordering::Equal {
            return ordering;
        }
    }
}
