//! The admin port: health, metrics, and what is open, served by pingora. Never on the public port.

mod host;

use std::sync::Arc;

use async_trait::async_trait;
use http::Response;
use parking_lot::Mutex;
use pingora::apps::ServerApp;
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use pingora::protocols::l4::stream::Stream;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::drain::Drain;
use crate::feed::Status;
use crate::metrics::Metrics;
use crate::session::catalog::{Catalog, StreamState};

/// Which pages a port has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pages {
    All,
    /// `/healthz`, `/readyz` and `/metrics`: for kubelet and Prometheus, who come from outside.
    Probes,
}

/// Answers the admin port, and that of the probes.
pub struct Admin {
    catalog: Arc<Catalog>,
    metrics: Arc<Metrics>,
    drain: Drain,
    /// Names under which it may be asked for, beside addresses and `localhost`.
    hosts: Vec<String>,
    /// What is told of streams and feeds is put into the metrics when it is asked for, by one at a
    /// time: those that are gone must not come back.
    telling: Mutex<()>,
}

impl Admin {
    pub fn new(
        catalog: Arc<Catalog>,
        metrics: Arc<Metrics>,
        drain: Drain,
        hosts: Vec<String>,
    ) -> Admin {
        Admin { catalog, metrics, drain, hosts, telling: Mutex::default() }
    }

    /// Serves these pages until the returned future is dropped: health is asked for to the very end.
    pub async fn serve(self: Arc<Admin>, listener: Arc<TcpListener>, pages: Pages) {
        let app = Arc::new(Port { admin: self, pages });
        let (_never, shutdown) = watch::channel(false);
        loop {
            match listener.accept().await {
                Ok((tcp, _)) => {
                    let app = app.clone();
                    let shutdown = shutdown.clone();
                    tokio::spawn(async move {
                        app.process_new(Box::new(Stream::from(tcp)), &shutdown).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "no connection accepted on the admin port");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// With what waits, ready or not: ready means that the app may be sent requests.
    fn ready(&self) -> Response<Vec<u8>> {
        if self.drain.is_leaving() {
            return text(503, "shutting down\n");
        }
        let troubles: String =
            self.catalog.troubles().iter().map(|trouble| format!("{trouble}\n")).collect();
        match self.catalog.is_ready() {
            true => text(200, &format!("ready\n{troubles}")),
            false if troubles.is_empty() => text(503, "MongoDB has not been read yet\n"),
            false => text(503, &troubles),
        }
    }

    /// `sidestream drain`. Browsers say where a POST comes from; what is no browser does not, and
    /// no page may do this.
    fn leave(&self, headers: &http::HeaderMap) -> Response<Vec<u8>> {
        if headers.contains_key(http::header::ORIGIN) || headers.contains_key("sec-fetch-site") {
            return text(403, "not for pages\n");
        }
        self.drain.announce();
        text(200, "leaving: /readyz says no, streams go on until SIGTERM\n")
    }

    fn metrics(&self) -> Response<Vec<u8>> {
        let _alone = self.telling.lock();
        self.metrics.upstream_lag_seconds.reset();
        for feed in self.catalog.feeds() {
            if let Some(lag) = feed.lag_seconds() {
                let upstream = feed.key().to_string();
                self.metrics.upstream_lag_seconds.with_label_values(&[&upstream]).set(lag);
            }
        }
        self.metrics.filter_state.reset();
        for stream in self.catalog.streams() {
            for state in StreamState::ALL {
                let labels = [stream.name.as_str(), state.name()];
                let is_so = i64::from(stream.state == state);
                self.metrics.filter_state.with_label_values(&labels).set(is_so);
            }
        }
        self.metrics.filter_findings.reset();
        for finding in self.catalog.findings() {
            if let Some(stream) = &finding.stream {
                let labels = [stream.as_str(), finding.kind.name()];
                self.metrics.filter_findings.with_label_values(&labels).set(1);
            }
        }
        answer(200, "text/plain; version=0.0.4; charset=utf-8", self.metrics.text().into_bytes())
    }

    /// Names, counts and positions; no parameter values, no claims, no addresses.
    fn streams(&self) -> Response<Vec<u8>> {
        let streams: Vec<Value> = self
            .catalog
            .streams()
            .iter()
            .map(|stream| {
                let name = &stream.name;
                // Asked for, a label is there: not for streams that never were in force.
                let (open, sent) = match stream.is_in_force {
                    true => (
                        self.metrics.subscriptions.with_label_values(&[name]).get(),
                        self.metrics.events_sent_total.with_label_values(&[name]).get(),
                    ),
                    false => (0, 0),
                };
                json!({
                    "name": name,
                    "state": stream.state.name(),
                    "reason": stream.reason,
                    "connections": open,
                    "subscriptions": open,
                    "events_sent": sent,
                })
            })
            .collect();
        let oplog_hours = self.catalog.oplog().map(|reach| reach.as_secs_f64() / 3600.0);
        let upstreams: Vec<Value> = self
            .catalog
            .feeds()
            .iter()
            .map(|feed| {
                let status = match feed.status() {
                    Status::Starting => "starting",
                    Status::Live => "live",
                    Status::Away(_) => "away",
                };
                json!({
                    "database": feed.key().database,
                    "mode": feed.key().mode(),
                    "status": status,
                    "lag_seconds": feed.lag_seconds(),
                    "position": feed.now().map(|(head, _)| head.without_document().to_string()),
                    "oplog_hours": oplog_hours,
                    "routes": feed.route_count(),
                    "journal_bytes": feed.journal_bytes(),
                })
            })
            .collect();
        let body = json!({ "streams": streams, "upstreams": upstreams });
        answer(200, "application/json", body.to_string().into_bytes())
    }
}

/// One of its ports.
struct Port {
    admin: Arc<Admin>,
    pages: Pages,
}

#[async_trait]
impl ServeHttp for Port {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let request = session.req_header();
        let (admin, has_all) = (&self.admin, self.pages == Pages::All);
        // The probes are asked for by whatever name kubelet and Prometheus know.
        if has_all && !host::is_known(&request.headers, &admin.hosts) {
            return text(
                421,
                "not under this name: list it in console.hosts, or use the address\n",
            );
        }
        if has_all && request.method == http::Method::POST && request.uri.path() == "/drain" {
            return admin.leave(&request.headers);
        }
        if !matches!(request.method, http::Method::GET | http::Method::HEAD) {
            return text(405, "only GET\n");
        }
        match request.uri.path() {
            "/healthz" => text(200, "alive\n"),
            "/readyz" => admin.ready(),
            "/metrics" => admin.metrics(),
            _ if !has_all => text(404, "not here: /healthz /readyz /metrics\n"),
            "/streams" => admin.streams(),
            "/" => text(200, "sidestream\n\n/healthz\n/readyz\n/metrics\n/streams\n"),
            _ => text(404, "not here; see /\n"),
        }
    }
}

fn text(status: u16, body: &str) -> Response<Vec<u8>> {
    answer(status, "text/plain; charset=utf-8", body.as_bytes().to_vec())
}

fn answer(status: u16, content_type: &str, body: Vec<u8>) -> Response<Vec<u8>> {
    let length = body.len();
    let mut response = Response::new(body);
    // All that come here are statuses and header values of this file.
    *response.status_mut() =
        http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    if let Ok(value) = http::HeaderValue::from_str(content_type) {
        headers.insert(http::header::CONTENT_TYPE, value);
    }
    headers.insert(http::header::CONTENT_LENGTH, http::HeaderValue::from(length));
    headers.insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    // No page of another origin reads it, nor shows it as something else than it is.
    for (name, value) in
        [("cross-origin-resource-policy", "same-origin"), ("x-content-type-options", "nosniff")]
    {
        headers.insert(name, http::HeaderValue::from_static(value));
    }
    response
}
