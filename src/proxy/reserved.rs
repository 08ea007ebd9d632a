//! What the reserved path answers, whichever way a request came in.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::json;

use crate::access::{self, Origin};
use crate::catalog::{Catalog, OpenError};
use crate::drain::{Drain, Held};
use crate::event::Position;
use crate::metrics::Metrics;
use crate::subscription::{From, Subscription};
use crate::transport::problem::{self, Problem};
use crate::transport::{self, Ended, Serve, Sink, sse};

/// How soon a refused client may try again, in seconds.
const RETRY_AFTER: &str = "2";
/// The id in the query, where a header can't be set.
const LAST_EVENT_ID: &str = "lastEventId";

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
    pub is_upgrade: bool,
}

/// What to send back.
pub enum Answer {
    Stream(Box<Opened>),
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
    query: Vec<(String, String)>,
    desk: Arc<Desk>,
    _place: Place,
}

/// One of `clients.max_connections`, given back when dropped.
struct Place {
    desk: Arc<Desk>,
    /// Counted only where there is a limit for it.
    address: Option<IpAddr>,
    _held: Held,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.desk.open.fetch_sub(1, Ordering::AcqRel);
        self.desk.metrics.connections.with_label_values(&["sse"]).dec();
        if let Some(address) = self.address {
            let mut by_address = self.desk.by_address.lock();
            if let Entry::Occupied(mut open) = by_address.entry(address) {
                *open.get_mut() -= 1;
                if *open.get() == 0 {
                    open.remove();
                }
            }
        }
    }
}

/// Answers the reserved path.
pub struct Desk {
    pub catalog: Arc<Catalog>,
    pub drain: Drain,
    pub metrics: Arc<Metrics>,
    pub retry: Duration,
    /// Zero: no limit.
    pub max_duration: Duration,
    pub max_connections: usize,
    /// `None`: no limit.
    pub max_connections_per_address: Option<usize>,
    open: AtomicUsize,
    /// Open streams by address, where there is a limit. Taken when a stream opens or closes.
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

impl Desk {
    pub fn new(
        catalog: Arc<Catalog>,
        drain: Drain,
        metrics: Arc<Metrics>,
        clients: &crate::config::Clients,
    ) -> Desk {
        Desk {
            catalog,
            drain,
            metrics,
            retry: clients.retry,
            max_duration: clients.max_duration.unwrap_or_default(),
            max_connections: clients.max_connections,
            max_connections_per_address: clients.max_connections_per_address,
            open: AtomicUsize::new(0),
            by_address: Mutex::default(),
        }
    }

    /// Decides about a request; does not wait for anything.
    pub fn answer(self: &Arc<Desk>, ask: Ask<'_>) -> Answer {
        match self.decide(ask) {
            Ok(answer) => answer,
            Err(problem) => {
                let outcome = problem.status.to_string();
                self.metrics.connections_total.with_label_values(&["sse", &outcome]).inc();
                Answer::Plain(problem.into())
            }
        }
    }

    fn decide(self: &Arc<Desk>, mut ask: Ask<'_>) -> Result<Answer, Problem> {
        if !matches!(ask.method, "GET" | "HEAD") {
            return Err(
                Problem::new(405, "streams are opened with GET").with_header("Allow", "GET, HEAD")
            );
        }
        if !access::is_same_origin(ask.origin) {
            return Err(Problem::new(403, "pages of other origins may not open streams here"));
        }
        if ask.rest.is_empty() {
            return self.list(&ask);
        }
        if ask.is_upgrade || !accepts_event_stream(&ask.accept) {
            return Err(Problem::new(406, "streams are sent as text/event-stream"));
        }
        if self.drain.has_begun() {
            return Err(Problem::new(503, "this sidecar is shutting down")
                .with_header("Retry-After", RETRY_AFTER));
        }
        let from = from(&mut ask);
        let place = self.take_place(ask.address)?;
        let subscription = self.open(ask.rest, &ask.query, from)?;
        self.metrics.connections_total.with_label_values(&["sse", "accepted"]).inc();
        Ok(Answer::Stream(Box::new(Opened {
            subscription,
            query: ask.query,
            desk: self.clone(),
            _place: place,
        })))
    }

    fn open(
        &self,
        name: &str,
        query: &[(String, String)],
        from: From,
    ) -> Result<Subscription, Problem> {
        // Before MongoDB was read for the first time, nobody can say where "now" is.
        let is_ready = self.catalog.is_ready();
        match self.catalog.open(name, query, from) {
            Ok(subscription) if is_ready => Ok(subscription),
            Ok(_) | Err(OpenError::Starting) => {
                Err(Problem::new(503, "MongoDB has not been read yet")
                    .with_header("Retry-After", RETRY_AFTER))
            }
            Err(error @ OpenError::NoSuchStream(_)) => Err(Problem::new(404, error.to_string())),
            Err(error @ OpenError::Parameter(_)) => Err(Problem::new(400, error.to_string())),
        }
    }

    fn take_place(self: &Arc<Desk>, address: Option<IpAddr>) -> Result<Place, Problem> {
        let open = self.open.fetch_add(1, Ordering::AcqRel);
        self.metrics.connections.with_label_values(&["sse"]).inc();
        let mut place = Place { desk: self.clone(), address: None, _held: self.drain.hold() };
        let too_many = |whose: &str| {
            Problem::new(429, format!("too many open streams {whose}"))
                .with_header("Retry-After", RETRY_AFTER)
        };
        if open >= self.max_connections {
            return Err(too_many("in all"));
        }
        if let (Some(most), Some(address)) = (self.max_connections_per_address, address) {
            let mut by_address = self.by_address.lock();
            let open = by_address.entry(address).or_default();
            if *open >= most {
                return Err(too_many("from this address"));
            }
            *open += 1;
            place.address = Some(address);
        }
        Ok(place)
    }

    fn list(&self, ask: &Ask<'_>) -> Result<Answer, Problem> {
        if ask.query.iter().any(|(name, _)| name == "stream") {
            return Err(Problem::new(
                400,
                "several streams on one connection are not available yet: open one each",
            ));
        }
        let streams: Vec<_> = self
            .catalog
            .filters()
            .iter()
            .map(|filter| {
                json!({
                    "name": filter.name,
                    "description": filter.description,
                    "params": filter.params.to_json(),
                })
            })
            .collect();
        Ok(Answer::Plain(Plain {
            status: 200,
            headers: vec![
                ("Content-Type", "application/json".to_string()),
                ("Cache-Control", "no-store".to_string()),
            ],
            body: Bytes::from(json!({ "streams": streams }).to_string()),
        }))
    }
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

/// Whether one of the media ranges takes `text/event-stream`; none at all takes everything.
fn accepts_event_stream(accept: &[&[u8]]) -> bool {
    let mut ranges = accept.iter().flat_map(|value| value.split(|b| *b == b',')).peekable();
    if ranges.peek().is_none() {
        return true;
    }
    ranges.any(|range| {
        let mut parts = range.split(|b| *b == b';').map(<[u8]>::trim_ascii);
        let media = parts.next().unwrap_or_default().to_ascii_lowercase();
        let is_refused = parts.any(|part| {
            part.to_ascii_lowercase()
                .strip_prefix(b"q=")
                .is_some_and(|q| q.iter().all(|b| matches!(b, b'0' | b'.')))
        });
        let is_taken = matches!(media.as_slice(), b"text/event-stream" | b"text/*" | b"*/*" | b"");
        is_taken && !is_refused
    })
}

impl Opened {
    /// The head's fields of every stream.
    pub fn headers() -> [(&'static str, &'static str); 3] {
        [
            ("Content-Type", sse::CONTENT_TYPE),
            ("Cache-Control", "no-store"),
            // nginx in front of us would hold events back otherwise.
            ("X-Accel-Buffering", "no"),
        ]
    }

    /// Sends the stream until it ends. The head has been sent.
    pub async fn serve<S: Sink>(self, sink: &mut S) -> Ended {
        let Opened { subscription, query, desk, _place } = self;
        let first = [sse::retry(desk.retry)];
        let ended = match tokio::time::timeout(transport::MAX_WRITE_STALL, sink.send(&first)).await
        {
            Ok(Ok(())) => {
                let reopen = |old: &Subscription| {
                    desk.catalog.open(&old.filter().name, &query, From::FilterChanged).ok()
                };
                let serve = Serve {
                    metrics: &desk.metrics,
                    drain: &desk.drain,
                    max_duration: desk.max_duration,
                    reopen: &reopen,
                };
                transport::serve_sse(sink, subscription, serve).await
            }
            Ok(Err(_)) => Ended::ClientGone,
            Err(_) => Ended::Stalled,
        };
        desk.metrics.streams_ended_total.with_label_values(&[ended.reason()]).inc();
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::accepts_event_stream;

    #[test]
    fn negotiation_reads_media_ranges() {
        for (accept, expected) in [
            (vec![], true),
            (vec!["text/event-stream"], true),
            (vec!["*/*"], true),
            (vec!["text/html, */*;q=0.8"], true),
            (vec!["application/json", "text/*"], true),
            (vec!["application/json"], false),
            (vec!["text/event-stream;q=0"], false),
            (vec!["TEXT/EVENT-STREAM; q=0.5"], true),
        ] {
            let values: Vec<&[u8]> = accept.iter().map(|value| value.as_bytes()).collect();
            assert_eq!(accepts_event_stream(&values), expected, "{accept:?}");
        }
    }
}
