//! From a `match` as written to a tree of conditions. Every mistake is reported, with its place.

use std::sync::Arc;

use bson::{Bson, Document};

use crate::matcher::bind::OpenNode;
use crate::matcher::node::{Node, Test};
use crate::matcher::operand::{self, OpenSet, Operand};
use crate::matcher::operator::Operator;
use crate::matcher::path::Path;
use crate::matcher::pattern::{Pattern, RegexBudget};
use crate::matcher::{ParseError, Placeholder, PlaceholderUse, Role, Step};

pub(in crate::matcher) mod names;
mod operators;

/// Conditions within conditions; a filter written by hand needs a handful.
pub(crate) const MAX_DEPTH: usize = 64;
/// Conditions in one filter. Asking a document costs at most so many looks for a field.
pub(crate) const MAX_CONDITIONS: usize = 1_000;
/// Listed values in one filter. They are sorted, so that asking for them costs little.
pub(crate) const MAX_VALUES: usize = 10_000;
/// Placeholders in one filter. Each takes a copy of its value.
const MAX_PLACEHOLDERS: usize = 1_000;
/// How many mistakes are reported.
pub(crate) const MAX_ERRORS: usize = 100;
/// Parts of one path.
pub(crate) const MAX_PARTS: usize = 100;
/// Numeric parts of one path: each may be an index or a name, which doubles the ways to follow it.
const MAX_NUMERIC_PARTS: usize = 8;

/// The state of one parse.
#[derive(Default)]
pub(crate) struct Parser {
    pub errors: Vec<ParseError>,
    pub uses: Vec<PlaceholderUse>,
    path: Vec<Step>,
    pub(in crate::matcher) regexes: RegexBudget,
    conditions: usize,
    values: usize,
    /// The variables that expressions around have given, the innermost last.
    pub(in crate::matcher) variables: Vec<Box<str>>,
    depth: usize,
    elements: usize,
}

/// Which conditions stand in a list of operators.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Context {
    Field,
    Element,
}

impl Parser {
    /// Reports a mistake at the current place. Beyond [`MAX_ERRORS`], it is dropped.
    pub fn error(&mut self, message: impl Into<String>, hint: Option<String>) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(ParseError { path: self.path.clone(), message: message.into(), hint });
        }
    }

    /// [`Parser::error`] with a hint that says what to write instead.
    pub fn error_with(&mut self, message: impl Into<String>, hint: &str) {
        self.error(message, Some(hint.to_owned()));
    }

    /// Runs `inner` one step further down.
    pub fn at<R>(&mut self, step: Step, inner: impl FnOnce(&mut Self) -> R) -> R {
        self.path.push(step);
        let result = inner(self);
        self.path.pop();
        result
    }

    /// [`Parser::at`] for the value of a key.
    pub fn at_key<R>(&mut self, key: &str, inner: impl FnOnce(&mut Self) -> R) -> R {
        self.at(Step::Key(key.into()), inner)
    }

    /// Whether nothing further will be told.
    fn is_full(&self) -> bool {
        self.errors.len() >= MAX_ERRORS
    }

    /// Counts a condition, and refuses the one too many once.
    pub fn count_condition(&mut self) {
        self.conditions += 1;
        if self.conditions == MAX_CONDITIONS + 1 {
            self.error_with(
                format!("more than {MAX_CONDITIONS} conditions in one filter"),
                "list alternatives of one field under `$in`, or split it into several streams",
            );
        }
    }

    /// Counts listed values, and refuses what is too many once.
    pub fn count_values(&mut self, values: usize) {
        let before = self.values;
        self.values = self.values.saturating_add(values);
        if before <= MAX_VALUES && self.values > MAX_VALUES {
            self.error_with(
                format!("more than {MAX_VALUES} listed values in one filter"),
                "split it into several streams",
            );
        }
    }

    /// Notes a placeholder at the current place.
    fn note(&mut self, placeholder: Placeholder, role: Role) {
        if self.uses.len() == MAX_PLACEHOLDERS {
            return self.error(format!("more than {MAX_PLACEHOLDERS} placeholders"), None);
        }
        self.uses.push(PlaceholderUse { placeholder, role, path: self.path.clone() });
    }

    /// Runs `inner` one level deeper, unless that is too deep.
    pub fn nested<R>(&mut self, inner: impl FnOnce(&mut Self) -> R) -> Option<R> {
        if self.depth >= MAX_DEPTH {
            self.error(format!("nested deeper than {MAX_DEPTH} levels"), None);
            return None;
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        Some(result)
    }

    /// A whole `match`, or the document under a `$elemMatch`, or one branch of an `$or`.
    pub fn document(&mut self, document: &Document) -> OpenNode {
        let mut nodes = Vec::new();
        for (key, value) in document {
            if self.is_full() || self.conditions > MAX_CONDITIONS {
                break;
            }
            self.at_key(key, |parser| {
                if key.starts_with('$') {
                    nodes.extend(parser.top_level(key, value));
                } else {
                    parser.field(key, value, &mut nodes);
                }
            });
        }
        single_or(nodes, Node::And)
    }

    fn top_level(&mut self, key: &str, value: &Bson) -> Option<OpenNode> {
        match key {
            "$and" => self.branches(key, value).map(|nodes| single_or(nodes, Node::And)),
            "$or" => self.branches(key, value).map(|nodes| single_or(nodes, Node::Or)),
            "$nor" => self
                .branches(key, value)
                .map(|nodes| Node::Not(Box::new(single_or(nodes, Node::Or)))),
            "$comment" => None,
            "$alwaysTrue" => Some(Node::Constant(true)),
            "$alwaysFalse" => Some(Node::Constant(false)),
            "$expr" | "$jsonSchema" if self.elements > 0 => {
                self.error(
                    format!("`{key}` is allowed only at the top level, not in `$elemMatch`"),
                    None,
                );
                None
            }
            "$jsonSchema" => self.schema(value).map(|schema| Node::Schema(Arc::new(schema))),
            "$expr" => self.expression(value).map(Node::Expression),
            "$claim" | "$param" => {
                self.error_with(
                    format!("`{key}` is only allowed in the place of a value"),
                    "write it after a field: `customer: { $claim: sub }`",
                );
                None
            }
            _ => {
                let hint = names::hint(key, names::Where::TopLevel);
                self.error(names::complaint(key, names::Where::TopLevel), hint);
                None
            }
        }
    }

    fn branches(&mut self, key: &str, value: &Bson) -> Option<Vec<OpenNode>> {
        let branches = match value {
            Bson::Array(branches) if !branches.is_empty() => branches,
            _ => {
                self.error_with(
                    format!("`{key}` takes a list of conditions that is not empty"),
                    "for example `$or: [{ status: new }, { total: { $gt: 100 } }]`",
                );
                return None;
            }
        };
        let mut nodes = Vec::new();
        for (index, branch) in branches.iter().enumerate() {
            if self.is_full() || self.conditions > MAX_CONDITIONS {
                break;
            }
            self.at(Step::Index(index), |parser| {
                parser.count_condition();
                match branch {
                    Bson::Document(document) => {
                        nodes.extend(parser.nested(|parser| parser.document(document)));
                    }
                    _ => parser.error(format!("a branch of `{key}` is a document"), None),
                }
            });
        }
        Some(nodes)
    }

    fn field(&mut self, key: &str, value: &Bson, nodes: &mut Vec<OpenNode>) {
        let numeric = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if key.contains('\0') {
            self.error("a field name with a NUL", None);
        }
        if key.split('.').count() > MAX_PARTS {
            self.error(format!("a path of more than {MAX_PARTS} parts"), None);
        }
        if key.split('.').filter(numeric).count() > MAX_NUMERIC_PARTS {
            self.error(format!("a path with more than {MAX_NUMERIC_PARTS} numeric parts"), None);
        }
        let path = Arc::new(Path::new(key));
        if let Some(operators) = self.operators_in(value) {
            self.operators(&path, operators, Context::Field, nodes);
            return;
        }
        self.count_condition();
        if let Bson::RegularExpression(regex) = value {
            let pattern = self.pattern(regex.pattern.as_str(), regex.options.as_str());
            nodes.extend(pattern.map(|pattern| Node::Field {
                path,
                test: Test::Operator(Operator::Regex(pattern)),
            }));
            return;
        }
        self.refuse_operators_inside(value);
        let operand = self.value(value, Role::Equality);
        let test = Test::Compare(crate::matcher::value::compare::Comparison::Equal, operand);
        nodes.push(Node::Field { path, test });
    }

    /// The operators, if the value is a document of operators rather than a value.
    pub fn operators_in<'v>(&self, value: &'v Bson) -> Option<&'v Document> {
        let document = value.as_document()?;
        let first = document.keys().next()?;
        // A DBRef is a value, in spite of its dollars; so is a placeholder.
        let is_value = matches!(first.as_str(), "$ref" | "$id" | "$db" | "$claim" | "$param");
        (first.starts_with('$') && !is_value).then_some(document)
    }

    /// `{ a: { b: { $gt: 1 } } }` compares `a` with a document that holds a field named `$gt`:
    /// almost surely not what was meant.
    fn refuse_operators_inside(&mut self, value: &Bson) {
        let Bson::Document(document) = value else { return };
        for (key, inner) in document {
            let Some(operators) = self.operators_in(inner) else { continue };
            let Some(operator) = operators.keys().next() else { continue };
            if !names::is_known(operator) || self.is_full() {
                continue;
            }
            let outer = match self.path.last() {
                Some(Step::Key(outer)) => outer.to_string(),
                _ => String::new(),
            };
            let operator = operator.clone();
            self.at_key(key, |parser| {
                parser.error(
                    format!("`{operator}` is inside a document that is compared as a whole"),
                    Some(format!(
                        "write the path with a dot: `{outer}.{key}`; \
                         or `$eq` if a field named `{operator}` is meant"
                    )),
                );
            });
        }
    }

    /// A value, which may be a placeholder or have some inside.
    pub fn value(&mut self, value: &Bson, role: Role) -> Operand {
        if let Some(placeholder) = operand::as_placeholder(value) {
            self.note(placeholder.clone(), role.clone());
            return Operand::Open(placeholder, role);
        }
        let before = self.uses.len();
        self.placeholders_inside(value);
        if self.uses.len() > before {
            Operand::Nested(Arc::new(value.clone()))
        } else {
            Operand::Fixed(crate::event::raw::Owned::from_bson(value))
        }
    }

    fn placeholders_inside(&mut self, value: &Bson) {
        if matches!(value, Bson::Document(_) | Bson::Array(_)) {
            self.nested(|parser| parser.placeholders_at(value));
        }
    }

    fn placeholders_at(&mut self, value: &Bson) {
        match value {
            Bson::Document(document) => {
                let stray = ["$claim", "$param"].into_iter().find(|key| document.contains_key(key));
                if let Some(key) = stray {
                    self.malformed_placeholder(key, document);
                }
                for (key, inner) in document {
                    self.at_key(key, |parser| parser.inner_value(inner));
                }
            }
            Bson::Array(values) => {
                for (index, inner) in values.iter().enumerate() {
                    self.at(Step::Index(index), |parser| parser.inner_value(inner));
                }
            }
            _ => {}
        }
    }

    fn inner_value(&mut self, value: &Bson) {
        match operand::as_placeholder(value) {
            Some(placeholder) => self.note(placeholder, Role::Value),
            None => self.placeholders_inside(value),
        }
    }

    fn malformed_placeholder(&mut self, key: &str, document: &Document) {
        let has_type = document.contains_key("type") && document.len() == 2;
        let hint = match key {
            "$claim" if has_type && !matches!(document.get(key), Some(Bson::String(_))) => {
                "write `{ $claim: sub, type: objectId }`, with a dot for nested claims"
            }
            "$claim" if has_type => {
                return self.error_with(
                    "the `type` of a claim is one word",
                    "write `{ $claim: teams, type: objectId }`: a list in the claim is a set of it",
                );
            }
            "$claim" if document.len() > 1 => {
                "write `{ $claim: sub }`, or `{ $claim: sub, type: objectId }`"
            }
            "$claim" => "write `{ $claim: sub }`, with a dot for nested claims",
            _ if has_type => {
                "write `{ $param: status }`, and its type under `params`: \
                 `params: { status: { type: string } }`"
            }
            _ => "write `{ $param: status }`, the name of a parameter",
        };
        if document.len() > 1 && !(has_type && key == "$claim") {
            self.error_with(format!("`{key}` must be the only key of its document"), hint);
        } else {
            self.error_with(format!("`{key}` takes a name"), hint);
        }
    }

    /// The list of an `$in`, `$nin` or `$all`.
    pub fn set(&mut self, operator: &str, value: &Bson) -> Option<OpenSet> {
        if let Some(placeholder) = operand::as_placeholder(value) {
            self.note(placeholder.clone(), Role::Set);
            return Some(OpenSet::Whole(placeholder));
        }
        let Bson::Array(members) = value else {
            self.error_with(
                format!("`{operator}` takes a list"),
                "for example `[new, paid]`, or a placeholder that stands for one",
            );
            return None;
        };
        self.count_values(members.len());
        let (mut values, mut regexes) = (Vec::new(), Vec::new());
        for (index, member) in members.iter().enumerate() {
            self.at(Step::Index(index), |parser| match member {
                Bson::RegularExpression(regex) => {
                    regexes.extend(parser.pattern(regex.pattern.as_str(), regex.options.as_str()));
                }
                Bson::Undefined => parser.undefined(),
                _ if parser.operators_in(member).is_some() => parser.error_with(
                    format!("an operator inside the list of `{operator}`"),
                    "it lists values; for alternatives of conditions use `$or`",
                ),
                _ => values.push(parser.value(member, Role::Value)),
            });
        }
        Some(OpenSet::Listed { values, regexes })
    }

    /// Reports an `undefined`, which no condition may compare with.
    pub fn undefined(&mut self) {
        self.error_with("`undefined` cannot be compared", "use `null`");
    }

    /// Compiles a regular expression. `None` if it is invalid or too large, which is then reported.
    pub fn pattern(&mut self, source: &str, options: &str) -> Option<Arc<Pattern>> {
        match Pattern::new(source, options, &mut self.regexes) {
            Ok(pattern) => Some(Arc::new(pattern)),
            Err((message, hint)) => {
                let literal = "to match a special character itself, write `\\` before it, and single \
                               quotes around the pattern: '\\('";
                self.error(message, hint.or_else(|| Some(literal.to_owned())));
                None
            }
        }
    }

    /// Runs `inner` below an `$elemMatch`.
    pub fn below_element<R>(&mut self, inner: impl FnOnce(&mut Self) -> R) -> Option<R> {
        self.elements += 1;
        let result = self.nested(inner);
        self.elements -= 1;
        result
    }
}

/// One condition needs no list around it.
pub(crate) fn single_or(mut nodes: Vec<OpenNode>, wrap: fn(Vec<OpenNode>) -> OpenNode) -> OpenNode {
    if nodes.len() == 1
        && let Some(only) = nodes.pop()
    {
        return only;
    }
    wrap(nodes)
}
