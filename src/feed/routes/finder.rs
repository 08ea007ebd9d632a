//! Which of many routes an event may concern.

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
    strict: HashSet<RouteId>,
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
        if filter.may_miss_image() {
            self.strict.insert(id);
        }
        self.routes.insert(id, route);
    }

    /// Says whether it was there.
    pub fn remove(&mut self, route: &Route) -> bool {
        if self.routes.remove(&route.id()).is_none() {
            return false;
        }
        self.strict.remove(&route.id());
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

    pub fn get(&self, id: RouteId) -> Option<&Arc<Route>> {
        self.routes.get(&id)
    }

    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.values()
    }

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
        let comes_without = event.full_document_before_change().is_none()
            || event.operation() == OperationType::Update && event.full_document().is_none();
        if !self.strict.is_empty() && comes_without {
            out.extend(&self.strict);
            out.sort_unstable();
            out.dedup();
        }
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
