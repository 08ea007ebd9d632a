//! HTTP/2 from the client, in the clear and over TLS: one task a connection, and one a stream.
//!
//! Law of this room:
//!
//! - A stream's task writes no more than its client has made room for ([`sink`]), and takes no more
//!   of a body than the app does ([`forward`]): what piles up is bounded by the windows below.
//! - An idle event stream is a small task with a handle to its HTTP/2 stream. Whatever its request
//!   was, is gone by then.
//! - The connection's task does the reading and writing for all of them, and holds up the drain as
//!   long as it has streams: the last bytes of one that ended are still to be sent.

mod forward;
pub mod gate;
pub mod head;
mod request;
pub mod sink;

use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::poll_fn;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep, timeout};
use tracing::debug;

use super::app::App;
use super::gate::MAX_HEAD;
use super::io::Socket;
use super::side::Side;
use crate::api::reserved::Desk;
use crate::drain::{Drain, Held};

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
/// The same for all streams of a connection; bounds what they can make us hold.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What waits for the socket on each stream, in bytes.
const MAX_UNSENT: usize = 64 * 1024;

/// What requests are answered with, whichever connection they come on.
pub struct Site {
    pub desk: Arc<Desk>,
    pub app: App,
    pub prefix: Arc<str>,
    pub side: Arc<Side>,
    pub drain: Drain,
}

/// What the streams of a connection share.
struct Shared {
    site: Arc<Site>,
    peer: Option<IpAddr>,
    broken: Broken,
}

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
pub async fn serve(site: Arc<Site>, socket: Socket, read: BytesMut) {
    let peer = socket.peer().map(|peer| peer.ip());
    let shaking = settings().handshake::<_, Bytes>(Prefixed { read, socket });
    // Boxed: done long before the connection is.
    let connection = match Box::pin(timeout(HANDSHAKE_DEADLINE, shaking)).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return debug!(%error, "HTTP/2 handshake failed"),
        Err(_) => return debug!("HTTP/2 handshake took too long"),
    };
    let drain = site.drain.clone();
    let shared = Arc::new(Shared { site, peer, broken: Broken::default() });
    let mut serving = Serving {
        connection,
        shared: shared.clone(),
        held: None,
        idle: None,
        is_used: false,
        is_leaving: false,
    };
    let mut draining = pin!(drain.begun());
    while let Some((request, respond)) =
        poll_fn(|cx| serving.poll_next(cx, draining.as_mut())).await
    {
        tokio::spawn(request::answer(shared.clone(), request, respond));
    }
}

type Asked = (http::Request<RecvStream>, SendResponse<Bytes>);

struct Serving {
    connection: h2::server::Connection<Prefixed, Bytes>,
    shared: Arc<Shared>,
    /// While there are streams.
    held: Option<Held>,
    /// While there are none.
    idle: Option<Pin<Box<Sleep>>>,
    is_used: bool,
    is_leaving: bool,
}

impl Serving {
    /// The next request; `None` at the end of the connection.
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        draining: Pin<&mut impl Future<Output = ()>>,
    ) -> Poll<Option<Asked>> {
        // A new connection was made to ask something; a used one need not outlive our farewell.
        let has_begun = self.shared.site.drain.has_begun() || draining.poll(cx).is_ready();
        loop {
            if has_begun && self.is_used {
                self.leave();
            }
            // What these have sent is on its way after the next look at the connection.
            let broken = self.shared.broken.take(cx.waker());
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok(asked))) => {
                    broken.into_iter().for_each(|stream| self.shared.broken.put(stream));
                    self.is_used = true;
                    self.held.get_or_insert_with(|| self.shared.site.drain.hold());
                    return Poll::Ready(Some(asked));
                }
                Poll::Ready(Some(Err(error))) => {
                    debug!(%error, "an HTTP/2 connection ended");
                    return Poll::Ready(None);
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {}
            }
            if !broken.is_empty() {
                broken.into_iter().for_each(|mut stream| stream.send_reset(Reason::INTERNAL_ERROR));
                continue;
            }
            if self.connection.has_streams() {
                self.idle = None;
                return Poll::Pending;
            }
            self.held = None;
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

    /// Tells the client to bring no more requests here.
    fn leave(&mut self) {
        if !std::mem::replace(&mut self.is_leaving, true) {
            self.connection.graceful_shutdown();
            self.idle = None;
        }
    }
}

/// Streams whose answers are cut short. They are reset by the connection's task, behind what they
/// have sent so far: h2 drops what is still queued on a stream that is reset.
#[derive(Default)]
struct Broken {
    waiting: Mutex<(Vec<SendStream<Bytes>>, Option<Waker>)>,
}

impl Broken {
    fn put(&self, stream: SendStream<Bytes>) {
        let mut waiting = self.waiting.lock();
        waiting.0.push(stream);
        if let Some(waker) = waiting.1.take() {
            waker.wake();
        }
    }

    fn take(&self, waker: &Waker) -> Vec<SendStream<Bytes>> {
        let mut waiting = self.waiting.lock();
        if !waiting.1.as_ref().is_some_and(|known| known.will_wake(waker)) {
            waiting.1 = Some(waker.clone());
        }
        std::mem::take(&mut waiting.0)
    }
}

/// A socket, and what was read of it before.
struct Prefixed {
    read: BytesMut,
    socket: Socket,
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
        Pin::new(&mut self.get_mut().socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}
