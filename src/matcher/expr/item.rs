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
    pub const NULL: Item<'static> = Item::There(Value::NULL);

    fn small<const N: usize>(kind: u8, bytes: [u8; N]) -> Item<'a> {
        let mut padded = [0; 16];
        padded[..N].copy_from_slice(&bytes);
        Item::Small(kind, padded)
    }

    pub fn int(int: i32) -> Item<'a> {
        Item::small(tag::INT32, int.to_le_bytes())
    }

    pub fn long(long: i64) -> Item<'a> {
        Item::small(tag::INT64, long.to_le_bytes())
    }

    pub fn double(double: f64) -> Item<'a> {
        Item::small(tag::DOUBLE, double.to_le_bytes())
    }

    pub fn decimal(decimal: Decimal) -> Item<'a> {
        Item::small(tag::DECIMAL, decimal.to_bytes())
    }

    pub fn date(millis: i64) -> Item<'a> {
        Item::small(tag::DATE, millis.to_le_bytes())
    }

    pub fn boolean(truth: bool) -> Item<'a> {
        Item::small(tag::BOOLEAN, [u8::from(truth)])
    }

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

    pub fn is_truthy(&self) -> bool {
        is_truthy(self.value())
    }

    pub fn number(&self) -> Result<Number, Failure> {
        Number::read(self.value()).ok_or(Failure)
    }

    pub fn order(&self, other: &Item<'_>) -> std::cmp::Ordering {
        compare::order(self.value(), other.value())
    }

    pub fn is_array(&self) -> bool {
        self.value().is_array()
    }
}
