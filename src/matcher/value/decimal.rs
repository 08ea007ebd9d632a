//! The number type decimal128: reading and order. Arithmetic is in `decimal_arithmetic`.

use std::cmp::Ordering;

use crate::event::raw::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::matcher) enum Class {
    NaN,
    Infinite,
    Finite,
}

/// A decimal128: sign, and coefficient × 10^exponent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decimal {
    pub(in crate::matcher) class: Class,
    pub(in crate::matcher) negative: bool,
    pub(in crate::matcher) coefficient: u128,
    pub(in crate::matcher) exponent: i32,
}

const MAX_COEFFICIENT: u128 = UNIT - 1;
/// Ten to the number of digits.
pub(in crate::matcher) const UNIT: u128 = 10_u128.pow(34);
pub(in crate::matcher) const LEAST_EXPONENT: i32 = -6176;
pub(in crate::matcher) const GREATEST_EXPONENT: i32 = 6111;

impl Decimal {
    /// Reads the 16 bytes of a BSON decimal128. The caller has checked the type: the first bytes of
    /// another value would be misread.
    pub fn read(value: Value<'_>) -> Decimal {
        let bits = u128::from_le_bytes(value.bytes());
        let negative = bits >> 127 == 1;
        let combination = (bits >> 122) & 0b1_1111;
        let class = match combination {
            0b1_1111 => Class::NaN,
            0b1_1110 => Class::Infinite,
            _ => Class::Finite,
        };
        if class != Class::Finite {
            return Decimal { class, negative, coefficient: 0, exponent: 0 };
        }
        let (exponent, coefficient) = if (bits >> 125) & 0b11 == 0b11 {
            // The large form would need more than 34 digits: by the standard it is zero.
            ((bits >> 111) & 0x3fff, 0)
        } else {
            ((bits >> 113) & 0x3fff, bits & ((1 << 113) - 1))
        };
        let coefficient = if coefficient > MAX_COEFFICIENT { 0 } else { coefficient };
        Decimal { class, negative, coefficient, exponent: exponent as i32 - 6176 }
    }

    /// Exact: every long has fewer than 34 digits.
    pub fn from_i64(int: i64) -> Decimal {
        Decimal {
            class: Class::Finite,
            negative: int < 0,
            coefficient: u128::from(int.unsigned_abs()),
            exponent: 0,
        }
    }

    /// Whether it is 0 or -0, whatever its exponent.
    pub fn is_zero(self) -> bool {
        self.class == Class::Finite && self.coefficient == 0
    }

    /// -1, 0 or 1; infinities have a sign, NaN has none here.
    pub(in crate::matcher) fn sign(self) -> i8 {
        match self.class {
            Class::NaN => 0,
            Class::Finite if self.coefficient == 0 => 0,
            _ if self.negative => -1,
            _ => 1,
        }
    }

    /// By value, whatever the exponents. NaN equals NaN and comes before everything.
    pub fn compare(self, other: Decimal) -> Ordering {
        match (self.class, other.class) {
            (Class::NaN, Class::NaN) => return Ordering::Equal,
            (Class::NaN, _) => return Ordering::Less,
            (_, Class::NaN) => return Ordering::Greater,
            _ => {}
        }
        let by_sign = self.sign().cmp(&other.sign());
        if by_sign != Ordering::Equal || self.sign() == 0 {
            return by_sign;
        }
        let magnitude = match (self.class, other.class) {
            (Class::Infinite, Class::Infinite) => Ordering::Equal,
            (Class::Infinite, _) => Ordering::Greater,
            (_, Class::Infinite) => Ordering::Less,
            _ => compare_scaled(self.coefficient, self.exponent, other.coefficient, other.exponent),
        };
        if self.negative { magnitude.reverse() } else { magnitude }
    }

    /// Rounded towards zero; `None` for NaN, infinities, and what does not fit into a long.
    pub fn truncated(self) -> Option<i64> {
        if self.class != Class::Finite {
            return None;
        }
        let mut magnitude = self.coefficient;
        if self.exponent < 0 {
            let drop = self.exponent.unsigned_abs();
            magnitude = if drop > 38 { 0 } else { magnitude / 10_u128.pow(drop) };
        } else if magnitude != 0 {
            let factor = (self.exponent <= 19).then(|| 10_u128.pow(self.exponent as u32))?;
            magnitude = magnitude.checked_mul(factor)?;
        }
        if self.negative {
            (magnitude <= 1 << 63).then(|| (magnitude as i128).wrapping_neg() as i64)
        } else {
            i64::try_from(magnitude).ok()
        }
    }

    /// The nearest whole number, the even one of two, where it fits.
    pub fn rounded(self) -> Option<i64> {
        let drop = self.exponent.min(0).unsigned_abs();
        if self.class != Class::Finite || drop == 0 {
            return self.truncated();
        }
        if drop > 34 {
            // Less than a half: the coefficient has at most 34 digits.
            return Some(0);
        }
        let unit = 10_u128.pow(drop);
        let (whole, fraction) = (self.coefficient / unit, self.coefficient % unit);
        let rounds_up = match (2 * fraction).cmp(&unit) {
            Ordering::Less => 0,
            Ordering::Equal => whole % 2,
            Ordering::Greater => 1,
        };
        Decimal { coefficient: whole + rounds_up, exponent: 0, ..self }.truncated()
    }

    /// The number as a long, or `None` where it has a fraction or does not fit.
    pub fn exact_i64(self) -> Option<i64> {
        let whole = self.truncated()?;
        (Decimal::from_i64(whole).compare(self) == Ordering::Equal).then_some(whole)
    }

    /// The nearest double; infinite beyond its range.
    pub fn nearest_f64(self) -> f64 {
        let magnitude = match self.class {
            Class::NaN => return f64::NAN,
            Class::Infinite => f64::INFINITY,
            Class::Finite if self.coefficient == 0 => 0.0,
            Class::Finite => {
                // The standard library rounds decimal text correctly; the text fits on the
                // stack.
                let mut text = StackText { bytes: [0; 48], used: 0 };
                let _ = std::fmt::Write::write_fmt(
                    &mut text,
                    format_args!("{}e{}", self.coefficient, self.exponent),
                );
                text.as_str().parse().unwrap_or(f64::NAN)
            }
        };
        if self.negative { -magnitude } else { magnitude }
    }
}

/// The longest text is 34 digits, an `e` and five characters of exponent.
struct StackText {
    bytes: [u8; 48],
    used: usize,
}

impl StackText {
    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.used]).unwrap_or("")
    }
}

impl std::fmt::Write for StackText {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.used + text.len();
        self.bytes.get_mut(self.used..end).ok_or(std::fmt::Error)?.copy_from_slice(text.as_bytes());
        self.used = end;
        Ok(())
    }
}

pub(in crate::matcher) fn digits(number: u128) -> i32 {
    number.checked_ilog10().map_or(0, |log| log as i32 + 1)
}

/// `a × 10^x` against `b × 10^y`, both above zero.
fn compare_scaled(a: u128, x: i32, b: u128, y: i32) -> Ordering {
    // The power of ten of the first digit decides unless it is the same; then the exponents are
    // at most 33 apart and the wider product has at most 34 digits.
    let first = (digits(a) + x).cmp(&(digits(b) + y));
    if first != Ordering::Equal {
        return first;
    }
    if x >= y {
        (a * 10_u128.pow((x - y) as u32)).cmp(&b)
    } else {
        a.cmp(&(b * 10_u128.pow((y - x) as u32)))
    }
}
