//! Lists of entries under one key, most of them with one entry only.

/// One term of one route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub slot: u32,
    /// Which of the route's terms this is.
    pub term: u32,
}

/// No route has as many terms.
const LISTED: u32 = u32::MAX;

/// The entries under one key, in no order: a single one in place, several in [`Lists`]. Each entry's
/// place is kept by its route, so that removing does not search.
///
/// In eight bytes, since there are as many as there are routes: where `term` is [`LISTED`], `slot` is
/// the number of a list.
#[derive(Debug)]
pub(super) struct Postings(Entry);

/// The lists of all keys that have several entries.
#[derive(Debug, Default)]
pub(super) struct Lists {
    lists: Vec<Vec<Entry>>,
    /// Numbers of lists that no key has.
    free: Vec<u32>,
}

impl Lists {
    fn add(&mut self, list: Vec<Entry>) -> u32 {
        if let Some(free) = self.free.pop() {
            self.lists[free as usize] = list;
            return free;
        }
        self.lists.push(list);
        self.lists.len() as u32 - 1
    }

    fn remove(&mut self, number: u32) {
        self.lists[number as usize] = Vec::new();
        self.free.push(number);
        if self.free.len() == self.lists.len() {
            // A crowd has left: its room is given back.
            *self = Lists::default();
        }
    }
}

impl Postings {
    /// A list with this entry, whose place is 0.
    pub fn one(entry: Entry) -> Postings {
        Postings(entry)
    }

    fn list(&self) -> Option<u32> {
        (self.0.term == LISTED).then_some(self.0.slot)
    }

    /// At least one: a key without entries is removed from its map.
    pub fn len(&self, lists: &Lists) -> usize {
        self.entries(lists).len()
    }

    /// For reading only; an entry's index is the place that [`Postings::add`] gave.
    pub fn entries<'a>(&'a self, lists: &'a Lists) -> &'a [Entry] {
        match self.list() {
            None => std::slice::from_ref(&self.0),
            Some(number) => &lists.lists[number as usize],
        }
    }

    /// Adds an entry; gives its place.
    pub fn add(&mut self, entry: Entry, lists: &mut Lists) -> u32 {
        let Some(number) = self.list() else {
            let number = lists.add(vec![self.0, entry]);
            self.0 = Entry { slot: number, term: LISTED };
            return 1;
        };
        let entries = &mut lists.lists[number as usize];
        entries.push(entry);
        entries.len() as u32 - 1
    }

    /// Removes what stands at the place. The last entry moves there, and is given so that its
    /// route learns of it.
    pub fn remove(&mut self, place: u32, lists: &mut Lists) -> Removed {
        let Some(number) = self.list() else { return Removed::Empty };
        let (entries, place) = (&mut lists.lists[number as usize], place as usize);
        if place < entries.len() {
            entries.swap_remove(place);
        }
        match entries.get(place) {
            _ if entries.is_empty() => {
                lists.remove(number);
                Removed::Empty
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_small_and_its_room_is_given_back() {
        assert_eq!(size_of::<Postings>(), 8);
        let mut lists = Lists::default();
        let entry = |slot: u32| Entry { slot, term: 0 };
        let [mut first, mut second] = [Postings::one(entry(1)), Postings::one(entry(2))];
        for slot in 3..6 {
            assert_eq!(
                (first.add(entry(slot), &mut lists), second.add(entry(slot), &mut lists)),
                (slot - 2, slot - 2)
            );
        }
        assert!(matches!(first.remove(0, &mut lists), Removed::Moved(moved) if moved == entry(5)));
        assert!(matches!(first.remove(2, &mut lists), Removed::Last));
        assert_eq!(first.entries(&lists), [entry(5), entry(3)]);
        for _ in 0..2 {
            first.remove(0, &mut lists);
        }
        assert_eq!((lists.lists.len(), lists.free.len()), (2, 1));
        // A list that is free is taken again.
        let mut third = Postings::one(entry(6));
        third.add(entry(7), &mut lists);
        assert_eq!((third.len(&lists), lists.lists.len(), second.len(&lists)), (2, 2, 4));
        for _ in 0..2 {
            third.remove(0, &mut lists);
        }
        for _ in 0..4 {
            second.remove(0, &mut lists);
        }
        assert_eq!((lists.lists.len(), lists.lists.capacity(), lists.free.capacity()), (0, 0, 0));
    }
}
