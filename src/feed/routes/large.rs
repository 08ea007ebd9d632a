//! Deliveries of large events, made for routes that no longer keep them: shared by all clients that
//! are sending them, whatever their values, and dropped with the last of these.
//!
//! Deliveries for clients that lag are made again. For small events that is cheap; with large ones,
//! a thousand clients would hold a thousand copies.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::delivery::Delivery;
use super::route::{Effect, READ_BYTES, Route};
use crate::event::ChangeEvent;
use crate::filter::Filter;

/// The event's number, and the address of the filter, which is kept alive beside it.
type Key = (u64, usize, Effect);
type Made = HashMap<Key, (Arc<Filter>, Weak<Delivery>)>;

/// Deliveries of large events, kept only as long as someone is sending them.
#[derive(Debug, Default)]
pub(crate) struct LargeDeliveries {
    made: Mutex<Made>,
}

impl LargeDeliveries {
    /// What the event is for this route's clients; `None` when they do not see it.
    pub fn deliver(
        &self,
        route: &Route,
        number: u64,
        event: &ChangeEvent,
    ) -> Option<Arc<Delivery>> {
        let effect = route.judge(event)?;
        if event.size() < READ_BYTES {
            return Some(Arc::new(route.encode(number, event, effect)));
        }
        let filter = route.filter();
        let key = (number, Arc::as_ptr(filter).addr(), effect);
        let find = |made: &Made| made.get(&key)?.1.upgrade();
        if let Some(found) = find(&self.made.lock()) {
            return Some(found);
        }
        // Not under the lock: this takes milliseconds.
        let delivery = Arc::new(route.encode(number, event, effect));
        let mut made = self.made.lock();
        if let Some(found) = find(&made) {
            return Some(found);
        }
        made.retain(|_, (_, delivery)| delivery.strong_count() > 0);
        made.insert(key, (filter.clone(), Arc::downgrade(&delivery)));
        Some(delivery)
    }
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::super::table::RouteTable;
    use super::*;
    use crate::filter::tests::good;

    fn event(pad: usize) -> ChangeEvent {
        let raw = rawdoc! {
            "_id": { "_data": "820000000A000000012B022C0100296E04" },
            "operationType": "insert",
            "ns": { "db": "shop", "coll": "orders" },
            "documentKey": { "_id": 1 },
            "fullDocument": { "_id": 1, "size": 10, "pad": "x".repeat(pad) },
        };
        ChangeEvent::parse(raw).unwrap()
    }

    #[test]
    fn large_events_are_shared_as_long_as_somebody_sends_them() {
        let text = "match: { size: { $gte: { $param: size } } }\nparams: { size: { type: int } }\n";
        let filter = |rest: &str| Arc::new(good(&format!("{text}{rest}")));
        let (whole, part) = (filter(""), filter("project: { size: 1 }\n"));
        let mut table = RouteTable::new(0, 1);
        let mut join = |filter: &Arc<Filter>, size: i32| {
            let bound = filter.bind(&[("size".to_string(), size.to_string())], None).unwrap();
            table.join(filter, bound, 0)
        };
        let [first, second, too_large] = [1, 2, 11].map(|size| join(&whole, size));
        let other = join(&part, 1);
        let (large_deliveries, large) = (LargeDeliveries::default(), event(READ_BYTES));
        let made = large_deliveries.deliver(&first, 7, &large).unwrap();
        assert!(Arc::ptr_eq(&made, &large_deliveries.deliver(&second, 7, &large).unwrap()));
        assert!(!Arc::ptr_eq(&made, &large_deliveries.deliver(&second, 8, &large).unwrap()));
        let small = large_deliveries.deliver(&other, 7, &large).unwrap();
        assert!(small.json.len() < 1000 && made.json.len() > READ_BYTES);
        assert!(large_deliveries.deliver(&too_large, 7, &large).is_none());
        drop((made, small));
        let again = large_deliveries.deliver(&first, 9, &large).unwrap();
        // What nobody sends any more is not kept.
        assert_eq!((large_deliveries.made.lock().len(), Arc::strong_count(&again)), (1, 1));
        let one = large_deliveries.deliver(&first, 1, &event(10)).unwrap();
        assert!(!Arc::ptr_eq(&one, &large_deliveries.deliver(&first, 1, &event(10)).unwrap()));
    }
}
