//! Arithmetic across int, long, double and decimal, and on dates.
//!
//! The result has the widest type of the arguments; a whole number that fits no long becomes a
//! double.

use super::Expression;
use super::eval::eval;
use super::function::Function;
use super::item::{Computed, Failure, Item};
use super::scope::Scope;
use crate::event::raw::{Owned, tag};
use crate::matcher::value::decimal::Decimal;
use crate::matcher::value::number::Number;

/// A sum of doubles that keeps what rounding drops, so that 0.1 + 0.2 + 0.3 is 0.6.
#[derive(Default)]
struct Sum {
    sum: f64,
    rest: f64,
    /// The same, exactly, while all terms are whole.
    whole: Option<i64>,
}

impl Sum {
    fn new() -> Sum {
        Sum { whole: Some(0), ..Sum::default() }
    }

    fn add(&mut self, term: f64) {
        let sum = self.sum + term;
        // What is lost in the addition, whichever term is the larger.
        let shift = sum - self.sum;
        let lost = (self.sum - (sum - shift)) + (term - shift);
        self.sum = sum;
        self.rest += lost;
    }

    fn add_long(&mut self, long: i64) {
        self.whole = self.whole.and_then(|whole| whole.checked_add(long));
        let high = long >> 32 << 32;
        self.add(high as f64);
        self.add((long - high) as f64);
    }

    fn double(&self) -> f64 {
        let double = self.sum + self.rest;
        // Infinities make the rest a NaN.
        if self.sum.is_infinite() { self.sum } else { double }
    }
}

pub(super) fn add<'a>(arguments: &'a [Expression<Owned>], scope: Scope<'_, 'a>) -> Computed<'a> {
    let mut sum = Sum::new();
    let mut decimal = None;
    let mut widest = tag::INT32;
    let mut is_date = false;
    for argument in arguments {
        let item = eval(argument, scope)?;
        let value = item.value();
        if value.tag == tag::DATE && !is_date {
            is_date = true;
            sum.add_long(value.i64());
            continue;
        }
        if item.is_nullish() {
            return Ok(Item::NULL);
        }
        widest = wider(widest, value.tag);
        match item.number()? {
            Number::Int(int) => sum.add_long(int),
            Number::Double(double) => sum.add(double),
            Number::Decimal(term) => {
                decimal = Some(decimal.map_or(term, |total: Decimal| total.plus(term)));
            }
        }
    }
    if let Some(decimal) = decimal {
        let rest = match (widest_is_whole(&sum), sum.whole) {
            (true, Some(whole)) => Decimal::from_i64(whole),
            _ => Decimal::from_f64_exactly(sum.sum).plus(Decimal::from_f64_exactly(sum.rest)),
        };
        let total = decimal.plus(rest);
        return if is_date {
            total.rounded().map(Item::date).ok_or(Failure)
        } else {
            Ok(Item::decimal(total))
        };
    }
    if is_date {
        let millis = match (widest, sum.whole) {
            (tag::DOUBLE, _) => Number::Double(sum.double()).truncated(),
            (_, whole) => whole,
        };
        return millis.map(Item::date).ok_or(Failure);
    }
    Ok(whole_or_double(widest, sum.whole, || sum.double()))
}

/// Whether only whole numbers went into the sum of what is no decimal.
fn widest_is_whole(sum: &Sum) -> bool {
    sum.whole.is_some_and(|whole| whole as f64 == sum.double())
}

pub(super) fn multiply<'a>(
    arguments: &'a [Expression<Owned>],
    scope: Scope<'_, 'a>,
) -> Computed<'a> {
    let mut widest = tag::INT32;
    let mut whole = Some(1_i64);
    let mut double = 1.0_f64;
    let mut decimal = Decimal::from_i64(1);
    for argument in arguments {
        let item = eval(argument, scope)?;
        if item.is_nullish() {
            return Ok(Item::NULL);
        }
        let number = item.number()?;
        let before = widest;
        widest = wider(widest, item.value().tag);
        if widest == tag::DECIMAL {
            if before != tag::DECIMAL {
                decimal = if before == tag::DOUBLE {
                    Decimal::from_f64(double)
                } else {
                    whole.map_or_else(|| Decimal::from_f64(double), Decimal::from_i64)
                };
            }
            decimal = decimal.times(as_decimal(number));
            continue;
        }
        whole = match number {
            Number::Int(int) => whole.and_then(|whole| whole.checked_mul(int)),
            _ => None,
        };
        double *= number.nearest_f64();
    }
    if widest == tag::DECIMAL {
        return Ok(Item::decimal(decimal));
    }
    Ok(whole_or_double(widest, whole, || double))
}

pub(super) fn binary<'a>(function: Function, left: &Item<'a>, right: &Item<'a>) -> Computed<'a> {
    if left.is_nullish() || right.is_nullish() {
        return Ok(Item::NULL);
    }
    if function == Function::Subtract && left.value().tag == tag::DATE {
        let millis = left.value().i64();
        if right.value().tag == tag::DATE {
            return millis.checked_sub(right.value().i64()).map(Item::long).ok_or(Failure);
        }
        let less = match right.number()? {
            Number::Decimal(decimal) => decimal.rounded(),
            number => number.truncated(),
        };
        return less.and_then(|less| millis.checked_sub(less)).map(Item::date).ok_or(Failure);
    }
    let (a, b) = (left.number()?, right.number()?);
    let widest = wider(left.value().tag, right.value().tag);
    match function {
        Function::Subtract => Ok(match (a, b) {
            _ if widest == tag::DECIMAL => {
                Item::decimal(as_decimal(a).plus(as_decimal(b).negated()))
            }
            (Number::Int(a), Number::Int(b)) => {
                whole_or_double(widest, a.checked_sub(b), || a as f64 - b as f64)
            }
            _ => Item::double(a.nearest_f64() - b.nearest_f64()),
        }),
        Function::Divide => {
            if widest == tag::DECIMAL {
                let (a, b) = (as_decimal(a), as_decimal(b));
                return a.divided_by(b).map(Item::decimal).ok_or(Failure);
            }
            let divisor = b.nearest_f64();
            if divisor == 0.0 {
                return Err(Failure);
            }
            Ok(Item::double(a.nearest_f64() / divisor))
        }
        Function::Mod => remainder(widest, a, b),
        _ => Err(Failure),
    }
}

fn remainder<'a>(widest: u8, a: Number, b: Number) -> Computed<'a> {
    match (a, b) {
        _ if widest == tag::DECIMAL => {
            as_decimal(a).remainder(as_decimal(b)).map(Item::decimal).ok_or(Failure)
        }
        (Number::Int(_), Number::Int(0)) => Err(Failure),
        (Number::Int(a), Number::Int(b)) => {
            Ok(whole_or_double(widest, Some(a.wrapping_rem(b)), || 0.0))
        }
        _ if b.nearest_f64() == 0.0 => Err(Failure),
        _ => Ok(Item::double(a.nearest_f64() % b.nearest_f64())),
    }
}

pub(super) fn unary<'a>(function: Function, argument: &Item<'a>) -> Computed<'a> {
    if argument.is_nullish() {
        return Ok(Item::NULL);
    }
    let kind = argument.value().tag;
    Ok(match (argument.number()?, function) {
        (Number::Int(int), Function::Abs) => {
            let absolute = int.checked_abs().ok_or(Failure)?;
            whole_or_double(kind, Some(absolute), || 0.0)
        }
        (Number::Int(int), _) => whole_or_double(kind, Some(int), || 0.0),
        (Number::Double(double), function) => Item::double(match function {
            Function::Abs => double.abs(),
            Function::Ceil => double.ceil(),
            Function::Floor => double.floor(),
            Function::Round => double.round_ties_even(),
            _ => double.trunc(),
        }),
        (Number::Decimal(decimal), function) => Item::decimal(match function {
            Function::Abs => decimal.absolute(),
            Function::Ceil => decimal.ceiling(),
            Function::Floor => decimal.negated().ceiling().negated(),
            Function::Round => decimal.nearest_whole(),
            _ => decimal.whole_part(),
        }),
    })
}

fn as_decimal(number: Number) -> Decimal {
    match number {
        Number::Int(int) => Decimal::from_i64(int),
        Number::Double(double) => Decimal::from_f64(double),
        Number::Decimal(decimal) => decimal,
    }
}

fn wider(a: u8, b: u8) -> u8 {
    let width = |kind: u8| match kind {
        tag::INT32 => 0,
        tag::INT64 => 1,
        tag::DOUBLE => 2,
        _ => 3,
    };
    if width(a) >= width(b) { a } else { b }
}

fn whole_or_double<'a>(widest: u8, whole: Option<i64>, double: impl Fn() -> f64) -> Item<'a> {
    match (widest, whole) {
        (tag::INT32, Some(whole)) => match i32::try_from(whole) {
            Ok(int) => Item::int(int),
            Err(_) => Item::long(whole),
        },
        (tag::INT64, Some(whole)) => Item::long(whole),
        _ => Item::double(double()),
    }
}
