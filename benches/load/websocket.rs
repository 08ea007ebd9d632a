//! What the crowd speaks: its requests, and as much of WebSocket as it needs. Pure: bytes in, bytes out.

use std::sync::LazyLock;

use memchr::memmem::Finder;

/// What only events hold, and the sign that they come from now on. Made once: there are millions of
/// messages.
static SEQ: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(b"\"seq\":"));
static READY: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(b"\"event\":\"ready\""));
/// Text, close, ping and pong of RFC 6455.
const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// What a client speaks with the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    Sse,
    /// The same, compressed.
    Gzip,
    Ndjson,
    /// One poll after the other.
    Poll,
    /// One request for a list, and no more.
    Fetch,
    /// Sidestream's envelopes; also what `ws.mjs` says.
    WebSocket,
    /// Socket.IO's protocol 5 over Engine.IO's protocol 4.
    SocketIo,
    /// Parse's live queries.
    Parse,
}

/// What a message was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    Nothing,
    /// From now on events come.
    Opened,
    Event,
    Closed,
}

/// One frame of the server's.
pub struct Frame<'a> {
    pub length: usize,
    pub heard: Heard,
    pub payload: &'a [u8],
}

/// The app that `parse.mjs` serves, and its class.
pub const PARSE_APP: &str = "bench";
pub const PARSE_CLASS: &str = "Item";

impl Speaks {
    /// The head of the request that opens the stream.
    pub fn request(self, path: &str) -> String {
        let fields = match self {
            Speaks::Sse => "Accept: text/event-stream",
            Speaks::Gzip => "Accept: text/event-stream\r\nAccept-Encoding: gzip",
            Speaks::Ndjson => "Accept: application/x-ndjson",
            Speaks::Poll | Speaks::Fetch => "Accept: application/json",
            // The key is any 16 bytes; who measures does not check the answer to it.
            _ => {
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
            }
        };
        format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{fields}\r\n\r\n")
    }

    pub fn status(self) -> &'static str {
        if self.is_websocket() { " 101" } else { " 200" }
    }

    pub fn is_websocket(self) -> bool {
        matches!(self, Speaks::WebSocket | Speaks::SocketIo | Speaks::Parse)
    }

    /// What the client says first, once the connection is a WebSocket.
    pub fn greet(self, answer: &mut Vec<u8>) {
        if self == Speaks::Parse {
            let hello = format!(r#"{{"op":"connect","applicationId":"{PARSE_APP}"}}"#);
            frame(TEXT, hello.as_bytes(), answer);
        }
    }

    /// The first frame, if it is whole. `answer` gets what has to be sent back.
    pub fn take<'a>(
        self,
        bytes: &'a [u8],
        answer: &mut Vec<u8>,
    ) -> Result<Option<Frame<'a>>, String> {
        let Some((opcode, start, length)) = first(bytes)? else { return Ok(None) };
        let payload = &bytes[start..length];
        let heard = match opcode {
            TEXT => self.heard(payload, answer)?,
            PING => {
                frame(PONG, payload, answer);
                Heard::Nothing
            }
            CLOSE => Heard::Closed,
            _ => Heard::Nothing,
        };
        Ok(Some(Frame { length, heard, payload }))
    }

    fn heard(self, message: &[u8], answer: &mut Vec<u8>) -> Result<Heard, String> {
        let is = |start: &str| message.starts_with(start.as_bytes());
        let heard = match self {
            // First, since almost all of them are: the client shares the cores with the server.
            Speaks::WebSocket if SEQ.find(message).is_some() => Heard::Event,
            Speaks::WebSocket if READY.find(message).is_some() => Heard::Opened,
            Speaks::WebSocket => Heard::Nothing,
            Speaks::SocketIo if is("42") => Heard::Event,
            Speaks::SocketIo if is("40") => Heard::Opened,
            Speaks::SocketIo if is("0") => {
                frame(TEXT, b"40", answer);
                Heard::Nothing
            }
            Speaks::SocketIo if is("2") => {
                frame(TEXT, b"3", answer);
                Heard::Nothing
            }
            Speaks::SocketIo if is("41") || is("1") => Heard::Closed,
            Speaks::Parse if is(r#"{"op":"create""#) => Heard::Event,
            Speaks::Parse if is(r#"{"op":"subscribed""#) => Heard::Opened,
            Speaks::Parse if is(r#"{"op":"connected""#) => {
                let query = format!(r#"{{"className":"{PARSE_CLASS}","where":{{}}}}"#);
                let wish = format!(r#"{{"op":"subscribe","requestId":1,"query":{query}}}"#);
                frame(TEXT, wish.as_bytes(), answer);
                Heard::Nothing
            }
            _ => return Err(format!("unexpected: {}", String::from_utf8_lossy(message))),
        };
        Ok(heard)
    }
}

/// Where the payload of the first frame lies, if the frame is whole.
fn first(bytes: &[u8]) -> Result<Option<(u8, usize, usize)>, String> {
    let [head, size, ..] = bytes else { return Ok(None) };
    if head & 0x80 == 0 || head & 0x70 != 0 || size & 0x80 != 0 {
        return Err(format!("a frame that the crowd does not know: {head:02x} {size:02x}"));
    }
    let (start, length) = match size {
        126 => match bytes.get(2..4) {
            Some(size) => (4, usize::from(u16::from_be_bytes([size[0], size[1]]))),
            None => return Ok(None),
        },
        127 => match bytes.get(2..10) {
            Some(size) => (10, size.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))),
            None => return Ok(None),
        },
        size => (2, usize::from(*size)),
    };
    let is_whole = bytes.len() - start.min(bytes.len()) >= length && bytes.len() >= start;
    Ok(is_whole.then_some((head & 0x0f, start, start + length)))
}

/// A client's frames are masked; a mask of zeros is one, and spares the work.
fn frame(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.push(0x80 | opcode);
    match u8::try_from(payload.len()) {
        Ok(size) if size < 126 => out.push(0x80 | size),
        // Nothing longer than 64 KiB is ever said.
        _ => {
            out.push(0x80 | 126);
            out.extend_from_slice(&u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
}
