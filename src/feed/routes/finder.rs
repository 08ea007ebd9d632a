//! Which of many routes an event may concern.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::hash::Spread;
use super::index::Index;
use super::route::Route;
use super::table::RouteId;
use crate::event::{ChangeEvent, OperationType};

/// Routes, and the indexes of their predicates.
#[derive(Default)]
pub(crate) struct Finder {
    routes: HashMap<RouteId, Arc<Route>, Spread>,
    /// By the collection that a route listens to.
    sections: HashMap<String, Index<RouteId>>,
    /// Of those that listen to the whole database.
    whole: Option<Index<RouteId>>,
    /// Routes that may have to reset their clients where an image is missing, and so have to hear of
    /// each event that comes without.
    strict: HashMap<String, Strict>,
}

/// Of one collection; of the whole database under an empty name.
#[derive(Default)]
struct Strict {
    /// Want the document before a change.
    before: HashSet<RouteId>,
    /// Want that after an update.
    after: HashSet<RouteId>,
}

impl Finder {
    /// Adds a route. One with that id is replaced.
    pub fn add(&mut self, route: Arc<Route>) {
        let (id, filter) = (route.id(), route.filter());
        let section = match &filter.namespace.collection {
            Some(name) => self.sections.entry(name.clone()).or_default(),
            None => self.whole.get_or_insert_default(),
        };
        section.insert(id, route.predicate());
        let (before, after) = (filter.requires_before_image(), filter.may_miss_after_image());
        if before || after {
            let strict = self.strict.entry(collection_of(&route)).or_default();
            strict.before.extend(before.then_some(id));
            strict.after.extend(after.then_some(id));
        }
        self.routes.insert(id, route);
    }

    /// Says whether it was there.
    pub fn remove(&mut self, route: &Route) -> bool {
        if self.routes.remove(&route.id()).is_none() {
            return false;
        }
        if let Entry::Occupied(mut strict) = self.strict.entry(collection_of(route)) {
            let Strict { before, after } = strict.get_mut();
            before.remove(&route.id());
            after.remove(&route.id());
            if before.is_empty() && after.is_empty() {
                strict.remove();
            }
        }
        let Some(name) = &route.filter().namespace.collection else {
            self.whole.as_mut().map(|section| section.remove(&route.id()));
            self.whole.take_if(|section| section.is_empty());
            return true;
        };
        if let Some(section) = self.sections.get_mut(name) {
            section.remove(&route.id());
            if section.is_empty() {
                self.sections.remove(name);
            }
        }
        true
    }

    /// `None` once the route has been removed.
    pub fn get(&self, id: RouteId) -> Option<&Arc<Route>> {
        self.routes.get(&id)
    }

    /// All of them, in no order.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.values()
    }

    /// How many routes there are.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Puts into `out` the routes that may want the event, each once: all that do are among them.
    pub fn candidates(&self, event: &ChangeEvent, out: &mut Vec<RouteId>) {
        out.clear();
        if event.is_cut()
            || matches!(event.operation(), OperationType::Drop | OperationType::Rename)
        {
            // Rare, and it concerns all routes of the collection, whatever their conditions.
            out.extend(self.routes.keys());
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
fn gather(section: &Index<RouteId>, event: &ChangeEvent, out: &mut Vec<RouteId>) {
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
