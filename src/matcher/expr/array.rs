//! Functions of arrays.

use super::Expression;
use super::eval::eval;
use super::function::Function;
use super::item::{Computed, Failure, Item};
use super::scope::Scope;
use crate::event::raw::{Owned, Value};
use crate::matcher::value::compare;
use crate::matcher::value::number::{Number, is_truthy};
use crate::matcher::value::write::Writer;

pub(super) fn concat<'a>(arguments: &'a [Expression<Owned>], scope: Scope<'_, 'a>) -> Computed<'a> {
    let mut writer = Writer::array();
    let mut index = 0;
    for argument in arguments {
        let item = eval(argument, scope)?;
        if item.is_nullish() {
            return Ok(Item::NULL);
        }
        if !item.is_array() {
            return Err(Failure);
        }
        for (_, element) in item.value().elements() {
            writer.push(index, element);
            index += 1;
        }
    }
    Ok(Item::Large(writer.into_array()))
}

pub(super) fn unary<'a>(function: Function, argument: Item<'a>) -> Computed<'a> {
    let is_end = matches!(function, Function::First | Function::Last);
    if is_end && argument.is_nullish() {
        return Ok(Item::NULL);
    }
    if !argument.is_array() {
        return Err(Failure);
    }
    let array = argument.value();
    Ok(match function {
        Function::Size => Item::int(i32::try_from(array.elements().count()).map_err(|_| Failure)?),
        Function::First => at(&argument, 0),
        Function::Last => at(&argument, -1),
        Function::AnyElementTrue => {
            Item::boolean(array.elements().any(|(_, element)| is_truthy(element)))
        }
        Function::AllElementsTrue => {
            Item::boolean(array.elements().all(|(_, element)| is_truthy(element)))
        }
        _ => return Err(Failure),
    })
}

pub(super) fn binary<'a>(function: Function, left: &Item<'a>, right: &Item<'a>) -> Computed<'a> {
    match function {
        Function::In => {
            if !right.is_array() {
                return Err(Failure);
            }
            let mut elements = right.value().elements();
            Ok(Item::boolean(
                elements.any(|(_, element)| compare::order(element, left.value()).is_eq()),
            ))
        }
        Function::ArrayElemAt => {
            if left.is_nullish() || right.is_nullish() {
                return Ok(Item::NULL);
            }
            if !left.is_array() {
                return Err(Failure);
            }
            let index = right.number()?.exact_i64().ok_or(Failure)?;
            let index = i32::try_from(index).map_err(|_| Failure)?;
            Ok(at(left, i64::from(index)))
        }
        Function::SetIsSubset => {
            if !left.is_array() || !right.is_array() {
                return Err(Failure);
            }
            // Sorted once, so that large sets do not cost their product.
            let mut members: Vec<Value<'_>> = right.value().elements().map(|(_, v)| v).collect();
            members.sort_by(|a, b| compare::order(*a, *b));
            let is_member = |element: Value<'_>| {
                members.binary_search_by(|member| compare::order(*member, element)).is_ok()
            };
            Ok(Item::boolean(left.value().elements().all(|(_, element)| is_member(element))))
        }
        _ => Err(Failure),
    }
}

/// The element at an index, from the end where it is negative.
fn at<'a>(array: &Item<'a>, index: i64) -> Item<'a> {
    let elements = || array.value().elements().map(|(_, element)| element);
    let from_start = if index < 0 {
        let length = i64::try_from(elements().count()).unwrap_or(0);
        length + index
    } else {
        index
    };
    let Ok(from_start) = usize::try_from(from_start) else { return Item::Missing };
    match (array, elements().nth(from_start)) {
        (_, None) => Item::Missing,
        // What lies in the document can be handed on; what was computed has to be copied.
        (Item::There(array), Some(_)) => {
            array.elements().nth(from_start).map_or(Item::Missing, |(_, value)| Item::There(value))
        }
        (_, Some(element)) => Item::Large(Owned::of(element)),
    }
}

/// A whole number that an argument must be.
pub(super) fn whole(item: &Item<'_>) -> Result<i64, Failure> {
    item.number().and_then(|number: Number| number.exact_i64().ok_or(Failure))
}
