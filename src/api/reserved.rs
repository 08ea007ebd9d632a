//! What the reserved path answers, whichever way a request came in.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::access::credentials::Credentials;
use crate::access::origin::{self, Page};
use crate::access::{self, Caller, Guard, Origin, Right};
use crate::api::capacity::{Full, Limits, Place};
use crate::api::negotiation::{self, Chosen, Transport};
use crate::api::problem::{self, Problem};
use crate::api::refusal::Refusal;
use crate::api::sse::{self, Style};
use crate::api::transport::{self, Ended, RightEnded, Serve, Sink};
use crate::drain::{Drain, Held};
use crate::event::Position;
use crate::filter::{Access, BindError};
use crate::metrics::Metrics;
use crate::session::catalog::Catalog;
use crate::session::subscription::{From, Subscription};

/// The id in the query, where a header can't be set.
const LAST_EVENT_ID: &str = "lastEventId";
/// How positions come without an event.
const HEARTBEAT: &str = "heartbeat";

/// A request on the reserved path.
#[derive(Debug)]
pub struct Ask<'a> {
    pub method: &'a str,
    /// What follows the prefix: a stream's name, or nothing.
    pub rest: &'a str,
    pub query: Vec<(String, String)>,
    pub accept: Vec<&'a [u8]>,
    pub last_event_id: Option<&'a [u8]>,
    pub origin: Origin<'a>,
    /// Where the client is, as far as trusted proxies tell.
    pub address: Option<IpAddr>,
    /// An upgrade to anything else is passed over, as HTTP allows.
    pub is_websocket: bool,
    /// Whether it asks, as browsers do, what it may ask.
    pub is_preflight: bool,
    pub has_cookies: bool,
    /// What says who it is from; see [`Guard::credentials`].
    pub credentials: Credentials,
}

/// What to send back.
pub enum Answer {
    /// And further fields of its head.
    Stream(Box<Opened>, Vec<(&'static str, String)>),
    Plain(Plain),
}

/// An answer that is known whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Plain {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
}

impl std::convert::From<Problem> for Plain {
    fn from(problem: Problem) -> Plain {
        let mut headers = vec![
            ("Content-Type", problem::CONTENT_TYPE.to_string()),
            ("Cache-Control", "no-store".to_string()),
        ];
        let body = problem.body();
        let status = problem.status;
        headers.extend(problem.headers);
        Plain { status, headers, body }
    }
}

/// A stream that was let in.
pub struct Opened {
    subscription: Subscription,
    query: Box<[(String, String)]>,
    /// Of a protected stream. Boxed: a public one has none, and there are many of those.
    right: Option<Box<Right>>,
    style: Style,
    open: Open,
}

/// What an open stream holds, given back when dropped.
struct Open {
    desk: Arc<Desk>,
    place: Place,
    _held: Held,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.desk.metrics.connections.with_label_values(&["sse"]).dec();
    }
}

/// Answers the reserved path.
pub struct Desk {
    pub catalog: Arc<Catalog>,
    pub drain: Drain,
    pub metrics: Arc<Metrics>,
    pub guard: Guard,
    pub retry: Duration,
    /// Zero: no limit.
    pub max_duration: Duration,
    limits: Arc<Limits>,
}

impl Desk {
    pub fn new(
        catalog: Arc<Catalog>,
        drain: Drain,
        metrics: Arc<Metrics>,
        guard: Guard,
        clients: &crate::config::Clients,
    ) -> Desk {
        Desk {
            catalog,
            drain,
            metrics,
            guard,
            retry: clients.retry,
            max_duration: clients.max_duration.unwrap_or_default(),
            limits: Arc::new(Limits::new(clients)),
        }
    }

    /// Decides about a request. Waits for nothing, but where it has to be found out who asks.
    pub async fn answer(self: &Arc<Desk>, ask: Ask<'_>) -> Answer {
        let page = origin::page(ask.origin, self.guard.allowed_origins());
        let cors = origin::headers(&page, self.guard.allowed_origins());
        let chosen = negotiation::choose(&ask.accept);
        let is_event_stream = chosen.is_some_and(|chosen| {
            chosen.is_named && chosen.transport == Transport::Sse && !ask.is_websocket
        });
        let mut answer = match self.decide(ask, &page, chosen).await {
            Ok(answer) => answer,
            Err(refusal) => {
                // Whatever the client is told, it is counted as what it is.
                let outcome = refusal.status().to_string();
                self.metrics.connections_total.with_label_values(&["sse", &outcome]).inc();
                Answer::Plain(refusal.into_answer(is_event_stream))
            }
        };
        match &mut answer {
            Answer::Stream(_, fields) => fields.extend(cors),
            Answer::Plain(plain) => plain.headers.extend(cors),
        }
        answer
    }

    async fn decide(
        self: &Arc<Desk>,
        ask: Ask<'_>,
        page: &Page,
        chosen: Option<Chosen>,
    ) -> Result<Answer, Refusal> {
        const METHODS: &str = "GET, HEAD, OPTIONS";
        if !matches!(ask.method, "GET" | "HEAD" | "OPTIONS") {
            let problem = Problem::new(405, "streams are opened with GET");
            return Err(problem.with_header("Allow", METHODS).into());
        }
        if *page == Page::Foreign {
            return Err(
                Problem::new(403, "pages of other origins may not open streams here").into()
            );
        }
        if ask.method == "OPTIONS" {
            let mut headers = vec![("Allow", METHODS.to_string())];
            if ask.is_preflight && matches!(page, Page::Allowed(_)) {
                headers.extend(origin::PREFLIGHT.map(|(name, value)| (name, value.to_string())));
            }
            return Ok(Answer::Plain(Plain { status: 204, headers, body: Bytes::new() }));
        }
        if ask.is_websocket && ask.has_cookies && ask.origin.origin.is_none() {
            return Err(Problem::new(403, "a WebSocket that brings cookies needs an Origin").into());
        }
        if ask.rest.is_empty() {
            return Box::pin(self.list(ask)).await;
        }
        let chosen = chosen.filter(|_| !ask.is_websocket);
        let chosen =
            chosen.ok_or_else(|| Problem::new(406, "streams are sent as text/event-stream"))?;
        self.open(ask, chosen).await
    }

    async fn open(self: &Arc<Desk>, mut ask: Ask<'_>, chosen: Chosen) -> Result<Answer, Refusal> {
        if self.drain.has_begun() {
            return Err(Refusal::passing(503, "this sidecar is shutting down", self.retry));
        }
        let style = style(&mut ask)?;
        let from = from(&mut ask);
        // First, since it costs nothing: a full house asks nobody who is at the door.
        let mut open = self.take_place(ask.address)?;
        let found =
            self.catalog.find(ask.rest).map_err(|error| Problem::new(404, error.to_string()))?;
        let right = match found.filter.access {
            Access::Public => None,
            Access::Authenticated | Access::Match(_) => {
                Some(Box::new(Box::pin(self.identify(ask.credentials)).await?))
            }
        };
        let caller = right.as_ref().map(|right| right.caller());
        let claims = caller.as_ref().map(|caller| caller.claims.document());
        let bound = found.filter.bind(&ask.query, claims).map_err(|error| {
            if error.status() == 403 {
                self.count_auth("forbidden");
            }
            refusal_of(error)
        })?;
        if let Some(caller) = &caller {
            let values = (&found.filter.name, &bound.values);
            open.place.count_for(caller, &values).map_err(|full| self.full(full))?;
            self.count_auth("allowed");
        }
        // Before its feed was read for the first time, nobody can say where "now" is. Who takes a
        // refusal for final waits on an open stream.
        if !chosen.is_named && !found.was_read() {
            return Err(Refusal::passing(503, "MongoDB has not been read yet", self.retry));
        }
        self.metrics.connections_total.with_label_values(&["sse", "accepted"]).inc();
        let opened = Opened {
            subscription: self.catalog.subscribe(&found, bound, from),
            query: ask.query.into(),
            right,
            style,
            open,
        };
        Ok(Answer::Stream(Box::new(opened), Vec::new()))
    }

    pub(super) async fn identify(&self, credentials: Credentials) -> Result<Right, Refusal> {
        self.guard.identify(credentials).await.map_err(|refusal| {
            self.count_auth(refusal.result());
            let unauthorized = |detail: String, challenge: String| {
                Problem::new(401, detail).with_header("WWW-Authenticate", challenge).into()
            };
            match refusal {
                access::Refusal::Missing => {
                    unauthorized(BindError::NoCaller.to_string(), "Bearer".to_owned())
                }
                access::Refusal::Token(error) => unauthorized(
                    error.to_string(),
                    format!("Bearer error=\"invalid_token\", error_description=\"{error}\""),
                ),
                access::Refusal::Unknown => {
                    unauthorized("the app does not know who this is".into(), "Bearer".into())
                }
                access::Refusal::Forbidden => {
                    Problem::new(403, "the app refuses this caller").into()
                }
                access::Refusal::Unavailable => {
                    let detail = "the authentication service is unavailable";
                    Refusal::passing(503, detail, self.retry)
                }
            }
        })
    }

    fn count_auth(&self, result: &str) {
        self.metrics.auth_total.with_label_values(&[result]).inc();
    }

    fn full(&self, full: Full) -> Refusal {
        self.metrics.refused_total.with_label_values(&[full.name()]).inc();
        Refusal::full(full.status(), full.to_string())
    }

    fn take_place(self: &Arc<Desk>, address: Option<IpAddr>) -> Result<Open, Refusal> {
        let place = self.limits.take(address).map_err(|full| self.full(full))?;
        self.metrics.connections.with_label_values(&["sse"]).inc();
        Ok(Open { desk: self.clone(), place, _held: self.drain.hold() })
    }
}

fn refusal_of(error: BindError) -> Problem {
    let status = error.status();
    let problem = Problem::new(status, error.to_string());
    if status == 401 { problem.with_header("WWW-Authenticate", "Bearer") } else { problem }
}

/// How the client wants its event stream.
fn style(ask: &mut Ask<'_>) -> Result<Style, Problem> {
    let mut style = Style::default();
    for (_, value) in ask.query.extract_if(.., |(name, _)| name == HEARTBEAT) {
        if value != "event" {
            return Err(Problem::new(400, "`heartbeat` can only be `event`"));
        }
        style.has_position_events = true;
    }
    Ok(style)
}

/// The header wins over the query; an empty one means that the client has none.
fn from(ask: &mut Ask<'_>) -> From {
    let mut in_query = None;
    ask.query.retain(|(name, value)| {
        let is_id = name == LAST_EVENT_ID;
        if is_id {
            in_query = Some(value.clone());
        }
        !is_id
    });
    let in_header = ask.last_event_id.map(|id| String::from_utf8_lossy(id).into_owned());
    match in_header.or(in_query).as_deref() {
        None | Some("") => From::Now,
        Some(id) => Position::parse(id).map_or(From::Invalid, From::Position),
    }
}

impl Opened {
    /// Sends the stream until it ends. The head has been sent.
    ///
    /// Everything stays where it is, behind a pointer: what an idle stream holds is what it costs.
    pub async fn serve<S: Sink>(&mut self, sink: &mut S) -> Ended {
        let Opened { subscription, query, right, style, open, .. } = self;
        let desk = &open.desk;
        let query = &*query;
        let ended = match send_first(sink, desk.retry).await {
            Ok(()) => {
                let reopen = |old: &Subscription| {
                    let caller = right.as_ref().map(|right| right.caller());
                    let claims = caller.as_ref().map(|caller| caller.claims.document());
                    let found = desk.catalog.find(&old.filter().name).ok()?;
                    let bound = found.filter.bind(query, claims).ok()?;
                    let from = From::FilterChanged { was_ready: old.was_ready() };
                    Some(desk.catalog.subscribe(&found, bound, from))
                };
                let right_ended: RightEnded<'_> = right.as_ref().map(|right| {
                    let name = subscription.filter().name.clone();
                    let ended = right.ended(move |before: &Caller, now: &Caller| {
                        fits(desk, &name, query, before, now)
                    });
                    Box::pin(ended) as _
                });
                let mut serve = Serve { desk, reopen: &reopen, right_ended, style: *style };
                transport::serve_sse(sink, subscription, &mut serve).await
            }
            Err(ended) => ended,
        };
        if ended == Ended::Unauthorized {
            desk.count_auth("ended");
        }
        desk.metrics.streams_ended_total.with_label_values(&[ended.reason()]).inc();
        ended
    }
}

/// Whether other claims are fine: as long as they open the same stream with the same values. What is
/// open is never quietly narrowed or widened.
fn fits(
    desk: &Desk,
    name: &str,
    query: &[(String, String)],
    before: &Caller,
    now: &Caller,
) -> bool {
    let bind = |caller: &Caller| {
        let found = desk.catalog.find(name).ok()?;
        found.filter.bind(query, Some(caller.claims.document())).ok()
    };
    match (bind(before), bind(now)) {
        (Some(before), Some(now)) => before.values == now.values,
        _ => false,
    }
}

/// Boxed and gone before the stream idles.
async fn send_first<S: Sink>(sink: &mut S, retry: Duration) -> Result<(), Ended> {
    let first = [sse::retry(retry)];
    let sent = tokio::time::timeout(transport::MAX_WRITE_STALL, sink.send(&first));
    match Box::pin(sent).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Ended::ClientGone),
        Err(_) => Err(Ended::Stalled),
    }
}
