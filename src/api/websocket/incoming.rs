//! What a WebSocket client sends, from bytes to messages
//! ([RFC 6455](https://www.rfc-editor.org/rfc/rfc6455)). Touches no socket.

use std::io::Cursor;

use bytes::{Buf, Bytes, BytesMut};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

/// A longer message asks for more than it may.
const MAX_MESSAGE: usize = 64 * 1024;
/// What a control frame may carry.
const MAX_CONTROL: u64 = 125;

/// One thing that a client says.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    Text(String),
    Ping(Bytes),
    /// It closes; with this code, where it gives one.
    Close(Option<u16>),
}

/// Why a client's bytes cannot be taken, as a close code with its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken {
    pub code: u16,
    pub reason: &'static str,
}

const fn broken(code: u16, reason: &'static str) -> Broken {
    Broken { code, reason }
}

/// What has been read and not understood yet. Holds nothing while the client is silent.
#[derive(Debug, Default)]
pub struct Incoming {
    pub bytes: BytesMut,
    /// The text of a message whose last frame has not come.
    message: Option<Vec<u8>>,
}

impl Incoming {
    /// With what was read behind the handshake.
    pub fn with(bytes: BytesMut) -> Incoming {
        Incoming { bytes, message: None }
    }

    /// Whether a part of a message has come.
    pub fn is_unfinished(&self) -> bool {
        !self.bytes.is_empty() || self.message.is_some()
    }

    /// What is there, if it is whole; `None`: more has to be read.
    ///
    /// # Errors
    /// [`Broken`]
    pub fn take(&mut self) -> Result<Option<Heard>, Broken> {
        loop {
            let Some((header, payload)) = self.frame()? else {
                if self.bytes.is_empty() {
                    self.bytes = BytesMut::new();
                }
                return Ok(None);
            };
            if let Some(heard) = self.understand(&header, payload)? {
                return Ok(Some(heard));
            }
        }
    }

    fn frame(&mut self) -> Result<Option<(FrameHeader, BytesMut)>, Broken> {
        let mut cursor = Cursor::new(&self.bytes[..]);
        let invalid = |_| broken(1002, "a malformed frame header");
        let Some((header, length)) = FrameHeader::parse(&mut cursor).map_err(invalid)? else {
            return Ok(None);
        };
        let head = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
        check(&header, length)?;
        let so_far = self.message.as_ref().map_or(0, Vec::len);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length.saturating_add(so_far) > MAX_MESSAGE {
            return Err(broken(1009, "a message of more than 64 KiB"));
        }
        if self.bytes.len() < head + length {
            return Ok(None);
        }
        self.bytes.advance(head);
        let mut payload = self.bytes.split_to(length);
        let mask = header.mask.unwrap_or_default();
        for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= mask;
        }
        Ok(Some((header, payload)))
    }

    /// `None` where it is nothing to act upon, or not all of it.
    fn understand(
        &mut self,
        header: &FrameHeader,
        payload: BytesMut,
    ) -> Result<Option<Heard>, Broken> {
        match header.opcode {
            OpCode::Control(Control::Ping) => return Ok(Some(Heard::Ping(payload.freeze()))),
            OpCode::Control(Control::Close) => return close(&payload).map(Some),
            OpCode::Control(_) => return Ok(None),
            OpCode::Data(Data::Text) if self.message.is_none() => {}
            OpCode::Data(Data::Continue) if self.message.is_some() => {}
            OpCode::Data(Data::Binary) => {
                return Err(broken(
                    1003,
                    "only text messages are \
                supported",
                ));
            }
            OpCode::Data(_) => {
                return Err(broken(
                    1002,
                    "a message begins before the last one has \
                                                        ended",
                ));
            }
        }
        let mut message = self.message.take().unwrap_or_default();
        message.extend_from_slice(&payload);
        if !header.is_final {
            self.message = Some(message);
            return Ok(None);
        }
        let text =
            String::from_utf8(message).map_err(|_| broken(1007, "text that is not UTF-8"))?;
        Ok(Some(Heard::Text(text)))
    }
}

fn check(header: &FrameHeader, length: u64) -> Result<(), Broken> {
    if header.rsv1 || header.rsv2 || header.rsv3 {
        return Err(broken(1002, "a reserved bit is set, but no extension was negotiated"));
    }
    if header.mask.is_none() {
        return Err(broken(1002, "a client's frames must be masked"));
    }
    match header.opcode {
        OpCode::Control(Control::Reserved(_)) | OpCode::Data(Data::Reserved(_)) => {
            Err(broken(1002, "an unknown opcode"))
        }
        OpCode::Control(_) if length > MAX_CONTROL || !header.is_final => {
            Err(broken(1002, "a control frame that is too long or fragmented"))
        }
        OpCode::Control(_) | OpCode::Data(_) => Ok(()),
    }
}

fn close(payload: &[u8]) -> Result<Heard, Broken> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return match payload {
            [] => Ok(Heard::Close(None)),
            _ => Err(broken(1002, "an incomplete close code")),
        };
    };
    let code = u16::from_be_bytes(*code);
    if !CloseCode::from(code).is_allowed() {
        return Err(broken(1002, "an invalid close code"));
    }
    if std::str::from_utf8(reason).is_err() {
        return Err(broken(1007, "text that is not UTF-8"));
    }
    Ok(Heard::Close(Some(code)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MASK: [u8; 4] = [1, 2, 3, 4];

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        let masked = payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        [first, 0x80 | length].into_iter().chain(MASK).chain(masked).collect()
    }

    fn heard(bytes: &[u8]) -> Result<Vec<Heard>, Broken> {
        let mut incoming = Incoming::default();
        let mut all = Vec::new();
        // However they come.
        for byte in bytes {
            incoming.bytes.extend_from_slice(&[*byte]);
            all.extend(incoming.take()?);
        }
        Ok(all)
    }

    fn text(text: &str) -> Heard {
        Heard::Text(text.to_string())
    }

    #[test]
    fn messages_come_whole_or_in_frames() {
        let parts = [frame(0x01, b"hal"), frame(0x89, b"?"), frame(0x80, "lö".as_bytes())].concat();
        let ping = Heard::Ping(Bytes::from_static(b"?"));
        assert_eq!(heard(&parts), Ok(vec![ping, text("hallö")]));
        let all = [frame(0x81, b"a"), frame(0x8A, b""), frame(0x81, b"")].concat();
        assert_eq!(heard(&all), Ok(vec![text("a"), text("")]));
        let code = [&1000_u16.to_be_bytes()[..], b"bye"].concat();
        assert_eq!(heard(&frame(0x88, &code)), Ok(vec![Heard::Close(Some(1000))]));
        assert_eq!(heard(&frame(0x88, b"")), Ok(vec![Heard::Close(None)]));
    }

    #[test]
    fn what_breaks_the_rules_has_its_code() {
        let unmasked = vec![0x81, 1, b'a'];
        let long = [&[0x81, 0x80 | 127][..], &(1_u64 << 40).to_be_bytes(), &MASK].concat();
        for (bytes, code) in [
            (unmasked, 1002),
            (long, 1009),
            (frame(0xC1, b"a"), 1002),
            (frame(0x82, b"a"), 1003),
            (frame(0x83, b"a"), 1002),
            (frame(0x8B, b"a"), 1002),
            (frame(0x80, b"a"), 1002),
            (frame(0x09, b"a"), 1002),
            ([frame(0x01, b"a"), frame(0x81, b"b")].concat(), 1002),
            (frame(0x81, b"\xff"), 1007),
            (frame(0x88, b"\x03"), 1002),
            (frame(0x88, &999_u16.to_be_bytes()), 1002),
            (frame(0x88, &1005_u16.to_be_bytes()), 1002),
            (frame(0x88, b"\x03\xe8\xff"), 1007),
        ] {
            assert_eq!(heard(&bytes).map_err(|broken| broken.code), Err(code), "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_understood_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = heard(&bytes);
        }
    }
}
