//! HTTP/2 without a library: what no library would send.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::PATIENCE;

/// A connection without a library.
pub struct Frames {
    pub socket: TcpStream,
}

pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const GOAWAY: u8 = 7;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short one").to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// A header block, nothing of it compressed.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("a short one"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

pub const PSEUDO: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":authority", "app.test"), (":path", "/")];

impl Frames {
    pub async fn open(address: SocketAddr) -> Frames {
        let mut socket = TcpStream::connect(address).await.expect("a connection");
        let settings = frame(4, 0, 0, &[]);
        let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &settings].concat();
        socket.write_all(&preface).await.expect("it is taken");
        Frames { socket }
    }

    pub async fn send(&mut self, frames: &[u8]) {
        self.socket.write_all(frames).await.expect("it is taken");
    }

    /// The next frame's kind, stream and payload; `None` at the end.
    pub async fn next(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let reading = async {
            let mut head = [0; 9];
            self.socket.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).expect("a short one")];
            self.socket.read_exact(&mut payload).await.ok()?;
            Some((head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("a frame in time")
    }

    /// What becomes of a stream: the kind of frame that answers, or ends it.
    pub async fn fate(&mut self, of: u32) -> u8 {
        loop {
            let (kind, stream, _) = self.next().await.expect("an answer");
            if (stream == of && matches!(kind, HEADERS | RST_STREAM)) || kind == GOAWAY {
                return kind;
            }
        }
    }
}
