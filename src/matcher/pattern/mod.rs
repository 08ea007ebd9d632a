//! Regular expressions: PCRE as written in filters, run by the linear-time engine of `regex`.
//!
//! The engine keeps scratch memory per thread and may allocate it on a first match; that is its
//! price for linear time.

use std::hash::{Hash, Hasher};

use regex::{Regex, RegexBuilder};

use crate::event::raw::{Value, tag};

mod class;
mod translate;

/// A compiled `$regex`.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    source: String,
    options: String,
    regex: Regex,
}

/// What one expression may take when compiled. Counted repetitions multiply.
const SIZE_LIMIT_BYTES: usize = 1 << 20;
const MAX_SOURCE_BYTES: usize = 16 << 10;

impl Pattern {
    /// Compiles, or says why not and what to do about it.
    pub fn new(source: &str, options: &str) -> Result<Pattern, (String, Option<String>)> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err((
                format!("a regular expression of more than {MAX_SOURCE_BYTES} bytes"),
                None,
            ));
        }
        for option in options.chars() {
            if !"imsxu".contains(option) {
                return Err((
                    format!("unknown option `{option}` of a regular expression"),
                    Some("known are i, m, s, x and u".to_owned()),
                ));
            }
        }
        let flags =
            translate::Flags { multi_line: options.contains('m'), extended: options.contains('x') };
        let translated = translate::translate(source, flags)?;
        let regex = RegexBuilder::new(&translated)
            .size_limit(SIZE_LIMIT_BYTES)
            .dfa_size_limit(SIZE_LIMIT_BYTES)
            .case_insensitive(options.contains('i'))
            .dot_matches_new_line(options.contains('s'))
            .build()
            .map_err(|error| complaint(&error))?;
        let mut options: Vec<char> = options.chars().collect();
        options.sort_unstable();
        options.dedup();
        Ok(Pattern { source: source.to_owned(), options: options.into_iter().collect(), regex })
    }

    /// Whether the value is a text that matches, or the same regular expression.
    pub fn matches(&self, value: Value<'_>) -> bool {
        match value.tag {
            // What is not UTF-8 matches nothing, as in `mongod`.
            tag::STRING | tag::SYMBOL => {
                std::str::from_utf8(value.text()).is_ok_and(|text| self.regex.is_match(text))
            }
            tag::REGEX => value.regex() == (self.source.as_bytes(), self.options.as_bytes()),
            _ => false,
        }
    }
}

fn complaint(error: &regex::Error) -> (String, Option<String>) {
    match error {
        regex::Error::CompiledTooBig(_) => (
            "a regular expression that is too large when compiled".to_owned(),
            Some("use smaller counts in its repetitions".to_owned()),
        ),
        error => {
            // The crate draws the place into its own text; the pattern there is the translated
            // one, so only the last line helps.
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            (format!("not a regular expression: {reason}"), None)
        }
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        (&self.source, &self.options) == (&other.source, &other.options)
    }
}

impl Eq for Pattern {}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.source, &self.options).hash(state);
    }
}
