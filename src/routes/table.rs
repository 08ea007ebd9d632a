//! All routes of one upstream, and which of them an event concerns.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::index::Index;
use super::route::Route;
use crate::event::{ChangeEvent, OperationType};
use crate::filter::{Bound, BoundValues, Filter};

/// Of one table; never used twice.
pub type RouteId = u64;

/// What makes two subscriptions the same route: the file as it was read, and the bound values.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    stream: String,
    digest: u64,
    values: BoundValues,
}

impl Key {
    fn new(filter: &Filter, values: BoundValues) -> Key {
        Key { stream: filter.name.clone(), digest: filter.source_digest, values }
    }
}

/// Only touched under the feed's lock.
#[derive(Default)]
pub struct RouteTable {
    by_key: HashMap<Arc<Key>, RouteId>,
    routes: HashMap<RouteId, (Arc<Route>, Arc<Key>)>,
    /// By the collection that a route listens to; `None`: the whole database.
    sections: HashMap<Option<String>, Index<RouteId>>,
    next: RouteId,
    /// Routes that hold deliveries: what trimming has to look at, out of perhaps a million.
    holding: HashSet<RouteId>,
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
        let key = Key::new(filter, bound.values);
        if let Some((route, _)) = self.by_key.get(&key).and_then(|id| self.routes.get(id)) {
            route.subscribers.fetch_add(1, Ordering::Relaxed);
            return route.clone();
        }
        let id = self.next;
        self.next += 1;
        let key = Arc::new(key);
        let section = self.sections.entry(filter.namespace.collection.clone()).or_default();
        section.insert(id, &bound.predicate);
        let route = Arc::new(Route::new(id, filter.clone(), bound.predicate, complete_from, keep));
        route.subscribers.fetch_add(1, Ordering::Relaxed);
        self.by_key.insert(key.clone(), id);
        self.routes.insert(id, (route.clone(), key));
        route
    }

    /// Takes a caller off; the route goes with the last one.
    pub fn leave(&mut self, route: &Route) {
        if route.subscribers.fetch_sub(1, Ordering::Relaxed) > 1 {
            return;
        }
        let Some((_, key)) = self.routes.remove(&route.id()) else {
            return;
        };
        self.by_key.remove(&key);
        self.holding.remove(&route.id());
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
        if matches!(event.operation(), OperationType::Drop | OperationType::Rename) {
            // Rare, and it concerns all routes of the collection, whatever their conditions.
            for (route, _) in self.routes.values() {
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
        for id in &candidates {
            if let Some((route, _)) = self.routes.get(id) {
                give(route, number, event, &mut self.holding);
            }
        }
        self.candidates = candidates;
    }

    /// Lets go of deliveries of events before this one.
    pub fn trim(&mut self, first: u64) {
        let routes = &self.routes;
        self.holding.retain(|id| routes.get(id).is_some_and(|(route, _)| route.trim(first)));
    }

    pub fn restart_at(&self, number: u64) {
        for (route, _) in self.routes.values() {
            route.restart_at(number);
        }
    }

    /// Tells the subscriptions of a filter that it is no longer the one in force.
    pub fn retire(&self, filter: &Arc<Filter>) {
        for (route, _) in self.routes.values() {
            if Arc::ptr_eq(route.filter(), filter) {
                route.retire();
            }
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
