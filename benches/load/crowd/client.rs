//! One client of a crowd: reads what its socket has, by the transport that it speaks, and checks each event.

use std::borrow::Cow;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::LazyLock;
use std::time::Instant;

use flate2::write::GzDecoder;
use memchr::memchr;
use memchr::memmem::{self, Finder};

use super::{Seen, Wants};
use crate::now_micros;
use crate::websocket::{Heard, Speaks};

/// What stands before a number, and other parts of lines. Made once: there are millions of them.
static SEQ: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(b"\"seq\":"));
static SENT: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(b"\"sent\":"));
static RESET: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(b"\"event\":\"reset\""));
static LENGTH: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(b"content-length:"));

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// Before the end of the answer's head.
    #[default]
    Head,
    Raw,
    /// In a chunk's size line, with the size so far.
    Size(usize, bool),
    /// In a chunk, with what is left of it.
    Chunk(usize),
    /// In the line end after a chunk, or after the last one.
    ChunkEnd,
    /// In WebSocket's frames, and before the server sends events.
    Greeting,
    Frames,
    /// In a poll's answer of so many bytes.
    Answer(usize),
    Over,
}

pub struct Client {
    socket: Option<TcpStream>,
    speaks: Speaks,
    /// What is asked for: again and again, where it polls.
    path: String,
    has_opened: bool,
    decoder: Option<Box<GzDecoder<Vec<u8>>>>,
    framing: Framing,
    /// A line, a frame or a head that is not whole yet.
    partial: Vec<u8>,
    wants: Wants,
    /// One more than the last `seq`; a bit for each where they come in no order.
    next: u64,
    count: u64,
}

impl Client {
    /// Whose request has been sent.
    pub fn new(socket: TcpStream, speaks: Speaks, path: String, wants: Wants) -> Client {
        Client {
            socket: Some(socket),
            speaks,
            path,
            has_opened: false,
            decoder: (speaks == Speaks::Gzip).then(|| Box::new(GzDecoder::new(Vec::new()))),
            framing: Framing::Head,
            partial: Vec::new(),
            wants,
            next: 0,
            count: 0,
        }
    }

    pub fn is_closed(&self) -> bool {
        self.socket.is_none()
    }

    /// Whether it has had exactly what it should, of `events` from zero on.
    pub fn has_all(&self, events: u64) -> bool {
        let expected = match self.wants {
            Wants::All | Wants::AnyOrder => events,
            Wants::Key(key, of) => (events + of - 1).saturating_sub(key) / of,
        };
        self.count == expected
    }

    fn close(&mut self, seen: &mut Seen) {
        self.socket = None;
        seen.closed += 1;
    }

    /// Reads once. Says whether there may be more.
    pub fn read(&mut self, buffer: &mut [u8], seen: &mut Seen) -> Result<bool, String> {
        let Some(socket) = &mut self.socket else { return Ok(false) };
        let length = match socket.read(buffer) {
            Ok(length @ 1..) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Ok(0) | Err(_) => {
                self.close(seen);
                return Ok(false);
            }
        };
        let mut answer = Vec::new();
        let events = seen.events;
        self.feed(&buffer[..length], seen, &mut answer)?;
        if seen.events > events {
            seen.last = Some(Instant::now());
        }
        // Who polls is between two answers most of the time.
        if !self.has_opened && (self.is_open() || !answer.is_empty()) {
            self.has_opened = self.is_open() || self.speaks == Speaks::Poll;
            seen.opened += u64::from(self.has_opened);
        }
        if let (Some(socket), false) = (&mut self.socket, answer.is_empty()) {
            socket.write_all(&answer).map_err(|error| format!("a client's answer: {error}"))?;
        }
        if self.framing == Framing::Over {
            self.close(seen);
        }
        Ok(length == buffer.len())
    }

    fn is_open(&self) -> bool {
        !matches!(self.framing, Framing::Head | Framing::Greeting)
    }

    fn feed(
        &mut self,
        mut bytes: &[u8],
        seen: &mut Seen,
        answer: &mut Vec<u8>,
    ) -> Result<(), String> {
        seen.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            match self.framing {
                Framing::Head => {
                    self.partial.extend_from_slice(bytes);
                    let Some(end) = memmem::find(&self.partial, b"\r\n\r\n") else {
                        return Ok(());
                    };
                    let whole = std::mem::take(&mut self.partial);
                    let head = String::from_utf8_lossy(&whole[..end]).to_ascii_lowercase();
                    let status = self.speaks.status();
                    if !head.starts_with("http/1.") || head.get(8..12) != Some(status) {
                        return Err(format!("no stream: {}", String::from_utf8_lossy(&whole)));
                    }
                    let is_gzip = head.contains("content-encoding: gzip");
                    if self.speaks == Speaks::Gzip && !is_gzip {
                        return Err(format!("not compressed: {head}"));
                    }
                    self.framing = match head.contains("transfer-encoding: chunked") {
                        _ if self.speaks.is_websocket() => Framing::Greeting,
                        _ if matches!(self.speaks, Speaks::Poll | Speaks::Fetch) => {
                            let length = number_after(head.as_bytes(), &LENGTH);
                            Framing::Answer(length.unwrap_or(0) as usize)
                        }
                        true => Framing::Size(0, false),
                        false => Framing::Raw,
                    };
                    self.speaks.greet(answer);
                    let rest = whole[end + 4..].to_vec();
                    seen.bytes -= rest.len() as u64;
                    return self.feed(&rest, seen, answer);
                }
                Framing::Raw => return self.content(bytes, seen),
                Framing::Answer(length) => {
                    self.partial.extend_from_slice(bytes);
                    if self.partial.len() >= length {
                        self.polled(seen, answer);
                    }
                    return Ok(());
                }
                Framing::Size(size, is_known) => {
                    let byte = bytes[0];
                    bytes = &bytes[1..];
                    self.framing = match (byte, char::from(byte).to_digit(16)) {
                        (b'\n', _) if size == 0 => Framing::Over,
                        (b'\n', _) => Framing::Chunk(size),
                        (_, Some(digit)) if !is_known => {
                            Framing::Size(size * 16 + digit as usize, false)
                        }
                        _ => Framing::Size(size, true),
                    };
                }
                Framing::Chunk(left) => {
                    let length = left.min(bytes.len());
                    self.content(&bytes[..length], seen)?;
                    bytes = &bytes[length..];
                    self.framing = match left - length {
                        0 => Framing::ChunkEnd,
                        left => Framing::Chunk(left),
                    };
                }
                Framing::ChunkEnd => {
                    let byte = bytes[0];
                    bytes = &bytes[1..];
                    if byte == b'\n' {
                        self.framing = Framing::Size(0, false);
                    }
                }
                Framing::Greeting | Framing::Frames => return self.frames(bytes, seen, answer),
                Framing::Over => return Ok(()),
            }
        }
        Ok(())
    }

    fn frames(
        &mut self,
        bytes: &[u8],
        seen: &mut Seen,
        answer: &mut Vec<u8>,
    ) -> Result<(), String> {
        let held = std::mem::take(&mut self.partial);
        let whole =
            if held.is_empty() { Cow::Borrowed(bytes) } else { [&held, bytes].concat().into() };
        let mut rest = &whole[..];
        while let Some(frame) = self.speaks.take(rest, answer)? {
            rest = &rest[frame.length..];
            match frame.heard {
                Heard::Nothing => {}
                Heard::Opened => self.framing = Framing::Frames,
                Heard::Event => self.event(frame.payload, seen),
                Heard::Closed => self.framing = Framing::Over,
            }
        }
        self.partial.extend_from_slice(rest);
        Ok(())
    }

    /// Of an event stream, compressed or not.
    fn content(&mut self, bytes: &[u8], seen: &mut Seen) -> Result<(), String> {
        let Some(decoder) = &mut self.decoder else {
            self.lines(bytes, seen);
            return Ok(());
        };
        decoder.write_all(bytes).and_then(|()| decoder.flush()).map_err(|e| e.to_string())?;
        let plain = std::mem::take(decoder.get_mut());
        self.lines(&plain, seen);
        Ok(())
    }

    /// A poll or a fetch is answered: counts its events. Who polls goes on from where the answer says.
    fn polled(&mut self, seen: &mut Seen, answer: &mut Vec<u8>) {
        let whole = std::mem::take(&mut self.partial);
        let mut rest = &whole[..];
        while let Some(at) = SEQ.find(rest) {
            self.event(&rest[at..], seen);
            rest = &rest[at + 1..];
        }
        if self.speaks == Speaks::Fetch {
            (seen.ready, seen.last) = (seen.ready + 1, Some(Instant::now()));
            self.framing = Framing::Over;
            return;
        }
        if RESET.find(&whole).is_some() {
            seen.resets += 1;
        }
        let resume = memmem::rfind(&whole, b"\"resume\":\"").map(|at| &whole[at + 10..]);
        let resume = resume.and_then(|rest| rest.split(|byte| *byte == b'"').next());
        let resume = String::from_utf8_lossy(resume.unwrap_or_default()).into_owned();
        let path = format!("{}?wait=60s&lastEventId={resume}", self.path);
        answer.extend_from_slice(self.speaks.request(&path).as_bytes());
        self.framing = Framing::Head;
    }

    fn lines(&mut self, mut bytes: &[u8], seen: &mut Seen) {
        while let Some(end) = memchr(b'\n', bytes) {
            let line = &bytes[..end];
            if self.partial.is_empty() {
                self.line(line, seen);
            } else {
                let mut whole = std::mem::take(&mut self.partial);
                whole.extend_from_slice(line);
                self.line(&whole, seen);
            }
            bytes = &bytes[end + 1..];
        }
        self.partial.extend_from_slice(bytes);
    }

    fn line(&mut self, line: &[u8], seen: &mut Seen) {
        let is_reset = line.starts_with(b"{") && RESET.find(line).is_some();
        if is_reset || line.starts_with(b"event: reset") || line.starts_with(b"event: end") {
            seen.resets += 1;
        }
        if line.starts_with(b"event: ready") {
            (seen.ready, seen.last) = (seen.ready + 1, Some(Instant::now()));
        }
        if line.starts_with(b"data:") || line.starts_with(b"{") {
            self.event(line, seen);
        }
    }

    fn event(&mut self, line: &[u8], seen: &mut Seen) {
        let Some(seq) = number_after(line, &SEQ) else { return };
        seen.events += 1;
        let is_own = match self.wants {
            Wants::All => seq == self.next,
            Wants::AnyOrder => seq < 64 && self.next & (1 << seq) == 0,
            Wants::Key(key, of) => seq % of == key && seq >= self.next,
        };
        seen.wrong += u64::from(!is_own);
        self.next = match self.wants {
            Wants::AnyOrder => self.next | 1 << (seq % 64),
            _ => seq + 1,
        };
        self.count += 1;
        if let Some(latencies) = &mut seen.latencies
            && let Some(sent) = number_after(line, &SENT)
        {
            let micros = now_micros().saturating_sub(sent);
            latencies.push((seq, u32::try_from(micros).unwrap_or(u32::MAX)));
        }
    }
}

fn number_after(line: &[u8], name: &Finder<'_>) -> Option<u64> {
    let at = name.find(line)? + name.needle().len();
    let digits = line[at..].iter().skip_while(|byte| **byte == b' ');
    let digits = digits.take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}
