//! A value inside a computation: missing, lying in the document, or made just now.

use crate::event::raw::{Owned, Value, tag};
use crate::matcher::value::compare;
use crate::matcher::value::decimal::Decimal;
use crate::matcher::value::number::{Number, is_truthy};

/// What an expression gives.
#[derive(Clone, Debug)]
pub(super) enum Item<'a> {
    Missing,
    There(Value<'a>),
    /// A computed value of a fixed size.
    Small(u8, [u8; 16]),
    Large(Owned),
}

/// The expression cannot be computed for this document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure;

pub(super) type Computed<'a> = Result<Item<'a>, Failure>;

const NOTHING: Value<'static> = Value { tag: tag::UNDEFINED, data: &[] };

impl<'a> Item<'a> {
    /// What most operators give if an operand is missing or null.
    pub const NULL: Item<'static> = Item::There(Value::NULL);

    fn small<const N: usize>(kind: u8, bytes: [u8; N]) -> Item<'a> {
        let mut padded = [0; 16];
        padded[..N].copy_from_slice(&bytes);
        Item::Small(kind, padded)
    }

    /// An integer of 32 bits, as MongoDB computes for sizes, indexes and parts of dates.
    pub fn int(int: i32) -> Item<'a> {
        Item::small(tag::INT32, int.to_le_bytes())
    }

    /// An integer of 64 bits.
    pub fn long(long: i64) -> Item<'a> {
        Item::small(tag::INT64, long.to_le_bytes())
    }

    /// A floating-point number of 64 bits.
    pub fn double(double: f64) -> Item<'a> {
        Item::small(tag::DOUBLE, double.to_le_bytes())
    }

    /// A decimal128, in the form that BSON stores.
    pub fn decimal(decimal: Decimal) -> Item<'a> {
        Item::small(tag::DECIMAL, decimal.to_bytes())
    }

    /// A date in milliseconds since 1970, in UTC.
    pub fn date(millis: i64) -> Item<'a> {
        Item::small(tag::DATE, millis.to_le_bytes())
    }

    /// The result of a comparison or of logic.
    pub fn boolean(truth: bool) -> Item<'a> {
        Item::small(tag::BOOLEAN, [u8::from(truth)])
    }

    /// A string of these bytes, copied. They need not be UTF-8.
    pub fn text(text: &[u8]) -> Item<'a> {
        let mut data = Vec::with_capacity(text.len() + 5);
        data.extend_from_slice(&(text.len() as u32 + 1).to_le_bytes());
        data.extend_from_slice(text);
        data.push(0);
        Item::Large(Owned::of(Value { tag: tag::STRING, data: &data }))
    }

    /// A copy of a value that lies in something computed.
    pub fn copy(value: Value<'_>) -> Item<'a> {
        Item::Large(Owned::of(value))
    }

    /// The value; a missing one is undefined, as it ranks.
    pub fn value(&self) -> Value<'_> {
        match self {
            Item::Missing => NOTHING,
            Item::There(value) => *value,
            Item::Small(kind, bytes) => {
                let length = match *kind {
                    tag::BOOLEAN => 1,
                    tag::INT32 => 4,
                    tag::DECIMAL => 16,
                    _ => 8,
                };
                Value { tag: *kind, data: &bytes[..length] }
            }
            Item::Large(owned) => owned.get(),
        }
    }

    /// Missing, null or undefined.
    pub fn is_nullish(&self) -> bool {
        matches!(self.value().tag, tag::NULL | tag::UNDEFINED)
    }

    /// Whether `$and`, `$cond` and their like take it as true: all but false, zero, null, undefined
    /// and missing.
    pub fn is_truthy(&self) -> bool {
        is_truthy(self.value())
    }

    /// The value, if it has a numeric type.
    ///
    /// # Errors
    /// When it has another one, which fails the expression.
    pub fn number(&self) -> Result<Number, Failure> {
        Number::read(self.value()).ok_or(Failure)
    }

    /// The order of BSON, over all types; a missing value compares as undefined.
    pub fn order(&self, other: &Item<'_>) -> std::cmp::Ordering {
        compare::order(self.value(), other.value())
    }

    /// Whether it is an array, which operators on lists require.
    pub fn is_array(&self) -> bool {
        self.value().is_array()
    }
}
