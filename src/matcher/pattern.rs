//! Regular expressions: PCRE as written in filters, run by the linear-time engine of `regex`.

use std::hash::{Hash, Hasher};

use regex::bytes::{Regex, RegexBuilder};

use crate::event::raw::{Value, tag};

/// A compiled `$regex`.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    source: String,
    options: String,
    regex: Regex,
}

/// What one expression may take when compiled. Counted repetitions multiply.
const SIZE_LIMIT_BYTES: usize = 1 << 20;

impl Pattern {
    /// Compiles, or says why not and what to do about it.
    pub fn new(source: &str, options: &str) -> Result<Pattern, (String, Option<String>)> {
        let mut builder = RegexBuilder::new(source);
        builder.size_limit(SIZE_LIMIT_BYTES);
        for option in options.chars() {
            match option {
                'i' => builder.case_insensitive(true),
                'm' => builder.multi_line(true),
                's' => builder.dot_matches_new_line(true),
                'x' => builder.ignore_whitespace(true),
                'u' => &mut builder,
                other => {
                    return Err((
                        format!("unknown option `{other}` of a regular expression"),
                        Some("known are i, m, s, x and u".to_owned()),
                    ));
                }
            };
        }
        let regex = builder.build().map_err(|error| (error.to_string(), None))?;
        let mut options: Vec<char> = options.chars().collect();
        options.sort_unstable();
        options.dedup();
        Ok(Pattern { source: source.to_owned(), options: options.into_iter().collect(), regex })
    }

    /// Whether the value is a text that matches, or the same regular expression.
    pub fn matches(&self, value: Value<'_>) -> bool {
        match value.tag {
            tag::STRING | tag::SYMBOL => self.regex.is_match(value.text()),
            tag::REGEX => value.regex() == (self.source.as_bytes(), self.options.as_bytes()),
            _ => false,
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
