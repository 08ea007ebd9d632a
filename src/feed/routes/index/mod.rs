//! The index of routes by the terms that their predicates require.
//!
//! The index is for documents. For an event that has only a key, the key is used as if it were the
//! whole document: what the key alone proves is true of the whole document too.

use std::collections::{BTreeMap, HashMap, btree_map, hash_map};
use std::hash::RandomState;
use std::ops::Bound;
use std::sync::Arc;

use bson::RawDocument;

pub use super::describe::{Description, TermDescription, TermKind, describe};
use super::hash::{self, Hashed};
use super::ordered::{Ordered, Ranked};
use super::postings::{Entry, Lists, Postings, Removed};
use super::terms::{self, Term, Terms};
use crate::event::raw::{Elements, Value, tag};
use crate::matcher::Predicate;
use crate::matcher::path::{Leaf, Path};
use crate::matcher::value::compare::rank;

/// Up to so many paths, each is looked for in the document by itself, which is cheaper than to
/// look up every field of the document.
const SCANNED_PATHS: usize = 6;
/// Routes under one equality before another equality of the same predicate is worth a thought.
const CROWD: usize = 32;
/// Terms and ways that are counted before a choice, which bounds what adding costs.
const COUNTED_TERMS: usize = 8;

/// Where a route is in an index: given when it is added, and needed to remove it.
pub type IndexSlot = u32;

/// Routes by id, filed under the best term of their predicates.
///
/// Memory: about 50 bytes a route with one equality. Adding and removing cost the same whatever
/// the number of routes; so does looking up, apart from the candidates it finds.
#[derive(Debug)]
pub struct Index<Id> {
    /// Ids by slot, apart from the rest: looking up touches nothing else of a route. Nothing refers to
    /// that of a free slot.
    ids: Vec<Id>,
    /// Where the terms of each slot are filed.
    filed: Vec<Filed>,
    free: Vec<IndexSlot>,
    /// Hash of path and value, to routes. Two values that share a hash share their candidates.
    equal: HashMap<u32, Postings, Hashed>,
    /// Of all keys that several routes share.
    lists: Lists,
    paths: Vec<PathEntry>,
    path_numbers: HashMap<Arc<Path>, u32>,
    /// Paths by their first part, for documents to be gone over once where there are many paths.
    by_first_part: HashMap<Box<[u8]>, Vec<u32>>,
    /// Paths under which a route is filed by null.
    null_paths: Vec<u32>,
    active_paths: usize,
    /// Candidates for every document.
    always: Vec<Entry>,
    /// Keyed, since the values come from clients.
    state: RandomState,
}

/// Where the terms of a route are filed.
#[derive(Debug, Default)]
enum Filed {
    /// There is no route.
    #[default]
    Free,
    /// In place, since most routes have one.
    One(Location),
    Several(Box<[Location]>),
}

impl Filed {
    fn locations(&mut self) -> &mut [Location] {
        match self {
            Filed::Free => &mut [],
            Filed::One(location) => std::slice::from_mut(location),
            Filed::Several(locations) => locations,
        }
    }
}

/// Where one term of a route is filed.
#[derive(Debug)]
struct Location {
    file: File,
    place: u32,
}

#[derive(Clone, Debug)]
enum File {
    Equal { path: u32, hash: u32, is_null: bool },
    // Boxed, since most routes are filed under an equality.
    AtLeast { path: u32, value: Box<Ordered> },
    AtMost { path: u32, value: Box<Ordered> },
    Exists { path: u32 },
    Always,
}

type Ranges = BTreeMap<Ordered, Postings>;

#[derive(Debug)]
struct PathEntry {
    path: Arc<Path>,
    /// Routes filed under this path, by how.
    equal: usize,
    /// Of these, by null: they want documents without the field, too.
    nulls: usize,
    at_least: Ranges,
    at_most: Ranges,
    exists: Vec<Entry>,
}

impl PathEntry {
    fn is_unused(&self) -> bool {
        self.equal == 0
            && self.at_least.is_empty()
            && self.at_most.is_empty()
            && self.exists.is_empty()
    }
}

impl<Id: Copy + Ord> Default for Index<Id> {
    fn default() -> Self {
        Index::new()
    }
}

impl<Id: Copy + Ord> Index<Id> {
    /// An empty index.
    pub fn new() -> Index<Id> {
        Index {
            ids: Vec::new(),
            filed: Vec::new(),
            free: Vec::new(),
            equal: HashMap::default(),
            lists: Lists::default(),
            paths: Vec::new(),
            path_numbers: HashMap::new(),
            by_first_part: HashMap::new(),
            null_paths: Vec::new(),
            active_paths: 0,
            always: Vec::new(),
            state: RandomState::new(),
        }
    }

    /// How many routes there are.
    pub fn len(&self) -> usize {
        self.ids.len() - self.free.len()
    }

    /// Whether there is no route.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a route, whose id no other has. Gives its slot.
    pub fn insert(&mut self, id: Id, predicate: &Predicate) -> IndexSlot {
        let slot = self.free.pop().unwrap_or(self.ids.len() as IndexSlot);
        let terms = self.choose(terms::ways(predicate));
        let filed = match terms.as_deref() {
            None => Filed::One(self.file(File::Always, Entry { slot, term: 0 })),
            Some([only]) => Filed::One(self.file_term(only, Entry { slot, term: 0 })),
            Some(terms) => {
                let numbered = terms.iter().zip(0..);
                let file = |(term, number)| self.file_term(term, Entry { slot, term: number });
                Filed::Several(numbered.map(file).collect())
            }
        };
        match self.ids.get_mut(slot as usize) {
            Some(free) => {
                *free = id;
                self.filed[slot as usize] = filed;
            }
            None => {
                self.ids.push(id);
                self.filed.push(filed);
            }
        }
        slot
    }

    /// Removes the route in this slot; false where there is none.
    pub fn remove(&mut self, slot: IndexSlot) -> bool {
        let at = slot as usize;
        if matches!(self.filed.get(at), None | Some(Filed::Free)) {
            return false;
        }
        for term in 0..self.filed[at].locations().len() {
            // One by one and in place: what moves up may be a later entry of this same route.
            let gone = Location { file: File::Always, place: 0 };
            let place = std::mem::replace(&mut self.filed[at].locations()[term], gone);
            self.unfile(place);
        }
        self.filed[at] = Filed::Free;
        self.free.push(slot);
        true
    }

    fn file_term(&mut self, term: &Term, entry: Entry) -> Location {
        let file = self.locate(term.clone());
        self.file(file, entry)
    }

    /// Adds the routes that may want the document to `out`, each once. Every route whose predicate
    /// matches is among them.
    pub fn candidates(&self, document: &RawDocument, out: &mut Vec<Id>) {
        let start = out.len();
        let mut found = Found { out, ids: &self.ids, lists: 0 };
        found.take(&self.always);
        if self.active_paths <= SCANNED_PATHS {
            for number in 0..self.paths.len() as u32 {
                self.probe_path(number, document, &mut found);
            }
        } else {
            self.probe_all(document, &mut found);
        }
        if found.lists > 1 {
            // A route with several terms, or an array with equal values, may be found twice.
            sort_tail(out, start);
        }
    }

    /// Follows one path from the root.
    fn probe_path(&self, number: u32, document: &RawDocument, found: &mut Found<'_, Id>) {
        let entry = &self.paths[number as usize];
        if entry.is_unused() {
            return;
        }
        let mut exists = false;
        entry.path.any(Elements::new(document.as_bytes()), Leaf::Spread, &mut |value| {
            exists |= value.is_some();
            self.probe_value(number, value, found);
            false
        });
        if exists {
            found.take(&entry.exists);
        }
    }

    /// Goes over the fields of the document once and follows the paths that begin with each.
    fn probe_all(&self, document: &RawDocument, found: &mut Found<'_, Id>) {
        for (key, value) in Elements::new(document.as_bytes()) {
            let Some(numbers) = self.by_first_part.get(key) else { continue };
            for number in numbers {
                let entry = &self.paths[*number as usize];
                let rest = entry.path.parts().get(1..).unwrap_or_default();
                let mut exists = false;
                Path::any_below(rest, value, Leaf::Spread, &mut |value| {
                    exists |= value.is_some();
                    self.probe_value(*number, value, found);
                    false
                });
                if exists {
                    found.take(&entry.exists);
                }
            }
        }
        // Paths that begin with no field of the document: they are missing, which equals null.
        for number in &self.null_paths {
            let entry = &self.paths[*number as usize];
            let first = entry.path.parts().first().map(|part| part.as_bytes()).unwrap_or_default();
            if Elements::new(document.as_bytes()).find_key(first).is_none() {
                self.probe_value(*number, None, found);
            }
        }
    }

    fn probe_value(&self, number: u32, value: Option<Value<'_>>, found: &mut Found<'_, Id>) {
        let entry = &self.paths[number as usize];
        if entry.equal > 0
            && let Some(postings) = self.equal.get(&hash::of(&self.state, number, value))
        {
            found.take(postings.entries(&self.lists));
        }
        let Some(value) = value else { return };
        if !entry.at_least.is_empty() {
            let below = (Bound::Unbounded, Bound::Included(&value as &dyn Ranked));
            let of_its_type = |key: &&Ordered| rank(key.get().tag) == rank(value.tag);
            for (key, postings) in entry.at_least.range::<dyn Ranked, _>(below).rev() {
                if !of_its_type(&key) {
                    break;
                }
                found.take(postings.entries(&self.lists));
            }
        }
        if !entry.at_most.is_empty() {
            let above = (Bound::Included(&value as &dyn Ranked), Bound::Unbounded);
            for (key, postings) in entry.at_most.range::<dyn Ranked, _>(above) {
                if rank(key.get().tag) != rank(value.tag) {
                    break;
                }
                found.take(postings.entries(&self.lists));
            }
        }
    }

    /// The best way for what is in the index now: an equality that many routes share already
    /// tells less than one that is still rare.
    fn choose(&self, ways: Vec<Terms>) -> Option<Terms> {
        let crowd = |way: &Terms| -> u32 {
            let load: usize = way.iter().take(COUNTED_TERMS).map(|term| self.load(term)).sum();
            if load < CROWD { 0 } else { load.ilog2() }
        };
        let are_equalities = |way: &&Terms| way.iter().all(|t| matches!(t, Term::Equal(..)));
        let best = ways
            .iter()
            .filter(are_equalities)
            .take(COUNTED_TERMS)
            .enumerate()
            .min_by_key(|(place, way)| (crowd(way), *place))
            .map(|(_, way)| way.clone());
        best.or_else(|| ways.into_iter().next())
    }

    /// How many routes share a term.
    fn load(&self, term: &Term) -> usize {
        let Term::Equal(path, value) = term else { return 0 };
        let Some(number) = self.path_numbers.get(path) else { return 0 };
        let hash = hash::of(&self.state, *number, Some(value.get()));
        self.equal.get(&hash).map_or(0, |postings| postings.len(&self.lists))
    }

    fn locate(&mut self, term: Term) -> File {
        match term {
            Term::Equal(path, value) => {
                let path = self.path_number(path);
                let hash = hash::of(&self.state, path, Some(value.get()));
                let is_null =
                    rank(value.get().tag) <= rank(tag::NULL) && value.get().tag != tag::MIN_KEY;
                File::Equal { path, hash, is_null }
            }
            Term::AtLeast(path, value) => {
                File::AtLeast { path: self.path_number(path), value: Box::new(Ordered(value)) }
            }
            Term::AtMost(path, value) => {
                File::AtMost { path: self.path_number(path), value: Box::new(Ordered(value)) }
            }
            Term::Exists(path) => File::Exists { path: self.path_number(path) },
        }
    }

    fn path_number(&mut self, path: Arc<Path>) -> u32 {
        if let Some(number) = self.path_numbers.get(&path) {
            return *number;
        }
        let entry = PathEntry {
            path: Arc::clone(&path),
            equal: 0,
            nulls: 0,
            at_least: BTreeMap::new(),
            at_most: BTreeMap::new(),
            exists: Vec::new(),
        };
        let unused = self.paths.iter().position(PathEntry::is_unused);
        let number = match unused {
            Some(place) => {
                self.paths[place] = entry;
                place as u32
            }
            None => {
                self.paths.push(entry);
                self.paths.len() as u32 - 1
            }
        };
        let first: Box<[u8]> =
            path.parts().first().map(|part| part.as_bytes().into()).unwrap_or_default();
        self.by_first_part.entry(first).or_default().push(number);
        self.path_numbers.insert(path, number);
        self.active_paths += 1;
        number
    }

    /// Forgets a path that no route is filed under any more.
    fn release_path(&mut self, number: u32) {
        let entry = &self.paths[number as usize];
        if !entry.is_unused() {
            return;
        }
        let path = Arc::clone(&entry.path);
        if self.path_numbers.remove(&path).is_none() {
            return;
        }
        self.active_paths -= 1;
        let first = path.parts().first().map(|part| part.as_bytes()).unwrap_or_default();
        if let Some(numbers) = self.by_first_part.get_mut(first) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.by_first_part.remove(first);
            }
        }
    }

    fn file(&mut self, file: File, entry: Entry) -> Location {
        let place = match &file {
            File::Equal { path, hash, is_null } => {
                let paths = &mut self.paths[*path as usize];
                paths.equal += 1;
                if *is_null {
                    paths.nulls += 1;
                    if paths.nulls == 1 {
                        self.null_paths.push(*path);
                    }
                }
                match self.equal.entry(*hash) {
                    hash_map::Entry::Occupied(mut there) => {
                        there.get_mut().add(entry, &mut self.lists)
                    }
                    hash_map::Entry::Vacant(free) => {
                        free.insert(Postings::one(entry));
                        0
                    }
                }
            }
            File::AtLeast { path, value } => {
                add_ranged(&mut self.paths[*path as usize].at_least, &mut self.lists, value, entry)
            }
            File::AtMost { path, value } => {
                add_ranged(&mut self.paths[*path as usize].at_most, &mut self.lists, value, entry)
            }
            File::Exists { path } => push(&mut self.paths[*path as usize].exists, entry),
            File::Always => push(&mut self.always, entry),
        };
        Location { file, place }
    }

    fn unfile(&mut self, Location { file, place }: Location) {
        let mut used_path = None;
        let removed = match &file {
            File::Equal { path, hash, is_null } => {
                used_path = Some(*path);
                let paths = &mut self.paths[*path as usize];
                paths.equal -= 1;
                if *is_null {
                    paths.nulls -= 1;
                    if paths.nulls == 0 {
                        self.null_paths.retain(|other| other != path);
                    }
                }
                match self.equal.entry(*hash) {
                    hash_map::Entry::Occupied(mut there) => {
                        let removed = there.get_mut().remove(place, &mut self.lists);
                        if matches!(removed, Removed::Empty) {
                            there.remove();
                        }
                        removed
                    }
                    hash_map::Entry::Vacant(_) => Removed::Last,
                }
            }
            File::AtLeast { path, value } => {
                used_path = Some(*path);
                remove_ranged(
                    &mut self.paths[*path as usize].at_least,
                    &mut self.lists,
                    value,
                    place,
                )
            }
            File::AtMost { path, value } => {
                used_path = Some(*path);
                remove_ranged(
                    &mut self.paths[*path as usize].at_most,
                    &mut self.lists,
                    value,
                    place,
                )
            }
            File::Exists { path } => {
                used_path = Some(*path);
                swap_remove(&mut self.paths[*path as usize].exists, place)
            }
            File::Always => swap_remove(&mut self.always, place),
        };
        if let Removed::Moved(entry) = removed {
            self.filed[entry.slot as usize].locations()[entry.term as usize].place = place;
        }
        if let Some(path) = used_path {
            self.release_path(path);
        }
    }
}

fn push(entries: &mut Vec<Entry>, entry: Entry) -> u32 {
    entries.push(entry);
    entries.len() as u32 - 1
}

fn swap_remove(entries: &mut Vec<Entry>, place: u32) -> Removed {
    entries.swap_remove(place as usize);
    entries.get(place as usize).map_or(Removed::Last, |moved| Removed::Moved(*moved))
}

fn add_ranged(map: &mut Ranges, lists: &mut Lists, value: &Ordered, entry: Entry) -> u32 {
    match map.entry(value.clone()) {
        btree_map::Entry::Occupied(mut there) => there.get_mut().add(entry, lists),
        btree_map::Entry::Vacant(free) => {
            free.insert(Postings::one(entry));
            0
        }
    }
}

fn remove_ranged(map: &mut Ranges, lists: &mut Lists, value: &Ordered, place: u32) -> Removed {
    let Some(postings) = map.get_mut(value) else { return Removed::Last };
    let removed = postings.remove(place, lists);
    if matches!(removed, Removed::Empty) {
        map.remove(value);
    }
    removed
}

fn sort_tail<Id: Copy + Ord>(out: &mut Vec<Id>, start: usize) {
    out[start..].sort_unstable();
    let mut kept = start;
    for next in start..out.len() {
        if kept == start || out[kept - 1] != out[next] {
            out[kept] = out[next];
            kept += 1;
        }
    }
    out.truncate(kept);
}

/// The candidates of one document on their way out.
struct Found<'a, Id> {
    out: &'a mut Vec<Id>,
    ids: &'a [Id],
    /// From how many lists they came: within one, each route stands once.
    lists: usize,
}

impl<Id: Copy> Found<'_, Id> {
    fn take(&mut self, entries: &[Entry]) {
        if entries.is_empty() {
            return;
        }
        // A route stands twice in a list if two of its values share a hash.
        self.lists += 1 + usize::from(entries.iter().any(|entry| entry.term > 0));
        let ids = entries.iter().filter_map(|entry| self.ids.get(entry.slot as usize).copied());
        self.out.extend(ids);
    }
}

#[cfg(test)]
mod tests;
