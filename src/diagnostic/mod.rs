//! Mistakes in what people wrote, in settings, filter files and annotations: where they are, with
//! the line itself, and what to do. Knows neither filters nor settings.
//!
//! There is one kind of mistake, [`Diagnostic`], with one text for people (its `Display`) and two
//! forms for programs ([`Format`]). The reader of a text collects the diagnostics of a file in a
//! [`Reporter`], and reports all of them at once.

mod format;
mod nearest;
mod source;

pub use format::{Format, render};
pub use nearest::nearest;
pub(crate) use source::Lines;

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::yaml::Place;

/// How bad it is: only errors keep something from working.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file is not used, or the program does not start.
    Error,
    /// The file is used; what it says is probably not what was meant.
    Warning,
    /// Nothing is wrong.
    Note,
}

impl Severity {
    /// As written before the message, and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        }
    }
}

/// Where something is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nowhere: it is a built-in default.
    Default,
    /// In a file; a file as a whole is the first character of its first line.
    File { path: PathBuf, place: Place },
    /// In an environment variable, by name.
    Environment(String),
    /// In a flag, with its dashes.
    Flag(Cow<'static, str>),
    /// In an annotation of a Kubernetes object, by name.
    Annotation(String),
}

impl Source {
    pub(crate) fn file(path: &Path, place: Place) -> Source {
        Source::File { path: path.to_owned(), place }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("built-in default"),
            Source::File { path, place: Place { line, column, .. } } => {
                write!(f, "{}:{line}:{column}", path.display())
            }
            Source::Environment(name) => write!(f, "environment variable {name}"),
            Source::Flag(name) => f.write_str(name),
            Source::Annotation(name) => write!(f, "annotation {name}"),
        }
    }
}

/// One finding. Its `Display` is several lines: `file:line:column: error: …`, the source line, a
/// caret, and the hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    pub origin: Source,
    /// The setting that is meant, dotted; empty in filter files, whose messages name the key.
    pub key: String,
    pub message: String,
    pub hint: Option<String>,
    /// The line, or the part of it around the column; empty where there is none to show.
    pub source: String,
    /// Where in `source` the column is, from 1.
    pub source_column: usize,
    /// How many characters of `source` are meant; at least 1.
    pub source_width: usize,
}

/// How many errors of a file are reported, and how many warnings; the rest are counted.
pub(crate) const MAX_FINDINGS: usize = 100;

impl Diagnostic {
    /// A finding without a source line.
    pub(crate) fn new(
        severity: Severity,
        origin: Source,
        message: impl Into<String>,
    ) -> Diagnostic {
        Diagnostic {
            severity,
            origin,
            key: String::new(),
            message: in_one_line(message.into()),
            hint: None,
            source: String::new(),
            source_column: 1,
            source_width: 1,
        }
    }

    /// A finding about a file as a whole, which may not even be readable.
    pub(crate) fn of_file(severity: Severity, file: &Path, message: String) -> Diagnostic {
        Diagnostic::new(severity, Source::file(file, Place::START), message)
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Diagnostic {
        self.hint = Some(without_controls(hint.into(), |c| c == '\n'));
        self
    }

    /// The setting that it is about.
    pub(crate) fn key(mut self, key: impl Into<String>) -> Diagnostic {
        self.key = key.into();
        self
    }

    /// With the line that is meant, where it is in a file.
    pub(crate) fn with_source(mut self, lines: &Lines<'_>) -> Diagnostic {
        if let Source::File { place, .. } = self.origin {
            (self.source, self.source_column, self.source_width) = lines.excerpt(place);
        }
        self
    }

    /// Whether it keeps a file, or the program, from being used.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: ", self.origin, self.severity.as_str())?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        if !self.source.trim().is_empty() {
            // A tab stays a tab, so that the caret stands below its character at any tab width.
            let blank = |c: char| if c == '\t' { '\t' } else { ' ' };
            let indent: String =
                self.source.chars().take(self.source_column - 1).map(blank).collect();
            let room = (self.source.chars().count() + 1).saturating_sub(indent.chars().count());
            let caret = "^".repeat(self.source_width.min(room).max(1));
            write!(f, "\n    {}\n    {indent}{caret}", self.source.trim_end())?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

/// How much of a message is shown: what it repeats of a file may be long.
const MAX_MESSAGE_CHARS: usize = 2_000;

/// A message repeats what somebody has written: it stays one line, and nothing in it moves a terminal.
fn in_one_line(message: String) -> String {
    let mut message = without_controls(message, |_| false);
    if let Some((end, _)) = message.char_indices().nth(MAX_MESSAGE_CHARS) {
        message.truncate(end);
        message.push('…');
    }
    message
}

/// Replaces control characters, and those that turn the direction of a text, but for some.
fn without_controls(text: String, is_fine: impl Fn(char) -> bool) -> String {
    let turns = |c: char| matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    let is_bad = |c: char| (c.is_control() || turns(c)) && !is_fine(c);
    match text.contains(is_bad) {
        true => {
            text.chars().map(|c| if is_bad(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
        }
        false => text,
    }
}

/// Collects the findings of one file.
pub(crate) struct Reporter<'a> {
    file: &'a Path,
    lines: Lines<'a>,
    pub diagnostics: Vec<Diagnostic>,
    errors: usize,
    warnings: usize,
    notes: usize,
}

impl<'a> Reporter<'a> {
    /// `text` is the content of `file`; findings quote its lines.
    pub fn new(file: &'a Path, text: &'a str) -> Reporter<'a> {
        let lines = Lines::new(text);
        Reporter { file, lines, diagnostics: Vec::new(), errors: 0, warnings: 0, notes: 0 }
    }

    /// Adds an error, with what to do about it.
    pub fn error(&mut self, place: Place, message: impl Into<String>, hint: impl Into<String>) {
        self.add(Severity::Error, place, message.into(), Some(hint.into()));
    }

    /// Adds a warning, with what to do about it.
    pub fn warning(&mut self, place: Place, message: impl Into<String>, hint: impl Into<String>) {
        self.add(Severity::Warning, place, message.into(), Some(hint.into()));
    }

    /// Beyond a hundred of one severity, they are only counted.
    pub fn add(&mut self, severity: Severity, place: Place, message: String, hint: Option<String>) {
        let count = match severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
            Severity::Note => &mut self.notes,
        };
        *count += 1;
        if *count <= MAX_FINDINGS {
            let diagnostic = self.make(severity, place, message, hint);
            self.diagnostics.push(diagnostic);
        }
    }

    /// A finding that is not one of this file alone.
    pub fn make(
        &self,
        severity: Severity,
        place: Place,
        message: String,
        hint: Option<String>,
    ) -> Diagnostic {
        let found = Diagnostic::new(severity, Source::file(self.file, place), message);
        let found = match hint {
            Some(hint) => found.hint(hint),
            None => found,
        };
        found.with_source(&self.lines)
    }

    /// Also counts those that are not kept.
    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// Whether further errors are only counted, so that no hints have to be computed.
    pub fn is_full(&self) -> bool {
        self.errors >= MAX_FINDINGS
    }

    /// The findings in the order of the text; what was found first stays first on equal places.
    pub fn finish(mut self) -> Vec<Diagnostic> {
        self.diagnostics.sort_by_key(|diagnostic| match diagnostic.origin {
            Source::File { place, .. } => (place.line, place.column),
            _ => (0, 0),
        });
        let counts = [
            (Severity::Error, "error", self.errors),
            (Severity::Warning, "warning", self.warnings),
            (Severity::Note, "note", self.notes),
        ];
        for (severity, noun, count) in counts {
            let Some(more @ 1..) = count.checked_sub(MAX_FINDINGS) else { continue };
            let plural = if more == 1 { "" } else { "s" };
            let message = format!("and {more} more {noun}{plural} in this file");
            self.diagnostics.push(Diagnostic::of_file(severity, self.file, message));
        }
        self.diagnostics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(text: &str, place: Place) -> String {
        let mut reporter = Reporter::new(Path::new("a.yaml"), text);
        reporter.error(place, "wrong", "do it right");
        reporter.diagnostics[0].to_string()
    }

    #[test]
    fn the_caret_stands_below() {
        let place = Place { line: 2, column: 3, width: 4 };
        assert_eq!(
            show("x: 1\n\té abcd\n", place),
            "a.yaml:2:3: error: wrong\n    \té abcd\n    \t ^^^^\n  hint: do it right"
        );
        let place = Place { line: 1, column: 1, width: 99 };
        assert_eq!(
            show("ab\u{1b}\n", place),
            "a.yaml:1:1: error: wrong\n    ab�\n    ^^^^\n  hint: do it right"
        );
        assert_eq!(show("", place), "a.yaml:1:1: error: wrong\n  hint: do it right");
    }

    // A log line of somebody's own making, or a terminal that obeys.
    #[test]
    fn a_message_is_one_line_of_text() {
        let mut reporter = Reporter::new(Path::new("a.yaml"), "");
        let value = "public\nx\u{1b}[31m\u{202e}";
        reporter.error(Place::START, format!("`{value}` is no rule"), "write\npublic\0");
        reporter.error(Place::START, "x".repeat(300_000), "shorter");
        assert_eq!(
            reporter.diagnostics[0].to_string(),
            "a.yaml:1:1: error: `public�x�[31m�` is no rule\n  hint: write\npublic�"
        );
        assert_eq!(reporter.diagnostics[1].message.chars().count(), MAX_MESSAGE_CHARS + 1);
    }

    #[test]
    fn a_long_line_is_shown_in_part() {
        let text = format!("{}X{}", "a".repeat(500), "b".repeat(500));
        let shown = show(&text, Place { line: 1, column: 501, width: 1 });
        let lines: Vec<_> = shown.lines().collect();
        assert!(lines[1].chars().count() < 130);
        assert_eq!(lines[1].chars().position(|c| c == 'X'), lines[2].find('^'));
        let text = format!("{}X{}", "é".repeat(500), "ü".repeat(500));
        let shown = show(&text, Place { line: 1, column: 501, width: 3 });
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(lines[1].chars().position(|c| c == 'X'), lines[2].find('^'));
    }

    #[test]
    fn findings_are_cut_and_counted() {
        let text = "é: ".repeat(100_000);
        let mut reporter = Reporter::new(Path::new("a.yaml"), &text);
        for column in 1..=1_000 {
            reporter.warning(Place { line: 1, column, width: 1 }, "odd", "");
            reporter.error(Place { line: 1, column, width: 1 }, "wrong", "");
        }
        assert!(reporter.has_errors());
        let found = reporter.finish();
        assert_eq!(found.len(), 2 * MAX_FINDINGS + 2);
        let longest = found.iter().map(|one| one.source.chars().count()).max();
        assert!(longest <= Some(source::MAX_SHOWN_CHARS + 2), "{longest:?}");
        let last = &found[found.len() - 2..];
        assert_eq!(last[0].to_string(), "a.yaml:1:1: error: and 900 more errors in this file");
        assert_eq!(last[1].to_string(), "a.yaml:1:1: warning: and 900 more warnings in this file");
    }
}
