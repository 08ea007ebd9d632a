//! Reading `$map`, `$filter`, `$reduce` and `$let`, and the variables that they bring.

use std::sync::Arc;

use bson::Bson;

use super::Expression;
use super::each::Each;
use crate::diagnostic::nearest;
use crate::matcher::operand::Operand;
use crate::matcher::parse::Parser;
use crate::matcher::path::Path;

type Open = Expression<Operand>;

/// Variables of one `$let`.
const MAX_VARIABLES: usize = 64;

impl Parser {
    /// `$$name` or `$$name.path`, where `name` is one that a surrounding expression gives.
    pub(super) fn variable(&mut self, name: &str, path: Option<&str>) -> Option<Open> {
        let place = self.variables.iter().rev().position(|known| **known == *name);
        let Some(place) = place else {
            let hint = match nearest(name, self.variables.iter().map(|name| &**name)) {
                Some(near) => format!("did you mean `$${near}`?"),
                None => "the variables are `$$ROOT`, `$$CURRENT` and those that `$let`, `$map`, \
                     `$filter` and `$reduce` define; for a text that starts with a dollar use \
                     `$literal`"
                    .to_owned(),
            };
            self.error(format!("unknown variable `$${name}`"), Some(hint));
            return None;
        };
        let path = match path {
            None => Arc::new(Path::itself()),
            Some(path) => self.sound_path(path)?,
        };
        Some(Expression::Variable(place, path))
    }

    /// An expression that sees these variables, the last one innermost.
    fn with_variables(&mut self, names: &[&str], value: &Bson) -> Option<Open> {
        let before = self.variables.len();
        self.variables.extend(names.iter().map(|name| Box::from(*name)));
        let parsed = self.expression(value);
        self.variables.truncate(before);
        parsed
    }

    fn check_variable(&mut self, name: &str) -> Option<()> {
        let is_name = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if is_name {
            return Some(());
        }
        let hint = match name {
            "CURRENT" => "paths begin at `$$CURRENT`, and redefining it is not supported",
            _ => "use a lower-case letter, then letters, digits and _",
        };
        self.error_with(format!("`{name}` is not a valid variable name"), hint);
        None
    }

    /// The name under `as`; without one, `this`.
    fn element_name<'v>(&mut self, function: &str, value: Option<&'v Bson>) -> Option<&'v str> {
        match value {
            None => Some("this"),
            Some(Bson::String(name)) => {
                self.at_key("as", |parser| parser.check_variable(name))?;
                Some(name)
            }
            Some(_) => {
                self.error(format!("`as` of `{function}` is a name"), None);
                None
            }
        }
    }

    /// `$map` and `$filter`.
    pub(super) fn each(&mut self, name: &str, operand: &Bson) -> Option<Open> {
        let (each, body_key, known): (_, _, &[&str]) = match name {
            "$map" => (Each::Map, "in", &["input", "in", "as"]),
            _ => (Each::Filter, "cond", &["input", "cond", "as", "limit"]),
        };
        let document = self.named(name, operand, known, 2)?;
        let element = self.element_name(name, document.get("as"))?;
        let input = self.argument(document, "input")?;
        let body = document.get(body_key)?;
        let body = self.at_key(body_key, |parser| parser.with_variables(&[element], body));
        let mut parts = vec![input?, body?];
        if document.contains_key("limit") {
            parts.push(self.argument(document, "limit")??);
        }
        Some(Expression::Each(each, parts))
    }

    pub(super) fn reduce(&mut self, operand: &Bson) -> Option<Open> {
        let document = self.named("$reduce", operand, &["input", "initialValue", "in"], 3)?;
        let input = self.argument(document, "input")?;
        let initial = self.argument(document, "initialValue")?;
        let body = document.get("in")?;
        let body = self.at_key("in", |parser| parser.with_variables(&["value", "this"], body));
        Some(Expression::Each(Each::Reduce, vec![input?, initial?, body?]))
    }

    pub(super) fn let_in(&mut self, operand: &Bson) -> Option<Open> {
        let document = self.named("$let", operand, &["vars", "in"], 2)?;
        let variables = match document.get("vars") {
            Some(Bson::Document(variables)) if variables.len() <= MAX_VARIABLES => variables,
            _ => {
                self.error(
                    format!("`vars` is a document of up to {MAX_VARIABLES} variables"),
                    None,
                );
                return None;
            }
        };
        let mut values = Vec::new();
        self.at_key("vars", |parser| {
            for (name, value) in variables {
                values.push(parser.at_key(name, |parser| {
                    parser.check_variable(name);
                    parser.expression(value)
                }));
            }
        });
        let names: Vec<&str> = variables.keys().map(String::as_str).collect();
        let body = document.get("in")?;
        let body = self.at_key("in", |parser| parser.with_variables(&names, body));
        // Only now, so that every mistake is found.
        let values: Option<Vec<Open>> = values.into_iter().collect();
        Some(Expression::Let(values?, Box::new(body?)))
    }
}
