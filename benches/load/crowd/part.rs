//! The clients of a crowd that one thread reads: plain sockets and epoll, one buffer for all.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use socket2::{Domain, Socket, Type};

use super::client::Client;
use super::{Progress, Seen, TURN, Wants};
use crate::websocket::Speaks;

/// That something came is told once; that the server has said its last is told beside it.
const WHEN: epoll::EventFlags =
    epoll::EventFlags::IN.union(epoll::EventFlags::ET).union(epoll::EventFlags::RDHUP);
/// In place of a client's number.
const BELL: u64 = u64::MAX;

/// Ends the waits of all parts, from when it rings until it is quiet again.
pub struct Bell(OwnedFd);

impl Bell {
    pub fn new() -> Result<Bell, String> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        eventfd(0, flags).map(Bell).map_err(|error| error.to_string())
    }

    pub fn ring(&self) {
        // It cannot be full: it is made quiet after each ring.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    pub fn quieten(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

/// Not in one cache line with another: each is a thread's.
#[repr(align(128))]
pub struct Part {
    poll: OwnedFd,
    clients: Vec<Client>,
    /// What is read into: kept, since clearing it for a turn that finds two clients would cost more than
    /// reading from those.
    buffer: Box<[u8]>,
    pub seen: Seen,
}

impl Part {
    pub fn new(bell: &Bell) -> Result<Part, String> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| e.to_string())?;
        epoll::add(&poll, &bell.0, epoll::EventData::new_u64(BELL), epoll::EventFlags::IN)
            .map_err(|e| e.to_string())?;
        let buffer = vec![0; 64 * 1024].into_boxed_slice();
        Ok(Part { poll, clients: Vec::new(), buffer, seen: Seen::default() })
    }

    /// Asks for a stream, from an address to another.
    pub fn add(
        &mut self,
        (source, address): (IpAddr, SocketAddr),
        speaks: Speaks,
        (path, wants): (String, Wants),
    ) -> std::io::Result<()> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((source, 0)).into())?;
        socket.connect(&address.into())?;
        let mut socket = TcpStream::from(socket);
        socket.write_all(speaks.request(&path).as_bytes())?;
        socket.set_nonblocking(true)?;
        let data = epoll::EventData::new_u64(self.clients.len() as u64);
        epoll::add(&self.poll, &socket, data, WHEN)?;
        self.clients.push(Client::new(socket, speaks, path, wants));
        Ok(())
    }

    /// Reads until that much has come to all, the time is over, or another thread has seen that it is.
    pub fn read(
        &mut self,
        so_far: &Progress,
        until: Instant,
        is_enough: &impl Fn(&Progress) -> bool,
    ) -> Result<(), String> {
        let mut polled = Vec::with_capacity(1024);
        while !so_far.is_over.load(Ordering::Relaxed) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let (opened, events, ready) = (self.seen.opened, self.seen.events, self.seen.ready);
            self.turn(left.min(TURN), &mut polled)?;
            so_far.opened.fetch_add(self.seen.opened - opened, Ordering::Relaxed);
            so_far.events.fetch_add(self.seen.events - events, Ordering::Relaxed);
            so_far.ready.fetch_add(self.seen.ready - ready, Ordering::Relaxed);
            if is_enough(so_far) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// How many clients have not had exactly what they should, of `events` from zero on.
    pub fn unserved(&self, events: u64) -> usize {
        self.clients.iter().filter(|client| !client.has_all(events)).count()
    }

    /// One wait for whatever is ready.
    fn turn(&mut self, patience: Duration, polled: &mut Vec<epoll::Event>) -> Result<(), String> {
        polled.clear();
        let patience = Timespec::try_from(patience).map_err(|e| e.to_string())?;
        match epoll::wait(&self.poll, spare_capacity(polled), Some(&patience)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.to_string()),
        }
        for event in polled.iter() {
            let number = event.data.u64();
            if number == BELL {
                continue;
            }
            let client = &mut self.clients[number as usize];
            let flags = event.flags;
            let is_last = flags.contains(epoll::EventFlags::RDHUP);
            // Each time it is told once, so it is read to its end.
            while client.read(&mut self.buffer, &mut self.seen)? || is_last {
                if client.is_closed() {
                    break;
                }
            }
        }
        Ok(())
    }
}
