//! An upload that the app does not take: is its client still there?
//!
//! A client that leaves shows that by the end of what it sends, which comes behind all that the
//! kernels hold of it. So, after a few seconds without progress, some of that is read ahead, as far
//! as memory is set aside for it ([`AHEAD`]); a client that is cut off shows without that.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::time::{Interval, interval};

use crate::proxy::app::body::Body;
use crate::proxy::io::Socket;
use crate::proxy::limits::budget::{AHEAD, Lease};

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After so many looks without progress, it is read ahead.
const PATIENT_LOOKS: u8 = 5;
/// How much of one upload, in bytes: what the kernels of both sides hold of it is 3 to 6 MB by
/// default.
const MOST: usize = 12 * 1024 * 1024;
/// So much is set aside for it at a time.
const STEP: usize = 2 * 1024 * 1024;
/// Room for one read.
const ROOM: usize = 64 * 1024;

/// Reads ahead of a stalled upload to notice that its client has left.
#[derive(Debug, Default)]
pub struct Ahead {
    look: Option<Pin<Box<Interval>>>,
    looks: u8,
    /// Read, and not passed on.
    read: BytesMut,
    leases: Vec<Lease>,
    /// All that there was, or may be, was read.
    is_full: bool,
}

impl Ahead {
    /// The app has taken something.
    pub fn has_moved(&mut self) {
        self.looks = 0;
    }

    /// Whether it holds bytes that the app has not been given.
    pub fn has_read(&self) -> bool {
        !self.read.is_empty()
    }

    /// The app has taken all that was given to it: what was read ahead is next; `false` if that is
    /// nothing.
    pub fn take(&mut self, to: &mut BytesMut) -> bool {
        if self.read.is_empty() {
            if !self.leases.is_empty() {
                (self.leases, self.is_full) = (Vec::new(), false);
            }
            return false;
        }
        *to = std::mem::take(&mut self.read);
        // Until the app has taken that too, its memory is in use.
        self.is_full = true;
        true
    }

    /// Ready when the client has gone. `body` is what is still to come.
    pub fn poll_gone(
        &mut self,
        socket: &mut Socket,
        body: &Body,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        loop {
            if !self.leases.is_empty() && self.poll_read(socket, body, cx).is_ready() {
                return Poll::Ready(());
            }
            let look = self.look.get_or_insert_with(|| Box::pin(interval(LOOK_EVERY)));
            ready!(look.as_mut().poll_tick(cx));
            if socket.take_error().is_some() {
                return Poll::Ready(());
            }
            self.looks = self.looks.saturating_add(1);
            if self.looks > PATIENT_LOOKS && self.leases.is_empty() {
                self.leases.extend(AHEAD.take(STEP));
            }
        }
    }

    /// Ready when the end comes before that of the body.
    fn poll_read(&mut self, socket: &mut Socket, body: &Body, cx: &mut Context<'_>) -> Poll<()> {
        while !self.is_full {
            self.read.reserve(ROOM);
            let read = ready!(pin!(socket.read_buf(&mut self.read)).poll(cx));
            if !matches!(read, Ok(1..)) {
                self.is_full = true;
                // All may have come that there is: then the client listens, perhaps.
                return match body.would_be_done(&self.read) {
                    true => Poll::Pending,
                    false => Poll::Ready(()),
                };
            }
            if self.read.len() + ROOM > self.leases.len() * STEP {
                let more = (self.leases.len() < MOST / STEP).then(|| AHEAD.take(STEP)).flatten();
                self.is_full = more.is_none();
                self.leases.extend(more);
            }
        }
        Poll::Pending
    }
}
