//! A client's connection as pingora sees it, with bytes that the door has read and not used.
//!
//! Implements pingora's transport traits for our own type, so that the socket can be taken back
//! out whole when an event stream takes over.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Interval, interval, timeout};
use tokio_rustls::server::TlsStream;

use super::chunks::{Chunks, Malformed};
use super::exchange::Exchange;
use super::gate::Body;
use super::outgoing::Outgoing;

/// Bytes of the next requests that are taken in while one is answered.
const MAX_HELD: usize = 64 * 1024;
/// How long a client that still sends may take to read why it should not.
const LINGER: Duration = Duration::from_secs(5);
/// A peer that may be quiet for long is asked by TCP after this long, and then this often, whether it
/// is still there.
const PROBE_AFTER: Duration = Duration::from_secs(10);
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// How long bytes to a client may stay unacknowledged, where that is limited.
const USER_TIMEOUT: Duration = Duration::from_secs(60);
/// How often it is looked at whether a client that has closed its half is still there.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A client that has closed its half and was sent nothing for so many looks is taken for gone.
/// TCP cannot tell it from one that still listens, unless something is sent to it; and an app
/// should not work for nobody.
const MAX_SILENT_LOOKS: u8 = 6;

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

    /// Reads and drops what still comes, for a while: closing with unread bytes in the socket would
    /// reset the connection and could take the answer along.
    pub async fn linger(&mut self) {
        let drop_all = async {
            let mut rest = vec![0; 16 * 1024];
            while matches!(self.read(&mut rest).await, Ok(1..)) {}
        };
        let _ = timeout(LINGER, drop_all).await;
    }

    /// Lets TCP find out about a peer that is gone without a word.
    pub fn probe(&self) {
        let probes = socket2::TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY);
        // Without probes it only takes longer.
        let _ = socket2::SockRef::from(self.tcp()).set_tcp_keepalive(&probes);
    }

    /// Gives the connection up when what was sent is not acknowledged for long: without it a
    /// vanished client is noticed only after many retransmissions.
    pub fn limit_unacknowledged(&self) {
        let _ = socket2::SockRef::from(self.tcp()).set_tcp_user_timeout(Some(USER_TIMEOUT));
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

/// Whose the bytes are that a client sends.
#[derive(Debug)]
enum Incoming {
    /// Pingora's, all of them: HTTP/2, or after an upgrade.
    Raw,
    /// Pingora's, so many of them: a request's body.
    Length(u64),
    /// Pingora's, until the body ends.
    Chunked(Chunks),
    /// The next request's. They are kept from pingora, which would lose them.
    Next,
}

impl Incoming {
    /// How many of these bytes are pingora's.
    fn take(&mut self, bytes: &[u8], exchange: &Exchange) -> Result<usize, Malformed> {
        match self {
            Incoming::Raw => Ok(bytes.len()),
            Incoming::Next => Ok(0),
            Incoming::Length(left) => {
                let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX).min(*left);
                *left -= length;
                if *left == 0 {
                    *self = Incoming::Next;
                }
                Ok(usize::try_from(length).unwrap_or(bytes.len()))
            }
            Incoming::Chunked(chunks) => {
                let length = chunks.follow(bytes)?;
                if chunks.is_done() {
                    exchange.set_request_trailers(chunks.trailers()?);
                    *self = Incoming::Next;
                }
                Ok(length)
            }
        }
    }
}

/// What pingora is given.
///
/// Knows where a request's body ends, which makes pipelining safe behind any body, and trailers
/// known. While an answer is awaited, the end of what the client sends is kept from pingora as
/// well: a client that has said all it has to say may close its half and listen. Whether it is gone
/// shows when something is written to it; where nothing is, it is given a few seconds.
#[derive(Debug)]
pub struct Connection {
    pub socket: Socket,
    /// Read and not used yet; served before the socket.
    held: BytesMut,
    incoming: Incoming,
    outgoing: Outgoing,
    /// The length of a head, as pingora wrote it, that is being written.
    queued: usize,
    exchange: Arc<Exchange>,
    /// The client has closed its half; when to look whether it is still there.
    half_closed: Option<Pin<Box<Interval>>>,
    /// Looks since something was last written.
    silent_looks: u8,
}

impl Connection {
    pub fn new(socket: Socket) -> Connection {
        Connection {
            socket,
            held: BytesMut::new(),
            incoming: Incoming::Raw,
            outgoing: Outgoing::default(),
            queued: 0,
            exchange: Arc::default(),
            half_closed: None,
            silent_looks: 0,
        }
    }

    pub fn exchange(&self) -> &Arc<Exchange> {
        &self.exchange
    }

    /// Hands everything to pingora, beginning with these bytes.
    pub fn pass_through(&mut self, bytes: BytesMut) {
        self.held = bytes;
        self.incoming = Incoming::Raw;
    }

    /// Begins a request; what is returned is the part of these bytes, read behind its head, that
    /// belongs to its body.
    ///
    /// # Errors
    /// A chunked body that is none.
    pub fn begin(&mut self, body: Body, mut bytes: BytesMut) -> Result<BytesMut, Malformed> {
        self.exchange.begin();
        self.incoming = match body {
            Body::None => Incoming::Next,
            Body::Length(length) => Incoming::Length(length),
            Body::Chunked => Incoming::Chunked(Chunks::default()),
        };
        let length = self.incoming.take(&bytes, &self.exchange)?;
        self.held = bytes.split_off(length);
        Ok(bytes)
    }

    /// Keeps these bytes for the next request.
    pub fn hold(&mut self, bytes: BytesMut) {
        self.held = bytes;
    }

    /// What was read of the next request.
    pub fn take_held(&mut self) -> BytesMut {
        std::mem::take(&mut self.held)
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

    /// While an answer is on its way: takes in the next requests, and ends with an error when the
    /// client is gone.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        while self.half_closed.is_none() {
            if self.held.len() >= MAX_HELD {
                // Enough: the rest waits in the kernel. Nothing wakes this read, and nothing has
                // to, since the answer in progress ends it.
                return Poll::Pending;
            }
            match ready!(Connection::poll_fill(&mut self.socket, cx, &mut self.held)) {
                Ok(0) => {
                    self.half_closed = Some(Box::pin(interval(LOOK_EVERY)));
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(error),
            }
        }
        let Some(look) = &mut self.half_closed else { return Poll::Pending };
        loop {
            ready!(look.as_mut().poll_tick(cx));
            if let Ok(Some(error)) = self.socket.tcp().take_error() {
                return Poll::Ready(error);
            }
            self.silent_looks += 1;
            if self.silent_looks > MAX_SILENT_LOOKS {
                return Poll::Ready(io::ErrorKind::ConnectionAborted.into());
            }
        }
    }

    fn poll_write_some(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.silent_looks = 0;
        if self.queued == 0 {
            self.queued = self.queue_planned(bufs).unwrap_or(0);
        }
        if self.queued > 0 {
            // Not taken before it is out: nobody flushes a head whose body has a length.
            ready!(self.outgoing.poll_drain(&mut self.socket, cx))?;
            return Poll::Ready(Ok(std::mem::take(&mut self.queued)));
        }
        let exchange = &self.exchange;
        self.outgoing.poll_write(&mut self.socket, cx, bufs, || exchange.answer_trailers())
    }

    /// Takes an answer's final head, if this is one and there is something to do to it.
    fn queue_planned(&mut self, bufs: &[io::IoSlice<'_>]) -> Option<usize> {
        let first = bufs.iter().find(|buf| !buf.is_empty())?;
        // Pingora writes a head in one piece; informational ones come before the planned one.
        let is_final = first.starts_with(b"HTTP/1.") && first.get(9) != Some(&b'1');
        if !is_final || !first.ends_with(b"\r\n\r\n") {
            return None;
        }
        let plan = self.exchange.take_plan()?;
        let date = plan.date.and_then(|ours| Some((ours, date_line(first)?)));
        match date {
            None => self.outgoing.queue_head(first, plan.is_chunked),
            Some((line, place)) => {
                let head = [&first[..place.start], &line, &first[place.end..]].concat();
                self.outgoing.queue_head(&head, plan.is_chunked);
            }
        }
        Some(first.len())
    }
}

/// Where in a head the `Date` line is, without its CR LF.
fn date_line(head: &[u8]) -> Option<Range<usize>> {
    let mut start = 0;
    loop {
        let length = head[start..].windows(2).position(|pair| pair == b"\r\n")?;
        if length == 0 {
            return None;
        }
        if head[start..].get(..5).is_some_and(|name| name.eq_ignore_ascii_case(b"date:")) {
            return Some(start..start + length);
        }
        start += length + 2;
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if matches!(me.incoming, Incoming::Next) {
            if !me.exchange.is_upgraded() {
                return me.poll_next(cx).map(Err);
            }
            me.incoming = Incoming::Raw;
        }
        let malformed = |exchange: &Exchange| {
            exchange.set_malformed();
            io::Error::new(io::ErrorKind::InvalidData, Malformed)
        };
        if !me.held.is_empty() {
            let length = me.held.len().min(buf.remaining());
            let length = me
                .incoming
                .take(&me.held[..length], &me.exchange)
                .map_err(|Malformed| malformed(&me.exchange))?;
            buf.put_slice(&me.held.split_to(length));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut me.socket).poll_read(cx, buf))?;
        let read = &buf.filled()[before..];
        let length =
            me.incoming.take(read, &me.exchange).map_err(|Malformed| malformed(&me.exchange))?;
        if length < read.len() {
            me.held.extend_from_slice(&read[length..]);
            buf.set_filled(before + length);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_some(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_some(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        ready!(me.outgoing.poll_drain(&mut me.socket, cx))?;
        Pin::new(&mut me.socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        ready!(me.outgoing.poll_drain(&mut me.socket, cx))?;
        Pin::new(&mut me.socket).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Connection {
    async fn shutdown(&mut self) {
        let is_sending = matches!(self.incoming, Incoming::Length(_) | Incoming::Chunked(_));
        // The connection is over either way.
        let ended = AsyncWriteExt::shutdown(self).await;
        if ended.is_ok() && (is_sending || !self.held.is_empty()) {
            self.socket.linger().await;
        }
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
