//! All routes of one upstream, and which of them an event concerns.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::delivery::Delivery;
use super::finder::{Finder, Slot};
use super::route::{Effect, Route};
use super::tally::{Tallies, Tally};
use crate::event::ChangeEvent;
use crate::filter::{Bound, BoundValues, Filter};
use crate::matcher::Predicate;

/// An event of more bytes is made something of apart from other tasks.
const LARGE: usize = 256 * 1024;

/// Of one table; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RouteId {
    /// In the table's finder.
    pub(super) slot: Slot,
    /// Tells it from those that were in that slot before.
    serial: u32,
}

/// What makes two subscriptions the same route: the file as it was read, and the bound values.
///
/// Small, since there may be a million of them: a reference to the filter instead of its name, and the
/// values where the predicate has them.
#[derive(Debug, Clone)]
pub struct Key {
    filter: Arc<Filter>,
    predicate: Predicate,
}

impl Key {
    /// As it was read when the route was made.
    pub fn filter(&self) -> &Arc<Filter> {
        &self.filter
    }

    /// In the form that the filter's placeholders are bound to.
    pub fn values(&self) -> &BoundValues {
        self.predicate.values()
    }

    /// The filter's `match` with those values, as events are tested by it.
    pub fn predicate(&self) -> &Predicate {
        &self.predicate
    }

    fn parts(&self) -> (&str, u64, &BoundValues) {
        (&self.filter.name, self.filter.meaning, self.values())
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

/// A route, found by its key.
struct Keyed(Arc<Route>);

impl Borrow<Key> for Keyed {
    fn borrow(&self) -> &Key {
        self.0.key()
    }
}

impl PartialEq for Keyed {
    fn eq(&self, other: &Keyed) -> bool {
        self.0.key() == other.0.key()
    }
}

impl Eq for Keyed {}

impl Hash for Keyed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key().hash(state);
    }
}

/// Only touched under the feed's lock.
pub struct RouteTable {
    by_key: HashSet<Keyed>,
    finder: Finder,
    serial: u32,
    /// Routes that hold deliveries: what trimming has to look at, out of perhaps a million.
    holding: HashSet<Slot>,
    /// The events whose deliveries may still be held, and what those of each take; some of them
    /// may be gone already.
    held: VecDeque<(u64, usize)>,
    held_bytes: usize,
    /// What the deliveries that all routes hold may take.
    max_bytes: usize,
    /// How many deliveries a route keeps for slow readers: `clients.max_buffered`.
    keep: usize,
    tallies: Tallies,
    /// Kept for its memory.
    candidates: Vec<Slot>,
}

/// An event and the routes that it may concern, to be judged without the feed's lock.
pub(crate) struct Offer {
    number: u64,
    event: Arc<ChangeEvent>,
    routes: Vec<Arc<Route>>,
}

/// What an event is for the routes that want it: made, and not handed out yet.
pub(crate) struct Made {
    number: u64,
    deliveries: Vec<(Arc<Route>, Arc<Delivery>)>,
    /// Of which streams they are, each delivery once.
    made: Vec<(Arc<Filter>, Arc<Delivery>)>,
    /// What the deliveries take.
    bytes: usize,
}

impl Offer {
    /// Whether making something of it takes milliseconds.
    pub fn is_large(&self) -> bool {
        self.event.size() > LARGE
    }

    /// Asks the routes, and makes a delivery once for all routes of a filter that come to the same
    /// effect.
    pub fn make(self) -> Made {
        let Offer { number, event, routes } = self;
        let mut deliveries: Vec<(Arc<Route>, Arc<Delivery>)> = Vec::new();
        let (mut all, mut bytes) = (Vec::new(), 0);
        // By the address of the filter. Most events are for routes of one, which come together.
        let mut last: Option<((usize, Effect), Arc<Delivery>)> = None;
        let mut others: HashMap<(usize, Effect), Arc<Delivery>> = HashMap::new();
        for route in routes {
            let Some(effect) = route.judge(&event) else { continue };
            let key = (Arc::as_ptr(route.filter()).addr(), effect);
            let delivery = match &last {
                Some((known, delivery)) if *known == key => delivery.clone(),
                _ => {
                    let before = last.take();
                    others.extend(before);
                    let made = others.remove(&key).unwrap_or_else(|| {
                        let made = route.encode(number, &event, effect);
                        bytes += made.size();
                        let made = Arc::new(made);
                        all.push((route.filter().clone(), made.clone()));
                        made
                    });
                    last = Some((key, made.clone()));
                    made
                }
            };
            bytes += size_of::<Arc<Delivery>>();
            deliveries.push((route, delivery));
        }
        Made { number, deliveries, made: all, bytes }
    }
}

impl RouteTable {
    /// Routes that together hold deliveries of so many bytes, or those of a single larger event; each at
    /// most `keep` of them.
    pub fn new(max_bytes: usize, keep: usize) -> RouteTable {
        RouteTable {
            by_key: HashSet::new(),
            finder: Finder::default(),
            serial: 0,
            holding: HashSet::new(),
            held: VecDeque::new(),
            held_bytes: 0,
            max_bytes,
            keep,
            tallies: Tallies::default(),
            candidates: Vec::new(),
        }
    }

    /// The route of a filter with these values, made if it is new; the caller is counted.
    pub fn join(&mut self, filter: &Arc<Filter>, bound: Bound, complete_from: u64) -> Arc<Route> {
        let key = Key { filter: filter.clone(), predicate: bound.predicate };
        if let Some(route) = self.known(&key) {
            return route;
        }
        self.add(key, complete_from)
    }

    /// The route that is to this table what `other` is to its own, for the same clients.
    pub fn join_as(&mut self, other: &Route, complete_from: u64) -> Arc<Route> {
        if let Some(route) = self.known(other.key()) {
            return route;
        }
        self.add(other.key().clone(), complete_from)
    }

    fn known(&self, key: &Key) -> Option<Arc<Route>> {
        let Keyed(route) = self.by_key.get(key)?;
        // A file that is changed and changed back has the same key. Whoever was told to leave and
        // has not yet must not have newcomers join him.
        if route.is_retired() {
            return None;
        }
        route.subscribers.fetch_add(1, Ordering::Relaxed);
        Some(route.clone())
    }

    fn add(&mut self, key: Key, complete_from: u64) -> Arc<Route> {
        self.serial = self.serial.wrapping_add(1);
        let id = RouteId { slot: self.finder.next_slot(), serial: self.serial };
        let route = Arc::new(Route::new(id, key, complete_from));
        // A retired one makes room.
        self.by_key.replace(Keyed(route.clone()));
        route.subscribers.fetch_add(1, Ordering::Relaxed);
        self.finder.add(route.clone());
        self.tallies.add_route(&route.filter().name);
        route
    }

    /// Takes a caller off; the route goes with the last one.
    pub fn leave(&mut self, route: &Route) {
        if route.subscribers.fetch_sub(1, Ordering::Relaxed) > 1 {
            return;
        }
        if self.finder.get(route.id().slot).is_none_or(|there| there.id() != route.id()) {
            return;
        }
        self.finder.remove(route.id().slot);
        self.tallies.remove_route(&route.filter().name);
        // A retired one may have made room for another.
        if self.by_key.get(route.key()).is_some_and(|Keyed(known)| known.id() == route.id()) {
            self.by_key.remove(route.key());
        }
        self.holding.remove(&route.id().slot);
    }

    /// The routes that an event may concern.
    pub(crate) fn offer(&mut self, number: u64, event: Arc<ChangeEvent>) -> Offer {
        let mut candidates = std::mem::take(&mut self.candidates);
        self.finder.candidates(&event, &mut candidates);
        let routes = candidates.iter().filter_map(|slot| self.finder.get(*slot).cloned());
        let routes = routes.collect();
        self.candidates = candidates;
        Offer { number, event, routes }
    }

    /// Hands out what was made of an event. In the order of their numbers.
    pub(crate) fn hand_out(&mut self, made: Made) {
        for (route, delivery) in made.deliveries {
            if route.begin_holding() {
                self.holding.insert(route.id().slot);
            }
            route.push(delivery, self.keep);
        }
        for (filter, delivery) in &made.made {
            self.tallies.add(&filter.name, delivery.json.len(), delivery.wall_millis);
        }
        self.hold(made.number, made.bytes);
    }

    /// Counts what an event's deliveries take, and lets go of the oldest ones when that is too much.
    fn hold(&mut self, number: u64, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.held.push_back((number, bytes));
        self.held_bytes += bytes;
        if self.held_bytes > self.max_bytes {
            // A quarter at once, so that this is not done for each event.
            let first = self.first_within(self.max_bytes / 4 * 3);
            self.drop_before(first, 0);
        }
    }

    /// The event from which on the deliveries take at most so much: the newest one at the latest.
    fn first_within(&self, bytes: usize) -> u64 {
        let newest = self.held.back().map_or(0, |(number, _)| *number);
        let within = self.held.iter().rev().scan(0, |sum, (number, size)| {
            *sum += size;
            (*sum <= bytes).then_some(*number)
        });
        within.last().unwrap_or(newest)
    }

    /// Drops the deliveries of events before this one, the first that is still kept.
    pub fn trim(&mut self, first: u64) {
        self.drop_before(first, first);
    }

    fn drop_before(&mut self, first: u64, oldest: u64) {
        while let Some((_, bytes)) = self.held.pop_front_if(|(number, _)| *number < first) {
            self.held_bytes -= bytes;
        }
        let finder = &self.finder;
        self.holding
            .retain(|slot| finder.get(*slot).is_some_and(|route| route.trim(first, oldest)));
    }

    /// Forgets everything after a break in the history.
    pub fn restart_at(&mut self, number: u64) {
        self.held.clear();
        self.held_bytes = 0;
        for route in self.finder.routes() {
            route.restart_at(number);
        }
    }

    /// Tells the subscriptions of a filter that it is no longer the one in force.
    pub fn retire(&self, filter: &Arc<Filter>) {
        for route in self.finder.routes() {
            // The file may have been read anew since, and said the same.
            if route.filter().is_same(filter) {
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

    /// How many routes there are: one for each filter and set of values in use.
    pub fn len(&self) -> usize {
        self.finder.len()
    }

    /// What a stream has cost so far, and how many routes it has: so many different values.
    pub fn tally(&self, stream: &str) -> (Tally, usize) {
        self.tallies.of(stream)
    }

    /// The newest events of a stream from a number on, as its clients see them, the oldest first: at most
    /// so many of those that its routes still hold.
    pub fn latest(&self, stream: &str, from: u64, most: usize) -> Vec<Arc<Delivery>> {
        let routes = self.finder.routes().filter(|route| route.filter().name == stream);
        let mut found: Vec<_> = routes.flat_map(|route| route.latest(from, most)).collect();
        found.sort_by_key(|delivery| (delivery.number, Arc::as_ptr(delivery).addr()));
        // Routes whose clients see an event the same way share what was made of it.
        found.dedup_by(|a, b| Arc::ptr_eq(a, b));
        found.split_off(found.len().saturating_sub(most))
    }

    /// Whether nobody listens to this upstream.
    pub fn is_empty(&self) -> bool {
        self.finder.len() == 0
    }
}

impl std::fmt::Debug for RouteTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RouteTable").field("routes", &self.finder.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::super::route::Read;
    use super::*;
    use crate::filter::tests::good;

    const KEEP: usize = 100;

    fn filter(rest: &str) -> Arc<Filter> {
        let text = "match: { size: { $gte: { $param: size } } }\nparams: { size: { type: int } }\n";
        Arc::new(good(&format!("{text}{rest}")))
    }

    fn join(table: &mut RouteTable, filter: &Arc<Filter>, size: i32) -> Arc<Route> {
        let bound = filter.bind(&[("size".to_string(), size.to_string())], None).unwrap();
        table.join(filter, bound, 0)
    }

    fn event(number: u64, size: i32, pad: usize) -> ChangeEvent {
        let raw = rawdoc! {
            "_id": { "_data": format!("82{:08X}000000012B022C0100296E04", number + 10) },
            "operationType": "insert",
            "ns": { "db": "shop", "coll": "orders" },
            "documentKey": { "_id": 1 },
            "fullDocument": { "_id": 1, "size": size, "pad": "x".repeat(pad) },
        };
        ChangeEvent::parse(raw).unwrap()
    }

    fn offer(table: &mut RouteTable, number: u64, event: ChangeEvent) {
        let made = table.offer(number, Arc::new(event)).make();
        table.hand_out(made);
    }

    fn read(route: &Route, mut cursor: u64) -> Vec<Arc<Delivery>> {
        match route.read(&mut cursor, KEEP) {
            Read::Deliveries { found, .. } => found,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn routes_of_a_filter_share_what_they_send() {
        let (whole, part) = (filter(""), filter("project: { _id: 1 }\n"));
        let mut table = RouteTable::new(1 << 20, KEEP);
        let [first, second, too_large] = [1, 2, 11].map(|size| join(&mut table, &whole, size));
        let other = join(&mut table, &part, 1);
        offer(&mut table, 0, event(0, 10, 100));
        let [first, second, other] = [&first, &second, &other].map(|route| read(route, 0));
        assert!(Arc::ptr_eq(&first[0], &second[0]));
        assert!(first[0].json.len() > other[0].json.len());
        assert!(matches!(too_large.read(&mut 0, KEEP), Read::UpToDate));
        let places = 3 * size_of::<Arc<Delivery>>();
        assert_eq!(table.held_bytes, first[0].size() + other[0].size() + places);
    }

    #[test]
    fn what_routes_hold_is_bounded_by_its_size() {
        let filter = filter("");
        let mut table = RouteTable::new(100_000, KEEP);
        let (busy, other) = (join(&mut table, &filter, 1), join(&mut table, &filter, 2));
        for number in 0..KEEP as u64 {
            offer(&mut table, number, event(number, 10, 2_000));
            let held: usize = table.held.iter().map(|(_, bytes)| bytes).sum();
            assert!(held == table.held_bytes && held <= 100_000);
        }
        let first = table.held.front().unwrap().0;
        assert!((60..90).contains(&first), "{first}");
        for route in [&busy, &other] {
            assert!(matches!(route.read(&mut (first - 1), KEEP), Read::Behind));
            assert_eq!(
                (route.unread_from(first - 1), route.unread_from(3)),
                (Some(first - 1), Some(3))
            );
            assert_eq!(read(route, first)[0].number, first);
        }
        // A single larger one stays until there is another.
        offer(&mut table, 100, event(100, 10, 200_000));
        assert_eq!(read(&busy, 100).len(), 1);
        assert!(matches!(busy.read(&mut 99, KEEP), Read::Behind));
        offer(&mut table, 101, event(101, 10, 10));
        assert_eq!(read(&busy, 101).len(), 1);
        assert!(table.held_bytes < 100_000);
    }

    // Nothing came for it in a long time, and then something that others crowded out.
    #[test]
    fn a_quiet_route_lags_by_what_it_lacks_alone() {
        let (quiet, busy) = (filter(""), filter("project: { _id: 1, pad: 1 }\n"));
        let mut table = RouteTable::new(50_000, KEEP);
        let (quiet, _busy) = (join(&mut table, &quiet, 10), join(&mut table, &busy, 0));
        for number in 0..20 {
            offer(&mut table, number, event(number, 5, 2_000));
        }
        table.trim(15);
        offer(&mut table, 20, event(20, 10, 2_000));
        for number in 21..60 {
            offer(&mut table, number, event(number, 5, 2_000));
        }
        let mut cursor = 3;
        assert!(matches!(quiet.read(&mut cursor, KEEP), Read::Behind));
        assert_eq!((cursor, quiet.unread_from(3)), (20, Some(20)));
        table.trim(21);
        assert!(matches!(quiet.read(&mut cursor, KEEP), Read::Behind) && cursor == 20);
        assert!(matches!(quiet.read(&mut 21, KEEP), Read::UpToDate));
    }
}
