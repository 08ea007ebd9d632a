//! The tasks of open streams on a client's socket: small, since almost all of them are idle.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use super::io::{SharedSocket, Socket};
use super::pieces::{MAX_COPY, Pieces, joined};
use super::plain::{close, head_of};
use crate::api::negotiation::Transport;
use crate::api::poll::BegunPoll;
use crate::api::reserved::Opened;
use crate::api::transport::relay::Relay;
use crate::api::transport::{Pace, Sink};
use crate::api::websocket::{Duplex, Upgraded};
use crate::session::connection::Connection;

/// How long a client may take to receive the head of its stream.
const HEAD_TAKEN: Duration = Duration::from_secs(60);
/// And how long to receive the end of it.
const END_TAKEN: Duration = Duration::from_secs(5);

/// A WebSocket's own task; see [`stream`].
pub fn websocket(
    socket: Socket,
    upgraded: Box<Upgraded>,
    held: BytesMut,
) -> impl Future<Output = ()> + Send {
    let fields = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", upgraded.accept.as_str()),
    ];
    let head = head_of(101, &fields, 1);
    let mut sink = SocketSink::new(socket, false);
    async move {
        if !matches!(timeout(HEAD_TAKEN, sink.socket().write_all(&head)).await, Ok(Ok(()))) {
            return;
        }
        drop(head);
        if !upgraded.serve(&mut sink, held).await.is_cut {
            Box::pin(sink.finish()).await;
        }
    }
}

/// A stream's own task. A block that owns its parts, since a function would keep room for each of
/// them twice: as it is given, and where it is used.
pub fn stream(
    socket: Socket,
    mut opened: Box<Opened>,
    fields: &[(&'static str, String)],
    minor: u8,
    is_head: bool,
) -> impl Future<Output = ()> + Send + use<> {
    let is_chunked = minor > 0 && !is_head;
    let mut sink = SocketSink::new(socket, is_chunked);
    let head = open_head(fields, is_chunked, minor);
    async move {
        let is_sent =
            matches!(timeout(HEAD_TAKEN, sink.socket().write_all(&head)).await, Ok(Ok(())));
        if !is_sent || is_head {
            return Box::pin(close(sink.socket())).await;
        }
        // As long as the stream lives, this task should hold little else than what it waits for.
        drop(head);
        // A write that was given up may have ended within an event: what came after it would be
        // taken for a part of that.
        if !opened.serve(&mut sink).await.is_cut {
            Box::pin(sink.finish()).await;
        }
    }
}

/// The head of an answer whose length is not known.
fn open_head(fields: &[(&'static str, String)], is_chunked: bool, minor: u8) -> BytesMut {
    let mut fields: Vec<(&str, &str)> =
        fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    fields.push(("Connection", "close"));
    if is_chunked {
        fields.push(("Transfer-Encoding", "chunked"));
    }
    head_of(200, &fields, minor)
}

/// The task of a poll whose answer is sent as its client takes it.
pub async fn begun_poll(
    socket: Socket,
    mut begun: Box<BegunPoll>,
    fields: Vec<(&'static str, String)>,
    minor: u8,
) {
    let is_chunked = minor > 0;
    let mut sink = SocketSink::new(socket, is_chunked);
    let head = open_head(&fields, is_chunked, minor);
    let is_begun = matches!(timeout(HEAD_TAKEN, sink.socket().write_all(&head)).await, Ok(Ok(())));
    if is_begun && !begun.serve(&mut sink).await.is_cut {
        sink.finish().await;
    }
}

/// A stream on a bare socket.
struct SocketSink {
    socket: Option<Socket>,
    is_chunked: bool,
}

impl SocketSink {
    fn new(socket: Socket, is_chunked: bool) -> SocketSink {
        SocketSink { socket: Some(socket), is_chunked }
    }

    fn socket(&mut self) -> &mut Socket {
        // It is away only while `share` makes another of it.
        self.socket.as_mut().expect("there is a socket")
    }

    fn relay(&self) -> Option<&Relay<SharedSocket>> {
        match &self.socket {
            Some(Socket::Shared(relay)) => Some(relay),
            _ => None,
        }
    }

    /// What a relay has left comes before anything else. Seldom there is any: it has no room of its own.
    async fn send_rest(&self) -> io::Result<()> {
        match self.relay().filter(|relay| relay.is_behind()) {
            Some(relay) => Box::pin(relay.send_rest()).await,
            None => Ok(()),
        }
    }

    /// A chunk of pieces that stay where they are.
    async fn send_shared(&mut self, length: usize, pieces: &[Bytes]) -> io::Result<()> {
        let framed = |frame: String| self.is_chunked.then(|| Bytes::from(frame));
        let head = framed(format!("{length:x}\r\n"));
        let end = framed("\r\n".to_string());
        let mut chunk: Pieces = head.into_iter().chain(pieces.iter().cloned()).chain(end).collect();
        self.socket().write_all_buf(&mut chunk).await?;
        self.socket().flush().await
    }

    async fn finish(&mut self) {
        let end = async {
            self.send_rest().await?;
            if self.is_chunked {
                self.socket().write_all(b"0\r\n\r\n").await?;
            }
            self.socket().shutdown().await
        };
        // The stream is over either way.
        let _ = timeout(END_TAKEN, end).await;
    }
}

impl Duplex for SocketSink {
    fn poll_fill(&mut self, cx: &mut Context<'_>, to: &mut BytesMut) -> Poll<io::Result<usize>> {
        self.socket().poll_fill::<4096>(cx, to)
    }
}

impl Sink for SocketSink {
    async fn send(&mut self, pieces: &[Bytes]) -> io::Result<()> {
        self.send_rest().await?;
        if pieces.is_empty() {
            return Ok(());
        }
        let length: usize = pieces.iter().map(Bytes::len).sum();
        if length > MAX_COPY {
            return Box::pin(self.send_shared(length, pieces)).await;
        }
        if let ([whole], false) = (pieces, self.is_chunked) {
            self.socket().write_all(whole).await?;
            return self.socket().flush().await;
        }
        let chunk = joined(pieces, self.is_chunked);
        self.socket().write_all(&chunk).await?;
        self.socket().flush().await
    }

    fn share(&mut self, connection: &mut Connection, transport: Transport, pace: &Pace) {
        self.socket = self.socket.take().map(|socket| match socket {
            Socket::Plain(tcp) => {
                let wire = SharedSocket::new(tcp, self.is_chunked);
                let relay = Arc::new(Relay::new(wire, transport, pace.relays.clone()));
                connection.set_outlet(relay.clone());
                Socket::Shared(relay)
            }
            other => other,
        });
    }

    fn is_behind(&self) -> bool {
        self.relay().is_some_and(Relay::is_behind)
    }

    async fn closed(&mut self) {
        // A client has nothing more to say on this connection; whatever it sends is dropped. Polled
        // by hand, so that an idle stream has no room for it.
        poll_fn(|cx| {
            if self.is_behind() {
                return Poll::Ready(());
            }
            loop {
                let mut rest = [0; 64];
                let mut rest = ReadBuf::new(&mut rest);
                match ready!(Pin::new(self.socket()).poll_read(cx, &mut rest)) {
                    Ok(()) if !rest.filled().is_empty() => {}
                    _ => return Poll::Ready(()),
                }
            }
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::subscription::Source;

    /// How large the future is that a function of five arguments makes.
    fn size<A, B, C, D, E, F>(_: impl FnOnce(A, B, C, D, E) -> F) -> usize {
        size_of::<F>()
    }

    fn size_of_three<A, B, C, F>(_: fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    // Else it would be in the middle of an event, or behind the end.
    #[tokio::test]
    async fn what_a_relay_has_left_is_sent_before_a_frame_and_before_the_end() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        let wire = SharedSocket::new(listener.accept().await.unwrap().0, true);
        let relay = Arc::new(Relay::new(wire, Transport::Sse, Arc::default()));
        let mut sink = SocketSink::new(Socket::Shared(relay.clone()), true);
        let filter = Arc::new(crate::filter::tests::good(""));
        let feed = Arc::new(crate::session::subscription::tests::unread(&filter));
        let shared = crate::session::subscription::tests::shared();
        let source = Arc::new(Source::new(shared, feed));
        // Nobody who only waits sends it.
        assert!(timeout(Duration::from_millis(1), sink.closed()).await.is_err());
        relay.leave(source.clone(), b"1\r\na\r\n");
        sink.closed().await;
        assert!(sink.is_behind());
        sink.send(&[]).await.unwrap();
        assert!(!sink.is_behind());
        relay.leave(source.clone(), b"1\r\nb\r\n");
        sink.send(&[Bytes::from_static(b"c"), Bytes::from_static(b"d")]).await.unwrap();
        relay.leave(source, b"1\r\ne\r\n");
        sink.finish().await;
        let mut taken = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut client, &mut taken).await.unwrap();
        assert_eq!(taken, "1\r\na\r\n1\r\nb\r\n2\r\ncd\r\n1\r\ne\r\n0\r\n\r\n");
    }

    /// Idle streams are what there is most of. With the 104 bytes that tokio adds to a task, this
    /// fits a piece of 768 bytes; what is opened, one of 192. The next larger ones that the allocator
    /// has are a sixth more.
    #[test]
    fn a_stream_is_small() {
        assert!(size(stream) <= 664, "{}", size(stream));
        // A WebSocket's fits one of 1,024.
        assert!(size_of_three(websocket) <= 920, "{}", size_of_three(websocket));
        assert!(size_of::<Opened>() <= 192, "{}", size_of::<Opened>());
    }
}
