//! Reading `$jsonSchema`.

use std::sync::Arc;

use bson::{Bson, Document};

use super::{Additional, Arrays, Dependency, Documents, Items, Numbers, Schema, Texts, normal};
use crate::diagnostic::nearest;
use crate::event::raw::{Owned, tag};
use crate::matcher::Step;
use crate::matcher::node::Set;
use crate::matcher::parse::Parser;
use crate::matcher::pattern::Pattern;
use crate::matcher::value::compare::Comparison;
use crate::matcher::value::number::Number;
use crate::matcher::value::types::TypeSet;

const KEYWORDS: [&str; 29] = [
    "bsonType",
    "type",
    "enum",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "pattern",
    "required",
    "properties",
    "patternProperties",
    "additionalProperties",
    "dependencies",
    "minProperties",
    "maxProperties",
    "items",
    "additionalItems",
    "minItems",
    "maxItems",
    "uniqueItems",
    "title",
    "description",
];

/// The types of JSON, by the names of those of BSON.
const JSON_TYPES: [(&str, &str); 6] = [
    ("array", "array"),
    ("boolean", "bool"),
    ("null", "null"),
    ("number", "number"),
    ("object", "object"),
    ("string", "string"),
];

impl Parser {
    pub(in crate::matcher) fn schema(&mut self, value: &Bson) -> Option<Schema> {
        self.count_condition();
        let Bson::Document(document) = value else {
            self.error("a schema is a document", None);
            return None;
        };
        let before = self.errors.len();
        let schema = self.nested(|parser| {
            let mut schema = Schema::default();
            for (keyword, value) in document {
                parser.at_key(keyword, |parser| {
                    parser.keyword(keyword, value, document, &mut schema)
                });
            }
            schema
        })?;
        (self.errors.len() == before).then_some(schema)
    }

    /// `None` if something is wrong, which is reported.
    fn keyword(
        &mut self,
        keyword: &str,
        value: &Bson,
        siblings: &Document,
        schema: &mut Schema,
    ) -> Option<()> {
        match keyword {
            "bsonType" | "type"
                if siblings.contains_key("type") && siblings.contains_key("bsonType") =>
            {
                self.error("`type` and `bsonType` exclude each other", None);
            }
            "bsonType" | "type" => schema.types = Some(self.schema_types(keyword, value)?),
            "enum" => schema.allowed = Some(self.schema_enum(value)?),
            "allOf" => schema.all_of = self.schemas(value)?,
            "anyOf" => schema.any_of = self.schemas(value)?,
            "oneOf" => schema.one_of = self.schemas(value)?,
            "not" => schema.not = Some(Box::new(self.schema(value)?)),
            "title" | "description" if !matches!(value, Bson::String(_)) => {
                self.error(format!("`{keyword}` is a text"), None);
            }
            "title" | "description" => {}
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf" => {
                let numbers = schema.numbers.get_or_insert_default();
                self.number_keyword(keyword, value, siblings, numbers)?;
            }
            "minLength" | "maxLength" | "pattern" => {
                let texts = schema.texts.get_or_insert_default();
                self.text_keyword(keyword, value, texts)?;
            }
            "items" | "additionalItems" | "minItems" | "maxItems" | "uniqueItems" => {
                let arrays = schema.arrays.get_or_insert_default();
                self.array_keyword(keyword, value, arrays)?;
            }
            "required"
            | "properties"
            | "patternProperties"
            | "additionalProperties"
            | "dependencies"
            | "minProperties"
            | "maxProperties" => {
                let documents = schema.documents.get_or_insert_default();
                self.document_keyword(keyword, value, documents)?;
            }
            "$ref" | "$schema" | "default" | "definitions" | "format" | "id" | "encrypt" => {
                self.error(format!("`{keyword}` is not supported in a schema"), None);
            }
            _ => {
                let near = nearest(keyword, KEYWORDS);
                let hint = near.map(|near| format!("did you mean `{near}`?"));
                self.error(format!("`{keyword}` is not a schema keyword"), hint);
            }
        }
        Some(())
    }

    fn schema_types(&mut self, keyword: &str, value: &Bson) -> Option<TypeSet> {
        let names = match value {
            Bson::String(name) => vec![name.as_str()],
            Bson::Array(names) if !names.is_empty() => {
                let texts: Option<Vec<&str>> = names.iter().map(Bson::as_str).collect();
                texts.unwrap_or_default()
            }
            _ => Vec::new(),
        };
        let mut types = TypeSet::default();
        for (index, name) in names.iter().enumerate() {
            let known = match keyword {
                "type" => JSON_TYPES.iter().find(|(json, _)| json == name).map(|(_, bson)| *bson),
                _ => Some(*name),
            };
            let is_twice = names[..index].contains(name);
            if is_twice || known.is_none_or(|known| types.add_name(known).is_err()) {
                self.error_with(
                    format!("`{name}` is not a type, or is listed twice"),
                    "`type` takes the JSON types except integer, `bsonType` the BSON types",
                );
                return None;
            }
        }
        if names.is_empty() {
            self.error(format!("`{keyword}` takes the name of a type, or a list of them"), None);
            return None;
        }
        Some(types)
    }

    fn schema_enum(&mut self, value: &Bson) -> Option<Set> {
        let members = match value {
            Bson::Array(members) if !members.is_empty() => members,
            _ => {
                self.error("`enum` takes a list with at least one value", None);
                return None;
            }
        };
        self.count_values(members.len());
        let values: Vec<Owned> =
            members.iter().map(|member| normal(Owned::from_bson(member).get())).collect();
        let set = Set::new(values, Vec::new());
        if set.values().len() < members.len() {
            self.error("`enum` lists a value twice", None);
            return None;
        }
        Some(set)
    }

    fn schemas(&mut self, value: &Bson) -> Option<Vec<Schema>> {
        let schemas = match value {
            Bson::Array(schemas) if !schemas.is_empty() => schemas,
            _ => {
                self.error("a list of schemas that is not empty", None);
                return None;
            }
        };
        let mut parsed = Vec::new();
        for (index, schema) in schemas.iter().enumerate() {
            parsed.push(self.at(Step::Index(index), |parser| parser.schema(schema)));
        }
        parsed.into_iter().collect()
    }

    fn number_keyword(
        &mut self,
        keyword: &str,
        value: &Bson,
        siblings: &Document,
        numbers: &mut Numbers,
    ) -> Option<()> {
        let (bound, exclusive) = match keyword {
            "minimum" => ("minimum", "exclusiveMinimum"),
            "maximum" => ("maximum", "exclusiveMaximum"),
            "multipleOf" => ("multipleOf", ""),
            "exclusiveMinimum" => ("minimum", ""),
            _ => ("maximum", ""),
        };
        if bound != keyword {
            if !matches!(value, Bson::Boolean(_)) || !siblings.contains_key(bound) {
                self.error(format!("`{keyword}` is true or false, beside a `{bound}`"), None);
            }
            return None;
        }
        let owned = Owned::from_bson(value);
        let Some(number) = Number::read(owned.get()) else {
            self.error(format!("`{keyword}` is a number"), None);
            return None;
        };
        let is_exclusive = siblings.get(exclusive) == Some(&Bson::Boolean(true));
        match (keyword, is_exclusive) {
            ("minimum", true) => numbers.least = Some((Comparison::Greater, owned)),
            ("minimum", false) => numbers.least = Some((Comparison::GreaterOrEqual, owned)),
            ("maximum", true) => numbers.most = Some((Comparison::Less, owned)),
            ("maximum", false) => numbers.most = Some((Comparison::LessOrEqual, owned)),
            _ if number.nearest_f64() > 0.0 && number.nearest_f64().is_finite() => {
                let divisor = super::as_decimal(number).to_bytes();
                let value = crate::event::raw::Value { tag: tag::DECIMAL, data: &divisor };
                numbers.multiple_of = Some(Owned::of(value));
            }
            _ => self.error("`multipleOf` is a number above 0", None),
        }
        Some(())
    }

    fn text_keyword(&mut self, keyword: &str, value: &Bson, texts: &mut Texts) -> Option<()> {
        match keyword {
            "minLength" => texts.min_length = self.schema_count(keyword, value)?,
            "maxLength" => texts.max_length = Some(self.schema_count(keyword, value)?),
            _ => texts.pattern = Some(self.schema_pattern(value.as_str())?),
        }
        Some(())
    }

    fn array_keyword(&mut self, keyword: &str, value: &Bson, arrays: &mut Arrays) -> Option<()> {
        match (keyword, value) {
            ("items", Bson::Array(schemas)) if schemas.is_empty() => {
                arrays.items = Items::Listed(Vec::new());
            }
            ("items", Bson::Array(_)) => arrays.items = Items::Listed(self.schemas(value)?),
            ("items", _) => arrays.items = Items::Each(Box::new(self.schema(value)?)),
            ("additionalItems", _) => arrays.additional = self.additional(value)?,
            ("minItems", _) => arrays.min_items = self.schema_count(keyword, value)?,
            ("maxItems", _) => arrays.max_items = Some(self.schema_count(keyword, value)?),
            (_, Bson::Boolean(is_unique)) => arrays.is_unique = *is_unique,
            _ => self.error(format!("`{keyword}` is true or false"), None),
        }
        Some(())
    }

    fn document_keyword(
        &mut self,
        keyword: &str,
        value: &Bson,
        documents: &mut Documents,
    ) -> Option<()> {
        match keyword {
            "required" => documents.required = self.field_names(value)?,
            "minProperties" => documents.min_properties = self.schema_count(keyword, value)?,
            "maxProperties" => documents.max_properties = Some(self.schema_count(keyword, value)?),
            "additionalProperties" => documents.additional = self.additional(value)?,
            "properties" => {
                let each = |parser: &mut Parser, name: &str, value: &Bson| {
                    Some((name.as_bytes().into(), parser.schema(value)?))
                };
                documents.properties = self.by_name(value, each)?;
                documents.properties.sort_by(|(a, _), (b, _)| a.cmp(b));
            }
            "patternProperties" => {
                let each = |parser: &mut Parser, name: &str, value: &Bson| {
                    Some((parser.schema_pattern(Some(name))?, parser.schema(value)?))
                };
                documents.patterns = self.by_name(value, each)?;
            }
            _ => {
                let each = |parser: &mut Parser, name: &str, value: &Bson| {
                    let dependency = match value {
                        Bson::Array(_) => Dependency::Fields(parser.field_names(value)?),
                        _ => Dependency::Schema(parser.schema(value)?),
                    };
                    Some((name.as_bytes().into(), dependency))
                };
                documents.dependencies = self.by_name(value, each)?;
            }
        }
        Some(())
    }

    fn by_name<T>(
        &mut self,
        value: &Bson,
        each: impl Fn(&mut Parser, &str, &Bson) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Bson::Document(document) = value else {
            self.error("a document with a name for each", None);
            return None;
        };
        let mut all = Vec::new();
        for (name, value) in document {
            all.push(self.at_key(name, |parser| each(parser, name, value)));
        }
        all.into_iter().collect()
    }

    fn field_names(&mut self, value: &Bson) -> Option<Vec<Box<[u8]>>> {
        let names: Option<Vec<&str>> =
            value.as_array().and_then(|names| names.iter().map(Bson::as_str).collect());
        let names = names.unwrap_or_default();
        self.count_values(names.len());
        let mut sorted = names.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if names.is_empty() || sorted.len() < names.len() {
            self.error("a list of names, at least one and none twice", None);
            return None;
        }
        Some(names.into_iter().map(|name| name.as_bytes().into()).collect())
    }

    fn additional(&mut self, value: &Bson) -> Option<Additional> {
        match value {
            Bson::Boolean(true) => Some(Additional::Any),
            Bson::Boolean(false) => Some(Additional::None),
            schema => self.schema(schema).map(|schema| Additional::Like(Box::new(schema))),
        }
    }

    fn schema_count(&mut self, keyword: &str, value: &Bson) -> Option<usize> {
        let owned = Owned::from_bson(value);
        let count = Number::read(owned.get()).and_then(Number::exact_i64);
        let count = count.and_then(|count| usize::try_from(count).ok());
        if count.is_none() {
            self.error(format!("`{keyword}` is a whole number, 0 or greater"), None);
        }
        count
    }

    fn schema_pattern(&mut self, source: Option<&str>) -> Option<Arc<Pattern>> {
        match source {
            Some(source) => self.pattern(source, ""),
            None => {
                self.error("`pattern` is a text", None);
                None
            }
        }
    }
}
