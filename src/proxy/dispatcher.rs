//! Serves each connection of the public port: reads a request head once and applies the gate. It
//! then answers the reserved path on the plain socket, so that an idle client costs one small task,
//! or passes the request to the forwarder. HTTP/2 connections are handed to [`http2`] as they are.
//!
//! Invariants:
//!
//! - A connection has exactly one owner: the dispatcher (waiting for a head), the forwarder
//!   (answering a request), HTTP/2, or a stream's task.
//! - Bytes that were read are never dropped while the connection lives. They belong to the request,
//!   or are kept for the next one.

use std::future::poll_fn;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::connections::Registration;
use super::gate::{self, Body, Gate, Head, Verdict};
use super::http1::Forwarder;
use super::http1::client::Client;
use super::http2::{self, Site};
use super::io::Socket;
use super::path::{self, Target};
use super::pieces::{MAX_COPY, Pieces};
use super::plain::{answer_plain, close, head_of};
use super::side::{Request, Side};
use crate::api::poll::{BegunPoll, PollAnswer};
use crate::api::problem::Problem;
use crate::api::reserved::{Answer, Handler, Opened, Plain};
use crate::api::transport::Sink;
use crate::api::websocket::{Duplex, Upgraded};
use crate::drain::Drain;

/// A request head must be complete this long after its first byte.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// How long a connection may wait for its next request.
const IDLE: Duration = Duration::from_secs(60);
/// How many bytes of further requests are read while one is waited for.
const MAX_HELD: usize = 64 * 1024;
/// How long a refused client may take to read why.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(5);

/// Serves connections of the public port. Cheap to clone.
#[derive(Clone)]
pub struct Dispatcher {
    pub forwarder: Forwarder,
    pub handler: Arc<Handler>,
    pub prefix: Arc<str>,
    pub side: Arc<Side>,
    pub drain: Drain,
    /// For HTTP/2.
    pub site: Arc<Site>,
}

/// What was read at the beginning of a connection or after a request.
enum Read {
    Request(Head),
    Http2,
    /// Nothing came, or nothing more: not worth an answer.
    Over,
    Refused(Problem),
}

impl Dispatcher {
    /// Serves one connection to its end.
    pub async fn serve(self, socket: Socket, registration: Registration) {
        let peer = socket.peer();
        // Nobody else notices clients that are gone without a word while they wait for the app.
        socket.limit_unacknowledged();
        socket.limit_unsent();
        socket.probe();
        if socket.is_h2() {
            return Box::pin(http2::serve(self.site, socket, BytesMut::new(), registration)).await;
        }
        let mut may_be_h2 = socket.may_be_h2();
        let mut client = Client::new(socket);
        let mut is_first = true;
        let mut clock = Clock::new();
        let drain = self.drain.clone();
        let mut draining = pin!(drain.begun());
        loop {
            let mut bytes = std::mem::take(&mut client.held);
            let draining = (!is_first).then_some(draining.as_mut());
            let gate = if may_be_h2 { Gate::default() } else { Gate::late() };
            registration.rest();
            let socket = &mut client.socket;
            let read = Dispatcher::read_head(socket, &mut bytes, gate, &mut clock, draining).await;
            (is_first, may_be_h2) = (false, false);
            // It was closed to make room for others.
            if !registration.work() {
                return;
            }
            let head = match read {
                Read::Request(head) => head,
                Read::Http2 => {
                    return Box::pin(http2::serve(self.site, client.socket, bytes, registration))
                        .await;
                }
                Read::Over => return,
                Read::Refused(problem) => {
                    let refused = self.refuse(&mut client.socket, problem, &registration);
                    return Box::pin(refused).await;
                }
            };
            match path::classify(head.target(&bytes), &self.prefix) {
                Target::App => {
                    let ip = peer.map(|peer| peer.ip());
                    // Boxed: idle connections wait here.
                    let forwarded = Box::pin(self.forwarder.forward(
                        &mut client,
                        bytes,
                        head,
                        ip,
                        &registration,
                    ));
                    if !forwarded.await {
                        return;
                    }
                }
                Target::Ambiguous => {
                    let problem = Problem::new(
                        400,
                        "this path is ambiguous: send it without dot segments and without \
                         unnecessary percent-encoding",
                    );
                    let refused = self.refuse(&mut client.socket, problem, &registration);
                    return Box::pin(refused).await;
                }
                Target::Reserved { rest } => {
                    // Boxed: finding out who asks may take a moment, and idle connections wait here.
                    let answer = Box::pin(self.ask(&head, &bytes, &rest, peer)).await;
                    match answer {
                        Answer::Stream(opened, fields) => {
                            // A task of its own, so that the memory of this one is given back.
                            drop(registration);
                            let stream =
                                stream(client.socket, opened, &fields, head.minor, head.is_head);
                            tokio::spawn(stream);
                            return;
                        }
                        Answer::WebSocket(upgraded) => {
                            let held = bytes.split_off(head.length);
                            let has_place = upgraded.is_open();
                            let socket = websocket(client.socket, upgraded, held);
                            if has_place {
                                tokio::spawn(socket);
                                return;
                            }
                            // It is told why not, and holds no place among the connections meanwhile.
                            registration.rest();
                            return Box::pin(socket).await;
                        }
                        Answer::Poll(polling) => {
                            // Copied, so that the memory of the head is given back meanwhile.
                            let mut held = BytesMut::from(&bytes[head.length..]);
                            drop(bytes);
                            let answer = polling.answer();
                            let answer =
                                Box::pin(answer_in_time(&mut client.socket, &mut held, answer));
                            let plain = match answer.await {
                                None => return,
                                Some(PollAnswer::Whole(plain)) => plain,
                                Some(PollAnswer::Begun(begun, fields)) => {
                                    drop(registration);
                                    let poll = poll(client.socket, begun, fields, head.minor);
                                    tokio::spawn(poll);
                                    return;
                                }
                            };
                            let answered =
                                self.answer(&mut client, &head, held, plain, &registration);
                            if !Box::pin(answered).await {
                                return;
                            }
                        }
                        Answer::Plain(plain) => {
                            let held = bytes.split_off(head.length);
                            let answered =
                                self.answer(&mut client, &head, held, plain, &registration);
                            if !Box::pin(answered).await {
                                return;
                            }
                        }
                    }
                }
            }
        }
    }

    /// Answers a request on the reserved path; says whether the connection goes on. From here on it
    /// waits for its client, and goes when there is no room: whoever asks again and again and takes no
    /// answer must not keep its descriptor.
    async fn answer(
        &self,
        client: &mut Client,
        head: &Head,
        held: BytesMut,
        plain: Plain,
        registration: &Registration,
    ) -> bool {
        registration.rest();
        let is_last = !head.is_keep_alive || head.body != Body::None || self.drain.has_begun();
        let patience = self.forwarder.patience.client;
        let socket = &mut client.socket;
        if answer_plain(socket, plain, head.is_head, is_last, patience).await.is_err() {
            return false;
        }
        if is_last {
            close(&mut client.socket).await;
            return false;
        }
        client.hold(held);
        true
    }

    async fn read_head(
        socket: &mut Socket,
        bytes: &mut BytesMut,
        mut gate: Gate,
        clock: &mut Clock,
        mut draining: Option<Pin<&mut impl Future<Output = ()>>>,
    ) -> Read {
        clock.set(if bytes.is_empty() { IDLE } else { HEAD_DEADLINE });
        let mut has_skipped = false;
        loop {
            // Old clients send one empty line too many after a body.
            if !has_skipped && bytes.starts_with(b"\r\n") {
                bytes.advance(2);
                (gate, has_skipped) = (Gate::late(), true);
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
            let read = poll_fn(|cx| {
                if let Poll::Ready(read) = socket.poll_fill::<4096>(cx, bytes) {
                    return Poll::Ready(Some(read));
                }
                // A used connection that is idle need not outlive the process's farewell. A new one
                // was made to ask something.
                if is_idle
                    && let Some(draining) = &mut draining
                    && draining.as_mut().poll(cx).is_ready()
                {
                    return Poll::Ready(Some(Ok(0)));
                }
                clock.poll(cx).map(|()| None)
            });
            match read.await {
                Some(Ok(1..)) if is_idle => clock.set(HEAD_DEADLINE),
                Some(Ok(1..)) => {}
                Some(Ok(0) | Err(_)) => return Read::Over,
                None if is_idle => return Read::Over,
                None => {
                    return Read::Refused(Problem::new(
                        408,
                        "the request head was not complete within 10 seconds",
                    ));
                }
            }
        }
    }

    /// Answers, and closes: nobody can say where the next request would begin.
    async fn refuse(&self, socket: &mut Socket, problem: Problem, registration: &Registration) {
        registration.rest();
        self.handler.metrics.count_proxied(problem.status);
        let plain = Plain::from(problem);
        let answer = async {
            answer_plain(socket, plain, false, true, REFUSAL_DEADLINE).await?;
            close(socket).await;
            io::Result::Ok(())
        };
        // A client that does not read its refusal has had its chance.
        let _ = timeout(REFUSAL_DEADLINE, answer).await;
    }

    async fn ask(&self, head: &Head, bytes: &[u8], rest: &str, peer: Option<SocketAddr>) -> Answer {
        let values = |name: &str| gate::header_values(&bytes[..head.length], name);
        let request = Request {
            method: head.method(bytes),
            rest,
            query: path::query_of(head.target(bytes)),
            host: values("host").into_iter().next(),
            peer: peer.map(|peer| peer.ip()),
            is_upgrade: head.is_upgrade,
        };
        let ask = self.side.ask_of(request, &values, &self.handler.guard);
        self.handler.answer(ask).await
    }
}

/// One timer for a whole connection. Whatever it is to wait for, it is set anew only when it is
/// over, or would be over too late: most waits end long before.
struct Clock {
    sleep: Pin<Box<Sleep>>,
    until: Instant,
}

impl Clock {
    fn new() -> Clock {
        let until = Instant::now() + IDLE;
        Clock { sleep: Box::pin(sleep_until(until)), until }
    }

    fn set(&mut self, after: Duration) {
        self.until = Instant::now() + after;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.sleep.deadline() > self.until {
                self.sleep.as_mut().reset(self.until);
            }
            ready!(self.sleep.as_mut().poll(cx));
            if self.until <= Instant::now() {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(self.until);
        }
    }
}

/// Waits for an answer as long as its client does; `None`: it has left. What it sends meanwhile is
/// held for the next request.
async fn answer_in_time(
    socket: &mut Socket,
    held: &mut BytesMut,
    answer: impl Future<Output = PollAnswer>,
) -> Option<PollAnswer> {
    let mut answer = pin!(answer);
    poll_fn(|cx| {
        if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
            return Poll::Ready(Some(answer));
        }
        while held.len() < MAX_HELD {
            match ready!(socket.poll_fill::<1024>(cx, held)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(None),
            }
        }
        Poll::Pending
    })
    .await
}

/// A WebSocket's own task; see [`stream`].
fn websocket(
    socket: Socket,
    upgraded: Box<Upgraded>,
    held: BytesMut,
) -> impl Future<Output = ()> + Send {
    let fields = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", upgraded.accept.as_str()),
    ];
    let head = head_of(101, &fields, 1);
    let mut sink = SocketSink { socket, is_chunked: false };
    async move {
        if !matches!(timeout(IDLE, sink.socket.write_all(&head)).await, Ok(Ok(()))) {
            return;
        }
        drop(head);
        if !upgraded.serve(&mut sink, held).await.is_cut {
            Box::pin(sink.finish()).await;
        }
    }
}

/// A stream's own task. A block that owns its parts, since a function would keep room for each of
/// them twice: as it is given, and where it is used.
fn stream(
    socket: Socket,
    mut opened: Box<Opened>,
    fields: &[(&'static str, String)],
    minor: u8,
    is_head: bool,
) -> impl Future<Output = ()> + Send + use<> {
    let is_chunked = minor > 0 && !is_head;
    let mut sink = SocketSink { socket, is_chunked };
    let head = open_head(fields, is_chunked, minor);
    async move {
        let is_sent = matches!(timeout(IDLE, sink.socket.write_all(&head)).await, Ok(Ok(())));
        if !is_sent || is_head {
            return Box::pin(close(&mut sink.socket)).await;
        }
        // As long as the stream lives, this task should hold little else than what it waits for.
        drop(head);
        // A write that was given up may have ended within an event: what came after it would be
        // taken for a part of that.
        if !opened.serve(&mut sink).await.is_cut {
            Box::pin(sink.finish()).await;
        }
    }
}

/// The head of an answer whose length is not known.
fn open_head(fields: &[(&'static str, String)], is_chunked: bool, minor: u8) -> BytesMut {
    let mut fields: Vec<(&str, &str)> =
        fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    fields.push(("Connection", "close"));
    if is_chunked {
        fields.push(("Transfer-Encoding", "chunked"));
    }
    head_of(200, &fields, minor)
}

/// The task of a poll whose answer is sent as its client takes it.
async fn poll(
    socket: Socket,
    mut begun: Box<BegunPoll>,
    fields: Vec<(&'static str, String)>,
    minor: u8,
) {
    let is_chunked = minor > 0;
    let mut sink = SocketSink { socket, is_chunked };
    let head = open_head(&fields, is_chunked, minor);
    let is_begun = matches!(timeout(IDLE, sink.socket.write_all(&head)).await, Ok(Ok(())));
    if is_begun && !begun.serve(&mut sink).await.is_cut {
        sink.finish().await;
    }
}

/// Server-Sent Events on a bare socket.
struct SocketSink {
    socket: Socket,
    is_chunked: bool,
}

impl SocketSink {
    /// A chunk of pieces that stay where they are.
    async fn send_shared(&mut self, length: usize, pieces: &[Bytes]) -> io::Result<()> {
        let framed = |frame: String| self.is_chunked.then(|| Bytes::from(frame));
        let head = framed(format!("{length:x}\r\n"));
        let end = framed("\r\n".to_string());
        let mut chunk: Pieces = head.into_iter().chain(pieces.iter().cloned()).chain(end).collect();
        self.socket.write_all_buf(&mut chunk).await?;
        self.socket.flush().await
    }

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

impl Duplex for SocketSink {
    fn poll_fill(&mut self, cx: &mut Context<'_>, to: &mut BytesMut) -> Poll<io::Result<usize>> {
        self.socket.poll_fill::<4096>(cx, to)
    }
}

impl Sink for SocketSink {
    async fn send(&mut self, pieces: &[Bytes]) -> io::Result<()> {
        let length: usize = pieces.iter().map(Bytes::len).sum();
        if length > MAX_COPY {
            return Box::pin(self.send_shared(length, pieces)).await;
        }
        let mut chunk = Vec::with_capacity(length + 16);
        if self.is_chunked {
            let _ = write!(chunk, "{length:x}\r\n");
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
        // A client has nothing more to say on this connection; whatever it sends is dropped. Polled
        // by hand, so that an idle stream has no room for it.
        poll_fn(|cx| {
            loop {
                let mut rest = [0; 64];
                let mut rest = ReadBuf::new(&mut rest);
                match ready!(Pin::new(&mut self.socket).poll_read(cx, &mut rest)) {
                    Ok(()) if !rest.filled().is_empty() => {}
                    _ => return Poll::Ready(()),
                }
            }
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How large the future is that a function of five arguments makes.
    fn size<A, B, C, D, E, F>(_: impl FnOnce(A, B, C, D, E) -> F) -> usize {
        size_of::<F>()
    }

    fn size_of_three<A, B, C, F>(_: fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// Idle streams are what there is most of. With the 104 bytes that tokio adds to a task, this
    /// fits a piece of 768 bytes; what is opened, one of 256. The next larger ones that the allocator
    /// has are a sixth and a quarter more.
    #[test]
    fn a_stream_is_small() {
        assert!(size(stream) <= 664, "{}", size(stream));
        // A WebSocket's fits one of 1,024.
        assert!(size_of_three(websocket) <= 920, "{}", size_of_three(websocket));
        assert!(size_of::<Opened>() <= 256, "{}", size_of::<Opened>());
    }
}
