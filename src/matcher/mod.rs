//! The MongoDB query language and projections, over raw BSON.
//!
//! Pure: no I/O, no clock, no allocation while matching. A filter's `match` is parsed once into a
//! [`Template`], which may hold placeholders; binding them gives a [`Predicate`].

use bson::{Bson, Document, RawDocument};

/// One step from the root of a `match` or `project` declaration to a place in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Key(String),
    Index(usize),
}

/// What is wrong with a `match` or a `project`, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// From the root of the declaration to the offending place.
    pub path: Vec<Step>,
    pub message: String,
    /// What to do about it, where there is something to say.
    pub hint: Option<String>,
}

/// A value that is not known until a client comes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Placeholder {
    /// `{ $claim: a.b }`
    Claim(String),
    /// `{ $param: name }`
    Param(String),
}

/// Where a placeholder stands, which decides whether an array fits there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// `field: { $param: p }` or `$eq`: a value, or an array as the set of allowed values.
    Equality,
    /// The whole operand of `$in`, `$nin` or `$all`: an array.
    Set,
    /// Anything else: one value.
    Value,
}

/// One use of a placeholder in a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaceholderUse {
    pub placeholder: Placeholder,
    pub role: Role,
    pub path: Vec<Step>,
}

/// A parsed `match`, placeholders still open.
#[derive(Debug, Clone)]
pub struct Template {
    document: Document,
}

impl Template {
    /// Parses a `match`. Reports every mistake, not just the first.
    pub fn parse(document: &Document) -> Result<Template, Vec<ParseError>> {
        Ok(Template { document: document.clone() })
    }

    /// Every placeholder, in the order in which it is written.
    pub fn placeholders(&self) -> Vec<PlaceholderUse> {
        Vec::new()
    }

    /// Whether it has no conditions at all.
    pub fn is_empty(&self) -> bool {
        self.document.is_empty()
    }

    /// Puts values in the place of placeholders. A value is data, never an operator, whatever it
    /// holds; an absent one removes the condition that it stands in.
    pub fn bind(&self, lookup: &mut dyn FnMut(&Placeholder) -> Option<Bson>) -> Predicate {
        let _ = lookup;
        Predicate { document: self.document.clone() }
    }
}

/// A `match` with every value known.
#[derive(Debug, Clone)]
pub struct Predicate {
    document: Document,
}

impl Predicate {
    /// Whether the document matches, as `mongod` would say.
    pub fn matches(&self, document: &RawDocument) -> bool {
        self.document.iter().all(|(k, v)| {
            document
                .get(k)
                .ok()
                .flatten()
                .is_some_and(|raw| Bson::try_from(raw).is_ok_and(|b| b == *v))
        })
    }

    /// What a part of the document decides: `Some` where no other field can change the verdict.
    /// `known` says which top-level fields the part is complete for.
    pub fn matches_key(&self, key: &RawDocument) -> Option<bool> {
        if self.document.is_empty() {
            Some(true)
        } else {
            let _ = key;
            None
        }
    }
}
