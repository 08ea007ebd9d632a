//! What the reserved path answers, for requests over HTTP/1 and HTTP/2 alike.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::access::credentials::Credentials;
use crate::access::origin::{self, Page};
use crate::access::{Guard, Origin};
use crate::api::asyncapi;
use crate::api::capacity::{ConnectionSlot, StreamLimits};
use crate::api::compression::Compressed;
use crate::api::compression::Compressor;
use crate::api::listing::Lists;
use crate::api::negotiation::{self, Chosen, Transport};
use crate::api::poll::Polling;
use crate::api::problem::{self, Problem};
use crate::api::refusal::Refusal;
use crate::api::transport::{self, Ending, Pace, Sink};
use crate::api::wanted;
use crate::api::websocket::Upgraded;
use crate::config::Compression;
use crate::drain::{Drain, DrainHold};
use crate::metrics::{LoggedRequest, Metrics};
use crate::session::catalog::Catalog;
use crate::session::connection::Connection;
use crate::session::control::Ended;
use crate::trace::{Span, SpanSide};

/// A request on the reserved path.
#[derive(Debug)]
pub struct Ask<'a> {
    pub method: &'a str,
    /// What follows the prefix: a stream's name, or nothing.
    pub rest: &'a str,
    pub query: Vec<(String, String)>,
    pub accept: Vec<&'a [u8]>,
    pub accept_encoding: Vec<&'a [u8]>,
    pub last_event_id: Option<&'a [u8]>,
    pub origin: Origin<'a>,
    /// Where the client is, as far as trusted proxies tell.
    pub address: Option<IpAddr>,
    /// An upgrade to anything else is passed over, as HTTP allows.
    pub is_websocket: bool,
    /// `Sec-WebSocket-Key` and `Sec-WebSocket-Version`
    pub websocket_key: Option<&'a [u8]>,
    pub websocket_version: Option<&'a [u8]>,
    /// Whether it asks, as browsers do, what it may ask.
    pub is_preflight: bool,
    pub has_cookies: bool,
    /// Of the trace that the client is in.
    pub traceparent: Option<&'a [u8]>,
    /// Of its opening.
    pub span: Span,
    /// What says who it is from; see [`Guard::credentials`].
    pub credentials: Credentials,
}

/// What to send back.
pub enum Answer {
    /// And the fields of its head.
    Stream(Box<Opened>, Vec<(&'static str, String)>),
    /// To be waited for.
    Poll(Box<Polling>),
    WebSocket(Box<Upgraded>),
    Plain(Plain),
}

/// An answer that is known whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Plain {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    /// In pieces, which others may be sending as well.
    pub body: Vec<Bytes>,
}

impl Plain {
    /// The length of the body.
    pub fn length(&self) -> usize {
        self.body.iter().map(Bytes::len).sum()
    }
}

impl std::convert::From<Problem> for Plain {
    fn from(problem: Problem) -> Plain {
        let mut headers = vec![
            ("Content-Type", problem::CONTENT_TYPE.to_string()),
            ("Cache-Control", "no-store".to_string()),
        ];
        let body = vec![problem.body()];
        let status = problem.status;
        headers.extend(problem.headers);
        Plain { status, headers, body }
    }
}

/// A stream that was let in.
pub struct Opened {
    pub(super) connection: Connection,
    pub(super) open: Open,
}

impl Opened {
    /// Gives back what was counted for streams that have ended.
    pub(super) fn count_open(&mut self) {
        if let Some(many) = self.connection.many() {
            let values = many.members().map(|(stream, _)| (&stream.filter().name, stream.values()));
            self.open.place.keep_only(values);
        }
    }
}

/// What an open stream holds, given back when dropped.
pub(super) struct Open {
    pub(super) handler: Arc<Handler>,
    pub(super) place: ConnectionSlot,
    pub(super) transport: Transport,
    /// How its bytes are compressed.
    pub(super) compression: Option<Compression>,
    pub(super) _held: DrainHold,
}

impl Drop for Open {
    fn drop(&mut self) {
        let transport = self.transport.name();
        self.handler.metrics.connections.with_label_values(&[transport]).dec();
        if std::thread::panicking() {
            self.handler.metrics.count_panic("stream");
        }
    }
}

/// Answers the reserved path.
pub struct Handler {
    pub catalog: Arc<Catalog>,
    pub drain: Drain,
    pub metrics: Arc<Metrics>,
    pub guard: Guard,
    pub pace: Pace,
    /// Zero: no limit.
    pub max_duration: Duration,
    /// `clients.max_streams_per_connection`
    pub max_streams: usize,
    /// `clients.compression`
    pub(super) compression: Vec<Compression>,
    pub(super) limits: Arc<StreamLimits>,
    pub(super) lists: Lists,
    /// The reserved path.
    pub(super) prefix: String,
}

impl Handler {
    /// Takes its limits from `clients` of the settings, and its path from `prefix`.
    pub fn new(
        catalog: Arc<Catalog>,
        drain: Drain,
        metrics: Arc<Metrics>,
        guard: Guard,
        config: &crate::config::Config,
    ) -> Handler {
        let clients = &config.clients;
        for transport in negotiation::COUNTED {
            // There from the start: an alert on a rate needs a first value.
            metrics.connections.with_label_values(&[transport.name()]);
            metrics.connections_total.with_label_values(&[transport.name(), "accepted"]);
        }
        let pace = Pace {
            metrics: metrics.clone(),
            ids: catalog.shared.ids.clone(),
            retry: clients.retry,
            send_timeout: clients.send_timeout,
            relays: Arc::default(),
        };
        Handler {
            catalog,
            drain,
            metrics,
            guard,
            pace,
            max_duration: clients.max_duration.unwrap_or_default(),
            max_streams: clients.max_streams_per_connection,
            compression: clients.compression.clone(),
            limits: Arc::new(StreamLimits::new(clients)),
            lists: Lists::default(),
            prefix: config.prefix.clone(),
        }
    }

    /// Decides about a request. Waits for nothing, but where it has to be found out who asks.
    pub async fn answer(self: &Arc<Handler>, mut ask: Ask<'_>) -> Answer {
        let began = Instant::now();
        let metrics = &self.metrics;
        let is_told = metrics.request_log.is_on();
        let (method, address) =
            (if is_told { ask.method.to_owned() } else { String::new() }, ask.address);
        let path = if is_told { format!("{}/{}", self.prefix, ask.rest) } else { String::new() };
        let page = origin::page(ask.origin, self.guard.allowed_origins());
        let cors = origin::headers(&page, self.guard.allowed_origins());
        let by_query = wanted::value(&ask.query, "transport").map(Transport::parse);
        let chosen = match by_query {
            Some(transport) => {
                let accepts = negotiation::choose(&ask.accept);
                let is_named =
                    accepts.is_some_and(|it| it.is_named && Some(it.transport) == transport);
                transport.map(|transport| Chosen { transport, is_named })
            }
            None => negotiation::choose(&ask.accept),
        };
        let transport = match ask.is_websocket {
            true => Transport::WebSocket,
            false => chosen.map_or(Transport::Sse, |chosen| chosen.transport),
        };
        let is_event_stream =
            transport == Transport::Sse && chosen.is_some_and(|chosen| chosen.is_named);
        let is_negotiated = !ask.is_websocket
            && ask.method != "OPTIONS"
            && (!ask.rest.is_empty() || wanted::has_many(ask.rest, &ask.query));
        if is_negotiated || ask.is_websocket {
            ask.span = metrics.tracer.continued(SpanSide::Server, "open stream", ask.traceparent);
            ask.span.set("sidestream.transport", transport.name());
            ask.span.set_with("http.request.method", || ask.method.to_owned());
            ask.span.set_with("http.route", || format!("{}/{{stream}}", self.prefix));
        }
        let span = ask.span.clone();
        let decided = match by_query {
            Some(None) if !ask.is_websocket => Err(Problem::new(400, negotiation::NAMES).into()),
            _ => self.decide(ask, &page, chosen).await,
        };
        let status = match &decided {
            Ok(Answer::Plain(plain)) => plain.status,
            Ok(Answer::WebSocket(_)) => 101,
            Ok(_) => 200,
            Err(refusal) => refusal.status(),
        };
        span.set("http.response.status_code", i64::from(status));
        if status >= 500 {
            span.fail(status.to_string());
        }
        drop(span);
        if is_told {
            let seconds = began.elapsed().as_secs_f64();
            let (method, path) = (method.as_str(), path.as_str());
            let client = address;
            metrics.request_log.tell(&LoggedRequest { method, path, status, seconds, client });
        }
        let mut answer = match decided {
            Ok(answer) => answer,
            Err(refusal) => {
                // Whatever the client is told, it is counted as what it is.
                self.count_outcome(transport, &refusal.status().to_string());
                Answer::Plain(refusal.into_answer(is_event_stream))
            }
        };
        let headers = match &mut answer {
            Answer::Stream(_, headers) => headers,
            // Its own fields are known when it is answered, and not kept while it waits.
            Answer::Poll(polling) => {
                polling.cors = cors.into();
                return answer;
            }
            Answer::Plain(plain) => &mut plain.headers,
            // Its origin was looked at, and a browser looks at nothing more.
            Answer::WebSocket(_) => return answer,
        };
        headers.extend(cors);
        if is_negotiated {
            self.vary(headers);
        }
        answer
    }

    /// Says that another request may be answered by another transport, or compressed in another way.
    pub(super) fn vary(&self, headers: &mut Vec<(&'static str, String)>) {
        if !self.compression.is_empty() {
            vary_by(headers, "Accept-Encoding");
        }
        // Also a refusal is another one for who accepts event streams.
        vary_by(headers, "Accept");
    }

    async fn decide(
        self: &Arc<Handler>,
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
            return Ok(Answer::Plain(Plain { status: 204, headers, body: Vec::new() }));
        }
        if ask.is_websocket && ask.has_cookies && ask.origin.origin.is_none() {
            return Err(Problem::new(403, "a WebSocket that sends cookies needs an Origin").into());
        }
        if ask.is_websocket {
            return Ok(Box::pin(self.upgrade(ask)).await?);
        }
        if ask.rest.is_empty() && !wanted::has_many(ask.rest, &ask.query) {
            return Box::pin(self.list(ask)).await;
        }
        if ask.rest == asyncapi::NAME {
            return Box::pin(self.asyncapi(ask)).await;
        }
        let chosen = chosen.ok_or_else(|| Problem::new(406, negotiation::OFFERED))?;
        self.open(ask, chosen).await
    }

    /// `outcome` is `accepted`, or the status of the refusal.
    pub(super) fn count_outcome(&self, transport: Transport, outcome: &str) {
        self.metrics.connections_total.with_label_values(&[transport.name(), outcome]).inc();
    }

    pub(super) fn count_end(&self, ended: Ended) {
        if ended == Ended::Unauthorized {
            self.count_auth("ended");
        }
        self.metrics.streams_ended_total.with_label_values(&[ended.reason()]).inc();
    }

    /// `result` as in [`access::AuthRefusal::result`](crate::access::AuthRefusal::result), or
    /// `allowed`, or `ended`.
    pub(super) fn count_auth(&self, result: &str) {
        self.metrics.auth_total.with_label_values(&[result]).inc();
    }
}

fn vary_by(headers: &mut Vec<(&'static str, String)>, field: &str) {
    match headers.iter_mut().find(|(name, _)| *name == "Vary") {
        Some((_, value)) => *value = format!("{field}, {value}"),
        None => headers.push(("Vary", field.to_string())),
    }
}

impl Opened {
    /// Sends the stream until it ends. The head has been sent.
    ///
    /// Everything stays where it is, behind a pointer: what an idle stream holds is what it costs.
    pub async fn serve<S: Sink>(&mut self, sink: &mut S) -> Ending {
        let Opened { connection, open } = self;
        let (encoder, pace) = (open.transport.encoder(), &open.handler.pace);
        let ending = match open.compression {
            None => transport::serve(sink, connection, encoder, pace).await,
            // Boxed, so that the others have no room for it.
            Some(compression) => {
                Box::pin(async {
                    let Ok(compressor) = Compressor::new(compression) else {
                        // Without memory for it, the client has to come back.
                        return Ending::cut(Ended::ClientGone);
                    };
                    let mut sink = Compressed::new(sink, compressor);
                    let ending = transport::serve(&mut sink, connection, encoder, pace).await;
                    if !ending.is_cut {
                        sink.finish().await;
                    }
                    ending
                })
                .await
            }
        };
        open.handler.count_end(ending.ended);
        ending
    }
}
