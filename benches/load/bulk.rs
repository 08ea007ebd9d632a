//! Large bodies, down and up, on one connection.

use std::io::{Error, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use memchr::memmem;

use super::app::PIECE;
use super::servers::content_length;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Down,
    Up,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub struct Moved {
    pub bytes_per_second: f64,
    pub bytes: f64,
}

/// Moves whole bodies of so many pieces for about so long, at least one.
pub fn transfer(
    address: SocketAddr,
    way: Way,
    pieces: usize,
    time: Duration,
) -> Result<Moved, String> {
    let size = pieces * PIECE;
    let run = || {
        let mut socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        // Who waits for what never comes has to say so.
        socket.set_read_timeout(Some(Duration::from_secs(30)))?;
        socket.set_write_timeout(Some(Duration::from_secs(30)))?;
        let mut buffer = vec![b'x'; PIECE];
        let began = Instant::now();
        let mut bytes = 0.0;
        while bytes == 0.0 || began.elapsed() < time {
            match way {
                Way::Down => {
                    write!(socket, "GET /bulk/{pieces} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")?;
                    let length = read_answer(&mut socket, &mut buffer)?;
                    if length != size {
                        return Err(Error::other(format!("{length} of {size} bytes")));
                    }
                }
                Way::Up => {
                    write!(
                        socket,
                        "POST /bulk/take HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\n\
                         Content-Length: {size}\r\n\r\n"
                    )?;
                    for _ in 0..pieces {
                        socket.write_all(&buffer)?;
                    }
                    // As large as before: what is read into it is as good as any.
                    read_answer(&mut socket, &mut buffer)?;
                }
            }
            bytes += size as f64;
        }
        Ok(Moved { bytes_per_second: bytes / began.elapsed().as_secs_f64(), bytes })
    };
    run().map_err(|error: Error| error.to_string())
}

/// Reads a whole answer, which says its length; says how long its body was.
fn read_answer(socket: &mut TcpStream, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut head = Vec::new();
    let end = loop {
        let length = read_some(socket, buffer)?;
        head.extend_from_slice(&buffer[..length]);
        if let Some(end) = memmem::find(&head, b"\r\n\r\n") {
            break end;
        }
    };
    if !head.starts_with(b"HTTP/1.1 200") {
        let said = String::from_utf8_lossy(&head[..end]).into_owned();
        return Err(Error::other(format!("bad answer: {said}")));
    }
    let Some(wanted) = content_length(&head[..end]) else {
        return Err(Error::other("an answer without a length"));
    };
    let mut have = head.len() - end - 4;
    while have < wanted {
        have += read_some(socket, buffer)?;
    }
    Ok(have)
}

fn read_some(socket: &mut TcpStream, buffer: &mut [u8]) -> std::io::Result<usize> {
    match socket.read(buffer)? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        length => Ok(length),
    }
}
