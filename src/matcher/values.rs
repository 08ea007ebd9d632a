//! What the placeholders of a `match` stand for, for one client: in as little room as there is, since
//! there may be a set of values for each of a million clients.

use std::fmt;
use std::sync::Arc;

use crate::event::raw::{Owned, Value};

/// The bound values in one canonical form, as bytes of BSON: equal only where the same documents match,
/// as far as the values tell. So the order of a document's fields counts, as it does for `mongod`.
/// Sets are sorted and hold nothing twice. A filter has their names.
///
/// Of every parameter and every claim, in the order of their names, which does not depend on how the file
/// is written. `None`: left out.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BoundValues(Form);

/// Which one it is follows from the values.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Form {
    /// Packed, and behind them zeros: a number or two, an identifier, a short text.
    InPlace([u8; IN_PLACE]),
    Packed(Box<[u8]>),
    /// Where a value has more than 253 bytes, or a list or document more than [`SHORT_LIST`]: these share
    /// their bytes with the predicate.
    Apart(Arc<[Option<Owned>]>),
}

/// As many bytes as fit where the others have their references.
const IN_PLACE: usize = 23;
/// Packed, a value is its length with its type, its type, and its bytes. For one that is left out:
const ABSENT: u8 = u8::MAX;
/// A list whose bytes are no more is copied.
const SHORT_LIST: usize = 29;

impl Default for BoundValues {
    fn default() -> BoundValues {
        BoundValues(Form::InPlace([0; IN_PLACE]))
    }
}

impl BoundValues {
    pub(crate) fn new(values: Vec<Option<Owned>>) -> BoundValues {
        let Some(packed) = pack(&values) else { return BoundValues(Form::Apart(values.into())) };
        let mut bytes = [0; IN_PLACE];
        BoundValues(match bytes.get_mut(..packed.len()) {
            Some(place) => {
                place.copy_from_slice(&packed);
                Form::InPlace(bytes)
            }
            None => Form::Packed(packed.into()),
        })
    }

    /// The value at a place, where it is given.
    pub(crate) fn get(&self, place: usize) -> Option<Value<'_>> {
        match &self.0 {
            Form::InPlace(packed) => unpack(packed, place),
            Form::Packed(packed) => unpack(packed, place),
            Form::Apart(values) => values.get(place)?.as_ref().map(Owned::get),
        }
    }

    /// The same as a value of its own. A long list shares its bytes.
    pub(crate) fn owned(&self, place: usize) -> Option<Owned> {
        match &self.0 {
            Form::Apart(values) => values.get(place)?.clone(),
            Form::InPlace(_) | Form::Packed(_) => self.get(place).map(Owned::of),
        }
    }
}

fn pack(values: &[Option<Owned>]) -> Option<Vec<u8>> {
    let mut packed = Vec::new();
    for value in values {
        let Some(Value { tag, data }) = value.as_ref().map(Owned::get) else {
            packed.push(ABSENT);
            continue;
        };
        let is_long_list =
            data.len() > SHORT_LIST && value.as_ref().is_some_and(|it| it.get().is_container());
        let length =
            u8::try_from(1 + data.len()).ok().filter(|length| *length < ABSENT && !is_long_list)?;
        packed.extend([length, tag]);
        packed.extend_from_slice(data);
    }
    Some(packed)
}

#[inline]
fn unpack(mut packed: &[u8], mut place: usize) -> Option<Value<'_>> {
    loop {
        let (length, rest) = packed.split_first()?;
        let length = if *length == ABSENT { 0 } else { usize::from(*length) };
        let (value, behind) = rest.split_at_checked(length)?;
        if place == 0 {
            // Neither where it was left out nor behind the last one is there a type.
            let (tag, data) = value.split_first()?;
            return Some(Value { tag: *tag, data });
        }
        place -= 1;
        packed = behind;
    }
}

impl fmt::Debug for BoundValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::InPlace(packed) => f.debug_tuple("InPlace").field(packed).finish(),
            Form::Packed(packed) => f.debug_tuple("Packed").field(packed).finish(),
            Form::Apart(values) => f.debug_tuple("Apart").field(values).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use bson::{Bson, bson};

    use super::*;

    fn bound(values: &[Option<Bson>]) -> BoundValues {
        BoundValues::new(values.iter().map(|it| it.as_ref().map(Owned::from_bson)).collect())
    }

    #[test]
    fn values_are_small_and_are_what_was_put_in() {
        assert_eq!(size_of::<BoundValues>(), 24);
        let text = |length: usize| Some(Bson::from("x".repeat(length)));
        let long_list = Bson::from(vec!["a text of some length"; 3]);
        let cases: Vec<(Vec<Option<Bson>>, &str)> = vec![
            (vec![], "in place"),
            (vec![None, None], "in place"),
            (vec![Some(Bson::Int32(1)), None, Some(Bson::Int64(2))], "in place"),
            (vec![Some(Bson::Null)], "in place"),
            (vec![text(16)], "in place"),
            (vec![text(17)], "packed"),
            (vec![None, text(248), Some(bson!([1])), Some(bson!({ "a": null }))], "packed"),
            (vec![text(249)], "apart"),
            (vec![Some(Bson::Int32(1)), None, Some(long_list)], "apart"),
        ];
        for (values, form) in &cases {
            let bound = bound(values);
            let found = match &bound.0 {
                Form::InPlace(_) => "in place",
                Form::Packed(_) => "packed",
                Form::Apart(_) => "apart",
            };
            assert_eq!(found, *form, "{values:?}");
            for (place, value) in values.iter().enumerate() {
                assert_eq!(bound.owned(place).as_ref().map(Owned::to_bson), *value, "{values:?}");
                assert_eq!(bound.get(place).is_some(), value.is_some());
            }
            assert!(bound.get(values.len()).is_none() && bound.owned(99).is_none());
        }
        for (one, _) in &cases {
            for (other, _) in &cases {
                assert_eq!(bound(one) == bound(other), one == other, "{one:?} {other:?}");
            }
        }
    }
}
