//! An `EventSource` as the standard describes it, reading strictly.

use std::net::SocketAddr;
use std::time::Duration;

use super::PATIENCE;
use super::http::Connection;

/// One block of a stream, as it came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Block {
    pub id: Option<String>,
    pub event: Option<String>,
    pub data: Option<String>,
    pub retry: Option<u64>,
    pub is_comment: bool,
}

impl Block {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(self.data.as_deref().expect("data")).expect("JSON")
    }

    pub fn name(&self) -> &str {
        self.event.as_deref().unwrap_or_default()
    }

    fn parse(text: &str) -> Block {
        let mut block = Block::default();
        for line in text.lines() {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value).to_string();
            match name {
                "id" => block.id = Some(value),
                "event" => block.event = Some(value),
                "data" => {
                    assert!(block.data.is_none(), "data on several lines");
                    block.data = Some(value);
                }
                "retry" => block.retry = Some(value.parse().expect("milliseconds")),
                "" => block.is_comment = true,
                other => panic!("an unknown field {other:?}"),
            }
        }
        block
    }
}

/// An open stream.
pub struct Stream {
    connection: Connection,
    text: String,
    /// What a browser would send when it comes back.
    pub last_event_id: Option<String>,
}

impl Stream {
    /// Opens a stream that is let in.
    pub async fn open(address: SocketAddr, target: &str) -> Stream {
        Stream::open_with(address, target, "").await
    }

    pub async fn resume(address: SocketAddr, target: &str, id: &str) -> Stream {
        Stream::open_with(address, target, &format!("Last-Event-ID: {id}\r\n")).await
    }

    pub async fn open_with(address: SocketAddr, target: &str, fields: &str) -> Stream {
        let mut connection = Connection::open(address).await;
        let accept = "Accept: text/event-stream\r\nCache-Control: no-cache\r\n";
        connection
            .send(format!("GET {target} HTTP/1.1\r\nHost: {address}\r\n{accept}{fields}\r\n"))
            .await;
        let head = connection.head().await.expect("a head");
        assert_eq!(head.status, 200, "{target}: {:?}", connection.rest().await.escape_ascii());
        assert_eq!(head.field("content-type"), Some("text/event-stream"));
        assert_eq!(head.field("cache-control"), Some("no-store"));
        assert_eq!(head.field("x-accel-buffering"), Some("no"));
        Stream { connection, text: String::new(), last_event_id: None }
    }

    /// The next block; `None` at the clean end of the stream.
    pub async fn block(&mut self) -> Option<Block> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let block = Block::parse(&self.text[..end]);
                self.text.drain(..end + 2);
                if let Some(id) = &block.id {
                    self.last_event_id = Some(id.clone());
                }
                return Some(block);
            }
            let chunk = self.connection.chunk().await?;
            self.text.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
        }
    }

    /// The next block that fires an event in a browser.
    pub async fn event(&mut self) -> Block {
        let found = async {
            loop {
                let block = self.block().await.expect("the stream goes on");
                if block.data.is_some() {
                    return block;
                }
            }
        };
        tokio::time::timeout(PATIENCE, found).await.expect("an event in time")
    }

    pub async fn events(&mut self, count: usize) -> Vec<Block> {
        let mut events = Vec::with_capacity(count);
        for _ in 0..count {
            events.push(self.event().await);
        }
        events
    }

    /// Reads until the client holds an id, as it does soon after it came.
    pub async fn settled(&mut self) -> String {
        while self.last_event_id.is_none() {
            self.block().await.expect("the stream goes on");
        }
        self.last_event_id.clone().expect("an id")
    }

    /// Whether no event comes for a while. For what must not happen, time is the only witness.
    pub async fn is_quiet_for(&mut self, time: Duration) -> bool {
        let noise = async {
            loop {
                if self.block().await.is_none_or(|block| block.data.is_some()) {
                    return;
                }
            }
        };
        tokio::time::timeout(time, noise).await.is_err()
    }
}
