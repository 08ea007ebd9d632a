//! A client that sends what it is told to and keeps what it gets as it came.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::app::latin1;
use crate::support::PATIENCE;

/// An answer, its names in the case in which they came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Informational heads that came before, whole.
    pub before: Vec<String>,
    pub line: String,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<String>,
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.line.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.fields.iter();
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        latin1(&self.body)
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }
}

pub struct Raw {
    pub socket: TcpStream,
    pub buffer: Vec<u8>,
}

impl Raw {
    pub async fn open(address: SocketAddr) -> Raw {
        let socket = TcpStream::connect(address).await.expect("a connection");
        socket.set_nodelay(true).expect("TCP_NODELAY");
        Raw { socket, buffer: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Raw {
        // The other side may close early; what matters is what it answered.
        let _ = self.socket.write_all(bytes.as_ref()).await;
        self
    }

    pub async fn fill(&mut self) -> bool {
        self.buffer.reserve(64 * 1024);
        let read = tokio::time::timeout(PATIENCE, self.socket.read_buf(&mut self.buffer));
        let read = read.await;
        match read {
            Ok(read) => matches!(read, Ok(1..)),
            Err(_) => panic!("nothing comes after {:?}", latin1(&self.buffer)),
        }
    }

    pub async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = latin1(&self.buffer[..at]);
                self.buffer.drain(..at + 2);
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

    /// Everything until the end of the connection.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.fill().await {}
        std::mem::take(&mut self.buffer)
    }

    /// Whether the other side says nothing for so long. Only for what a time limit would do: whether
    /// something else happens is shown by what is waited for after it.
    pub async fn is_quiet_for(&mut self, time: Duration) -> bool {
        self.buffer.is_empty()
            && tokio::time::timeout(time, self.socket.read_buf(&mut self.buffer)).await.is_err()
    }

    async fn lines(&mut self) -> Option<Vec<String>> {
        let mut lines = Vec::new();
        loop {
            match self.line().await? {
                line if line.is_empty() => return Some(lines),
                line => lines.push(line),
            }
        }
    }

    /// The next head's lines.
    pub async fn head(&mut self) -> Option<Vec<String>> {
        self.lines().await
    }

    /// The next chunk; `None` after the last.
    pub async fn chunk(&mut self) -> Option<Vec<u8>> {
        let line = self.line().await.expect("a chunk");
        let length = usize::from_str_radix(&line, 16).expect("a length");
        if length == 0 {
            return None;
        }
        let chunk = self.exactly(length).await.expect("a chunk");
        assert_eq!(self.line().await.as_deref(), Some(""));
        Some(chunk)
    }

    /// The answer to a request of this method; `None` when the connection ends before.
    pub async fn answer(&mut self, method: &str) -> Option<Answer> {
        let mut before = Vec::new();
        let lines = loop {
            let lines = self.head().await?;
            let status = lines[0].split(' ').nth(1).expect("a status");
            if !status.starts_with('1') || status == "101" {
                break lines;
            }
            before.push(lines.join("\r\n"));
        };
        let mut lines = lines.into_iter();
        let line = lines.next().expect("a status line");
        let fields = lines
            .map(|line| {
                let (name, value) = line.split_once(':').expect("a field");
                (name.to_string(), value.trim().to_string())
            })
            .collect();
        let mut answer = Answer { before, line, fields, body: Vec::new(), trailers: Vec::new() };
        if method == "HEAD" || matches!(answer.status(), 101 | 204 | 304) {
            return Some(answer);
        }
        if answer.field("transfer-encoding").is_some() {
            while let Some(chunk) = self.chunk().await {
                answer.body.extend(chunk);
            }
            answer.trailers = self.lines().await?;
        } else if let Some(length) = answer.field("content-length") {
            let length = length.parse().expect("a length");
            answer.body = self.exactly(length).await?;
        } else {
            answer.body = self.rest().await;
        }
        Some(answer)
    }
}

/// One request on a connection of its own.
pub async fn ask(address: SocketAddr, method: &str, request: impl AsRef<[u8]>) -> Answer {
    let mut raw = Raw::open(address).await;
    raw.send(request.as_ref()).await;
    let answer = raw.answer(method).await;
    answer.unwrap_or_else(|| panic!("no answer to {}", latin1(request.as_ref())))
}
