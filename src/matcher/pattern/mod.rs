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
/// What most take at most, and are counted as.
const USUAL_BYTES: usize = 64 << 10;
/// What all expressions of one filter may take.
pub(crate) const TOTAL_BYTES: usize = 16 << 20;
const MAX_SOURCE_BYTES: usize = 16 << 10;

/// What the regular expressions of one filter take. The crate does not tell the size of one, but
/// whether it is within a limit.
#[derive(Debug, Default)]
pub(crate) struct RegexBudget(usize);

/// Why an expression is refused, and what to do about it.
pub(crate) type PatternError = (String, Option<String>);

impl RegexBudget {
    /// Compiles within what is left.
    pub fn compile(&mut self, builder: &mut RegexBuilder) -> Result<Regex, PatternError> {
        builder.dfa_size_limit(SIZE_LIMIT_BYTES);
        for limit in [USUAL_BYTES, SIZE_LIMIT_BYTES] {
            if self.0 + limit > TOTAL_BYTES {
                let most = TOTAL_BYTES >> 20;
                return Err((
                    format!("all regular expressions of the filter take more than {most} MiB"),
                    Some("join some of them with `|`, or use `$in`".to_owned()),
                ));
            }
            match builder.size_limit(limit).build() {
                Ok(regex) => {
                    self.0 += limit;
                    return Ok(regex);
                }
                Err(regex::Error::CompiledTooBig(_)) if limit < SIZE_LIMIT_BYTES => {}
                Err(error) => {
                    // Finding out has cost as much.
                    self.0 += limit;
                    return Err(complaint(&error));
                }
            }
        }
        Err(complaint(&regex::Error::CompiledTooBig(SIZE_LIMIT_BYTES)))
    }

    /// So many bytes are taken, at most.
    pub fn spent(&self) -> usize {
        self.0
    }

    /// Refuses what is too long even to read.
    pub fn check_source(source: &str) -> Result<(), PatternError> {
        if source.len() <= MAX_SOURCE_BYTES {
            return Ok(());
        }
        let message = format!("a regular expression of more than {MAX_SOURCE_BYTES} bytes");
        Err((message, Some("split it into several conditions".to_owned())))
    }
}

impl Pattern {
    /// Compiles, or says why not and what to do about it.
    pub fn new(
        source: &str,
        options: &str,
        budget: &mut RegexBudget,
    ) -> Result<Pattern, PatternError> {
        RegexBudget::check_source(source)?;
        for option in options.chars() {
            if !"imsxu".contains(option) {
                return Err((
                    format!("unknown option `{option}` of a regular expression"),
                    Some("the options are i, m, s, x and u".to_owned()),
                ));
            }
        }
        let flags =
            translate::Flags { multi_line: options.contains('m'), extended: options.contains('x') };
        let translated = translate::translate(source, flags)?;
        let mut builder = RegexBuilder::new(&translated);
        builder.case_insensitive(options.contains('i')).dot_matches_new_line(options.contains('s'));
        let regex = budget.compile(&mut builder)?;
        let mut options: Vec<char> = options.chars().collect();
        options.sort_unstable();
        options.dedup();
        Ok(Pattern { source: source.to_owned(), options: options.into_iter().collect(), regex })
    }

    /// As written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// As written, each once.
    pub fn options(&self) -> &str {
        &self.options
    }

    /// Whether a text matches. What is not UTF-8 matches nothing, as in `mongod`.
    pub fn is_in(&self, text: &[u8]) -> bool {
        std::str::from_utf8(text).is_ok_and(|text| self.regex.is_match(text))
    }

    /// Whether the value is a text that matches, or the same regular expression.
    pub fn matches(&self, value: Value<'_>) -> bool {
        match value.tag {
            tag::STRING | tag::SYMBOL => self.is_in(value.text()),
            tag::REGEX => value.regex() == (self.source.as_bytes(), self.options.as_bytes()),
            _ => false,
        }
    }
}

fn complaint(error: &regex::Error) -> PatternError {
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
