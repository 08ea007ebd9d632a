//! The webhook's metrics, and its port with `/healthz`, `/readyz` and `/metrics` only.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::core::Collector;
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};
use tokio::net::TcpListener;

use super::WebhookState;
use super::open::{Open, Stage};

/// Seconds: an answer is a matter of microseconds, or something is wrong.
const BUCKETS: [f64; 8] = [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.5, 5.0];
/// Kubelet and a few collectors connect here. Any other pod can as well, and must not keep them out.
const MAX_CONNECTIONS: usize = 64;
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// All are prefixed `sidestream_webhook_`.
pub struct WebhookMetrics {
    registry: Registry,
    /// By `task`: bugs.
    pub task_panics_total: IntCounterVec,
    /// By `outcome`: injected, warned, unchanged, refused, malformed, unready.
    pub reviews_total: IntCounterVec,
    /// From the whole request to the answer.
    pub review_seconds: Histogram,
    /// By `result`: success, failure.
    pub certificate_loads_total: IntCounterVec,
    /// Only where replicas elect one: elsewhere a 0 would look like trouble.
    pub is_leader: Option<IntGauge>,
    /// By `result`, of calls to the Kubernetes API.
    pub api_requests_total: IntCounterVec,
}

impl WebhookMetrics {
    /// Everything at zero, and there from the start: an alert on a rate needs a first value.
    pub fn new(has_election: bool) -> WebhookMetrics {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, label: &str, values: &[&str]| {
            let counters = IntCounterVec::new(opts(name, help), &[label]);
            let counters = register(&registry, counters);
            for value in values {
                counters.with_label_values(&[value]);
            }
            counters
        };
        let results = ["success", "failure"];
        WebhookMetrics {
            task_panics_total: counters(
                "task_panics_total",
                "Times that a task of the webhook's own panicked: a bug, to be reported",
                "task",
                &["server", "certificate-manager", "probes", "connection"],
            ),
            reviews_total: counters(
                "reviews_total",
                "Admission reviews that were answered",
                "outcome",
                &["injected", "warned", "unchanged", "refused", "malformed", "unready"],
            ),
            certificate_loads_total: counters(
                "certificate_loads_total",
                "Times that a changed certificate was read",
                "result",
                &results,
            ),
            api_requests_total: counters(
                "api_requests_total",
                "Requests to the Kubernetes API",
                "result",
                &results,
            ),
            review_seconds: register(
                &registry,
                Histogram::with_opts(HistogramOpts {
                    common_opts: opts("review_seconds", "Time to answer an admission review"),
                    buckets: BUCKETS.to_vec(),
                }),
            ),
            is_leader: has_election.then(|| {
                let about = "Whether this replica keeps the certificate";
                register(&registry, IntGauge::with_opts(opts("is_leader", about)))
            }),
            registry,
        }
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("sidestream").subsystem("webhook")
}

fn register<M: Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<M>,
) -> M {
    // Names and labels are those of this file: a test makes them all.
    let metric = metric.expect("a metric of this file is well formed");
    registry.register(Box::new(metric.clone())).expect("a metric's name is used once");
    metric
}

impl WebhookMetrics {
    /// Tells whether this replica leads.
    pub fn set_leader(&self, leads: bool) {
        if let Some(gauge) = &self.is_leader {
            gauge.set(leads.into());
        }
    }

    fn text(&self) -> String {
        let mut out = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut out) {
            Ok(()) => String::from_utf8_lossy(&out).into_owned(),
            Err(error) => format!("# {error}\n"),
        }
    }
}

/// Serves until it is dropped: health is asked for to the very end.
pub async fn serve(listener: Arc<TcpListener>, shared: Arc<WebhookState>) {
    let mut open = Open::new(MAX_CONNECTIONS);
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            // Out of descriptors: others close, and then there are some again.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        // Else every other one is being answered at this moment.
        if !open.make_room() {
            continue;
        }
        let (shared, stage) = (shared.clone(), Stage::default());
        open.add(stage.clone(), async move {
            let service = service_fn(|request| {
                let (shared, stage) = (shared.clone(), stage.clone());
                async move {
                    let answer = page(&request, &shared);
                    stage.end();
                    Ok::<_, Infallible>(answer)
                }
            });
            // Who leaves in the middle is no concern of ours.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(socket), service)
                .await;
        });
    }
}

fn page(request: &Request<Incoming>, shared: &WebhookState) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
    }
    match request.uri().path() {
        "/healthz" => text(StatusCode::OK, "alive\n".to_owned()),
        "/readyz" if shared.is_ready() => text(StatusCode::OK, "ready\n".to_owned()),
        "/readyz" => text(StatusCode::SERVICE_UNAVAILABLE, why_not_ready(shared)),
        "/metrics" => text(StatusCode::OK, shared.metrics.text()),
        _ => text(
            StatusCode::NOT_FOUND,
            "not found; there are /healthz /readyz \
                                          /metrics\n"
                .to_owned(),
        ),
    }
}

fn why_not_ready(shared: &WebhookState) -> String {
    let why = if *shared.is_leaving.borrow() {
        "shutting down"
    } else if !shared.certificate.is_there() {
        "there is no certificate yet"
    } else {
        "the version of Kubernetes is not known yet"
    };
    format!("{why}\n")
}

/// A response in plain text, UTF-8.
pub fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    response
}
