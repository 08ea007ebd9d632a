//! Carries an HTTP/2 request to the app without pingora, for the trailers of its answer: pingora
//! writes trailers to an HTTP/2 client, but reads none from an app that speaks HTTP/1.1.
//!
//! Each request has a connection of its own, which lives in the future that answers it: whatever
//! ends that, the client's leaving included, closes the connection at once.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::stream;
use http::header;
use http_body_util::{BodyExt, Either, Empty, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::{HttpTask, ServerSession};
use pingora::{Error, ErrorType};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

use super::app::Socket;
use super::chunks;
use super::fields::remove_hop_by_hop;

/// As many fields of an answer as pingora takes.
const MAX_FIELDS: usize = 256;

/// Sends the request, which is one for HTTP/1.1 already, and passes the answer on. The caller ends
/// the stream, or, after an error, tells the client or breaks it off.
///
/// # Errors
/// Of the app, or of the client.
pub async fn carry(
    client: &mut ServerSession,
    request: RequestHeader,
    has_body: bool,
    socket: Socket,
) -> pingora::Result<()> {
    let (to_app, mut pieces) = mpsc::channel(1);
    let body = match has_body {
        true => Either::Left(StreamBody::new(stream::poll_fn(move |cx| pieces.poll_recv(cx)))),
        false => Either::Right(Empty::new()),
    };
    let request = request_of(request, body);
    let (mut sender, connection) = http1::Builder::new()
        .title_case_headers(true)
        .max_headers(MAX_FIELDS)
        .handshake(TokioIo::new(Reading { socket, is_deaf: false }))
        .await
        .map_err(|error| of_app("the connection to the app", error))?;
    let connected = async {
        // How it went is told by the answer and its body.
        let _ = connection.await;
        pending::<Infallible>().await
    };
    let answer = sender.send_request(request);
    tokio::select! {
        passed = pass(client, has_body.then_some(to_app), answer) => passed,
        never = connected => match never {},
    }
}

fn request_of<B>(request: RequestHeader, body: B) -> http::Request<B> {
    let mut parts: http::request::Parts = request.into();
    // The target alone, as a client sends it to a server.
    parts.uri = parts.uri.path_and_query().cloned().map(http::Uri::from).unwrap_or_default();
    parts.version = http::Version::HTTP_11;
    parts.extensions = http::Extensions::new();
    http::Request::from_parts(parts, body)
}

type Piece = Result<Frame<Bytes>, Infallible>;

/// Passes the body to the app and the answer to the client, at the same time.
async fn pass(
    client: &mut ServerSession,
    mut to_app: Option<mpsc::Sender<Piece>>,
    answering: impl Future<Output = hyper::Result<http::Response<Incoming>>>,
) -> pingora::Result<()> {
    let mut answering = pin!(answering);
    let mut answer: Option<Incoming> = None;
    loop {
        if to_app.as_ref().is_some_and(mpsc::Sender::is_closed) || client.is_body_done() {
            // The app has all of it, or wants no more.
            to_app = None;
        }
        let is_full = to_app.as_ref().is_some_and(|to_app| to_app.capacity() == 0);
        let room = async {
            if let Some(to_app) = &to_app {
                // An error is that the app wants no more, which is seen above.
                let _ = to_app.reserve().await;
            }
        };
        let is_answered = answer.is_some();
        let frame = async {
            match &mut answer {
                Some(body) => body.frame().await,
                None => pending().await,
            }
        };
        tokio::select! {
            // Where no piece can be passed on, only whether the client is still there.
            read = client.read_body_or_idle(is_full || to_app.is_none()) => {
                match (read.map_err(gone)?, &to_app) {
                    (Some(piece), Some(to_app)) => {
                        // There is room, or nobody wants it.
                        let _ = to_app.try_send(Ok(Frame::data(piece)));
                    }
                    _ => to_app = None,
                }
            }
            () = room, if is_full => {}
            answered = &mut answering, if !is_answered => {
                let answered = answered.map_err(|error| of_app("the app's answer", error))?;
                let (head, body) = answered.into_parts();
                let head = HttpTask::Header(Box::new(head_of(head)?), body.is_end_stream());
                if client.response_duplex_vec(vec![head]).await.map_err(gone)? {
                    return Ok(());
                }
                answer = Some(body);
            }
            frame = frame => {
                let Some(frame) = frame else { return Ok(()) };
                let frame = frame.map_err(|error| of_app("the body of the app's answer", error))?;
                match frame.into_data() {
                    Ok(data) => client.write_response_body(data, false).await.map_err(gone)?,
                    Err(frame) => {
                        let Ok(trailers) = frame.into_trailers() else { continue };
                        let kept = kept_of(trailers);
                        if !kept.is_empty() {
                            client.write_response_trailers(kept).await.map_err(gone)?;
                        }
                        return Ok(());
                    }
                }
            }
        }
    }
}

fn head_of(mut head: http::response::Parts) -> pingora::Result<ResponseHeader> {
    if head.status.is_informational() {
        let what = "the app switches protocols unasked";
        return Err(Error::explain(ErrorType::InvalidHTTPHeader, what).into_up());
    }
    if head.headers.remove(header::TRANSFER_ENCODING).is_some() {
        head.headers.remove(header::CONTENT_LENGTH);
    }
    head.extensions = http::Extensions::new();
    let mut head = ResponseHeader::from(head);
    remove_hop_by_hop(&mut head);
    Ok(head)
}

fn kept_of(trailers: http::HeaderMap) -> http::HeaderMap {
    let mut kept = http::HeaderMap::with_capacity(trailers.len());
    for (name, value) in &trailers {
        if chunks::is_kept(name.as_str()) {
            kept.append(name, value.clone());
        }
    }
    kept
}

/// A connection to an app that may close it while it is written to, and has answered before that:
/// what cannot be written is dropped, and what can be read is the word that counts.
struct Reading {
    socket: Socket,
    is_deaf: bool,
}

impl Reading {
    fn despite<T>(&mut self, done: io::Result<T>, otherwise: T) -> io::Result<T> {
        self.is_deaf |= done.is_err();
        Ok(done.unwrap_or(otherwise))
    }
}

impl AsyncRead for Reading {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Reading {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        if me.is_deaf {
            return Poll::Ready(Ok(buf.len()));
        }
        let done = ready!(Pin::new(&mut me.socket).poll_write(cx, buf));
        Poll::Ready(me.despite(done, buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if me.is_deaf {
            return Poll::Ready(Ok(()));
        }
        let done = ready!(Pin::new(&mut me.socket).poll_flush(cx));
        Poll::Ready(me.despite(done, ()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

fn of_app(what: &'static str, error: hyper::Error) -> Box<Error> {
    Error::because(ErrorType::ReadError, what, error).into_up()
}

/// Whatever went wrong there, nobody is left to be told.
fn gone(error: Box<Error>) -> Box<Error> {
    Error::because(ErrorType::ReadError, "the client", error).into_down()
}
