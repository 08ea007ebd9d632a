//! A client's socket, plain or encrypted.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

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
            Socket::Plain(_) => true,
            Socket::Tls(tls) => tls.get_ref().1.alpn_protocol().is_none(),
        }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tokio::net::TcpListener;

    use super::*;

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
