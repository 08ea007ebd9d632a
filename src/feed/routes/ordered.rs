//! Values as keys of an ordered map, looked up by values inside a document.

use std::borrow::Borrow;
use std::cmp::Ordering;

use crate::event::raw::{Owned, Value};
use crate::matcher::value::compare::order;

/// A value as the key of an ordered map.
#[derive(Clone, Debug)]
pub(super) struct Ordered(pub Owned);

impl Ordered {
    /// The value itself, to be compared with one in a document.
    pub fn get(&self) -> Value<'_> {
        self.0.get()
    }
}

/// Lets an ordered map be asked for a value that lies in a document, without copying it.
pub(super) trait Ranked {
    fn value(&self) -> Value<'_>;
}

impl Ranked for Ordered {
    fn value(&self) -> Value<'_> {
        self.get()
    }
}

impl Ranked for Value<'_> {
    fn value(&self) -> Value<'_> {
        *self
    }
}

impl<'a> Borrow<dyn Ranked + 'a> for Ordered {
    fn borrow(&self) -> &(dyn Ranked + 'a) {
        self
    }
}

impl Ord for dyn Ranked + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        order(self.value(), other.value())
    }
}

impl PartialOrd for dyn Ranked + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for dyn Ranked + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for dyn Ranked + '_ {}

impl Ord for Ordered {
    fn cmp(&self, other: &Ordered) -> Ordering {
        order(self.get(), other.get())
    }
}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Ordered) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ordered {
    fn eq(&self, other: &Ordered) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ordered {}
