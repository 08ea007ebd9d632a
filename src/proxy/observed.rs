//! What is told of a forwarded request: metrics, its two spans, and a line of the request log.
//!
//! A request is over when its answer is, and one that switches protocols when it has switched: how
//! long a WebSocket is open says nothing about the app.

use std::net::IpAddr;
use std::time::Instant;

use bytes::{BufMut, BytesMut};

use crate::config::AppAddress;
use crate::metrics::{LoggedRequest, Metrics};
use crate::trace::{Span, SpanSide, TRACEPARENT, Tracer};

/// One request, from its head to the end of its answer.
#[derive(Debug)]
pub struct Observed {
    began: Instant,
    is_told: bool,
    /// Only where somebody wants to know.
    facts: Option<Box<Facts>>,
}

/// What is known of a request from its head.
#[derive(Debug)]
struct Facts {
    method: String,
    /// Without its query, which may hold anything.
    path: String,
    client: Option<IpAddr>,
    server_span: Span,
    client_span: Span,
}

/// A head, as far as it is told of.
pub struct ObservedRequest<'a> {
    pub method: &'a str,
    pub target: &'a [u8],
    pub host: Option<&'a [u8]>,
    pub scheme: &'static str,
    /// Of HTTP: `1.1`, `2`.
    pub version: &'static str,
    pub client: Option<IpAddr>,
    pub traceparent: Option<&'a [u8]>,
}

/// Methods that a span may be named by; others could be as many as clients like.
const METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "QUERY"];

impl Observed {
    /// From now on. `asked` is looked at only where there is a trace or a log of requests.
    pub fn begin<'a>(
        metrics: &Metrics,
        app: &AppAddress,
        asked: impl FnOnce() -> ObservedRequest<'a>,
    ) -> Observed {
        let facts = (metrics.tracer.is_on() || metrics.request_log.is_on())
            .then(|| Box::new(Facts::of(&metrics.tracer, app, &asked())));
        Observed { began: Instant::now(), is_told: false, facts }
    }

    /// Has the app go on with the trace, by the head that it is to get: its fields end with an empty
    /// line.
    pub fn put_traceparent(&self, head: &mut BytesMut) {
        let Some(traceparent) = self.facts.as_ref().and_then(|it| it.client_span.traceparent())
        else {
            return;
        };
        let mut out = BytesMut::with_capacity(head.len() + traceparent.len() + 32);
        for line in head.split_inclusive(|byte| *byte == b'\n') {
            let colon = line.iter().position(|byte| *byte == b':').unwrap_or_default();
            if line == b"\r\n" {
                out.put_slice(b"traceparent: ");
                out.put_slice(traceparent.as_bytes());
                out.put_slice(b"\r\n");
            } else if line[..colon].eq_ignore_ascii_case(TRACEPARENT.as_bytes()) {
                continue;
            }
            out.put_slice(line);
        }
        *head = out;
    }

    /// The app has answered, with this status.
    pub fn app_answered(&self, status: u16) {
        let Some(facts) = &self.facts else { return };
        let span = &facts.client_span;
        span.set("http.response.status_code", i64::from(status));
        if status >= 400 {
            span.fail(status.to_string());
        }
        span.end();
    }

    /// It is over: the client got this status, or 0 for none. Told once.
    pub fn finish(&mut self, metrics: &Metrics, status: u16) {
        if std::mem::replace(&mut self.is_told, true) {
            return;
        }
        let seconds = self.began.elapsed().as_secs_f64();
        metrics.count_proxied(status);
        metrics.proxy_request_seconds.observe(seconds);
        let Some(facts) = &self.facts else { return };
        let span = &facts.server_span;
        match status {
            // It has gone.
            0 => span.fail("client-gone"),
            status => {
                span.set("http.response.status_code", i64::from(status));
                if status >= 500 {
                    span.fail(status.to_string());
                }
            }
        }
        span.end();
        metrics.request_log.tell(&LoggedRequest {
            method: &facts.method,
            path: &facts.path,
            status,
            seconds,
            client: facts.client,
        });
    }
}

impl Facts {
    fn of(tracer: &Tracer, app: &AppAddress, asked: &ObservedRequest<'_>) -> Facts {
        let end = asked.target.iter().position(|byte| *byte == b'?');
        let path = String::from_utf8_lossy(&asked.target[..end.unwrap_or(asked.target.len())]);
        let known = METHODS.iter().find(|known| **known == asked.method);
        let name = known.copied().unwrap_or("HTTP");
        let server_span = tracer.continued(SpanSide::Server, name, asked.traceparent);
        let client_span = tracer.within(&server_span, SpanSide::Client, name);
        for span in [&server_span, &client_span] {
            span.set_with("http.request.method", || known.copied().unwrap_or("_OTHER"));
            span.set_with("url.path", || path.to_string());
        }
        server_span.set("url.scheme", asked.scheme);
        server_span.set("network.protocol.version", asked.version);
        client_span.set("network.protocol.version", "1.1");
        client_span.set_with("server.address", || app.to_string());
        if let Some(host) = asked.host {
            server_span.set_with("server.address", || String::from_utf8_lossy(host).into_owned());
        }
        if let Some(client) = asked.client {
            server_span.set_with("client.address", || client.to_string());
        }
        Facts {
            method: asked.method.to_owned(),
            path: path.into_owned(),
            client: asked.client,
            server_span,
            client_span,
        }
    }
}
