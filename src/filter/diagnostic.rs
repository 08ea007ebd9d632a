//! What is wrong with a filter file: where, with the line itself, and what to do.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::yaml::Place;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file is not used.
    Error,
    /// The file is used; what it says is probably not what was meant.
    Warning,
}

/// One finding. Its `Display` is several lines: `file:line:column: error: …`, the source line, a
/// caret, and the hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    pub file: PathBuf,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// How many characters are meant; at least 1.
    pub width: usize,
    pub message: String,
    pub hint: Option<String>,
    /// The line, without its line break; empty where there is none to show.
    pub source: String,
}

/// Longer lines (JSON on one line) are shown in part, this many characters of them.
const MAX_SHOWN_CHARS: usize = 120;
/// So many of them before the column.
const SHOWN_BEFORE: usize = 40;

impl Diagnostic {
    /// A finding about a file as a whole, which may not even be readable.
    pub(super) fn of_file(severity: Severity, file: &Path, message: String) -> Diagnostic {
        let file = file.to_owned();
        let source = String::new();
        Diagnostic { severity, file, line: 1, column: 1, width: 1, message, hint: None, source }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Diagnostic {
        self.hint = Some(hint.into());
        self
    }

    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// The part of the source line to show, and the characters before the caret.
    fn excerpt(&self) -> (String, String) {
        // What a terminal would obey is not for showing.
        let safe = |c: char| if c.is_control() && c != '\t' { '�' } else { c };
        let chars: Vec<char> = self.source.chars().map(safe).collect();
        let before = self.column - 1;
        let start = match chars.len() > MAX_SHOWN_CHARS {
            true => before.saturating_sub(SHOWN_BEFORE),
            false => 0,
        };
        let end = chars.len().min(start + MAX_SHOWN_CHARS);
        let mut shown = String::new();
        let mut indent = String::new();
        if start > 0 {
            shown.push('…');
            indent.push(' ');
        }
        shown.extend(&chars[start.min(end)..end]);
        if end < chars.len() {
            shown.push('…');
        }
        // A tab stays a tab, so that the caret stands below its character at any tab width.
        let caret_column = before.clamp(start, end.max(start));
        indent.extend(
            (start..caret_column).map(|i| if chars.get(i) == Some(&'\t') { '\t' } else { ' ' }),
        );
        (shown, indent)
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let (file, line, column) = (self.file.display(), self.line, self.column);
        write!(f, "{file}:{line}:{column}: {severity}: {}", self.message)?;
        if !self.source.trim().is_empty() {
            let (shown, indent) = self.excerpt();
            let room = (shown.chars().count() + 1).saturating_sub(indent.chars().count());
            let caret = "^".repeat(self.width.min(room).max(1));
            write!(f, "\n    {}\n    {indent}{caret}", shown.trim_end())?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

/// Collects the findings of one file.
pub(super) struct Reporter<'a> {
    file: &'a Path,
    lines: Vec<&'a str>,
    pub diagnostics: Vec<Diagnostic>,
}

impl<'a> Reporter<'a> {
    pub fn new(file: &'a Path, text: &'a str) -> Reporter<'a> {
        Reporter { file, lines: text.lines().collect(), diagnostics: Vec::new() }
    }

    pub fn error(&mut self, place: Place, message: impl Into<String>, hint: impl Into<String>) {
        self.add(Severity::Error, place, message.into(), Some(hint.into()));
    }

    pub fn warning(&mut self, place: Place, message: impl Into<String>, hint: impl Into<String>) {
        self.add(Severity::Warning, place, message.into(), Some(hint.into()));
    }

    pub fn add(&mut self, severity: Severity, place: Place, message: String, hint: Option<String>) {
        let diagnostic = self.make(severity, place, message, hint);
        self.diagnostics.push(diagnostic);
    }

    /// A finding that is not one of this file alone.
    pub fn make(
        &self,
        severity: Severity,
        place: Place,
        message: String,
        hint: Option<String>,
    ) -> Diagnostic {
        let source = self.lines.get(place.line - 1).copied().unwrap_or_default().to_owned();
        let Place { line, column, width } = place;
        let file = self.file.to_owned();
        Diagnostic { severity, file, line, column, width, message, hint, source }
    }

    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_error)
    }

    /// The findings in the order of the text; what was found first stays first on equal places.
    pub fn finish(mut self) -> Vec<Diagnostic> {
        self.diagnostics.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
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

    #[test]
    fn a_long_line_is_shown_in_part() {
        let text = format!("{}X{}", "a".repeat(500), "b".repeat(500));
        let shown = show(&text, Place { line: 1, column: 501, width: 1 });
        let lines: Vec<_> = shown.lines().collect();
        assert!(lines[1].chars().count() < 130);
        assert_eq!(lines[1].chars().position(|c| c == 'X'), lines[2].find('^'));
    }
}
