//! The admin port: health, metrics, what is open, and the console, served by pingora. Never on the
//! public port. One file for each kind of page; each adds its answers to [`Admin`].
//!
//! Nothing here changes anything, but for `POST /drain` and what the console's own page asks for
//! with its token.

mod console;
mod filters;
mod health;
mod host;
mod listeners;
mod origin;
mod page_token;
mod streams;
mod tap;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http::{HeaderValue, Response, header};
use parking_lot::Mutex;
use pingora::apps::ServerApp;
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use pingora::protocols::l4::stream::Stream;
use pingora::time::fast_timeout::set_fast_timeout_to_tokio_threshold;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::access::Limited;
use crate::api::problem::{self, Problem};
use crate::config::{Console, Subjects};
use crate::drain::Drain;
use crate::metrics::Metrics;
use crate::session::catalog::Catalog;
use crate::session::reload::LatestFindings;
use crate::tasks::PanicCount;

/// The list of pages, for requests for anything else.
const PAGES: &str = "not found; there are / (the console) /healthz /readyz /metrics /overview \
                     /streams /filters \
                     /listeners?stream=NAME /explain?stream=NAME\n";

/// Connections of one port at a time; with one more, the oldest goes. Anybody who reaches the port can
/// hold them for nothing, and they take descriptors from the app's clients; whoever has something to
/// ask has asked it long before it is the oldest.
const MAX_CONNECTIONS: usize = 128;

/// Where the console ends a listener.
const END_LISTENER: &str = "/listeners/end";
/// Where it tries an event.
const TRY: &str = "/try";
/// Where it shows what a stream sends.
const TAP: &str = "/tap";
/// What only the console's own page does.
const BY_PAGE: [&str; 3] = [END_LISTENER, TRY, TAP];
/// More than an event that somebody pastes, in bytes.
const MAX_BODY: usize = 1 << 20;

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
    /// What the filter files were found to say.
    findings: LatestFindings,
    /// `replay.max_bytes`: of each upstream.
    journal_limit: usize,
    /// Names under which it may be asked for, beside addresses and `localhost`.
    hosts: Vec<String>,
    /// How callers are distinguished.
    subjects: Subjects,
    /// `console.tap`
    may_tap: bool,
    tapped: Mutex<tap::Tapped>,
    /// What the console's page proves itself by; see [`page_token::make`].
    page_token: Option<String>,
    started_at: Instant,
    /// What is told of streams and feeds is put into the metrics when it is asked for, by one at a
    /// time: those that are gone must not come back.
    telling: Mutex<()>,
}

/// What [`Admin`] is made of.
pub struct Parts {
    pub catalog: Arc<Catalog>,
    pub metrics: Arc<Metrics>,
    pub drain: Drain,
    /// Of the [`Reload`](crate::session::reload::Reload) that reads the files.
    pub findings: LatestFindings,
    /// `replay.max_bytes`
    pub journal_limit: usize,
    pub console: Console,
}

impl Admin {
    /// Does not listen yet: see [`Admin::serve`]. Also sets pingora's timers, for the whole
    /// process.
    pub fn new(parts: Parts) -> Admin {
        // Else pingora has timers of its own: a thread that wakes a hundred times a second, from the
        // first request to the end of the process. That is more than all else an idle sidecar does.
        set_fast_timeout_to_tokio_threshold(Some(Duration::ZERO));
        let Parts { catalog, metrics, drain, findings, journal_limit, console } = parts;
        Admin {
            catalog,
            metrics,
            drain,
            findings,
            journal_limit,
            hosts: console.hosts,
            subjects: console.subjects,
            may_tap: console.tap,
            tapped: Mutex::default(),
            page_token: page_token::make(),
            started_at: Instant::now(),
            telling: Mutex::default(),
        }
    }

    /// Serves these pages until the returned future is dropped: health is asked for to the very end.
    pub async fn serve(self: Arc<Admin>, listener: Arc<TcpListener>, pages: Pages) {
        let (_never, shutdown) = watch::channel(false);
        let mut open: VecDeque<AbortHandle> = VecDeque::new();
        let failed = Limited::new();
        loop {
            match listener.accept().await {
                Ok((tcp, peer)) => {
                    open.retain(|task| !task.is_finished());
                    if open.len() >= MAX_CONNECTIONS
                        && let Some(oldest) = open.pop_front()
                    {
                        oldest.abort();
                    }
                    let app = Arc::new(Port { admin: self.clone(), pages, peer });
                    let shutdown = shutdown.clone();
                    let count =
                        PanicCount::new(&app.admin.metrics.task_panics_total, "admin-request");
                    let task = tokio::spawn(async move {
                        let _count = count;
                        app.process_new(Box::new(Stream::from(tcp)), &shutdown).await;
                    });
                    open.push_back(task.abort_handle());
                }
                Err(error) => {
                    if failed.turn().is_some() {
                        tracing::warn!(%error, "no connection accepted on the admin port");
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

/// A connection to one of its ports.
struct Port {
    admin: Arc<Admin>,
    pages: Pages,
    peer: SocketAddr,
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
                "the admin port does not answer for this host name: add it to console.hosts, or \
                 use the IP address\n",
            );
        }
        if has_all && origin::is_foreign(&request.headers) {
            return text(403, "not for pages of other origins\n");
        }
        if has_all && request.method == http::Method::POST && request.uri.path() == "/drain" {
            return admin.leave(&request.headers);
        }
        let query = request.uri.query().unwrap_or_default();
        if has_all && request.method == http::Method::POST && BY_PAGE.contains(&request.uri.path())
        {
            if !page_token::is_from_own_page(&request.headers, &admin.page_token) {
                return text(403, "only for the console, with its token\n");
            }
            match request.uri.path() {
                END_LISTENER => return admin.end_listener(query),
                TAP => return admin.tap(query, self.peer),
                _ => {}
            }
            let query = query.to_owned();
            return match body_of(session).await {
                Some(body) => admin.try_event(&query, &body),
                None => refuse(413, "more than 1 MiB, or it did not come"),
            };
        }
        if has_all && (BY_PAGE.contains(&request.uri.path()) || request.uri.path() == "/drain") {
            return only("POST");
        }
        if !matches!(request.method, http::Method::GET | http::Method::HEAD) {
            return only("GET, HEAD");
        }
        match request.uri.path() {
            "/healthz" => text(200, "alive\n"),
            "/readyz" => admin.ready(),
            "/metrics" => admin.metrics(),
            _ if !has_all => text(404, "not found; there are /healthz /readyz /metrics\n"),
            "/" => console::page(admin.page_token.as_deref(), admin.may_tap),
            "/streams" => admin.streams(),
            "/overview" => admin.overview(),
            "/filters" => admin.filters(),
            "/listeners" => admin.listeners(query),
            "/explain" => admin.explain(query),
            _ => text(404, PAGES),
        }
    }
}

/// The whole body; `None` where it is too large, or breaks off.
async fn body_of(session: &mut ServerSession) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(piece) = session.read_request_body().await.ok()? {
        if body.len() + piece.len() > MAX_BODY {
            return None;
        }
        body.extend_from_slice(&piece);
    }
    Some(body)
}

fn text(status: u16, body: &str) -> Response<Vec<u8>> {
    answer(status, "text/plain; charset=utf-8", body.as_bytes().to_vec())
}

fn json(status: u16, body: &Value) -> Response<Vec<u8>> {
    answer(status, "application/json", body.to_string().into_bytes())
}

fn refuse(status: u16, why: &str) -> Response<Vec<u8>> {
    let problem = Problem::new(status, why);
    answer(status, problem::CONTENT_TYPE, problem.to_json().to_string().into_bytes())
}

/// Refuses other methods than these.
fn only(methods: &'static str) -> Response<Vec<u8>> {
    let mut response = text(405, &format!("only {methods}\n"));
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    response
}

fn answer(status: u16, content_type: &str, body: Vec<u8>) -> Response<Vec<u8>> {
    let length = body.len();
    let mut response = Response::new(body);
    // All that come here are statuses and header values of this file.
    *response.status_mut() =
        http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(content_type) {
        headers.insert(header::CONTENT_TYPE, value);
    }
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // No page of another origin reads it, nor shows it as something else than it is.
    for (name, value) in
        [("cross-origin-resource-policy", "same-origin"), ("x-content-type-options", "nosniff")]
    {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
