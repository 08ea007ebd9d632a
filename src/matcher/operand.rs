//! Values that may hold placeholders, and what binding makes of them.

use std::sync::Arc;

use bson::Bson;

use super::node::Set;
use super::pattern::Pattern;
use super::values::BoundValues;
use super::{Claim, Placeholder, Role};
use crate::event::raw::{Owned, Value};

/// Gives the value of a placeholder, or nothing.
pub(crate) type Lookup<'l> = &'l mut dyn FnMut(&Placeholder) -> Option<Owned>;

/// A value in a template.
#[derive(Clone, Debug)]
pub(crate) enum Operand {
    Fixed(Owned),
    Open(Placeholder, Role),
    /// A document or array with placeholders somewhere inside.
    Nested(Arc<Bson>),
}

/// A value in a predicate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Filled {
    Fixed(Owned),
    /// That at this place of the bound values: the condition is the same for all clients.
    Bound(u16),
}

impl Filled {
    /// The value itself, or what the client's values have in its place.
    #[inline]
    pub fn get<'v>(&'v self, values: &'v BoundValues) -> Value<'v> {
        match self {
            Filled::Fixed(value) => value.get(),
            // It is there, or the condition would have gone. Else it equals nothing.
            Filled::Bound(place) => values.get(usize::from(*place)).unwrap_or(Value::IMPOSSIBLE),
        }
    }

    /// The same as a value of its own.
    pub fn owned(&self, values: &BoundValues) -> Owned {
        match self {
            Filled::Fixed(value) => value.clone(),
            Filled::Bound(place) => {
                let owned = values.owned(usize::from(*place));
                owned.unwrap_or_else(|| Owned::of(Value::IMPOSSIBLE))
            }
        }
    }
}

/// What an operand is once bound.
pub(crate) enum Bound {
    One(Owned),
    /// An array where one of its elements is meant.
    Any(Set),
    /// The condition goes.
    Absent,
}

impl Operand {
    /// Fills in the placeholders. [`Bound::Absent`] if `lookup` has no value for one of them: then
    /// the whole condition is left out.
    pub fn bind(&self, lookup: Lookup<'_>) -> Bound {
        match self {
            Operand::Fixed(value) => Bound::One(value.clone()),
            Operand::Open(placeholder, role) => match lookup(placeholder) {
                None => Bound::Absent,
                Some(value) if *role == Role::Equality && value.get().is_array() => {
                    Bound::Any(Set::new(value.members(), Vec::new()))
                }
                Some(value) => Bound::One(value),
            },
            Operand::Nested(value) => match fill(value, lookup) {
                None => Bound::Absent,
                Some(value) => Bound::One(Owned::from_bson(&value)),
            },
        }
    }

    /// For places where an array is one value like any other.
    pub fn bind_one(&self, lookup: Lookup<'_>) -> Option<Owned> {
        match self {
            Operand::Open(placeholder, _) => lookup(placeholder),
            _ => match self.bind(lookup) {
                Bound::One(value) => Some(value),
                Bound::Any(_) | Bound::Absent => None,
            },
        }
    }
}

/// The list of an `$in`, `$nin` or `$all` in a template.
#[derive(Clone, Debug)]
pub(crate) enum OpenSet {
    Whole(Placeholder),
    Listed { values: Vec<Operand>, regexes: Vec<Arc<Pattern>> },
}

impl OpenSet {
    /// Absent members leave the list; where they leave nothing of it, the condition goes. A value
    /// that is no array, standing for the whole list, is a list of one: a claim such as `aud` is
    /// written either way.
    pub fn bind(&self, lookup: Lookup<'_>) -> Option<Set> {
        match self {
            OpenSet::Whole(placeholder) => {
                let value = lookup(placeholder)?;
                let values = if value.get().is_array() { value.members() } else { vec![value] };
                Some(Set::new(values, Vec::new()))
            }
            OpenSet::Listed { values, regexes } => {
                let bound: Vec<Owned> =
                    values.iter().filter_map(|value| value.bind_one(lookup)).collect();
                if bound.is_empty() && regexes.is_empty() && !values.is_empty() {
                    return None;
                }
                Some(Set::new(bound, regexes.clone()))
            }
        }
    }

    /// The placeholders that leave the list together, member by member.
    pub fn together(&self, found: &mut Vec<Vec<Placeholder>>) {
        let OpenSet::Listed { values, .. } = self else { return };
        for value in values {
            let mut seen = Vec::new();
            value.bind_one(&mut |placeholder| {
                seen.push(placeholder.clone());
                Some(Owned::null())
            });
            if seen.len() > 1 {
                found.push(seen);
            }
        }
    }
}

/// The placeholder that a value is, if it is one and well formed.
pub(crate) fn as_placeholder(value: &Bson) -> Option<Placeholder> {
    let document = value.as_document()?;
    let text = |key| document.get_str(key).ok().map(str::to_owned);
    if document.len() == 1 {
        return match text("$param") {
            Some(name) => Some(Placeholder::Param(name)),
            None => Some(Placeholder::Claim(Claim { path: text("$claim")?, kind: None })),
        };
    }
    let (path, kind) = (text("$claim")?, text("type")?);
    (document.len() == 2).then_some(Placeholder::Claim(Claim { path, kind: Some(kind) }))
}

/// The value with all placeholders in it replaced; nothing where one of them is absent.
fn fill(value: &Bson, lookup: Lookup<'_>) -> Option<Bson> {
    if let Some(placeholder) = as_placeholder(value) {
        return lookup(&placeholder).map(|value| value.to_bson());
    }
    match value {
        Bson::Document(document) => {
            let mut filled = bson::Document::new();
            for (key, value) in document {
                filled.insert(key.clone(), fill(value, lookup)?);
            }
            Some(Bson::Document(filled))
        }
        Bson::Array(values) => {
            let filled: Option<Vec<Bson>> = values.iter().map(|v| fill(v, lookup)).collect();
            filled.map(Bson::Array)
        }
        other => Some(other.clone()),
    }
}
