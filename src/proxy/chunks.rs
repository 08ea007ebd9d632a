//! Follows a chunked body ([RFC 9112](https://www.rfc-editor.org/rfc/rfc9112) section 7.1) through
//! the bytes of a connection, without touching them: where does it end, and what are its trailers?
//!
//! Stricter than the standard wants readers to be: what two readers could take for different
//! bodies is malformed. Pure: bytes in, position out.

use std::ops::ControlFlow;

use super::forwarded;

/// The maximum size of the extensions of one chunk, in bytes. Only attacks use them.
const MAX_EXTENSION: usize = 1024;
/// The trailer section, in bytes.
const MAX_TRAILERS: usize = 16 * 1024;
/// Fields that say where a message ends or where it comes from, or that concern one connection:
/// they belong into the head, and a reader that merged them late would read another message.
const NOT_IN_TRAILERS: [&str; 13] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Not a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the chunked body is malformed")]
pub struct Malformed;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In a chunk's length, after so many digits.
    Size(u8),
    /// After the length: blanks that only an extension may follow.
    Blank,
    Extension,
    SizeEnd,
    Data,
    DataReturn,
    DataEnd,
    /// At the beginning of a line after the last chunk.
    TrailerStart,
    Trailer,
    TrailerEnd,
    LastEnd,
    Done,
}

/// Where in a chunked body the bytes seen so far end.
#[derive(Debug, Clone)]
pub struct Chunks {
    state: State,
    /// Of the current chunk: while its length is read, so far; then what is left of it.
    left: u64,
    extension: usize,
    trailers: Vec<u8>,
}

impl Default for Chunks {
    fn default() -> Chunks {
        Chunks { state: State::Size(0), left: 0, extension: 0, trailers: Vec::new() }
    }
}

impl Chunks {
    /// Whether the last chunk and the trailers have passed.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Goes on through these bytes; how many of them belong to the body.
    ///
    /// # Errors
    /// [`Malformed`]; nothing can be said after that.
    pub fn follow(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        self.advance(bytes, |state| state == State::Done)
    }

    /// As [`Chunks::follow`]; told apart are the bytes up to the trailer section, which may be
    /// passed on as they are, and all that belong to the body.
    ///
    /// # Errors
    /// [`Malformed`]; nothing can be said after that.
    pub fn follow_body(&mut self, bytes: &[u8]) -> Result<(usize, usize), Malformed> {
        let body = match self.is_in_trailers() {
            true => 0,
            false => self.advance(bytes, |state| state == State::TrailerStart)?,
        };
        let trailers = match self.is_in_trailers() {
            true => self.follow(&bytes[body..])?,
            false => 0,
        };
        Ok((body, body + trailers))
    }

    /// As [`Chunks::follow`]; moves what is in the chunks to the front. How much that is, and how
    /// many bytes belong to the body.
    ///
    /// # Errors
    /// [`Malformed`]; nothing can be said after that.
    pub fn decode(&mut self, bytes: &mut [u8]) -> Result<(usize, usize), Malformed> {
        let (mut kept, mut at) = (0, 0);
        while at < bytes.len() && !self.is_done() {
            at += self.advance(&bytes[at..], |state| matches!(state, State::Data | State::Done))?;
            if self.state == State::Data {
                let end = at + self.skip_data(bytes.len() - at);
                bytes.copy_within(at..end, kept);
                kept += end - at;
                at = end;
            }
        }
        Ok((kept, at))
    }

    fn is_in_trailers(&self) -> bool {
        use State::{Done, LastEnd, Trailer, TrailerEnd, TrailerStart};
        matches!(self.state, TrailerStart | Trailer | TrailerEnd | LastEnd | Done)
    }

    /// Goes on through a chunk's data, of which so much is here.
    fn skip_data(&mut self, here: usize) -> usize {
        let here = u64::try_from(here).unwrap_or(u64::MAX).min(self.left);
        self.left -= here;
        if self.left == 0 {
            self.state = State::DataReturn;
        }
        usize::try_from(here).unwrap_or(usize::MAX)
    }

    /// The lines of the trailer section without the fields that do not belong there, each with
    /// its CR LF.
    ///
    /// # Errors
    /// [`Malformed`], when one is no header field.
    pub fn trailers(&self) -> Result<Vec<u8>, Malformed> {
        let mut lines = Vec::with_capacity(self.trailers.len());
        for line in self.trailers.split_inclusive(|byte| *byte == b'\n') {
            let mut field = [httparse::EMPTY_HEADER; 1];
            let whole = [line, b"\r\n"].concat();
            match httparse::parse_headers(&whole, &mut field) {
                Ok(httparse::Status::Complete((length, [field]))) if length == whole.len() => {
                    if !is_kept(field.name) {
                        continue;
                    }
                }
                _ => return Err(Malformed),
            }
            lines.extend_from_slice(line);
        }
        Ok(lines)
    }

    fn advance(
        &mut self,
        bytes: &[u8],
        is_wanted: impl Fn(State) -> bool,
    ) -> Result<usize, Malformed> {
        let mut at = 0;
        while at < bytes.len() && !is_wanted(self.state) {
            if self.state == State::Data {
                at += self.skip_data(bytes.len() - at);
                continue;
            }
            match self.step(bytes[at]) {
                ControlFlow::Continue(state) => self.state = state,
                ControlFlow::Break(malformed) => return Err(malformed),
            }
            at += 1;
        }
        Ok(at)
    }

    fn step(&mut self, byte: u8) -> ControlFlow<Malformed, State> {
        let next = match (self.state, byte) {
            // Sixteen digits are 64 bits.
            (State::Size(digits @ 0..16), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).unwrap_or(0);
                self.left = self.left << 4 | u64::from(digit);
                State::Size(digits + 1)
            }
            (State::Size(1..) | State::Extension, b'\r') => State::SizeEnd,
            (State::Size(1..) | State::Blank, b';') => State::Extension,
            (State::Size(1..) | State::Blank, b' ' | b'\t') => self.extend(State::Blank)?,
            (State::Extension, b'\t' | b' '..=b'~' | 0x80..) => self.extend(State::Extension)?,
            (State::SizeEnd, b'\n') => {
                self.extension = 0;
                if self.left == 0 { State::TrailerStart } else { State::Data }
            }
            (State::DataReturn, b'\r') => State::DataEnd,
            (State::DataEnd, b'\n') => State::Size(0),
            (State::TrailerStart, b'\r') => State::LastEnd,
            // Folding.
            (State::TrailerStart, b' ' | b'\t') => return ControlFlow::Break(Malformed),
            (State::Trailer, b'\r') => self.keep(byte, State::TrailerEnd)?,
            (State::TrailerEnd, b'\n') => self.keep(byte, State::TrailerStart)?,
            (State::TrailerStart | State::Trailer, b'\t' | b' '..=b'~' | 0x80..) => {
                self.keep(byte, State::Trailer)?
            }
            (State::LastEnd, b'\n') => State::Done,
            _ => return ControlFlow::Break(Malformed),
        };
        ControlFlow::Continue(next)
    }

    fn extend(&mut self, next: State) -> ControlFlow<Malformed, State> {
        self.extension += 1;
        match self.extension {
            0..=MAX_EXTENSION => ControlFlow::Continue(next),
            _ => ControlFlow::Break(Malformed),
        }
    }

    fn keep(&mut self, byte: u8, next: State) -> ControlFlow<Malformed, State> {
        if self.trailers.len() == MAX_TRAILERS {
            return ControlFlow::Break(Malformed);
        }
        self.trailers.push(byte);
        ControlFlow::Continue(next)
    }
}

/// Whether a trailer of this name passes.
pub fn is_kept(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('_', "-");
    !NOT_IN_TRAILERS.contains(&name.as_str()) && !forwarded::is_claim(name.as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(bytes: &[u8]) -> Result<(usize, bool, Vec<u8>), Malformed> {
        let mut chunks = Chunks::default();
        let length = chunks.follow(bytes)?;
        Ok((length, chunks.is_done(), chunks.trailers()?))
    }

    #[test]
    fn a_body_ends_where_it_says() {
        for (bytes, trailers, rest) in [
            ("0\r\n\r\n", "", ""),
            ("0\r\n\r\n", "", "GET / HTTP/1.1\r\n"),
            ("5\r\n0\r\n\r\n\r\n0\r\n\r\n", "", "0\r\n\r\n"),
            ("a;x=\"y z\"\r\n0123456789\r\n00\r\n\r\n", "", ""),
            ("1 ; x\r\na\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\n", "X-Sum: 1\r\nY:\r\n", "x"),
            ("0\r\nX-Forwarded-For: 1\r\nHost: a\r\nX_Real_IP: 1\r\nX: 1\r\n\r\n", "X: 1\r\n", ""),
        ] {
            let all = format!("{bytes}{rest}");
            assert_eq!(whole(all.as_bytes()), Ok((bytes.len(), true, trailers.into())), "{all:?}");
        }
    }

    #[test]
    fn what_is_no_chunked_body_is_malformed() {
        for bytes in [
            "\r\n",
            "0x5\r\n",
            "-1\r\n",
            "+1\r\n",
            " 1\r\n",
            "1 \r\n",
            "1\n",
            "g\r\n",
            "1\r\nab",
            "1\r\na\n",
            "1\r\na\r0",
            "11111111111111111\r\n",
            "1;\n",
            "1;a\0\r\n",
            "0\r\n X: 1\r\n",
            "0\r\nX: 1\n",
            "0\r\n\n",
            "0\r\nX: a\0b\r\n",
            "0\r\nno field\r\n\r\n",
            "0\r\nX : 1\r\n\r\n",
        ] {
            assert_eq!(whole(bytes.as_bytes()), Err(Malformed), "{bytes:?}");
        }
        let long = |length: usize| "x".repeat(length);
        assert_eq!(whole(format!("1;{}\r\n", long(2000)).as_bytes()), Err(Malformed));
        assert_eq!(whole(format!("0\r\nX: {}\r\n", long(20_000)).as_bytes()), Err(Malformed));
    }

    #[test]
    fn the_trailers_begin_after_the_last_chunk() {
        let mut chunks = Chunks::default();
        assert_eq!(chunks.follow_body(b"5\r\n0\r\n\r\n\r\n"), Ok((10, 10)));
        assert_eq!(chunks.follow_body(b"0\r\nX:"), Ok((3, 5)));
        assert_eq!(chunks.follow_body(b" 1\r\n\r\nmore"), Ok((0, 6)));
        assert!(chunks.is_done());
    }

    #[test]
    fn what_is_in_the_chunks_comes_to_the_front() {
        let mut bytes = *b"3\r\nabc\r\n2;x\r\nde\r\n0\r\nX: 1\r\n\r\nmore";
        let length = bytes.len();
        let mut chunks = Chunks::default();
        assert_eq!(chunks.decode(&mut bytes), Ok((5, length - 4)));
        assert_eq!((&bytes[..5], chunks.trailers()), (b"abcde".as_slice(), Ok(b"X: 1\r\n".into())));
    }

    proptest! {
        #[test]
        fn it_is_one_body_however_it_is_cut(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..5),
            has_trailers in any::<bool>(),
            cuts in prop::collection::vec(1_usize..20, 1..100),
        ) {
            let mut body: Vec<u8> = Vec::new();
            for part in parts {
                body.extend(format!("{:x}\r\n", part.len()).bytes());
                body.extend(part);
                body.extend(b"\r\n");
            }
            body.extend(if has_trailers { b"0\r\nX: 1\r\n\r\n".as_slice() } else { b"0\r\n\r\n" });
            let length = body.len();
            body.extend(b"rest");
            let mut chunks = Chunks::default();
            let (mut at, mut rest) = (0, body.as_slice());
            for cut in cuts.iter().cycle() {
                let (piece, next) = rest.split_at((*cut).min(rest.len()));
                at += chunks.follow(piece).unwrap();
                rest = next;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(at, length);
            prop_assert!(chunks.is_done());
            prop_assert_eq!(chunks.trailers().unwrap().is_empty(), !has_trailers);
        }

        #[test]
        fn it_takes_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut chunks = Chunks::default();
            if let Ok(length) = chunks.follow(&bytes) {
                prop_assert!(length <= bytes.len());
                let _ = chunks.trailers();
            }
        }
    }
}
