//! Lets a client in: from a request to an open connection.

use std::net::IpAddr;
use std::sync::Arc;

use super::capacity::Full;
use super::negotiation::Chosen;
use super::problem::Problem;
use super::refusal::Refusal;
use super::reserved::{Answer, Ask, Desk, Open, Opened};
use super::sse;
use super::transport::Encoder;
use crate::access::credentials::Credentials;
use crate::access::{self, Right};
use crate::event::seal::Ids;
use crate::filter::{Access, BindError};
use crate::session::connection::{Connection, Member};
use crate::session::control::Control;
use crate::session::subscription::From;

/// The id in the query, where a header can't be set.
const LAST_EVENT_ID: &str = "lastEventId";
/// How positions come without an event.
const HEARTBEAT: &str = "heartbeat";

impl Desk {
    pub(super) async fn open(
        self: &Arc<Desk>,
        ask: Ask<'_>,
        chosen: Chosen,
    ) -> Result<Answer, Refusal> {
        if self.drain.has_begun() {
            return Err(Refusal::passing(503, "this sidecar is shutting down", self.pace.retry));
        }
        let encoder = encoder(&ask.query)?;
        let from = from(&ask, &self.pace.ids);
        // First, since it costs nothing: a full house asks nobody who is at the door.
        let mut open = self.take_place(ask.address)?;
        let found =
            self.catalog.find(ask.rest).map_err(|error| Problem::new(404, error.to_string()))?;
        let right = match found.filter.access {
            Access::Public => None,
            Access::Authenticated | Access::Match(_) => {
                Some(Box::pin(self.identify(ask.credentials)).await?)
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
            return Err(Refusal::passing(503, "MongoDB has not been read yet", self.pace.retry));
        }
        self.metrics.connections_total.with_label_values(&["sse", "accepted"]).inc();
        let subscription = self.catalog.subscribe(&found, bound, from);
        let member = Member { subscription, query: ask.query.into() };
        let control = Control::new(&self.drain, self.max_duration, right);
        let connection = Connection::new(self.catalog.clone(), control, member);
        let fields = encoder.headers().iter().map(|(name, value)| (*name, (*value).to_string()));
        Ok(Answer::Stream(Box::new(Opened { connection, encoder, open }), fields.collect()))
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
                    Refusal::passing(503, detail, self.pace.retry)
                }
            }
        })
    }

    pub(super) fn full(&self, full: Full) -> Refusal {
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
fn encoder(query: &[(String, String)]) -> Result<&'static &'static dyn Encoder, Problem> {
    let mut encoder = &sse::SSE;
    for (_, value) in query.iter().filter(|(name, _)| name == HEARTBEAT) {
        if value != "event" {
            return Err(Problem::new(400, "`heartbeat` can only be `event`"));
        }
        encoder = &sse::SSE_WITH_POSITION_EVENTS;
    }
    Ok(encoder)
}

/// The header wins over the query; an empty one means that the client has none.
fn from(ask: &Ask<'_>, ids: &Ids) -> From {
    let in_header = ask.last_event_id.map(|id| String::from_utf8_lossy(id).into_owned());
    let in_query = || ask.query.iter().rfind(|(name, _)| name == LAST_EVENT_ID);
    match in_header.or_else(|| Some(in_query()?.1.clone())).as_deref() {
        None | Some("") => From::Now,
        Some(id) => ids.read(id).map_or(From::Invalid, From::Position),
    }
}
