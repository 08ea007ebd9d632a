//! WebSocket: the envelopes as text messages, and streams that come and go by the client's word.

mod incoming;
mod message;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde_json::{Map, Value, json};
use tokio::time::{Sleep, sleep, timeout};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::envelope;
use super::negotiation::Transport;
use super::opening::Identity;
use super::problem::Problem;
use super::refusal::Refusal;
use super::reserved::{Answer, Ask, Handler, Opened};
use super::transport::latest::{self, Latest};
use super::transport::{self, Encoder, Ending, Mark, Sink};
use super::wanted::{self, Wanted};
use crate::session::connection::{Connection, Frame};
use crate::session::control::Ended;
use crate::session::listeners::Listed;
use crate::session::many::Many;
use crate::session::subscription::FrameKind;
use crate::trace::Span;
use incoming::{Broken, Heard, Incoming};
use message::Message;

/// The most of a reason that a close frame carries, in bytes.
const MAX_REASON: usize = 123;
/// How long a client has to answer a close frame.
const FAREWELL: Duration = Duration::from_secs(5);

/// A socket that is read as well.
pub trait Duplex: Sink {
    /// Reads more into `to`; zero bytes at the end of the connection.
    fn poll_fill(&mut self, cx: &mut Context<'_>, to: &mut BytesMut) -> Poll<io::Result<usize>>;
}

/// A handshake that is taken.
pub struct Upgraded {
    /// `Sec-WebSocket-Accept`
    pub accept: String,
    outcome: Outcome,
}

enum Outcome {
    Open(Box<(Opened, Identity)>),
    /// What a browser is to know goes with the close frame: it cannot read a status.
    Closed(Close),
}

/// A close frame.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Close {
    code: u16,
    reason: String,
}

thread_local! {
    static LATEST: RefCell<Latest> = RefCell::default();
}

/// The encoder: each frame is one text message.
#[derive(Debug)]
struct WebSocket;

/// Its headers are those of the upgrade; how a message is framed is not decided here.
pub static WEBSOCKET: &dyn Encoder = &WebSocket;

impl Encoder for WebSocket {
    fn headers(&self) -> &'static [(&'static str, &'static str)] {
        &[("Upgrade", "websocket"), ("Connection", "Upgrade")]
    }

    fn first(&self, _retry: Duration) -> Option<Bytes> {
        None
    }

    fn transport(&self) -> Transport {
        Transport::WebSocket
    }

    fn encode(&self, frame: &Frame, mark: &Mark<'_>, out: &mut Vec<Bytes>) {
        if matches!(frame.kind, FrameKind::Position(_) | FrameKind::Keepalive) {
            out.push(frame_of(OpCode::Control(Control::Ping), b""));
        }
        latest::encode(&LATEST, (frame, mark), out, |out| {
            let begin = out.len();
            envelope::encode(frame, mark, "}", out);
            let length: usize = out[begin..].iter().map(Bytes::len).sum();
            out.insert(begin, head_of(OpCode::Data(Data::Text), length));
        });
    }
}

/// A frame's head; we send each message in one.
fn head_of(opcode: OpCode, length: usize) -> Bytes {
    let mut head = [0; 10];
    let mut rest = &mut head[..];
    let header = FrameHeader { opcode, ..FrameHeader::default() };
    // There is room for the longest.
    let _ = header.format(length as u64, &mut rest);
    let left = rest.len();
    Bytes::copy_from_slice(&head[..head.len() - left])
}

fn frame_of(opcode: OpCode, payload: &[u8]) -> Bytes {
    [&head_of(opcode, payload.len()), payload].concat().into()
}

impl Close {
    fn new(code: u16, reason: &str) -> Close {
        Close { code, reason: reason[..reason.floor_char_boundary(MAX_REASON)].to_string() }
    }

    /// For a refusal: final ones by their status, and what will pass as "try again".
    fn of(refusal: &Refusal) -> Close {
        let Problem { status, detail, .. } = refusal.problem();
        let code = match status {
            429 | 500.. => 1013,
            status => 4000 + status,
        };
        Close::new(code, detail)
    }

    fn of_end(ended: Ended) -> Option<Close> {
        match ended {
            Ended::ClientGone | Ended::Stalled => None,
            Ended::Draining => Some(Close::new(1001, "this sidecar is shutting down")),
            Ended::Expired => Some(Close::new(1001, "clients.max_duration is over")),
            Ended::FilterChanged => Some(Close::new(4404, "the stream's filter file was edited")),
            Ended::Unauthorized => Some(Close::new(4401, "the right to this stream has ended")),
            Ended::AuthUnavailable => {
                Some(Close::new(1013, "the authentication service is unavailable"))
            }
            Ended::Operator => Some(Close::new(1013, "ended by an operator: come back")),
            Ended::SnapshotTooLarge | Ended::SnapshotUnavailable | Ended::SnapshotBusy => {
                Some(Close::new(1013, ended.reason()))
            }
        }
    }

    fn to_frame(&self) -> Bytes {
        let payload = [&self.code.to_be_bytes()[..], self.reason.as_bytes()].concat();
        frame_of(OpCode::Control(Control::Close), &payload)
    }
}

impl Handler {
    /// Takes the handshake, and says the rest in WebSocket's own way.
    pub(super) async fn upgrade(self: &Arc<Handler>, mut ask: Ask<'_>) -> Result<Answer, Problem> {
        let key = ask.websocket_key.filter(|key| ask.method == "GET" && is_key(key));
        let Some(key) = key else {
            return Err(Problem::new(
                400,
                "a WebSocket's handshake is a GET with Sec-WebSocket-Key, 16 bytes in base64",
            ));
        };
        if ask.websocket_version != Some(b"13") {
            let problem = Problem::new(426, "this server supports version 13 of WebSocket");
            return Err(problem.with_header("Sec-WebSocket-Version", "13"));
        }
        let accept = tungstenite::handshake::derive_accept_key(key);
        let outcome = match self.open_websocket(&mut ask).await {
            Ok(open) => {
                self.count_outcome(Transport::WebSocket, "accepted");
                Outcome::Open(Box::new(open))
            }
            Err(refusal) => {
                let status = refusal.status().to_string();
                self.count_outcome(Transport::WebSocket, &status);
                Outcome::Closed(match self.drain.has_begun() {
                    true => Close::new(1001, &refusal.problem().detail),
                    false => Close::of(&refusal),
                })
            }
        };
        Ok(Answer::WebSocket(Box::new(Upgraded { accept, outcome })))
    }

    async fn open_websocket(
        self: &Arc<Handler>,
        ask: &mut Ask<'_>,
    ) -> Result<(Opened, Identity), Refusal> {
        if self.drain.has_begun() {
            let detail = "this sidecar is shutting down";
            return Err(Refusal::passing(503, detail, self.pace.retry));
        }
        let mut identity = Identity::new(std::mem::take(&mut ask.credentials));
        identity.span = std::mem::take(&mut ask.span);
        let heartbeat = self.catalog.shared.heartbeat;
        let (mut open, listener);
        let connection = if ask.rest.is_empty() && !wanted::has_many(ask.rest, &ask.query) {
            (open, listener) = self.take_place(ask.address, Transport::WebSocket)?;
            let many = Many::new(false, true, heartbeat);
            let control = self.control(&mut identity, listener);
            Connection::with_many(self.catalog.clone(), control, many)
        } else {
            let address = ask.address;
            let query = std::mem::take(&mut ask.query);
            let (most, ids) = (self.max_streams, &self.pace.ids);
            let wanted = wanted::of(ask.rest, query, ask.last_event_id, most, ids)?;
            (open, listener) = self.take_place(address, Transport::WebSocket)?;
            match wanted {
                Wanted::One(stream) => {
                    let place = (&mut open.place, &listener, Listed::ALONE);
                    let member = self.join(stream, &mut identity, place, false).await?;
                    let control = self.control(&mut identity, listener);
                    identity.forget_credentials();
                    Connection::new(self.catalog.clone(), control, member)
                }
                Wanted::Many(streams) => {
                    let mut many = Many::new(true, false, heartbeat);
                    let place = (&mut open.place, &listener);
                    self.join_all(&mut many, streams, &mut identity, place, false).await?;
                    let control = self.control(&mut identity, listener);
                    identity.forget_credentials();
                    Connection::with_many(self.catalog.clone(), control, many)
                }
            }
        };
        identity.span = Span::default();
        Ok((Opened { connection, open }, identity))
    }
}

/// What comes next on an open connection.
enum Next {
    Frame(Frame),
    Ended(Ended),
    Heard(Heard),
    Broken(Broken),
    /// It has subscribed to nothing, and its time to do so is over.
    Unused,
    /// It has begun a message, and its time to end it is over.
    Unfinished,
    Gone,
    /// Not all is taken that was written while the task waited.
    Behind,
}

impl Upgraded {
    /// Whether it was let in, and so has a place among the connections.
    pub fn is_open(&self) -> bool {
        matches!(self.outcome, Outcome::Open(_))
    }

    /// Serves the connection to its end; `held` was read behind the handshake's head. The answer to
    /// that has been sent.
    pub async fn serve<D: Duplex>(mut self: Box<Self>, wire: &mut D, held: BytesMut) -> Ending {
        match &mut self.outcome {
            Outcome::Closed(close) => {
                let mut incoming = Incoming::with(held);
                Box::pin(say_goodbye(wire, &mut incoming, close)).await;
                Ending::clean(Ended::ClientGone)
            }
            Outcome::Open(open) => {
                // Where they are: idle connections wait here.
                let (opened, identity) = &mut **open;
                let incoming = Incoming::with(held);
                let patience = opened.open.handler.pace.send_timeout;
                let unused = opened.connection.is_empty().then(|| Box::pin(sleep(patience)));
                let mut session = Session { opened, identity, incoming, unused, unfinished: None };
                let ending = session.serve(wire).await;
                open.0.open.handler.count_end(ending.ended);
                ending
            }
        }
    }
}

struct Session<'a> {
    opened: &'a mut Opened,
    identity: &'a mut Identity,
    incoming: Incoming,
    /// When a connection has to go that nobody has shown any right to: it holds a place for nothing.
    unused: Option<Pin<Box<Sleep>>>,
    /// When it has to go if the message that it has begun is not whole: what has come of that takes
    /// memory.
    unfinished: Option<Pin<Box<Sleep>>>,
}

impl Session<'_> {
    async fn serve<D: Duplex>(&mut self, wire: &mut D) -> Ending {
        loop {
            let sent = match self.next(wire).await {
                Next::Frame(frame) => {
                    let Opened { connection, open } = &mut *self.opened;
                    transport::deliver(wire, connection, WEBSOCKET, &open.handler.pace, frame).await
                }
                Next::Heard(Heard::Text(text)) => match Box::pin(self.act(&text)).await {
                    Some(reply) => {
                        let text = reply.to_string();
                        let message = frame_of(OpCode::Data(Data::Text), text.as_bytes());
                        Box::pin(self.send(wire, message)).await
                    }
                    None => Ok(()),
                },
                Next::Heard(Heard::Ping(payload)) => {
                    let pong = frame_of(OpCode::Control(Control::Pong), &payload);
                    Box::pin(self.send(wire, pong)).await
                }
                Next::Heard(Heard::Close(code)) => {
                    let close = Close::new(code.unwrap_or(1000), "");
                    let _ = Box::pin(self.send(wire, close.to_frame())).await;
                    return Ending::clean(Ended::ClientGone);
                }
                Next::Broken(Broken { code, reason }) => {
                    Box::pin(say_goodbye(wire, &mut self.incoming, &Close::new(code, reason)))
                        .await;
                    return Ending::clean(Ended::ClientGone);
                }
                Next::Ended(ended) => {
                    if let Some(close) = Close::of_end(ended) {
                        Box::pin(say_goodbye(wire, &mut self.incoming, &close)).await;
                    }
                    return Ending::clean(ended);
                }
                Next::Unused => {
                    let close = Close::new(4400, "no stream was subscribed to in time");
                    Box::pin(say_goodbye(wire, &mut self.incoming, &close)).await;
                    return Ending::clean(Ended::ClientGone);
                }
                Next::Unfinished => {
                    let close = Close::new(4400, "a message was not complete in time");
                    Box::pin(say_goodbye(wire, &mut self.incoming, &close)).await;
                    return Ending::clean(Ended::ClientGone);
                }
                Next::Gone => return Ending::clean(Ended::ClientGone),
                Next::Behind => {
                    let Opened { connection, open } = &mut *self.opened;
                    let pace = &open.handler.pace;
                    transport::send(wire, &mut connection.control, pace, &[]).await
                }
            };
            if let Err(ending) = sent {
                return ending;
            }
        }
    }

    async fn next<D: Duplex>(&mut self, wire: &mut D) -> Next {
        let Session { opened, incoming, unused, unfinished, .. } = self;
        transport::share(wire, &mut opened.connection, WEBSOCKET, &opened.open.handler.pace);
        // Looked at with each frame: there are signs of life at the latest.
        if !incoming.is_unfinished() {
            *unfinished = None;
        } else if unfinished.is_none() {
            *unfinished = Some(Box::pin(sleep(opened.open.handler.pace.send_timeout)));
        }
        // In no order: a client is heard also while there is always something for it.
        tokio::select! {
            next = opened.connection.next() => match next {
                Ok(frame) => Next::Frame(frame),
                Err(ended) => Next::Ended(ended),
            },
            heard = hear(wire, incoming) => heard,
            () = elapsed(unused) => Next::Unused,
            () = elapsed(unfinished) => Next::Unfinished,
        }
    }

    async fn send<D: Duplex>(&mut self, wire: &mut D, message: Bytes) -> Result<(), Ending> {
        let Opened { connection, open, .. } = &mut *self.opened;
        transport::send(wire, &mut connection.control, &open.handler.pace, &[message]).await
    }

    /// Does what a message asks for; gives what is to be said about it.
    async fn act(&mut self, text: &str) -> Option<Value> {
        let message = match Message::parse(text) {
            Ok(message) => message,
            Err(problem) => return Some(error_of(Message::name_in(text), &problem)),
        };
        let result = match (message.subscribe.is_some(), message.unsubscribe.as_deref()) {
            (true, None) => self.subscribe(message).await,
            (false, Some(label)) => self.unsubscribe(label),
            _ => Err(Problem::new(400, "either `subscribe` or `unsubscribe` is expected").into()),
        };
        result.err().map(|refusal| error_of(Message::name_in(text), refusal.problem()))
    }

    async fn subscribe(&mut self, message: Message) -> Result<(), Refusal> {
        // Some may have ended by themselves.
        self.opened.count_open();
        let Session { opened: Opened { connection, open }, identity, .. } = self;
        let handler = open.handler.clone();
        let wanted = message.wanted(&handler.pace.ids)?;
        let most = handler.max_streams;
        let Some(many) = connection.many().filter(|many| !many.has_one_id) else {
            let detail = "the URL of this connection sets its streams: open one without streams \
                          to subscribe";
            return Err(Problem::new(400, detail).into());
        };
        let label = wanted.label.clone();
        if many.has(label.name()) {
            let detail = format!("`{}` is already subscribed", label.name());
            return Err(Problem::new(400, detail).into());
        }
        if many.len() >= most {
            let detail = format!("more than {most} streams on one connection");
            return Err(Problem::new(429, detail).into());
        }
        identity.follow(connection.control.caller());
        let place = (&mut open.place, connection.control.listener(), Listed::NEW);
        let joined = handler.join(wanted, identity, place, false).await;
        // Whatever became of the stream: it is known who the caller is, and that has to be watched.
        if let Some(right) = identity.right.take() {
            connection.control.set_right(*right);
        }
        let member = joined?;
        if let Some(many) = connection.many() {
            many.add(label, member, None);
        }
        self.unused = None;
        Ok(())
    }

    fn unsubscribe(&mut self, name: &str) -> Result<(), Refusal> {
        let many = self.opened.connection.many().filter(|many| !many.has_one_id);
        match many.is_some_and(|many| many.remove(name)) {
            true => {
                self.opened.count_open();
                Ok(())
            }
            false => Err(Problem::new(404, format!("there is no subscription `{name}`")).into()),
        }
    }
}

/// `name` is the member that says which stream is meant, as in what would come of it.
fn error_of(name: Option<(&str, String)>, problem: &Problem) -> Value {
    let mut message = Map::new();
    if let Some((member, name)) = name {
        message.insert(member.to_string(), json!(name));
    }
    message.insert("error".to_string(), problem.to_json());
    Value::Object(message)
}

async fn elapsed(timer: &mut Option<Pin<Box<Sleep>>>) {
    match timer {
        Some(timer) => timer.await,
        None => std::future::pending().await,
    }
}

/// The next thing that the client says. May be dropped and called again.
async fn hear<D: Duplex>(wire: &mut D, incoming: &mut Incoming) -> Next {
    loop {
        match incoming.take() {
            Ok(Some(heard)) => return Next::Heard(heard),
            Err(broken) => return Next::Broken(broken),
            Ok(None) => {}
        }
        let read = poll_fn(|cx| match wire.is_behind() {
            true => Poll::Ready(None),
            false => wire.poll_fill(cx, &mut incoming.bytes).map(Some),
        });
        let Some(read) = read.await else { return Next::Behind };
        match read {
            Ok(1..) => {}
            Ok(0) | Err(_) => return Next::Gone,
        }
    }
}

/// Whether a handshake's key is 16 bytes in base64, as RFC 6455, section 4.2.1, has it.
fn is_key(key: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let digits = key.strip_suffix(b"==");
    digits.is_some_and(|digits| digits.len() == 22 && digits.iter().all(is_digit))
}

/// Closes, and waits for the client's own close frame: a moment, since there are others.
async fn say_goodbye<D: Duplex>(wire: &mut D, incoming: &mut Incoming, close: &Close) {
    let goodbye = async {
        if wire.send(&[close.to_frame()]).await.is_err() {
            return;
        }
        loop {
            match hear(wire, incoming).await {
                Next::Heard(Heard::Close(_)) | Next::Broken(_) | Next::Gone => return,
                _ => {}
            }
        }
    };
    let _ = timeout(FAREWELL, goodbye).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    // What an idle WebSocket has opened fits a piece of 256 bytes.
    #[test]
    fn what_is_open_is_small() {
        let size = size_of::<(Opened, Identity)>();
        assert!(size <= 256, "{size}");
    }

    #[test]
    fn a_key_is_sixteen_bytes() {
        assert!(is_key(b"dGhlIHNhbXBsZSBub25jZQ=="));
        let wrong: [&[u8]; 6] = [
            b"",
            b"==",
            b"dGhlIHNhbXBsZSBub25jZQ",
            b"dGhlIHNhbXBsZSBub25jZ===",
            b"dGhlIHNhbXBsZSBub25jZTE2MTY=",
            b"dGhlIHNhbXBsZSBub25j-_==",
        ];
        for key in wrong {
            assert!(!is_key(key), "{}", key.escape_ascii());
        }
    }

    #[test]
    fn refusals_are_close_codes() {
        let retry = Duration::from_secs(2);
        for (refusal, code) in [
            (Problem::new(400, "x").into(), 4400),
            (Problem::new(401, "x").into(), 4401),
            (Problem::new(403, "x").into(), 4403),
            (Problem::new(404, "x").into(), 4404),
            (Refusal::full(429, "x"), 1013),
            (Refusal::passing(503, "x", retry), 1013),
        ] {
            assert_eq!(Close::of(&refusal).code, code);
        }
        let long = Close::new(4400, &"ä".repeat(100));
        assert_eq!(long.reason.len(), 122);
        let frame = long.to_frame();
        assert_eq!(frame[..4], [0x88, 124, 0x11, 0x30]);
    }
}
