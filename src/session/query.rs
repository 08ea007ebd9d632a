//! The query of a client, kept as long as its stream is open: when a filter file changes, the new
//! filter is bound to it. Stored in one piece, since a string for each name and value takes several
//! times the memory.

use crate::filter::{BoundValues, Filter};
use crate::session::bookmark::{push_length, take_length};

/// Names and values, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Each text behind its length. `None`: the bound values say it, as almost always. Boxed twice, since
    /// a pointer to a slice is two words.
    bytes: Option<Box<Box<[u8]>>>,
}

impl Query {
    /// Nothing but what the bound values say.
    pub const SAID: Query = Query { bytes: None };

    /// What was asked with, beside what was bound to the filter by it.
    pub fn beside(pairs: &[(String, String)], filter: &Filter, values: &BoundValues) -> Query {
        let is_said = values.say_all_of(filter, pairs);
        let bytes = (!is_said).then(|| Box::new(Query::packed(pairs)));
        Query { bytes }
    }

    fn packed(pairs: &[(String, String)]) -> Box<[u8]> {
        let texts = || pairs.iter().flat_map(|(name, value)| [name, value]);
        let mut bytes = Vec::with_capacity(texts().map(|text| text.len() + 1).sum());
        for text in texts() {
            push_length(&mut bytes, text.len());
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes.into()
    }

    /// With the filter and the values that it was kept beside.
    pub fn pairs(&self, filter: &Filter, values: &BoundValues) -> Vec<(String, String)> {
        let Some(bytes) = &self.bytes else { return values.query(filter) };
        let mut rest = &***bytes;
        let mut texts = std::iter::from_fn(|| {
            let length = take_length(&mut rest)?;
            let (text, behind) = rest.split_at_checked(length)?;
            rest = behind;
            // It was text when it came in.
            String::from_utf8(text.to_vec()).ok()
        });
        let mut pairs = Vec::new();
        while let (Some(name), Some(value)) = (texts.next(), texts.next()) {
            pairs.push((name, value));
        }
        pairs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn what_the_values_say_is_not_kept_beside_them() {
        let filter = crate::filter::tests::good(
            "match: { a: { $in: { $param: list } }, b: { $param: n }, c: { $param: d } }\n\
             params: { list: { type: [string], required: false }, n: { type: int, required: false }, \
             d: { type: int, default: 7 } }\n",
        );
        for (asked, is_kept) in [
            (&[("list", "x"), ("list", "y"), ("n", "5"), ("d", "7")][..], false),
            // A set has no order.
            (&[("d", "1"), ("list", "y"), ("list", "x")], false),
            (&[("d", "1"), ("wait", "20s")], false),
            // Under another file these might be other values.
            (&[("list", "x"), ("list", "x"), ("d", "1")], true),
            (&[("n", "05"), ("d", "1")], true),
            (&[("n", "+5"), ("d", "1")], true),
            (&[("n", "5")], true),
            (&[], true),
        ] {
            let asked = pairs(asked);
            let values = filter.bind(&asked, None).unwrap().values().clone();
            let query = Query::beside(&asked, &filter, &values);
            assert_eq!(query.bytes.is_some(), is_kept, "{asked:?}");
            let again = query.pairs(&filter, &values);
            assert_eq!(filter.bind(&again, None).unwrap().values(), &values, "{asked:?}");
            if is_kept {
                assert_eq!(again, asked);
            }
        }
    }

    #[test]
    fn a_hundred_values_take_no_more_than_was_sent() {
        let pairs: Vec<_> = (100..200).map(|n| ("n".to_owned(), n.to_string())).collect();
        let sent: usize = pairs.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
        let query = Query::packed(&pairs);
        assert!(query.len() <= sent, "{} of {sent}", query.len());
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_lost(
            pairs in proptest::collection::vec(("\\PC{0,5}", "(\\PC|\0){0,400}"), 0..5),
        ) {
            let query = Query { bytes: Some(Box::new(Query::packed(&pairs))) };
            let filter = crate::filter::tests::good("");
            proptest::prop_assert_eq!(query.pairs(&filter, &BoundValues::default()), pairs);
        }
    }
}
