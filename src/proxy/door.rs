//! The door before pingora's `HttpProxy`: reads each request head once, applies the gate, and
//! either answers the reserved path on the bare socket, so that an idle client costs a small task,
//! or hands head and connection to pingora unchanged.
//!
//! Law of this file:
//!
//! - A connection is in one of three hands: the door's (a head is awaited), pingora's (a request
//!   is answered), or a stream's task. It never has two owners.
//! - Bytes that were read are never dropped while the connection lives: they are the connection's,
//!   held for the next request, or with pingora as the prefix of its request.
//! - Pingora is given one request's bytes and no more; see [`Connection`].

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use pingora::apps::{HttpPersistentSettings, HttpServerApp};
use pingora::protocols::http::ServerSession;
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

use super::forward::{Forward, Request, Side};
use super::gate::{self, Body, Gate, Head, Verdict};
use super::h2::{self, Site};
use super::io::{Connection, Socket};
use super::path::{self, Target};
use super::reserved::{Answer, Desk, Opened, Plain};
use crate::drain::Drain;
use crate::transport::Sink;
use crate::transport::problem::Problem;

/// A request head must be complete this long after its first byte.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// How long a connection may wait for its next request.
const IDLE: Duration = Duration::from_secs(60);
/// How long a refused client may take to read why.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(5);

/// Serves connections of the public port. Cheap to clone.
#[derive(Clone)]
pub struct Door {
    pub proxy: Arc<HttpProxy<Forward>>,
    pub desk: Arc<Desk>,
    pub prefix: Arc<str>,
    pub side: Arc<Side>,
    pub drain: Drain,
    /// For HTTP/2.
    pub site: Arc<Site>,
    /// What pingora watches; flips when draining begins.
    pub shutdown: ShutdownWatch,
}

/// What was read at the beginning of a connection or after a request.
enum Read {
    Request(Head),
    Http2,
    /// Nothing came, or nothing more: not worth an answer.
    Over,
    Refused(Problem),
}

impl Door {
    /// Serves one connection to its end.
    pub async fn serve(self, socket: Socket) {
        let peer = socket.peer();
        let mut connection = Box::new(Connection::new(socket));
        if connection.socket.is_h2() {
            let serving = h2::serve(self.site, connection.socket, BytesMut::new());
            return Box::pin(serving).await;
        }
        let mut persistent: Option<HttpPersistentSettings> = None;
        let mut is_first = true;
        loop {
            let mut bytes = connection.take_held();
            let read = self.read_head(&mut connection.socket, &mut bytes, is_first).await;
            is_first = false;
            let head = match read {
                Read::Request(head) => head,
                Read::Http2 => {
                    // Boxed: this connection's task may become many streams' small ones.
                    return Box::pin(h2::serve(self.site, connection.socket, bytes)).await;
                }
                Read::Over => return,
                Read::Refused(problem) => {
                    return self.refuse(&mut connection.socket, problem).await;
                }
            };
            match path::classify(&head.target, &self.prefix) {
                Target::App => {
                    let _held = self.drain.hold();
                    match self.forward(connection, bytes, &head, persistent.take()).await {
                        Some((back, settings)) => {
                            connection = back;
                            persistent = settings;
                        }
                        None => return,
                    }
                }
                Target::Ambiguous => {
                    let problem = Problem::new(
                        400,
                        "this path can be read as two different ones: send it without encoded \
                         or dot segments",
                    );
                    return self.refuse(&mut connection.socket, problem).await;
                }
                Target::Reserved { rest } => {
                    // Boxed: finding out who asks may take a moment, and idle connections wait here.
                    let answer = Box::pin(self.ask(&head, &bytes, &rest, peer)).await;
                    match answer {
                        Answer::Stream(opened) => {
                            let Connection { socket, .. } = *connection;
                            let is_head = head.method == "HEAD";
                            // A task of its own, so that the memory of this one is given back.
                            tokio::spawn(stream(socket, opened, head.minor, is_head));
                            return;
                        }
                        Answer::Plain(plain) => {
                            let is_last = !head.is_keep_alive
                                || head.body != Body::None
                                || self.drain.has_begun();
                            let is_head = head.method == "HEAD";
                            let written =
                                answer_plain(&mut connection.socket, &plain, is_head, is_last);
                            // Who asks again and again and takes no answer must not keep a
                            // descriptor for ever.
                            if !matches!(timeout(IDLE, written).await, Ok(Ok(()))) {
                                return;
                            }
                            if is_last {
                                return close(&mut connection.socket).await;
                            }
                            connection.hold(bytes.split_off(head.length));
                        }
                    }
                }
            }
        }
    }

    async fn read_head(&self, socket: &mut Socket, bytes: &mut BytesMut, is_first: bool) -> Read {
        let mut deadline = Instant::now() + if bytes.is_empty() { IDLE } else { HEAD_DEADLINE };
        let mut gate = Gate::default();
        let mut has_skipped = false;
        loop {
            // Old clients send one empty line too many after a body.
            if !has_skipped && bytes.starts_with(b"\r\n") {
                bytes.advance(2);
                (gate, has_skipped) = (Gate::default(), true);
            }
            match gate.inspect(bytes) {
                Verdict::Request(head) => return Read::Request(head),
                Verdict::Http2 => return Read::Http2,
                Verdict::Refused(refusal) => {
                    return Read::Refused(Problem::new(refusal.status, refusal.reason));
                }
                Verdict::Partial => {}
            }
            let is_idle = bytes.is_empty();
            let read = poll_fn(|cx| Connection::poll_fill(socket, cx, bytes));
            let read = tokio::select! {
                biased;
                read = timeout_at(deadline, read) => read,
                // A used connection that is idle need not outlive the process's farewell. A new one
                // was made to ask something.
                () = self.drain.begun(), if is_idle && !is_first => return Read::Over,
            };
            match read {
                Ok(Ok(1..)) if is_idle => deadline = Instant::now() + HEAD_DEADLINE,
                Ok(Ok(1..)) => {}
                Ok(Ok(0) | Err(_)) => return Read::Over,
                Err(_) if is_idle => return Read::Over,
                Err(_) => {
                    return Read::Refused(Problem::new(
                        408,
                        "the request head was not complete within 10 seconds",
                    ));
                }
            }
        }
    }

    /// Lets pingora answer one request; gives the connection back if it can be used again.
    async fn forward(
        &self,
        mut connection: Box<Connection>,
        mut bytes: BytesMut,
        head: &Head,
        persistent: Option<HttpPersistentSettings>,
    ) -> Option<(Box<Connection>, Option<HttpPersistentSettings>)> {
        let rest = bytes.split_off(head.length);
        match connection.begin(head.body, rest) {
            Ok(body) => bytes.unsplit(body),
            Err(malformed) => {
                let problem = Problem::new(400, malformed.to_string());
                self.refuse(&mut connection.socket, problem).await;
                return None;
            }
        }
        if head.is_upgrade {
            connection.socket.probe();
        }
        let mut session = ServerSession::new_http1(connection);
        if head.is_upgrade {
            // Pingora gives a body a minute from piece to piece; a WebSocket may be quiet for hours.
            session.set_read_timeout(None);
        }
        if let (ServerSession::H1(session), 0) = (&mut session, head.minor) {
            // HTTP/1.0 has no informational answers.
            session.set_ignore_info_resp(true);
        }
        match persistent {
            Some(settings) => settings.apply_to_session(&mut session),
            None => session.set_keepalive(Some(IDLE.as_secs())),
        }
        if self.drain.has_begun() {
            session.set_keepalive(None);
        }
        session.set_pipelined_prefix(bytes);
        let reused = self.proxy.process_new_http(session, &self.shutdown).await?;
        let (stream, settings) = reused.consume();
        // The only connections that pingora is given here are ours.
        let connection = stream.into_any().downcast::<Connection>().ok()?;
        Some((connection, settings))
    }

    /// Answers, and closes: nobody can say where the next request would begin.
    async fn refuse(&self, socket: &mut Socket, problem: Problem) {
        let status = problem.status.to_string();
        self.desk.metrics.proxy_requests_total.with_label_values(&[&status]).inc();
        let plain = Plain::from(problem);
        let answer = async {
            answer_plain(socket, &plain, false, true).await?;
            close(socket).await;
            io::Result::Ok(())
        };
        // A client that does not read its refusal has had its chance.
        let _ = timeout(REFUSAL_DEADLINE, answer).await;
    }

    async fn ask(&self, head: &Head, bytes: &[u8], rest: &str, peer: Option<SocketAddr>) -> Answer {
        let values = |name: &str| gate::header_values(&bytes[..head.length], name);
        let request = Request {
            method: &head.method,
            rest,
            query: path::query_of(&head.target),
            host: values("host").into_iter().next(),
            peer: peer.map(|peer| peer.ip()),
            is_upgrade: head.is_upgrade,
        };
        let ask = self.side.ask_of(request, &values, &self.desk.guard);
        self.desk.answer(ask).await
    }
}

fn head_of(status: u16, fields: &[(&str, &str)], minor: u8) -> Vec<u8> {
    let reason = http::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("");
    let mut head = format!("HTTP/1.{minor} {status} {reason}\r\n");
    for (name, value) in fields {
        head.push_str(name);
        head.push_str(": ");
        head.push_str(value);
        head.push_str("\r\n");
    }
    let date = httpdate::fmt_http_date(std::time::SystemTime::now());
    head.push_str(&format!("Date: {date}\r\n\r\n"));
    head.into_bytes()
}

async fn answer_plain(
    socket: &mut Socket,
    plain: &Plain,
    is_head: bool,
    is_last: bool,
) -> io::Result<()> {
    let length = plain.body.len().to_string();
    let mut fields: Vec<(&str, &str)> =
        plain.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    // By the standard, 204 has no length.
    if plain.status != 204 {
        fields.push(("Content-Length", &length));
    }
    if is_last {
        fields.push(("Connection", "close"));
    }
    let mut bytes = head_of(plain.status, &fields, 1);
    if !is_head {
        bytes.extend_from_slice(&plain.body);
    }
    socket.write_all(&bytes).await?;
    socket.flush().await
}

/// Says that nothing more comes, and waits a moment for the client to close: closing with unread
/// bytes in the socket would reset the connection and could take the answer along.
async fn close(socket: &mut Socket) {
    if socket.shutdown().await.is_ok() {
        socket.linger().await;
    }
}

/// A stream's own task. A block that owns its parts, since a function would keep room for each of
/// them twice: as it is given, and where it is used.
fn stream(
    socket: Socket,
    mut opened: Box<Opened>,
    minor: u8,
    is_head: bool,
) -> impl Future<Output = ()> + Send {
    let is_chunked = minor > 0 && !is_head;
    let mut sink = SocketSink { socket, is_chunked };
    sink.socket.limit_unacknowledged();
    let head = {
        let cors = opened.take_cors();
        let mut fields = Opened::headers().to_vec();
        fields.extend(cors.iter().map(|(name, value)| (*name, value.as_str())));
        fields.push(("Connection", "close"));
        if is_chunked {
            fields.push(("Transfer-Encoding", "chunked"));
        }
        head_of(200, &fields, minor)
    };
    async move {
        let is_sent = matches!(timeout(IDLE, sink.socket.write_all(&head)).await, Ok(Ok(())));
        if !is_sent || is_head {
            return Box::pin(close(&mut sink.socket)).await;
        }
        // As long as the stream lives, this task should hold little else than what it waits for.
        drop(head);
        opened.serve(&mut sink).await;
        Box::pin(sink.finish()).await;
    }
}

/// Server-Sent Events on a bare socket.
struct SocketSink {
    socket: Socket,
    is_chunked: bool,
}

impl SocketSink {
    async fn finish(&mut self) {
        let end = async {
            if self.is_chunked {
                self.socket.write_all(b"0\r\n\r\n").await?;
            }
            self.socket.shutdown().await
        };
        // The stream is over either way.
        let _ = timeout(REFUSAL_DEADLINE, end).await;
    }
}

impl Sink for SocketSink {
    async fn send(&mut self, pieces: &[Bytes]) -> io::Result<()> {
        let length: usize = pieces.iter().map(Bytes::len).sum();
        let mut chunk = Vec::with_capacity(length + 16);
        if self.is_chunked {
            chunk.extend_from_slice(format!("{length:x}\r\n").as_bytes());
        }
        for piece in pieces {
            chunk.extend_from_slice(piece);
        }
        if self.is_chunked {
            chunk.extend_from_slice(b"\r\n");
        }
        self.socket.write_all(&chunk).await?;
        self.socket.flush().await
    }

    async fn closed(&mut self) {
        // A client has nothing more to say on this connection; whatever it sends is dropped.
        let mut rest = [0; 16];
        while matches!(self.socket.read(&mut rest).await, Ok(1..)) {}
    }
}
