//! Findings for people and for machines.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::{Diagnostic, Severity, Source};
use crate::yaml::Place;

/// How findings are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// For people: the place, the source line, a caret and the hint.
    #[default]
    Human,
    /// One JSON object: `{"diagnostics":[…],"errors":0,"warnings":0}`.
    Json,
    /// Workflow commands of GitHub Actions, which turn into annotations of a pull request.
    Github,
}

impl Format {
    /// In the order of `--help`.
    pub const ALL: [Format; 3] = [Format::Human, Format::Json, Format::Github];

    /// As written on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Human => "human",
            Format::Json => "json",
            Format::Github => "github",
        }
    }
}

/// All findings in one text; each line, the last one too, ends with a line break.
pub fn render(diagnostics: &[Diagnostic], format: Format) -> String {
    let mut out = String::new();
    match format {
        Format::Human => {
            for diagnostic in diagnostics {
                // Writing to a text does not fail.
                let _ = writeln!(out, "{diagnostic}\n");
            }
        }
        Format::Json => {
            let count =
                |severity| diagnostics.iter().filter(|one| one.severity == severity).count();
            let all = json!({
                "diagnostics": diagnostics.iter().map(Diagnostic::to_json).collect::<Vec<_>>(),
                "errors": count(Severity::Error),
                "warnings": count(Severity::Warning),
            });
            let _ = writeln!(out, "{all:#}");
        }
        Format::Github => {
            for diagnostic in diagnostics {
                let _ = writeln!(out, "{}", diagnostic.to_github());
            }
        }
    }
    out
}

impl Diagnostic {
    /// `severity`, `message`, and what there is of: `file` with `line`, `column` and `width`;
    /// `environment`, `flag` or `annotation`; `key`, `hint`, `source`.
    pub fn to_json(&self) -> Value {
        let mut object = Map::new();
        let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
        put("severity", self.severity.as_str().into());
        match &self.origin {
            Source::Default => {}
            Source::File { path, place } => {
                put("file", path.display().to_string().into());
                put("line", place.line.into());
                put("column", place.column.into());
                put("width", place.width.into());
            }
            Source::Environment(name) => _ = put("environment", name.as_str().into()),
            Source::Flag(name) => _ = put("flag", name.as_ref().into()),
            Source::Annotation(name) => _ = put("annotation", name.as_str().into()),
        }
        if !self.key.is_empty() {
            put("key", self.key.as_str().into());
        }
        put("message", self.message.as_str().into());
        if let Some(hint) = &self.hint {
            put("hint", hint.as_str().into());
        }
        if !self.source.is_empty() {
            put("source", self.source.as_str().into());
        }
        Value::Object(object)
    }

    /// `::error file=…,line=…,col=…,endColumn=…::message`, the hint on a line of its own.
    fn to_github(&self) -> String {
        let mut place = String::new();
        let mut text = String::new();
        match &self.origin {
            Source::File { path, place: Place { line, column, width } } => {
                let file = property(&path.display().to_string());
                let end = column + width;
                place = format!(" file={file},line={line},col={column},endColumn={end}");
            }
            elsewhere => text = format!("{elsewhere}: "),
        }
        if !self.key.is_empty() {
            text.push_str(&self.key);
            text.push_str(": ");
        }
        text.push_str(&self.message);
        if let Some(hint) = &self.hint {
            text.push_str("\nhint: ");
            text.push_str(hint);
        }
        let command = match self.severity {
            Severity::Note => "notice",
            severity => severity.as_str(),
        };
        format!("::{command}{place}::{}", data(&text))
    }
}

/// Text behind a workflow command, which ends with its line.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// The value of one property, which a comma ends.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::diagnostic::Lines;

    fn rows() -> Vec<Diagnostic> {
        let place = Place { line: 1, column: 8, width: 2 };
        let in_file = Source::file(Path::new("a,b.yaml"), place);
        vec![
            Diagnostic::new(Severity::Error, in_file, "no unit: 100%")
                .key("drain")
                .hint("write\n10s")
                .with_source(&Lines::new("drain: 10")),
            Diagnostic::new(Severity::Warning, Source::Environment("X".into()), "odd"),
            Diagnostic::new(Severity::Note, Source::Flag("--mongodb".into()), "all right"),
        ]
    }

    #[test]
    fn for_people() {
        assert_eq!(
            render(&rows(), Format::Human),
            "a,b.yaml:1:8: error: drain: no unit: 100%\n    drain: 10\n           ^^\n  \
             hint: write\n10s\n\nenvironment variable X: warning: odd\n\n--mongodb: note: all right\n\n"
        );
    }

    #[test]
    fn for_machines() {
        let json: Value = serde_json::from_str(&render(&rows(), Format::Json)).unwrap();
        let expected = json!({
            "diagnostics": [
                {
                    "severity": "error", "file": "a,b.yaml", "line": 1, "column": 8, "width": 2,
                    "key": "drain", "message": "no unit: 100%", "hint": "write\n10s",
                    "source": "drain: 10",
                },
                { "severity": "warning", "environment": "X", "message": "odd" },
                { "severity": "note", "flag": "--mongodb", "message": "all right" },
            ],
            "errors": 1,
            "warnings": 1,
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn for_pull_requests() {
        assert_eq!(
            render(&rows(), Format::Github),
            "::error file=a%2Cb.yaml,line=1,col=8,endColumn=10::drain: no unit: 100%25%0A\
             hint: write%0A10s\n::warning::environment variable X: odd\n\
             ::notice::--mongodb: all right\n"
        );
    }
}
