//! Reading expressions.

use std::sync::Arc;

use bson::{Bson, Document};

use super::Expression;
use super::function::{FUNCTIONS, Function, MANY, SPECIAL};
use crate::diagnostic::nearest;
use crate::event::raw::Owned;
use crate::matcher::operand::{self, Operand};
use crate::matcher::parse::Parser;
use crate::matcher::path::Path;
use crate::matcher::{Role, Step};

type Open = Expression<Operand>;

impl Parser {
    /// Any expression: a literal, a `$field.path`, a `{ $function: … }`, a list or a document.
    pub fn expression(&mut self, value: &Bson) -> Option<Open> {
        self.count_condition();
        if operand::as_placeholder(value).is_some() {
            return Some(Expression::Literal(self.value(value, Role::Value)));
        }
        match value {
            Bson::String(text) => self.text_expression(text),
            Bson::Array(values) => {
                let values = self.nested(|parser| parser.expressions(values))??;
                Some(Expression::Array(values))
            }
            Bson::Document(document) => {
                self.nested(|parser| parser.document_expression(document))?
            }
            other => Some(Expression::Literal(Operand::Fixed(Owned::from_bson(other)))),
        }
    }

    fn expressions(&mut self, values: &[Bson]) -> Option<Vec<Open>> {
        let mut all = Vec::with_capacity(values.len());
        for (index, value) in values.iter().enumerate() {
            let parsed = self.at(Step::Index(index), |parser| parser.expression(value));
            all.push(parsed);
        }
        // Only now, so that every mistake is found.
        all.into_iter().collect()
    }

    fn text_expression(&mut self, text: &str) -> Option<Open> {
        let Some(path) = text.strip_prefix('$') else {
            let literal = Owned::from_bson(&Bson::String(text.to_owned()));
            return Some(Expression::Literal(Operand::Fixed(literal)));
        };
        let Some(variable) = path.strip_prefix('$') else { return self.field_path(path) };
        let (name, rest) = match variable.split_once('.') {
            Some((name, rest)) => (name, Some(rest)),
            None => (variable, None),
        };
        match (name, rest) {
            ("ROOT" | "CURRENT", None) => Some(Expression::Root),
            ("ROOT" | "CURRENT", Some(rest)) => self.field_path(rest),
            ("NOW" | "CLUSTER_TIME", _) => {
                self.error(
                    format!("`$${name}` is not supported: a stream follows changes, not the clock"),
                    None,
                );
                None
            }
            ("REMOVE" | "DESCEND" | "PRUNE" | "KEEP" | "SEARCH_META" | "USER_ROLES", _) => {
                self.error(
                    format!("`$${name}` is not supported: it is for pipelines, not for filters"),
                    None,
                );
                None
            }
            (name, path) => self.variable(name, path),
        }
    }

    fn field_path(&mut self, path: &str) -> Option<Open> {
        self.sound_path(path).map(Expression::Path)
    }

    /// A path in which a number is a name, as everywhere in expressions.
    pub(super) fn sound_path(&mut self, path: &str) -> Option<Arc<Path>> {
        let is_sound = |part: &str| !part.is_empty() && !part.starts_with('$');
        if !path.split('.').all(is_sound) || path.contains('\0') {
            self.error_with(
                format!("`${path}` is not a field path"),
                "write it as `$a.b`; for a text that starts with a dollar use `$literal`",
            );
            return None;
        }
        if path.split('.').count() > super::super::parse::MAX_PARTS {
            self.error("a path with too many parts", None);
            return None;
        }
        Some(Arc::new(Path::new(path)))
    }

    fn document_expression(&mut self, document: &Document) -> Option<Open> {
        let operator = document.keys().find(|key| key.starts_with('$'));
        let Some(operator) = operator else {
            let mut fields = Vec::new();
            for (key, value) in document {
                let parsed = self.at_key(key, |parser| {
                    if key.contains(['.', '\0']) {
                        parser.error("a field name with a dot", None);
                        return None;
                    }
                    parser.expression(value)
                });
                fields.extend(parsed.map(|value| (key.as_str().into(), value)));
            }
            return Some(Expression::Document(fields));
        };
        if document.len() > 1 {
            self.error_with(
                format!("`{operator}` must be the only key of its document"),
                "combine several with `$and`",
            );
            return None;
        }
        let operand = document.get(operator)?;
        self.at_key(operator, |parser| parser.call(operator, operand))
    }

    fn call(&mut self, name: &str, operand: &Bson) -> Option<Open> {
        match name {
            "$literal" => Some(Expression::Literal(Operand::Fixed(Owned::from_bson(operand)))),
            "$cond" if matches!(operand, Bson::Document(_)) => self.conditional(operand),
            "$switch" => self.switch(operand),
            "$regexMatch" => self.regex_match(operand),
            "$map" | "$filter" => self.each(name, operand),
            "$reduce" => self.reduce(operand),
            "$let" => self.let_in(operand),
            _ if self.is_date_call(name, operand) => self.date_call(name, operand),
            "$isNumber" => {
                let argument = self.arguments(name, operand, 1, 1)?;
                Some(Expression::Call(Function::IsNumber, argument))
            }
            _ => {
                let known = FUNCTIONS.iter().find(|(known, ..)| *known == name);
                let Some((_, function, least, most)) = known else {
                    self.unknown_function(name);
                    return None;
                };
                let mut arguments = self.arguments(name, operand, *least, *most)?;
                if matches!(function, Function::Add | Function::Multiply) {
                    // As `mongod` does. It decides which comes first, a null that settles the
                    // result or a value that cannot be added.
                    arguments.sort_by_key(|argument| matches!(argument, Expression::Literal(_)));
                }
                Some(Expression::Call(*function, arguments))
            }
        }
    }

    fn unknown_function(&mut self, name: &str) {
        let known: Vec<&str> = FUNCTIONS.iter().map(|(known, ..)| *known).chain(SPECIAL).collect();
        let hint = match name {
            "$claim" | "$param" => {
                Some(format!("write `{{ {name}: name }}`, where the name is a text"))
            }
            "$function" | "$accumulator" => Some("it runs JavaScript".to_owned()),
            "$dateFromString" => {
                Some("dates are not parsed from text; compare dates with dates".to_owned())
            }
            "$sum" | "$avg" | "$min" | "$max" => {
                Some("write it with `$add`, or with `$reduce` for a list".to_owned())
            }
            _ => Some(match nearest(name, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the functions here are {}", known.join(", ")),
            }),
        };
        self.error(format!("`{name}` is not supported in `$expr`"), hint);
    }

    /// The arguments: a list of them, or a single one by itself.
    fn arguments(
        &mut self,
        name: &str,
        operand: &Bson,
        least: usize,
        most: usize,
    ) -> Option<Vec<Open>> {
        let arguments = match operand {
            Bson::Array(values) => self.expressions(values)?,
            single => vec![self.expression(single)?],
        };
        if (least..=most).contains(&arguments.len()) {
            return Some(arguments);
        }
        let count = match (least, most) {
            (least, MANY) => format!("at least {least} arguments"),
            (1, 1) => "one argument".to_owned(),
            (least, _) => format!("{least} arguments"),
        };
        self.error(format!("`{name}` takes {count}, not {}", arguments.len()), None);
        None
    }

    /// The named arguments of a function that has some.
    pub(super) fn named<'v>(
        &mut self,
        name: &str,
        operand: &'v Bson,
        known: &[&str],
        required: usize,
    ) -> Option<&'v Document> {
        let Bson::Document(document) = operand else {
            self.error(format!("`{name}` takes a document with {}", known.join(", ")), None);
            return None;
        };
        let before = self.errors.len();
        for key in document.keys().filter(|key| !known.contains(&key.as_str())) {
            let near =
                nearest(key, known.iter().copied()).map(|near| format!("did you mean `{near}`?"));
            self.error(format!("`{name}` has no argument `{key}`"), near);
        }
        for key in known.iter().take(required).filter(|key| !document.contains_key(**key)) {
            self.error(format!("`{name}` needs `{key}`"), None);
        }
        (self.errors.len() == before).then_some(document)
    }

    /// One named argument that is there; the inner nothing after a mistake in it.
    pub(super) fn argument(&mut self, document: &Document, key: &str) -> Option<Option<Open>> {
        let value = document.get(key)?;
        Some(self.at_key(key, |parser| parser.expression(value)))
    }

    fn conditional(&mut self, operand: &Bson) -> Option<Open> {
        let keys = ["if", "then", "else"];
        let document = self.named("$cond", operand, &keys, 3)?;
        let mut arguments = Vec::new();
        for key in keys {
            let value = document.get(key)?;
            arguments.push(self.at_key(key, |parser| parser.expression(value))?);
        }
        Some(Expression::Call(Function::Cond, arguments))
    }

    /// A `$switch` is a chain of `$cond`.
    fn switch(&mut self, operand: &Bson) -> Option<Open> {
        let document = self.named("$switch", operand, &["branches", "default"], 1)?;
        let mut result = match document.get("default") {
            Some(value) => self.at_key("default", |parser| parser.expression(value))?,
            None => Expression::Call(Function::Fail, Vec::new()),
        };
        let branches = match document.get("branches") {
            Some(Bson::Array(branches)) if (1..=MAX_BRANCHES).contains(&branches.len()) => branches,
            _ => {
                self.error(format!("`branches` lists 1 to {MAX_BRANCHES} branches"), None);
                return None;
            }
        };
        for (index, branch) in branches.iter().enumerate().rev() {
            let parsed = self.at(Step::Index(index), |parser| {
                let document = parser.named("$switch", branch, &["case", "then"], 2)?;
                let case = document.get("case")?;
                let then = document.get("then")?;
                Some((
                    parser.at_key("case", |parser| parser.expression(case))?,
                    parser.at_key("then", |parser| parser.expression(then))?,
                ))
            });
            let (case, then) = parsed?;
            result = Expression::Call(Function::Cond, vec![case, then, result]);
        }
        Some(result)
    }

    fn regex_match(&mut self, operand: &Bson) -> Option<Open> {
        let keys = ["input", "regex", "options"];
        let document = self.named("$regexMatch", operand, &keys, 2)?;
        let (input, regex) = (document.get("input")?, document.get("regex")?);
        let input = self.at_key("input", |parser| parser.expression(input))?;
        let options = match document.get("options") {
            None => "",
            Some(Bson::String(options)) => options,
            Some(_) => {
                self.error("`options` is a text", None);
                return None;
            }
        };
        let pattern = match regex {
            Bson::String(source) if !source.starts_with('$') => self.pattern(source, options),
            Bson::RegularExpression(regex) if regex.options.is_empty() || options.is_empty() => {
                let options = if options.is_empty() { regex.options.as_str() } else { options };
                self.pattern(regex.pattern.as_str(), options)
            }
            _ => {
                self.error_with(
                    "the pattern of `$regexMatch` must be written in the filter",
                    "a pattern is code, and cannot come from a document or a client",
                );
                None
            }
        }?;
        Some(Expression::RegexMatch(Box::new(input), pattern))
    }
}

/// A chain of conditions is as deep as it is long.
const MAX_BRANCHES: usize = 64;
