//! Which of many routes an event may concern.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::index::{Index, IndexSlot};
use super::route::Route;
use crate::event::{ChangeEvent, OperationType};

/// Where a route is in a finder. That of one that was removed is given again.
pub(crate) type Slot = u32;

/// Routes, and the indexes of their predicates.
#[derive(Default)]
pub(crate) struct Finder {
    /// By slot.
    routes: Vec<Option<Found>>,
    free: Vec<Slot>,
    /// By the collection that a route listens to.
    sections: HashMap<String, Index<Slot>>,
    /// Of those that listen to the whole database.
    whole: Option<Index<Slot>>,
    /// Routes that may have to reset their clients where an image is missing, and so have to hear of
    /// each event that comes without.
    strict: HashMap<String, Strict>,
}

struct Found {
    route: Arc<Route>,
    /// In the index of its section.
    filed: IndexSlot,
}

/// Of one collection; of the whole database under an empty name.
#[derive(Default)]
struct Strict {
    /// Want the document before a change.
    before: HashSet<Slot>,
    /// Want that after an update.
    after: HashSet<Slot>,
}

impl Finder {
    /// The slot of the route that is added next.
    pub fn next_slot(&self) -> Slot {
        // There are far fewer than that.
        let fresh = Slot::try_from(self.routes.len()).unwrap_or(Slot::MAX);
        self.free.last().copied().unwrap_or(fresh)
    }

    /// Adds a route, in [`Finder::next_slot`].
    pub fn add(&mut self, route: Arc<Route>) {
        let (slot, filter) = (self.next_slot(), route.filter());
        let section = match &filter.namespace.collection {
            Some(name) => self.sections.entry(name.clone()).or_default(),
            None => self.whole.get_or_insert_default(),
        };
        let filed = section.insert(slot, route.predicate());
        let (before, after) = (filter.requires_before_image(), filter.may_miss_after_image());
        if before || after {
            let strict = self.strict.entry(collection_of(&route)).or_default();
            strict.before.extend(before.then_some(slot));
            strict.after.extend(after.then_some(slot));
        }
        let found = Some(Found { route, filed });
        match self.free.pop() {
            Some(free) => self.routes[free as usize] = found,
            None => self.routes.push(found),
        }
    }

    /// Says whether there was a route.
    pub fn remove(&mut self, slot: Slot) -> bool {
        let found = self.routes.get_mut(slot as usize).and_then(Option::take);
        let Some(Found { route, filed }) = found else { return false };
        self.free.push(slot);
        if self.free.len() == self.routes.len() {
            // A crowd has left: its room is given back.
            (self.routes, self.free) = (Vec::new(), Vec::new());
        }
        if let Entry::Occupied(mut strict) = self.strict.entry(collection_of(&route)) {
            let Strict { before, after } = strict.get_mut();
            before.remove(&slot);
            after.remove(&slot);
            if before.is_empty() && after.is_empty() {
                strict.remove();
            }
        }
        let Some(name) = &route.filter().namespace.collection else {
            self.whole.as_mut().map(|section| section.remove(filed));
            self.whole.take_if(|section| section.is_empty());
            return true;
        };
        if let Some(section) = self.sections.get_mut(name) {
            section.remove(filed);
            if section.is_empty() {
                self.sections.remove(name);
            }
        }
        true
    }

    /// `None` once the route has been removed; another one may be there by then.
    pub fn get(&self, slot: Slot) -> Option<&Arc<Route>> {
        Some(&self.routes.get(slot as usize)?.as_ref()?.route)
    }

    /// All of them, in no order.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.iter().flatten().map(|found| &found.route)
    }

    /// How many routes there are.
    pub fn len(&self) -> usize {
        self.routes.len() - self.free.len()
    }

    /// Puts into `out` the routes that may want the event, each once: all that do are among them.
    pub fn candidates(&self, event: &ChangeEvent, out: &mut Vec<Slot>) {
        out.clear();
        if event.is_cut()
            || matches!(event.operation(), OperationType::Drop | OperationType::Rename)
        {
            // Rare, and it concerns all routes of the collection, whatever their conditions.
            out.extend(
                (0..).zip(&self.routes).filter(|(_, it)| it.is_some()).map(|(slot, _)| slot),
            );
            return;
        }
        let of_collection = event.collection().and_then(|name| self.sections.get(name));
        for section in of_collection.into_iter().chain(&self.whole) {
            gather(section, event, out);
        }
        let operation = event.operation();
        let lacks_before =
            operation != OperationType::Insert && event.full_document_before_change().is_none();
        let lacks_after = operation == OperationType::Update && event.full_document().is_none();
        if self.strict.is_empty() || !(lacks_before || lacks_after) {
            return;
        }
        let found = out.len();
        for collection in [event.collection(), Some("")].into_iter().flatten() {
            let Some(Strict { before, after }) = self.strict.get(collection) else { continue };
            out.extend(before.iter().filter(|_| lacks_before));
            out.extend(after.iter().filter(|_| lacks_after));
        }
        if out.len() > found {
            out.sort_unstable();
            out.dedup();
        }
    }
}

fn collection_of(route: &Route) -> String {
    route.filter().namespace.collection.clone().unwrap_or_default()
}

/// The routes that the document before or after the change may match, each once.
///
/// Without either, the key stands in for the document: a predicate that the key alone decides to be
/// true is true of every document with that key, so also of one that has nothing else.
fn gather(section: &Index<Slot>, event: &ChangeEvent, out: &mut Vec<Slot>) {
    let (before, after) = (event.full_document_before_change(), event.full_document());
    let documents = match (before, after) {
        (None, None) => [event.document_key(), None],
        both => [both.0, both.1],
    };
    let start = out.len();
    for document in documents.into_iter().flatten() {
        section.candidates(document, out);
    }
    if before.is_some() && after.is_some() {
        let mut found = out.split_off(start);
        found.sort_unstable();
        found.dedup();
        out.append(&mut found);
    }
}
