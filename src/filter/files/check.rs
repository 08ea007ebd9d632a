//! What `sidestream check DIR` says, without a deployment.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::diagnostic::{self, Format};
use crate::filter::{Diagnostic, FilterSet, Severity, load_directory};

/// All findings about a directory of filter files. Its `Display` lists them and
/// sums up; every line, the last one too, ends with a line break.
#[derive(Debug)]
pub struct CheckReport {
    pub directory: PathBuf,
    /// The good filters, for further checks against a deployment.
    pub filters: FilterSet,
    pub diagnostics: Vec<Diagnostic>,
    /// Filter files, good or bad.
    pub file_count: usize,
    /// How many examples of them were run.
    pub example_count: usize,
}

/// Validates all filter files below a directory. Without a source of callers in the settings at
/// hand, protected streams get a warning: elsewhere there may be one.
pub fn check(dir: &Path, has_source: bool) -> CheckReport {
    let loaded = load_directory(dir);
    let file_count = loaded.filters.0.len() + loaded.broken.len();
    let mut diagnostics = loaded.diagnostics;
    if !has_source {
        let protected = loaded.filters.0.values().filter_map(|filter| filter.needs_source.clone());
        diagnostics.extend(
            protected.map(|diagnostic| Diagnostic { severity: Severity::Warning, ..diagnostic }),
        );
    }
    if file_count == 0 && diagnostics.is_empty() {
        // Most likely the wrong directory; nothing to check is nothing checked.
        diagnostics.push(
            Diagnostic::of_file(Severity::Error, dir, "no filter files here".to_owned())
                .hint("filter files end with .yaml, .yml or .json"),
        );
    }
    CheckReport {
        directory: dir.to_owned(),
        filters: loaded.filters,
        diagnostics,
        file_count,
        example_count: 0,
    }
}

impl CheckReport {
    /// Warnings become errors: for CI.
    #[must_use]
    pub fn strict(mut self) -> CheckReport {
        for diagnostic in &mut self.diagnostics {
            if diagnostic.severity == Severity::Warning {
                diagnostic.severity = Severity::Error;
            }
        }
        self
    }

    /// Whether there is no error; warnings are allowed.
    pub fn is_good(&self) -> bool {
        !self.diagnostics.iter().any(Diagnostic::is_error)
    }

    /// All findings; for people also the sum.
    pub fn render(&self, format: Format) -> String {
        match format {
            Format::Human => self.to_string(),
            machine => diagnostic::render(&self.diagnostics, machine),
        }
    }

    /// Findings that keep a file from being used; those beyond a hundred in a file count as one.
    pub fn error_count(&self) -> usize {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).count()
    }

    /// Findings that count as errors with `--strict` alone.
    pub fn warning_count(&self) -> usize {
        let is_warning = |it: &&Diagnostic| it.severity == Severity::Warning;
        self.diagnostics.iter().filter(is_warning).count()
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&diagnostic::render(&self.diagnostics, Format::Human))?;
        let mut files = count(self.file_count, "filter");
        if self.example_count > 0 {
            files.push_str(&format!(", {}", count(self.example_count, "example")));
        }
        match (self.error_count(), self.warning_count()) {
            (0, 0) => writeln!(f, "{files}: all good"),
            (0, warnings) => writeln!(f, "{files}: {}", count(warnings, "warning")),
            (errors, 0) => writeln!(f, "{files}: {}", count(errors, "error")),
            (errors, warnings) => {
                writeln!(f, "{files}: {}, {}", count(errors, "error"), count(warnings, "warning"))
            }
        }
    }
}

fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}
