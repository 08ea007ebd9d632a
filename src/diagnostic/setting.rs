//! What is wrong with the settings: which key, where it is written, what to do.

use std::fmt;
use std::path::PathBuf;

/// Where a setting is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    /// A settings file; line and column from 1.
    File {
        path: PathBuf,
        line: usize,
        column: usize,
    },
    /// An environment variable, by name.
    Environment(String),
    /// A flag, with its dashes.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("built-in default"),
            Origin::File { path, line, column } => {
                write!(f, "{}:{line}:{column}", path.display())
            }
            Origin::Environment(name) => write!(f, "environment variable {name}"),
            Origin::Flag(name) => f.write_str(name),
        }
    }
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Dotted; empty where the file as a whole is meant.
    pub key: String,
    pub origin: Origin,
    pub message: String,
    pub hint: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: error: ", self.origin)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}\n  hint: {}", self.message, self.hint)
    }
}

/// Every mistake in the settings; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

/// A value as it may be shown in an error: short, on one line, and without anything that could be
/// a credential put under the wrong key.
pub(crate) fn show(value: &str) -> String {
    const MAX_CHARS: usize = 60;
    if value.contains('@') {
        return "the value".to_owned();
    }
    let mut shown: String = value.escape_debug().take(MAX_CHARS).collect();
    if shown.len() < value.len() && value.chars().count() > MAX_CHARS {
        shown.push('…');
    }
    format!("`{shown}`")
}
