//! One HTTP/2 request on its way to the app, as HTTP/1.1, and the answer on its way back.
//!
//! Both run at the same time, in one task that holds both connections. If the client leaves, its
//! request to the app ends too. The client's window opens as the app takes the body, and the app is
//! read as the client makes room.

use std::future::poll_fn;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::header::HeaderMap;
use http::request::Parts;
use tracing::debug;

use super::gate;
use super::head::{self, Framing};
use super::plain::{head_of, send_plain};
use super::sending::Sending;
use super::shared::{ConnectionState, HeldHead, Working};
use super::sink::Gone;
use super::upload::Upload;
use crate::api::capacity::Full;
use crate::api::problem::Problem;
use crate::proxy::app::answer::{Body as Framed, Head, RequestKind};
use crate::proxy::app::body::Body;
use crate::proxy::app::{self, AppConnection, Broken, Unreachable};
use crate::proxy::grpc;
use crate::proxy::limits::pause::{Pause, TOO_LATE};
use crate::proxy::limits::requests::{self, RequestSlot};
use crate::proxy::observed::{Observed, ObservedRequest};

/// Why a request is not answered, or not to the end.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The client is gone.
    #[error("the client left")]
    ClientGone,
    #[error("{TOO_LATE}")]
    Late,
    #[error("the client does not take the answer")]
    Stalled,
    #[error(transparent)]
    Full(#[from] Full),
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

/// Forwards one request. `held` is its head, counted.
pub async fn forward(
    shared: &Arc<ConnectionState>,
    working: Working,
    parts: Parts,
    held: HeldHead,
    body: RecvStream,
    respond: SendResponse<Bytes>,
) {
    let mut observed = observe(shared, &parts);
    let site = &shared.site;
    let content_type = parts.headers.get(http::header::CONTENT_TYPE);
    let ending = Ending {
        asked: RequestKind { is_head: parts.method == http::Method::HEAD, is_upgrade: false },
        is_idempotent: parts.method.is_idempotent(),
        is_grpc: content_type.is_some_and(|value| grpc::is_grpc(value.as_bytes())),
    };
    let (mut exchange, turn) = begin(shared, parts, held, body, respond, &observed);
    let ended = match turn {
        // Held until the end.
        Ok(_turn) => exchange.run(&ending).await,
        Err(full) => {
            site.handler.metrics.refused_total.with_label_values(&[full.name()]).inc();
            Err(full.into())
        }
    };
    // Of what the client got; 0 for one that left before that.
    let mut status = exchange.status;
    if status != 0 {
        observed.app_answered(status);
    }
    if let Err(failure) = ended {
        status = ending.tell(exchange, failure, working).await.unwrap_or(status);
    }
    observed.finish(&site.handler.metrics, status);
}

fn observe(shared: &ConnectionState, parts: &Parts) -> Observed {
    let site = &shared.site;
    Observed::begin(&site.handler.metrics, site.app.address(), || {
        let first = |name: &str| parts.headers.get(name).map(|value| value.as_bytes());
        let chain: Vec<&[u8]> =
            parts.headers.get_all("x-forwarded-for").iter().map(|value| value.as_bytes()).collect();
        ObservedRequest {
            method: parts.method.as_str(),
            target: parts.uri.path_and_query().map_or("/", |target| target.as_str()).as_bytes(),
            host: Some(gate::host_of(parts)),
            scheme: site.side.scheme,
            version: "2",
            client: site.side.client_address(shared.peer, &chain),
            traceparent: first("traceparent"),
        }
    })
}

/// The request's head is gone when this is done, but for its bytes for the app.
fn begin<'a>(
    shared: &'a Arc<ConnectionState>,
    parts: Parts,
    held: HeldHead,
    body: RecvStream,
    respond: SendResponse<Bytes>,
    observed: &Observed,
) -> (Exchange, Result<RequestSlot<'a>, Full>) {
    let site = &shared.site;
    let has_body = !body.is_end_stream();
    let (mut head, framing) = head::request(&parts, has_body, &site.side, shared.peer);
    observed.put_traceparent(&mut head);
    let head = head.freeze();
    let chain = || parts.headers.get_all("x-forwarded-for").iter().map(|value| value.as_bytes());
    let requests = &shared.registration.connections().requests;
    let turn = match site.side.forwarded_for(shared.peer, || chain().collect()) {
        None => requests.take(&shared.registration.held),
        Some(client) => requests.take_for(client),
    };
    let upload = Upload::new(head, framing, body, shared.clone());
    let silence = site.patience.app.map(Pause::new);
    let exchange = Exchange {
        upload,
        answer: Answer::Awaited(respond),
        status: 0,
        head: Some(held),
        shared: shared.clone(),
        silence,
    };
    (exchange, turn)
}

/// What is known of a request once its head is gone.
struct Ending {
    asked: RequestKind,
    is_idempotent: bool,
    is_grpc: bool,
}

impl Ending {
    /// Tells the client of a failure, as far as that is possible; the status that it was told.
    async fn tell(&self, exchange: Exchange, failure: Failure, working: Working) -> Option<u16> {
        let shared = exchange.shared.clone();
        let mut respond = match exchange.answer {
            Answer::Awaited(respond) => respond,
            // Part of an answer is out: all that is left is to break it off.
            Answer::Sending(sending) => {
                if let Some(reason) = reason_of(&failure) {
                    debug!(error = %failure, "an answer is cut short");
                    shared.put_broken((sending.stream, reason));
                }
                return None;
            }
            Answer::Done => return None,
        };
        let Some(problem) = problem_of(&failure) else {
            shared.give_up();
            return None;
        };
        let status = problem.status;
        app::log_failure(status, &failure);
        if self.is_grpc && matches!(failure, Failure::App(_)) {
            // A client that left has nothing to be told.
            let _ = respond.send_response(head_of(200, &grpc::UNSUPPORTED), true);
        } else {
            drop(working);
            let patience = shared.site.patience.client;
            send_plain(&mut respond, problem.into(), self.asked.is_head, patience).await;
        }
        Some(status)
    }
}

/// How an answer is broken off; not at all for a client that did that itself.
fn reason_of(failure: &Failure) -> Option<Reason> {
    match failure {
        Failure::ClientGone => None,
        Failure::Stalled | Failure::Late => Some(Reason::CANCEL),
        _ => Some(Reason::INTERNAL_ERROR),
    }
}

fn problem_of(failure: &Failure) -> Option<Problem> {
    match failure {
        Failure::ClientGone | Failure::Stalled => None,
        Failure::Late => Some(Problem::new(408, TOO_LATE)),
        Failure::Full(full) => Some(requests::refusal(*full)),
        Failure::Unreachable(Unreachable::TimedOut) => {
            Some(Problem::new(504, "the app did not accept the connection in time"))
        }
        Failure::Unreachable(_) => {
            Some(Problem::new(502, "the app behind this address does not answer"))
        }
        Failure::App(broken) => {
            let (status, detail) = broken.told();
            Some(Problem::new(status, detail))
        }
    }
}

struct Exchange {
    upload: Upload,
    answer: Answer,
    /// Of the answer, once its head is out.
    status: u16,
    /// The request's, until it can be forgotten.
    head: Option<HeldHead>,
    shared: Arc<ConnectionState>,
    /// Of the app, where that is limited.
    silence: Option<Pause>,
}

#[allow(clippy::large_enum_variant, reason = "almost all that last are of the large one")]
enum Answer {
    Awaited(SendResponse<Bytes>),
    Sending(Box<Sending>),
    Done,
}

impl Exchange {
    async fn run(&mut self, ending: &Ending) -> Result<(), Failure> {
        // What was read of a body cannot be read again.
        let is_repeatable = ending.is_idempotent && self.upload.framing == Framing::None;
        let site = self.shared.site.clone();
        let mut app = self.unless_gone(site.app.take()).await?;
        loop {
            app.begin(ending.asked);
            if !app.is_reused() {
                self.upload.forget_head();
            }
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
        connecting: impl Future<Output = Result<AppConnection, Unreachable>>,
    ) -> Result<AppConnection, Failure> {
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

    fn poll(&mut self, app: &mut AppConnection, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        if self.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(Failure::ClientGone));
        }
        if let Poll::Ready(Err(failure)) = self.upload.poll(app, cx) {
            return Poll::Ready(Err(failure));
        }
        if self.upload.is_whole() && !self.upload.may_begin_again() {
            self.head = None;
        }
        let answered = self.poll_answer(app, cx);
        if let Answer::Sending(sending) = &mut self.answer
            && mem::take(&mut sending.has_sent)
        {
            self.upload.has_answered();
        }
        match answered {
            Poll::Pending => self.poll_silence(cx).map(|()| Err(Failure::App(Broken::Silent))),
            ready => ready,
        }
    }

    /// Ready when the app has the whole request and has been silent for too long.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(silence) = &mut self.silence else { return Poll::Pending };
        let is_its_turn = match &self.answer {
            Answer::Awaited(_) => true,
            Answer::Sending(sending) => sending.is_for_app,
            Answer::Done => false,
        };
        if is_its_turn && self.upload.is_whole() {
            return silence.poll_too_long(cx);
        }
        silence.has_moved();
        Poll::Pending
    }

    fn poll_answer(
        &mut self,
        app: &mut AppConnection,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failure>> {
        let Exchange { shared, silence, .. } = self;
        let mut has_heard = || {
            if let Some(silence) = silence {
                silence.has_moved();
            }
        };
        loop {
            match &mut self.answer {
                Answer::Awaited(respond) => {
                    let (head, answer) = ready!(poll_head(app, cx))?;
                    has_heard();
                    if head.is_informational() {
                        respond.send_informational(answer).map_err(|_| Gone)?;
                        continue;
                    }
                    let is_last = head.body == Framed::None;
                    let stream = respond.send_response(answer, is_last).map_err(|_| Gone)?;
                    self.status = head.status;
                    self.upload.forget_head();
                    self.head = None;
                    app.expect(match head.body {
                        Framed::None => Body::Done,
                        Framed::Length(length) => Body::length(length),
                        Framed::Chunked => Body::bare(),
                        Framed::UntilClose => Body::UntilClose,
                    });
                    self.answer = match is_last {
                        true => Answer::Done,
                        false => Answer::Sending(Box::new(Sending {
                            stream,
                            piece: Bytes::new(),
                            is_more: true,
                            trailers: HeaderMap::new(),
                            room: BytesMut::new(),
                            pause: Pause::new(shared.site.patience.client),
                            is_for_app: false,
                            has_sent: true,
                        })),
                    };
                }
                Answer::Sending(sending) => {
                    ready!(sending.poll(app, shared, &mut has_heard, cx))?;
                    self.answer = Answer::Done;
                }
                Answer::Done => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// The app's next head, and what becomes of it.
fn poll_head(
    app: &mut AppConnection,
    cx: &mut Context<'_>,
) -> Poll<Result<(Head, http::Response<()>), Broken>> {
    let (head, answer) =
        ready!(app.poll_head(cx, |head, bytes| (head, head::answer(&head, bytes))))?;
    Poll::Ready(answer.map(|answer| (head, answer)).map_err(Broken::Malformed))
}
