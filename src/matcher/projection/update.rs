//! Projections of `updateDescription`, whose paths mix field names with array indexes.
//!
//! Where a part of a path may be read in two ways and nothing tells which it is, a field is shown
//! only if both readings show it.

use std::cell::RefCell;
use std::collections::HashMap;

use bson::{RawDocument, RawDocumentBuf};

use super::{MAX_NESTING, Mode, Projection, Tree};
use crate::event::raw::{Elements, Value, tag};
use crate::matcher::write::{Writer, index_name};

/// What is seen of the value at a path.
#[derive(Clone, Copy)]
enum Verdict<'t> {
    All,
    /// What the tree leaves of it.
    Inside(&'t Tree),
}

/// One part of an updated path.
#[derive(Clone, Copy)]
struct Part<'a> {
    name: &'a [u8],
    /// Whether it is an index, where that is known.
    is_index: Option<bool>,
}

/// What helps to tell indexes from names.
#[derive(Default)]
pub(super) struct Clues<'a> {
    disambiguated: Option<Value<'a>>,
    document: Option<Value<'a>>,
    fields: Fields<'a>,
}

/// Fields by name. An update may change thousands of fields of a document that has thousands, so
/// what is asked more than a few times is indexed.
#[derive(Default)]
struct Fields<'a> {
    /// By where the container lies.
    known: RefCell<HashMap<*const u8, Known<'a>>>,
}

#[derive(Default)]
struct Known<'a> {
    asked: usize,
    index: HashMap<&'a [u8], Value<'a>>,
}

/// So many times a container is searched before it is indexed.
const SEARCHES: usize = 4;

impl<'a> Fields<'a> {
    /// The first field of that name.
    fn find(&self, container: Value<'a>, name: &[u8]) -> Option<Value<'a>> {
        if !container.is_container() {
            return None;
        }
        let mut known = self.known.borrow_mut();
        let known = known.entry(container.data.as_ptr()).or_default();
        known.asked += 1;
        if known.asked <= SEARCHES {
            return container.elements().find_key(name);
        }
        if known.index.is_empty() {
            for (name, value) in container.elements() {
                known.index.entry(name).or_insert(value);
            }
        }
        known.index.get(name).copied()
    }
}

impl Projection {
    pub(super) fn update_description(
        &self,
        update: &RawDocument,
        document: Option<Value<'_>>,
    ) -> RawDocumentBuf {
        let fields = || Elements::new(update.as_bytes());
        let disambiguated = fields().find_key(b"disambiguatedPaths");
        let clues = &Clues { disambiguated, document, fields: Fields::default() };
        let mut writer = Writer::document();
        for (name, value) in fields() {
            match (name, value.tag) {
                (b"updatedFields", tag::DOCUMENT) => {
                    writer.open(name, tag::DOCUMENT);
                    for (path, value) in value.elements() {
                        self.write_changed(path, value, clues, &mut writer);
                    }
                    writer.close();
                }
                (b"disambiguatedPaths", tag::DOCUMENT) => {
                    writer.open(name, tag::DOCUMENT);
                    for (path, parts) in value.elements() {
                        if self.verdict(path, clues).is_some() {
                            writer.element(path, parts);
                        }
                    }
                    writer.close();
                }
                (b"removedFields", tag::ARRAY) => {
                    let is_seen = |path: Value<'_>| self.verdict(path.text(), clues).is_some();
                    filter_array(name, value, is_seen, &mut writer);
                }
                (b"truncatedArrays", tag::ARRAY) => {
                    let is_seen = |truncated: Value<'_>| {
                        let path = truncated.elements().find_key(b"field");
                        path.is_some_and(|path| self.verdict(path.text(), clues).is_some())
                    };
                    filter_array(name, value, is_seen, &mut writer);
                }
                // What a later server adds may name hidden fields.
                _ => {}
            }
        }
        writer.finish()
    }

    /// Writes what is seen of a value under its dotted name.
    pub(super) fn write_changed(
        &self,
        path: &[u8],
        value: Value<'_>,
        clues: &Clues<'_>,
        writer: &mut Writer,
    ) {
        match self.verdict(path, clues) {
            None => {}
            Some(Verdict::All) => writer.element(path, value),
            Some(Verdict::Inside(tree)) => {
                self.project_inside(path, value, tree, MAX_NESTING, writer)
            }
        }
    }

    /// What is seen of the value at a dotted path; nothing: not even its name.
    fn verdict(&self, path: &[u8], clues: &Clues<'_>) -> Option<Verdict<'_>> {
        let parts = parts(path, clues);
        let (first, rest) = parts.split_first()?;
        // The first part is a field of the document, whatever it looks like.
        self.verdict_of_child(&self.root, first, rest)
    }

    fn verdict_below<'t>(&self, tree: &'t Tree, parts: &[Part<'_>]) -> Option<Verdict<'t>> {
        if tree.is_leaf() {
            return (self.mode == Mode::Include).then_some(Verdict::All);
        }
        let Some((first, rest)) = parts.split_first() else { return Some(Verdict::Inside(tree)) };
        match first.is_index {
            Some(true) => self.verdict_below(tree, rest),
            Some(false) => self.verdict_of_child(tree, first, rest),
            None if tree.child(first.name).is_none() => self.verdict_below(tree, rest),
            None => {
                let as_index = self.verdict_below(tree, rest)?;
                let as_name = self.verdict_of_child(tree, first, rest)?;
                match (as_index, as_name) {
                    (Verdict::All, other) | (other, Verdict::All) => Some(other),
                    (Verdict::Inside(_), Verdict::Inside(_)) => None,
                }
            }
        }
    }

    fn verdict_of_child<'t>(
        &self,
        tree: &'t Tree,
        part: &Part<'_>,
        rest: &[Part<'_>],
    ) -> Option<Verdict<'t>> {
        match tree.child(part.name) {
            Some(child) => self.verdict_below(child, rest),
            None => (self.mode == Mode::Exclude).then_some(Verdict::All),
        }
    }
}

fn filter_array(
    name: &[u8],
    array: Value<'_>,
    is_seen: impl Fn(Value<'_>) -> bool,
    writer: &mut Writer,
) {
    writer.open(name, tag::ARRAY);
    let seen = array.elements().map(|(_, value)| value).filter(|value| is_seen(*value));
    for (index, value) in seen.enumerate() {
        writer.element(index_name(index).as_bytes(), value);
    }
    writer.close();
}

/// The parts of a path, and of each whether it is an index.
fn parts<'p, 'a: 'p>(path: &'p [u8], clues: &Clues<'a>) -> Vec<Part<'p>> {
    let disambiguated = clues.disambiguated.and_then(|paths| clues.fields.find(paths, path));
    if let Some(parts) = disambiguated {
        return parts
            .elements()
            .map(|(_, part)| Part { name: part.text(), is_index: Some(part.is_number()) })
            .collect();
    }
    let mut here = clues.document;
    path.split(|byte| *byte == b'.')
        .map(|name| {
            let looks_like_index = !name.is_empty() && name.iter().all(u8::is_ascii_digit);
            let is_index = match here.map(|value| value.tag) {
                _ if !looks_like_index => Some(false),
                Some(tag::ARRAY) => Some(true),
                Some(tag::DOCUMENT) => Some(false),
                _ => None,
            };
            here = here.and_then(|value| clues.fields.find(value, name));
            Part { name, is_index }
        })
        .collect()
}
