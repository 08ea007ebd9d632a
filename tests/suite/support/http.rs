//! HTTP/1.1 over a bare socket, so that nothing between the test and the bytes is polite.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::PATIENCE;

/// One connection.
pub struct Connection {
    pub socket: TcpStream,
    buffer: Vec<u8>,
    /// What broke it; where nothing did, it came to its end.
    broke: Option<std::io::Error>,
}

/// An answer's head.
#[derive(Debug, Clone)]
pub struct Head {
    pub status: u16,
    /// Names in lower case, in order.
    pub fields: Vec<(String, String)>,
}

impl Head {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub head: Head,
    pub body: Vec<u8>,
    /// The fields after a chunked body.
    pub trailers: Vec<(String, String)>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Connection {
        Connection::try_open(address).await.expect("a connection")
    }

    pub async fn try_open(address: SocketAddr) -> std::io::Result<Connection> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        Ok(Connection { socket, buffer: Vec::new(), broke: None })
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // The other side may close early; what matters is what it answered.
        let _ = self.socket.write_all(bytes.as_ref()).await;
    }

    /// Reads more; `false` at the end of the connection.
    async fn fill(&mut self) -> bool {
        self.buffer.reserve(16 * 1024);
        let read = tokio::time::timeout(PATIENCE, self.socket.read_buf(&mut self.buffer));
        match read.await.expect("bytes in time") {
            Ok(count) => count > 0,
            Err(error) => {
                self.broke = Some(error);
                false
            }
        }
    }

    /// A line without its CR LF; `None` at the end of the connection.
    pub async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + 2);
                return Some(line);
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    pub async fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < length {
            if !self.fill().await {
                return None;
            }
        }
        Some(self.buffer.drain(..length).collect())
    }

    pub async fn rest(&mut self) -> Vec<u8> {
        while self.fill().await {}
        std::mem::take(&mut self.buffer)
    }

    /// Whether the other side has closed, and sent nothing more.
    pub async fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && !self.fill().await
    }

    async fn fields(&mut self) -> Option<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Some(fields);
            }
            let (name, value) = line.split_once(':').expect("a field");
            fields.push((name.to_ascii_lowercase(), value.trim().to_string()));
        }
    }

    /// The next head, informational ones included; `None` at the end of the connection.
    pub async fn head(&mut self) -> Option<Head> {
        let line = self.line().await?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status line: {line}"));
        Some(Head { status, fields: self.fields().await? })
    }

    /// The next chunk of a chunked body; `None` after the last, or at the end of the connection.
    pub async fn chunk(&mut self) -> Option<Vec<u8>> {
        let line = self.line().await?;
        let length = usize::from_str_radix(line.split(';').next()?.trim(), 16).expect("a length");
        if length == 0 {
            return None;
        }
        let chunk = self.exactly(length).await?;
        assert_eq!(self.line().await.as_deref(), Some(""));
        Some(chunk)
    }

    /// A whole answer to a request of this method.
    pub async fn answer(&mut self, method: &str) -> Option<Answer> {
        let mut head = self.head().await?;
        while head.status < 200 && head.status != 101 {
            head = self.head().await?;
        }
        let has_body = method != "HEAD" && !matches!(head.status, 101 | 204 | 304);
        let mut trailers = Vec::new();
        let is_chunked = head.field("transfer-encoding").is_some_and(|c| c == "chunked");
        let body = if !has_body {
            Vec::new()
        } else if is_chunked {
            let mut body = Vec::new();
            while let Some(chunk) = self.chunk().await {
                body.extend(chunk);
            }
            trailers = self.fields().await?;
            body
        } else if let Some(length) = head.field("content-length") {
            self.exactly(length.parse().expect("a length")).await?
        } else {
            self.rest().await
        };
        Some(Answer { head, body, trailers })
    }
}

/// One request on a connection of its own.
pub async fn request(address: SocketAddr, method: &str, target: &str, fields: &str) -> Answer {
    let mut connection = Connection::open(address).await;
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{fields}\r\n"
    );
    connection.send(head).await;
    match connection.answer(method).await {
        Some(answer) => answer,
        None => panic!(
            "no whole answer to {method} {target} of {address}: {:?}, after {:?}",
            connection.broke,
            String::from_utf8_lossy(&connection.buffer)
        ),
    }
}

pub async fn get(address: SocketAddr, target: &str) -> Answer {
    request(address, "GET", target, "").await
}
