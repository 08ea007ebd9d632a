//! All routes of one upstream, and which of them an event concerns.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::route::Route;
use crate::event::ChangeEvent;
use crate::filter::{Bound, BoundValues, Filter};

/// What makes two subscriptions the same route: the file as it was read, and the bound values.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    stream: String,
    digest: u64,
    values: BoundValues,
}

/// Only touched under the feed's lock.
#[derive(Debug, Default)]
pub struct RouteTable {
    routes: HashMap<Key, Arc<Route>>,
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
        let key = key(filter, &bound);
        let route = self.routes.entry(key).or_insert_with(|| {
            Arc::new(Route::new(filter.clone(), bound.predicate, complete_from, keep))
        });
        route.subscribers.fetch_add(1, Ordering::Relaxed);
        route.clone()
    }

    /// Takes a caller off; the route goes with the last one.
    pub fn leave(&mut self, route: &Arc<Route>) {
        if route.subscribers.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.routes.retain(|_, kept| !Arc::ptr_eq(kept, route));
        }
    }

    /// Hands the event to every route that wants it.
    pub fn offer(&self, number: u64, event: &ChangeEvent) {
        for route in self.routes.values() {
            if let Some(delivery) = route.deliver(number, event) {
                route.push(Arc::new(delivery));
            }
        }
    }

    pub fn trim(&self, first: u64) {
        for route in self.routes.values() {
            route.trim(first);
        }
    }

    pub fn restart_at(&self, number: u64) {
        for route in self.routes.values() {
            route.restart_at(number);
        }
    }

    /// Tells the subscriptions of a filter that it is no longer the one in force.
    pub fn retire(&self, filter: &Arc<Filter>) {
        for route in self.routes.values().filter(|route| Arc::ptr_eq(route.filter(), filter)) {
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

fn key(filter: &Filter, bound: &Bound) -> Key {
    Key { stream: filter.name.clone(), digest: filter.source_digest, values: bound.values.clone() }
}
