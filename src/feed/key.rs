//! What identifies a feed, what its cursor reads, and its status.

use std::collections::BTreeSet;

use crate::filter::{Filter, FullDocument, FullDocumentBeforeChange};

/// What shares one change stream cursor: a database and an image mode.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FeedKey {
    pub database: String,
    /// Read by itself, where the rights are on collections; `None`: with the others of its database.
    pub collection: Option<String>,
    pub full_document: FullDocument,
    pub before_image: FullDocumentBeforeChange,
}

impl FeedKey {
    /// Required images are read like available ones: what is missing is seen to by the routes.
    pub fn of(filter: &Filter) -> FeedKey {
        FeedKey {
            database: filter.namespace.database.clone(),
            collection: None,
            full_document: match filter.full_document {
                FullDocument::Required => FullDocument::WhenAvailable,
                other => other,
            },
            before_image: match filter.before_image {
                FullDocumentBeforeChange::Required => FullDocumentBeforeChange::WhenAvailable,
                other => other,
            },
        }
    }

    /// The same for a filter whose collection is read by itself.
    pub fn alone(filter: &Filter) -> FeedKey {
        FeedKey { collection: filter.namespace.collection.clone(), ..FeedKey::of(filter) }
    }

    /// The image mode as text, for people and metrics.
    pub fn mode(&self) -> String {
        match self.before_image {
            FullDocumentBeforeChange::Off => self.full_document.name().to_string(),
            before => format!("{}+{}", self.full_document.name(), before.name()),
        }
    }
}

impl std::fmt::Display for FeedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.database)?;
        if let Some(collection) = &self.collection {
            write!(f, ".{collection}")?;
        }
        write!(f, "/{}", self.mode())
    }
}

/// The status of the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Not opened yet, or reading what happened before the start.
    Starting,
    /// Everything that MongoDB has is read, or about to be.
    Live,
    /// It cannot be read at present.
    Away(Absence),
}

/// Why an upstream is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absence {
    /// The reason, as a text for people.
    pub reason: String,
    /// Whether waiting cannot fix it.
    pub needs_a_person: bool,
}

/// What a cursor reads of its database. Only grows: a token of a collection that left the list
/// could not be resumed from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Collections {
    All,
    These(BTreeSet<String>),
    /// One, by a change stream of its own instead of its database's.
    Alone(String),
}

impl Collections {
    /// Takes in what a filter reads; says whether that is new.
    pub(super) fn add(&mut self, collection: Option<&str>) -> bool {
        match (&mut *self, collection) {
            (Collections::All, _) => false,
            (Collections::Alone(only), Some(name)) if only == name => false,
            (Collections::Alone(only), _) => {
                *self = Collections::These(BTreeSet::from([only.clone()]));
                self.add(collection);
                true
            }
            (Collections::These(_), None) => {
                *self = Collections::All;
                true
            }
            (Collections::These(names), Some(name)) => names.insert(name.to_string()),
        }
    }

    /// The same by a change stream of its own, where it is one collection.
    pub fn alone(&self) -> Option<Collections> {
        match self {
            Collections::These(names) if names.len() == 1 => {
                names.first().cloned().map(Collections::Alone)
            }
            _ => None,
        }
    }
}
