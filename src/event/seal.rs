//! Ids as clients see them: the position as it is, or sealed, so that it tells nothing.
//!
//! A sealed id is encrypted and authenticated by AES-SIV ([RFC 5297](https://www.rfc-editor.org/rfc/rfc5297)),
//! which needs no nonce: the same position gives the same id, so the replicas of a sidecar with the
//! same keys agree, and a client may go from one to the other. Its text is base64 for URLs. Inside
//! the sidecar there are no sealed ids: they are opened where they come in, and compared as
//! positions.

use std::borrow::Cow;
use std::sync::Arc;

use aes_siv::KeyInit;
use aes_siv::siv::{Aes128Siv, Aes256Siv};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;

use super::position::{InvalidPosition, Position};

/// What is authenticated with every id: an id is not to be taken for anything else that might be
/// sealed with the same keys.
const CONTEXT: &[u8] = b"sidestream position";
/// Longer texts are no ids of ours.
const MAX_TEXT: usize = 64 * 1024;
/// How many keys open ids: each id that was not sealed here is tried with every key.
const MAX_KEYS: usize = 16;

/// How positions are written for clients, and read from them. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub enum Ids {
    /// As MongoDB and [`Position`] have them.
    #[default]
    Token,
    /// The first key seals, all of them open.
    Sealed(Keys),
}

/// Keys for sealing, of which nothing is shown.
#[derive(Clone)]
pub struct Keys(Arc<[Key]>);

/// 32 bytes for AES-128, 64 for AES-256: half of them for the authentication.
enum Key {
    Aes128([u8; 32]),
    Aes256([u8; 64]),
}

/// What is wrong with a file of keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    #[error("the file has no key")]
    Empty,
    #[error("line {0} is not a key of 64 or 128 hexadecimal digits")]
    NotAKey(usize),
    #[error("line {0} repeats a key")]
    Repeated(usize),
    #[error("more than {MAX_KEYS} keys")]
    TooMany,
}

impl Ids {
    /// What a client is given for a position.
    pub fn show<'p>(&self, position: &'p Position) -> Cow<'p, str> {
        match self {
            Ids::Token => Cow::Borrowed(position.as_str()),
            Ids::Sealed(keys) => Cow::Owned(keys.seal(&packed(position))),
        }
    }

    /// The same as a text to be kept, which is the position's own where they are the same.
    pub fn show_kept(&self, position: &Position) -> Arc<str> {
        match self {
            Ids::Token => position.text(),
            Ids::Sealed(_) => self.show(position).into(),
        }
    }

    /// The same as bytes to be sent, which share the position's own where they are the same.
    pub fn show_shared(&self, position: &Position) -> Bytes {
        match self.show(position) {
            Cow::Borrowed(_) => Bytes::from_owner(position.clone()),
            Cow::Owned(text) => Bytes::from(text),
        }
    }

    /// Takes an id from a client. Where ids are sealed, no other is taken.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(&self, text: &str) -> Result<Position, InvalidPosition> {
        match self {
            Ids::Token => Position::parse(text),
            Ids::Sealed(keys) => {
                let bytes = keys.open(text).ok_or(InvalidPosition)?;
                let text: String = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
                Position::parse(&text)
            }
        }
    }
}

impl Keys {
    /// Reads a file of keys: one a line, as 64 or 128 hexadecimal digits (`openssl rand -hex 64`),
    /// the newest first. Empty lines and those that begin with `#` are passed over.
    ///
    /// # Errors
    /// [`KeysError`], which shows nothing of a key.
    pub fn parse(text: &str) -> Result<Keys, KeysError> {
        let mut keys: Vec<Key> = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = Key::parse(line).ok_or(KeysError::NotAKey(number))?;
            if keys.iter().any(|known| known.bytes() == key.bytes()) {
                return Err(KeysError::Repeated(number));
            }
            keys.push(key);
        }
        match keys.len() {
            0 => Err(KeysError::Empty),
            1..=MAX_KEYS => Ok(Keys(keys.into())),
            _ => Err(KeysError::TooMany),
        }
    }

    /// The text of these bytes: longer by 16 bytes, and a third.
    pub fn seal(&self, bytes: &[u8]) -> String {
        // There is always a first key.
        let sealed = self.0.first().and_then(|key| key.seal(bytes));
        URL_SAFE_NO_PAD.encode(sealed.unwrap_or_default())
    }

    /// What was sealed with one of the keys; `None` for any other text.
    pub fn open(&self, text: &str) -> Option<Vec<u8>> {
        if text.len() > MAX_TEXT {
            return None;
        }
        let sealed = URL_SAFE_NO_PAD.decode(text).ok()?;
        self.0.iter().find_map(|key| key.open(&sealed))
    }
}

impl Key {
    fn parse(hex: &str) -> Option<Key> {
        let bytes = unpacked(hex)?;
        match bytes.len() {
            32 => bytes.try_into().ok().map(Key::Aes128),
            64 => bytes.try_into().ok().map(Key::Aes256),
            _ => None,
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Key::Aes128(key) => key,
            Key::Aes256(key) => key,
        }
    }

    fn seal(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        match self {
            Key::Aes128(key) => Aes128Siv::new(key.into()).encrypt([CONTEXT], bytes).ok(),
            Key::Aes256(key) => Aes256Siv::new(key.into()).encrypt([CONTEXT], bytes).ok(),
        }
    }

    fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        match self {
            Key::Aes128(key) => Aes128Siv::new(key.into()).decrypt([CONTEXT], sealed).ok(),
            Key::Aes256(key) => Aes256Siv::new(key.into()).decrypt([CONTEXT], sealed).ok(),
        }
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

/// A position is hexadecimal, so half as many bytes hold it.
fn packed(position: &Position) -> Vec<u8> {
    // It was made sure of when the position was.
    unpacked(position.as_str()).unwrap_or_default()
}

fn unpacked(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    digits.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::position::MAX_ID;
    use super::*;

    fn key(digit: &str, length: usize) -> String {
        digit.repeat(length)
    }

    fn ids(keys: &[&String]) -> Ids {
        Ids::Sealed(
            Keys::parse(&keys.iter().map(|key| key.as_str()).collect::<Vec<_>>().join("\n"))
                .unwrap(),
        )
    }

    #[test]
    fn what_is_sealed_is_opened_and_nothing_else() {
        let event = "8266F3AAAA000000012B022C0100296E5A1004D3F0A1B2C3D4E5F60718293A4B5C6D7E46645F6964006466F3AAAA0123456789ABCDEF0004";
        let (old, new) = (key("0a", 32), key("b1", 64));
        let [first, both, newer] =
            [vec![&old], vec![&new, &old], vec![&new]].map(|keys| ids(&keys));
        let own = Position::before(bson::Timestamp { time: 7, increment: 1 });
        for position in [Position::parse(event).unwrap(), own] {
            let id = first.show(&position);
            assert_eq!(id, first.show(&position), "replicas agree");
            assert!(
                !id.contains(&position.as_str()[..8]) && id.len() <= position.as_str().len() + 24
            );
            // A key is taken out of use when ids that it sealed are no longer about.
            for ids in [&first, &both] {
                assert_eq!(ids.read(&id), Ok(position.clone()));
            }
            assert_eq!(newer.read(&id), Err(InvalidPosition));
            assert_eq!(both.show(&position), newer.show(&position));
            assert_eq!(first.read(position.as_str()), Err(InvalidPosition));
            for at in 0..id.len() {
                let mut forged = id.to_string();
                let other = if &id[at..=at] == "A" { "B" } else { "A" };
                forged.replace_range(at..=at, other);
                // The last digit may hold bits that stand for nothing.
                assert!(first.read(&forged).is_err() || at + 1 == id.len(), "{forged}");
            }
            assert_eq!(Ids::Token.show(&position), position.as_str());
            assert_eq!(Ids::Token.read(position.as_str()), Ok(position));
        }
        let longest = Position::parse(&format!("82{}", "0".repeat(MAX_ID - 2))).unwrap();
        assert!(newer.show(&longest).len() < MAX_ID);
    }

    #[test]
    fn a_file_of_keys() {
        let good = format!("# new\n{}\n\n  {}  \n", key("AB", 64), key("0c", 32));
        let keys = Keys::parse(&good).unwrap();
        assert_eq!(format!("{keys:?}"), "Keys(2)");
        let row = |text: String, expected: KeysError| {
            assert_eq!(Keys::parse(&text).unwrap_err(), expected, "{text}");
        };
        row(String::new(), KeysError::Empty);
        row("# none\n".into(), KeysError::Empty);
        row(format!("\n{}\n", key("0c", 33)), KeysError::NotAKey(2));
        row(key("zz", 32), KeysError::NotAKey(1));
        row(format!("{0}\n{0}", key("0c", 32)), KeysError::Repeated(2));
        let many: Vec<String> = (0..17).map(|number| key(&format!("{number:02x}"), 32)).collect();
        row(many.join("\n"), KeysError::TooMany);
    }
}
