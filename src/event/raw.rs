//! Raw BSON, read in place: a value is a type byte and the bytes behind it.
//!
//! The matcher, the index and the JSON writer all walk documents through this file and nothing
//! else. It neither allocates nor panics, whatever the bytes: a document that breaks off is a
//! document that ends there. Unlike the reader in the `bson` crate it does not check that keys
//! are UTF-8, which nothing here needs and which costs more than the walk itself.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bson::{Bson, RawDocument, RawDocumentBuf};

/// BSON's type bytes, and what lies behind each: the
/// [BSON specification](https://bsonspec.org/spec.html)'s element types.
pub(crate) mod tag {
    /// A floating-point number of 64 bits.
    pub const DOUBLE: u8 = 0x01;
    /// UTF-8 text, with its length before it and a NUL behind it.
    pub const STRING: u8 = 0x02;
    /// An embedded document.
    pub const DOCUMENT: u8 = 0x03;
    /// A document whose keys are `0`, `1` and so on.
    pub const ARRAY: u8 = 0x04;
    /// Bytes, with a length and a subtype.
    pub const BINARY: u8 = 0x05;
    /// Deprecated, and empty; for `$eq` it is the same as null.
    pub const UNDEFINED: u8 = 0x06;
    /// 12 bytes.
    pub const OBJECT_ID: u8 = 0x07;
    /// One byte: 0 or 1.
    pub const BOOLEAN: u8 = 0x08;
    /// Milliseconds since 1970 in UTC, as a signed integer of 64 bits.
    pub const DATE: u8 = 0x09;
    /// Empty; not the same as a missing field.
    pub const NULL: u8 = 0x0a;
    /// Pattern and options, each with a NUL behind it.
    pub const REGEX: u8 = 0x0b;
    /// Deprecated: a namespace and an object id.
    pub const DB_POINTER: u8 = 0x0c;
    /// JavaScript, stored like a string.
    pub const CODE: u8 = 0x0d;
    /// Deprecated: stored like a string.
    pub const SYMBOL: u8 = 0x0e;
    /// Deprecated: JavaScript and a document with its variables.
    pub const CODE_WITH_SCOPE: u8 = 0x0f;
    /// A signed integer of 32 bits.
    pub const INT32: u8 = 0x10;
    /// MongoDB's own cluster time: seconds in the high 32 bits, a counter in the low ones.
    pub const TIMESTAMP: u8 = 0x11;
    /// A signed integer of 64 bits.
    pub const INT64: u8 = 0x12;
    /// A decimal128 of IEEE 754-2008, 16 bytes.
    pub const DECIMAL: u8 = 0x13;
    /// Empty; comes after every other value in the order.
    pub const MAX_KEY: u8 = 0x7f;
    /// Empty; comes before every other value in the order.
    pub const MIN_KEY: u8 = 0xff;
    /// No BSON type: a bound value that BSON cannot hold (a key with a NUL in it). Equal to
    /// nothing, not even to itself.
    pub const IMPOSSIBLE: u8 = 0x00;
}

/// One value where it lies. `data` has the length that the type demands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value<'a> {
    pub tag: u8,
    pub data: &'a [u8],
}

impl<'a> Value<'a> {
    /// Also stands in for a missing field where MongoDB makes no difference between the two.
    pub const NULL: Value<'static> = Value { tag: tag::NULL, data: &[] };

    /// Equal to nothing.
    pub const IMPOSSIBLE: Value<'static> = Value { tag: tag::IMPOSSIBLE, data: &[] };

    /// A whole document as a value, its bytes shared.
    pub fn document(document: &'a RawDocument) -> Value<'a> {
        Value { tag: tag::DOCUMENT, data: document.as_bytes() }
    }

    /// The document, where it is one.
    pub fn as_document(self) -> Option<&'a RawDocument> {
        if self.tag != tag::DOCUMENT {
            return None;
        }
        RawDocument::from_bytes(self.data).ok()
    }

    /// Whether a path and `$eq` look at its elements, too.
    pub fn is_array(self) -> bool {
        self.tag == tag::ARRAY
    }

    /// A document or an array, which BSON stores alike.
    pub fn is_container(self) -> bool {
        matches!(self.tag, tag::DOCUMENT | tag::ARRAY)
    }

    /// Whether it has one of the four numeric types, which compare with each other by value.
    pub fn is_number(self) -> bool {
        matches!(self.tag, tag::INT32 | tag::INT64 | tag::DOUBLE | tag::DECIMAL)
    }

    /// The fields of a document or array; none for anything else.
    pub fn elements(self) -> Elements<'a> {
        if self.is_container() { Elements::new(self.data) } else { Elements::empty() }
    }

    /// The bytes of a string, code or symbol, without length and NUL. They need not be UTF-8.
    pub fn text(self) -> &'a [u8] {
        match self.tag {
            tag::STRING | tag::CODE | tag::SYMBOL => {
                self.data.get(4..self.data.len().saturating_sub(1)).unwrap_or_default()
            }
            _ => &[],
        }
    }

    /// Subtype and content of a binary. The old subtype 2 keeps its inner length, as in the order
    /// of values.
    pub fn binary(self) -> (u8, &'a [u8]) {
        match self.data {
            [_, _, _, _, subtype, content @ ..] if self.tag == tag::BINARY => (*subtype, content),
            _ => (0, &[]),
        }
    }

    /// Pattern and options of a regular expression.
    pub fn regex(self) -> (&'a [u8], &'a [u8]) {
        let Some(end) = self.data.iter().position(|byte| *byte == 0) else { return (&[], &[]) };
        let options = &self.data[end + 1..];
        (&self.data[..end], options.strip_suffix(&[0]).unwrap_or(options))
    }

    /// Code (with its length and NUL) and scope of a code with scope.
    pub fn code_with_scope(self) -> Option<(Value<'a>, Value<'a>)> {
        let rest = self.data.get(4..)?;
        let code_end = 4usize.checked_add(length_at(rest)?)?;
        let code = Value { tag: tag::CODE, data: rest.get(..code_end)? };
        let scope = rest.get(code_end..)?;
        (length_at(scope)? == scope.len() && scope.len() >= 5)
            .then_some((code, Value { tag: tag::DOCUMENT, data: scope }))
    }

    /// Namespace and id of a DBPointer.
    pub fn db_pointer(self) -> (&'a [u8], &'a [u8]) {
        let split = self.data.len().saturating_sub(12);
        let (name, id) = self.data.split_at(split);
        (name.get(4..name.len().saturating_sub(1)).unwrap_or_default(), id)
    }

    /// False for what is no boolean.
    pub fn boolean(self) -> bool {
        self.tag == tag::BOOLEAN && self.data.first().is_some_and(|byte| *byte != 0)
    }

    /// The first bytes; zeros where there are fewer.
    pub fn bytes<const N: usize>(self) -> [u8; N] {
        self.data.first_chunk().copied().unwrap_or([0; N])
    }

    /// Date and timestamp as they are stored; numbers are read by `number`.
    pub fn i64(self) -> i64 {
        i64::from_le_bytes(self.bytes())
    }
}

/// A value of our own: an operand, bound and ready. Copies share the bytes of a long one, and so do the
/// long members of an array: what a client sends is held once, however often it is looked at.
#[derive(Clone)]
pub(crate) enum Owned {
    /// In place: a number, an identifier, a short text.
    Short { tag: u8, length: u8, bytes: [u8; SHORT] },
    /// A part of what several may share.
    Long { tag: u8, start: u32, length: u32, data: Arc<[u8]> },
}

/// As many bytes as fit where [`Owned::Long`] has its reference.
const SHORT: usize = 29;

impl PartialEq for Owned {
    fn eq(&self, other: &Owned) -> bool {
        let (one, other) = (self.get(), other.get());
        (one.tag, one.data) == (other.tag, other.data)
    }
}

impl Eq for Owned {}

impl Hash for Owned {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Value { tag, data } = self.get();
        (tag, data).hash(state);
    }
}

impl fmt::Debug for Owned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

impl Owned {
    /// Copies the bytes, so that the value may outlive what it was read from.
    pub fn of(value: Value<'_>) -> Owned {
        Owned::short(value).unwrap_or_else(|| {
            // No document of MongoDB, and no request, is as long.
            let length = u32::try_from(value.data.len()).unwrap_or(u32::MAX);
            Owned::Long { tag: value.tag, start: 0, length, data: value.data.into() }
        })
    }

    fn short(Value { tag, data }: Value<'_>) -> Option<Owned> {
        let length = u8::try_from(data.len()).ok()?;
        let mut bytes = [0; SHORT];
        bytes.get_mut(..data.len())?.copy_from_slice(data);
        Some(Owned::Short { tag, length, bytes })
    }

    /// A value that BSON cannot write becomes one that equals nothing: never a missing condition.
    pub fn from_bson(value: &Bson) -> Owned {
        let impossible = Owned::of(Value::IMPOSSIBLE);
        // A document is the way into the encoder; the copy is made once, at binding.
        let mut holder = bson::Document::new();
        holder.insert("", value.clone());
        let Ok(raw) = RawDocumentBuf::try_from(&holder) else { return impossible };
        Elements::new(raw.as_bytes()).next().map_or(impossible, |(_, value)| Owned::of(value))
    }

    /// The operand null: a value that is given, unlike a placeholder without one.
    pub fn null() -> Owned {
        Owned::of(Value::NULL)
    }

    /// The value in place, as the matcher takes it; copies nothing.
    pub fn get(&self) -> Value<'_> {
        match self {
            Owned::Short { tag, length, bytes } => {
                let data = bytes.get(..usize::from(*length)).unwrap_or_default();
                Value { tag: *tag, data }
            }
            Owned::Long { tag, start, length, data } => {
                let (start, length) = (*start as usize, *length as usize);
                let data = data.get(start..).and_then(|data| data.get(..length));
                Value { tag: *tag, data: data.unwrap_or_default() }
            }
        }
    }

    /// The values in an array or a document.
    pub fn members(&self) -> Vec<Owned> {
        let member = |value: Value<'_>| match (Owned::short(value), self) {
            (None, Owned::Long { data, .. }) => {
                // It lies in these bytes, since it was read from them.
                let start = value.data.as_ptr().addr().saturating_sub(data.as_ptr().addr());
                let [start, length] =
                    [start, value.data.len()].map(|it| u32::try_from(it).unwrap_or(u32::MAX));
                Owned::Long { tag: value.tag, start, length, data: data.clone() }
            }
            (short, _) => short.unwrap_or_else(|| Owned::of(value)),
        };
        self.get().elements().map(|(_, value)| member(value)).collect()
    }

    /// One that cannot be written stays one that cannot.
    pub fn to_bson(&self) -> Bson {
        let Value { tag, data } = self.get();
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&[tag, 0]);
        bytes.extend_from_slice(data);
        bytes.push(0);
        let length = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        let document = RawDocument::from_bytes(&bytes);
        let value = document.ok().and_then(|document| document.get("").ok().flatten());
        let impossible = || Bson::Document(bson::doc! { "\0": Bson::Null });
        value.and_then(|value| Bson::try_from(value).ok()).unwrap_or_else(impossible)
    }
}

/// The fields of a document in order. Ends at the first byte that makes no sense.
#[derive(Clone, Debug)]
pub(crate) struct Elements<'a> {
    rest: &'a [u8],
}

impl<'a> Elements<'a> {
    /// For a value that has no fields.
    pub fn empty() -> Elements<'a> {
        Elements { rest: &[] }
    }

    /// From the bytes of a whole document, its length prefix included.
    pub fn new(document: &'a [u8]) -> Elements<'a> {
        let end = length_at(document).unwrap_or(0).min(document.len());
        Elements { rest: document.get(4..end).unwrap_or_default() }
    }

    /// From a place in the middle that [`Elements::place_in`] gave.
    pub fn from_place(document: &'a [u8], place: usize) -> Elements<'a> {
        Elements { rest: document.get(place..).unwrap_or_default() }
    }

    /// Where the next field begins in the document, in bytes; zero at its end.
    pub fn place_in(&self, document: &'a [u8]) -> usize {
        let end = length_at(document).unwrap_or(0).min(document.len());
        if self.rest.is_empty() { 0 } else { end - self.rest.len() }
    }

    /// The first field of that name.
    pub fn find_key(self, name: &[u8]) -> Option<Value<'a>> {
        for (key, value) in self {
            if key == name {
                return Some(value);
            }
        }
        None
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = (&'a [u8], Value<'a>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (&kind, after) = self.rest.split_first()?;
        // The terminator; what follows it does not belong to the document.
        if kind == 0 {
            self.rest = &[];
            return None;
        }
        let parsed = end_of_key(after).and_then(|end| {
            let (key, rest) = (&after[..end], &after[end + 1..]);
            let size = size_of(kind, rest)?;
            (size <= rest.len()).then_some((key, rest, size))
        });
        let Some((key, rest, size)) = parsed else {
            self.rest = &[];
            return None;
        };
        let (data, next) = rest.split_at(size);
        self.rest = next;
        Some((key, Value { tag: kind, data }))
    }
}

/// Keys are short: a plain loop beats a call to a vectorised search.
#[inline]
fn end_of_key(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == 0)
}

/// The length, in bytes, that begins a document or a text.
#[inline]
pub(crate) fn length_at(bytes: &[u8]) -> Option<usize> {
    let prefix: [u8; 4] = *bytes.first_chunk()?;
    usize::try_from(i32::from_le_bytes(prefix)).ok()
}

#[inline]
fn size_of(kind: u8, rest: &[u8]) -> Option<usize> {
    Some(match kind {
        tag::NULL | tag::UNDEFINED | tag::MIN_KEY | tag::MAX_KEY => 0,
        tag::BOOLEAN => 1,
        tag::INT32 => 4,
        tag::DOUBLE | tag::INT64 | tag::DATE | tag::TIMESTAMP => 8,
        tag::OBJECT_ID => 12,
        tag::DECIMAL => 16,
        tag::STRING | tag::CODE | tag::SYMBOL => text_size(rest)?,
        tag::DOCUMENT | tag::ARRAY => {
            let length = length_at(rest)?;
            if length < 5 {
                return None;
            }
            length
        }
        tag::BINARY => length_at(rest)?.checked_add(5)?,
        tag::DB_POINTER => text_size(rest)?.checked_add(12)?,
        tag::CODE_WITH_SCOPE => {
            let length = length_at(rest)?;
            if length < 14 {
                return None;
            }
            length
        }
        tag::REGEX => {
            let pattern = end_of_key(rest)?;
            let options = end_of_key(&rest[pattern + 1..])?;
            pattern + options + 2
        }
        _ => return None,
    })
}

fn text_size(rest: &[u8]) -> Option<usize> {
    let length = length_at(rest)?;
    if length == 0 {
        return None;
    }
    length.checked_add(4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{doc, rawdoc};

    #[test]
    fn reads_what_the_crate_writes() {
        let document = doc! { "a": 1, "b": "x", "c": [1, { "d": true }], "e": bson::Bson::Null };
        let raw = RawDocumentBuf::try_from(&document).unwrap();
        let keys: Vec<_> =
            Elements::new(raw.as_bytes()).map(|(key, value)| (key.to_vec(), value.tag)).collect();
        assert_eq!(
            keys,
            [
                (b"a".to_vec(), tag::INT32),
                (b"b".to_vec(), tag::STRING),
                (b"c".to_vec(), tag::ARRAY),
                (b"e".to_vec(), tag::NULL)
            ]
        );
    }

    // There may be one for each of a million clients, and several for each.
    #[test]
    fn a_short_value_is_held_in_place_and_equals_itself() {
        assert_eq!(std::mem::size_of::<Owned>(), 32);
        assert_eq!(std::mem::size_of::<Option<Owned>>(), 32);
        let text = |length: usize| Bson::String("x".repeat(length));
        for (value, is_short) in [
            (Bson::Null, true),
            (Bson::Int64(7), true),
            (Bson::ObjectId(bson::oid::ObjectId::new()), true),
            (text(0), true),
            (text(SHORT - 5), true),
            (text(SHORT - 4), false),
            (text(300), false),
        ] {
            let owned = Owned::from_bson(&value);
            assert_eq!(matches!(owned, Owned::Short { .. }), is_short, "{value}");
            assert_eq!((owned.to_bson(), &owned), (value.clone(), &owned.clone()));
            let list = Owned::from_bson(&Bson::Array(vec![value, text(300)]));
            assert_eq!(list.members()[0], owned);
            assert!(list.members()[1] != owned || !is_short);
        }
    }

    #[test]
    fn any_cut_and_any_changed_byte_only_ends_the_walk() {
        fn walk(value: Value<'_>, depth: usize) {
            if depth > 20 {
                return;
            }
            let _ = (value.text(), value.binary(), value.regex(), value.code_with_scope());
            let _ = (value.db_pointer(), value.boolean(), value.i64());
            for (_, inner) in value.elements() {
                walk(inner, depth + 1);
            }
        }
        let raw = rawdoc! { "a": { "b": [1, 2.5, "text"] }, "r": bson::Regex {
        pattern: bson::raw::cstr!("x").into(), options: bson::raw::cstr!("i").into() },
        "code": bson::raw::RawJavaScriptCodeWithScope {
            code: "f".into(), scope: rawdoc! { "s": 1 } } };
        let bytes = raw.as_bytes();
        for end in 0..bytes.len() {
            walk(Value { tag: tag::DOCUMENT, data: &bytes[..end] }, 0);
        }
        for at in 0..bytes.len() {
            for change in [0, 1, 2, 3, 4, 5, 0x0b, 0x0f, 0x7f, 0xff] {
                let mut broken = bytes.to_vec();
                broken[at] = change;
                walk(Value { tag: tag::DOCUMENT, data: &broken }, 0);
            }
        }
    }
}
