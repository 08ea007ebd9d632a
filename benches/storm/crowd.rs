//! Clients that come back, all in one thread: counts what each gets, and holds it against what it
//! is owed.
//!
//! Plain sockets and epoll, one buffer for all: the crowd shares the machine with what it measures,
//! so it has to be cheap. What is owed is listed once for each value, not for each client.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use memchr::{memchr, memmem};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use socket2::{Domain, Socket, Type};

/// Connections whose answer has not begun: less than any server's backlog.
const OPENING: usize = 512;
/// Ports of one source address that are used: there are 28,000 by default, others want some.
const PER_ADDRESS: usize = 5_000;
/// Nothing that came late is missed: doubles would come with what is owed or right behind it.
const AFTERMATH: Duration = Duration::from_millis(300);

/// One client, and what it is owed: documents' numbers, in order.
pub struct Plan<'a> {
    pub path: String,
    pub last_id: &'a str,
    pub owed: &'a [i64],
}

struct Client<'a> {
    socket: Option<TcpStream>,
    /// A line that is not whole yet.
    partial: Vec<u8>,
    owed: &'a [i64],
    got: usize,
    has_begun: bool,
    /// When it had everything.
    done: Option<Duration>,
}

#[derive(Default)]
pub struct Outcome {
    pub delivered: usize,
    pub bytes: usize,
    pub lost: usize,
    /// Doubled, out of order, or not theirs.
    pub wrong: usize,
    pub resets: usize,
    /// When each client had everything, sorted.
    pub times: Vec<Duration>,
    /// When the last connection was answered.
    pub opened: Duration,
}

/// Connects everybody, `host` being the first source address, and reads until all have what they
/// are owed, or the patience is over.
pub fn come_back(
    address: SocketAddr,
    host: u8,
    plans: &[Plan<'_>],
    patience: Duration,
) -> std::io::Result<Outcome> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let began = Instant::now();
    let mut clients: Vec<Client<'_>> = Vec::with_capacity(plans.len());
    let (mut outcome, mut answered, mut open) = (Outcome::default(), 0, 0);
    let mut last_needed = None;
    loop {
        while clients.len() < plans.len() && clients.len() - answered < OPENING {
            let plan = &plans[clients.len()];
            let mut client = connect(&poll, address, host, clients.len(), plan)?;
            if client.owed.is_empty() {
                client.done = Some(began.elapsed());
            } else {
                open += 1;
            }
            clients.push(client);
        }
        for event in wait(&poll)? {
            let client = &mut clients[event.data.u64() as usize];
            let (had_begun, was_done) = (client.has_begun, client.done.is_some());
            client.read(began, &mut outcome);
            if client.has_begun && !had_begun {
                answered += 1;
                outcome.opened = began.elapsed();
            }
            open -= usize::from(client.done.is_some() && !was_done);
        }
        if clients.len() == plans.len() && answered == plans.len() && open == 0 {
            let since = *last_needed.get_or_insert_with(Instant::now);
            if since.elapsed() > AFTERMATH {
                break;
            }
        }
        if began.elapsed() > patience {
            break;
        }
    }
    for client in &clients {
        outcome.delivered += client.got;
        outcome.lost += client.owed.len() - client.got;
        outcome.times.push(client.done.unwrap_or(patience));
    }
    outcome.times.sort();
    Ok(outcome)
}

fn connect<'a>(
    poll: &OwnedFd,
    address: SocketAddr,
    host: u8,
    number: usize,
    plan: &Plan<'a>,
) -> std::io::Result<Client<'a>> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let host = host + u8::try_from(number / PER_ADDRESS).unwrap_or(u8::MAX);
    socket.bind(&SocketAddr::from(([127, 0, 0, host], 0)).into())?;
    socket.connect(&address.into())?;
    let mut socket = TcpStream::from(socket);
    let Plan { path, last_id, owed } = plan;
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nLast-Event-ID: {last_id}\r\n\r\n");
    socket.write_all(request.as_bytes())?;
    socket.set_nonblocking(true)?;
    let data = epoll::EventData::new_u64(number as u64);
    epoll::add(poll, &socket, data, epoll::EventFlags::IN)?;
    Ok(Client {
        socket: Some(socket),
        partial: Vec::new(),
        owed,
        got: 0,
        has_begun: false,
        done: None,
    })
}

fn wait(poll: &OwnedFd) -> std::io::Result<Vec<epoll::Event>> {
    let mut ready: Vec<epoll::Event> = Vec::with_capacity(1024);
    let patience = Timespec::try_from(Duration::from_millis(20)).map_err(std::io::Error::other)?;
    match epoll::wait(poll, spare_capacity(&mut ready), Some(&patience)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(ready),
        Err(error) => Err(error.into()),
    }
}

impl Client<'_> {
    fn read(&mut self, began: Instant, outcome: &mut Outcome) {
        let mut buffer = [0; 64 * 1024];
        let Some(socket) = &mut self.socket else { return };
        match socket.read(&mut buffer) {
            Ok(length @ 1..) => {
                self.has_begun = true;
                outcome.bytes += length;
                self.lines(&buffer[..length], outcome);
                if self.got == self.owed.len() && self.done.is_none() {
                    self.done = Some(began.elapsed());
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // What it has not had by then is lost.
            Ok(0) | Err(_) => {
                self.socket = None;
                self.has_begun = true;
            }
        }
    }

    fn lines(&mut self, mut bytes: &[u8], outcome: &mut Outcome) {
        while let Some(end) = memchr(b'\n', bytes) {
            if self.partial.is_empty() {
                self.line(&bytes[..end], outcome);
            } else {
                let mut whole = std::mem::take(&mut self.partial);
                whole.extend_from_slice(&bytes[..end]);
                self.line(&whole, outcome);
            }
            bytes = &bytes[end + 1..];
        }
        self.partial.extend_from_slice(bytes);
    }

    fn line(&mut self, line: &[u8], outcome: &mut Outcome) {
        const BEFORE: &[u8] = b"\"documentKey\":{\"_id\":";
        if line.starts_with(b"event: reset") {
            outcome.resets += 1;
        }
        if !line.starts_with(b"data: {\"operationType\"") {
            return;
        }
        let Some(at) = memmem::find(line, BEFORE) else {
            outcome.wrong += 1;
            return;
        };
        let digits = line[at + BEFORE.len()..].iter().take_while(|byte| byte.is_ascii_digit());
        let number = digits.fold(0, |number, digit| number * 10 + i64::from(digit - b'0'));
        if self.owed.get(self.got) == Some(&number) {
            self.got += 1;
        } else {
            outcome.wrong += 1;
        }
    }
}
