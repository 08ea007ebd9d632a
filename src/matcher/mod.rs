//! The MongoDB query language and projections, over raw BSON.
//!
//! Pure: no I/O, no clock, no allocation while matching. A filter's `match` is parsed once into a
//! [`Template`], which may hold placeholders; binding them gives a [`Predicate`].

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use bson::{Bson, Document, RawDocument};

mod bind;
mod depends;
pub(crate) mod eval;
mod expr;
mod fields;
mod key;
mod meaning;
pub(crate) mod node;
mod operand;
pub(crate) mod operator;
mod parse;
pub(crate) mod path;
pub(crate) mod pattern;
pub mod projection;
mod query;
mod schema;
pub(crate) mod value;
mod values;
mod why;

use crate::event::raw::{Owned, Value};
use bind::OpenNode;
use bind::share::{PlaceOf, Shared};
use eval::{BoundNode, Subject};
use operand::Lookup;
pub use values::BoundValues;
pub use why::Objection;

/// One step from the root of a `match` or `project` declaration to a place in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Shared: a long key must not be copied by every mistake below it.
    Key(Arc<str>),
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
    /// `{ $claim: a.b }`, or `{ $claim: a.b, type: objectId }`
    Claim(Claim),
    /// `{ $param: name }`
    Param(String),
}

/// What is known of a caller under a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Claim {
    /// Dotted.
    pub path: String,
    /// How it is read: the name of a type, as written. `None`: as JSON has it.
    pub kind: Option<String>,
}

/// Where a placeholder stands, which decides whether an array fits there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// `field: { $param: p }`, `$eq` or `$ne`: a value, or an array as the set of values.
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
    declared: Arc<Document>,
    root: Arc<OpenNode>,
    placeholders: Arc<[PlaceholderUse]>,
    is_empty: bool,
    regex_bytes: usize,
    /// The condition that all clients share, from the first of them on.
    shared: Arc<OnceLock<Option<Shared>>>,
}

impl Template {
    /// Parses a `match`. Reports every mistake, not just the first, up to a hundred.
    ///
    /// Two things that `mongod` takes are refused, because they are mistakes: an operator inside
    /// a document that is compared as a whole (`{ a: { b: { $gt: 1 } } }`), and `undefined`.
    pub fn parse(document: &Document) -> Result<Template, Vec<ParseError>> {
        let mut parser = parse::Parser::default();
        let root = parser.document(document);
        if !parser.errors.is_empty() {
            return Err(parser.errors);
        }
        Ok(Template {
            declared: Arc::new(document.clone()),
            is_empty: matches!(&root, OpenNode::And(nodes) if nodes.is_empty()),
            root: Arc::new(root),
            placeholders: parser.uses.into(),
            regex_bytes: parser.regexes.spent(),
            shared: Arc::default(),
        })
    }

    /// The placeholders of a `match` with mistakes, as far as they can be told, so that theirs are
    /// reported with the others.
    pub fn placeholders_in(document: &Document) -> Vec<PlaceholderUse> {
        let mut parser = parse::Parser::default();
        parser.document(document);
        parser.uses
    }

    /// As it was written, for people.
    pub fn declared(&self) -> &Document {
        &self.declared
    }

    /// Every placeholder, in the order in which it is written.
    pub fn placeholders(&self) -> Vec<PlaceholderUse> {
        self.placeholders.to_vec()
    }

    /// The same, where they need not be kept.
    pub fn uses(&self) -> &[PlaceholderUse] {
        &self.placeholders
    }

    /// The placeholders that stand in one condition together, such as an `$expr`, condition by
    /// condition: an absent one takes the others along.
    pub fn together(&self) -> Vec<Vec<Placeholder>> {
        let mut found = Vec::new();
        bind::together(&self.root, &mut found);
        found
    }

    /// About what its regular expressions take when compiled.
    pub fn regex_bytes(&self) -> usize {
        self.regex_bytes
    }

    /// Whether it has no conditions at all.
    pub fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// What it asks, as one number: equal for texts that differ only in how they are written. Of
    /// this process only: not for storing.
    pub fn meaning(&self) -> u64 {
        meaning::digest(&self.root)
    }

    /// Puts values in the place of placeholders. A value is data, never an operator, whatever it
    /// holds: a document `{ $gt: "" }` is compared as a document, a regular expression equals only
    /// itself.
    ///
    /// An array where [`Role::Equality`] stands means "one of these", for `$ne` "none of these";
    /// an empty one equals nothing. A value that is no array where [`Role::Set`] stands is a list
    /// of one. Null is a value, and equals a missing field too.
    ///
    /// An absent value removes the condition that it stands in: one operator of a field, not its
    /// neighbours. A value among others in the list of an `$in` leaves the list, and the
    /// condition goes when the list runs empty by that. A branch of `$and`, `$or` or `$nor`
    /// without conditions goes, and so does the operator when no branch is left; `$not` and
    /// `$elemMatch` likewise. An `$expr` is one condition.
    pub fn bind(&self, lookup: &mut dyn FnMut(&Placeholder) -> Option<Bson>) -> Predicate {
        self.bind_owned(&mut |placeholder| lookup(placeholder).as_ref().map(Owned::from_bson))
    }

    /// The same for values that are held elsewhere, too: the predicate shares their bytes.
    pub(crate) fn bind_owned(&self, lookup: Lookup<'_>) -> Predicate {
        let root = bind::bind(&self.root, lookup).unwrap_or(BoundNode::And(Vec::new()));
        Predicate { root: Arc::new(root), values: BoundValues::default() }
    }

    /// The same for all values of a client, which the predicate keeps. `place_of` says at which place
    /// a placeholder's is, and says the same each time.
    pub(crate) fn bind_values(&self, values: BoundValues, place_of: PlaceOf<'_>) -> Predicate {
        let shared = self.shared.get_or_init(|| Shared::of(&self.root, place_of));
        if let Some(shared) = shared
            && shared.fits(&values)
        {
            return Predicate { root: shared.root.clone(), values };
        }
        let lookup = &mut |placeholder: &Placeholder| values.owned(place_of(placeholder)?);
        let Predicate { root, .. } = self.bind_owned(lookup);
        Predicate { root, values }
    }
}

/// A `match` with every value known. Small, since there may be one for each client: nearly all clients
/// of a filter share its conditions, and each has the values that these are about.
///
/// Two predicates are equal when they come from the same `match` and were bound to the same
/// values.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Predicate {
    root: Arc<BoundNode>,
    values: BoundValues,
}

impl Predicate {
    /// Whether the document matches, as `mongod` would say. A document that breaks off is taken
    /// as ending there.
    pub fn matches(&self, document: &RawDocument) -> bool {
        eval::holds(&self.root, &self.values, Subject::Fields(Value::document(document)))
    }

    /// Whether an update's changes can make a difference to the verdict, as far as their paths
    /// tell: where it is `false`, the document matches after the update if it did before.
    pub fn may_depend_on(&self, update_description: &RawDocument) -> bool {
        depends::may_depend(&self.root, update_description)
    }

    /// What to ask `find` for, with the simple collation: every document that matches is found by it,
    /// and perhaps others. Empty: all of them.
    pub fn query(&self) -> Document {
        query::of(&self.root, &self.values).unwrap_or_default()
    }

    /// The names of the top-level fields that the verdict depends on; `None` where it may be any.
    pub fn fields(&self) -> Option<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        fields::read(&self.root, &mut names).then_some(names)
    }

    pub(crate) fn root(&self) -> &BoundNode {
        &self.root
    }

    /// What it was bound to, where it was bound to all values of a client; else none.
    pub fn values(&self) -> &BoundValues {
        &self.values
    }

    /// What a key alone decides: `Some` where no other field can change the verdict.
    ///
    /// The key is a delete's `documentKey`: every field in it is known whole, also below a dotted
    /// name, and any other field of the document may be anything. A null outside `_id` may stand
    /// for a missing field, as shard keys have it.
    pub fn matches_key(&self, key: &RawDocument) -> Option<bool> {
        key::decide(&self.root, &self.values, key)
    }
}

#[cfg(test)]
mod tests;
