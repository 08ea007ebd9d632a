//! HTTP/1 requests to the app and its answers back, past pingora: what an app can say, trailers
//! and all, is passed on as it came, in one future and with one write each way where that will do.
//!
//! Nothing in this directory depends on MongoDB or on filter files.

mod ahead;
pub mod answer;
pub mod client;
pub mod exchange;
pub mod request;

use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::time::timeout;
use tracing::debug;

use super::app::answer::RequestKind;
use super::app::body::Body;
use super::app::{self, App, AppConnection, Broken};
use super::chunks::Malformed;
use super::connections::Registration;
use super::gate::{self, Head};
use super::grpc;
use super::limits::pause::TOO_LATE;
use super::limits::requests::{self, RequestSlot};
use super::observed::{Observed, ObservedRequest};
use super::plain;
use super::side::Side;
use crate::api::capacity::Full;
use crate::api::problem::Problem;
use crate::api::reserved::Plain;
use crate::drain::Drain;
use crate::metrics::Metrics;
use client::Client;
use exchange::{Exchange, Patience, Request, Stop};

/// How long a client may take to read that its request failed.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(5);

/// Forwards requests. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Forwarder {
    pub app: App,
    pub side: Arc<Side>,
    pub metrics: Arc<Metrics>,
    pub drain: Drain,
    pub patience: Patience,
}

/// How an exchange ended for the client.
struct ExchangeEnd {
    /// The status that it got, or 0.
    status: u16,
    /// Whether its connection can be used again.
    is_reusable: bool,
}

impl ExchangeEnd {
    fn last(status: u16) -> ExchangeEnd {
        ExchangeEnd { status, is_reusable: false }
    }
}

impl Forwarder {
    /// Forwards the request whose head is at the beginning of these bytes, and passes the answer
    /// on. `false` when the client's connection is over.
    pub async fn forward(
        &self,
        client: &mut Client,
        bytes: BytesMut,
        head: Head,
        peer: Option<IpAddr>,
        registration: &Registration,
    ) -> bool {
        let mut observed = self.observe(&bytes[..head.length], &head, peer);
        let _held = self.drain.hold();
        let ended = match self.turn(&bytes[..head.length], peer, registration) {
            Ok(_turn) => self.exchange(client, bytes, head, peer, &mut observed).await,
            Err(full) => {
                self.metrics.refused_total.with_label_values(&[full.name()]).inc();
                // It waits for its client, and is not one of those that are counted.
                registration.rest();
                tell(client, &head, requests::refusal(full), &full).await
            }
        };
        observed.finish(&self.metrics, ended.status);
        ended.is_reusable
    }

    fn observe(&self, bytes: &[u8], head: &Head, peer: Option<IpAddr>) -> Observed {
        Observed::begin(&self.metrics, self.app.address(), || {
            let first = |name: &str| gate::header_values(bytes, name).into_iter().next();
            ObservedRequest {
                method: head.method(bytes),
                target: head.target(bytes),
                host: first("host"),
                scheme: self.side.scheme,
                version: if head.minor == 0 { "1.0" } else { "1.1" },
                client: self
                    .side
                    .client_address(peer, &gate::header_values(bytes, "x-forwarded-for")),
                traceparent: first("traceparent"),
            }
        })
    }

    /// Lets a request be one of those that are on their way.
    fn turn<'a>(
        &'a self,
        head: &[u8],
        peer: Option<IpAddr>,
        registration: &'a Registration,
    ) -> Result<RequestSlot<'a>, Full> {
        let requests = &registration.connections().requests;
        let chain = || gate::header_values(head, "x-forwarded-for");
        match self.side.forwarded_for(peer, chain) {
            None => requests.take(&registration.held),
            Some(client) => requests.take_for(client),
        }
    }

    async fn exchange(
        &self,
        client: &mut Client,
        mut bytes: BytesMut,
        head: Head,
        peer: Option<IpAddr>,
        observed: &mut Observed,
    ) -> ExchangeEnd {
        let mut first = BytesMut::with_capacity(head.length + 512);
        let sent = match request::write(&head, &bytes, &self.side, peer, &mut first) {
            Ok(sent) => sent,
            Err(reason) => return tell(client, &head, Problem::new(400, reason), &reason).await,
        };
        observed.put_traceparent(&mut first);
        let request = Request {
            asked: RequestKind { is_head: head.is_head, is_upgrade: sent.is_upgrade },
            minor: head.minor,
            is_keep_alive: head.is_keep_alive,
            is_idempotent: head.is_idempotent,
        };
        let mut body = match head.body {
            gate::Body::None => Body::Done,
            gate::Body::Length(length) => Body::length(length),
            gate::Body::Chunked => Body::chunks(),
        };
        if bytes.len() > head.length {
            let mut rest = bytes.split_off(head.length);
            match body.pass(&mut rest) {
                Ok(behind) => client.hold(behind),
                Err(malformed) => return tell_stop(client, &head, Stop::from(malformed)).await,
            }
            first.extend_from_slice(&rest);
        }
        drop(bytes);
        let app = match self.app.take().await {
            Ok(app) => app,
            Err(error) => return tell_unreachable(client, &head, &error).await,
        };
        let mut exchange =
            Exchange::new(client, app, request, &self.drain, self.patience, first, body);
        let passed = loop {
            match poll_fn(|cx| exchange.poll(cx)).await {
                Err(Stop::Stale) => match self.app.connect().await {
                    Ok(app) => exchange.restart(app),
                    Err(error) => return tell_unreachable(exchange.client, &head, &error).await,
                },
                passed => break passed,
            }
        };
        if exchange.status() != 0 {
            observed.app_answered(exchange.status());
        }
        match passed {
            Ok(()) if exchange.status() == 101 => {
                observed.finish(&self.metrics, 101);
                let (client, app, _) = exchange.into_parts();
                tunnel(client, app).await;
                ExchangeEnd::last(101)
            }
            Ok(()) => self.finish(exchange).await,
            Err(stop) => abandon(exchange, stop, (&head, sent.is_grpc)).await,
        }
    }

    /// The answer is passed on whole.
    async fn finish(&self, exchange: Exchange<'_>) -> ExchangeEnd {
        let (status, is_sending) = (exchange.status(), exchange.is_sending());
        let is_reusable = !exchange.is_last() && !is_sending;
        let (client, app, is_whole) = exchange.into_parts();
        if is_whole {
            self.app.give_back(app);
        }
        if !is_reusable {
            // The connection is over either way.
            let ended = client.socket.shutdown().await;
            if ended.is_ok() && (is_sending || !client.held.is_empty()) {
                client.socket.linger().await;
            }
        }
        ExchangeEnd { status, is_reusable }
    }
}

/// What is logged about a request without a complete answer.
async fn abandon(
    exchange: Exchange<'_>,
    stop: Stop,
    (head, is_grpc): (&Head, bool),
) -> ExchangeEnd {
    let status = exchange.status();
    if status == 0 && !exchange.is_cut() {
        return match stop {
            Stop::App(broken) if is_grpc => tell_no_grpc(exchange.client, head, &broken).await,
            stop => tell_stop(exchange.client, head, stop).await,
        };
    }
    // Part of an answer is out: all that is left is to break it off.
    debug!(status, ?stop, "an answer was cut short");
    if exchange.ends_with_connection() || matches!(stop, Stop::Stalled) {
        // Else it would look as if it were whole, or the kernel would keep what nobody takes.
        exchange.client.socket.reset_on_close();
    }
    ExchangeEnd::last(status)
}

async fn tell_stop(client: &mut Client, head: &Head, stop: Stop) -> ExchangeEnd {
    let problem = match &stop {
        // Nobody is there to read it.
        Stop::Gone => return ExchangeEnd::last(0),
        Stop::Stalled => {
            client.socket.reset_on_close();
            return ExchangeEnd::last(0);
        }
        Stop::Malformed => Problem::new(400, Malformed.to_string()),
        Stop::Late => Problem::new(408, TOO_LATE),
        Stop::Stale => told(&Broken::Closed),
        Stop::App(broken) => told(broken),
    };
    match stop {
        Stop::App(broken) => tell(client, head, problem, &broken).await,
        _ => {
            let detail = problem.detail.clone();
            tell(client, head, problem, &detail).await
        }
    }
}

async fn tell_no_grpc(client: &mut Client, head: &Head, broken: &Broken) -> ExchangeEnd {
    let (status, _) = broken.told();
    app::log_failure(status, broken);
    let headers = grpc::UNSUPPORTED.map(|(name, value)| (name, value.to_owned())).to_vec();
    let answer = Plain { status: 200, headers, body: Vec::new() };
    answer_and_close(client, head, answer, status).await
}

fn told(broken: &Broken) -> Problem {
    let (status, detail) = broken.told();
    Problem::new(status, detail)
}

async fn tell_unreachable(
    client: &mut Client,
    head: &Head,
    error: &super::app::Unreachable,
) -> ExchangeEnd {
    let detail = match error.status() {
        504 => "the app did not accept the connection in time",
        _ => "the app behind this address does not answer",
    };
    tell(client, head, Problem::new(error.status(), detail), error).await
}

/// Answers with a problem, and closes.
async fn tell(
    client: &mut Client,
    head: &Head,
    problem: Problem,
    error: &(dyn std::fmt::Display + Sync),
) -> ExchangeEnd {
    let status = problem.status;
    app::log_failure(status, error);
    answer_and_close(client, head, problem.into(), status).await
}

/// `status` is what it counts as.
async fn answer_and_close(
    client: &mut Client,
    head: &Head,
    answer: Plain,
    status: u16,
) -> ExchangeEnd {
    let telling = async {
        plain::answer_plain(&mut client.socket, answer, head.is_head, true, REFUSAL_DEADLINE)
            .await?;
        plain::close(&mut client.socket).await;
        std::io::Result::Ok(())
    };
    // A client that does not read it has had its chance.
    match timeout(REFUSAL_DEADLINE, telling).await {
        Ok(Err(_)) => ExchangeEnd::last(0),
        _ => ExchangeEnd::last(status),
    }
}

/// Both sides speak another protocol now; each may end its half.
async fn tunnel(client: &mut Client, app: AppConnection) {
    let (mut app, early) = app.into_parts();
    let late = std::mem::take(&mut client.held);
    let carried = async {
        client.socket.write_all(&early).await?;
        client.socket.flush().await?;
        app.write_all(&late).await?;
        app.flush().await?;
        drop((early, late));
        copy_bidirectional(&mut client.socket, &mut app).await
    };
    if let Err(error) = carried.await {
        debug!(%error, "a switched connection ended");
    }
}
