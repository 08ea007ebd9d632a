//! A place in the order of one deployment's change events, and the id that clients hold.
//!
//! Four forms share one order, that of their text:
//!
//! - an event's resume token, the `_data` of its `_id`: hex of a sortable encoding that begins
//!   with the cluster time and goes on to name the document;
//! - a high-water mark, the same encoding without a document: "everything before this time";
//! - our own form, only the encoding's beginning, type byte and cluster time (18 characters). It
//!   says what a high-water mark says, and sorts right before every token of that time;
//! - our own form of an event's token, cut off before the collection and the document and ended
//!   with `FF`: "everything up to this operation of this transaction". It sorts right behind that
//!   event and before the next of the same time, so that a position within a transaction, whose
//!   events all have one time, is exact without a document's key.
//!
//! The order means something only within one deployment and token version. See
//! [change stream resume tokens](https://www.mongodb.com/docs/manual/changeStreams/#resume-tokens).

use std::fmt;
use std::sync::Arc;

use bson::Timestamp;

/// The encoding's type byte of a timestamp, with which every token begins.
const TIMESTAMP_TYPE: &str = "82";
/// Type byte and cluster time, in characters.
const TIME_LENGTH: usize = 18;
/// A token's type after its version, for the token of an event: 128.
const EVENT_TYPE: &str = "2C0100";
/// Where that type is: behind the version, which is `2B` and a byte.
const TYPE_AT: usize = TIME_LENGTH + 4;
/// Sorts behind every type byte of the encoding.
const END: &str = "FF";
/// The beginning of a UUID in the encoding: binary data of 16 bytes, subtype 4.
const UUID_TYPE: &str = "5A1004";
/// A UUID in characters.
const UUID_LENGTH: usize = 32;
/// Longer ids are refused from clients, who are given none longer than [`MAX_ID`]: request heads
/// end at 64 KiB.
const MAX_LENGTH: usize = 32 * 1024;
/// The longest id that a client is given, in characters. A token grows by two for each byte of the
/// document's `_id`, and proxies refuse heads of more than 8 KiB, which ends an `EventSource` for
/// good when it reconnects. What would be longer goes out as [`Position::past_event`].
pub const MAX_ID: usize = 1024;

/// Everything up to and including this place.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(Arc<str>);

/// Why a client's id is no position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a resume token: hexadecimal digits beginning with 82 are expected")]
pub struct InvalidPosition;

impl Position {
    /// Takes a token from the server, however long; `None` if it is of a form that this version
    /// cannot order.
    pub fn from_server(data: &str) -> Option<Position> {
        Position::read(data)
    }

    /// Takes an id from a client.
    ///
    /// # Errors
    /// When no server can have made it. Whether this deployment did is for `upstream` to find out.
    pub fn parse(text: &str) -> Result<Position, InvalidPosition> {
        if text.len() > MAX_LENGTH {
            return Err(InvalidPosition);
        }
        Position::read(text).ok_or(InvalidPosition)
    }

    fn read(text: &str) -> Option<Position> {
        let has_time = text.len() >= TIME_LENGTH && text.starts_with(TIMESTAMP_TYPE);
        if !has_time || !text.len().is_multiple_of(2) {
            return None;
        }
        // Each event has one: without an early end, many bytes are looked at together.
        let (mut is_hex, mut has_lowercase) = (true, false);
        for byte in text.bytes() {
            is_hex &= byte.is_ascii_hexdigit();
            has_lowercase |= byte.is_ascii_lowercase();
        }
        match (is_hex, has_lowercase) {
            (false, _) => None,
            // Servers write capitals, and the order is that of the text.
            (true, true) => Some(Position(text.to_ascii_uppercase().into())),
            (true, false) => Some(Position(text.into())),
        }
    }

    /// "Everything before this time has been read", in our own form.
    pub fn before(time: Timestamp) -> Position {
        Position(format!("{TIMESTAMP_TYPE}{:08X}{:08X}", time.time, time.increment).into())
    }

    /// "Everything from this second on", for a client that asked for what happened within an age. No
    /// operation has the increment 0, so these are told from ids and from times: see
    /// [`Position::is_of_an_age`].
    pub fn of_an_age(second: u32) -> Position {
        Position::before(Timestamp { time: second, increment: 0 })
    }

    /// Whether it was made for an age, which asks for as much as there is where it goes back further than
    /// the deployment: a client that names a moment knows something of that moment.
    pub fn is_of_an_age(&self) -> bool {
        self.0.len() == TIME_LENGTH && self.time().increment == 0
    }

    /// In hexadecimal digits. The order of positions is that of their texts.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same, in memory of its own: what many threads count the users of is passed between them each time.
    pub fn apart(&self) -> Position {
        Position(Arc::from(&*self.0))
    }

    /// The same, shared with all copies of this position.
    pub fn text(&self) -> Arc<str> {
        self.0.clone()
    }

    /// The cluster time at its beginning.
    pub fn time(&self) -> Timestamp {
        let part = |range: std::ops::Range<usize>| {
            // Both constructors made sure of the length and the digits.
            self.0.get(range).and_then(|hex| u32::from_str_radix(hex, 16).ok()).unwrap_or(0)
        };
        Timestamp { time: part(2..10), increment: part(10..TIME_LENGTH) }
    }

    /// Whether this is one of our own forms, which a server does not know as a token.
    pub fn is_ours(&self) -> bool {
        self.0.len() == TIME_LENGTH
            || self.operation_end().is_some_and(|end| self.0.get(end..) == Some(END))
    }

    /// Our own form of an event's token: past this event and before the next, naming neither
    /// collection nor document. `None` for tokens of a form that this version does not know.
    pub fn past_event(&self) -> Option<Position> {
        if self.is_ours() {
            return None;
        }
        let beginning = self.0.get(..self.operation_end()?)?;
        Some(Position(format!("{beginning}{END}").into()))
    }

    /// Where the part of an event's token ends that places it: time, version, type, the
    /// operation's index in its transaction, and whether it is an invalidate.
    fn operation_end(&self) -> Option<usize> {
        let version = self.0.get(TIME_LENGTH..TIME_LENGTH + 2)?;
        let index_at = TYPE_AT + EVENT_TYPE.len();
        if version != "2B" || self.0.get(TYPE_AT..index_at)? != EVENT_TYPE {
            return None;
        }
        // A whole number: `29` is zero, `2B` has one byte more, `2C` two, and so on.
        let index_bytes = match u8::from_str_radix(self.0.get(index_at..index_at + 2)?, 16).ok()? {
            0x29 => 0,
            kind @ 0x2B..=0x32 => usize::from(kind - 0x2A),
            _ => return None,
        };
        let is_invalidate_at = index_at + 2 + 2 * index_bytes;
        let end = is_invalidate_at + 2;
        matches!(self.0.get(is_invalidate_at..end)?, "6E" | "6F").then_some(end)
    }

    /// The UUID of the collection that an event's token shows, as 32 hexadecimal digits; `None` for
    /// positions that show none.
    pub fn collection_uuid(&self) -> Option<&str> {
        let rest = self.0.get(self.operation_end()?..)?.strip_prefix(UUID_TYPE)?;
        rest.get(..UUID_LENGTH)
    }

    /// The same place for people, without the key of a document.
    pub fn without_document(&self) -> Position {
        match self.names_document() {
            true => self.past_event().unwrap_or_else(|| Position::before(self.time())),
            false => self.clone(),
        }
    }

    /// Whether it is the token of an invalidate event, which comes at the time of another event and
    /// ends the stream that gives it.
    pub fn is_invalidate(&self) -> bool {
        self.operation_end().and_then(|end| self.0.get(end - 2..end)) == Some("6F")
    }

    /// Whether it is the token of an event, which shows the key of the event's document.
    ///
    /// After the time come the token version (`2B` and a byte) and the token type: `29`, zero, is
    /// a high-water mark.
    pub fn names_document(&self) -> bool {
        let is_mark = self.0.get(18..20) == Some("2B") && self.0.get(22..24) == Some("29");
        !self.is_ours() && !is_mark
    }
}

impl AsRef<[u8]> for Position {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Position({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIGH_WATER_MARK: &str = "8266F3AAAA000000012B0229296E04";
    const EVENT: &str = "8266F3AAAA000000012B022C0100296E5A1004D3F0A1B2C3D4E5F60718293A4B5C6D7E46645F6964006466F3AAAA0123456789ABCDEF0004";

    #[test]
    fn the_three_forms_sort_by_what_they_cover() {
        let own = Position::before(Timestamp { time: 0x66F3_AAAA, increment: 1 });
        let mark = Position::parse(HIGH_WATER_MARK).unwrap();
        let event = Position::parse(EVENT).unwrap();
        let next = Position::before(Timestamp { time: 0x66F3_AAAA, increment: 2 });
        assert!(own < mark && mark < event && event < next);
        for position in [&own, &mark, &event] {
            assert_eq!(position.time(), Timestamp { time: 0x66F3_AAAA, increment: 1 });
        }
        assert!(event.names_document() && !mark.names_document() && !own.names_document());
    }

    #[test]
    fn a_position_past_an_event_is_before_the_next_of_its_transaction() {
        // The operations 0, 1, 2, 127, 128 and 20,000 of one transaction, then its invalidate.
        let token = |index: &str, invalidate: &str| {
            let text =
                format!("8266F3AAAA000000012B042C0100{index}{invalidate}5A1004D3F046645F0004");
            Position::parse(&text).unwrap()
        };
        let order = ["29", "2B02", "2B04", "2BFE", "2C0100", "2D009C40"];
        let mut tokens: Vec<Position> = order.iter().map(|index| token(index, "6E")).collect();
        assert!(tokens.iter().all(|token| !token.is_invalidate()));
        tokens.push(token("2D009C40", "6F"));
        assert!(tokens.last().unwrap().is_invalidate());
        for pair in tokens.windows(2) {
            let past = pair[0].past_event().unwrap();
            assert!(pair[0] < past && past < pair[1], "{pair:?} {past}");
            assert!(past.is_ours() && !past.names_document() && past.past_event().is_none());
            assert_eq!(past.time(), pair[0].time());
        }
        let next = Position::before(Timestamp { time: 0x66F3_AAAA, increment: 2 });
        assert!(tokens.last().unwrap().past_event().unwrap() < next);
        assert!(Position::parse(HIGH_WATER_MARK).unwrap().past_event().is_none());
    }

    #[test]
    fn a_token_shows_its_collection_and_may_be_long() {
        let uuid = "D3F0A1B2C3D4E5F60718293A4B5C6D7E";
        let event = Position::parse(EVENT).unwrap();
        assert_eq!(event.collection_uuid(), Some(uuid));
        let past = event.past_event().unwrap();
        assert_eq!((past.collection_uuid(), event.without_document()), (None, past.clone()));
        assert_eq!(Position::parse(HIGH_WATER_MARK).unwrap().collection_uuid(), None);
        let long = format!("{EVENT}{}", "61".repeat(40_000));
        assert_eq!(Position::parse(&long), Err(InvalidPosition));
        let long = Position::from_server(&long).unwrap();
        assert_eq!(long.collection_uuid(), Some(uuid));
        assert!(long.past_event().unwrap().as_str().len() < MAX_ID);
    }

    #[test]
    fn only_what_a_server_can_have_made_is_taken() {
        for bad in ["", "82", "zz", "8266F3AAAA0000000", "9966F3AAAA00000001", "8266F3AAAA0000000g"]
        {
            assert_eq!(Position::parse(bad), Err(InvalidPosition), "{bad:?}");
        }
        let lower = Position::parse(&EVENT.to_ascii_lowercase()).unwrap();
        assert_eq!(lower.as_str(), EVENT);
    }
}
