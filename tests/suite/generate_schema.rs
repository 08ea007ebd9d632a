//! Schemas made up from a seed.

use bson::{Bson, Document, doc};

use crate::generate::Generator;

impl Generator {
    /// A `$jsonSchema` for the documents of [`Generator::document`].
    pub fn schema(&mut self, depth: u8) -> Document {
        let mut schema = Document::new();
        for _ in 0..self.random.usize(1..3) {
            self.keyword(&mut schema, depth);
        }
        schema
    }

    fn schemas(&mut self, depth: u8) -> Bson {
        let count = self.random.usize(1..4);
        (0..count).map(|_| self.schema(depth)).collect::<Vec<Document>>().into()
    }

    fn additional(&mut self, depth: u8) -> Bson {
        match self.random.u8(0..3) {
            0 => self.schema(depth).into(),
            number => (number == 1).into(),
        }
    }

    fn field_names(&mut self) -> Vec<&'static str> {
        let mut names = vec!["a", "b", "c", "0"];
        let left = self.random.usize(1..3);
        while names.len() > left {
            let gone = self.random.usize(0..names.len());
            names.remove(gone);
        }
        names
    }

    fn keyword(&mut self, schema: &mut Document, depth: u8) {
        match self.random.u8(0..20) {
            0 | 1 => {
                schema.remove("type");
                let types = ["object", "array", "number", "string", "int", "double", "null"];
                let kind = self.pick(&types);
                schema
                    .insert("bsonType", self.pick(&[Bson::from(kind), vec![kind, "bool"].into()]));
            }
            2 => {
                schema.remove("bsonType");
                schema.insert("type", self.pick(&["object", "array", "number", "string", "null"]));
            }
            3 => {
                let mut values: Vec<Bson> = Vec::new();
                for value in [self.value(2), doc! { "b": 1, "a": 2 }.into(), 1.into(), "a".into()] {
                    if !matches!(value, Bson::Undefined) && !values.contains(&value) {
                        values.push(value);
                    }
                }
                schema.insert("enum", values);
            }
            4 => {
                let (bound, exclusive) =
                    self.pick(&[("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")]);
                schema.insert(bound, self.number());
                schema.insert(exclusive, self.coin());
            }
            5 => {
                let divisors =
                    [Bson::Int32(2), Bson::Double(0.5), Bson::Int64(3), Bson::Double(0.1)];
                schema.insert("multipleOf", self.pick(&divisors));
            }
            6 => {
                let keyword = self.pick(&["minLength", "maxLength"]);
                schema.insert(keyword, self.random.i32(0..3));
            }
            7 => {
                schema.insert("pattern", self.pick(&["a", "^b", "^$", "é"]));
            }
            8 => {
                let keyword = self.pick(&["minItems", "maxItems"]);
                schema.insert(keyword, f64::from(self.random.i32(0..3)));
            }
            9 => {
                schema.insert("uniqueItems", self.coin());
            }
            10 => {
                let keyword = self.pick(&["minProperties", "maxProperties"]);
                schema.insert(keyword, self.random.i64(0..4));
            }
            11 => {
                schema.insert("required", self.field_names());
            }
            _ if depth == 0 => {}
            12..=14 => {
                let keyword = self.pick(&["properties", "properties", "patternProperties"]);
                let names = self.field_names();
                let inner: Document = names
                    .into_iter()
                    .map(|name| (name.into(), self.schema(depth - 1).into()))
                    .collect();
                schema.insert(keyword, inner);
                if self.coin() {
                    schema.insert("additionalProperties", self.additional(depth - 1));
                }
            }
            15 => {
                let fields = self.field_names();
                let inner = self.schema(depth - 1);
                schema.insert("dependencies", doc! { "a": fields, "b": inner });
            }
            16 => {
                let items = match self.coin() {
                    true => self.schemas(depth - 1),
                    false => self.schema(depth - 1).into(),
                };
                schema.insert("items", items);
                if self.coin() {
                    schema.insert("additionalItems", self.additional(depth - 1));
                }
            }
            17 => {
                schema.insert("not", self.schema(depth - 1));
            }
            _ => {
                let keyword = self.pick(&["allOf", "anyOf", "oneOf"]);
                schema.insert(keyword, self.schemas(depth - 1));
            }
        }
    }
}
