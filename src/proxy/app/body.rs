//! A body on its way from one connection to another: where it ends, and what becomes of its
//! framing.
//!
//! Pure: a buffer of what was read becomes a buffer of what is to be written, mostly without
//! moving a byte.

use bytes::{BufMut, BytesMut};

use super::super::chunks::{Chunks, Malformed};

/// How a body comes and goes.
#[derive(Debug)]
pub enum Body {
    /// Over, or there is none.
    Done,
    /// So many bytes are left, and pass as they are.
    Length(u64),
    /// Chunks pass as they are, and trailers without what does not belong there.
    Chunks(Box<Chunks>),
    /// Chunks come, and what is in them passes; the trailers by [`Body::into_trailers`] alone.
    Bare(Box<Chunks>),
    /// Ends with the connection that it comes from; passes in chunks.
    IntoChunks,
    /// Ends with the connection that it comes from, and with the one that it goes to.
    UntilClose,
}

impl Body {
    /// In bytes.
    pub fn length(length: u64) -> Body {
        if length == 0 { Body::Done } else { Body::Length(length) }
    }

    /// A chunked body that keeps its chunks and trailers.
    pub fn chunks() -> Body {
        Body::Chunks(Box::default())
    }

    /// For those who frame by other means.
    pub fn bare() -> Body {
        Body::Bare(Box::default())
    }

    /// Whether all of it has passed; one that ends with its connection is done by [`Body::close`].
    pub fn is_done(&self) -> bool {
        match self {
            Body::Done => true,
            Body::Chunks(chunks) | Body::Bare(chunks) => chunks.is_done(),
            _ => false,
        }
    }

    /// Whether the body would end within these bytes.
    pub fn would_be_done(&self, bytes: &[u8]) -> bool {
        match self {
            Body::Done => true,
            Body::Length(left) => u64::try_from(bytes.len()).is_ok_and(|here| here >= *left),
            Body::Chunks(chunks) | Body::Bare(chunks) => {
                let mut chunks = chunks.clone();
                chunks.follow(bytes).is_ok() && chunks.is_done()
            }
            Body::IntoChunks | Body::UntilClose => false,
        }
    }

    /// Makes of what was read what is to be written; returned is what lies behind the body.
    ///
    /// # Errors
    /// Chunks that are none; the buffer is worthless then.
    pub fn pass(&mut self, buffer: &mut BytesMut) -> Result<BytesMut, Malformed> {
        if buffer.is_empty() {
            return Ok(BytesMut::new());
        }
        match self {
            Body::Done => Ok(std::mem::take(buffer)),
            Body::Length(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                *left -= u64::try_from(here).unwrap_or(*left);
                if *left == 0 {
                    *self = Body::Done;
                }
                Ok(behind(buffer, here))
            }
            Body::Chunks(chunks) => {
                let (body, whole) = chunks.follow_body(buffer)?;
                let behind = behind(buffer, whole);
                buffer.truncate(body);
                if chunks.is_done() {
                    buffer.extend_from_slice(&chunks.trailers()?);
                    buffer.extend_from_slice(b"\r\n");
                }
                Ok(behind)
            }
            Body::Bare(chunks) => {
                let (data, whole) = chunks.decode(buffer)?;
                let behind = behind(buffer, whole);
                buffer.truncate(data);
                if chunks.is_done() {
                    // Judged, though they may be passed nowhere.
                    chunks.trailers()?;
                }
                Ok(behind)
            }
            Body::IntoChunks => {
                let mut chunk = BytesMut::with_capacity(buffer.len() + 16);
                put_chunk(&mut chunk, buffer);
                *buffer = chunk;
                Ok(BytesMut::new())
            }
            Body::UntilClose => Ok(BytesMut::new()),
        }
    }

    /// The connection that it comes from has ended; what is still to be written goes into the
    /// buffer. `false` if the body is cut short by that.
    #[must_use]
    pub fn close(&mut self, buffer: &mut BytesMut) -> bool {
        match self {
            Body::IntoChunks => buffer.extend_from_slice(b"0\r\n\r\n"),
            Body::UntilClose => {}
            _ => return self.is_done(),
        }
        *self = Body::Done;
        true
    }

    /// The trailer lines of a body in chunks that is done, each with its CR LF and only those that
    /// belong there.
    pub fn into_trailers(self) -> Vec<u8> {
        match self {
            // Judged when they came.
            Body::Chunks(chunks) | Body::Bare(chunks) => chunks.trailers().unwrap_or_default(),
            _ => Vec::new(),
        }
    }
}

/// Cuts a buffer. Nothing is cut in the common case: a buffer that was cut is one that is shared.
fn behind(buffer: &mut BytesMut, at: usize) -> BytesMut {
    if at == buffer.len() { BytesMut::new() } else { buffer.split_off(at) }
}

/// Appends a chunk; for no bytes nothing, since that would be the last one.
pub fn put_chunk(to: &mut BytesMut, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    to.reserve(data.len() + 20);
    let mut digits = [0; 16];
    let mut at = digits.len();
    let mut left = data.len();
    while left > 0 {
        at -= 1;
        digits[at] = b"0123456789abcdef"[left & 15];
        left >>= 4;
    }
    to.put_slice(&digits[at..]);
    to.put_slice(b"\r\n");
    to.put_slice(data);
    to.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is written, what lies behind, and whether the body is done.
    fn pass(mut body: Body, pieces: &[&[u8]]) -> Result<(Vec<u8>, Vec<u8>, bool), Malformed> {
        let (mut written, mut rest) = (Vec::new(), Vec::new());
        for piece in pieces {
            if body.is_done() {
                rest.extend_from_slice(piece);
                continue;
            }
            let mut buffer = BytesMut::from(*piece);
            rest.extend(body.pass(&mut buffer)?);
            written.extend(buffer);
        }
        Ok((written, rest, body.is_done()))
    }

    #[test]
    fn each_kind_passes_in_its_way() {
        let chunked = b"3;x=y\r\nabc\r\n0\r\nX: 1\r\nHost: a\r\n\r\nnext".as_slice();
        for (body, from, to, behind, is_done) in [
            (Body::length(3), b"abcnext".as_slice(), "abc", "next", true),
            (Body::length(9), b"abc", "abc", "", false),
            (Body::length(0), b"next", "", "", true),
            (Body::chunks(), chunked, "3;x=y\r\nabc\r\n0\r\nX: 1\r\n\r\n", "next", true),
            (Body::chunks(), b"3\r\nab", "3\r\nab", "", false),
            (Body::bare(), chunked, "abc", "next", true),
            (Body::IntoChunks, b"0123456789abcdefg", "11\r\n0123456789abcdefg\r\n", "", false),
            (Body::UntilClose, b"abc", "abc", "", false),
        ] {
            let name = format!("{body:?}");
            let behind = if name == "Done" { "next" } else { behind };
            let expected = (to.into(), behind.into(), is_done);
            assert_eq!(pass(body, &[from]).unwrap(), expected, "{name}");
        }
        assert_eq!(pass(Body::chunks(), &[b"x\r\n"]), Err(Malformed));
        assert_eq!(pass(Body::bare(), &[b"0\r\nno field\r\n\r\n"]), Err(Malformed));
    }

    #[test]
    fn the_end_of_a_connection_ends_some_bodies_and_cuts_others() {
        for (mut body, is_whole, last) in [
            (Body::Done, true, ""),
            (Body::length(1), false, ""),
            (Body::chunks(), false, ""),
            (Body::bare(), false, ""),
            (Body::IntoChunks, true, "0\r\n\r\n"),
            (Body::UntilClose, true, ""),
        ] {
            let mut buffer = BytesMut::new();
            let name = format!("{body:?}");
            assert_eq!(
                (body.close(&mut buffer), &buffer[..]),
                (is_whole, last.as_bytes()),
                "{name}"
            );
        }
    }

    #[test]
    fn trailers_are_told_to_those_who_ask() {
        let mut body = Body::bare();
        let mut buffer = BytesMut::from("0\r\nX: 1\r\nHost: a\r\ny: 2\r\n\r\n");
        body.pass(&mut buffer).unwrap();
        assert_eq!(body.into_trailers(), b"X: 1\r\ny: 2\r\n");
    }

    proptest! {
        #[test]
        fn it_is_one_body_however_it_is_cut(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..5),
            cuts in prop::collection::vec(1_usize..20, 1..100),
        ) {
            let data = parts.concat();
            let mut chunked = BytesMut::new();
            for part in &parts {
                put_chunk(&mut chunked, part);
            }
            chunked.extend_from_slice(b"0\r\nX: 1\r\n\r\n");
            let length = u64::try_from(data.len()).unwrap();
            let framed = chunked.to_vec();
            for (body, from, to) in [
                (Body::length(length), &data, &data),
                (Body::chunks(), &framed, &framed),
                (Body::bare(), &framed, &data),
            ] {
                let all = [from.as_slice(), b"next"].concat();
                let mut rest = all.as_slice();
                let mut pieces = Vec::new();
                for cut in cuts.iter().cycle() {
                    let (piece, next) = rest.split_at((*cut).min(rest.len()));
                    pieces.push(piece);
                    rest = next;
                    if rest.is_empty() {
                        break;
                    }
                }
                prop_assert_eq!(pass(body, &pieces), Ok((to.clone(), b"next".to_vec(), true)));
            }
        }
    }
}
