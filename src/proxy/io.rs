//! A client's connection as pingora sees it, with bytes that the door has read and not used.
//!
//! Implements pingora's transport traits for our own type, so that the socket can be taken back
//! out whole when an event stream takes over.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::BytesMut;
use parking_lot::Mutex;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// Bytes of the next requests that are taken in while one without a body is answered.
const MAX_HELD: usize = 64 * 1024;

/// Plain or encrypted.
#[derive(Debug)]
pub enum Socket {
    Plain(TcpStream),
    /// Boxed: much larger than a plain socket, and there are many of those.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    fn tcp(&self) -> &TcpStream {
        match self {
            Socket::Plain(tcp) => tcp,
            Socket::Tls(tls) => tls.get_ref().0,
        }
    }

    pub fn peer(&self) -> Option<SocketAddr> {
        self.tcp().peer_addr().ok()
    }

    /// Whether the handshake agreed on HTTP/2.
    pub fn is_h2(&self) -> bool {
        match self {
            Socket::Plain(_) => false,
            Socket::Tls(tls) => tls.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Socket::Tls(tls) => Pin::new(tls.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Socket::Tls(tls) => Pin::new(tls.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Socket::Tls(tls) => Pin::new(tls.as_mut()).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Socket::Plain(tcp) => tcp.is_write_vectored(),
            Socket::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Socket::Tls(tls) => Pin::new(tls.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Socket::Tls(tls) => Pin::new(tls.as_mut()).poll_shutdown(cx),
        }
    }
}

/// The app's `Date`, for the answer in progress. An HTTP date is always this long
/// ([RFC 9110](https://www.rfc-editor.org/rfc/rfc9110) section 5.6.7).
pub type Date = [u8; 29];
/// Where [`super::forward`] leaves it for the connection.
pub type DateCell = Arc<Mutex<Option<Date>>>;

/// An answer's head on its way out. pingora puts its own `Date` in place of the app's, so the app's
/// is put back, which changes no length.
#[derive(Debug)]
enum OutgoingHead {
    Awaited,
    /// The head as it has to be, and how much of it is written.
    Writing {
        bytes: Vec<u8>,
        at: usize,
    },
    Done,
}

/// What pingora is given.
#[derive(Debug)]
pub struct Connection {
    pub socket: Socket,
    /// Read and not used yet; served before the socket.
    pub held: BytesMut,
    /// A request without a body is being answered: what arrives is the next request and is kept
    /// from pingora, which would lose it; only the end of the connection shows through.
    pub is_holding: bool,
    pub date: DateCell,
    outgoing: OutgoingHead,
}

impl Connection {
    pub fn new(socket: Socket) -> Connection {
        Connection {
            socket,
            held: BytesMut::new(),
            is_holding: false,
            date: DateCell::default(),
            outgoing: OutgoingHead::Done,
        }
    }

    /// What is written next is the answer to another HTTP/1 request.
    pub fn await_head(&mut self) {
        *self.date.lock() = None;
        self.outgoing = OutgoingHead::Awaited;
    }

    /// Looks at what is about to be written. Only whole heads are looked into, and pingora writes
    /// them whole.
    fn look_for_head(&mut self, bytes: &[u8]) {
        let is_final = bytes.starts_with(b"HTTP/1.") && bytes.get(9).is_some_and(|b| *b != b'1');
        if !matches!(self.outgoing, OutgoingHead::Awaited) || !is_final {
            return;
        }
        self.outgoing = OutgoingHead::Done;
        let (Some(date), Some(end)) =
            (self.date.lock().take(), bytes.windows(4).position(|part| part == b"\r\n\r\n"))
        else {
            return;
        };
        const NAME: &[u8] = b"\r\ndate: ";
        let head = &bytes[..end + 4];
        let at = head.windows(NAME.len()).position(|part| part.eq_ignore_ascii_case(NAME));
        let place = at.map(|at| at + NAME.len()..at + NAME.len() + date.len());
        if let Some(place) = place
            && head.get(place.end..place.end + 2) == Some(b"\r\n")
        {
            let mut bytes = head.to_vec();
            bytes[place].copy_from_slice(&date);
            self.outgoing = OutgoingHead::Writing { bytes, at: 0 };
        }
    }

    /// Reads more into `to`; zero bytes at the end of the connection.
    pub fn poll_fill(
        socket: &mut Socket,
        cx: &mut Context<'_>,
        to: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        let mut space = [0; 4096];
        let mut buf = ReadBuf::new(&mut space);
        ready!(Pin::new(socket).poll_read(cx, &mut buf))?;
        to.extend_from_slice(buf.filled());
        Poll::Ready(Ok(buf.filled().len()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if me.is_holding {
            while me.held.len() < MAX_HELD {
                if ready!(Connection::poll_fill(&mut me.socket, cx, &mut me.held))? == 0 {
                    return Poll::Ready(Ok(()));
                }
            }
            // Enough of the next requests: the rest waits in the kernel. Nothing wakes this read,
            // and nothing has to: the answer in progress ends it.
            return Poll::Pending;
        }
        if me.held.is_empty() {
            return Pin::new(&mut me.socket).poll_read(cx, buf);
        }
        let length = me.held.len().min(buf.remaining());
        buf.put_slice(&me.held.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        me.look_for_head(buf);
        let OutgoingHead::Writing { bytes, at } = &mut me.outgoing else {
            return Pin::new(&mut me.socket).poll_write(cx, buf);
        };
        // As long as the original, so what is written of the one is written of the other.
        let written = ready!(Pin::new(&mut me.socket).poll_write(cx, &bytes[*at..]))?;
        *at += written;
        if *at == bytes.len() {
            me.outgoing = OutgoingHead::Done;
        }
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !matches!(self.outgoing, OutgoingHead::Done) {
            let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
            return self.poll_write(cx, first);
        }
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

#[async_trait]
impl Shutdown for Connection {
    async fn shutdown(&mut self) {
        // The connection is over either way.
        let _ = self.socket.shutdown().await;
    }
}

impl UniqueID for Connection {
    fn id(&self) -> UniqueIDType {
        self.socket.tcp().as_raw_fd()
    }
}

impl Ssl for Connection {
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.socket.is_h2().then_some(ALPN::H2)
    }
}

impl GetTimingDigest for Connection {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Connection {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Connection {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::new(SocketDigest::from_raw_fd(self.socket.tcp().as_raw_fd())))
    }
}

/// "Cannot peek": pingora then takes a connection that the door hands over as HTTP/2 for that.
impl Peek for Connection {}
