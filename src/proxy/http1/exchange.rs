//! One request and its answer, between two connections: both directions at once, in one future.
//!
//! Invariants:
//!
//! - A direction has one buffer, which is filled when it is empty and written until it is empty. A
//!   slow peer is waited for; nothing accumulates. While there is nothing to read, there is no
//!   buffer.
//! - A client that makes no progress in either direction is disconnected after
//!   `clients.send_timeout`. The app has no such limit unless `app_read_timeout` sets one.
//! - The first bytes of the request, the head and what came with it, are kept until more of the
//!   request is read, so that they can be sent again if the app closed the connection before.
//! - The app's answer is passed on even if the app does not read the rest of the request.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::ahead::Ahead;
use super::answer::{self, To};
use super::client::{Client, Watch};
use crate::drain::Drain;
use crate::proxy::app::answer::RequestKind;
use crate::proxy::app::body::Body;
use crate::proxy::app::connection::Room;
use crate::proxy::app::{AppConnection, Broken};
use crate::proxy::chunks::Malformed;
use crate::proxy::limits::pause::Pause;

/// Why an exchange ended before its answer was whole.
#[derive(Debug)]
pub enum Stop {
    /// The client is gone.
    Gone,
    /// The app had closed the connection before: the request may be sent again.
    Stale,
    /// The request's body is malformed.
    Malformed,
    /// The request's body does not come.
    Late,
    /// The client does not take the answer.
    Stalled,
    App(Broken),
}

/// What is known of a request from its head.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    pub asked: RequestKind,
    pub minor: u8,
    pub is_keep_alive: bool,
    pub is_idempotent: bool,
}

/// The time limits for the client and for the app.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a client to take or to send something.
    pub client: Duration,
    /// For the app to answer, or to go on with an answer; `None`: as long as it likes.
    pub app: Option<Duration>,
}

/// The request's way.
#[derive(Debug)]
struct Up {
    /// Read, and written up to `at`.
    buffer: BytesMut,
    at: usize,
    /// What is read into next.
    spare: BytesMut,
    room: Room,
    /// The buffer holds the request from its beginning.
    is_first: bool,
    is_written: bool,
    /// The app does not read any more.
    is_deaf: bool,
    body: Body,
    pause: Pause,
    /// While the app does not take what there is.
    ahead: Ahead,
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    Head,
    Body,
    Done,
}

/// The answer's way.
#[derive(Debug)]
struct Down {
    buffer: BytesMut,
    stage: Stage,
    needs_flush: bool,
    /// Of what is in the buffer, the client has the beginning.
    is_cut: bool,
    status: u16,
    /// Some of the final answer is on its way to the client.
    is_out: bool,
    is_last: bool,
    /// Only the end of the connection tells the client that the answer is whole.
    ends_with_connection: bool,
    pause: Pause,
    /// Of the app, where that is limited.
    silence: Option<Pause>,
}

/// Forwards one request and its response, both directions at once.
#[derive(Debug)]
pub struct Exchange<'a> {
    pub client: &'a mut Client,
    app: AppConnection,
    request: Request,
    drain: &'a Drain,
    up: Up,
    down: Down,
    watch: Watch,
}

impl<'a> Exchange<'a> {
    /// `first` is the head for the app, with what is at hand of the body.
    pub fn new(
        client: &'a mut Client,
        mut app: AppConnection,
        request: Request,
        drain: &'a Drain,
        patience: Patience,
        first: BytesMut,
        body: Body,
    ) -> Exchange<'a> {
        app.begin(request.asked);
        let up = Up {
            buffer: first,
            at: 0,
            spare: BytesMut::new(),
            room: Room::default(),
            is_first: true,
            is_written: false,
            is_deaf: false,
            body,
            pause: Pause::new(patience.client),
            ahead: Ahead::default(),
        };
        let down = Down {
            buffer: BytesMut::new(),
            stage: Stage::Head,
            needs_flush: false,
            is_cut: false,
            status: 0,
            is_out: false,
            is_last: false,
            ends_with_connection: false,
            pause: Pause::new(patience.client),
            silence: patience.app.map(Pause::new),
        };
        Exchange { client, app, request, drain, up, down, watch: Watch::default() }
    }

    /// Begins again on another connection, after [`Stop::Stale`].
    pub fn restart(&mut self, mut app: AppConnection) {
        app.begin(self.request.asked);
        self.app = app;
        self.up.at = 0;
        (self.up.is_written, self.up.is_deaf) = (false, false);
    }

    /// The status of the answer that the client got, or some of it; 0 for none.
    pub fn status(&self) -> u16 {
        if self.down.is_out { self.down.status } else { 0 }
    }

    /// Whether the client has a part of a head, so that nothing else can be said.
    pub fn is_cut(&self) -> bool {
        self.down.is_cut
    }

    /// Whether the client's connection ends with this answer, as its head says.
    pub fn is_last(&self) -> bool {
        self.down.is_last
    }

    /// Whether the client has not sent all of its request.
    pub fn is_sending(&self) -> bool {
        !self.up.body.is_done()
    }

    /// Whether the client knows the end of the answer only by the end of the connection.
    pub fn ends_with_connection(&self) -> bool {
        self.down.ends_with_connection
    }

    /// Both connections, and whether the app got the whole request.
    pub fn into_parts(self) -> (&'a mut Client, AppConnection, bool) {
        let is_whole = self.up.body.is_done() && self.up.is_written && !self.up.is_deaf;
        (self.client, self.app, is_whole)
    }

    /// Ready when the answer is passed on whole, or with the head of one that switches protocols.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        match self.poll_up(cx) {
            Poll::Ready(stop) => Poll::Ready(Err(stop)),
            Poll::Pending => match self.poll_down(cx) {
                Poll::Pending => self.poll_silence(cx).map(|()| Err(Stop::App(Broken::Silent))),
                ready => ready,
            },
        }
    }

    /// Ready when the app has the whole request and has been silent for too long.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(silence) = &mut self.down.silence else { return Poll::Pending };
        let is_its_turn = self.up.is_written && self.up.body.is_done();
        if is_its_turn && self.down.buffer.is_empty() && !self.down.needs_flush {
            return silence.poll_too_long(cx);
        }
        silence.has_moved();
        Poll::Pending
    }

    /// Passes the request on, and then watches the client.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<Stop> {
        loop {
            let is_waiting = match self.up.is_written {
                true => false,
                false => match self.poll_write_up(cx) {
                    Poll::Ready(Ok(())) => false,
                    Poll::Ready(Err(stop)) => return Poll::Ready(stop),
                    Poll::Pending => true,
                },
            };
            if self.up.body.is_done() {
                return self.watch.poll_gone(self.client, cx).map(|_| Stop::Gone);
            }
            if is_waiting {
                return self.poll_unread(cx);
            }
            if !self.up.ahead.take(&mut self.up.spare)
                && let Err(stop) = ready!(self.poll_read_up(cx))
            {
                return Poll::Ready(stop);
            }
            let Ok(behind) = self.up.body.pass(&mut self.up.spare) else {
                return Poll::Ready(Stop::Malformed);
            };
            self.client.hold(behind);
            std::mem::swap(&mut self.up.buffer, &mut self.up.spare);
            self.up.at = 0;
            self.up.is_first = false;
            // What nobody wants to hear is dropped.
            self.up.is_written = self.up.is_deaf;
        }
    }

    /// Reads more of the request's body; an error is what ends the exchange.
    fn poll_read_up(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        let Up { spare, buffer, room, pause, is_first, .. } = &mut self.up;
        room.make(spare);
        let read = pin!(self.client.socket.read_buf(spare)).poll(cx);
        let Poll::Ready(read) = read else {
            room.leave(spare);
            if !*is_first {
                *buffer = BytesMut::new();
            }
            return pause.poll_too_long(cx).map(|()| Err(Stop::Late));
        };
        room.is_slow |= pause.has_moved();
        room.learn(spare);
        Poll::Ready(match read {
            Ok(1..) => Ok(()),
            // A body that is cut short.
            _ => Err(Stop::Gone),
        })
    }

    /// The app does not take what there is of the body: is the client still there?
    fn poll_unread(&mut self, cx: &mut Context<'_>) -> Poll<Stop> {
        if !self.up.ahead.has_read() {
            self.up.spare = BytesMut::new();
        }
        let Up { ahead, body, .. } = &mut self.up;
        ahead.poll_gone(&mut self.client.socket, body, cx).map(|()| Stop::Gone)
    }

    /// Ready when nothing is left to be written.
    fn poll_write_up(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        let mut rest = &self.up.buffer[self.up.at..];
        let written = self.app.poll_write(cx, &mut rest);
        let at = self.up.buffer.len() - rest.len();
        if at > self.up.at {
            self.up.at = at;
            self.up.ahead.has_moved();
        }
        match ready!(written) {
            Ok(()) => self.up.is_written = true,
            Err(_) if self.up.at == 0 && self.is_stale() => return Poll::Ready(Err(Stop::Stale)),
            // What the app has said before can still be read.
            Err(_) => (self.up.is_deaf, self.up.is_written) = (true, true),
        }
        Poll::Ready(Ok(()))
    }

    fn is_stale(&self) -> bool {
        self.up.is_first && self.app.is_stale(self.request.is_idempotent)
    }

    /// Passes the answer on.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        loop {
            ready!(self.poll_write_down(cx))?;
            match self.down.stage {
                Stage::Head => ready!(self.poll_head(cx))?,
                Stage::Body => {
                    let more = ready!(self.app.poll_body(cx, &mut self.down.buffer));
                    self.down.has_heard();
                    if !more.map_err(Stop::App)? {
                        self.down.stage = Stage::Done;
                    }
                }
                Stage::Done => return Poll::Ready(Ok(())),
            }
        }
    }

    fn poll_write_down(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        match self.poll_push_down(cx) {
            Poll::Ready(done) => Poll::Ready(done),
            Poll::Pending => self.down.pause.poll_too_long(cx).map(|()| Err(Stop::Stalled)),
        }
    }

    fn poll_push_down(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        let Down { buffer, stage, needs_flush, is_out, is_cut, pause, .. } = &mut self.down;
        let mut socket = Pin::new(&mut self.client.socket);
        while !buffer.is_empty() {
            match ready!(socket.as_mut().poll_write(cx, buffer)) {
                Ok(written @ 1..) => {
                    buffer.advance(written);
                    *is_cut = !buffer.is_empty();
                }
                _ => return Poll::Ready(Err(Stop::Gone)),
            }
            if pause.has_moved() {
                self.app.has_slow_client();
            }
            // Who is answered may have nothing more to say for now.
            self.up.pause.has_moved();
            *needs_flush = true;
            *is_out |= *stage != Stage::Head;
            self.watch.has_written();
        }
        if *needs_flush {
            if ready!(socket.poll_flush(cx)).is_err() {
                return Poll::Ready(Err(Stop::Gone));
            }
            *needs_flush = false;
            pause.has_moved();
        }
        Poll::Ready(Ok(()))
    }

    /// Takes a head, and with a final one as much of its body as has come, to be written at once.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        let to = To {
            minor: self.request.minor,
            // Who has not said all by now may not want to: where the next request begins is
            // unknown.
            is_last: !self.request.is_keep_alive
                || !self.up.body.is_done()
                || self.drain.has_begun(),
        };
        let out = &mut self.down.buffer;
        let taken = ready!(self.app.poll_head(cx, |head, bytes| {
            if head.is_informational() && to.minor == 0 {
                // HTTP/1.0 has none.
                return Ok((head, None));
            }
            answer::write(&head, bytes, to, out).map(|begun| (head, Some(begun)))
        }));
        self.down.has_heard();
        let (head, begun) = match taken {
            Ok(Ok(taken)) => taken,
            Ok(Err(reason)) => return Poll::Ready(Err(Stop::App(Broken::Malformed(reason)))),
            Err(_) if self.is_stale() => return Poll::Ready(Err(Stop::Stale)),
            Err(broken) => return Poll::Ready(Err(Stop::App(broken))),
        };
        let Some(begun) = begun.filter(|_| !head.is_informational()) else {
            return Poll::Ready(Ok(()));
        };
        self.down.status = head.status;
        self.down.is_last = begun.is_last;
        self.down.ends_with_connection = matches!(begun.body, Body::Bare(_) | Body::UntilClose);
        if head.status == 101 {
            self.down.stage = Stage::Done;
            return Poll::Ready(Ok(()));
        }
        self.app.expect(begun.body);
        self.down.stage = Stage::Body;
        let mut piece = BytesMut::new();
        if let Poll::Ready(more) = self.app.poll_body(cx, &mut piece) {
            if !more.map_err(Stop::App)? {
                self.down.stage = Stage::Done;
            }
            self.down.buffer.extend_from_slice(&piece);
        }
        Poll::Ready(Ok(()))
    }
}

impl Down {
    /// The app has said something.
    fn has_heard(&mut self) {
        if let Some(silence) = &mut self.silence {
            silence.has_moved();
        }
    }
}

impl From<Malformed> for Stop {
    fn from(Malformed: Malformed) -> Stop {
        Stop::Malformed
    }
}
