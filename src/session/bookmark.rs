//! The id of several streams on one connection: how far each one is, in one short text.
//!
//! What a client holds of an event names no document here, whatever the stream: a place is written as
//! its cluster time, and the operation's index in its transaction where there is one. Streams that
//! stand alike share a place. In bytes, before base64url:
//!
//! ```text
//! 1                            version
//! places: number               0 to 255
//!   kind, time, rest           kind 0: before this time. Else: the length of `rest`, and `rest` is a
//!                              byte of the token's version and its index; up to this operation
//! streams: number              0 to 255
//!   label                      4 bytes, a hash of the stream's name on the connection
//!   place                      the number of its place
//! ```

use std::borrow::Cow;
use std::cell::RefCell;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bson::Timestamp;

use crate::event::Position;
use crate::event::seal::Ids;

/// How a client tells a stream from the others of its connection: by its name, or by what the client
/// calls it. In one piece, since there are many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label<'a> {
    /// How long the client's name is, and one; 0: there is none. Then that name, and the stream's own.
    bytes: Cow<'a, [u8]>,
}

impl Label<'static> {
    /// Of a stream; `alias` is what its client calls it.
    pub fn new(stream: &str, alias: Option<&str>) -> Label<'static> {
        let mut bytes = Vec::with_capacity(1 + alias.map_or(0, str::len) + stream.len());
        push_length(&mut bytes, alias.map_or(0, |alias| alias.len() + 1));
        bytes.extend_from_slice(alias.unwrap_or_default().as_bytes());
        bytes.extend_from_slice(stream.as_bytes());
        Label { bytes: bytes.into() }
    }
}

impl Label<'_> {
    fn parts(&self) -> (&str, Option<&str>) {
        let mut rest = &*self.bytes;
        let length = take_length(&mut rest).and_then(|length| length.checked_sub(1));
        let (alias, stream) = rest.split_at_checked(length.unwrap_or(0)).unwrap_or_default();
        // Both were text when they came in.
        let text = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
        (text(stream), length.map(|_| text(alias)))
    }

    /// The stream's own name.
    pub fn stream(&self) -> &str {
        self.parts().0
    }

    /// What the client calls it.
    pub fn alias(&self) -> Option<&str> {
        self.parts().1
    }

    /// What it goes by on its connection.
    pub fn name(&self) -> &str {
        let (stream, alias) = self.parts();
        alias.unwrap_or(stream)
    }
}

/// The labels of a connection, by the numbers of its streams. In one piece, too.
#[derive(Debug, Default)]
pub struct Labels {
    /// Each label's bytes behind their length.
    bytes: Box<[u8]>,
}

impl Labels {
    /// Puts a label in the place of another, or behind all of them.
    pub fn put(&mut self, at: usize, label: &Label<'_>) {
        let mut bytes = Vec::with_capacity(self.bytes.len() + label.bytes.len() + 1);
        let others = self.iter().enumerate();
        let (before, behind): (Vec<_>, Vec<_>) =
            others.filter(|(number, _)| *number != at).partition(|(number, _)| *number < at);
        let all = before.iter().map(|(_, it)| it).chain([label]);
        for label in all.chain(behind.iter().map(|(_, it)| it)) {
            push_length(&mut bytes, label.bytes.len());
            bytes.extend_from_slice(&label.bytes);
        }
        self.bytes = bytes.into();
    }

    /// `None` where there was no stream of this number.
    pub fn get(&self, at: usize) -> Option<Label<'_>> {
        self.iter().nth(at)
    }

    /// All of them, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = Label<'_>> {
        let mut rest = &*self.bytes;
        std::iter::from_fn(move || {
            let length = take_length(&mut rest)?;
            let (bytes, behind) = rest.split_at_checked(length)?;
            rest = behind;
            Some(Label { bytes: bytes.into() })
        })
    }
}

/// Seven bits a byte, the lowest first; all bytes but the last have the highest bit.
pub(super) fn push_length(bytes: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        #[expect(clippy::cast_possible_truncation, reason = "the lowest bits are meant")]
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "less than 128")]
    bytes.push(length as u8);
}

pub(super) fn take_length(bytes: &mut &[u8]) -> Option<usize> {
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

const VERSION: u8 = 1;
/// So many streams have room in an id, whatever their places.
pub const MAX_STREAMS: usize = 32;
/// No id is longer, in characters.
pub const MAX_LENGTH: usize = 1024;

/// Of a token's text: type byte, cluster time.
const TIME: std::ops::Range<usize> = 2..18;
/// The token's version, `2B` and a byte.
const VERSION_BYTE: std::ops::Range<usize> = 20..22;
/// What stands between the version and the index in an event's token.
const EVENT: &str = "2C0100";
const INDEX_AT: usize = 28;
const END: &str = "FF";

/// How far the streams of a connection are, by their names on it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Bookmark(Vec<(u32, Position)>);

/// A text that is no bookmark of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invalid;

/// A place as a bookmark can say it, that names no document: of an event, past it and before the
/// next. `None` for tokens of a form that this version does not know.
pub fn place_of(position: &Position) -> Option<Position> {
    if position.is_ours() {
        return Some(position.clone());
    }
    if position.names_document() {
        return position.past_event();
    }
    // Streams of many connections are told of the same place, and come to it one after the other: they
    // share its text.
    LAST.with_borrow_mut(|last| {
        last.take_if(|last| last.time() != position.time());
        Some(last.get_or_insert_with(|| Position::before(position.time())).clone())
    })
}

thread_local! {
    /// The last place that a mark was written as.
    static LAST: RefCell<Option<Position>> = const { RefCell::new(None) };
}

impl Bookmark {
    /// Says where a stream is; `place` is one of [`place_of`].
    pub fn put(&mut self, label: &str, place: Position) {
        self.0.push((hash(label), place));
    }

    /// Where the stream with this label is; `None` if the id was made without it.
    pub fn get(&self, label: &str) -> Option<&Position> {
        let label = hash(label);
        self.0.iter().find(|(known, _)| *known == label).map(|(_, place)| place)
    }

    /// Whether no stream has a place yet, so that there is no id to give.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As clients are given it; `None` where it would be longer than [`MAX_LENGTH`].
    pub fn to_text(&self, ids: &Ids) -> Option<String> {
        let bytes = self.to_bytes()?;
        let text = match ids {
            Ids::Token => URL_SAFE_NO_PAD.encode(bytes),
            Ids::Sealed(keys) => keys.seal(&bytes),
        };
        (text.len() <= MAX_LENGTH).then_some(text)
    }

    fn to_bytes(&self) -> Option<Vec<u8>> {
        let mut places: Vec<&Position> = self.0.iter().map(|(_, place)| place).collect();
        places.sort();
        places.dedup();
        let mut bytes = vec![VERSION, u8::try_from(places.len()).ok()?];
        for place in &places {
            write_place(place, &mut bytes)?;
        }
        bytes.push(u8::try_from(self.0.len()).ok()?);
        for (label, place) in &self.0 {
            bytes.extend_from_slice(&label.to_be_bytes());
            // It is among them, and there are not more than a byte can say.
            bytes.push(u8::try_from(places.binary_search(&place).ok()?).ok()?);
        }
        Some(bytes)
    }

    /// # Errors
    /// [`Invalid`]
    pub fn parse(text: &str, ids: &Ids) -> Result<Bookmark, Invalid> {
        if text.len() > MAX_LENGTH {
            return Err(Invalid);
        }
        let bytes = match ids {
            Ids::Token => URL_SAFE_NO_PAD.decode(text).map_err(|_| Invalid)?,
            Ids::Sealed(keys) => keys.open(text).ok_or(Invalid)?,
        };
        Reader(&bytes).bookmark().ok_or(Invalid)
    }
}

fn write_place(place: &Position, bytes: &mut Vec<u8>) -> Option<()> {
    let text = place.as_str();
    let time = place.time();
    let rest = match text.get(INDEX_AT..) {
        None => Vec::new(),
        Some(index) => {
            let known = text.get(VERSION_BYTE.end..INDEX_AT)? == EVENT;
            let index = index.strip_suffix(END).filter(|_| known)?;
            [hex(text.get(VERSION_BYTE)?)?, hex(index)?].concat()
        }
    };
    bytes.push(u8::try_from(rest.len()).ok()?);
    bytes.extend_from_slice(&time.time.to_be_bytes());
    bytes.extend_from_slice(&time.increment.to_be_bytes());
    bytes.extend_from_slice(&rest);
    Some(())
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let pairs = (0..text.len()).step_by(2);
    pairs.map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

/// Reads what a client sent.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn bookmark(mut self) -> Option<Bookmark> {
        if self.byte()? != VERSION {
            return None;
        }
        let places: Option<Vec<Position>> = (0..self.byte()?).map(|_| self.place()).collect();
        let places = places?;
        let mut streams = Vec::new();
        for _ in 0..self.byte()? {
            let label = u32::from_be_bytes(self.array()?);
            let place = places.get(usize::from(self.byte()?))?;
            streams.push((label, place.clone()));
        }
        self.0.is_empty().then_some(Bookmark(streams))
    }

    fn place(&mut self) -> Option<Position> {
        let length = usize::from(self.byte()?);
        let time = u32::from_be_bytes(self.array()?);
        let increment = u32::from_be_bytes(self.array()?);
        let before = Position::before(Timestamp { time, increment });
        if length == 0 {
            return Some(before);
        }
        let (rest, behind) = self.0.split_at_checked(length)?;
        self.0 = behind;
        let (version, index) = rest.split_first()?;
        let index: String = index.iter().map(|byte| format!("{byte:02X}")).collect();
        let text = format!("82{}2B{version:02X}{EVENT}{index}{END}", &before.as_str()[TIME]);
        Position::parse(&text).ok().filter(Position::is_ours)
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn array(&mut self) -> Option<[u8; 4]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }
}

/// FNV-1a: few labels stand on one connection, and a client gains nothing by two alike.
fn hash(label: &str) -> u32 {
    label.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::seal::Keys;

    const EVENT_TOKEN: &str = "8266F3AAAA000000012B042C01002B02296E5A1004D3F0A1B2C3D4E5F60718293A4B5C6D7E46645F6964006466F3AAAA0123456789ABCDEF0004";

    fn position(text: &str) -> Position {
        Position::parse(text).unwrap()
    }

    /// A place within a transaction, of so many operations.
    fn past(time: u32, index: &str) -> Position {
        position(&format!("82{time:08X}000000012B042C0100{index}6EFF"))
    }

    #[test]
    fn a_place_names_no_document() {
        let event = position("8266F3AAAA000000012B042C01002B026E5A1004D3F046645F0004");
        let place = place_of(&event).unwrap();
        assert!(!place.names_document() && place > event);
        let mark = position("8266F3AAAA000000012B0229296E04");
        assert_eq!(place_of(&mark).unwrap().as_str(), "8266F3AAAA00000001");
        assert!(place_of(&position(EVENT_TOKEN)).is_none_or(|place| !place.names_document()));
    }

    #[test]
    fn labels_are_found_by_their_numbers() {
        let mut labels = Labels::default();
        let long = "x".repeat(200);
        let put = [("orders", None), ("chat", Some("a")), ("shop/a", Some("")), (&*long, None)];
        for (at, (stream, alias)) in put.into_iter().enumerate() {
            labels.put(at, &Label::new(stream, alias));
        }
        labels.put(1, &Label::new("chat", Some(&long)));
        let found: Vec<_> = labels.iter().collect();
        let parts = found.iter().map(|label| (label.stream(), label.alias(), label.name()));
        let expected = [
            ("orders", None, "orders"),
            ("chat", Some(&*long), &*long),
            ("shop/a", Some(""), ""),
            (&*long, None, &*long),
        ];
        assert!(parts.eq(expected) && labels.get(4).is_none());
        assert_eq!(labels.get(2), Some(Label::new("shop/a", Some(""))));
    }

    #[test]
    fn it_says_how_far_each_stream_is() {
        let mut bookmark = Bookmark::default();
        let before = Position::before(Timestamp { time: 7, increment: 9 });
        bookmark.put("orders", before.clone());
        bookmark.put("a", past(8, "29"));
        bookmark.put("b", past(8, "2C0100"));
        bookmark.put("chat", before.clone());
        let text = bookmark.to_text(&Ids::Token).unwrap();
        assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        let read = Bookmark::parse(&text, &Ids::Token).unwrap();
        assert_eq!(read, bookmark);
        assert_eq!(read.get("chat"), Some(&before));
        assert_eq!(read.get("b"), Some(&past(8, "2C0100")));
        assert_eq!(read.get("other"), None);
    }

    #[test]
    fn as_many_streams_as_there_may_be_fit() {
        let mut bookmark = Bookmark::default();
        for number in 0..32_u32 {
            bookmark.put(&format!("stream/{number}"), past(1000 + number, "2E01020304"));
        }
        let text = bookmark.to_text(&Ids::Token).unwrap();
        assert!(text.len() <= MAX_LENGTH, "{}", text.len());
        assert_eq!(Bookmark::parse(&text, &Ids::Token).unwrap(), bookmark);
        let sealed = Ids::Sealed(Keys::parse(&"5e".repeat(32)).unwrap());
        let text = bookmark.to_text(&sealed).unwrap();
        assert_eq!(Bookmark::parse(&text, &sealed).unwrap(), bookmark);
        assert_eq!(Bookmark::parse(&text, &Ids::Token), Err(Invalid));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let text = URL_SAFE_NO_PAD.encode(&bytes);
            if let Ok(read) = Bookmark::parse(&text, &Ids::Token) {
                let again = read.to_text(&Ids::Token).and_then(|text| Bookmark::parse(&text, &Ids::Token).ok());
                prop_assert_eq!(again, Some(read));
            }
            let mut versioned = vec![VERSION];
            versioned.extend(bytes);
            let _ = Bookmark::parse(&URL_SAFE_NO_PAD.encode(versioned), &Ids::Token);
        }
    }
}
