//! `$jsonSchema`: MongoDB's subset of JSON Schema draft 4, evaluated on raw BSON.
//!
//! A keyword applies to values of one kind and ignores others: `minimum` holds for every text. Only
//! `uniqueItems`, and `enum` with documents in it, allocate.

use std::cmp::Ordering;
use std::sync::Arc;

use super::node::Set;
use super::pattern::Pattern;
use super::value::compare::{self, Comparison};
use super::value::decimal::Decimal;
use super::value::number::Number;
use super::value::types::TypeSet;
use super::value::write::Writer;
use crate::event::raw::{Owned, Value, tag};

mod parse;

/// A parsed schema. What is empty or nothing was not written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Schema {
    types: Option<TypeSet>,
    /// Normal forms.
    allowed: Option<Set>,
    numbers: Option<Box<Numbers>>,
    texts: Option<Box<Texts>>,
    documents: Option<Box<Documents>>,
    arrays: Option<Box<Arrays>>,
    all_of: Vec<Schema>,
    any_of: Vec<Schema>,
    one_of: Vec<Schema>,
    not: Option<Box<Schema>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Numbers {
    least: Option<(Comparison, Owned)>,
    most: Option<(Comparison, Owned)>,
    multiple_of: Option<Owned>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Texts {
    min_length: usize,
    max_length: Option<usize>,
    pattern: Option<Arc<Pattern>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Documents {
    required: Vec<Box<[u8]>>,
    /// Sorted by name.
    properties: Vec<(Box<[u8]>, Schema)>,
    patterns: Vec<(Arc<Pattern>, Schema)>,
    additional: Additional,
    dependencies: Vec<(Box<[u8]>, Dependency)>,
    min_properties: usize,
    max_properties: Option<usize>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Arrays {
    items: Items,
    additional: Additional,
    min_items: usize,
    max_items: Option<usize>,
    is_unique: bool,
}

/// What is said of fields, or items, that nothing else is said of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
enum Additional {
    #[default]
    Any,
    None,
    Like(Box<Schema>),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
enum Items {
    #[default]
    Any,
    Each(Box<Schema>),
    /// One for each of the first.
    Listed(Vec<Schema>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Dependency {
    Fields(Vec<Box<[u8]>>),
    Schema(Schema),
}

impl Additional {
    fn admits(&self, value: Value<'_>) -> bool {
        match self {
            Additional::Any => true,
            Additional::None => false,
            Additional::Like(schema) => schema.admits(value),
        }
    }
}

impl Schema {
    /// Whether the value is as the schema says.
    pub fn admits(&self, value: Value<'_>) -> bool {
        self.types.is_none_or(|types| types.contains(value.tag))
            && self.allowed.as_ref().is_none_or(|allowed| is_among(allowed, value))
            && self.numbers.as_ref().is_none_or(|numbers| numbers.admit(value))
            && self.texts.as_ref().is_none_or(|texts| texts.admit(value))
            && self.documents.as_ref().is_none_or(|documents| documents.admit(value))
            && self.arrays.as_ref().is_none_or(|arrays| arrays.admit(value))
            && self.all_of.iter().all(|schema| schema.admits(value))
            && (self.any_of.is_empty() || self.any_of.iter().any(|schema| schema.admits(value)))
            && (self.one_of.is_empty() || self.admits_once(value))
            && self.not.as_ref().is_none_or(|schema| !schema.admits(value))
    }

    fn admits_once(&self, value: Value<'_>) -> bool {
        // Two are as wrong as more.
        self.one_of.iter().filter(|schema| schema.admits(value)).take(2).count() == 1
    }
}

impl Numbers {
    fn admit(&self, value: Value<'_>) -> bool {
        let Some(number) = Number::read(value) else { return true };
        let holds = |(comparison, operand): &(Comparison, Owned)| {
            compare::passes(*comparison, Some(value), operand.get())
        };
        self.least.as_ref().is_none_or(holds)
            && self.most.as_ref().is_none_or(holds)
            && self.multiple_of.as_ref().is_none_or(|divisor| {
                let rest = as_decimal(number).remainder(Decimal::read(divisor.get()));
                rest.is_some_and(Decimal::is_zero)
            })
    }
}

fn as_decimal(number: Number) -> Decimal {
    match number {
        Number::Int(int) => Decimal::from_i64(int),
        Number::Double(double) => Decimal::from_f64(double),
        Number::Decimal(decimal) => decimal,
    }
}

impl Texts {
    fn admit(&self, value: Value<'_>) -> bool {
        if value.tag != tag::STRING {
            return true;
        }
        // Characters begin with a byte that continues none.
        let length = value.text().iter().filter(|byte| **byte & 0xc0 != 0x80).count();
        length >= self.min_length
            && self.max_length.is_none_or(|most| length <= most)
            && self.pattern.as_ref().is_none_or(|pattern| pattern.matches(value))
    }
}

impl Documents {
    fn admit(&self, value: Value<'_>) -> bool {
        if value.tag != tag::DOCUMENT {
            return true;
        }
        let has = |name: &[u8]| value.elements().find_key(name).is_some();
        let count = value.elements().count();
        count >= self.min_properties
            && self.max_properties.is_none_or(|most| count <= most)
            && self.required.iter().all(|name| has(name))
            && value.elements().all(|(name, field)| self.admits_field(name, field))
            && self.dependencies.iter().all(|(name, dependency)| {
                !has(name)
                    || match dependency {
                        Dependency::Fields(names) => names.iter().all(|name| has(name)),
                        Dependency::Schema(schema) => schema.admits(value),
                    }
            })
    }

    fn admits_field(&self, name: &[u8], field: Value<'_>) -> bool {
        let property = self.properties.binary_search_by(|(known, _)| (**known).cmp(name));
        let mut is_named = property.is_ok();
        if let Ok(place) = property
            && !self.properties[place].1.admits(field)
        {
            return false;
        }
        for (pattern, schema) in &self.patterns {
            if pattern.is_in(name) {
                is_named = true;
                if !schema.admits(field) {
                    return false;
                }
            }
        }
        is_named || self.additional.admits(field)
    }
}

impl Arrays {
    fn admit(&self, value: Value<'_>) -> bool {
        if value.tag != tag::ARRAY {
            return true;
        }
        let count = value.elements().count();
        let mut items = value.elements().map(|(_, item)| item).enumerate();
        count >= self.min_items
            && self.max_items.is_none_or(|most| count <= most)
            && items.all(|(index, item)| self.admits_item(index, item))
            && (!self.is_unique || are_unique(value))
    }

    fn admits_item(&self, index: usize, item: Value<'_>) -> bool {
        match &self.items {
            // Without a list, every item is said something of, or nothing.
            Items::Any => true,
            Items::Each(schema) => schema.admits(item),
            Items::Listed(schemas) => match schemas.get(index) {
                Some(schema) => schema.admits(item),
                None => self.additional.admits(item),
            },
        }
    }
}

fn is_among(allowed: &Set, value: Value<'_>) -> bool {
    if value.is_container() {
        let normal = normal(value);
        return allowed.place(Some(normal.get())).is_some();
    }
    // Unlike in a query, undefined is not null.
    value.tag != tag::UNDEFINED && allowed.place(Some(value)).is_some()
}

fn are_unique(array: Value<'_>) -> bool {
    let mut items: Vec<Owned> = array.elements().map(|(_, item)| normal(item)).collect();
    items.sort_by(|a, b| compare::order(a.get(), b.get()));
    items.windows(2).all(|pair| compare::order(pair[0].get(), pair[1].get()) != Ordering::Equal)
}

/// Deeper than `mongod` stores; what is deeper is left as it is.
const MAX_DEPTH: u32 = 200;

/// The value with the fields of its documents sorted by name, since schemas do not ask for their
/// order.
fn normal(value: Value<'_>) -> Owned {
    if !value.is_container() {
        return Owned::of(value);
    }
    let mut writer = Writer::document();
    write_fields(value, MAX_DEPTH, &mut writer);
    if value.is_array() { writer.into_array() } else { writer.into_document() }
}

fn write_fields(container: Value<'_>, depth: u32, writer: &mut Writer) {
    let mut fields: Vec<(&[u8], Value<'_>)> = container.elements().collect();
    if !container.is_array() {
        fields.sort_by_key(|(name, _)| *name);
    }
    for (name, value) in fields {
        if value.is_container() && depth > 0 {
            writer.open(name, value.tag);
            write_fields(value, depth - 1, writer);
            writer.close();
        } else {
            writer.element(name, value);
        }
    }
}
