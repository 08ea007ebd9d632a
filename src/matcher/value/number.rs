//! Numbers of four types compared as one: int, long, double and decimal128.
//!
//! Exact, as in `mongod`: the long 2^53 + 1 differs from the double 2^53, and the decimal 0.1 from
//! the double 0.1. No allocation: where a double meets a decimal, the arithmetic is done on
//! integers of fixed size on the stack.

use std::cmp::Ordering;

use super::decimal::{Class, Decimal, digits};
use crate::event::raw::{Value, tag};

/// A number as it was stored.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Number {
    Int(i64),
    Double(f64),
    Decimal(Decimal),
}

impl Number {
    /// `None` for a value of any other type.
    pub fn read(value: Value<'_>) -> Option<Number> {
        Some(match value.tag {
            tag::INT32 => Number::Int(i64::from(i32::from_le_bytes(value.bytes()))),
            tag::INT64 => Number::Int(value.i64()),
            tag::DOUBLE => Number::Double(f64::from_le_bytes(value.bytes())),
            tag::DECIMAL => Number::Decimal(Decimal::read(value)),
            _ => return None,
        })
    }

    /// Whether it is a NaN, which only doubles and decimals can be.
    pub fn is_nan(self) -> bool {
        match self {
            Number::Int(_) => false,
            Number::Double(double) => double.is_nan(),
            Number::Decimal(decimal) => decimal.class == Class::NaN,
        }
    }

    /// The whole part, where it fits; nothing for NaN and infinities.
    pub fn truncated(self) -> Option<i64> {
        match self {
            Number::Int(int) => Some(int),
            Number::Double(double) => {
                // Exactly the doubles whose whole part fits: 2^63 itself does not.
                (double > -9_223_372_036_854_777_856.0 && double < 9_223_372_036_854_775_808.0)
                    .then_some(double as i64)
            }
            Number::Decimal(decimal) => decimal.truncated(),
        }
    }

    /// The long whose bits the `$bits` operators ask for. A double that is no long has none; a
    /// decimal is rounded, and one that does not fit has the bits of the least long.
    pub fn bits(self) -> Option<i64> {
        match self {
            Number::Int(_) | Number::Double(_) => self.exact_i64(),
            Number::Decimal(decimal) => Some(decimal.rounded().unwrap_or(i64::MIN)),
        }
    }

    /// The number as a long, where nothing gets lost.
    pub fn exact_i64(self) -> Option<i64> {
        match self {
            Number::Int(int) => Some(int),
            Number::Double(double) => {
                let whole = self.truncated()?;
                (double.trunc() == double).then_some(whole)
            }
            Number::Decimal(decimal) => decimal.exact_i64(),
        }
    }

    /// The number as a double, rounded where a double has too few digits; infinite beyond its
    /// range.
    pub fn nearest_f64(self) -> f64 {
        match self {
            Number::Int(int) => int as f64,
            Number::Double(double) => double,
            Number::Decimal(decimal) => decimal.nearest_f64(),
        }
    }

    /// The total order of numbers in BSON: NaN equals NaN and comes before everything.
    pub fn compare(self, other: Number) -> Ordering {
        use Number::{Decimal as Dec, Double, Int};
        match (self, other) {
            (Int(a), Int(b)) => a.cmp(&b),
            (Double(a), Double(b)) => compare_doubles(a, b),
            (Int(a), Double(b)) => compare_int_double(a, b),
            (Double(a), Int(b)) => compare_int_double(b, a).reverse(),
            (Dec(a), Dec(b)) => a.compare(b),
            (Int(a), Dec(b)) => Decimal::from_i64(a).compare(b),
            (Dec(a), Int(b)) => a.compare(Decimal::from_i64(b)),
            (Double(a), Dec(b)) => compare_double_decimal(a, b),
            (Dec(a), Double(b)) => compare_double_decimal(b, a).reverse(),
        }
    }
}

/// Whether an operator that asks for truth (`$exists`, `$and` in an expression) takes it as true.
pub(crate) fn is_truthy(value: Value<'_>) -> bool {
    match value.tag {
        tag::NULL | tag::UNDEFINED | tag::IMPOSSIBLE => false,
        tag::BOOLEAN => value.boolean(),
        _ => match Number::read(value) {
            Some(Number::Int(int)) => int != 0,
            Some(Number::Double(double)) => double != 0.0,
            Some(Number::Decimal(decimal)) => !decimal.is_zero(),
            None => true,
        },
    }
}

fn compare_doubles(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
}

fn compare_int_double(int: i64, double: f64) -> Ordering {
    if double.is_nan() {
        return Ordering::Greater;
    }
    if double >= 9_223_372_036_854_775_808.0 {
        return Ordering::Less;
    }
    if double < -9_223_372_036_854_775_808.0 {
        return Ordering::Greater;
    }
    // In range, so the whole part converts without loss and the fraction decides a tie.
    let whole = double.trunc();
    int.cmp(&(whole as i64)).then_with(|| {
        let fraction = double - whole;
        0.0_f64.partial_cmp(&fraction).unwrap_or(Ordering::Equal)
    })
}

fn compare_double_decimal(double: f64, decimal: Decimal) -> Ordering {
    if double.is_nan() || decimal.class == Class::NaN {
        return (decimal.class == Class::NaN).cmp(&double.is_nan());
    }
    let sign = if double > 0.0 { 1 } else { -i8::from(double < 0.0) };
    let by_sign = sign.cmp(&decimal.sign());
    if by_sign != Ordering::Equal || sign == 0 {
        return by_sign;
    }
    let magnitude = match (double.is_infinite(), decimal.class == Class::Infinite) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        (false, false) => compare_magnitudes(double.abs(), decimal.coefficient, decimal.exponent),
    };
    if sign < 0 { magnitude.reverse() } else { magnitude }
}

/// A finite double above zero against `coefficient × 10^exponent` above zero.
fn compare_magnitudes(double: f64, coefficient: u128, exponent: i32) -> Ordering {
    // Far apart: no double lies outside 10^-324 .. 10^309.
    let first = digits(coefficient) + exponent;
    if first > 310 {
        return Ordering::Less;
    }
    if first < -325 {
        return Ordering::Greater;
    }
    let bits = double.to_bits();
    let biased = (bits >> 52) as i32 & 0x7ff;
    let fraction = bits & ((1 << 52) - 1);
    let (mantissa, power) =
        if biased == 0 { (fraction, -1074) } else { (fraction | 1 << 52, biased - 1075) };
    // mantissa × 2^power against coefficient × 10^exponent: negative powers change sides, so that
    // both sides are whole.
    let mut left = Wide::from(u128::from(mantissa));
    let mut right = Wide::from(coefficient);
    if power >= 0 {
        left.shift(power as u32)
    } else {
        right.shift(power.unsigned_abs())
    }
    if exponent >= 0 {
        right.scale(exponent as u32)
    } else {
        left.scale(exponent.unsigned_abs())
    }
    left.limbs.iter().rev().cmp(right.limbs.iter().rev())
}

/// A whole number of up to 2,560 bits. The largest needed here is 2^53 × 10^359 or
/// 10^34 × 2^1074, well below.
struct Wide {
    limbs: [u64; 40],
}

impl Wide {
    fn from(number: u128) -> Wide {
        let mut limbs = [0; 40];
        limbs[0] = number as u64;
        limbs[1] = (number >> 64) as u64;
        Wide { limbs }
    }

    fn multiply(&mut self, factor: u64) {
        let mut carry = 0_u128;
        for limb in &mut self.limbs {
            let product = u128::from(*limb) * u128::from(factor) + carry;
            *limb = product as u64;
            carry = product >> 64;
        }
    }

    fn shift(&mut self, bits: u32) {
        for _ in 0..bits / 32 {
            self.multiply(1 << 32);
        }
        self.multiply(1 << (bits % 32));
    }

    /// Times ten to that power.
    fn scale(&mut self, power: u32) {
        for _ in 0..power / 19 {
            self.multiply(10_u64.pow(19));
        }
        self.multiply(10_u64.pow(power % 19));
    }
}
