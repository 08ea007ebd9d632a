//! What a client asked with, kept for as long as its stream is open: a changed filter file is bound
//! to it anew. In one piece, since a text for each name and value takes several times what was sent.

/// Names and values, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Each text behind its length.
    bytes: Box<[u8]>,
}

impl From<Vec<(String, String)>> for Query {
    fn from(pairs: Vec<(String, String)>) -> Query {
        let texts = || pairs.iter().flat_map(|(name, value)| [name, value]);
        let mut bytes = Vec::with_capacity(texts().map(|text| text.len() + 1).sum());
        for text in texts() {
            push_length(&mut bytes, text.len());
            bytes.extend_from_slice(text.as_bytes());
        }
        Query { bytes: bytes.into() }
    }
}

impl Query {
    pub fn pairs(&self) -> Vec<(String, String)> {
        let mut rest = &*self.bytes;
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

/// Seven bits a byte, the lowest first; all bytes but the last have the highest bit.
fn push_length(bytes: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        #[expect(clippy::cast_possible_truncation, reason = "the lowest bits are meant")]
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "less than 128")]
    bytes.push(length as u8);
}

fn take_length(bytes: &mut &[u8]) -> Option<usize> {
    let mut length = 0;
    for shift in (0..usize::BITS).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        length |= usize::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(length);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_values_take_no_more_than_was_sent() {
        let pairs: Vec<_> = (100..200).map(|n| ("n".to_owned(), n.to_string())).collect();
        let sent: usize = pairs.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
        let query = Query::from(pairs.clone());
        assert!(query.bytes.len() <= sent, "{} of {sent}", query.bytes.len());
        assert_eq!(query.pairs(), pairs);
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_lost(
            pairs in proptest::collection::vec(("\\PC{0,5}", "(\\PC|\0){0,400}"), 0..5),
        ) {
            proptest::prop_assert_eq!(Query::from(pairs.clone()).pairs(), pairs);
        }
    }
}
