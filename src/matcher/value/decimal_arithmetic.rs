//! The arithmetic of decimal128 that `$expr` needs.
//!
//! Results are rounded to 34 digits, half to even, as the standard has it.

use std::cmp::Ordering;

use super::decimal::{Class, Decimal, GREATEST_EXPONENT, LEAST_EXPONENT, UNIT, digits};

impl Decimal {
    const NAN: Decimal =
        Decimal { class: Class::NaN, negative: false, coefficient: 0, exponent: 0 };

    /// The 16 bytes that BSON stores, little-endian; the sign and payload of a NaN are not kept.
    pub fn to_bytes(self) -> [u8; 16] {
        let sign = u128::from(self.negative) << 127;
        let bits = match self.class {
            Class::NaN => 0b1_1111 << 122,
            Class::Infinite => sign | 0b1_1110 << 122,
            Class::Finite => {
                let biased = (self.exponent - LEAST_EXPONENT) as u128;
                sign | biased << 113 | self.coefficient
            }
        };
        bits.to_le_bytes()
    }

    /// A double as `mongod` takes it into a product: with 15 digits.
    pub fn from_f64(double: f64) -> Decimal {
        Decimal::from_digits(double, 14)
    }

    /// A double with all the digits that a decimal can have.
    pub fn from_f64_exactly(double: f64) -> Decimal {
        Decimal::from_digits(double, 33)
    }

    fn from_digits(double: f64, after_point: usize) -> Decimal {
        if double.is_nan() {
            return Decimal::NAN;
        }
        let negative = double.is_sign_negative();
        if double.is_infinite() {
            return Decimal { class: Class::Infinite, negative, coefficient: 0, exponent: 0 };
        }
        let text = format!("{:.after_point$e}", double.abs());
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let coefficient: u128 = digits.replace('.', "").parse().unwrap_or(0);
        let exponent: i32 = exponent.parse().unwrap_or(0);
        // Zero has no digits to give an exponent.
        let exponent = if coefficient == 0 { 0 } else { exponent - after_point as i32 };
        Decimal { class: Class::Finite, negative, coefficient, exponent }
    }

    /// With the other sign, also for zero and infinities.
    pub fn negated(self) -> Decimal {
        Decimal { negative: !self.negative, ..self }
    }

    /// Without its sign, also for infinities.
    pub fn absolute(self) -> Decimal {
        Decimal { negative: false, ..self }
    }

    /// Rounded to 34 digits, half to even; NaN for the sum of opposite infinities.
    pub fn plus(self, other: Decimal) -> Decimal {
        match (self.class, other.class) {
            (Class::NaN, _) | (_, Class::NaN) => return Decimal::NAN,
            (Class::Infinite, Class::Infinite) if self.negative != other.negative => {
                return Decimal::NAN;
            }
            (Class::Infinite, _) => return self,
            (_, Class::Infinite) => return other,
            _ => {}
        }
        let (high, low) =
            if self.exponent >= other.exponent { (self, other) } else { (other, self) };
        if low.coefficient == 0 && high.coefficient == 0 {
            let negative = self.negative && other.negative;
            return Decimal { negative, exponent: low.exponent, ..low };
        }
        if high.coefficient == 0 {
            return low;
        }
        let shift = high.exponent - low.exponent;
        if shift > 2 * 34 {
            // Too far apart to change a digit.
            return Wide::new(high.coefficient).rounded(high.negative, high.exponent);
        }
        // The higher one may be moved by 34 digits at most; beyond, the lower one loses digits
        // that only matter for rounding, and it keeps a last one for that.
        let drop = (shift - 34).max(0);
        let left = Wide::new(high.coefficient).scaled((shift - drop) as u32);
        let unit = 10_u128.pow(drop as u32);
        let mut reduced = low.coefficient / unit;
        if drop > 0 && !low.coefficient.is_multiple_of(unit) {
            reduced |= 1;
        }
        let right = Wide::new(reduced);
        let exponent = low.exponent + drop;
        if high.negative == low.negative {
            return left.plus(right).rounded(high.negative, exponent);
        }
        match left.cmp(&right) {
            Ordering::Less => right.minus(left).rounded(low.negative, exponent),
            Ordering::Equal => {
                Decimal { class: Class::Finite, negative: false, coefficient: 0, exponent }
            }
            Ordering::Greater => left.minus(right).rounded(high.negative, exponent),
        }
    }

    /// Rounded to 34 digits, half to even; NaN for zero times infinity.
    pub fn times(self, other: Decimal) -> Decimal {
        let negative = self.negative != other.negative;
        match (self.class, other.class) {
            (Class::NaN, _) | (_, Class::NaN) => return Decimal::NAN,
            (Class::Infinite, _) | (_, Class::Infinite) => {
                if self.is_zero() || other.is_zero() {
                    return Decimal::NAN;
                }
                return Decimal { class: Class::Infinite, negative, coefficient: 0, exponent: 0 };
            }
            _ => {}
        }
        Wide::product(self.coefficient, other.coefficient)
            .rounded(negative, self.exponent + other.exponent)
    }

    /// Nothing where the divisor is zero.
    pub fn divided_by(self, other: Decimal) -> Option<Decimal> {
        let negative = self.negative != other.negative;
        if other.is_zero() {
            return None;
        }
        match (self.class, other.class) {
            (Class::NaN, _) | (_, Class::NaN) | (Class::Infinite, Class::Infinite) => {
                return Some(Decimal::NAN);
            }
            (Class::Infinite, _) => {
                return Some(Decimal {
                    class: Class::Infinite,
                    negative,
                    coefficient: 0,
                    exponent: 0,
                });
            }
            (_, Class::Infinite) => {
                return Some(Decimal {
                    class: Class::Finite,
                    negative,
                    coefficient: 0,
                    exponent: 0,
                });
            }
            _ => {}
        }
        // Digit by digit, until it ends or there is one more than can be kept.
        let divisor = other.coefficient;
        let mut quotient = self.coefficient / divisor;
        let mut left = self.coefficient % divisor;
        let mut exponent = self.exponent - other.exponent;
        while left != 0 && quotient < UNIT * 10 {
            left *= 10;
            quotient = quotient * 10 + left / divisor;
            left %= divisor;
            exponent -= 1;
        }
        if left != 0 && quotient.is_multiple_of(5) {
            // Not quite a half, or not quite even.
            quotient += 1;
        }
        Some(Wide::new(quotient).rounded(negative, exponent))
    }

    /// What division by the other leaves, with the sign of this one; nothing where the divisor is
    /// zero or the numbers are too far apart to tell.
    pub fn remainder(self, other: Decimal) -> Option<Decimal> {
        if other.is_zero() {
            return None;
        }
        match (self.class, other.class) {
            (Class::NaN, _) | (_, Class::NaN) | (Class::Infinite, _) => return Some(Decimal::NAN),
            (_, Class::Infinite) => return Some(self),
            _ => {}
        }
        let shift = self.exponent - other.exponent;
        let (mut left, divisor, exponent) = if shift < 0 {
            if -shift > 34 {
                return Some(self);
            }
            let divisor = other.coefficient.checked_mul(10_u128.checked_pow(-shift as u32)?);
            match divisor {
                Some(divisor) => (self.coefficient, divisor, self.exponent),
                // A divisor that large is larger than any coefficient.
                None => return Some(self),
            }
        } else {
            (self.coefficient, other.coefficient, other.exponent)
        };
        left %= divisor;
        // Times ten as often as the exponents differ, keeping only what is left.
        for _ in 0..shift.max(0) {
            left = left * 10 % divisor;
        }
        Some(Decimal { class: Class::Finite, negative: self.negative, coefficient: left, exponent })
    }

    /// Coefficient divided down to a whole number, and what was cut off: its double against one.
    fn split(self) -> (u128, Option<Ordering>) {
        let drop = self.exponent.min(0).unsigned_abs();
        if self.coefficient == 0 || drop == 0 {
            return (self.coefficient, None);
        }
        if drop > 34 {
            return (0, Some(Ordering::Less));
        }
        let unit = 10_u128.pow(drop);
        let fraction = self.coefficient % unit;
        let half = (fraction != 0).then(|| (2 * fraction).cmp(&unit));
        (self.coefficient / unit, half)
    }

    fn with_whole(self, coefficient: u128) -> Decimal {
        if self.class != Class::Finite {
            return self;
        }
        Decimal { coefficient, exponent: self.exponent.max(0), ..self }
    }

    /// Rounded towards zero; NaN and infinities stay what they are.
    pub fn whole_part(self) -> Decimal {
        self.with_whole(self.split().0)
    }

    /// Rounded towards positive infinity; NaN and infinities stay what they are.
    pub fn ceiling(self) -> Decimal {
        let (whole, fraction) = self.split();
        self.with_whole(whole + u128::from(fraction.is_some() && !self.negative))
    }

    /// Half to even.
    pub fn nearest_whole(self) -> Decimal {
        let (whole, fraction) = self.split();
        self.with_whole(match fraction {
            Some(Ordering::Greater) => whole + 1,
            Some(Ordering::Equal) => whole + whole % 2,
            _ => whole,
        })
    }
}

/// A whole number of up to 68 digits and a carry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Wide {
    high: u128,
    low: u128,
}

impl Wide {
    fn new(number: u128) -> Wide {
        Wide { high: number / UNIT, low: number % UNIT }
    }

    fn product(a: u128, b: u128) -> Wide {
        const HALF: u128 = 10_u128.pow(17);
        let (a_high, a_low) = (a / HALF, a % HALF);
        let (b_high, b_low) = (b / HALF, b % HALF);
        let middle = a_high * b_low + a_low * b_high;
        let low = a_low * b_low + middle % HALF * HALF;
        Wide { high: a_high * b_high + middle / HALF + low / UNIT, low: low % UNIT }
    }

    /// Times ten to a power of at most 34, from a number of one part.
    fn scaled(self, power: u32) -> Wide {
        if power == 34 {
            return Wide { high: self.low, low: 0 };
        }
        Wide::product(self.low, 10_u128.pow(power))
    }

    fn plus(self, other: Wide) -> Wide {
        let low = self.low + other.low;
        Wide { high: self.high + other.high + low / UNIT, low: low % UNIT }
    }

    /// The other is not larger.
    fn minus(self, other: Wide) -> Wide {
        let borrow = u128::from(self.low < other.low);
        Wide { high: self.high - other.high - borrow, low: self.low + borrow * UNIT - other.low }
    }

    fn rounded(self, negative: bool, exponent: i32) -> Decimal {
        let drop = digits(self.high).max(0) as u32;
        let (mut coefficient, mut exponent) = (self.low, exponent);
        if drop > 0 {
            let unit = 10_u128.pow(drop);
            let kept = if drop == 34 {
                self.high
            } else {
                self.high * 10_u128.pow(34 - drop) + self.low / unit
            };
            let cut = self.low % unit;
            let rounds_up = match (2 * cut).cmp(&unit) {
                Ordering::Less => 0,
                Ordering::Equal => kept % 2,
                Ordering::Greater => 1,
            };
            coefficient = kept + rounds_up;
            exponent += drop as i32;
        }
        if coefficient == UNIT {
            coefficient /= 10;
            exponent += 1;
        }
        // Into the range of exponents: with zeros where there is room for them, without digits
        // where the number is too small.
        while exponent > GREATEST_EXPONENT && coefficient != 0 && coefficient * 10 < UNIT {
            coefficient *= 10;
            exponent -= 1;
        }
        while exponent < LEAST_EXPONENT && coefficient != 0 {
            coefficient /= 10;
            exponent += 1;
        }
        if exponent > GREATEST_EXPONENT && coefficient != 0 {
            return Decimal { class: Class::Infinite, negative, coefficient: 0, exponent: 0 };
        }
        let exponent = exponent.clamp(LEAST_EXPONENT, GREATEST_EXPONENT);
        Decimal { class: Class::Finite, negative, coefficient, exponent }
    }
}
