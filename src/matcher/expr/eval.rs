//! Computing expressions.

use super::date::zone::Zone;
use super::function::Function;
use super::item::{Computed, Failure, Item};
use super::scope::Scope;
use super::{Expression, arithmetic, array, date, each, text};
use crate::event::raw::{Owned, Value, tag};
use crate::matcher::value::types;
use crate::matcher::value::write::Writer;

/// What an expression gives, within what one document may cost.
pub(super) fn eval<'a>(expression: &'a Expression<Owned>, scope: Scope<'_, 'a>) -> Computed<'a> {
    scope.charge(1)?;
    let item = compute(expression, scope)?;
    if let Item::Large(value) = &item {
        scope.charge_bytes(value.get().data.len())?;
    }
    Ok(item)
}

fn compute<'a>(expression: &'a Expression<Owned>, scope: Scope<'_, 'a>) -> Computed<'a> {
    Ok(match expression {
        // A bound value that BSON cannot hold has no place in the order.
        Expression::Literal(value) if value.get().tag == tag::IMPOSSIBLE => return Err(Failure),
        Expression::Literal(value) => Item::There(value.get()),
        Expression::Path(path) => follow(scope.document, path.parts()),
        Expression::Root => Item::There(scope.document),
        Expression::Variable(index, path) => return variable(*index, path.parts(), scope),
        Expression::Let(values, body) => return each::with(values, body, scope),
        Expression::Each(each, parts) => return each::each(*each, parts, scope),
        Expression::Date(call, arguments) => return date::call(call, arguments, scope),
        Expression::Document(fields) => {
            let mut writer = Writer::document();
            for (name, value) in fields {
                let item = eval(value, scope)?;
                // A missing field stays missing.
                if !matches!(item, Item::Missing) {
                    writer.element(name.as_bytes(), item.value());
                }
            }
            Item::Large(writer.into_document())
        }
        Expression::Array(values) => {
            let mut writer = Writer::array();
            for (index, value) in values.iter().enumerate() {
                // An element has to be something.
                match eval(value, scope)? {
                    Item::Missing => writer.push(index, Value::NULL),
                    item => writer.push(index, item.value()),
                }
            }
            Item::Large(writer.into_array())
        }
        Expression::RegexMatch(input, pattern) => {
            let input = eval(input, scope)?;
            match input.value().tag {
                tag::STRING | tag::SYMBOL => Item::boolean(pattern.matches(input.value())),
                _ if input.is_nullish() => Item::boolean(false),
                _ => return Err(Failure),
            }
        }
        Expression::Call(function, arguments) => return call(*function, arguments, scope),
    })
}

/// The value at a path. Through an array it leads to an array of what it leads to from each
/// document in it; a number in it is a name, never an index.
fn follow<'a>(from: Value<'a>, parts: &[Box<str>]) -> Item<'a> {
    let Some((first, rest)) = parts.split_first() else { return Item::There(from) };
    match from.tag {
        tag::DOCUMENT => match from.elements().find_key(first.as_bytes()) {
            Some(value) => follow(value, rest),
            None => Item::Missing,
        },
        tag::ARRAY => {
            let mut writer = Writer::array();
            let mut index = 0;
            // Arrays directly in an array are not entered.
            let documents = from.elements().filter(|(_, value)| value.tag == tag::DOCUMENT);
            for (_, element) in documents {
                let item = follow(element, parts);
                if !matches!(item, Item::Missing) {
                    writer.push(index, item.value());
                    index += 1;
                }
            }
            Item::Large(writer.into_array())
        }
        _ => Item::Missing,
    }
}

/// The value of a variable, or what a path below it leads to.
fn variable<'a>(index: usize, path: &[Box<str>], scope: Scope<'_, 'a>) -> Computed<'a> {
    Ok(match (scope.variable(index).ok_or(Failure)?, path) {
        (item, []) => item.clone(),
        (Item::There(value), path) => follow(*value, path),
        // What lies in a computed value has to be copied.
        (item, path) => match follow(item.value(), path) {
            Item::There(value) => Item::copy(value),
            Item::Missing => Item::Missing,
            Item::Small(kind, bytes) => Item::Small(kind, bytes),
            Item::Large(value) => Item::Large(value),
        },
    })
}

fn call<'a>(
    function: Function,
    arguments: &'a [Expression<Owned>],
    scope: Scope<'_, 'a>,
) -> Computed<'a> {
    let lazily = |index: usize| -> Computed<'a> {
        arguments.get(index).map_or(Err(Failure), |argument| eval(argument, scope))
    };
    // First the functions that do not ask all of their arguments.
    match function {
        Function::And => {
            for argument in arguments {
                if !eval(argument, scope)?.is_truthy() {
                    return Ok(Item::boolean(false));
                }
            }
            return Ok(Item::boolean(true));
        }
        Function::Or => {
            for argument in arguments {
                if eval(argument, scope)?.is_truthy() {
                    return Ok(Item::boolean(true));
                }
            }
            return Ok(Item::boolean(false));
        }
        Function::Cond => return lazily(if lazily(0)?.is_truthy() { 1 } else { 2 }),
        Function::IfNull => {
            let mut last = Item::Missing;
            for argument in arguments {
                last = eval(argument, scope)?;
                if !last.is_nullish() {
                    break;
                }
            }
            return Ok(last);
        }
        Function::Fail => return Err(Failure),
        Function::Add => return arithmetic::add(arguments, scope),
        Function::Multiply => return arithmetic::multiply(arguments, scope),
        Function::Concat => return text::concat(arguments, scope),
        Function::ConcatArrays => return array::concat(arguments, scope),
        _ => {}
    }
    let first = lazily(0)?;
    if arguments.len() == 1 {
        return unary(function, first);
    }
    let second = lazily(1)?;
    if arguments.len() == 2 {
        return binary(function, &first, second);
    }
    let third = lazily(2)?;
    match function {
        Function::SubstrBytes => text::substring_bytes(&first, &second, &third),
        Function::SubstrCp => text::substring_points(&first, &second, &third),
        _ => Err(Failure),
    }
}

fn unary<'a>(function: Function, argument: Item<'a>) -> Computed<'a> {
    Ok(match function {
        Function::Not => Item::boolean(!argument.is_truthy()),
        Function::IsNumber => Item::boolean(argument.value().is_number()),
        Function::Type => {
            let name = match argument {
                Item::Missing => "missing",
                ref there => types::name_of(there.value().tag),
            };
            Item::text(name.as_bytes())
        }
        Function::IsArray => Item::boolean(argument.is_array()),
        Function::Size
        | Function::First
        | Function::Last
        | Function::AnyElementTrue
        | Function::AllElementsTrue => return array::unary(function, argument),
        Function::ToLower | Function::ToUpper | Function::StrLenBytes | Function::StrLenCp => {
            return text::unary(function, &argument);
        }
        Function::Abs | Function::Ceil | Function::Floor | Function::Round | Function::Trunc => {
            return arithmetic::unary(function, &argument);
        }
        _ => return date::part(function, &argument, &Zone::UTC),
    })
}

fn binary<'a>(function: Function, left: &Item<'a>, right: Item<'a>) -> Computed<'a> {
    let ordering = || left.order(&right);
    Ok(match function {
        Function::Eq => Item::boolean(ordering().is_eq()),
        Function::Ne => Item::boolean(ordering().is_ne()),
        Function::Gt => Item::boolean(ordering().is_gt()),
        Function::Gte => Item::boolean(ordering().is_ge()),
        Function::Lt => Item::boolean(ordering().is_lt()),
        Function::Lte => Item::boolean(ordering().is_le()),
        Function::Cmp => Item::int(ordering() as i32),
        Function::Subtract | Function::Divide | Function::Mod => {
            return arithmetic::binary(function, left, &right);
        }
        Function::In | Function::ArrayElemAt | Function::SetIsSubset => {
            return array::binary(function, left, &right);
        }
        Function::IndexOfCp | Function::Strcasecmp => {
            return text::binary(function, left, &right);
        }
        _ => return Err(Failure),
    })
}
