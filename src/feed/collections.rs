//! The collections to which the tokens of clients may belong, by the UUIDs that tokens contain.
//!
//! A token is placed by its order, whether its event exists or not. Otherwise, anyone who invents
//! tokens could learn from the response which documents were changed, and when. A token is unknown
//! only if its collection's UUID is: each token of a collection contains that UUID.
//!
//! A UUID is known if it was read in an event, or returned by `listCollections`. A token that a
//! client was given belongs to a collection that still exists, or whose drop comes after the token;
//! reading from the token's time on reads its event too. So no genuine token is treated as unknown,
//! even without the right to list collections.

use std::collections::{HashSet, VecDeque};

use parking_lot::Mutex;

/// How many pairs of a collection and its UUID are remembered; the oldest go first. Who comes with
/// a forgotten one has MongoDB asked.
const MAX_KNOWN: usize = 4096;

/// UUID and name. A collection that is renamed keeps its UUID, and both names stay.
type Pair = (Box<str>, Box<str>);

/// Shared by a feed and the replays beside it. Locked alone, or below the feed.
#[derive(Debug, Default)]
pub(crate) struct KnownCollections(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    pairs: HashSet<Pair>,
    order: VecDeque<Pair>,
    /// The newest again: most events are of the collection of the one before.
    last: Option<Pair>,
}

impl KnownCollections {
    /// Notes that tokens with this UUID are of this collection.
    pub fn note(&self, uuid: &str, name: &str) {
        let mut known = self.0.lock();
        if known.last.as_ref().is_some_and(|last| *last.0 == *uuid && *last.1 == *name) {
            return;
        }
        let pair: Pair = (uuid.into(), name.into());
        known.last = Some(pair.clone());
        if !known.pairs.insert(pair.clone()) {
            return;
        }
        known.order.push_back(pair);
        if known.order.len() > MAX_KNOWN
            && let Some(oldest) = known.order.pop_front()
        {
            known.pairs.remove(&oldest);
        }
    }

    /// Whether a token with this UUID may be of this collection; `None`: of any.
    pub fn holds(&self, uuid: &str, name: Option<&str>) -> bool {
        let known = self.0.lock();
        match name {
            // The set has no look-up by borrowed parts, and this is asked when a client comes.
            Some(name) => known.pairs.contains(&(uuid.into(), name.into())),
            None => known.order.iter().any(|(of, _)| **of == *uuid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_known_for_its_own_collections_and_not_for_ever() {
        let known = KnownCollections::default();
        known.note("0A", "orders");
        known.note("0A", "renamed");
        known.note("0B", "chat");
        assert!(known.holds("0A", Some("orders")) && known.holds("0A", Some("renamed")));
        assert!(known.holds("0B", None) && !known.holds("0B", Some("orders")));
        assert!(!known.holds("0C", None));
        for number in 0..MAX_KNOWN - 1 {
            known.note(&format!("{number}"), "others");
        }
        assert!(!known.holds("0A", Some("orders")) && !known.holds("0A", Some("renamed")));
        assert!(known.holds("0B", Some("chat")));
    }
}
