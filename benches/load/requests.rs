//! Plain HTTP under load: keep-alive connections, each asking again as soon as it is answered.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use memchr::memmem;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use super::servers::content_length;

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub struct Answered {
    pub per_second: f64,
    pub p50_micros: f64,
    pub p99_micros: f64,
    pub count: u64,
}

struct Asking {
    socket: TcpStream,
    since: Instant,
    /// Bytes of the answer so far, and of the whole where its head is in.
    have: usize,
    whole: Option<usize>,
    head: Vec<u8>,
}

/// Asks for `path` on so many connections, for so long.
pub fn ask(
    address: SocketAddr,
    path: &str,
    connections: usize,
    time: Duration,
) -> Result<Answered, String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").into_bytes();
    let run = || {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut asking = Vec::new();
        for number in 0..connections {
            let mut socket = TcpStream::connect(address)?;
            socket.set_nodelay(true)?;
            let data = epoll::EventData::new_u64(number as u64);
            epoll::add(&poll, &socket, data, epoll::EventFlags::IN)?;
            socket.write_all(&request)?;
            let since = Instant::now();
            asking.push(Asking { socket, since, have: 0, whole: None, head: Vec::new() });
        }
        let mut times: Vec<u32> = Vec::new();
        let mut ready: Vec<epoll::Event> = Vec::with_capacity(connections);
        let mut buffer = [0; 64 * 1024];
        let began = Instant::now();
        while began.elapsed() < time {
            ready.clear();
            let patience = Timespec::try_from(Duration::from_millis(100))
                .map_err(|_| std::io::Error::from(ErrorKind::InvalidInput))?;
            epoll::wait(&poll, spare_capacity(&mut ready), Some(&patience))?;
            for event in &ready {
                let one = &mut asking[event.data.u64() as usize];
                // It is ready, so that this does not wait.
                let length = one.socket.read(&mut buffer)?;
                if length == 0 {
                    return Err(std::io::Error::from(ErrorKind::UnexpectedEof));
                }
                if one.take(&buffer[..length])? {
                    let micros = one.since.elapsed().as_nanos() / 100;
                    times.push(u32::try_from(micros).unwrap_or(u32::MAX));
                    one.since = Instant::now();
                    one.socket.write_all(&request)?;
                }
            }
        }
        std::io::Result::Ok((times, began.elapsed()))
    };
    let (mut times, took) = run().map_err(|error| error.to_string())?;
    if times.is_empty() {
        return Err("nothing was answered".to_owned());
    }
    times.sort_unstable();
    let at = |share: f64| f64::from(times[(times.len() as f64 * share) as usize]) / 10.0;
    Ok(Answered {
        per_second: times.len() as f64 / took.as_secs_f64(),
        p50_micros: at(0.5),
        p99_micros: at(0.99),
        count: times.len() as u64,
    })
}

impl Asking {
    /// Says whether the answer is whole.
    fn take(&mut self, bytes: &[u8]) -> std::io::Result<bool> {
        self.have += bytes.len();
        if self.whole.is_none() {
            self.head.extend_from_slice(bytes);
            let Some(end) = memmem::find(&self.head, b"\r\n\r\n") else { return Ok(false) };
            let head = &self.head[..end];
            let is_good = head.starts_with(b"HTTP/1.1 200");
            let length = content_length(head).filter(|_| is_good).ok_or_else(|| {
                std::io::Error::other(format!("bad answer: {}", String::from_utf8_lossy(head)))
            })?;
            self.whole = Some(end + 4 + length);
            self.head.clear();
        }
        let is_whole = self.whole.is_some_and(|whole| self.have >= whole);
        if is_whole {
            self.have = 0;
            self.whole = None;
        }
        Ok(is_whole)
    }
}
