//! An `EventSource` as the standard describes it, reading strictly.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mongodb::bson::Timestamp;
use parking_lot::Mutex;
use sidestream::event::Position;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

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

/// Lines that say something by themselves, without a blank line behind them.
const LONE: [&str; 2] = [":", "retry:"];

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
            assert!(block.id.is_none(), "a line behind the id: {text:?}");
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

/// Why a stream did not open.
#[derive(Debug)]
pub enum Refused {
    /// No connection, or cut before an answer: a browser tries again.
    Connection,
    /// A browser gives up.
    Status(u16, #[allow(dead_code, reason = "shown when a test fails")] String),
}

/// An open stream.
pub struct Stream {
    connection: Connection,
    /// Else it is an answer of a known length, which ends the stream and not its connection.
    is_chunked: bool,
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
        match Stream::try_open(address, target, fields).await {
            Ok(stream) => stream,
            Err(refused) => panic!("{target}: {refused:?}"),
        }
    }

    async fn try_open(address: SocketAddr, target: &str, fields: &str) -> Result<Stream, Refused> {
        let connection = Connection::try_open(address).await;
        let mut connection = connection.map_err(|_| Refused::Connection)?;
        let accept = "Accept: text/event-stream\r\nCache-Control: no-cache\r\n";
        connection
            .send(format!("GET {target} HTTP/1.1\r\nHost: {address}\r\n{accept}{fields}\r\n"))
            .await;
        let head = connection.head().await.ok_or(Refused::Connection)?;
        if head.status != 200 {
            let body = connection.rest().await.escape_ascii().to_string();
            return Err(Refused::Status(head.status, body));
        }
        assert_eq!(head.field("content-type"), Some("text/event-stream"));
        assert_eq!(head.field("cache-control"), Some("no-store, no-transform"));
        assert_eq!(head.field("x-accel-buffering"), Some("no"));
        let length = head.field("content-length").map(|length| length.parse().expect("a length"));
        let mut text = String::new();
        if let Some(length) = length {
            let body = connection.exactly(length).await.ok_or(Refused::Connection)?;
            text = String::from_utf8(body).expect("UTF-8");
        }
        Ok(Stream { connection, is_chunked: length.is_none(), text, last_event_id: None })
    }

    /// What it comes by.
    pub fn socket(&self) -> &TcpStream {
        &self.connection.socket
    }

    /// The next block, or the next line that stands for itself; `None` at the clean end of the
    /// stream.
    pub async fn block(&mut self) -> Option<Block> {
        loop {
            let is_lone = LONE.iter().any(|name| self.text.starts_with(name));
            let end = if is_lone { "\n" } else { "\n\n" };
            if let Some(at) = self.text.find(end) {
                assert!(at > 0, "a blank line that ends nothing");
                let block = Block::parse(&self.text[..at]);
                self.text.drain(..at + end.len());
                if let Some(id) = &block.id {
                    // An empty one would make a browser forget the one that it has.
                    assert!(!id.is_empty(), "an empty id");
                    self.last_event_id = Some(id.clone());
                }
                return Some(block);
            }
            if !self.is_chunked {
                return None;
            }
            let chunk = self.connection.chunk().await?;
            self.text.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
        }
    }

    /// The next block that fires an event in a browser, but for `ready`.
    pub async fn event(&mut self) -> Block {
        let found = async {
            loop {
                let block = self.block().await.expect("the stream goes on");
                if block.data.is_some() && block.name() != "ready" {
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

    /// Reads up to `ready`, and gives what came before it that fires an event.
    pub async fn until_ready(&mut self) -> Vec<Block> {
        let mut before = Vec::new();
        loop {
            let block = self.block().await.expect("the stream goes on");
            if block.name() == "ready" {
                return before;
            }
            if block.data.is_some() {
                before.push(block);
            }
        }
    }

    /// Reads on until the stream says that everything up to this time was read (see
    /// [`super::mongo::now`]); whether no event came before that.
    pub async fn is_quiet_up_to(&mut self, time: Timestamp) -> bool {
        let reached = async {
            loop {
                let Some(block) = self.block().await else { return false };
                if block.data.is_some() && block.name() != "ready" {
                    return false;
                }
                let position = block.id.map(|id| Position::parse(&id).expect("a position"));
                if position.is_some_and(|position| position.time() >= time) {
                    return true;
                }
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("a position in time")
    }
}

/// What a page with an `EventSource` does: comes back after every cut, when `retry:` says so, and
/// gives up for good on any answer but 200.
pub struct EventSource {
    pub seen: Arc<Mutex<Vec<Block>>>,
    task: JoinHandle<u16>,
}

impl EventSource {
    /// Opens the stream wherever `address` points at the time.
    pub fn open(address: watch::Receiver<SocketAddr>, target: &str) -> EventSource {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(follow(address, target.to_string(), seen.clone()));
        EventSource { seen, task }
    }

    /// Whether it would still come back.
    pub fn is_alive(&self) -> bool {
        !self.task.is_finished()
    }

    pub fn has_seen(&self, name: &str, count: usize) -> bool {
        self.seen.lock().iter().filter(|block| block.name() == name).count() >= count
    }
}

impl Drop for EventSource {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns the status that ended it.
async fn follow(
    address: watch::Receiver<SocketAddr>,
    target: String,
    seen: Arc<Mutex<Vec<Block>>>,
) -> u16 {
    let mut retry = Duration::from_secs(3);
    let mut id: Option<String> = None;
    loop {
        let fields = id.as_ref().map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        let to = *address.borrow();
        match Stream::try_open(to, &target, &fields).await {
            Ok(mut stream) => {
                while let Some(block) = stream.block().await {
                    retry = block.retry.map_or(retry, Duration::from_millis);
                    id = block.id.clone().or(id);
                    if block.data.is_some() {
                        seen.lock().push(block);
                    }
                }
            }
            Err(Refused::Connection) => {}
            Err(Refused::Status(status, _)) => return status,
        }
        tokio::time::sleep(retry).await;
    }
}
