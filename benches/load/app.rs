//! The app behind the proxies, as quick as an app can be: one thread, plain sockets and epoll.

use std::io::{Read, Write};
use std::net::TcpStream;

use memchr::memmem;
use rustix::buffer::spare_capacity;
use rustix::event::epoll;

use super::servers::{content_length, listen};

/// What is written of a large body at once: small enough for the processor's cache.
pub const PIECE: usize = 256 * 1024;

const LISTENER: u64 = u64::MAX;

struct Answers {
    small: Vec<u8>,
    large: Vec<u8>,
    piece: Vec<u8>,
}

struct Caller {
    socket: TcpStream,
    /// A head that is not whole yet.
    held: Vec<u8>,
    /// What is still to come of an upload.
    left: usize,
}

/// `/large` is 16 KiB, `/bulk/N` N pieces, `/hold/CHANNEL` asks Pushpin to hold the stream, and all
/// else is 130 bytes. A `POST` is answered when its body is there.
pub fn serve(port: u16) {
    let listener = listen(port);
    let answer = |size: usize| (answer_head(size) + &"x".repeat(size)).into_bytes();
    let answers =
        Answers { small: answer(130), large: answer(16 * 1024), piece: vec![b'x'; PIECE] };
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll");
    let watch = |socket: &dyn std::os::fd::AsFd, number: u64| {
        let data = epoll::EventData::new_u64(number);
        epoll::add(&poll, socket.as_fd(), data, epoll::EventFlags::IN).expect("epoll takes it");
    };
    watch(&listener, LISTENER);
    let mut callers: Vec<Option<Caller>> = Vec::new();
    let mut ready: Vec<epoll::Event> = Vec::with_capacity(256);
    let mut buffer = vec![0; PIECE];
    loop {
        ready.clear();
        if epoll::wait(&poll, spare_capacity(&mut ready), None).is_err() {
            continue;
        }
        for event in &ready {
            if event.data.u64() == LISTENER {
                if let Ok((socket, _)) = listener.accept() {
                    let _ = socket.set_nodelay(true);
                    watch(&socket, callers.len() as u64);
                    callers.push(Some(Caller { socket, held: Vec::new(), left: 0 }));
                }
                continue;
            }
            let place = &mut callers[event.data.u64() as usize];
            let Some(caller) = place else { continue };
            let length = caller.socket.read(&mut buffer).unwrap_or(0);
            if length == 0 || caller.take(&buffer[..length], &answers).is_err() {
                *place = None;
            }
        }
    }
}

fn answer_head(size: usize) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {size}\r\n\r\n")
}

impl Caller {
    fn take(&mut self, mut bytes: &[u8], answers: &Answers) -> std::io::Result<()> {
        if self.left > 0 {
            let of_it = self.left.min(bytes.len());
            bytes = &bytes[of_it..];
            self.left -= of_it;
            if self.left > 0 {
                return Ok(());
            }
            self.socket.write_all(&answers.small)?;
        }
        self.held.extend_from_slice(bytes);
        while let Some(end) = memmem::find(&self.held, b"\r\n\r\n") {
            let head = self.held[..end].to_vec();
            self.held.drain(..end + 4);
            let upload = if head.starts_with(b"POST") { content_length(&head) } else { None };
            let upload = upload.unwrap_or(0);
            let have = upload.min(self.held.len());
            self.held.drain(..have);
            self.left = upload - have;
            if self.left > 0 {
                return Ok(());
            }
            self.answer(&head, answers)?;
        }
        Ok(())
    }

    fn answer(&mut self, head: &[u8], answers: &Answers) -> std::io::Result<()> {
        let path = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        if let Some(channel) = path.strip_prefix(b"/hold/") {
            let channel = String::from_utf8_lossy(channel);
            return write!(
                self.socket,
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nGrip-Hold: stream\r\n\
                 Grip-Channel: {channel}\r\nContent-Length: 3\r\n\r\n:\n\n"
            );
        }
        let pieces = path.strip_prefix(b"/bulk/").filter(|_| head.starts_with(b"GET"));
        if let Some(pieces) = pieces {
            let pieces = String::from_utf8_lossy(pieces).parse().unwrap_or(0);
            self.socket.write_all(answer_head(pieces * PIECE).as_bytes())?;
            return (0..pieces).try_for_each(|_| self.socket.write_all(&answers.piece));
        }
        match path {
            b"/large" => self.socket.write_all(&answers.large),
            _ => self.socket.write_all(&answers.small),
        }
    }
}
