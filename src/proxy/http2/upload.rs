//! The body of an HTTP/2 request on its way to the app: the client may send as much as the app
//! takes.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::RecvStream;

use super::forward::Failure;
use super::head::{self, Framing};
use super::shared::{ConnectionState, Stuck};
use super::sink::Gone;
use crate::proxy::app::AppConnection;
use crate::proxy::app::body::put_chunk;
use crate::proxy::limits::pause::Pause;

/// What of a request's body goes into one write to the app, about.
const MAX_WRITE: usize = 64 * 1024;
/// An app that takes nothing for so long does not take the upload for now.
const STUCK_AFTER: Duration = Duration::from_secs(1);

/// A request on its way to the app.
pub struct Upload {
    /// Until it need not be sent again.
    head: Bytes,
    pub framing: Framing,
    /// Until all of it is written, or the app takes no more.
    pub body: Option<RecvStream>,
    /// The end of the body was read.
    is_ended: bool,
    /// Something of the body was read.
    pub has_taken: bool,
    /// To be written.
    out: BytesMut,
    /// What the client may not send again yet: it is in `out`.
    taken: usize,
    /// The app does not read any more. It may have answered before that.
    is_deaf: bool,
    /// What was written is on its way.
    is_flushed: bool,
    pause: Pause,
    shared: Arc<ConnectionState>,
    /// While the app takes nothing.
    blocked: Pause,
    /// What lets the client go on with others meanwhile.
    stuck: Option<Stuck>,
}

impl Upload {
    /// `head` is what the app gets first; with [`Framing::None`], `body` is not read.
    pub fn new(
        head: Bytes,
        framing: Framing,
        body: RecvStream,
        shared: Arc<ConnectionState>,
    ) -> Upload {
        let out = BytesMut::from(&head[..]);
        let body = Some(body).filter(|_| framing != Framing::None);
        let is_ended = body.is_none();
        Upload {
            head,
            framing,
            body,
            is_ended,
            has_taken: false,
            out,
            taken: 0,
            is_deaf: false,
            is_flushed: false,
            pause: Pause::new(shared.site.patience.client),
            blocked: Pause::new(STUCK_AFTER),
            stuck: None,
            shared,
        }
    }

    /// The head will not be sent again.
    pub fn forget_head(&mut self) {
        self.head = Bytes::new();
    }

    /// Whether it can be sent again, on another connection to the app.
    pub fn may_begin_again(&self) -> bool {
        !self.head.is_empty()
    }

    /// Sends the head once more, on another connection; only if [`Upload::may_begin_again`].
    pub fn begin_again(&mut self) {
        self.out = BytesMut::from(&self.head[..]);
        (self.is_deaf, self.is_flushed) = (false, false);
    }

    /// Whether the app has all of it.
    pub fn is_whole(&self) -> bool {
        self.is_ended && self.out.is_empty() && self.is_flushed && !self.is_deaf
    }

    /// The client was sent something: it may have nothing more to say for now.
    pub fn has_answered(&mut self) {
        self.pause.has_moved();
    }

    /// Ready when everything is written, or the app has stopped reading.
    pub fn poll(
        &mut self,
        app: &mut AppConnection,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failure>> {
        while !self.is_deaf && !self.is_whole() {
            self.fill(cx)?;
            self.is_flushed &= self.out.is_empty();
            if self.out.is_empty() && self.is_flushed && !self.is_ended {
                self.out = BytesMut::new();
                return self.pause.poll_too_long(cx).map(|()| Err(Failure::Late));
            }
            let before = self.out.len();
            let written = app.poll_write(cx, &mut self.out);
            self.open_window();
            if self.out.len() < before || written.is_ready() {
                self.blocked.has_moved();
                self.stuck = None;
            }
            match written {
                Poll::Ready(Ok(())) => self.is_flushed = true,
                Poll::Ready(Err(_)) => {
                    // What it said counts; the client is told to stop once that has been passed on.
                    self.is_deaf = true;
                    (self.body, self.out) = (None, BytesMut::new());
                }
                Poll::Pending => {
                    if self.stuck.is_none() && self.blocked.poll_too_long(cx).is_ready() {
                        self.blocked.has_moved();
                        self.stuck = self.shared.stick();
                    }
                    return Poll::Pending;
                }
            }
        }
        (self.body, self.out) = (None, BytesMut::new());
        Poll::Ready(Ok(()))
    }

    /// Takes what has come of the body, up to a good piece.
    fn fill(&mut self, cx: &mut Context<'_>) -> Result<(), Gone> {
        let Some(body) = &mut self.body else { return Ok(()) };
        while !self.is_ended && self.out.len() < MAX_WRITE {
            match body.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    self.has_taken = true;
                    self.pause.has_moved();
                    self.taken += data.len();
                    match self.framing {
                        Framing::Chunked => put_chunk(&mut self.out, &data),
                        _ => self.out.extend_from_slice(&data),
                    }
                }
                Poll::Ready(Some(Err(_))) => return Err(Gone),
                Poll::Ready(None) => match body.poll_trailers(cx) {
                    Poll::Ready(Ok(trailers)) => {
                        // A body with a length has no place for them in HTTP/1.1.
                        if self.framing == Framing::Chunked {
                            head::put_last_chunk(&mut self.out, trailers.as_ref());
                        }
                        (self.has_taken, self.is_ended) = (true, true);
                    }
                    Poll::Ready(Err(_)) => return Err(Gone),
                    Poll::Pending => return Ok(()),
                },
                Poll::Pending => return Ok(()),
            }
        }
        Ok(())
    }

    /// Lets the client send as much again as the app has taken.
    fn open_window(&mut self) {
        let written = self.taken.saturating_sub(self.out.len());
        if let Some(body) = &mut self.body {
            // An error is that it was said before, which it was not.
            let _ = body.flow_control().release_capacity(written);
            self.taken -= written;
        }
    }
}
