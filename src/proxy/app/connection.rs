//! One connection to the app, in HTTP/1.1: bytes of requests go out, heads and bodies of answers
//! come in.
//!
//! Everything is polled, so that one task can write a request's body and read its answer at the
//! same time; nothing is lost when a poll is not repeated. For one exchange:
//!
//! 1. [`super::App::take`], [`AppConnection::begin`].
//! 2. Write head and body with [`AppConnection::poll_write`]. An error there is not the end: the app
//!    may have answered and stopped reading. What it said counts; ask [`AppConnection::poll_head`].
//! 3. [`AppConnection::poll_head`] until the head is not informational, [`AppConnection::expect`] a body,
//!    and [`AppConnection::poll_body`] to its end.
//! 4. [`super::App::give_back`], once the request is written whole too.
//!
//! Where the head cannot be had because the connection is gone, [`AppConnection::is_stale`] says
//! whether the request may be sent again, on a fresh one.

use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::answer::{self, Head, HeadState, RequestKind};
use super::body::Body;
use super::socket::Socket;
use crate::proxy::chunks::Malformed;
use crate::proxy::limits::budget::{BODIES, Lease};

/// Room for what is read: a page or a small file with its head comes in one piece.
pub const ROOM: usize = 32 * 1024;
/// Room for bodies that fill that: the more goes in one piece, the less often the app and the client
/// have to be woken. With 128 KiB, a large upload took a tenth longer. Only so many have it at the
/// same time ([`BODIES`]), and nobody whose client is slow.
pub const MUCH_ROOM: usize = 512 * 1024;

/// Why there is no answer, or no more of it.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("the connection to the app: {0}")]
    Io(#[from] io::Error),
    #[error("the app closed the connection before its answer was complete")]
    Closed,
    #[error("the app's answer is refused: {0}")]
    Malformed(&'static str),
    #[error("the app was silent for longer than app_read_timeout")]
    Silent,
}

impl Broken {
    /// What clients are told where none of an answer is out: a status, and why.
    pub fn told(&self) -> (u16, &'static str) {
        match self {
            Broken::Io(_) | Broken::Closed => (502, "the app behind this address does not answer"),
            Broken::Malformed(_) => {
                (502, "the answer of the app behind this address is not HTTP/1.1, or is ambiguous")
            }
            Broken::Silent => (504, "the app behind this address did not answer in time"),
        }
    }
}

impl From<Malformed> for Broken {
    fn from(Malformed: Malformed) -> Broken {
        Broken::Malformed("its chunks are malformed")
    }
}

/// A connection to the app, and how far its present exchange has come.
#[derive(Debug)]
pub struct AppConnection {
    pub(super) socket: Socket,
    /// Read and not used yet.
    pub(super) unread: BytesMut,
    is_reused: bool,
    asked: RequestKind,
    /// How far the next head was looked at.
    seen: usize,
    /// Something of an answer came.
    is_answering: bool,
    /// Some of the request was written.
    is_asked: bool,
    needs_flush: bool,
    body: Body,
    room: Room,
    /// What the last head said.
    is_keep_alive: bool,
}

impl AppConnection {
    pub(super) fn new(socket: Socket, is_reused: bool) -> AppConnection {
        AppConnection {
            socket,
            unread: BytesMut::new(),
            is_reused,
            asked: RequestKind { is_head: false, is_upgrade: false },
            seen: 0,
            is_answering: false,
            is_asked: false,
            needs_flush: false,
            body: Body::Done,
            room: Room::default(),
            is_keep_alive: false,
        }
    }

    /// The number of its descriptor.
    pub(super) fn descriptor(&self) -> usize {
        self.socket.descriptor()
    }

    /// Begins an exchange; what is asked says how the answer is to be read.
    pub fn begin(&mut self, asked: RequestKind) {
        self.asked = asked;
    }

    /// Whether others were answered on this connection before, so that it may turn out to be stale.
    pub fn is_reused(&self) -> bool {
        self.is_reused
    }

    /// The client is slow: no more large buffers for it.
    pub fn has_slow_client(&mut self) {
        self.room.is_slow = true;
    }

    /// After an error: whether this connection was closed while it was idle, as far as one can
    /// tell, so that the request may be sent again on a fresh one. Not one that does something
    /// twice when it is sent twice, unless none of it was sent.
    pub fn is_stale(&self, is_idempotent: bool) -> bool {
        self.is_reused && !self.is_answering && (is_idempotent || !self.is_asked)
    }

    /// Writes these bytes, which become fewer; ready when there are none left and all are on their
    /// way.
    ///
    /// # Errors
    /// The app does not read any more; it may have answered nevertheless.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &mut impl Buf,
    ) -> Poll<io::Result<()>> {
        while bytes.has_remaining() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, bytes.chunk()))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            bytes.advance(written);
            (self.is_asked, self.needs_flush) = (true, true);
        }
        if self.needs_flush {
            ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
            self.needs_flush = false;
        }
        Poll::Ready(Ok(()))
    }

    /// The next head, informational or final; its bytes are given to `take`.
    ///
    /// # Errors
    /// There is none, or one that has two readings.
    pub fn poll_head<T>(
        &mut self,
        cx: &mut Context<'_>,
        take: impl FnOnce(Head, &[u8]) -> T,
    ) -> Poll<Result<T, Broken>> {
        loop {
            match answer::inspect(&self.unread, &mut self.seen, self.asked) {
                HeadState::Partial => {}
                HeadState::Malformed(reason) => return Poll::Ready(Err(Broken::Malformed(reason))),
                HeadState::Head(head) => {
                    self.seen = 0;
                    self.is_keep_alive = head.is_keep_alive;
                    let taken = take(head, &self.unread[..head.length]);
                    self.unread.advance(head.length);
                    return Poll::Ready(Ok(taken));
                }
            }
            if ready!(self.poll_read_head(cx))? == 0 {
                return Poll::Ready(Err(Broken::Closed));
            }
            self.is_answering = true;
        }
    }

    /// Reads by way of the stack: while an app thinks, its connection has no buffer.
    fn poll_read_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [const { MaybeUninit::uninit() }; ROOM];
        let mut read = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut read))?;
        self.unread.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    }

    /// What comes behind the final head.
    pub fn expect(&mut self, body: Body) {
        self.body = body;
    }

    /// The next piece of the body, as [`Body`] makes it, put into this empty buffer; `false` at the
    /// end of the body, perhaps with a last piece. While none is there, the buffer has no memory.
    ///
    /// # Errors
    /// The body is cut short, or malformed.
    pub fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        piece: &mut BytesMut,
    ) -> Poll<Result<bool, Broken>> {
        self.poll_body_up_to(cx, piece, usize::MAX)
    }

    /// As [`AppConnection::poll_body`], and no more than so many bytes at once.
    ///
    /// # Errors
    /// The body is cut short, or malformed.
    pub fn poll_body_up_to(
        &mut self,
        cx: &mut Context<'_>,
        piece: &mut BytesMut,
        most: usize,
    ) -> Poll<Result<bool, Broken>> {
        loop {
            if self.body.is_done() {
                return Poll::Ready(Ok(false));
            }
            let mut behind = BytesMut::new();
            if self.unread.len() > most {
                *piece = self.unread.split_to(most);
                behind = std::mem::take(&mut self.unread);
            } else if self.unread.is_empty() {
                let read = ready!(self.poll_fill(cx, piece, most))?;
                if read == 0 {
                    return Poll::Ready(match self.body.close(piece) {
                        true => Ok(false),
                        false => Err(Broken::Closed),
                    });
                }
            } else {
                std::mem::swap(piece, &mut self.unread);
                self.unread = BytesMut::new();
            }
            self.unread = self.body.pass(piece)?;
            if !behind.is_empty() {
                self.unread.unsplit(behind);
            }
            if !piece.is_empty() {
                return Poll::Ready(Ok(!self.body.is_done()));
            }
        }
    }

    /// Reads into an empty buffer, that grows with what comes.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut BytesMut,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        if most < ROOM {
            self.room.leave(to);
            to.reserve(most);
        } else {
            self.room.make(to);
        }
        let most = u64::try_from(most).unwrap_or(u64::MAX);
        let read = pin!((&mut self.socket).take(most).read_buf(to)).poll(cx);
        match read {
            Poll::Ready(read) => {
                self.room.learn(to);
                Poll::Ready(read)
            }
            Poll::Pending => {
                self.room.leave(to);
                Poll::Pending
            }
        }
    }

    /// The trailer lines behind a body in chunks, each with its CR LF.
    pub fn take_trailers(&mut self) -> Vec<u8> {
        std::mem::replace(&mut self.body, Body::Done).into_trailers()
    }

    /// Whether the answer is over, and the connection as it was before it.
    pub(super) fn is_clean(&self) -> bool {
        self.is_keep_alive && self.body.is_done() && self.unread.is_empty() && !self.needs_flush
    }

    /// After 101: the socket, and what came behind the head.
    pub fn into_parts(self) -> (Socket, BytesMut) {
        (self.socket, self.unread)
    }
}

/// How much room a direction needs for what is read: more, once it was all used, and as long as it is
/// used quickly.
#[derive(Debug, Default)]
pub struct Room {
    is_much: bool,
    /// Of a client that is slow to take or to send.
    pub is_slow: bool,
    /// For what is more than [`ROOM`].
    lease: Option<Lease>,
}

impl Room {
    /// Gives an empty buffer room to be read into.
    pub fn make(&mut self, buffer: &mut BytesMut) {
        let room = match self.has_much() {
            true => MUCH_ROOM,
            false => ROOM,
        };
        buffer.clear();
        if buffer.capacity() > 2 * room {
            *buffer = BytesMut::new();
        }
        if buffer.capacity() < room {
            buffer.reserve(room);
        }
    }

    fn has_much(&mut self) -> bool {
        if !self.is_much || self.is_slow {
            self.lease = None;
        } else if self.lease.is_none() {
            self.lease = BODIES.take(MUCH_ROOM - ROOM);
        }
        self.lease.is_some()
    }

    /// Nothing is there to be read: until then, the buffer's memory is for others.
    pub fn leave(&mut self, buffer: &mut BytesMut) {
        *buffer = BytesMut::new();
        self.lease = None;
    }

    /// The buffer was read into.
    pub fn learn(&mut self, buffer: &BytesMut) {
        self.is_much |= buffer.len() >= ROOM;
    }
}
