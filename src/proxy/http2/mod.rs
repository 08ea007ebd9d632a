//! HTTP/2 from the client, in plain text and over TLS: one task per connection, and one per stream.
//!
//! Invariants:
//!
//! - A stream's task writes no more than the client's window allows ([`sink`]), and takes no more
//!   of a body than the app does ([`forward`]). The windows below bound what accumulates.
//! - An idle event stream is a small task with a handle to its HTTP/2 stream. Its request has been
//!   dropped by then.
//! - A client that makes no progress is disconnected: on a stream, by resetting the stream; on the
//!   socket, by closing the connection. The memory that it can occupy until then is bounded, for
//!   the connection and for the process ([`shared`]).
//! - The connection's task reads and writes for all its streams. It delays the drain while it has
//!   streams: the last bytes of a stream that ended have still to be sent.

mod forward;
pub mod gate;
pub mod head;
mod plain;
mod request;
mod sending;
mod shared;
pub mod sink;
mod upload;

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::poll_fn;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep, timeout};
use tracing::debug;

use super::app::App;
use super::connections::Registration;
use super::gate::MAX_HEAD;
use super::http1::exchange::Patience;
use super::io::Socket;
use super::limits::pause::Pause;
use super::side::Side;
use crate::api::reserved::Handler;
use crate::drain::{Drain, DrainHold};
use crate::tasks::PanicCount;
use shared::{ConnectionState, Working};

/// The handshake must be complete this long after the connection's first byte.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// How long a connection may be without a stream.
const IDLE: Duration = Duration::from_secs(60);
/// How long a client that was told to go may take for that.
const FAREWELL: Duration = Duration::from_secs(5);
/// Streams of one connection at the same time. All pages of an origin share one in a browser.
const MAX_STREAMS: u32 = 256;
/// What a client may send on a stream before somebody has taken it, in bytes: enough for a fast
/// upload over a long way.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for all streams of a connection; bounds what they can make us hold. Uploads that the app
/// does not take count apart, as far as there is memory for that: they must not stop the others.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What waits for the socket on each stream, in bytes.
const MAX_UNSENT: usize = 64 * 1024;

/// What requests are answered with, whichever connection they come on.
pub struct Site {
    pub handler: Arc<Handler>,
    pub app: App,
    pub prefix: Arc<str>,
    pub side: Arc<Side>,
    pub drain: Drain,
    pub patience: Patience,
}

/// Streams of one connection that a client may give up before it has an answer; more of them end the
/// connection where they are more than half of all. Whoever wants that many connections to the app
/// has to open as many to us.
const MAX_GIVEN_UP: usize = 128;

/// Limits against floods of resets (CVE-2023-44487) and of CONTINUATION frames are the crate's: 20
/// streams that were reset before we have seen them, 1024 that it had to reset itself, and as many
/// frames as a head of this size needs.
fn settings() -> Builder {
    let mut settings = Builder::new();
    settings
        .max_concurrent_streams(MAX_STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .max_send_buffer_size(MAX_UNSENT);
    settings
}

/// Serves one connection to its end; `read` is what was read of it before.
pub async fn serve(site: Arc<Site>, socket: Socket, read: BytesMut, registration: Registration) {
    let peer = socket.peer().map(|peer| peer.ip());
    let pause = Pause::new(site.patience.client);
    registration.rest();
    let shaking = settings().handshake::<_, Bytes>(Prefixed { read, socket, pause });
    // Boxed: done long before the connection is.
    let connection = match Box::pin(timeout(HANDSHAKE_DEADLINE, shaking)).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return debug!(%error, "HTTP/2 handshake failed"),
        Err(_) => return debug!("HTTP/2 handshake took too long"),
    };
    let drain = site.drain.clone();
    let _count = PanicCount::new(&site.handler.metrics.task_panics_total, "connection");
    let shared = Arc::new(ConnectionState::new(site, peer, registration));
    let mut serving = Serving {
        connection,
        shared: shared.clone(),
        held: None,
        idle: None,
        is_used: false,
        is_leaving: false,
        accepted: 0,
        window: CONNECTION_WINDOW,
    };
    let mut draining = pin!(drain.begun());
    while let Some(((request, respond), working)) =
        poll_fn(|cx| serving.poll_next(cx, draining.as_mut())).await
    {
        tokio::spawn(request::answer(shared.clone(), working, request, respond));
    }
}

type Asked = (http::Request<RecvStream>, SendResponse<Bytes>);

struct Serving {
    connection: h2::server::Connection<Prefixed, Bytes>,
    shared: Arc<ConnectionState>,
    /// While there are streams.
    held: Option<DrainHold>,
    /// While there are none.
    idle: Option<Pin<Box<Sleep>>>,
    is_used: bool,
    is_leaving: bool,
    /// Requests so far.
    accepted: usize,
    /// What the client may send on all streams, as it was last told.
    window: u32,
}

impl Serving {
    /// The next request; `None` at the end of the connection.
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        draining: Pin<&mut impl Future<Output = ()>>,
    ) -> Poll<Option<(Asked, Working)>> {
        // A new connection was made to ask something; a used one need not outlive our farewell.
        let has_begun = self.shared.site.drain.has_begun() || draining.poll(cx).is_ready();
        loop {
            if has_begun && self.is_used {
                self.leave();
            }
            // What these have sent is on its way after the next look at the connection.
            let broken = self.shared.take_broken(cx.waker());
            self.widen();
            let given_up = self.shared.given_up();
            if given_up > MAX_GIVEN_UP && 2 * given_up > self.accepted && !self.is_leaving {
                debug!(given_up, "a client cancels more requests than it completes");
                self.is_leaving = true;
                self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            }
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok(asked))) => {
                    broken.into_iter().for_each(|broken| self.shared.put_broken(broken));
                    let Some(working) = self.shared.begin() else { return Poll::Ready(None) };
                    self.accepted += 1;
                    self.is_used = true;
                    self.held.get_or_insert_with(|| self.shared.site.drain.hold());
                    return Poll::Ready(Some((asked, working)));
                }
                Poll::Ready(Some(Err(error))) => {
                    debug!(%error, "an HTTP/2 connection ended");
                    return Poll::Ready(None);
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {}
            }
            if !broken.is_empty() {
                for (mut stream, reason) in broken {
                    stream.send_reset(reason);
                }
                continue;
            }
            if self.connection.has_streams() {
                self.idle = None;
                return Poll::Pending;
            }
            if self.held.take().is_some() {
                self.shared.registration.rest();
            }
            let patience = if self.is_leaving { FAREWELL } else { IDLE };
            let idle = self.idle.get_or_insert_with(|| Box::pin(sleep(patience)));
            if idle.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.is_leaving {
                return Poll::Ready(None);
            }
            self.leave();
        }
    }

    /// Gives room for uploads that the app does not take, so that the others go on.
    fn widen(&mut self) {
        let window = CONNECTION_WINDOW + STREAM_WINDOW * self.shared.stuck();
        if std::mem::replace(&mut self.window, window) != window {
            self.connection.set_target_window_size(window);
        }
    }

    /// Tells the client to bring no more requests here.
    fn leave(&mut self) {
        if !std::mem::replace(&mut self.is_leaving, true) {
            self.connection.graceful_shutdown();
            self.idle = None;
        }
    }
}

/// A socket, and what was read of it before. Writing fails when the client takes nothing for too
/// long.
struct Prefixed {
    read: BytesMut,
    socket: Socket,
    pause: Pause,
}

impl Prefixed {
    fn in_time<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.pause.has_moved();
            return polled;
        }
        self.pause.poll_too_long(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Prefixed {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if me.read.is_empty() {
            return Pin::new(&mut me.socket).poll_read(cx, buf);
        }
        let length = me.read.len().min(buf.remaining());
        buf.put_slice(&me.read[..length]);
        me.read.advance(length);
        if me.read.is_empty() {
            me.read = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        let polled = Pin::new(&mut me.socket).poll_write(cx, buf);
        me.in_time(cx, polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        let polled = Pin::new(&mut me.socket).poll_write_vectored(cx, bufs);
        me.in_time(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let polled = Pin::new(&mut me.socket).poll_flush(cx);
        me.in_time(cx, polled)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}
