//! All routes of one upstream, and which of them an event concerns.

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::finder::Finder;
use super::route::Route;
use crate::event::ChangeEvent;
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
    finder: Finder,
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
        let route = self.finder.get(*self.by_key.get(key)?)?;
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
        self.by_key.insert(key.clone(), id);
        let route = Route::new(id, key, filter.clone(), predicate, complete_from, keep);
        let route = Arc::new(route);
        route.subscribers.fetch_add(1, Ordering::Relaxed);
        self.finder.add(route.clone());
        route
    }

    /// Takes a caller off; the route goes with the last one.
    pub fn leave(&mut self, route: &Route) {
        if route.subscribers.fetch_sub(1, Ordering::Relaxed) > 1 {
            return;
        }
        if !self.finder.remove(route) {
            return;
        }
        if self.by_key.get(&route.key) == Some(&route.id()) {
            self.by_key.remove(&route.key);
        }
        self.holding.remove(&route.id());
    }

    /// Hands the event to every route that wants it.
    pub fn offer(&mut self, number: u64, event: &ChangeEvent) {
        let mut candidates = std::mem::take(&mut self.candidates);
        self.finder.candidates(event, &mut candidates);
        for id in &candidates {
            let Some(route) = self.finder.get(*id) else { continue };
            if let Some(delivery) = route.deliver(number, event) {
                route.push(Arc::new(delivery));
                self.holding.insert(*id);
            }
        }
        self.candidates = candidates;
    }

    /// Lets go of deliveries of events before this one.
    pub fn trim(&mut self, first: u64) {
        let finder = &self.finder;
        self.holding.retain(|id| finder.get(*id).is_some_and(|route| route.trim(first)));
    }

    pub fn restart_at(&self, number: u64) {
        for route in self.finder.routes() {
            route.restart_at(number);
        }
    }

    /// Tells the subscriptions of a filter that it is no longer the one in force.
    pub fn retire(&self, filter: &Arc<Filter>) {
        for route in self.finder.routes() {
            if Arc::ptr_eq(route.filter(), filter) {
                route.retire();
            }
        }
    }

    /// Tells all subscriptions that nothing more comes.
    pub fn retire_all(&self) {
        for route in self.finder.routes() {
            route.retire();
        }
    }

    pub fn len(&self) -> usize {
        self.finder.len()
    }

    pub fn is_empty(&self) -> bool {
        self.finder.len() == 0
    }
}

impl std::fmt::Debug for RouteTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RouteTable").field("routes", &self.finder.len()).finish_non_exhaustive()
    }
}
