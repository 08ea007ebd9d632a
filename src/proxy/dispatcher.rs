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
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::connections::Registration;
use super::gate::{self, Body, Gate, Head, Verdict};
use super::http1::Forwarder;
use super::http1::client::Client;
use super::http2::{self, Site};
use super::io::Socket;
use super::path::{self, Target};
use super::plain::{answer_plain, close};
use super::side::{Request, Side};
use super::streams::{begun_poll, stream, websocket};
use crate::api::poll::{PollAnswer, Polling};
use crate::api::problem::Problem;
use crate::api::reserved::{Answer, Handler, Plain};
use crate::drain::Drain;

/// A request head must be complete this long after its first byte.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// How long a connection may wait for its next request.
const IDLE: Duration = Duration::from_secs(60);
/// How long a refused client may take to read why.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(5);

/// Serves connections of the public port.
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

/// What is to be known of a request on the reserved path when it is answered.
#[derive(Clone, Copy)]
struct Asked {
    minor: u8,
    is_head: bool,
    /// Whether the connection ends with it.
    is_last: bool,
}

impl Asked {
    fn by(head: &Head) -> Asked {
        let is_last = !head.is_keep_alive || head.body != Body::None;
        Asked { minor: head.minor, is_head: head.is_head, is_last }
    }
}

/// A part of a connection's life, in a future of its own, whose memory is given back when the next
/// part begins: a poll that waits needs little of what reading and forwarding requests needs.
struct Stage(Pin<Box<dyn Future<Output = Option<Stage>> + Send>>);

/// One part after the other. By hand, since a block would have room for two of them.
struct Stages(Stage);

impl Future for Stages {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Stage(present) = &mut self.0;
            match ready!(present.as_mut().poll(cx)) {
                Some(next) => self.0 = next,
                None => return Poll::Ready(()),
            }
        }
    }
}

impl Stage {
    fn last(future: impl Future<Output = ()> + Send + 'static) -> Stage {
        // Once: a block has room for what it is given and for what it waits for.
        let future = Box::pin(future);
        Stage(Box::pin(async move {
            future.await;
            None
        }))
    }
}

impl Dispatcher {
    /// Serves one connection to its end.
    pub fn serve(
        self: Arc<Self>,
        socket: Socket,
        registration: Registration,
    ) -> impl Future<Output = ()> + Send {
        Stages(self.requests(Client::new(socket), registration, true))
    }

    /// Reads requests and answers them, until the connection ends or goes over to something else.
    fn requests(
        self: Arc<Self>,
        client: Client,
        registration: Registration,
        is_first: bool,
    ) -> Stage {
        Stage(Box::pin(self.take_requests(client, registration, is_first)))
    }

    async fn take_requests(
        self: Arc<Self>,
        mut client: Client,
        registration: Registration,
        mut is_first: bool,
    ) -> Option<Stage> {
        let peer = client.socket.peer();
        let mut may_be_h2 = is_first && client.socket.may_be_h2();
        if is_first {
            // Nobody else notices clients that are gone without a word while they wait for the app.
            client.socket.limit_unacknowledged();
            client.socket.limit_unsent();
            client.socket.probe();
            if client.socket.is_h2() {
                return Some(self.http2(client.socket, BytesMut::new(), registration));
            }
        }
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
                return None;
            }
            let head = match read {
                Read::Request(head) => head,
                Read::Http2 => return Some(self.http2(client.socket, bytes, registration)),
                Read::Over => return None,
                Read::Refused(problem) => {
                    Box::pin(self.refuse(&mut client.socket, problem, &registration)).await;
                    return None;
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
                        return None;
                    }
                }
                Target::Ambiguous => {
                    let problem = Problem::new(
                        400,
                        "this path is ambiguous: send it without dot segments and without \
                         unnecessary percent-encoding",
                    );
                    Box::pin(self.refuse(&mut client.socket, problem, &registration)).await;
                    return None;
                }
                Target::Reserved { rest } => {
                    // Boxed: finding out who asks may take a moment, and idle connections wait here.
                    let answer = Box::pin(self.ask(&head, &bytes, &rest, peer)).await;
                    match answer {
                        Answer::Stream(opened, fields) => {
                            // A task of its own: a stream is ended by other limits than a connection.
                            drop(registration);
                            let stream =
                                stream(client.socket, opened, &fields, head.minor, head.is_head);
                            tokio::spawn(stream);
                            return None;
                        }
                        Answer::WebSocket(upgraded) => {
                            let held = bytes.split_off(head.length);
                            let has_place = upgraded.is_open();
                            let socket = websocket(client.socket, upgraded, held);
                            if has_place {
                                tokio::spawn(socket);
                                return None;
                            }
                            // It is told why not, and holds no place among the connections meanwhile.
                            registration.rest();
                            Box::pin(socket).await;
                            return None;
                        }
                        Answer::Poll(polling) => {
                            // Copied, so that the memory of the head is given back meanwhile.
                            client.held = BytesMut::from(&bytes[head.length..]);
                            let request = Asked::by(&head);
                            let poll = self.poll(client, registration, polling, request);
                            return Some(Stage(Box::pin(poll)));
                        }
                        Answer::Plain(plain) => {
                            client.hold(bytes.split_off(head.length));
                            let request = Asked::by(&head);
                            let answered = self.answer(&mut client, request, plain, &registration);
                            if !Box::pin(answered).await {
                                return None;
                            }
                        }
                    }
                }
            }
        }
    }

    fn http2(&self, socket: Socket, read: BytesMut, registration: Registration) -> Stage {
        Stage::last(http2::serve(self.site.clone(), socket, read, registration))
    }

    /// Waits for a poll's answer as long as its client does, sends it, and goes on with the requests.
    /// What the client sends meanwhile is held for these.
    #[expect(
        clippy::manual_async_fn,
        reason = "a function would keep room for each of its arguments twice"
    )]
    fn poll(
        self: Arc<Self>,
        mut client: Client,
        registration: Registration,
        polling: Box<Polling>,
        request: Asked,
    ) -> impl Future<Output = Option<Stage>> + Send {
        async move {
            let answer = {
                let mut answer = pin!(polling.answer());
                let answer = poll_fn(|cx| match answer.as_mut().poll(cx) {
                    Poll::Ready(answer) => Poll::Ready(Some(answer)),
                    Poll::Pending => client.poll_left(cx).map(|()| None),
                });
                answer.await?
            };
            let plain = match answer {
                PollAnswer::Whole(plain) => plain,
                PollAnswer::Begun(begun, fields) => {
                    drop(registration);
                    tokio::spawn(begun_poll(client.socket, begun, fields, request.minor));
                    return None;
                }
            };
            let answered = self.answer(&mut client, request, plain, &registration);
            let goes_on = Box::pin(answered).await;
            goes_on.then(|| self.requests(client, registration, false))
        }
    }

    /// Answers a request on the reserved path; says whether the connection goes on. From here on it
    /// waits for its client, and goes when there is no room: whoever asks again and again and takes no
    /// answer must not keep its descriptor.
    async fn answer(
        &self,
        client: &mut Client,
        request: Asked,
        plain: Plain,
        registration: &Registration,
    ) -> bool {
        registration.rest();
        let is_last = request.is_last || self.drain.has_begun();
        let patience = self.forwarder.patience.client;
        let socket = &mut client.socket;
        if answer_plain(socket, plain, request.is_head, is_last, patience).await.is_err() {
            return false;
        }
        if is_last {
            close(&mut client.socket).await;
        }
        !is_last
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

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, C, F>(_: fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    fn size_of_five<A, B, C, D, E, F>(_: fn(A, B, C, D, E) -> F) -> usize {
        size_of::<F>()
    }

    /// What waits fits the allocator's pieces of 128, 512 and 256 bytes: a task, which has 104 bytes of
    /// tokio's own and is a multiple of 128 bytes long; the poll; and what was opened for it.
    #[test]
    fn a_poll_that_waits_is_small() {
        assert!(size(Dispatcher::serve) <= 24, "{}", size(Dispatcher::serve));
        let poll = size_of_five(Dispatcher::poll);
        assert!(poll <= 512, "{poll}");
        assert!(size_of::<Polling>() <= 256, "{}", size_of::<Polling>());
    }
}
