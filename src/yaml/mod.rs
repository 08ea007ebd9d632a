//! YAML text to a tree that knows where each key and value is written.
//!
//! Settings and filter files are both judged after they are parsed, and a judgement without a line
//! and a column is of little use. So this tree keeps the place of everything, and keeps scalars as
//! they are written: whether `off` is a word or a truth value is for the reader of that key to say.
//! JSON is read by the same code, since JSON is YAML.
//!
//! Pure: text in, tree or problems out. Deliberately small: one document, no tags but `!!str`, and
//! merge keys only in what is written for Kubernetes.

mod merge;
mod parse;
mod scalar;

pub use parse::{parse, parse_merging};
pub use scalar::{Scalar, Typed};

/// The most bytes a document may have. Settings and filters are written by hand; a larger file is
/// some other file.
pub const MAX_BYTES: usize = 1024 * 1024;

/// The deepest nesting. MongoDB itself refuses documents that are deeper than 100.
pub const MAX_DEPTH: usize = 100;

/// The most nodes, counted after aliases are followed, so that a few lines cannot become millions.
pub const MAX_NODES: usize = 50_000;

/// A stretch of one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// In characters; at least 1.
    pub width: usize,
}

impl Place {
    /// The first character of a text.
    pub const START: Place = Place { line: 1, column: 1, width: 1 };
}

/// A value and where it is written.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub place: Place,
    pub kind: NodeKind,
}

/// What it is, and what is in it.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeKind {
    Scalar(Scalar),
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

/// One `key: value`.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub key: String,
    pub key_place: Place,
    pub value: Node,
}

/// Why a text is not the YAML that we read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct YamlError {
    pub place: Place,
    pub message: String,
    pub hint: Option<String>,
}

impl Node {
    /// What it is, for a sentence: `a list`.
    pub fn noun(&self) -> &'static str {
        match &self.kind {
            NodeKind::Sequence(_) => "a list",
            NodeKind::Mapping(_) => "a mapping",
            NodeKind::Scalar(scalar) => scalar.noun(),
        }
    }

    /// The entries of a mapping.
    pub fn entries(&self) -> Option<&[Entry]> {
        match &self.kind {
            NodeKind::Mapping(entries) => Some(entries),
            _ => None,
        }
    }

    /// The items of a list.
    pub fn items(&self) -> Option<&[Node]> {
        match &self.kind {
            NodeKind::Sequence(items) => Some(items),
            _ => None,
        }
    }

    /// The scalar, as written.
    pub fn scalar(&self) -> Option<&Scalar> {
        match &self.kind {
            NodeKind::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    /// The entry of a mapping with this key.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries()?.iter().find(|entry| entry.key == key)
    }

    /// Whether nothing is written: an empty value, `~` or `null`.
    pub fn is_null(&self) -> bool {
        self.scalar().is_some_and(|scalar| matches!(scalar.typed(), Ok(Typed::Null)))
    }
}
