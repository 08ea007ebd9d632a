//! Lists of entries under one key, most of them with one entry only.

/// One term of one route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub slot: u32,
    /// Which of the route's terms this is.
    pub term: u32,
}

/// The entries under one key, in no order. Each entry's place is kept by its route, so that
/// removing does not search.
#[derive(Clone, Debug)]
pub(super) enum Postings {
    One(Entry),
    // Boxed, so that the common single entry stays small.
    #[expect(clippy::box_collection, reason = "half the size of the map's values")]
    Many(Box<Vec<Entry>>),
}

impl Postings {
    /// At least one: a key without entries is removed from its map.
    pub fn len(&self) -> usize {
        self.entries().len()
    }

    /// For reading only; an entry's index is the place that [`Postings::add`] gave.
    pub fn entries(&self) -> &[Entry] {
        match self {
            Postings::One(entry) => std::slice::from_ref(entry),
            Postings::Many(entries) => entries,
        }
    }

    /// Adds an entry; gives its place.
    pub fn add(&mut self, entry: Entry) -> u32 {
        if let Postings::One(first) = self {
            *self = Postings::Many(Box::new(vec![*first]));
        }
        let Postings::Many(entries) = self else { return 0 };
        entries.push(entry);
        entries.len() as u32 - 1
    }

    /// Removes what stands at the place. The last entry moves there, and is given so that its
    /// route learns of it.
    pub fn remove(&mut self, place: u32) -> Removed {
        let Postings::Many(entries) = self else { return Removed::Empty };
        let place = place as usize;
        if place < entries.len() {
            entries.swap_remove(place);
        }
        match entries.get(place) {
            _ if entries.is_empty() => Removed::Empty,
            Some(moved) => Removed::Moved(*moved),
            None => Removed::Last,
        }
    }
}

/// What became of a list that lost an entry.
pub(super) enum Removed {
    /// Nothing is left under the key.
    Empty,
    Moved(Entry),
    Last,
}
