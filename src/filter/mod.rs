//! Filter files: what is written, what it means, and what is bound for one client.
//!
//! One file is one stream. [`load_directory`] reads all files; [`parse_filter`] validates one text,
//! and reports every mistake at once, each as a [`Diagnostic`] with its place. A [`Filter`] is
//! resolved and valid; [`Filter::bind`] adds a client's parameters and returns a predicate. Nothing
//! here keeps state or watches files: the caller does.
//!
//! This is the only room that reads filter files.

mod advice;
mod binding;
mod declaration;
mod example;
mod files;
mod json;
mod literal;
mod meaning;
mod namespace;
mod resolve;
mod schema;
mod snapshot;
mod tree;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::event::OperationType;
use crate::matcher::Template;
use crate::matcher::projection::Projection;

// The rooms within, under the names by which their neighbours use them.
use advice::{contradiction, elements, mistakes, suspect};
use binding::{access, bind, claims, limits, params, value};
use files::directory;

pub use crate::diagnostic::{Diagnostic, Severity};
pub use crate::matcher::BoundValues;
pub use binding::access::{Access, AccessRule};
pub use binding::bind::{BindError, Bound, ParamError};
pub use binding::params::{Param, Params};
pub use binding::value::ParamType;
pub use example::{Example, Expect};
pub use files::check::{CheckReport, check};
pub use files::directory::{EXTENSIONS, Loaded, Unlisted, is_stream_name, load_directory};
pub use files::scaffold::{CollectionShape, scaffold};
pub use files::stamp::{Stamp, stamp};
pub use literal::parse_document;
pub use namespace::Namespace;
pub use resolve::parse_filter;
pub use schema::schema;

/// A stream's filter, resolved: everything in it has been checked.
#[derive(Debug)]
pub struct Filter {
    /// The stream's name: the path below the filter directory without extension, with `/`.
    pub name: String,
    pub description: Option<String>,
    pub namespace: Namespace,
    pub operations: Operations,
    /// The `match`, placeholders still open. Empty: every document.
    pub template: Template,
    pub params: Params,
    /// How the values are called that are bound to it, in the order in which they are bound.
    value_names: Box<[Box<str>]>,
    /// `None`: whole documents.
    pub projection: Option<Projection>,
    pub full_document: FullDocument,
    pub before_image: FullDocumentBeforeChange,
    pub access: Access,
    /// Whether a client first gets the documents that match now: see [`Filter::snapshot`].
    has_snapshot: bool,
    pub examples: Vec<Example>,
    /// Without a message: to report what is found out later about the collection.
    pub at_collection: Diagnostic,
    /// Of a protected stream: the warning if no caller can be authenticated.
    needs_source: Option<Diagnostic>,
    /// What is allowed but probably not meant.
    pub warnings: Vec<Diagnostic>,
    /// Equal for texts that mean the same, to see whether a file changed. Of this process only: not
    /// for storing.
    pub meaning: u64,
}

impl Filter {
    /// Whether both are the same stream with the same meaning, perhaps read from two texts.
    pub fn is_same(&self, other: &Filter) -> bool {
        self.name == other.name && self.meaning == other.meaning
    }

    /// Of a stream that begins with the documents that match now: the collection that holds them.
    pub fn snapshot(&self) -> Option<&str> {
        self.has_snapshot.then_some(self.namespace.collection.as_deref()).flatten()
    }

    /// Whether an event that comes without an image cannot be told to this filter's clients.
    pub fn requires_image(&self) -> bool {
        self.full_document == FullDocument::Required || self.requires_before_image()
    }

    /// The same of the document before a change. The clients of a snapshot hold documents, and one
    /// that left unnoticed would stay with them.
    pub fn requires_before_image(&self) -> bool {
        match self.before_image {
            FullDocumentBeforeChange::Off => false,
            FullDocumentBeforeChange::WhenAvailable => self.has_snapshot,
            FullDocumentBeforeChange::Required => true,
        }
    }

    /// Whether there are updates that cannot be told to this filter's clients without an image that
    /// did not come.
    pub fn may_miss_after_image(&self) -> bool {
        matches!(self.full_document, FullDocument::Required | FullDocument::WhenAvailable)
    }
}

/// The filters in force, by stream name.
#[derive(Debug, Clone, Default)]
pub struct FilterSet(pub BTreeMap<String, Arc<Filter>>);

/// A set of the four operations that a filter may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Operations(u8);

impl Operations {
    /// insert, update, replace and delete: the default.
    pub const ALL: Operations = Operations(0b1111);
    const NONE: Operations = Operations(0);

    /// In the order in which they are shown.
    const KNOWN: [(OperationType, &str); 4] = [
        (OperationType::Insert, "insert"),
        (OperationType::Update, "update"),
        (OperationType::Replace, "replace"),
        (OperationType::Delete, "delete"),
    ];

    /// Whether events of this type are asked for; never so for anything but the four.
    pub fn contains(self, operation: OperationType) -> bool {
        let index = Operations::KNOWN.iter().position(|(known, _)| *known == operation);
        index.is_some_and(|index| self.0 & (1 << index) != 0)
    }

    /// Whether events of this type are asked for, and of no other.
    pub fn is_only(self, operation: OperationType) -> bool {
        self.0.count_ones() == 1 && self.contains(operation)
    }

    /// MongoDB's names of the operations in the set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Operations::KNOWN
            .into_iter()
            .enumerate()
            .filter(move |(index, _)| self.0 & (1 << index) != 0)
            .map(|(_, (_, name))| name)
    }

    /// The set with the operation of this name; `None` for a name that is not one of the four.
    fn with(self, name: &str) -> Option<Operations> {
        let index = Operations::KNOWN.iter().position(|(_, known)| *known == name)?;
        Some(Operations(self.0 | (1 << index)))
    }
}

/// What an update event carries of the document after it: MongoDB's `fullDocument`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FullDocument {
    /// Nothing.
    Default,
    /// The document as it is when the event is read, which may be later than the update.
    UpdateLookup,
    /// The post-image where the server kept one.
    WhenAvailable,
    /// The post-image; the stream fails where there is none.
    Required,
}

impl FullDocument {
    pub(super) const KNOWN: [(FullDocument, &str); 4] = [
        (FullDocument::Default, "default"),
        (FullDocument::UpdateLookup, "updateLookup"),
        (FullDocument::WhenAvailable, "whenAvailable"),
        (FullDocument::Required, "required"),
    ];

    /// MongoDB's name for it.
    pub fn name(self) -> &'static str {
        match self {
            FullDocument::Default => "default",
            FullDocument::UpdateLookup => "updateLookup",
            FullDocument::WhenAvailable => "whenAvailable",
            FullDocument::Required => "required",
        }
    }
}

/// What an event carries of the document before it: MongoDB's `fullDocumentBeforeChange`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FullDocumentBeforeChange {
    /// Nothing.
    Off,
    /// The pre-image where the server kept one.
    WhenAvailable,
    /// The pre-image; the stream fails where there is none.
    Required,
}

impl FullDocumentBeforeChange {
    pub(super) const KNOWN: [(FullDocumentBeforeChange, &str); 3] = [
        (FullDocumentBeforeChange::Off, "off"),
        (FullDocumentBeforeChange::WhenAvailable, "whenAvailable"),
        (FullDocumentBeforeChange::Required, "required"),
    ];

    /// MongoDB's name for it.
    pub fn name(self) -> &'static str {
        match self {
            FullDocumentBeforeChange::Off => "off",
            FullDocumentBeforeChange::WhenAvailable => "whenAvailable",
            FullDocumentBeforeChange::Required => "required",
        }
    }
}
