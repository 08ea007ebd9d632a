//! A socket to the app: TCP, a Unix socket, or TLS over TCP.

use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

/// A connected socket to the app.
#[derive(Debug)]
pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

macro_rules! either {
    ($socket:expr, $inner:ident => $call:expr) => {
        match $socket {
            Socket::Tcp($inner) => $call,
            Socket::Unix($inner) => $call,
            Socket::Tls($inner) => $call,
        }
    };
}

impl Socket {
    /// The number of its descriptor; they are given out from the lowest.
    pub fn descriptor(&self) -> usize {
        let raw = match self {
            Socket::Tcp(tcp) => tcp.as_raw_fd(),
            Socket::Unix(unix) => unix.as_raw_fd(),
            Socket::Tls(tls) => tls.get_ref().0.as_raw_fd(),
        };
        usize::try_from(raw).unwrap_or(0)
    }

    /// Whether nothing is there to be read, not even the end: what an idle connection that can be
    /// used looks like.
    pub fn is_quiet(&mut self) -> bool {
        let mut space = [0; 1];
        let mut buf = ReadBuf::new(&mut space);
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(self).poll_read(&mut cx, &mut buf).is_pending()
    }

    /// As [`Socket::is_quiet`], asked of the kernel itself and not of what it last told: what is
    /// there by now would be taken for the next answer.
    pub fn is_quiet_by_now(&self) -> bool {
        let mut space = [std::mem::MaybeUninit::uninit(); 1];
        let peeked = match self {
            Socket::Tcp(tcp) => socket2::SockRef::from(tcp).peek(&mut space),
            Socket::Unix(unix) => socket2::SockRef::from(unix).peek(&mut space),
            Socket::Tls(tls) => socket2::SockRef::from(tls.get_ref().0).peek(&mut space),
        };
        peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self.get_mut(), inner => Pin::new(inner).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), inner => Pin::new(inner).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), inner => Pin::new(inner).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        either!(self, inner => inner.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), inner => Pin::new(inner).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), inner => Pin::new(inner).poll_shutdown(cx))
    }
}
