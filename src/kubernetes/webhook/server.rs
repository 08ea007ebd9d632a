//! The webhook's port: TLS, HTTP/1.1 and their limits. Any client that can reach the pod can send
//! anything.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use super::WebhookState;
use super::body::{self, BodyError, LARGE_AT_A_TIME};
use super::metrics::text;
use super::open::{Open, Stage};
use crate::kubernetes::review::{self, Answered, Decision};
use crate::tasks::PanicCount;

/// The path that the webhook configuration names.
const PATH: &str = "/inject";
/// Reviews that are answered at a time; the others wait. More would not be quicker.
const MAX_AT_A_TIME: usize = 4;
const MAX_CONNECTIONS: usize = 512;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than the API server keeps an idle connection (90 s), so that none closes under a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves until `closing`, and then until the last request has its answer.
pub async fn serve(
    listener: Arc<TcpListener>,
    shared: Arc<WebhookState>,
    mut closing: watch::Receiver<bool>,
) {
    let acceptor = TlsAcceptor::from(shared.certificate.server_config());
    let mut open = Open::new(MAX_CONNECTIONS);
    let turns = Arc::new(Turns {
        answering: Semaphore::new(MAX_AT_A_TIME),
        large: Semaphore::new(LARGE_AT_A_TIME),
    });
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = until_true(&mut closing) => break,
        };
        match accepted {
            Ok(_) if !open.make_room() => {
                debug!("every connection is being answered: one more is closed")
            }
            Ok((socket, _)) => {
                let stage = Stage::default();
                let connection = Connection {
                    acceptor: acceptor.clone(),
                    shared: shared.clone(),
                    turns: turns.clone(),
                    closing: closing.clone(),
                    stage: stage.clone(),
                    _count: PanicCount::new(&shared.metrics.task_panics_total, "connection"),
                };
                open.add(stage, connection.serve(socket));
            }
            Err(error) => {
                warn!(%error, "no connection accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    open.finish(BODY_TIMEOUT).await;
}

/// What connections wait for. Neither is ever closed.
struct Turns {
    answering: Semaphore,
    /// For bodies that are larger than usual.
    large: Semaphore,
}

struct Connection {
    acceptor: TlsAcceptor,
    shared: Arc<WebhookState>,
    turns: Arc<Turns>,
    closing: watch::Receiver<bool>,
    stage: Stage,
    _count: PanicCount,
}

impl Connection {
    async fn serve(mut self, socket: TcpStream) {
        let tls = match timeout(HANDSHAKE_TIMEOUT, self.acceptor.accept(socket)).await {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) => return debug!(%error, "no TLS"),
            Err(_) => return debug!("TLS handshake took too long"),
        };
        let (shared, turns) = (self.shared.clone(), self.turns.clone());
        let stage = self.stage.clone();
        let service = service_fn(move |request| {
            let (shared, turns, stage) = (shared.clone(), turns.clone(), stage.clone());
            async move {
                stage.begin();
                let mut answer = respond(request, &shared, &turns).await;
                stage.end();
                // So that the API server asks another replica next, and no connection is closed while
                // a request is on its way to us.
                if *shared.is_leaving.borrow() {
                    let close = HeaderValue::from_static("close");
                    answer.headers_mut().insert(header::CONNECTION, close);
                }
                Ok::<_, Infallible>(answer)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(tls), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = until_true(&mut self.closing) => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            debug!(%error, "a connection failed");
        }
    }
}

/// Resolves when it is true, or its sender is gone.
async fn until_true(watched: &mut watch::Receiver<bool>) {
    let _ = watched.wait_for(|is_true| *is_true).await;
}

async fn respond(
    request: Request<Incoming>,
    shared: &WebhookState,
    turns: &Turns,
) -> Response<Full<Bytes>> {
    if request.uri().path() != PATH {
        return text(StatusCode::NOT_FOUND, format!("not found; there is POST {PATH}\n"));
    }
    if request.method() != Method::POST {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only POST\n".to_owned());
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return answer;
    }
    let count = |outcome: &str| shared.metrics.reviews_total.with_label_values(&[outcome]).inc();
    let malformed = |status, why: String| {
        count("malformed");
        info!("a review that cannot be read: {}", why.trim_end());
        // What is left of the body is not worth reading.
        let mut answer = text(status, why);
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        answer
    };
    if !is_json(&request) {
        let why = "send application/json\n".to_owned();
        return malformed(StatusCode::UNSUPPORTED_MEDIA_TYPE, why);
    }
    let (body, _large) =
        match timeout(BODY_TIMEOUT, body::read(request.into_body(), &turns.large)).await {
            Ok(Ok(body)) => body,
            Ok(Err(error)) => {
                let status = match error {
                    BodyError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
                    BodyError::Broken(_) => StatusCode::BAD_REQUEST,
                };
                return malformed(status, format!("{error}\n"));
            }
            Err(_) => {
                let why = "the body did not arrive in time\n".to_owned();
                return malformed(StatusCode::REQUEST_TIMEOUT, why);
            }
        };
    let Some(version) = *shared.version.read() else {
        // The failure policy decides what becomes of the pod.
        count("unready");
        return text(
            StatusCode::SERVICE_UNAVAILABLE,
            "the version of Kubernetes is not known yet\n".to_owned(),
        );
    };
    let _turn = turns.answering.acquire().await;
    let started = Instant::now();
    match review::answer(&body, &shared.platform, version) {
        Ok(answered) => {
            count(answered.verdict.as_str());
            shared.metrics.review_seconds.observe(started.elapsed().as_secs_f64());
            tell(&answered);
            json(&answered)
        }
        Err(error) => malformed(StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

fn is_json(request: &Request<Incoming>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("application/json")
}

fn tell(answered: &Answered) {
    let pod = &answered.pod;
    match answered.verdict {
        Decision::Injected => info!(pod, "a sidecar was added"),
        Decision::Refused => {
            let why = answered.review.pointer("/response/status/message");
            info!(pod, "refused: {}", why.and_then(|why| why.as_str()).unwrap_or_default());
        }
        Decision::Warned | Decision::Unchanged => debug!(pod, "left alone"),
    }
}

fn json(answered: &Answered) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(answered.review.to_string())));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
