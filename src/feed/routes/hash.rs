//! One hash for all values that the query language treats as equal.

use std::hash::{BuildHasher, Hasher};

use crate::event::raw::{Value, tag};
use crate::matcher::value::compare::rank;
use crate::matcher::value::number::Number;

/// Nesting beyond this does not count: unequal values may then share a hash, which costs a
/// look at a predicate and nothing else.
const MAX_DEPTH: u32 = 16;

/// The hash of a value at a path; `None` is a missing field, which equals null. Half of one, since
/// there are as many as there are routes: should two values share it, that costs a look at a predicate.
pub(super) fn of<S: BuildHasher>(state: &S, path: u32, value: Option<Value<'_>>) -> u32 {
    let mut hasher = state.build_hasher();
    hasher.write_u32(path);
    write(&mut hasher, value.unwrap_or(Value::NULL), MAX_DEPTH);
    hasher.finish() as u32
}

fn write(hasher: &mut impl Hasher, value: Value<'_>, depth: u32) {
    if let Some(number) = Number::read(value) {
        write_number(hasher, number);
        return;
    }
    match value.tag {
        tag::UNDEFINED => hasher.write_u8(rank(tag::NULL)),
        tag::STRING | tag::SYMBOL | tag::CODE => {
            hasher.write_u8(rank(value.tag));
            hasher.write(value.text());
        }
        tag::DOCUMENT | tag::ARRAY => {
            hasher.write_u8(rank(value.tag));
            let Some(depth) = depth.checked_sub(1) else { return };
            for (key, inner) in value.elements() {
                // Names of an array's elements are its indexes; they add nothing.
                if value.tag == tag::DOCUMENT {
                    hasher.write(key);
                }
                hasher.write_u8(0);
                write(hasher, inner, depth);
            }
        }
        // Its scope may be equal without having equal bytes.
        tag::CODE_WITH_SCOPE => hasher.write_u8(rank(value.tag)),
        _ => {
            hasher.write_u8(rank(value.tag));
            hasher.write(value.data);
        }
    }
}

/// Equal numbers of different types get the same bytes: a long where the number is one, else the
/// nearest double.
fn write_number(hasher: &mut impl Hasher, number: Number) {
    if let Some(long) = number.exact_i64() {
        hasher.write_u8(rank(tag::INT64));
        hasher.write_i64(long);
        return;
    }
    let double = number.nearest_f64();
    hasher.write_u8(rank(tag::DOUBLE) + 1);
    // There are many NaNs, and they are equal.
    hasher.write_u64(if double.is_nan() { u64::MAX } else { double.to_bits() });
}

/// Hands on hashes of [`of`].
#[derive(Clone, Copy, Default)]
pub(super) struct Hashed(u64);

impl Hasher for Hashed {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u32(&mut self, hash: u32) {
        // A map looks at the lowest and at the highest bits.
        self.0 = u64::from(hash) << 32 | u64::from(hash);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl BuildHasher for Hashed {
    type Hasher = Hashed;

    fn build_hasher(&self) -> Hashed {
        Hashed::default()
    }
}
