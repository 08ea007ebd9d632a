//! Projections as in `find()`: which fields of a document a client sees.
//!
//! A projection includes the named fields or excludes them. What it hides, it hides everywhere:
//! in the document, in the key, and in the description of an update.

use std::collections::{BTreeMap, BTreeSet};

use bson::{Bson, Document, RawDocument, RawDocumentBuf};

use super::parse::MAX_ERRORS;
use super::value::number::Number;
use super::{ParseError, Step};
use crate::event::raw::{Owned, Value, tag};

mod update;

pub use update::Images;

use super::value::write::{self, Writer};

const MAX_DEPTH: usize = 64;
/// Deeper than `mongod` stores.
const MAX_NESTING: u32 = 250;
const MAX_FIELDS: usize = 1_000;
/// Numeric parts of one path: an updated path may mean an index or a name by each.
const MAX_NUMERIC_PARTS: usize = 8;

/// A parsed `project`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Projection {
    mode: Mode,
    root: Tree,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Named fields are seen, and `_id` unless it is excluded.
    Include,
    /// All but the named fields are seen.
    Exclude,
}

/// The top-level fields that a projection shows something of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    Only(BTreeSet<String>),
    AllBut(BTreeSet<String>),
}

/// The named paths, by their parts. No children: everything from here on is named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tree {
    children: BTreeMap<Box<[u8]>, Tree>,
}

impl Tree {
    fn child(&self, name: &[u8]) -> Option<&Tree> {
        self.children.get(name)
    }

    fn is_leaf(&self) -> bool {
        self.children.is_empty()
    }
}

impl Projection {
    /// Parses a `project`. Reports every mistake, not just the first.
    ///
    /// Plain inclusion and exclusion only: what computes something (`$slice`, `$elemMatch`,
    /// expressions, literals) would have to be computed on updates as well, which carry no whole
    /// document.
    pub fn parse(document: &Document) -> Result<Projection, Vec<ParseError>> {
        let mut parser = Parser::default();
        parser.fields(document, &[]);
        parser.finish()
    }

    /// Which top-level fields it shows something of.
    pub fn shown(&self) -> Shown {
        let mut names = BTreeSet::new();
        for (name, tree) in &self.root.children {
            // A path's parts come from text.
            let name = String::from_utf8_lossy(name).into_owned();
            if self.mode == Mode::Include || tree.is_leaf() {
                names.insert(name);
            }
        }
        match self.mode {
            Mode::Include => Shown::Only(names),
            Mode::Exclude => Shown::AllBut(names),
        }
    }

    /// Whether it shows all of a top-level field.
    pub fn shows_whole(&self, field: &[u8]) -> bool {
        match (self.mode, self.root.child(field)) {
            (Mode::Include, named) => named.is_some_and(Tree::is_leaf),
            (Mode::Exclude, named) => named.is_none(),
        }
    }

    /// What the projection leaves of a document.
    pub fn apply(&self, document: &RawDocument) -> RawDocumentBuf {
        let mut writer = Writer::document_within(document.as_bytes().len());
        self.project_fields(Value::document(document), &self.root, MAX_NESTING, &mut writer);
        writer.finish()
    }

    /// What it leaves of a `documentKey`, whose fields may have dotted names.
    pub fn apply_key(&self, key: &RawDocument) -> RawDocumentBuf {
        let mut writer = Writer::document_within(key.as_bytes().len());
        for (name, value) in Value::document(key).elements() {
            self.write_key(name, value, &mut writer);
        }
        writer.finish()
    }

    /// The fields of a document or of one inside it.
    fn project_fields(&self, document: Value<'_>, tree: &Tree, depth: u32, writer: &mut Writer) {
        for (name, value) in document.elements() {
            self.project_field(name, value, tree.child(name), depth, writer);
        }
    }

    fn project_field(
        &self,
        name: &[u8],
        value: Value<'_>,
        tree: Option<&Tree>,
        depth: u32,
        writer: &mut Writer,
    ) {
        match (self.mode, tree) {
            (Mode::Include, None) => {}
            (Mode::Exclude, None) => writer.element(name, value),
            (Mode::Include, Some(tree)) if tree.is_leaf() => writer.element(name, value),
            (Mode::Exclude, Some(tree)) if tree.is_leaf() => {}
            (_, Some(tree)) => self.project_inside(name, value, tree, depth, writer),
        }
    }

    /// A value of which the projection names something inside.
    fn project_inside(
        &self,
        name: &[u8],
        value: Value<'_>,
        tree: &Tree,
        depth: u32,
        writer: &mut Writer,
    ) {
        // Nothing is shown of what lies too deep to look at.
        let Some(depth) = depth.checked_sub(1) else { return };
        match value.tag {
            tag::DOCUMENT => {
                writer.open(name, tag::DOCUMENT);
                self.project_fields(value, tree, depth, writer);
                writer.close();
            }
            tag::ARRAY => {
                writer.open(name, tag::ARRAY);
                let mut index = 0_usize;
                for (_, element) in value.elements() {
                    let is_kept = element.is_container() || self.mode == Mode::Exclude;
                    if is_kept {
                        // Elements that go leave no gap.
                        let name = write::index_name(index);
                        self.project_inside(name.as_bytes(), element, tree, depth, writer);
                        index += 1;
                    }
                }
                writer.close();
            }
            _ if self.mode == Mode::Exclude => writer.element(name, value),
            _ => {}
        }
    }
}

#[derive(Default)]
struct Parser {
    errors: Vec<ParseError>,
    path: Vec<Step>,
    root: Tree,
    mode: Option<Mode>,
    /// Of a plain `_id`, which does not decide the mode.
    id: Option<bool>,
    fields: usize,
}

impl Parser {
    fn error(&mut self, message: impl Into<String>, hint: Option<&str>) {
        if self.errors.len() >= MAX_ERRORS {
            return;
        }
        self.errors.push(ParseError {
            path: self.path.clone(),
            message: message.into(),
            hint: hint.map(str::to_owned),
        });
    }

    fn fields(&mut self, document: &Document, outer: &[&str]) {
        for (key, value) in document {
            self.fields += 1;
            if self.fields == MAX_FIELDS + 1 {
                self.error(format!("more than {MAX_FIELDS} fields"), None);
            }
            if self.fields > MAX_FIELDS {
                return;
            }
            self.path.push(Step::Key(key.as_str().into()));
            self.field(key, value, outer);
            self.path.pop();
        }
    }

    fn field(&mut self, key: &str, value: &Bson, outer: &[&str]) {
        if key.split('.').any(str::is_empty) {
            self.error("a path with an empty part", Some("write it as `a.b`"));
            return;
        }
        if let Some(part) = key.split('.').find(|part| part.starts_with('$')) {
            match part {
                "$" => self.error("the positional `$` is not supported", Some(NO_POSITION)),
                _ => self.error(
                    format!("`{part}` is not a field name"),
                    Some("name fields only; operators have no place in a projection"),
                ),
            }
            return;
        }
        let mut path: Vec<&str> = outer.to_vec();
        path.extend(key.split('.'));
        if path.len() > MAX_DEPTH {
            self.error(format!("a path of more than {MAX_DEPTH} parts"), None);
            return;
        }
        let is_numeric = |part: &&&str| part.bytes().all(|byte| byte.is_ascii_digit());
        if path.iter().filter(is_numeric).count() > MAX_NUMERIC_PARTS {
            self.error(format!("a path with more than {MAX_NUMERIC_PARTS} numeric parts"), None);
        }
        if let Bson::Document(inner) = value {
            self.inner(inner, &path);
            return;
        }
        let owned = Owned::from_bson(value);
        let is_shown = match value {
            Bson::Boolean(shown) => *shown,
            _ if Number::read(owned.get()).is_some() => {
                super::value::number::is_truthy(owned.get())
            }
            _ => {
                self.error(
                    "a projection includes a field by 1 and excludes it by 0",
                    Some("a projection cannot set values"),
                );
                return;
            }
        };
        self.name(&path, is_shown);
    }

    fn inner(&mut self, document: &Document, path: &[&str]) {
        match document.keys().next() {
            None => self
                .error("an empty document in a projection", Some("write 1 to include the field")),
            Some(first) if first.starts_with('$') => self.operator(first),
            Some(_) => self.fields(document, path),
        }
    }

    fn operator(&mut self, operator: &str) {
        let (reason, hint) = match operator {
            "$slice" | "$elemMatch" => (
                "it selects elements of an array, and an update does not carry the whole array",
                Some("include the whole field"),
            ),
            "$meta" => ("an event is not the result of a search or a sort", Some("remove it")),
            "$claim" | "$param" => {
                ("a projection is the same for all clients", Some("use two filter files"))
            }
            _ => ("expressions are not computed", Some("include the fields, compute in the app")),
        };
        self.error(format!("`{operator}` is not supported in a projection: {reason}"), hint);
    }

    fn name(&mut self, path: &[&str], is_shown: bool) {
        if path == ["_id"] {
            if self.id.is_some() || self.root.child(b"_id").is_some() {
                self.error("`_id` is named twice", Some("remove one of them"));
            }
            self.id = Some(is_shown);
            return;
        }
        if path.first() == Some(&"_id") && self.id.is_some() {
            self.error(
                "`_id` is also named as a whole",
                Some("a path and a part of it cannot both be named"),
            );
            return;
        }
        let mode = if is_shown { Mode::Include } else { Mode::Exclude };
        if *self.mode.get_or_insert(mode) != mode {
            self.error(
                "a projection includes fields or excludes them, not both",
                Some("only `_id` may differ from the rest"),
            );
            return;
        }
        if !insert(&mut self.root, path) {
            self.error(
                format!("`{}` collides with another path", path.join(".")),
                Some("a path and a part of it cannot both be named"),
            );
        }
    }

    fn finish(mut self) -> Result<Projection, Vec<ParseError>> {
        if !self.errors.is_empty() {
            return Err(self.errors);
        }
        let mode = match (self.mode, self.id) {
            (Some(mode), _) => mode,
            (None, Some(true)) => Mode::Include,
            (None, _) => Mode::Exclude,
        };
        let names_id = match mode {
            Mode::Include => self.id != Some(false) && self.root.child(b"_id").is_none(),
            Mode::Exclude => self.id == Some(false),
        };
        if names_id {
            insert(&mut self.root, &["_id"]);
        }
        Ok(Projection { mode, root: self.root })
    }
}

const NO_POSITION: &str = "an event does not say which element of an array matched";

/// Adds a path; false where it, or a part of it, is there already.
fn insert(tree: &mut Tree, path: &[&str]) -> bool {
    let Some((first, rest)) = path.split_first() else { return false };
    match tree.children.get_mut(first.as_bytes()) {
        Some(child) => !child.is_leaf() && insert(child, rest),
        None => {
            let mut child = Tree::default();
            if !rest.is_empty() {
                insert(&mut child, rest);
            }
            tree.children.insert(first.as_bytes().into(), child);
            true
        }
    }
}

#[cfg(test)]
mod tests;
