//! A client's socket, plain or encrypted.

use std::io;
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr};
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::pieces;
use crate::api::transport::relay::{Relay, Wire};

/// How long a client that still sends may take to read why it should not.
const LINGER: Duration = Duration::from_secs(5);
/// A peer that may be quiet for long is asked by TCP after so many seconds, and then every so many,
/// whether it is still there.
///
/// Each connection has its own, by chance: thousands that were opened together, or were told the same
/// event, would all be asked in one tick of the kernel's timers, and of packets that arrive at once a
/// loopback or virtual device drops all but the first thousand (`net.core.netdev_max_backlog`). Clients
/// whose probes were dropped each time until [`USER_TIMEOUT`] seemed to be gone. The first comes later
/// than a usual heartbeat, which finds out by itself.
const PROBE_AFTER: RangeInclusive<u64> = 20..=29;
const PROBE_EVERY: RangeInclusive<u64> = 3..=7;
/// What the kernel keeps of bytes that it cannot send yet. It would keep megabytes for each client that
/// does not read, and count them as ours.
pub const MAX_UNSENT: u32 = 256 * 1024;
/// How long bytes to a client may stay unacknowledged, where that is limited.
const USER_TIMEOUT: Duration = Duration::from_secs(60);

/// Plain or encrypted.
#[derive(Debug)]
pub enum Socket {
    Plain(TcpStream),
    /// The same, written to by others as well; see [`crate::api::transport::relay`].
    Shared(Arc<Relay<SharedSocket>>),
    /// Boxed: much larger than a plain socket, and there are many of those.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    fn tcp(&self) -> &TcpStream {
        match self {
            Socket::Plain(tcp) => tcp,
            Socket::Shared(relay) => relay.wire().tcp(),
            Socket::Tls(tls) => tls.get_ref().0,
        }
    }

    /// The other end of the TCP connection, which may be a proxy; `None` once it is closed.
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
        let seconds = |range| Duration::from_secs(fastrand::u64(range));
        let probes = socket2::TcpKeepalive::new()
            .with_time(seconds(PROBE_AFTER))
            .with_interval(seconds(PROBE_EVERY));
        // Without probes it only takes longer.
        let _ = socket2::SockRef::from(self.tcp()).set_tcp_keepalive(&probes);
    }

    /// Gives the connection up when what was sent is not acknowledged for long: without it a
    /// vanished client is noticed only after many retransmissions.
    pub fn limit_unacknowledged(&self) {
        let _ = socket2::SockRef::from(self.tcp()).set_tcp_user_timeout(Some(USER_TIMEOUT));
    }

    /// Lets the kernel keep little of what the client does not take.
    pub fn limit_unsent(&self) {
        let _ = socket2::SockRef::from(self.tcp()).set_tcp_notsent_lowat(MAX_UNSENT);
    }

    /// What TCP has found out about the peer since the last look.
    pub fn take_error(&self) -> Option<io::Error> {
        self.tcp().take_error().ok().flatten()
    }

    /// What was sent so far is to look cut short, even where the end of the connection is all that
    /// ends it.
    pub fn reset_on_close(&self) {
        // Without it, it looks whole: nothing else is left to be done.
        let _ = self.tcp().set_zero_linger();
    }

    /// Reads more into `to`, at most so many bytes, without keeping room for them meanwhile; zero
    /// bytes at the end of the connection.
    pub fn poll_fill<const SPACE: usize>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        // Not filled with zeros: each idle client is looked at whenever it is sent something.
        let mut space = [const { MaybeUninit::uninit() }; SPACE];
        let mut buf = ReadBuf::uninit(&mut space);
        ready!(Pin::new(self).poll_read(cx, &mut buf))?;
        to.extend_from_slice(buf.filled());
        Poll::Ready(Ok(buf.filled().len()))
    }

    /// Whether HTTP/2 may begin without having been agreed on: not where something else was.
    pub fn may_be_h2(&self) -> bool {
        match self {
            Socket::Plain(_) | Socket::Shared(_) => true,
            Socket::Tls(tls) => tls.get_ref().1.alpn_protocol().is_none(),
        }
    }

    /// Whether the handshake agreed on HTTP/2.
    pub fn is_h2(&self) -> bool {
        match self {
            Socket::Plain(_) | Socket::Shared(_) => false,
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
            Socket::Shared(relay) => poll_read_shared(relay.wire().tcp(), cx, buf),
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
            Socket::Shared(relay) => relay.wire().poll_write(cx, buf),
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
            Socket::Shared(relay) => {
                let tcp = relay.wire().tcp();
                poll_with(|cx| tcp.poll_write_ready(cx), || tcp.try_write_vectored(bufs), cx)
            }
            Socket::Tls(tls) => Pin::new(tls.as_mut()).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Socket::Plain(tcp) => tcp.is_write_vectored(),
            Socket::Shared(_) => true,
            Socket::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            // Nothing is held back.
            Socket::Shared(_) => Poll::Ready(Ok(())),
            Socket::Tls(tls) => Pin::new(tls.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Socket::Shared(relay) => {
                let tcp = socket2::SockRef::from(relay.wire().tcp());
                Poll::Ready(tcp.shutdown(Shutdown::Write))
            }
            Socket::Tls(tls) => Pin::new(tls.as_mut()).poll_shutdown(cx),
        }
    }
}

/// What `attempt` gives that does not block.
fn poll_with<T>(
    poll_ready: impl Fn(&mut Context<'_>) -> Poll<io::Result<()>>,
    mut attempt: impl FnMut() -> io::Result<T>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<T>> {
    loop {
        ready!(poll_ready(cx))?;
        match attempt() {
            // It is known from here on that it is not ready.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return Poll::Ready(done),
        }
    }
}

/// A plain socket that is written to while its task waits.
#[derive(Debug)]
pub struct SharedSocket {
    tcp: TcpStream,
    is_chunked: bool,
}

impl SharedSocket {
    /// Its bytes are chunks of HTTP/1.1 or as they are.
    pub fn new(tcp: TcpStream, is_chunked: bool) -> SharedSocket {
        SharedSocket { tcp, is_chunked }
    }

    fn tcp(&self) -> &TcpStream {
        &self.tcp
    }
}

impl Wire for SharedSocket {
    fn is_chunked(&self) -> bool {
        self.is_chunked
    }

    fn join(pieces: &[Bytes], is_chunked: bool) -> Bytes {
        match pieces {
            [whole] if !is_chunked => whole.clone(),
            _ => pieces::joined(pieces, is_chunked).into(),
        }
    }

    fn try_write(&self, bytes: &[u8]) -> usize {
        // Past the runtime, whose notes on the socket would have to be looked at for each client.
        socket2::SockRef::from(&self.tcp).send(bytes).unwrap_or(0)
    }

    fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        poll_with(|cx| self.tcp.poll_write_ready(cx), || self.tcp.try_write(bytes), cx)
    }
}

fn poll_read_shared(
    tcp: &TcpStream,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    // Filled with zeros only where there is something to read.
    let read = || tcp.try_read(buf.initialize_unfilled());
    let length = ready!(poll_with(|cx| tcp.poll_read_ready(cx), read, cx))?;
    buf.advance(length);
    Poll::Ready(Ok(()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tokio::net::TcpListener;

    use super::*;

    // Of those that share a stream, each has one: with its counts, it fits a piece of 192 bytes.
    #[test]
    fn what_writes_to_a_waiting_client_is_small() {
        let size = size_of::<Relay<SharedSocket>>() + 2 * size_of::<usize>();
        assert!(size <= 192, "{size}");
    }

    // Together they would be more than a device takes at once, each time.
    #[tokio::test]
    async fn clients_that_come_together_are_not_probed_together() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut times, mut intervals) = (BTreeSet::new(), BTreeSet::new());
        for _ in 0..100 {
            let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let socket = Socket::Plain(tcp);
            socket.probe();
            socket.limit_unacknowledged();
            let tcp = socket2::SockRef::from(socket.tcp());
            let (time, interval) =
                (tcp.tcp_keepalive_time().unwrap(), tcp.tcp_keepalive_interval().unwrap());
            // Several may be lost before anybody is given up.
            assert!(time + 4 * interval <= tcp.tcp_user_timeout().unwrap().unwrap());
            times.insert(time);
            intervals.insert(interval);
        }
        assert!(times.len() > 5 && intervals.len() > 2, "{times:?} {intervals:?}");
    }
}
