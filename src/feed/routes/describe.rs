//! How an index finds a predicate, in words.

use std::fmt;

use super::terms::{self, Term};
use crate::matcher::Predicate;

/// How an index finds a predicate, for people to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Description {
    /// Under at least one of these terms.
    Terms(Vec<TermDescription>),
    /// Never: no document can match.
    Never,
    /// It is evaluated for every document.
    Always,
}

/// A term, or several of one kind on one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TermDescription {
    /// Dotted, as in the filter; with the path of an `$elemMatch` in front.
    pub path: String,
    /// How documents are looked up.
    pub kind: TermKind,
    /// How many values.
    pub values: usize,
}

/// How documents are looked up by a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TermKind {
    /// By a hash of the value.
    Equality,
    /// By the order of values.
    Range,
    /// By whether the field is there.
    Existence,
}

/// Which term of a predicate is indexed, in an index without other routes. Among equalities, a
/// full index prefers those that few routes share.
pub fn describe(predicate: &Predicate) -> Description {
    let Some(best) = terms::ways(predicate).into_iter().next() else { return Description::Always };
    if best.is_empty() {
        return Description::Never;
    }
    let mut terms: Vec<TermDescription> = Vec::new();
    for term in best {
        let (path, kind) = match term {
            Term::Equal(path, _) => (path, TermKind::Equality),
            Term::AtLeast(path, _) | Term::AtMost(path, _) => (path, TermKind::Range),
            Term::Exists(path) => (path, TermKind::Existence),
        };
        let path = path.dotted();
        match terms.iter_mut().find(|known| known.path == path && known.kind == kind) {
            Some(known) => known.values += 1,
            None => terms.push(TermDescription { path, kind, values: 1 }),
        }
    }
    Description::Terms(terms)
}

impl fmt::Display for Description {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let terms = match self {
            Description::Never => return formatter.write_str("no document can match"),
            Description::Always => return formatter.write_str("evaluated for every document"),
            Description::Terms(terms) => terms,
        };
        for (index, term) in terms.iter().enumerate() {
            if index > 0 {
                formatter.write_str(", or ")?;
            }
            match (term.kind, term.values) {
                (TermKind::Equality, 1) => write!(formatter, "equality on `{}`", term.path)?,
                (TermKind::Equality, values) => {
                    write!(formatter, "equality on `{}`, {values} values", term.path)?;
                }
                (TermKind::Range, _) => write!(formatter, "range on `{}`", term.path)?,
                (TermKind::Existence, _) => write!(formatter, "existence of `{}`", term.path)?,
            }
        }
        Ok(())
    }
}
