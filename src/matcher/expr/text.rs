//! Functions of text. Only ASCII letters have two cases, as in `mongod`.

use std::cmp::Ordering;

use bson::Decimal128;

use super::array::whole;
use super::eval::eval;
use super::function::Function;
use super::item::{Computed, Failure, Item};
use super::scope::Scope;
use super::{Expression, date};
use crate::event::raw::{Owned, tag};
use crate::matcher::value::number::Number;

/// What one text may grow to: no document holds more.
const MAX_BYTES: usize = 16 << 20;

pub(super) fn concat<'a>(arguments: &'a [Expression<Owned>], scope: Scope<'_, 'a>) -> Computed<'a> {
    let mut text = Vec::new();
    for argument in arguments {
        let item = eval(argument, scope)?;
        match item.value().tag {
            tag::STRING => text.extend_from_slice(item.value().text()),
            _ if item.is_nullish() => return Ok(Item::NULL),
            _ => return Err(Failure),
        }
        if text.len() > MAX_BYTES {
            return Err(Failure);
        }
    }
    Ok(Item::text(&text))
}

/// The text that a value is turned into where a function takes any, as `mongod` does: null gives
/// none, doubles lose all but six digits.
fn coerce(item: &Item<'_>) -> Result<Vec<u8>, Failure> {
    let value = item.value();
    Ok(match value.tag {
        tag::STRING | tag::SYMBOL | tag::CODE => value.text().to_vec(),
        _ if item.is_nullish() => Vec::new(),
        tag::DATE => date::text::iso(value.i64()).into_bytes(),
        tag::TIMESTAMP => date::text::pretty(value.i64() as u64).into_bytes(),
        tag::DECIMAL => Decimal128::from_bytes(value.bytes()).to_string().into_bytes(),
        _ => match item.number()? {
            Number::Int(int) => int.to_string().into_bytes(),
            number => six_digits(number.nearest_f64()).into_bytes(),
        },
    })
}

/// Like `%g` of C.
fn six_digits(double: f64) -> String {
    if double.is_nan() {
        return "NaN".to_owned();
    }
    if double.is_infinite() {
        return if double > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{double:.5e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |text: &str| -> String {
        let is_fraction = text.contains('.');
        let text = if is_fraction { text.trim_end_matches('0') } else { text };
        text.trim_end_matches('.').to_owned()
    };
    if (-4..6).contains(&exponent) {
        let places = usize::try_from(5 - exponent).unwrap_or(0);
        return trim(&format!("{double:.places$}"));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trim(digits), exponent.abs())
}

fn only_text<'i>(item: &'i Item<'_>) -> Result<&'i [u8], Failure> {
    if item.value().tag == tag::STRING { Ok(item.value().text()) } else { Err(Failure) }
}

fn count(number: usize) -> Computed<'static> {
    Ok(Item::int(i32::try_from(number).map_err(|_| Failure)?))
}

/// How many characters: bytes that do not continue one.
fn points(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

pub(super) fn unary<'a>(function: Function, argument: &Item<'a>) -> Computed<'a> {
    match function {
        Function::ToLower => Ok(Item::text(&coerce(argument)?.to_ascii_lowercase())),
        Function::ToUpper => Ok(Item::text(&coerce(argument)?.to_ascii_uppercase())),
        Function::StrLenBytes => count(only_text(argument)?.len()),
        Function::StrLenCp => count(points(only_text(argument)?)),
        _ => Err(Failure),
    }
}

pub(super) fn binary<'a>(function: Function, left: &Item<'a>, right: &Item<'a>) -> Computed<'a> {
    match function {
        Function::IndexOfCp => {
            if left.is_nullish() {
                return Ok(Item::NULL);
            }
            let (text, wanted) = (only_text(left)?, only_text(right)?);
            if wanted.is_empty() {
                return Ok(Item::int(0));
            }
            // A search in linear time: both are text, and what is found begins at a character.
            let (text, wanted) = (std::str::from_utf8(text), std::str::from_utf8(wanted));
            let (Ok(text), Ok(wanted)) = (text, wanted) else { return Err(Failure) };
            match text.find(wanted) {
                Some(at) => count(points(&text.as_bytes()[..at])),
                None => Ok(Item::int(-1)),
            }
        }
        Function::Strcasecmp => {
            let left = coerce(left)?.to_ascii_uppercase();
            let right = coerce(right)?.to_ascii_uppercase();
            Ok(Item::int(match left.cmp(&right) {
                Ordering::Less => -1,
                Ordering::Equal => 0,
                Ordering::Greater => 1,
            }))
        }
        _ => Err(Failure),
    }
}

pub(super) fn substring_bytes<'a>(
    text: &Item<'a>,
    from: &Item<'a>,
    length: &Item<'a>,
) -> Computed<'a> {
    let text = coerce(text)?;
    let from = from.number()?.truncated().ok_or(Failure)?;
    let length = length.number()?.truncated().ok_or(Failure)?;
    let from = usize::try_from(from).map_err(|_| Failure)?;
    // A negative length means all of it.
    let end = usize::try_from(length)
        .map_or(text.len(), |length| from.saturating_add(length).min(text.len()));
    let is_inside = |at: usize| text.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    if is_inside(from) || is_inside(end) {
        return Err(Failure);
    }
    Ok(Item::text(text.get(from..end).unwrap_or_default()))
}

pub(super) fn substring_points<'a>(
    text: &Item<'a>,
    from: &Item<'a>,
    length: &Item<'a>,
) -> Computed<'a> {
    let text = coerce(text)?;
    let from = usize::try_from(whole(from)?).map_err(|_| Failure)?;
    let length = usize::try_from(whole(length)?).map_err(|_| Failure)?;
    let text = std::str::from_utf8(&text).map_err(|_| Failure)?;
    let part: String = text.chars().skip(from).take(length).collect();
    Ok(Item::text(part.as_bytes()))
}
