//! Many clients of event streams in one thread: counts what comes, and checks that each client
//! gets every event that is its own once and in order.
//!
//! They speak SSE, plain or compressed, NDJSON, long poll, or what is spoken over WebSocket. Plain
//! sockets and epoll, one buffer for all: the crowd shares the machine with what it measures, so it has
//! to be cheap, in time and in memory.

use std::borrow::Cow;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flate2::write::GzDecoder;
use memchr::memchr;
use memchr::memmem::{self, Finder};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use socket2::{Domain, Socket, Type};

use super::now_micros;
use super::websocket::{Heard, Speaks};

/// Connections opened before their answers are waited for: less than any server's backlog.
pub const WAVE: usize = 400;
/// Ports of one source address that are used: there are 28,000 by default, others want some.
const PER_ADDRESS: usize = 5_000;
/// Source addresses: 127.1.0.0 to 127.200.255.255. Each crowd takes the next ones, since the ports of
/// a crowd that has just left stay taken for a minute (TIME_WAIT).
const ADDRESSES: usize = 200 << 16;
static NEXT_ADDRESS: AtomicUsize = AtomicUsize::new(0);
const PATIENCE: Duration = Duration::from_secs(30);
/// That something came is told once; that the server has said its last is told beside it.
const WHEN: epoll::EventFlags =
    epoll::EventFlags::IN.union(epoll::EventFlags::ET).union(epoll::EventFlags::RDHUP);
/// What stands before a number, and other parts of lines. Made once: there are millions of them.
static SEQ: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(b"\"seq\":"));
static SENT: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(b"\"sent\":"));
static RESET: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(b"\"event\":\"reset\""));
static LENGTH: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(b"content-length:"));

/// Which events a client should get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    All,
    /// Everything once, but in no order: from servers that keep none. Up to 64 events.
    AnyOrder,
    /// Those whose `seq` modulo the second number is the first.
    Key(u64, u64),
}

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

struct Client {
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

/// What the crowd has seen so far.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    pub events: u64,
    pub bytes: u64,
    /// Events that came twice, out of order, or to the wrong client.
    pub wrong: u64,
    /// `event: reset` and `event: end`.
    pub resets: u64,
    /// Connections that ended.
    pub closed: u64,
    /// `event: ready`, and whole answers to those who fetch.
    pub ready: u64,
    /// When the last event came, or the last `ready`.
    pub last: Option<Instant>,
    /// Microseconds from the stamp in an event to its arrival, where they are kept.
    pub latencies: Option<Vec<(u64, u32)>>,
}

pub struct Crowd {
    poll: OwnedFd,
    clients: Vec<Client>,
    opened: usize,
    /// The number of the first of its source addresses.
    first_address: usize,
    /// What is read into, and what epoll says: kept, since clearing them for a turn that finds two
    /// clients would cost more than reading from those.
    buffer: Box<[u8]>,
    ready: Vec<epoll::Event>,
    pub seen: Seen,
}

impl Crowd {
    /// Opens streams, the path and what is wanted by each client's number.
    pub fn open(
        address: SocketAddr,
        count: usize,
        ask: impl Fn(usize) -> (String, Wants),
    ) -> Result<Crowd, String> {
        Crowd::open_as(Speaks::Sse, WAVE, address, count, ask)
    }

    pub fn open_as(
        speaks: Speaks,
        wave: usize,
        address: SocketAddr,
        count: usize,
        ask: impl Fn(usize) -> (String, Wants),
    ) -> Result<Crowd, String> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| e.to_string())?;
        let first_address =
            NEXT_ADDRESS.fetch_add(count.div_ceil(PER_ADDRESS).max(1), Ordering::Relaxed);
        let (clients, seen) = (Vec::new(), Seen::default());
        let buffer = vec![0; 64 * 1024].into_boxed_slice();
        let ready = Vec::with_capacity(1024);
        let mut crowd = Crowd { poll, clients, opened: 0, first_address, buffer, ready, seen };
        while crowd.clients.len() < count {
            for number in crowd.clients.len()..(crowd.clients.len() + wave).min(count) {
                let (path, wants) = ask(number);
                crowd.add(address, number, speaks, (&path, wants))?;
            }
            let began = Instant::now();
            while crowd.opened < crowd.clients.len() {
                crowd.turn(Duration::from_millis(100))?;
                if began.elapsed() > PATIENCE {
                    let (opened, asked) = (crowd.opened, crowd.clients.len());
                    return Err(format!("{opened} of {asked} streams were opened"));
                }
            }
        }
        Ok(crowd)
    }

    fn add(
        &mut self,
        address: SocketAddr,
        number: usize,
        speaks: Speaks,
        (path, wants): (&str, Wants),
    ) -> Result<(), String> {
        let connect = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            let source = source_address(self.first_address + number / PER_ADDRESS);
            socket.bind(&SocketAddr::from((source, 0)).into())?;
            socket.connect(&address.into())?;
            let mut socket = TcpStream::from(socket);
            socket.write_all(speaks.request(path).as_bytes())?;
            socket.set_nonblocking(true)?;
            let data = epoll::EventData::new_u64(number as u64);
            epoll::add(&self.poll, &socket, data, WHEN)?;
            std::io::Result::Ok(socket)
        };
        let socket = connect().map_err(|error| format!("client {number}: {error}"))?;
        self.clients.push(Client {
            socket: Some(socket),
            speaks,
            path: path.to_owned(),
            has_opened: false,
            decoder: (speaks == Speaks::Gzip).then(|| Box::new(GzDecoder::new(Vec::new()))),
            framing: Framing::Head,
            partial: Vec::new(),
            wants,
            next: 0,
            count: 0,
        });
        Ok(())
    }

    /// Reads until so many events have come since the crowd was opened; says whether they have.
    pub fn read_until(&mut self, events: u64, patience: Duration) -> Result<bool, String> {
        let began = Instant::now();
        while self.seen.events < events {
            if began.elapsed() > patience {
                return Ok(false);
            }
            self.turn(Duration::from_millis(50))?;
        }
        Ok(true)
    }

    /// Reads until so many clients are ready; says whether they are.
    pub fn read_until_ready(&mut self, clients: u64, patience: Duration) -> Result<bool, String> {
        let began = Instant::now();
        while self.seen.ready < clients {
            if began.elapsed() > patience {
                return Ok(false);
            }
            self.turn(Duration::from_millis(50))?;
        }
        Ok(true)
    }

    /// Reads for a while, whatever comes.
    pub fn read_for(&mut self, time: Duration) -> Result<(), String> {
        let began = Instant::now();
        while began.elapsed() < time {
            self.turn(Duration::from_millis(20))?;
        }
        Ok(())
    }

    /// How many clients have not had exactly what they should, of `events` from zero on.
    pub fn unserved(&self, events: u64) -> usize {
        let is_served = |client: &&Client| {
            let expected = match client.wants {
                Wants::All | Wants::AnyOrder => events,
                Wants::Key(key, of) => (events + of - 1).saturating_sub(key) / of,
            };
            client.count == expected
        };
        self.clients.len() - self.clients.iter().filter(is_served).count()
    }

    /// One wait for whatever is ready.
    pub fn turn(&mut self, patience: Duration) -> Result<(), String> {
        self.ready.clear();
        let patience = Timespec::try_from(patience).map_err(|e| e.to_string())?;
        match epoll::wait(&self.poll, spare_capacity(&mut self.ready), Some(&patience)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.to_string()),
        }
        for event in &self.ready {
            let client = &mut self.clients[event.data.u64() as usize];
            let flags = event.flags;
            let is_last = flags.contains(epoll::EventFlags::RDHUP);
            // Each time it is told once, so it is read to its end.
            while client.read(&mut self.buffer, &mut self.opened, &mut self.seen)? || is_last {
                if client.socket.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// The loopback address with this number.
fn source_address(number: usize) -> [u8; 4] {
    let number = number % ADDRESSES;
    // Below 200, and two bytes: nothing is cut off.
    [127, 1 + (number >> 16) as u8, (number >> 8) as u8, number as u8]
}

fn close(client: &mut Client, seen: &mut Seen) {
    client.socket = None;
    seen.closed += 1;
}

impl Client {
    /// Reads once. Says whether there may be more.
    fn read(
        &mut self,
        buffer: &mut [u8],
        opened: &mut usize,
        seen: &mut Seen,
    ) -> Result<bool, String> {
        let Some(socket) = &mut self.socket else { return Ok(false) };
        let length = match socket.read(buffer) {
            Ok(length @ 1..) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Ok(0) | Err(_) => {
                close(self, seen);
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
            *opened += usize::from(self.has_opened);
        }
        if let (Some(socket), false) = (&mut self.socket, answer.is_empty()) {
            socket.write_all(&answer).map_err(|error| format!("a client's answer: {error}"))?;
        }
        if self.framing == Framing::Over {
            close(self, seen);
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
