//! The limits of a parameter's values.

use bson::Bson;
use regex::Regex;

use crate::event::raw::Owned;
use crate::filter::value;
use crate::matcher::node::Set;
use crate::matcher::value::compare::{self, Comparison};

/// The longest value of a parameter without `maxLength`, in bytes.
pub(in crate::filter) const MAX_VALUE_BYTES: usize = 1024;
/// How many values of an `enum` are listed in the error for another value.
const MAX_NAMED: usize = 20;
/// So much of each, in characters.
const MAX_NAMED_CHARS: usize = 64;

/// What a value may be, beyond its type.
#[derive(Debug, Clone, Default)]
pub(in crate::filter) struct ValueLimits {
    pub allowed: Option<Allowed>,
    pub least: Option<Limit>,
    pub most: Option<Limit>,
    /// In characters.
    pub max_length: Option<usize>,
    pub pattern: Option<Pattern>,
}

/// `enum`: sorted once, since it is asked for every value that a client sends.
#[derive(Debug, Clone)]
pub(in crate::filter) struct Allowed {
    pub written: Vec<Bson>,
    set: Set,
}

/// `min` or `max`.
#[derive(Debug, Clone)]
pub(in crate::filter) struct Limit {
    pub written: Bson,
    pub value: Owned,
}

/// `pattern`: the whole value must match.
#[derive(Debug, Clone)]
pub(in crate::filter) struct Pattern {
    pub written: String,
    pub regex: Regex,
}

impl ValueLimits {
    /// Whether a value of the right type may be. The error is what is wrong with it, for
    /// "`x` …".
    pub fn check(&self, value: &Bson) -> Result<(), String> {
        if let Bson::String(text) = value {
            let length = text.chars().count();
            match self.max_length {
                Some(most) if length > most => {
                    return Err(format!("is longer than {most} characters"));
                }
                None if text.len() > MAX_VALUE_BYTES => {
                    return Err(format!("is longer than {MAX_VALUE_BYTES} bytes"));
                }
                _ => {}
            }
        }
        // By the matcher itself: there is one comparison of values in this program.
        let raw = Owned::from_bson(value);
        if let Some(allowed) = &self.allowed
            && !allowed.set.contains(Some(raw.get()))
        {
            return Err(format!("is not one of {}", allowed.named()));
        }
        if let Some(least) = &self.least
            && !least.admits(Comparison::GreaterOrEqual, &raw)
        {
            return Err(format!("is less than {}", value::text(&least.written)));
        }
        if let Some(most) = &self.most
            && !most.admits(Comparison::LessOrEqual, &raw)
        {
            return Err(format!("is more than {}", value::text(&most.written)));
        }
        if let (Some(pattern), Bson::String(text)) = (&self.pattern, value)
            && !pattern.regex.is_match(text)
        {
            return Err(format!("does not match {}", pattern.written));
        }
        Ok(())
    }
}

impl Allowed {
    /// From the values of `enum`, all of the declared type.
    pub fn new(written: Vec<Bson>) -> Allowed {
        let set = Set::new(written.iter().map(Owned::from_bson).collect(), Vec::new());
        Allowed { written, set }
    }

    /// For a sentence: the first of them.
    fn named(&self) -> String {
        let short = |value: &Bson| {
            let text = value::text(value);
            match text.char_indices().nth(MAX_NAMED_CHARS) {
                Some((end, _)) => format!("{}…", &text[..end]),
                None => text,
            }
        };
        let named: Vec<String> = self.written.iter().take(MAX_NAMED).map(short).collect();
        match self.written.len() - named.len() {
            0 => named.join(", "),
            more => format!("{} and {more} more", named.join(", ")),
        }
    }
}

impl Limit {
    /// From the value of `min` or `max`, which has the declared type.
    pub fn new(written: Bson) -> Limit {
        let value = Owned::from_bson(&written);
        Limit { written, value }
    }

    /// As MongoDB compares: values of other types are not admitted.
    pub fn admits(&self, comparison: Comparison, value: &Owned) -> bool {
        compare::passes(comparison, Some(value.get()), self.value.get())
    }
}
