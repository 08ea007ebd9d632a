//! An app on bare sockets behind the sidecar: remembers what reached it byte for byte, and answers
//! with exactly the bytes that a test wants.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// One request as it arrived.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    pub line: String,
    /// Names as written, in order.
    pub fields: Vec<(String, String)>,
    /// Without its chunks' framing.
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Seen {
    pub fn fields_named(&self, name: &str) -> Vec<&str> {
        self.fields
            .iter()
            .filter(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }
}

/// What to answer at `/script/NAME`: parts, each sent when the test lets it go.
type Scripts = Arc<Mutex<HashMap<String, (Vec<u8>, bool)>>>;

/// An app that remembers each request and answers with the bytes it is given.
pub struct App {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    scripts: Scripts,
    connections: Arc<std::sync::atomic::AtomicUsize>,
}

/// The bytes at this place of an endless body.
pub fn pattern(at: u64) -> u8 {
    (at % 251) as u8
}

/// Whether these are the bytes from this place on: a sample, whose step shares no factor with the
/// pattern's period, so that every shift shows.
pub fn is_pattern(bytes: &[u8], at: u64) -> bool {
    (0..bytes.len()).step_by(97).all(|index| bytes[index] == pattern(at + index as u64))
}

impl App {
    pub async fn start() -> App {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let app = App {
            address: listener.local_addr().expect("an address"),
            seen: Arc::default(),
            scripts: Arc::default(),
            connections: Arc::default(),
        };
        let (seen, scripts, connections) =
            (app.seen.clone(), app.scripts.clone(), app.connections.clone());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                connections.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let connection = Connection {
                    socket,
                    buffer: Vec::new(),
                    seen: seen.clone(),
                    scripts: scripts.clone(),
                };
                tokio::spawn(connection.serve());
            }
        });
        app
    }

    /// Answers `/script/NAME` with these bytes, and closes the connection after them if asked to.
    pub fn script(&self, name: &str, answer: impl Into<Vec<u8>>, closes: bool) {
        self.scripts.lock().insert(format!("/script/{name}"), (answer.into(), closes));
    }

    /// What came since the last call.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock())
    }

    pub fn connections(&self) -> usize {
        self.connections.load(std::sync::atomic::Ordering::Relaxed)
    }
}

struct Connection {
    socket: TcpStream,
    buffer: Vec<u8>,
    seen: Arc<Mutex<Vec<Seen>>>,
    scripts: Scripts,
}

impl Connection {
    async fn serve(mut self) {
        while self.request().await.is_some() {}
    }

    async fn fill(&mut self) -> Option<()> {
        self.buffer.reserve(64 * 1024);
        (self.socket.read_buf(&mut self.buffer).await.ok()? > 0).then_some(())
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).take(end).collect();
                // Latin-1, so that every byte has a character.
                return Some(line.into_iter().map(char::from).collect());
            }
            self.fill().await?;
        }
    }

    async fn fields(&mut self) -> Option<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Some(fields);
            }
            let (name, value) = line.split_once(':')?;
            fields.push((name.to_string(), value.trim().to_string()));
        }
    }

    async fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < length {
            self.fill().await?;
        }
        Some(self.buffer.drain(..length).collect())
    }

    async fn request(&mut self) -> Option<()> {
        let line = self.line().await?;
        let mut seen = Seen { fields: self.fields().await?, line, ..Seen::default() };
        let target = seen.line.split(' ').nth(1)?.to_string();
        let path = target.split('?').next()?.to_string();
        if seen.fields_named("expect").contains(&"100-continue") {
            self.socket.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.ok()?;
        }
        let length = seen.fields_named("content-length").first().and_then(|l| l.parse().ok());
        if path == "/sink" {
            return self.sink(seen, length?).await;
        }
        if !seen.fields_named("transfer-encoding").is_empty() {
            loop {
                let length = usize::from_str_radix(self.line().await?.trim(), 16).ok()?;
                if length == 0 {
                    break;
                }
                seen.body.extend(self.exactly(length).await?);
                self.line().await?;
            }
            seen.trailers = self.fields().await?;
        } else if let Some(length) = length {
            seen.body = self.exactly(usize::try_from(length).ok()?).await?;
        }
        let body = seen.body.clone();
        let is_head = seen.line.starts_with("HEAD ");
        self.seen.lock().push(seen);
        if let Some(length) = path.strip_prefix("/flood/") {
            return self.flood(length.parse().ok()?).await;
        }
        let script = self.scripts.lock().get(&path).cloned();
        if let Some((answer, closes)) = script {
            self.socket.write_all(&answer).await.ok()?;
            return (!closes).then_some(());
        }
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        self.socket.write_all(head.as_bytes()).await.ok()?;
        if !is_head {
            self.socket.write_all(&body).await.ok()?;
        }
        Some(())
    }

    /// Reads a large body, checks its pattern, and says how long it was.
    async fn sink(&mut self, seen: Seen, length: u64) -> Option<()> {
        let mut at = 0u64;
        while at < length {
            if self.buffer.is_empty() {
                self.fill().await?;
            }
            if !is_pattern(&self.buffer, at) {
                return None;
            }
            at += self.buffer.len() as u64;
            self.buffer.clear();
        }
        self.seen.lock().push(seen);
        let body = at.to_string();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        self.socket.write_all(head.as_bytes()).await.ok()
    }

    async fn flood(&mut self, length: u64) -> Option<()> {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        self.socket.write_all(head.as_bytes()).await.ok()?;
        send_pattern(&mut self.socket, length).await
    }
}

/// Sends this many bytes of the pattern.
pub async fn send_pattern(socket: &mut TcpStream, length: u64) -> Option<()> {
    // A whole number of the pattern's periods, so that each block continues the last.
    let block: Vec<u8> = (0..251 * 1024).map(pattern).collect();
    let mut at = 0u64;
    while at < length {
        let size = usize::try_from(length - at).unwrap_or(usize::MAX).min(block.len());
        socket.write_all(&block[..size]).await.ok()?;
        at += size as u64;
    }
    Some(())
}
