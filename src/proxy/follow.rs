//! A connection to the app that follows a request's and an answer's chunks, for their trailers.
//!
//! Pingora reads trailers and forgets them. Whoever may send or want some gets such a connection,
//! made for that one request and never used again, since pingora cannot tell them apart; all other
//! requests share pingora's own. Where the app speaks TLS, the connection does, and pingora does not
//! know: it could not be followed otherwise.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use pingora::connectors::l4::Connect;
use pingora::protocols::l4::socket::SocketAddr as AppAddress;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::{Error, ErrorType};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use super::chunks::Chunks;
use super::exchange::Exchange;
use super::outgoing::Outgoing;
use super::tls::Secure;

/// An app that has not accepted a connection by then is too slow: 504.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// An answer's head that is longer is not followed, in bytes; pingora would refuse it.
const MAX_HEAD: usize = 1024 * 1024;

/// Connects to the app for one request.
#[derive(Debug)]
pub struct Follow {
    pub exchange: Arc<Exchange>,
    pub is_request_chunked: bool,
    pub is_head: bool,
    /// For an app that speaks TLS.
    pub secure: Option<Secure>,
}

#[async_trait]
impl Connect for Follow {
    async fn connect(&self, address: &AppAddress) -> pingora::Result<Stream> {
        let socket = connect(address, self.secure.as_ref()).await?;
        let mut outgoing = Outgoing::default();
        if self.is_request_chunked {
            outgoing.expect_chunked_message();
        }
        let followed = Followed {
            socket,
            exchange: self.exchange.clone(),
            incoming: Incoming::Head(Vec::new()),
            is_head: self.is_head,
            outgoing,
        };
        Ok(Stream::from(VirtualSocketStream::new(Box::new(followed))))
    }
}

/// Connects to the app.
///
/// # Errors
/// It does not listen, does not accept in time, or cannot prove who it is.
pub async fn connect(address: &AppAddress, secure: Option<&Secure>) -> pingora::Result<Socket> {
    let connecting = async {
        match (address, secure) {
            (AppAddress::Unix(address), _) => {
                let path = address.as_pathname().unwrap_or_else(|| Path::new(""));
                UnixStream::connect(path).await.map(Socket::Unix)
            }
            (AppAddress::Inet(address), None) => connect_tcp(*address).await.map(Socket::Tcp),
            (AppAddress::Inet(address), Some(secure)) => {
                let tls = secure.connect(connect_tcp(*address).await?).await?;
                Ok(Socket::Tls(Box::new(tls)))
            }
        }
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(socket)) => Ok(socket),
        Ok(Err(error)) => {
            let kind = match error.kind() {
                io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
                io::ErrorKind::TimedOut => ErrorType::ConnectTimedout,
                _ => ErrorType::ConnectError,
            };
            Err(Error::because(kind, "connecting to the app", error).into_up())
        }
        Err(_) => {
            Err(Error::explain(ErrorType::ConnectTimedout, "connecting to the app").into_up())
        }
    }
}

async fn connect_tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

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

/// Where in the app's answer we are.
#[derive(Debug)]
enum Incoming {
    /// Bytes of a head that is not complete.
    Head(Vec<u8>),
    Chunks(Chunks),
    /// Nothing to follow.
    Rest,
}

/// See the file's head.
#[derive(Debug)]
struct Followed {
    socket: Socket,
    exchange: Arc<Exchange>,
    incoming: Incoming,
    is_head: bool,
    outgoing: Outgoing,
}

impl Followed {
    fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match &mut self.incoming {
                Incoming::Rest => return,
                Incoming::Head(head) => {
                    // The end may lie across two reads.
                    let from = head.len().saturating_sub(3);
                    let before = head.len();
                    head.extend_from_slice(bytes);
                    let end = head[from..].windows(4).position(|part| part == b"\r\n\r\n");
                    let Some(end) = end else {
                        if head.len() > MAX_HEAD {
                            self.incoming = Incoming::Rest;
                        }
                        return;
                    };
                    let length = from + end + 4;
                    let next = after_head(&head[..length], self.is_head);
                    bytes = &bytes[length - before..];
                    self.incoming = next;
                }
                Incoming::Chunks(chunks) => {
                    // Whether an answer is well-formed is for pingora to judge.
                    let Ok(_) = chunks.follow(bytes) else {
                        self.incoming = Incoming::Rest;
                        return;
                    };
                    if !chunks.is_done() {
                        return;
                    }
                    if let Ok(trailers) = chunks.trailers() {
                        self.exchange.set_answer_trailers(trailers);
                    }
                    self.incoming = Incoming::Rest;
                }
            }
        }
    }
}

fn after_head(head: &[u8], is_head: bool) -> Incoming {
    let mut fields = [httparse::EMPTY_HEADER; 256];
    let mut answer = httparse::Response::new(&mut fields);
    if !matches!(answer.parse(head), Ok(httparse::Status::Complete(_))) {
        return Incoming::Rest;
    }
    match answer.code {
        Some(101 | 204 | 304) => return Incoming::Rest,
        Some(100..200) => return Incoming::Head(Vec::new()),
        _ => {}
    }
    let is_chunked = answer.headers.iter().any(|field| {
        field.name.eq_ignore_ascii_case("transfer-encoding")
            && field.value.trim_ascii().eq_ignore_ascii_case(b"chunked")
    });
    match is_chunked && !is_head {
        true => Incoming::Chunks(Chunks::default()),
        false => Incoming::Rest,
    }
}

impl VirtualSocket for Followed {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        match (&self.socket, option) {
            (Socket::Tcp(tcp), VirtualSockOpt::NoDelay) => tcp.set_nodelay(true),
            _ => Ok(()),
        }
    }
}

impl AsyncRead for Followed {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut me.socket).poll_read(cx, buf))?;
        me.follow(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Followed {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        let trailers = || me.exchange.request_trailers();
        me.outgoing.poll_write(&mut me.socket, cx, &[IoSlice::new(buf)], trailers)
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
