//! Clients as browsers are: they listen, lose the connection, and come back to any sidecar with the
//! last id that they saw.
//!
//! In the mood of an `EventSource` they do exactly what the standard says: they never leave, come
//! back when `retry:` says so, and take any answer but 200 for the last.
//!
//! What they saw goes into a log, in order; nobody judges here. A sabotaged client lies to its own
//! log, or to the sidecar, so that the check can be checked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;

use crate::history::{Event, Key, Record};

/// Small, so that a client that does not read is felt soon.
const RECEIVE_BUFFER: u32 = 8 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// After so much silence an impatient client gives the connection up; heartbeats are far quicker.
const SILENCE: Duration = Duration::from_secs(5);
/// As long as the network takes to notice that the other side is gone.
const LONG_SILENCE: Duration = Duration::from_secs(25);

/// Until a stream says otherwise, as in Chromium.
const RETRY: Duration = Duration::from_secs(3);

/// Why a connection ended, for an answer that is no stream.
const REFUSED: &str = "refused";

/// How a client is made to lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Sabotage {
    /// After a reconnect, an event is left out.
    Loss,
    /// After a reconnect, an event is noted twice.
    Double,
    /// Two events are noted in the wrong order.
    Reorder,
    /// A reconnect brings an id that is further on.
    LaterId,
}

/// What all clients look at.
#[derive(Debug, Clone, Copy)]
pub struct Mood {
    /// Some do not read at all.
    pub is_slow: bool,
    /// Nobody leaves of their own will.
    pub is_calm: bool,
    /// Everybody does exactly as the standard says.
    pub is_event_source: bool,
    pub sabotage: Option<Sabotage>,
}

/// One client's memory.
#[derive(Debug, Default)]
pub struct Log {
    pub records: Vec<(Duration, Record)>,
    pub last_id: Option<String>,
}

pub struct Client {
    pub name: String,
    pub stream: usize,
    pub owner: i64,
    pub log: Arc<Mutex<Log>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a client is made of.
pub struct Setup {
    pub index: usize,
    pub seed: u64,
    pub stream: usize,
    pub owner: i64,
    pub target: String,
    pub sidecars: Vec<SocketAddr>,
    pub mood: watch::Receiver<Mood>,
    pub began: Instant,
    /// The furthest id that anybody has.
    pub newest: Arc<Mutex<Option<String>>>,
}

impl Client {
    pub fn start(setup: Setup) -> Client {
        let log = Arc::new(Mutex::new(Log::default()));
        let name = format!("client {} {}", setup.index, setup.target);
        let (stream, owner) = (setup.stream, setup.owner);
        let rng = fastrand::Rng::with_seed(setup.seed.wrapping_mul(1_000_003) + setup.index as u64);
        let run = Run {
            setup,
            log: log.clone(),
            rng,
            retry: RETRY,
            is_after_reconnect: false,
            held: None,
        };
        Client { name, stream, owner, log, task: tokio::spawn(run.forever()) }
    }
}

/// How long a client keeps a connection, and how long it stays away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Temper {
    /// Never leaves by itself.
    Steady,
    /// Comes and goes.
    Restless,
    /// Away for longer than the sidecar's memory.
    Sleeper,
}

struct Run {
    setup: Setup,
    log: Arc<Mutex<Log>>,
    rng: fastrand::Rng,
    /// When to come back after a cut.
    retry: Duration,
    is_after_reconnect: bool,
    /// Held back by a sabotage.
    held: Option<Record>,
}

impl Run {
    fn temper(&self) -> Temper {
        match self.setup.index % 4 {
            _ if self.mood().is_event_source => Temper::Steady,
            0 => Temper::Steady,
            3 => Temper::Sleeper,
            _ => Temper::Restless,
        }
    }

    fn mood(&self) -> Mood {
        *self.setup.mood.borrow()
    }

    fn note(&self, record: Record) {
        self.log.lock().records.push((self.setup.began.elapsed(), record));
    }

    async fn forever(mut self) {
        loop {
            let sidecar = self.rng.usize(..self.setup.sidecars.len());
            let why = self.listen(sidecar).await;
            let is_refused = why == REFUSED;
            self.note(Record::Closed(why));
            if self.mood().is_event_source {
                if is_refused {
                    return;
                }
                tokio::time::sleep(self.retry).await;
                continue;
            }
            let away = match (self.mood().is_calm, self.temper()) {
                (true, _) => self.rng.u64(20..200),
                (_, Temper::Sleeper) => self.rng.u64(1_000..6_000),
                (_, _) if self.rng.u8(..4) == 0 => self.rng.u64(500..2_500),
                (_, _) => self.rng.u64(20..500),
            };
            let mut mood = self.setup.mood.clone();
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(away)) => {}
                // A sleeper wakes up when a phase ends, not at once with all the others.
                () = async { drop(mood.wait_for(|mood| mood.is_calm).await) } => {
                    tokio::time::sleep(Duration::from_millis(self.rng.u64(20..300))).await;
                }
            }
        }
    }

    /// One connection; says why it ended.
    async fn listen(&mut self, sidecar: usize) -> String {
        let Some(address) = self.setup.sidecars.get(sidecar).copied() else {
            return "no such sidecar".to_string();
        };
        let mut last_id = self.log.lock().last_id.clone();
        if self.mood().sabotage == Some(Sabotage::LaterId) && last_id.is_some() {
            last_id = self.setup.newest.lock().clone().max(last_id);
        }
        let opened = self.open(address, last_id.as_deref());
        let (socket, rest) = match tokio::time::timeout(SILENCE, opened).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(Opening::Refused(status))) => {
                self.note(Record::Refused(status));
                return REFUSED.to_string();
            }
            Ok(Err(Opening::Failed(error))) => return error,
            Err(_) => return "no answer".to_string(),
        };
        self.note(Record::Opened { sidecar, last_id });
        self.is_after_reconnect = true;
        self.read(socket, rest).await
    }

    async fn open(
        &self,
        address: SocketAddr,
        last_id: Option<&str>,
    ) -> Result<(TcpStream, Vec<u8>), Opening> {
        let fail = |error: std::io::Error| Opening::Failed(error.to_string());
        let socket = TcpSocket::new_v4().map_err(fail)?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER).map_err(fail)?;
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(address)).await;
        let mut socket =
            connected.map_err(|_| Opening::Failed("no connection".to_string()))?.map_err(fail)?;
        let id = last_id.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        let head = format!(
            "GET {} HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n{id}\r\n",
            self.setup.target
        );
        socket.write_all(head.as_bytes()).await.map_err(fail)?;
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|part| part == b"\r\n\r\n") {
                break end;
            }
            if socket.read_buf(&mut bytes).await.map_err(fail)? == 0 {
                return Err(Opening::Failed("closed before an answer".to_string()));
            }
        };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let is_stream = head.lines().any(|line| line == "Content-Type: text/event-stream");
        if status != 200 || !is_stream {
            return Err(Opening::Refused(status));
        }
        Ok((socket, bytes.split_off(end + 4)))
    }

    async fn read(&mut self, mut socket: TcpStream, mut bytes: Vec<u8>) -> String {
        let temper = self.temper();
        let stays = match temper {
            Temper::Steady => Duration::MAX,
            Temper::Restless => Duration::from_millis(self.rng.u64(200..4_000)),
            Temper::Sleeper => Duration::from_millis(self.rng.u64(500..3_000)),
        };
        let opened = Instant::now();
        let silence = if temper == Temper::Steady { LONG_SILENCE } else { SILENCE };
        let mut text = String::new();
        let mut mood = self.setup.mood.clone();
        loop {
            while let Some((start, end)) = chunk(&bytes) {
                if start == end {
                    return "ended".to_string();
                }
                text.push_str(&String::from_utf8_lossy(&bytes[start..end]));
                bytes.drain(..end + 2);
            }
            while let Some(end) = text.find("\n\n") {
                let block: String = text.drain(..end + 2).collect();
                if self.take(&block) {
                    return "told to".to_string();
                }
            }
            if opened.elapsed() > stays && !self.mood().is_calm {
                return "left".to_string();
            }
            if self.mood().is_slow && self.setup.index.is_multiple_of(3) {
                // The sender goes with the process.
                let _ = mood.wait_for(|mood| !mood.is_slow).await;
            }
            let wait = silence.min(stays.max(Duration::from_millis(50)));
            match tokio::time::timeout(wait, socket.read_buf(&mut bytes)).await {
                Ok(Ok(1..)) => {}
                Ok(Ok(0)) => return "cut".to_string(),
                Ok(Err(error)) => return error.to_string(),
                Err(_) if wait < silence => {}
                Err(_) => return "silence".to_string(),
            }
        }
    }

    /// Notes what a block says; returns whether the stream is over.
    fn take(&mut self, block: &str) -> bool {
        let (mut id, mut name, mut data) = (None, "message", None);
        for line in block.lines() {
            match line.split_once(": ").unwrap_or((line, "")) {
                ("id", value) => id = Some(value.to_string()),
                ("event", value) => name = value,
                ("data", value) => data = Some(value),
                ("retry", value) => {
                    self.retry = value.parse().map_or(RETRY, Duration::from_millis);
                }
                _ => {}
            }
        }
        if let Some(id) = &id {
            self.log.lock().last_id = Some(id.clone());
            let mut newest = self.setup.newest.lock();
            if newest.as_ref().is_none_or(|newest| id > newest) {
                *newest = Some(id.clone());
            }
        }
        let Some(data) = data.filter(|_| name != "ready") else {
            if let Some(id) = id {
                self.sabotaged(Record::Position(id));
            }
            return false;
        };
        let json: Value = serde_json::from_str(data).unwrap_or_default();
        let reason = || json["reason"].as_str().unwrap_or_default().to_string();
        match name {
            "reset" => self.sabotaged(Record::Reset { id, reason: reason() }),
            "end" => {
                self.sabotaged(Record::End(reason()));
                return true;
            }
            _ => self.sabotaged(Record::Event(event(id.unwrap_or_default(), name, &json))),
        }
        false
    }

    fn sabotaged(&mut self, record: Record) {
        let sabotage = self.mood().sabotage;
        if let Some(held) = self.held.take() {
            self.note(record);
            self.note(held);
            return;
        }
        if !self.is_after_reconnect || !matches!(record, Record::Event(_)) {
            self.note(record);
            return;
        }
        self.is_after_reconnect = false;
        match sabotage {
            Some(Sabotage::Loss) => {}
            Some(Sabotage::Double) => {
                self.note(record.clone());
                self.note(record);
            }
            Some(Sabotage::Reorder) => self.held = Some(record),
            Some(Sabotage::LaterId) | None => self.note(record),
        }
    }
}

enum Opening {
    Refused(u16),
    Failed(String),
}

/// Where the content of the first chunk is, once it is all there.
fn chunk(bytes: &[u8]) -> Option<(usize, usize)> {
    let line = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let length = std::str::from_utf8(bytes.get(..line)?).ok()?;
    let length = usize::from_str_radix(length.trim(), 16).ok()?;
    let (start, end) = (line + 2, line + 2 + length);
    (bytes.len() >= end + 2).then_some((start, end))
}

/// Numbers that a browser would round come as text.
fn whole(number: &Value) -> i64 {
    let large = || number["$numberLong"].as_str()?.parse().ok();
    number.as_i64().or_else(large).unwrap_or_default()
}

fn event(id: String, op: &str, json: &Value) -> Event {
    let key = &json["documentKey"]["_id"];
    let seq = match op {
        "update" => &json["updateDescription"]["updatedFields"]["seq"],
        "delete" => &Value::Null,
        _ => &json["fullDocument"]["seq"],
    };
    Event {
        id,
        op: op.to_string(),
        collection: json["ns"]["coll"].as_str().unwrap_or_default().to_string(),
        key: Key {
            writer: key["w"].as_str().unwrap_or_default().to_string(),
            number: whole(&key["n"]),
            owner: whole(&key["owner"]),
        },
        seq: seq.as_i64(),
        view: json["view"].as_str().map(str::to_string),
    }
}
