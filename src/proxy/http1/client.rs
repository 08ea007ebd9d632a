//! A client's connection while one of its requests is answered.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{Interval, interval};

use crate::proxy::io::Socket;

/// Bytes of the next requests that are taken in while one is answered.
const MAX_HELD: usize = 64 * 1024;
/// How often it is looked at whether a client that has closed its half is still there.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A client that has closed its half and was sent nothing for so many looks is taken for gone.
/// TCP cannot tell it from one that still listens, unless something is sent to it; and an app
/// should not work for nobody.
const MAX_SILENT_LOOKS: u8 = 6;

/// A connection between requests: nothing but what was read too early.
#[derive(Debug)]
pub struct Client {
    pub socket: Socket,
    /// Of the next request.
    pub held: BytesMut,
}

impl Client {
    /// For a connection from which nothing has been read yet.
    pub fn new(socket: Socket) -> Client {
        Client { socket, held: BytesMut::new() }
    }

    /// Keeps what was read behind a request.
    pub fn hold(&mut self, bytes: BytesMut) {
        if !bytes.is_empty() {
            self.held = bytes;
        }
    }

    /// While an answer is waited for that ends it anyway: takes in the next requests, and is ready when
    /// the client has closed its half.
    pub fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // With enough of them, the rest waits in the kernel.
        while self.held.len() < MAX_HELD {
            match ready!(self.socket.poll_fill::<1024>(cx, &mut self.held)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }
}

/// Looks whether a client is still there that has said all it has to say. It may close its half
/// and listen: whether it is gone shows when something is written to it; where nothing is, it is
/// given a few seconds.
#[derive(Debug, Default)]
pub struct Watch {
    /// The client has closed its half; when to look whether it is still there.
    half_closed: Option<Pin<Box<Interval>>>,
    silent_looks: u8,
}

impl Watch {
    /// Something was written to the client.
    pub fn has_written(&mut self) {
        self.silent_looks = 0;
    }

    /// While an answer is on its way: takes in the next requests, and is ready when the client is
    /// gone.
    pub fn poll_gone(&mut self, client: &mut Client, cx: &mut Context<'_>) -> Poll<io::Error> {
        while self.half_closed.is_none() {
            if client.held.len() >= MAX_HELD {
                // Enough: the rest waits in the kernel. Nothing wakes this read, and nothing has
                // to, since the answer in progress ends it.
                return Poll::Pending;
            }
            match ready!(client.socket.poll_fill::<512>(cx, &mut client.held)) {
                Ok(0) => self.half_closed = Some(Box::pin(interval(LOOK_EVERY))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(error),
            }
        }
        let Some(look) = &mut self.half_closed else { return Poll::Pending };
        loop {
            ready!(look.as_mut().poll_tick(cx));
            if let Some(error) = client.socket.take_error() {
                return Poll::Ready(error);
            }
            self.silent_looks += 1;
            if self.silent_looks > MAX_SILENT_LOOKS {
                return Poll::Ready(io::ErrorKind::ConnectionAborted.into());
            }
        }
    }
}
