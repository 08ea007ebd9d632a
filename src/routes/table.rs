//! All routes of one upstream, and which of them an event concerns.

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::index::Index;
use super::route::Route;
use crate::event::{ChangeEvent, OperationType};
use crate::filter::{Bound, BoundValues, Filter};
use crate::matcher::Predicate;

/// Of one table; never used twice.
pub type RouteId = u64;

/// What makes two subscriptions the same route: the file as it was read, and the bound values.
///
/// Small, since there may be a million of them: a reference to the filter instead of its name.
#[derive(Debug)]
pub(super) struct Key {
    filter: Arc<Filter>,
    values: BoundValues,
}

impl Key {
    fn parts(&self) -> (&str, u64, &BoundValues) {
        (&self.filter.name, self.filter.source_digest, &self.values)
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

/// Only touched under the feed's lock.
#[derive(Default)]
pub struct RouteTable {
    by_key: HashMap<Arc<Key>, RouteId>,
    routes: HashMap<RouteId, Arc<Route>>,
    /// By the collection that a route listens to; `None`: the whole database.
    sections: HashMap<Option<String>, Index<RouteId>>,
    next: RouteId,
    /// Routes that hold deliveries: what trimming has to look at, out of perhaps a million.
    holding: HashSet<RouteId>,
    /// Routes that require an image, and have to hear of each event that comes without.
    strict: HashSet<RouteId>,
    /// Kept for its memory.
    candidates: Vec<RouteId>,
}

impl RouteTable {
    /// The route of a filter with these values, made if it is new; the caller is counted.
    pub fn join(
        &mut self,
        filter: &Arc<Filter>,
        bound: Bound,
        complete_from: u64,
        keep: usize,
    ) -> Arc<Route> {
        let key = Key { filter: filter.clone(), values: bound.values };
        if let Some(route) = self.known(&key) {
            return route;
        }
        self.add(Arc::new(key), filter, bound.predicate, complete_from, keep)
    }

    /// The route that is to this table what `other` is to its own, for the same clients.
    pub fn join_as(&mut self, other: &Route, complete_from: u64, keep: usize) -> Arc<Route> {
        if let Some(route) = self.known(&other.key) {
            return route;
        }
        let (key, predicate) = (other.key.clone(), other.predicate().clone());
        self.add(key, other.filter(), predicate, complete_from, keep)
    }

    fn known(&self, key: &Key) -> Option<Arc<Route>> {
        let route = self.routes.get(self.by_key.get(key)?)?;
        // A file that is changed and changed back has the same key. Whoever was told to leave and
        // has not yet must not have newcomers join him.
        if route.is_retired() {
            return None;
        }
        route.subscribers.fetch_add(1, Ordering::Relaxed);
        Some(route.clone())
    }

    fn add(
        &mut self,
        key: Arc<Key>,
        filter: &Arc<Filter>,
        predicate: Predicate,
        complete_from: u64,
        keep: usize,
    ) -> Arc<Route> {
        let id = self.next;
        self.next += 1;
        let section = self.sections.entry(filter.namespace.collection.clone()).or_default();
        section.insert(id, &predicate);
        self.by_key.insert(key.clone(), id);
        if filter.requires_image() {
            self.strict.insert(id);
        }
        let route = Route::new(id, key, filter.clone(), predicate, complete_from, keep);
        let route = Arc::new(route);
        route.subscribers.fetch_add(1, Ordering::Relaxed);
        self.routes.insert(id, route.clone());
        route
    }

    /// Takes a caller off; the route goes with the last one.
    pub fn leave(&mut self, route: &Route) {
        if route.subscribers.fetch_sub(1, Ordering::Relaxed) > 1 {
            return;
        }
        if self.routes.remove(&route.id()).is_none() {
            return;
        }
        if self.by_key.get(&route.key) == Some(&route.id()) {
            self.by_key.remove(&route.key);
        }
        self.holding.remove(&route.id());
        self.strict.remove(&route.id());
        let collection = &route.filter().namespace.collection;
        if let Some(section) = self.sections.get_mut(collection) {
            section.remove(&route.id());
            if section.is_empty() {
                self.sections.remove(collection);
            }
        }
    }

    /// Hands the event to every route that wants it.
    pub fn offer(&mut self, number: u64, event: &ChangeEvent) {
        if event.is_cut()
            || matches!(event.operation(), OperationType::Drop | OperationType::Rename)
        {
            // Rare, and it concerns all routes of the collection, whatever their conditions.
            for route in self.routes.values() {
                give(route, number, event, &mut self.holding);
            }
            return;
        }
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.clear();
        for collection in [event.collection().map(str::to_owned), None] {
            if let Some(section) = self.sections.get(&collection) {
                gather(section, event, &mut candidates);
            }
        }
        let comes_without = event.full_document_before_change().is_none()
            || event.operation() == OperationType::Update && event.full_document().is_none();
        if !self.strict.is_empty() && comes_without {
            candidates.extend(&self.strict);
            candidates.sort_unstable();
            candidates.dedup();
        }
        for id in &candidates {
            if let Some(route) = self.routes.get(id) {
                give(route, number, event, &mut self.holding);
            }
        }
        self.candidates = candidates;
    }

    /// Lets go of deliveries of events before this one.
    pub fn trim(&mut self, first: u64) {
        let routes = &self.routes;
        self.holding.retain(|id| routes.get(id).is_some_and(|route| route.trim(first)));
    }

    pub fn restart_at(&self, number: u64) {
        for route in self.routes.values() {
            route.restart_at(number);
        }
    }

    /// Tells the subscriptions of a filter that it is no longer the one in force.
    pub fn retire(&self, filter: &Arc<Filter>) {
        for route in self.routes.values() {
            if Arc::ptr_eq(route.filter(), filter) {
                route.retire();
            }
        }
    }

    /// Tells all subscriptions that nothing more comes.
    pub fn retire_all(&self) {
        for route in self.routes.values() {
            route.retire();
        }
    }

    pub fn len(&self) -> usize {
        self.routes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }
}

impl std::fmt::Debug for RouteTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RouteTable").field("routes", &self.routes.len()).finish_non_exhaustive()
    }
}

fn give(route: &Route, number: u64, event: &ChangeEvent, holding: &mut HashSet<RouteId>) {
    if let Some(delivery) = route.deliver(number, event) {
        route.push(Arc::new(delivery));
        holding.insert(route.id());
    }
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
