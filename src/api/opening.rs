//! From a request to an open connection: admits or refuses a client.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bson::Timestamp;

use super::capacity::{ConnectionSlot, Full};
use super::compression;
use super::negotiation::{Chosen, Transport};
use super::poll::{self, Polling};
use super::problem::Problem;
use super::refusal::Refusal;
use super::reserved::{Answer, Ask, Handler, Open, Opened};
use super::wanted::{self, Wanted, WantedStream};
use crate::access::credentials::Credentials;
use crate::access::{self, Caller, Right};
use crate::config::Compression;
use crate::event::Position;
use crate::filter::{Access, BindError};
use crate::session::catalog::{ActiveStream, OpenError};
use crate::session::connection::{Connection, Member};
use crate::session::control::Control;
use crate::session::listeners::{Listed, Listener};
use crate::session::many::Many;
use crate::session::query::Query;
use crate::session::subscription::{From, Subscription};
use crate::trace::{Span, SpanSide};

/// How far a client's time may be ahead of all that is known here, in seconds.
const AHEAD_SECONDS: u32 = 30;

/// Who a connection's caller is, asked for when the first of its streams needs to know.
pub(super) struct Identity {
    credentials: Option<Box<Credentials>>,
    /// For the connection to watch.
    pub(super) right: Option<Box<Right>>,
    caller: Option<Arc<Caller>>,
    /// What is opened for it now.
    pub(super) span: Span,
}

impl Identity {
    pub(super) fn new(credentials: Credentials) -> Identity {
        let span = Span::default();
        Identity { credentials: Some(Box::new(credentials)), right: None, caller: None, span }
    }

    async fn caller(&mut self, handler: &Handler) -> Result<Arc<Caller>, Refusal> {
        if let Some(caller) = &self.caller {
            return Ok(caller.clone());
        }
        let credentials = self.credentials.clone().unwrap_or_default();
        let right = Box::pin(handler.identify(*credentials)).await?;
        let caller = right.caller();
        (self.right, self.caller) = (Some(Box::new(right)), Some(caller.clone()));
        self.forget_credentials();
        Ok(caller)
    }

    /// No client will ask any more.
    pub(super) fn forget_credentials(&mut self) {
        self.credentials = None;
    }

    /// The caller as the connection knows it by now; its right may have ended since.
    pub(super) fn follow(&mut self, caller: Option<Arc<Caller>>) {
        if self.right.is_none() && self.caller.is_some() {
            self.caller = caller;
        }
    }
}

impl Handler {
    /// Opens what a request asks for, by the transport that was chosen.
    ///
    /// # Errors
    /// Why not; nothing is held any more then.
    pub(super) async fn open(
        self: &Arc<Handler>,
        mut ask: Ask<'_>,
        chosen: Chosen,
    ) -> Result<Answer, Refusal> {
        let Chosen { transport, is_named } = chosen;
        if self.drain.has_begun() {
            let detail = "this sidecar is shutting down";
            return Err(Refusal::passing(503, detail, self.pace.retry));
        }
        let style = style_of(transport, &ask.query)?;
        let wait = poll::wait_of(wanted::value(&ask.query, "wait"))?;
        let is_head = ask.method == "HEAD";
        let address = ask.address;
        let compression = self.compression_for(transport, &ask.accept_encoding)?;
        let query = std::mem::take(&mut ask.query);
        let (most, ids) = (self.max_streams, &self.pace.ids);
        let wanted = wanted::of(ask.rest, query, ask.last_event_id, most, ids)?;
        // First, since it costs nothing: when it is full, nobody is asked who this is.
        let (mut open, listener) = self.take_place(address, style)?;
        let mut identity = Identity::new(ask.credentials);
        identity.span = ask.span;
        // Who takes a refusal for final waits on an open stream.
        let waits = transport == Transport::Sse && is_named;
        let (connection, resume, has_id) = match wanted {
            Wanted::One(stream) => {
                let (has_id, is_since) = (has_id(&stream), stream.is_since);
                let from = stream.from.clone();
                let place = (&mut open.place, &listener, Listed::ALONE);
                let member = self.join(stream, &mut identity, place, waits).await?;
                let begins_at = begins_at(&from, is_since, &member.subscription);
                let resume = begins_at.map(|position| self.pace.ids.show_kept(&position));
                let control = self.control(&mut identity, listener);
                (Connection::new(self.catalog.clone(), control, member), resume, has_id)
            }
            Wanted::Many(streams) => {
                let has_id = streams.iter().any(has_id);
                let heartbeat = self.catalog.shared.heartbeat;
                let mut many = Many::new(true, false, heartbeat);
                let place = (&mut open.place, &listener);
                self.join_all(&mut many, streams, &mut identity, place, waits).await?;
                let resume = many.bookmark();
                let resume = (!resume.is_empty()).then(|| resume.to_text(&self.pace.ids)).flatten();
                let resume = resume.map(Arc::from);
                let control = self.control(&mut identity, listener);
                (Connection::with_many(self.catalog.clone(), control, many), resume, has_id)
            }
        };
        self.count_outcome(transport, "accepted");
        let mut fields = poll::fields_of(style.encoder());
        if let Some(compression) = compression {
            fields.push(("Content-Encoding", compression.name().to_string()));
            open.compression = Some(compression);
        }
        let opened = Opened { connection, open };
        match transport {
            // Of a HEAD, nothing is sent but the head: the length is not known.
            Transport::Poll if !is_head => {
                Ok(Answer::Poll(Box::new(Polling::new(opened, wait, !has_id, resume))))
            }
            _ => Ok(Answer::Stream(Box::new(opened), fields)),
        }
    }

    /// How a stream's bytes are compressed for a client; `None`: not at all.
    fn compression_for(
        &self,
        transport: Transport,
        accepted: &[&[u8]],
    ) -> Result<Option<Compression>, Problem> {
        if self.compression.is_empty()
            || matches!(transport, Transport::Poll | Transport::WebSocket)
        {
            return Ok(None);
        }
        compression::choose(&self.compression, accepted)
    }

    /// Opens streams under names. One that is refused refuses them all, and is named.
    pub(super) async fn join_all(
        &self,
        many: &mut Many,
        streams: Vec<WantedStream>,
        identity: &mut Identity,
        (place, listener): (&mut ConnectionSlot, &Arc<Listener>),
        waits: bool,
    ) -> Result<(), Refusal> {
        for stream in streams {
            let (label, from) = (stream.label.clone(), stream.from.clone());
            let is_since = stream.is_since;
            let place = (&mut *place, listener, Listed::NEW);
            let joined = self.join(stream, identity, place, waits).await;
            let member = joined.map_err(|refusal| refusal.of_stream(label.name()))?;
            let position = begins_at(&from, is_since, &member.subscription);
            many.add(label, member, position.as_ref());
        }
        Ok(())
    }

    /// Opens one stream for a client: within its connection's place, and there on its listener.
    pub(super) async fn join(
        &self,
        wanted: WantedStream,
        identity: &mut Identity,
        (place, listener, listed): (&mut ConnectionSlot, &Arc<Listener>, Listed),
        waits: bool,
    ) -> Result<Member, Refusal> {
        let WantedStream { label, query, from, is_since } = wanted;
        let found = self.catalog.find(label.stream()).map_err(|error| match error {
            OpenError::NoSuchStream(_) => Problem::new(404, error.to_string()).into(),
            // A page that was open before a restart must not give up for a mistake that is mended.
            OpenError::Unread => Refusal::passing(503, error.to_string(), self.pace.retry),
        })?;
        let caller = match found.filter.access {
            Access::Public => None,
            Access::Authenticated | Access::Match(_) => {
                let _span =
                    self.metrics.tracer.within(&identity.span, SpanSide::Internal, "access");
                Some(identity.caller(self).await?)
            }
        };
        let claims = caller.as_ref().map(|caller| caller.claims.document());
        let span = self.metrics.tracer.within(&identity.span, SpanSide::Internal, "bind");
        span.set_with("sidestream.stream", || label.stream().to_owned());
        let bound = found.filter.bind(&query, claims).map_err(|error| {
            if error.status() == 403 {
                self.count_auth("forbidden");
            }
            refusal_of(error)
        })?;
        drop(span);
        // Before its feed was read for the first time, nobody can say where "now" is.
        if !waits && !found.was_read() {
            return Err(Refusal::passing(503, "MongoDB has not been read yet", self.pace.retry));
        }
        let from = if is_since { not_ahead(&found, from)? } else { from };
        // Last, so that what is counted is open.
        if let Some(caller) = &caller {
            let values = (&found.filter.name, bound.values());
            place.count_for(caller, &values).map_err(|full| self.full(full))?;
            self.count_auth("allowed");
        }
        let query = Query::beside(&query, &found.filter, bound.values());
        let listener = (listener.clone(), listed);
        let subscription = self.catalog.subscribe(&found, bound, from, listener);
        Ok(Member { subscription, query })
    }

    /// What may end the connection, from here on.
    pub(super) fn control(&self, identity: &mut Identity, listener: Arc<Listener>) -> Control {
        let right = identity.right.take().map(|right| *right);
        Control::new(&self.drain, self.max_duration, right, listener)
    }

    /// Finds out who brings these credentials; what comes of it is counted.
    ///
    /// # Errors
    /// 401, 403, or 503 while the authentication service is away.
    pub(super) async fn identify(&self, credentials: Credentials) -> Result<Right, Refusal> {
        self.guard.identify(credentials).await.map_err(|refusal| {
            self.count_auth(refusal.result());
            let unauthorized = |detail: String, challenge: String| {
                Problem::new(401, detail).with_header("WWW-Authenticate", challenge).into()
            };
            match refusal {
                access::AuthRefusal::Missing => {
                    unauthorized(BindError::NoCaller.to_string(), "Bearer".to_owned())
                }
                access::AuthRefusal::Token(error) => unauthorized(
                    error.to_string(),
                    format!("Bearer error=\"invalid_token\", error_description=\"{error}\""),
                ),
                access::AuthRefusal::Unknown => unauthorized(
                    "the app does not accept these credentials".into(),
                    "Bearer".into(),
                ),
                access::AuthRefusal::Forbidden => {
                    Problem::new(403, "the app refuses this caller").into()
                }
                access::AuthRefusal::Unavailable => {
                    let detail = "the authentication service is unavailable";
                    Refusal::passing(503, detail, self.pace.retry)
                }
            }
        })
    }

    /// Counts a refusal by a limit.
    pub(super) fn full(&self, full: Full) -> Refusal {
        self.metrics.refused_total.with_label_values(&[full.name()]).inc();
        Refusal::full(full.status(), full.to_string())
    }

    /// Takes a place among the connections, and puts it on the list of listeners, as what operators see
    /// of the connection.
    ///
    /// # Errors
    /// 429 or 503: a limit is reached.
    pub(super) fn take_place(
        self: &Arc<Handler>,
        address: Option<IpAddr>,
        transport: Transport,
    ) -> Result<(Open, Arc<Listener>), Refusal> {
        let place = self.limits.take(address).map_err(|full| self.full(full))?;
        self.metrics.connections.with_label_values(&[transport.name()]).inc();
        let listener = self.catalog.shared.listeners.add(transport.number(), address);
        let _held = self.drain.hold();
        let handler = self.clone();
        Ok((Open { handler, place, transport, compression: None, _held }, listener))
    }
}

fn refusal_of(error: BindError) -> Problem {
    let status = error.status();
    let problem = Problem::new(status, error.to_string());
    if status == 401 { problem.with_header("WWW-Authenticate", "Bearer") } else { problem }
}

/// A page that knows when its data was read cannot have read it later than now. Its clock may be a little
/// ahead of the others: then it begins now, and not in the future, before which it would miss what happens.
fn not_ahead(found: &ActiveStream, from: From) -> Result<From, Problem> {
    let From::Position(position) = &from else { return Ok(from) };
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let clock = u32::try_from(clock).unwrap_or(u32::MAX);
    let newest = found.newest();
    let known = newest.map_or(clock, |newest| newest.time.max(clock));
    let ahead = position.time().time.saturating_sub(known);
    if ahead > AHEAD_SECONDS {
        return Err(Problem::new(
            400,
            "`since` is later than the newest time that was read from \
                                      MongoDB",
        ));
    }
    if ahead == 0 {
        return Ok(from);
    }
    Ok(newest.map_or(From::Ago(0), |Timestamp { time, increment }| {
        let next = Timestamp { time, increment: increment.saturating_add(1) };
        From::Position(Position::before(next))
    }))
}

/// Where a stream goes on whose client is cut off before its first event: at the same place.
fn begins_at(from: &From, is_since: bool, subscription: &Subscription) -> Option<Position> {
    match from {
        From::Ago(_) => subscription.position().cloned(),
        From::Position(_) if is_since => subscription.position().cloned(),
        from => position_in(from).cloned(),
    }
}

fn position_in(from: &From) -> Option<&Position> {
    match from {
        From::Position(position) => Some(position),
        _ => None,
    }
}

/// Whether the client goes on where it was; a time that it has chosen is where it begins.
fn has_id(stream: &WantedStream) -> bool {
    !stream.is_since && position_in(&stream.from).is_some()
}

/// How the client wants its frames.
fn style_of(transport: Transport, query: &[(String, String)]) -> Result<Transport, Problem> {
    match wanted::value(query, "heartbeat") {
        None => Ok(transport),
        Some("event") if transport == Transport::Sse => Ok(Transport::SseWithPositionEvents),
        Some("event") => Ok(transport),
        Some(_) => Err(Problem::new(400, "`heartbeat` can only be `event`")),
    }
}
