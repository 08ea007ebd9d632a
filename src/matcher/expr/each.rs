//! `$map`, `$filter`, `$reduce` and `$let`: expressions with variables of their own.

use super::Expression;
use super::eval::eval;
use super::item::{Computed, Failure, Item};
use super::scope::Scope;
use crate::event::raw::{Owned, Value};
use crate::matcher::value::number::Number;
use crate::matcher::value::write::Writer;

/// What goes over the elements of an array, which is the first part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Each {
    /// What each element becomes.
    Map,
    /// Whether an element stays, and how many at most may.
    Filter,
    /// The first value, and what it becomes with each element. Two variables: the value outside,
    /// the element inside.
    Reduce,
}

type Part = Expression<Owned>;

pub(super) fn with<'a>(values: &'a [Part], body: &'a Part, scope: Scope<'_, 'a>) -> Computed<'a> {
    give(values, body, scope, scope)
}

/// Gives the variables one after the other. Their values do not see each other.
fn give<'a>(
    values: &'a [Part],
    body: &'a Part,
    outside: Scope<'_, 'a>,
    inside: Scope<'_, 'a>,
) -> Computed<'a> {
    let Some((first, rest)) = values.split_first() else { return eval(body, inside) };
    let value = eval(first, outside)?;
    let variable = inside.with(&value);
    give(rest, body, outside, inside.within(&variable))
}

pub(super) fn each<'a>(each: Each, parts: &'a [Part], scope: Scope<'_, 'a>) -> Computed<'a> {
    let [input, parts @ ..] = parts else { return Err(Failure) };
    let input = eval(input, scope)?;
    if input.is_nullish() {
        return Ok(Item::NULL);
    }
    if !input.is_array() {
        return Err(Failure);
    }
    match (each, parts) {
        (Each::Map, [body]) => map(&input, body, scope),
        (Each::Filter, [condition]) => filter(&input, condition, usize::MAX, scope),
        (Each::Filter, [condition, limit]) => {
            let limit = most(&eval(limit, scope)?)?;
            filter(&input, condition, limit, scope)
        }
        (Each::Reduce, [initial, body]) => reduce(&input, initial, body, scope),
        _ => Err(Failure),
    }
}

/// The elements of an array: where they lie in the document, they need no copy.
fn elements<'s, 'a>(array: &'s Item<'a>) -> impl Iterator<Item = Item<'a>> + use<'s, 'a> {
    let (there, computed) = match array {
        Item::There(array) => (Some(array.elements()), None),
        array => (None, Some(array.value().elements())),
    };
    let there = there.into_iter().flatten().map(|(_, element)| Item::There(element));
    there.chain(computed.into_iter().flatten().map(|(_, element)| Item::copy(element)))
}

fn map<'a>(array: &Item<'a>, body: &'a Part, scope: Scope<'_, 'a>) -> Computed<'a> {
    let mut writer = Writer::array();
    for (index, element) in elements(array).enumerate() {
        let variable = scope.with(&element);
        // An element has to be something.
        match eval(body, scope.within(&variable))? {
            Item::Missing => writer.push(index, Value::NULL),
            item => {
                scope.charge_bytes(item.value().data.len())?;
                writer.push(index, item.value());
            }
        }
    }
    Ok(Item::Large(writer.into_array()))
}

fn filter<'a>(
    array: &Item<'a>,
    condition: &'a Part,
    limit: usize,
    scope: Scope<'_, 'a>,
) -> Computed<'a> {
    let mut writer = Writer::array();
    let mut kept = 0;
    for element in elements(array) {
        let variable = scope.with(&element);
        if eval(condition, scope.within(&variable))?.is_truthy() {
            writer.push(kept, element.value());
            kept += 1;
            if kept == limit {
                break;
            }
        }
    }
    Ok(Item::Large(writer.into_array()))
}

/// A limit that is null is none.
fn most(limit: &Item<'_>) -> Result<usize, Failure> {
    if limit.is_nullish() {
        return Ok(usize::MAX);
    }
    let whole = limit.number().ok().and_then(Number::exact_i64).ok_or(Failure)?;
    let whole = i32::try_from(whole).ok().filter(|whole| *whole > 0).ok_or(Failure)?;
    usize::try_from(whole).map_err(|_| Failure)
}

fn reduce<'a>(
    array: &Item<'a>,
    initial: &'a Part,
    body: &'a Part,
    scope: Scope<'_, 'a>,
) -> Computed<'a> {
    let mut value = eval(initial, scope)?;
    for element in elements(array) {
        let next = {
            let outer = scope.with(&value);
            let scope = scope.within(&outer);
            let inner = scope.with(&element);
            eval(body, scope.within(&inner))?
        };
        value = next;
    }
    Ok(value)
}
