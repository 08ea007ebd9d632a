//! How a client listens, by each of the four transports: what it asks, and what it is told.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

/// Small, so that a client that does not read is felt soon.
const RECEIVE_BUFFER: u32 = 8 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Why a connection ended that was a poll, and is answered.
pub const POLLED: &str = "polled";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Sse,
    Ndjson,
    Poll,
    WebSocket,
}

impl Transport {
    pub const ALL: [Transport; 4] =
        [Transport::Sse, Transport::Ndjson, Transport::Poll, Transport::WebSocket];

    fn media_type(self) -> &'static str {
        match self {
            Transport::Sse => "text/event-stream",
            Transport::Ndjson => "application/x-ndjson",
            Transport::Poll | Transport::WebSocket => "application/json",
        }
    }
}

/// One stream of a connection, as a client asks for it.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Its name on the connection.
    pub alias: String,
    pub stream: &'static str,
    pub owner: Option<i64>,
    /// Where the stream has an id of its own.
    pub resume: Option<String>,
}

/// One thing that a client is told.
#[derive(Debug)]
pub struct Told {
    /// Of which stream, where there are several.
    pub alias: Option<String>,
    pub id: Option<String>,
    /// `None`: a position, or a sign of life.
    pub event: Option<String>,
    pub data: Value,
}

/// Why nothing was opened.
pub enum Opening {
    /// By this status, and with what else was said.
    Refused(u16, String),
    Failed(String),
}

/// An open connection.
pub struct Wire {
    socket: Socket,
    /// What a server of events says of it.
    pub retry: Option<Duration>,
    told: VecDeque<Told>,
}

enum Socket {
    /// The body's bytes that are not read yet, and its text.
    Chunks {
        socket: TcpStream,
        bytes: Vec<u8>,
        text: String,
        transport: Transport,
        is_over: bool,
    },
    /// So many bytes of an answer are to come.
    Whole {
        socket: TcpStream,
        bytes: Vec<u8>,
        length: usize,
        is_told: bool,
    },
    Messages(Box<WebSocketStream<TcpStream>>),
}

/// Asks for streams. With one it is the stream's own address; `id` is what all of them share else.
pub async fn open(
    transport: Transport,
    address: SocketAddr,
    wanted: &[Wanted],
    id: Option<&str>,
) -> Result<Wire, Opening> {
    let fail = |error: std::io::Error| Opening::Failed(error.to_string());
    let socket = TcpSocket::new_v4().map_err(fail)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER).map_err(fail)?;
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(address)).await;
    let socket =
        connected.map_err(|_| Opening::Failed("no connection".to_string()))?.map_err(fail)?;
    let socket = match transport {
        Transport::WebSocket => open_websocket(socket, address, wanted).await?,
        transport => ask(socket, transport, address, &target(wanted), id).await?,
    };
    Ok(Wire { socket, retry: None, told: VecDeque::new() })
}

fn target(wanted: &[Wanted]) -> String {
    let query = |prefix: &str, it: &Wanted| {
        it.owner.map(|owner| format!("{prefix}owner={owner}")).unwrap_or_default()
    };
    if let [one] = wanted {
        return format!("/_events/{}?{}", one.stream, query("", one));
    }
    let streams = wanted.iter().map(|it| {
        format!("stream={}:{}&{}", it.alias, it.stream, query(&format!("{}.", it.alias), it))
    });
    format!("/_events?{}", streams.collect::<Vec<_>>().join("&"))
}

async fn ask(
    mut socket: TcpStream,
    transport: Transport,
    address: SocketAddr,
    target: &str,
    id: Option<&str>,
) -> Result<Socket, Opening> {
    let fail = |error: std::io::Error| Opening::Failed(error.to_string());
    let id = id.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
    let media_type = transport.media_type();
    let wait = if transport == Transport::Poll { "&wait=500ms" } else { "" };
    let head = format!(
        "GET {target}{wait} HTTP/1.1\r\nHost: {address}\r\nAccept: {media_type}\r\n{id}\r\n"
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
    bytes.drain(..end + 4);
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok());
    let is_wanted = head.lines().any(|line| line == format!("Content-Type: {media_type}"));
    if status == 200 && is_wanted {
        return Ok(match (transport, length) {
            (Transport::Poll, Some(length)) => {
                Socket::Whole { socket, bytes, length, is_told: false }
            }
            _ => {
                let text = String::new();
                Socket::Chunks { socket, bytes, text, transport, is_over: false }
            }
        });
    }
    while bytes.len() < length.unwrap_or(0) {
        if socket.read_buf(&mut bytes).await.map_err(fail)? == 0 {
            break;
        }
    }
    Err(Opening::Refused(status, String::from_utf8_lossy(&bytes).into_owned()))
}

async fn open_websocket(
    socket: TcpStream,
    address: SocketAddr,
    wanted: &[Wanted],
) -> Result<Socket, Opening> {
    let path = match wanted {
        [one] => {
            let resume = one.resume.as_ref().map(|id| format!("&lastEventId={id}"));
            format!("{}{}", target(wanted), resume.unwrap_or_default())
        }
        _ => "/_events".to_string(),
    };
    let request = format!("ws://{address}{path}").into_client_request().expect("a request");
    let opened = tokio_tungstenite::client_async(request, socket).await;
    let (mut socket, _) = opened.map_err(|error| match error {
        Error::Http(answer) => Opening::Refused(answer.status().as_u16(), String::new()),
        error => Opening::Failed(error.to_string()),
    })?;
    for one in wanted.iter().filter(|_| wanted.len() > 1) {
        let params = one.owner.map_or_else(|| json!({}), |owner| json!({ "owner": owner }));
        let mut message = json!({ "subscribe": one.stream, "as": one.alias, "params": params });
        if let Some(id) = &one.resume {
            message["resume"] = json!(id);
        }
        let sent = socket.send(Message::text(message.to_string())).await;
        sent.map_err(|error| Opening::Failed(error.to_string()))?;
    }
    Ok(Socket::Messages(Box::new(socket)))
}

impl Wire {
    /// What it was told and has not looked at.
    pub fn told(&mut self) -> Option<Told> {
        self.told.pop_front()
    }

    /// Reads more. May be dropped and called again.
    ///
    /// # Errors
    /// Why there is no more.
    pub async fn more(&mut self) -> Result<(), Opening> {
        let ended = |why: &str| Opening::Failed(why.to_string());
        match &mut self.socket {
            Socket::Chunks { is_over: true, .. } => return Err(ended("ended")),
            Socket::Chunks { socket, bytes, .. } => match socket.read_buf(bytes).await {
                Ok(1..) => {}
                Ok(0) => return Err(ended("cut")),
                Err(error) => return Err(Opening::Failed(error.to_string())),
            },
            Socket::Whole { socket, bytes, length, .. } => {
                if bytes.len() >= *length {
                    return Err(ended(POLLED));
                }
                match socket.read_buf(bytes).await {
                    Ok(1..) => {}
                    Ok(0) => return Err(ended("cut")),
                    Err(error) => return Err(Opening::Failed(error.to_string())),
                }
            }
            Socket::Messages(socket) => match socket.next().await {
                Some(Ok(Message::Text(text))) => self.told.push_back(envelope(text.as_str())),
                Some(Ok(Message::Close(Some(frame)))) => {
                    return Err(match u16::from(frame.code) {
                        code @ 4400..=4499 => {
                            Opening::Refused(code - 4000, frame.reason.to_string())
                        }
                        code => Opening::Failed(format!("closed with {code}")),
                    });
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(Opening::Failed(error.to_string())),
                None => return Err(ended("cut")),
            },
        }
        self.digest();
        Ok(())
    }

    /// Looks at what has come, so far also with the head.
    pub fn digest(&mut self) {
        match &mut self.socket {
            Socket::Chunks { bytes, text, transport, is_over, .. } => {
                while let Some((start, end)) = chunk(bytes) {
                    *is_over |= start == end;
                    text.push_str(&String::from_utf8_lossy(&bytes[start..end]));
                    bytes.drain(..end + 2);
                }
                let delimiter = if *transport == Transport::Sse { "\n\n" } else { "\n" };
                while let Some(end) = text.find(delimiter) {
                    let part: String = text.drain(..end + delimiter.len()).collect();
                    self.told.push_back(match transport {
                        Transport::Sse => block(&part, &mut self.retry),
                        _ => envelope(&part),
                    });
                }
            }
            // A poll's answer, once all of it is there.
            Socket::Whole { bytes, length, is_told, .. } if bytes.len() >= *length && !*is_told => {
                *is_told = true;
                let answer: Value = serde_json::from_slice(bytes).unwrap_or_default();
                self.told.extend(answer["events"].as_array().into_iter().flatten().map(told));
                self.told.push_back(told(&json!({ "id": answer["resume"] })));
            }
            Socket::Whole { .. } | Socket::Messages(_) => {}
        }
    }
}

fn envelope(text: &str) -> Told {
    told(&serde_json::from_str(text).unwrap_or_default())
}

fn told(envelope: &Value) -> Told {
    let text = |name: &str| envelope[name].as_str().map(str::to_string);
    let error = &envelope["error"];
    // One stream of several that was refused.
    if !error.is_null() {
        let event = Some("refused".to_string());
        return Told { alias: text("as"), id: None, event, data: error.clone() };
    }
    let data = envelope["data"].clone();
    Told { alias: text("as"), id: text("id"), event: text("event"), data }
}

/// A block of Server-Sent Events.
fn block(text: &str, retry: &mut Option<Duration>) -> Told {
    let mut told = Told { alias: None, id: None, event: None, data: Value::Null };
    for line in text.lines() {
        match line.split_once(": ").unwrap_or((line, "")) {
            ("id", value) => told.id = Some(value.to_string()),
            ("event", value) => told.event = Some(value.to_string()),
            ("data", value) => told.data = serde_json::from_str(value).unwrap_or_default(),
            ("retry", value) => *retry = value.parse().ok().map(Duration::from_millis),
            _ => {}
        }
    }
    told.alias = told.data["as"].as_str().map(str::to_string);
    told
}

/// Where the content of the first chunk is, once it is all there.
fn chunk(bytes: &[u8]) -> Option<(usize, usize)> {
    let line = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let length = std::str::from_utf8(bytes.get(..line)?).ok()?;
    let length = usize::from_str_radix(length.trim(), 16).ok()?;
    let (start, end) = (line + 2, line + 2 + length);
    (bytes.len() >= end + 2).then_some((start, end))
}
