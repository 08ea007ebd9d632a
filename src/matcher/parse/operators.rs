//! The operators of one field: `{ $gte: 1, $lt: 5 }`.

use std::sync::Arc;

use bson::{Bson, Document};

use super::names;
use super::{Context, Parser, single_or};
use crate::event::raw::Owned;
use crate::matcher::bind::{OpenNode, OpenTest};
use crate::matcher::node::{Node, Test};
use crate::matcher::operator::{BitTest, Bits, Operator};
use crate::matcher::path::Path;
use crate::matcher::value::compare::Comparison;
use crate::matcher::value::number::{Number, is_truthy};
use crate::matcher::value::types::TypeSet;
use crate::matcher::{Role, Step, operand};

/// The highest bit that may be asked for: `mongod` takes any, no value is that long.
const MAX_BIT: i64 = i32::MAX as i64;
/// The hint where no type is near.
const TYPES: &str = "for example string, int, double, bool, date, objectId, array, object or null";

impl Parser {
    /// All operators of one field; each is a condition of its own.
    pub fn operators(
        &mut self,
        path: &Arc<Path>,
        operators: &Document,
        place: Context,
        nodes: &mut Vec<OpenNode>,
    ) {
        for (operator, value) in operators {
            self.at_key(operator, |parser| {
                parser.count_condition();
                nodes.extend(parser.operator(path, operator, value, operators, place));
            });
        }
    }

    fn operator(
        &mut self,
        path: &Arc<Path>,
        operator: &str,
        value: &Bson,
        siblings: &Document,
        place: Context,
    ) -> Option<OpenNode> {
        let field = |test: OpenTest| Node::Field { path: Arc::clone(path), test };
        let not = |node: OpenNode| Node::Not(Box::new(node));
        match operator {
            "$eq" => self.comparison(Comparison::Equal, value, Role::Equality).map(field),
            "$ne" => {
                if matches!(value, Bson::RegularExpression(_)) {
                    self.error_with("`$ne` takes no regular expression", "use `$not`");
                    return None;
                }
                self.comparison(Comparison::Equal, value, Role::Equality).map(field).map(not)
            }
            "$gt" => self.range(Comparison::Greater, value).map(field),
            "$gte" => self.range(Comparison::GreaterOrEqual, value).map(field),
            "$lt" => self.range(Comparison::Less, value).map(field),
            "$lte" => self.range(Comparison::LessOrEqual, value).map(field),
            "$in" => self.set(operator, value).map(|set| field(Test::In(set))),
            "$nin" => self.set(operator, value).map(|set| not(field(Test::In(set)))),
            "$all" => self.all(path, value),
            "$not" => self.not(path, value, place).map(not),
            "$exists" => {
                self.refuse_placeholder(operator, value)?;
                let exists = field(Test::Operator(Operator::Exists));
                Some(if is_truthy(Owned::from_bson(value).get()) { exists } else { not(exists) })
            }
            "$type" => self.types(value).map(|types| field(Test::Operator(Operator::Type(types)))),
            "$mod" => self.modulo(value).map(field),
            "$size" => self.size(value).map(|size| field(Test::Operator(Operator::Size(size)))),
            "$regex" => {
                let options = siblings.get("$options");
                self.regex(value, options)
                    .map(|pattern| field(Test::Operator(Operator::Regex(pattern))))
            }
            "$options" => {
                if !siblings.contains_key("$regex") {
                    self.error_with(
                        "`$options` needs a `$regex` beside it",
                        "for example `{ $regex: '^a', $options: i }`",
                    );
                }
                None
            }
            "$bitsAllSet" => self.bits(operator, BitTest::AllSet, value).map(field),
            "$bitsAllClear" => self.bits(operator, BitTest::AllClear, value).map(field),
            "$bitsAnySet" => self.bits(operator, BitTest::AnySet, value).map(field),
            "$bitsAnyClear" => self.bits(operator, BitTest::AnyClear, value).map(field),
            "$elemMatch" => self.element_match(value).map(field),
            _ => {
                let hint = names::hint(operator, names::Where::Field);
                self.error(names::complaint(operator, names::Where::Field), hint);
                None
            }
        }
    }

    fn comparison(&mut self, comparison: Comparison, value: &Bson, role: Role) -> Option<OpenTest> {
        if matches!(value, Bson::Undefined) {
            self.undefined();
            return None;
        }
        Some(Test::Compare(comparison, self.value(value, role)))
    }

    fn range(&mut self, comparison: Comparison, value: &Bson) -> Option<OpenTest> {
        if matches!(value, Bson::RegularExpression(_)) {
            self.error_with("regular expressions cannot be compared by order", "use `$regex`");
            return None;
        }
        self.comparison(comparison, value, Role::Value)
    }

    fn all(&mut self, path: &Arc<Path>, value: &Bson) -> Option<OpenNode> {
        let first_operator = value
            .as_array()
            .and_then(|members| members.first())
            .and_then(|member| self.operators_in(member))
            .and_then(|operators| operators.keys().next());
        if first_operator.map(String::as_str) == Some("$elemMatch") {
            return self.all_element_matches(path, value.as_array()?);
        }
        let members = self.set("$all", value)?;
        Some(Node::All { path: Arc::clone(path), members })
    }

    /// `$all: [{ $elemMatch: … }, …]`
    fn all_element_matches(&mut self, path: &Arc<Path>, members: &[Bson]) -> Option<OpenNode> {
        let mut nodes = Vec::new();
        for (index, member) in members.iter().enumerate() {
            self.at(Step::Index(index), |parser| {
                let inner = member
                    .as_document()
                    .filter(|document| document.len() == 1)
                    .and_then(|document| document.get("$elemMatch"));
                let Some(inner) = inner else {
                    parser.error_with(
                        "`$all` takes a list of values, or of `$elemMatch` only",
                        "write other conditions beside it, or under `$and`",
                    );
                    return;
                };
                parser.count_condition();
                let test = parser.at_key("$elemMatch", |parser| parser.element_match(inner));
                nodes.extend(test.map(|test| Node::Field { path: Arc::clone(path), test }));
            });
        }
        Some(single_or(nodes, Node::And))
    }

    fn not(&mut self, path: &Arc<Path>, value: &Bson, place: Context) -> Option<OpenNode> {
        if let Bson::RegularExpression(regex) = value {
            let pattern = self.pattern(regex.pattern.as_str(), regex.options.as_str())?;
            return Some(Node::Field {
                path: Arc::clone(path),
                test: Test::Operator(Operator::Regex(pattern)),
            });
        }
        if operand::as_placeholder(value).is_some() {
            self.error_with("`$not` takes a condition", "to exclude a value, use `$ne`");
            return None;
        }
        match value {
            Bson::Document(operators) if !operators.is_empty() => {
                let mut nodes = Vec::new();
                self.nested(|parser| parser.operators(path, operators, place, &mut nodes));
                Some(single_or(nodes, Node::And))
            }
            Bson::Document(_) => {
                self.error_with("`$not` has no condition", "for example `$not: { $gt: 100 }`");
                None
            }
            _ => {
                self.error_with(
                    "`$not` takes a condition or a regular expression",
                    "to exclude a value, use `$ne`",
                );
                None
            }
        }
    }

    fn refuse_placeholder(&mut self, operator: &str, value: &Bson) -> Option<()> {
        if operand::as_placeholder(value).is_some() {
            self.error_with(
                format!("`{operator}` takes no placeholder"),
                "its operand is part of the filter; only values can come from a client",
            );
            return None;
        }
        Some(())
    }

    fn types(&mut self, value: &Bson) -> Option<TypeSet> {
        self.refuse_placeholder("$type", value)?;
        let mut types = TypeSet::default();
        let before = self.errors.len();
        match value {
            Bson::Array(members) if members.is_empty() => {
                self.error_with("`$type` takes at least one type", TYPES);
            }
            Bson::Array(members) => {
                for (index, member) in members.iter().enumerate() {
                    self.at(Step::Index(index), |parser| parser.add_type(&mut types, member));
                }
            }
            single => self.add_type(&mut types, single),
        }
        (self.errors.len() == before).then_some(types)
    }

    fn add_type(&mut self, types: &mut TypeSet, value: &Bson) {
        if let Bson::String(name) = value {
            if let Err(nearest) = types.add_name(name) {
                let hint = nearest
                    .map_or_else(|| TYPES.to_owned(), |near| format!("did you mean `{near}`?"));
                self.error(format!("`{name}` is not a type"), Some(hint));
            }
            return;
        }
        let owned = Owned::from_bson(value);
        match Number::read(owned.get()).and_then(Number::exact_i64) {
            Some(0) => self.error_with("no type has the number 0", "use `$exists: false`"),
            Some(number) if types.add_number(number) => {}
            Some(number) => self.error_with(format!("no type has the number {number}"), TYPES),
            None => self.error_with("a type is a name, such as `string`, or a number", TYPES),
        }
    }

    fn modulo(&mut self, value: &Bson) -> Option<OpenTest> {
        const HINT: &str = "write `$mod: [4, 0]`: divisor and remainder";
        let Bson::Array(parts) = value else {
            self.error_with("`$mod` takes two numbers", HINT);
            return None;
        };
        let [divisor, remainder] = parts.as_slice() else {
            self.error_with("`$mod` takes two numbers", HINT);
            return None;
        };
        let number = |value: &Bson| {
            let owned = Owned::from_bson(value);
            Number::read(owned.get()).map(Number::truncated)
        };
        match (number(divisor), number(remainder)) {
            (Some(Some(0)), _) => {
                self.error_with("`$mod` divides by 0", HINT);
                None
            }
            (Some(Some(divisor)), Some(Some(remainder))) => {
                Some(Test::Operator(Operator::Mod { divisor, remainder }))
            }
            (Some(_), Some(_)) => {
                self.error_with("the numbers of `$mod` must fit 64 bits", HINT);
                None
            }
            _ => {
                self.error_with("`$mod` takes two numbers", HINT);
                None
            }
        }
    }

    fn size(&mut self, value: &Bson) -> Option<i64> {
        self.refuse_placeholder("$size", value)?;
        let owned = Owned::from_bson(value);
        match Number::read(owned.get()).and_then(Number::exact_i64) {
            Some(size) if size >= 0 => Some(size),
            _ => {
                self.error_with(
                    "`$size` takes a whole number, 0 or greater",
                    "for a range, ask whether an element is there: `items.2: { $exists: true }`",
                );
                None
            }
        }
    }

    fn regex(
        &mut self,
        value: &Bson,
        options: Option<&Bson>,
    ) -> Option<Arc<crate::matcher::pattern::Pattern>> {
        if operand::as_placeholder(value).is_some() {
            self.error_with(
                "`$regex` takes no placeholder",
                "a pattern is code, and a client brings only data; compare with `$eq` or `$in`",
            );
            return None;
        }
        let options = match options {
            None => None,
            Some(Bson::String(options)) => Some(options.as_str()),
            Some(_) => {
                self.error_with("`$options` takes a text", "for example `$options: i`");
                return None;
            }
        };
        match (value, options) {
            (Bson::String(source), options) => self.pattern(source, options.unwrap_or("")),
            (Bson::RegularExpression(regex), Some(_)) if !regex.options.is_empty() => {
                self.error_with("options both in `$regex` and in `$options`", "remove one of them");
                None
            }
            (Bson::RegularExpression(regex), options) => {
                let options = options.unwrap_or(regex.options.as_str());
                self.pattern(regex.pattern.as_str(), options)
            }
            _ => {
                self.error_with(
                    "`$regex` takes a text or a regular expression",
                    "for example `$regex: '^AB-'`",
                );
                None
            }
        }
    }

    fn bits(&mut self, operator: &str, test: BitTest, value: &Bson) -> Option<OpenTest> {
        let positions = match value {
            Bson::Array(members) => {
                self.count_values(members.len());
                let position = |member: &Bson| {
                    let owned = Owned::from_bson(member);
                    Number::read(owned.get())
                        .and_then(Number::exact_i64)
                        .filter(|position| (0..=MAX_BIT).contains(position))
                        .map(|position| position as u32)
                };
                members.iter().map(position).collect::<Option<Vec<u32>>>()
            }
            Bson::Binary(binary) => {
                self.count_values(binary.bytes.len());
                let is_set = |position: &u32| {
                    binary.bytes[*position as usize / 8] >> (position % 8) & 1 == 1
                };
                Some((0..binary.bytes.len() as u32 * 8).filter(is_set).collect())
            }
            number => {
                let owned = Owned::from_bson(number);
                Number::read(owned.get())
                    .and_then(Number::exact_i64)
                    .filter(|mask| *mask >= 0)
                    .map(|mask| (0..63).filter(|position| mask >> position & 1 == 1).collect())
            }
        };
        match positions {
            Some(positions) => Some(Test::Operator(Operator::Bits(Arc::new(Bits {
                positions: positions.into(),
                test,
            })))),
            None => {
                self.error_with(
                    format!("`{operator}` takes bits"),
                    "a list of positions, 0 or greater; a whole number, 0 or greater; or binary \
                     data",
                );
                None
            }
        }
    }

    fn element_match(&mut self, value: &Bson) -> Option<OpenTest> {
        let Bson::Document(document) = value else {
            self.error_with(
                "`$elemMatch` takes conditions",
                "for example `{ sku: x, quantity: { $gt: 1 } }` or `{ $gt: 1, $lt: 5 }`",
            );
            return None;
        };
        let is_about_documents = self.operators_in(value).is_none_or(|operators| {
            operators
                .keys()
                .next()
                .is_some_and(|first| matches!(first.as_str(), "$and" | "$or" | "$nor" | "$where"))
        });
        if operand::as_placeholder(value).is_some() {
            self.error_with(
                "`$elemMatch` takes conditions",
                "to match a value among the elements, use `$eq` without `$elemMatch`",
            );
            return None;
        }
        if is_about_documents {
            let node = self.below_element(|parser| parser.document(document))?;
            return Some(Test::ElementDocument(Box::new(node)));
        }
        let mut nodes = Vec::new();
        let itself = Arc::new(Path::itself());
        self.below_element(|parser| {
            parser.operators(&itself, document, Context::Element, &mut nodes);
        })?;
        Some(Test::ElementValue(Box::new(single_or(nodes, Node::And))))
    }
}
