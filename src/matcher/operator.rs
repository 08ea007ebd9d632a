//! The operators whose operand is a part of the filter: none of it comes from a client.
//!
//! A new one is a case here, a name in `parse::names`, and its parsing in `parse::operators`.

use std::sync::Arc;

use bson::{Document, doc};

use super::pattern::Pattern;
use super::value::number::Number;
use super::value::types::TypeSet;
use crate::event::raw::{Value, tag};

/// What such an operator asks of one value at a path. A missing field passes none of them: the
/// index relies on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Operator {
    Exists,
    Regex(Arc<Pattern>),
    Type(TypeSet),
    Mod {
        /// Never 0.
        divisor: i64,
        remainder: i64,
    },
    /// How many elements.
    Size(i64),
    Bits(Arc<Bits>),
}

/// Bit positions for the `$bits` operators.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Bits {
    pub positions: Box<[u32]>,
    pub test: BitTest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum BitTest {
    AllSet,
    AllClear,
    AnySet,
    AnyClear,
}

impl BitTest {
    fn name(self) -> &'static str {
        match self {
            BitTest::AllSet => "$bitsAllSet",
            BitTest::AllClear => "$bitsAllClear",
            BitTest::AnySet => "$bitsAnySet",
            BitTest::AnyClear => "$bitsAnyClear",
        }
    }
}

impl Operator {
    /// Whether it is about an array as such, so that the array's elements are not asked.
    pub fn asks_for_array(&self) -> bool {
        matches!(self, Operator::Size(_))
    }

    /// Whether null and a missing field are distinguished.
    pub fn sees_null(&self) -> bool {
        matches!(self, Operator::Exists | Operator::Type(_))
    }

    /// Whether a value that is there passes; a missing field is decided by the caller.
    pub fn passes(&self, value: Value<'_>) -> bool {
        match self {
            Operator::Exists => true,
            Operator::Regex(pattern) => pattern.matches(value),
            Operator::Type(types) => types.contains(value.tag),
            Operator::Mod { divisor, remainder } => Number::read(value)
                .and_then(Number::truncated)
                .is_some_and(|dividend| dividend.wrapping_rem(*divisor) == *remainder),
            Operator::Size(size) => {
                value.is_array()
                    && i64::try_from(value.elements().count()).is_ok_and(|n| n == *size)
            }
            Operator::Bits(bits) => bits.pass(value),
        }
    }

    /// The part for `find`, where that decides in the same way for every document.
    pub fn query(&self) -> Option<Document> {
        match self {
            Operator::Exists => Some(doc! { "$exists": true }),
            _ => None,
        }
    }

    /// As it is written, for people.
    pub fn text(&self) -> String {
        match self {
            Operator::Exists => "{\"$exists\":true}".to_owned(),
            Operator::Regex(pattern) => {
                let source = serde_json::Value::String(pattern.source().to_owned());
                match pattern.options() {
                    "" => format!("{{\"$regex\":{source}}}"),
                    options => format!("{{\"$regex\":{source},\"$options\":\"{options}\"}}"),
                }
            }
            Operator::Type(types) => {
                let names: Vec<String> = types.names().map(|name| format!("\"{name}\"")).collect();
                match names.as_slice() {
                    [name] => format!("{{\"$type\":{name}}}"),
                    names => format!("{{\"$type\":[{}]}}", names.join(",")),
                }
            }
            Operator::Mod { divisor, remainder } => {
                format!("{{\"$mod\":[{divisor},{remainder}]}}")
            }
            Operator::Size(size) => format!("{{\"$size\":{size}}}"),
            Operator::Bits(bits) => {
                let positions: Vec<String> = bits.positions.iter().map(u32::to_string).collect();
                format!("{{\"{}\":[{}]}}", bits.test.name(), positions.join(","))
            }
        }
    }
}

impl Bits {
    fn pass(&self, value: Value<'_>) -> bool {
        if value.tag == tag::BINARY {
            let (_, content) = value.binary();
            return self.pass_where(|position| {
                let byte = content.get(position as usize / 8);
                byte.is_some_and(|byte| byte >> (position % 8) & 1 == 1)
            });
        }
        let Some(number) = Number::read(value).and_then(Number::bits) else { return false };
        // A negative number has its sign in every position from the 63rd on.
        self.pass_where(|position| number >> position.min(63) & 1 == 1)
    }

    fn pass_where(&self, is_set: impl Fn(u32) -> bool) -> bool {
        let mut positions = self.positions.iter();
        match self.test {
            BitTest::AllSet => positions.all(|position| is_set(*position)),
            BitTest::AllClear => !positions.any(|position| is_set(*position)),
            BitTest::AnySet => positions.any(|position| is_set(*position)),
            BitTest::AnyClear => !positions.all(|position| is_set(*position)),
        }
    }
}
