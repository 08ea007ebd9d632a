//! One HTTP/2 request on its way to the app, as HTTP/1.1, and the answer on its way back.
//!
//! Both at the same time, in one task that holds both connections: whoever leaves takes the other
//! one's request along. The client's windows are opened as the app takes a body, and the app is read
//! as the client makes room.

use std::future::poll_fn;
use std::mem;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::header::HeaderMap;
use http::request::Parts;
use tracing::{debug, warn};

use super::head::{self, Framing};
use super::request::send_plain;
use super::sink::{Gone, poll_send};
use super::{Shared, Site};
use crate::api::problem::Problem;
use crate::proxy::app::answer::{Asked, Body as Framed, Head};
use crate::proxy::app::body::{Body, put_chunk};
use crate::proxy::app::{Broken, Connection, Unreachable};
use crate::proxy::pause::{Pause, TOO_LATE};

/// What of a request's body goes into one write to the app, about.
const MAX_WRITE: usize = 64 * 1024;

/// Why a request is not answered, or not to the end.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// Nobody is there to be told.
    #[error("the client left")]
    ClientGone,
    #[error("{TOO_LATE}")]
    Late,
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    #[error(transparent)]
    App(#[from] Broken),
}

impl From<Gone> for Failure {
    fn from(Gone: Gone) -> Failure {
        Failure::ClientGone
    }
}

/// Forwards one request.
pub async fn forward(
    shared: &Shared,
    parts: &Parts,
    body: RecvStream,
    respond: SendResponse<Bytes>,
) {
    let began = Instant::now();
    let site = &shared.site;
    let has_body = !body.is_end_stream();
    let (head, framing) = head::request(parts, has_body, &site.side, shared.peer);
    let asked = Asked { is_head: parts.method == http::Method::HEAD, is_upgrade: false };
    let upload = Upload::new(head, framing, body);
    let mut exchange = Exchange { upload, answer: Answer::Awaited(respond), status: 0 };
    let is_idempotent = parts.method.is_idempotent();
    let ended = exchange.run(site, asked, is_idempotent).await;
    // Of what the client got; 0 for one that left before that.
    let mut status = exchange.status;
    if let Err(failure) = ended
        && let Some(problem) = problem_of(&failure)
    {
        match exchange.answer {
            Answer::Awaited(mut respond) => {
                status = problem.status;
                match status {
                    500.. => warn!(status, error = %failure, "request not forwarded"),
                    // Clients must not fill the log.
                    _ => debug!(status, error = %failure, "request not forwarded"),
                }
                send_plain(&mut respond, problem.into(), asked.is_head).await;
            }
            // Part of an answer is out: all that is left is to break it off.
            Answer::Sending(sending) => {
                debug!(error = %failure, "an answer is cut short");
                shared.broken.put(sending.stream);
            }
            Answer::Done => {}
        }
    }
    let metrics = &site.desk.metrics;
    metrics.count_proxied(status);
    metrics.proxy_request_seconds.observe(began.elapsed().as_secs_f64());
}

fn problem_of(failure: &Failure) -> Option<Problem> {
    match failure {
        Failure::ClientGone => None,
        Failure::Late => Some(Problem::new(408, TOO_LATE)),
        Failure::Unreachable(Unreachable::TimedOut) => {
            Some(Problem::new(504, "the app did not accept the connection in time"))
        }
        Failure::Unreachable(_) | Failure::App(_) => {
            Some(Problem::new(502, "the app behind this address does not answer"))
        }
    }
}

struct Exchange {
    upload: Upload,
    answer: Answer,
    /// Of the answer, once its head is out.
    status: u16,
}

enum Answer {
    Awaited(SendResponse<Bytes>),
    Sending(Sending),
    Done,
}

/// An answer whose head is out.
struct Sending {
    stream: SendStream<Bytes>,
    /// Taken from the app, and not sent yet.
    piece: Bytes,
    is_more: bool,
    /// Known at the end of a body, empty before that.
    trailers: HeaderMap,
    /// To read into.
    room: BytesMut,
}

impl Exchange {
    async fn run(&mut self, site: &Site, asked: Asked, is_idempotent: bool) -> Result<(), Failure> {
        // What was read of a body cannot be read again.
        let is_repeatable = is_idempotent && self.upload.framing == Framing::None;
        let mut app = self.unless_gone(site.app.take()).await?;
        loop {
            app.begin(asked);
            match poll_fn(|cx| self.poll(&mut app, cx)).await {
                Ok(()) => break,
                Err(Failure::App(_)) if self.may_repeat() && app.is_stale(is_repeatable) => {
                    app = self.unless_gone(site.app.connect()).await?;
                    self.upload.begin_again();
                }
                Err(failure) => return Err(failure),
            }
        }
        // An answer that came before the end of the request leaves a connection in the middle of it.
        if self.upload.is_whole() {
            site.app.give_back(app);
        }
        Ok(())
    }

    /// A connection to the app, unless the client leaves before there is one.
    async fn unless_gone(
        &mut self,
        connecting: impl Future<Output = Result<Connection, Unreachable>>,
    ) -> Result<Connection, Failure> {
        tokio::select! {
            biased;
            () = poll_fn(|cx| self.poll_reset(cx)) => Err(Failure::ClientGone),
            connected = connecting => Ok(connected?),
        }
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.answer {
            Answer::Awaited(respond) => respond.poll_reset(cx).map(drop),
            Answer::Sending(sending) => sending.stream.poll_reset(cx).map(drop),
            Answer::Done => Poll::Pending,
        }
    }

    fn may_repeat(&self) -> bool {
        let has_body = self.upload.framing == Framing::None || self.upload.body.is_some();
        matches!(self.answer, Answer::Awaited(_)) && !self.upload.has_taken && has_body
    }

    fn poll(&mut self, app: &mut Connection, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        if self.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(Failure::ClientGone));
        }
        let is_awaited = matches!(self.answer, Answer::Awaited(_));
        if let Poll::Ready(Err(failure)) = self.upload.poll(app, is_awaited, cx) {
            return Poll::Ready(Err(failure));
        }
        self.poll_answer(app, cx)
    }

    fn poll_answer(
        &mut self,
        app: &mut Connection,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failure>> {
        loop {
            match &mut self.answer {
                Answer::Awaited(respond) => {
                    let (head, answer) = ready!(poll_head(app, cx))?;
                    if head.is_informational() {
                        respond.send_informational(answer).map_err(|_| Gone)?;
                        continue;
                    }
                    let is_last = head.body == Framed::None;
                    let stream = respond.send_response(answer, is_last).map_err(|_| Gone)?;
                    self.status = head.status;
                    app.expect(match head.body {
                        Framed::None => Body::Done,
                        Framed::Length(length) => Body::length(length),
                        Framed::Chunked => Body::bare(),
                        Framed::UntilClose => Body::UntilClose,
                    });
                    self.answer = match is_last {
                        true => Answer::Done,
                        false => Answer::Sending(Sending {
                            stream,
                            piece: Bytes::new(),
                            is_more: true,
                            trailers: HeaderMap::new(),
                            room: BytesMut::new(),
                        }),
                    };
                }
                Answer::Sending(sending) => {
                    ready!(sending.poll(app, cx))?;
                    self.answer = Answer::Done;
                }
                Answer::Done => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// The app's next head, and what becomes of it.
fn poll_head(
    app: &mut Connection,
    cx: &mut Context<'_>,
) -> Poll<Result<(Head, http::Response<()>), Broken>> {
    let (head, answer) =
        ready!(app.poll_head(cx, |head, bytes| (head, head::answer(&head, bytes))))?;
    Poll::Ready(answer.map(|answer| (head, answer)).map_err(Broken::Malformed))
}

impl Sending {
    /// Ready when all of the answer is sent.
    fn poll(&mut self, app: &mut Connection, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        while self.is_more {
            ready!(poll_send(&mut self.stream, cx, &mut self.piece, false))?;
            let Poll::Ready(more) = app.poll_body(cx, &mut self.room) else {
                // An app may be silent for long.
                self.room = BytesMut::new();
                return Poll::Pending;
            };
            self.is_more = more?;
            self.piece = self.room.split().freeze();
            if !self.is_more {
                self.trailers = head::answer_trailers(&app.take_trailers());
            }
        }
        let is_last = self.trailers.is_empty();
        let is_all_sent = self.piece.is_empty();
        ready!(poll_send(&mut self.stream, cx, &mut self.piece, is_last))?;
        let ended = match is_last {
            false => self.stream.send_trailers(mem::take(&mut self.trailers)),
            true if is_all_sent => self.stream.send_data(Bytes::new(), true),
            true => Ok(()),
        };
        Poll::Ready(ended.map_err(|_| Failure::ClientGone))
    }
}

/// A request on its way to the app.
struct Upload {
    head: Bytes,
    framing: Framing,
    /// Until all of it is written, or the app takes no more.
    body: Option<RecvStream>,
    /// The end of the body was read.
    is_ended: bool,
    /// Something of the body was read.
    has_taken: bool,
    /// To be written.
    out: BytesMut,
    /// What the client may not send again yet: it is in `out`.
    taken: usize,
    /// The app does not read any more. It may have answered before that.
    is_deaf: bool,
    /// What was written is on its way.
    is_flushed: bool,
    pause: Pause,
}

impl Upload {
    fn new(head: Bytes, framing: Framing, body: RecvStream) -> Upload {
        let out = BytesMut::from(&head[..]);
        let body = Some(body).filter(|_| framing != Framing::None);
        let is_ended = body.is_none();
        Upload {
            head,
            framing,
            body,
            is_ended,
            has_taken: false,
            out,
            taken: 0,
            is_deaf: false,
            is_flushed: false,
            pause: Pause::default(),
        }
    }

    fn begin_again(&mut self) {
        self.out = BytesMut::from(&self.head[..]);
        (self.is_deaf, self.is_flushed) = (false, false);
    }

    fn is_whole(&self) -> bool {
        self.is_ended && self.out.is_empty() && self.is_flushed && !self.is_deaf
    }

    /// Ready when all is written, or nobody takes it.
    fn poll(
        &mut self,
        app: &mut Connection,
        is_awaited: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failure>> {
        while !self.is_deaf && !self.is_whole() {
            self.fill(cx)?;
            self.is_flushed &= self.out.is_empty();
            if self.out.is_empty() && self.is_flushed && !self.is_ended {
                // Who is answered already may have nothing more to say.
                if !is_awaited {
                    return Poll::Pending;
                }
                return self.pause.poll_too_long(cx).map(|()| Err(Failure::Late));
            }
            let written = app.poll_write(cx, &mut self.out);
            self.open_window();
            match written {
                Poll::Ready(Ok(())) => self.is_flushed = true,
                Poll::Ready(Err(_)) => {
                    // What it said counts; the client is told to stop once that has been passed on.
                    self.is_deaf = true;
                    (self.body, self.out) = (None, BytesMut::new());
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        (self.body, self.out) = (None, BytesMut::new());
        Poll::Ready(Ok(()))
    }

    /// Takes what has come of the body, up to a good piece.
    fn fill(&mut self, cx: &mut Context<'_>) -> Result<(), Gone> {
        let Some(body) = &mut self.body else { return Ok(()) };
        while !self.is_ended && self.out.len() < MAX_WRITE {
            match body.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    self.has_taken = true;
                    self.pause.has_read();
                    self.taken += data.len();
                    match self.framing {
                        Framing::Chunked => put_chunk(&mut self.out, &data),
                        _ => self.out.extend_from_slice(&data),
                    }
                }
                Poll::Ready(Some(Err(_))) => return Err(Gone),
                Poll::Ready(None) => match body.poll_trailers(cx) {
                    Poll::Ready(Ok(trailers)) => {
                        // A body with a length has no place for them in HTTP/1.1.
                        if self.framing == Framing::Chunked {
                            head::put_last_chunk(&mut self.out, trailers.as_ref());
                        }
                        (self.has_taken, self.is_ended) = (true, true);
                    }
                    Poll::Ready(Err(_)) => return Err(Gone),
                    Poll::Pending => return Ok(()),
                },
                Poll::Pending => return Ok(()),
            }
        }
        Ok(())
    }

    /// Lets the client send as much again as the app has taken.
    fn open_window(&mut self) {
        let written = self.taken.saturating_sub(self.out.len());
        if let Some(body) = &mut self.body {
            // An error is that it was said before, which it was not.
            let _ = body.flow_control().release_capacity(written);
            self.taken -= written;
        }
    }
}
