//! Every metric in one place, and the text that Prometheus reads.
//!
//! The names are promises to dashboards; docs/operations.md says how each is read and misread.
//! Rooms take the whole struct: counting is not worth an interface.

mod request_log;
mod spread;

use std::collections::HashMap;
use std::sync::OnceLock;

use prometheus::core::Collector;
use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

pub use request_log::{LoggedRequest, RequestLog};
pub use spread::SpreadHistogram;

use crate::trace::Tracer;

/// Buckets in seconds, from a local event to a long replay.
const DELIVERY_BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0];
const REQUEST_BUCKETS: [f64; 12] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];
/// Bounded by `snapshot.max_time` (10 s unless set), which is a bucket, and by the five minutes for
/// which MongoDB keeps a moment unless told otherwise.
const SNAPSHOT_BUCKETS: [f64; 13] =
    [0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0];

/// Statuses have three digits.
const MAX_STATUS: usize = 1000;

/// All are prefixed `sidestream_`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub connections: IntGaugeVec,
    pub connections_total: IntCounterVec,
    pub streams_ended_total: IntCounterVec,
    pub events_read_total: IntCounterVec,
    pub events_sent_total: IntCounterVec,
    pub upstream_lag_seconds: GaugeVec,
    pub upstream_restarts_total: IntCounterVec,
    pub upstream_cursors: IntGauge,
    pub replay_cursors: IntGauge,
    pub subscriptions: IntGaugeVec,
    pub replays_total: IntCounterVec,
    pub resets_total: IntCounterVec,
    pub snapshots_total: IntCounterVec,
    pub snapshot_seconds: Histogram,
    pub slow_clients_total: IntCounter,
    pub delivery_seconds: SpreadHistogram,
    pub filter_reloads_total: IntCounterVec,
    pub filter_state: IntGaugeVec,
    pub filter_directories_unread: IntGauge,
    pub filter_findings: IntGaugeVec,
    pub oplog_window_seconds: GaugeVec,
    pub task_panics_total: IntCounterVec,
    pub auth_total: IntCounterVec,
    pub refused_total: IntCounterVec,
    pub proxy_requests_total: IntCounterVec,
    pub proxy_request_seconds: Histogram,
    pub build_info: IntGaugeVec,
    pub log_lines_dropped_total: IntCounter,
    /// Beside the numbers: where spans come from.
    pub(crate) tracer: Tracer,
    /// And a line for each request.
    pub(crate) request_log: RequestLog,
    /// Those of `proxy_requests_total`, by status: looked up once each.
    proxied: Vec<OnceLock<IntCounter>>,
}

impl Default for Metrics {
    /// Without traces, and without a log of requests.
    fn default() -> Metrics {
        Metrics::with(Tracer::default(), RequestLog::default())
    }
}

impl Metrics {
    /// Everything at zero, and there from the start: an alert on a rate needs a first value. What is
    /// counted by transport is begun by `api`.
    pub fn with(tracer: Tracer, request_log: RequestLog) -> Metrics {
        let metrics = Metrics { tracer, request_log, ..Metrics::new() };
        metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        for source in ["memory", "oplog"] {
            metrics.replays_total.with_label_values(&[source]);
        }
        for reason in ["history-lost", "invalid-token", "invalidated", "filter-changed", "started"]
        {
            metrics.resets_total.with_label_values(&[reason]);
        }
        for result in ["allowed", "missing", "refused", "forbidden", "unavailable", "ended"] {
            metrics.auth_total.with_label_values(&[result]);
        }
        for reason in ["client-closed", "drained", "unauthorized"] {
            metrics.streams_ended_total.with_label_values(&[reason]);
        }
        for limit in ["connections", "address", "descriptors", "memory"] {
            metrics.refused_total.with_label_values(&[limit]);
        }
        for result in ["ok", "broken"] {
            metrics.filter_reloads_total.with_label_values(&[result]);
        }
        metrics
    }

    /// Counts a forwarded request by the status that the client got, or 0.
    pub fn count_proxied(&self, status: u16) {
        let find = || self.proxy_requests_total.with_label_values(&[status.to_string()]);
        match self.proxied.get(usize::from(status)) {
            Some(counter) => counter.get_or_init(find).inc(),
            None => find().inc(),
        }
    }

    /// Counts a panic of a task of this name.
    pub fn count_panic(&self, task: &str) {
        self.task_panics_total.with_label_values(&[task]).inc();
    }

    fn new() -> Metrics {
        let registry = Registry::new();
        let r = &registry;
        Metrics {
            connections: gauges(r, "connections", "Open event streams.", &["transport"]),
            connections_total: counters(
                r,
                "connections_total",
                "Requests for event streams: accepted, or the status of the refusal.",
                &["transport", "outcome"],
            ),
            streams_ended_total: counters(
                r,
                "streams_ended_total",
                "Event streams that ended, by reason.",
                &["reason"],
            ),
            events_read_total: counters(
                r,
                "events_read_total",
                "Change events read from MongoDB.",
                &["upstream"],
            ),
            events_sent_total: counters(
                r,
                "events_sent_total",
                "Events written to clients.",
                &["stream"],
            ),
            upstream_lag_seconds: register(
                r,
                GaugeVec::new(
                    opts(
                        "upstream_lag_seconds",
                        "Wall clock minus the newest position read; up to 10 when MongoDB is idle.",
                    ),
                    &["upstream"],
                ),
            ),
            upstream_restarts_total: counters(
                r,
                "upstream_restarts_total",
                "Change streams opened again, by reason.",
                &["upstream", "reason"],
            ),
            upstream_cursors: register(
                r,
                IntGauge::with_opts(opts(
                    "upstream_cursors",
                    "Open change stream cursors, without replays.",
                )),
            ),
            replay_cursors: register(
                r,
                IntGauge::with_opts(opts(
                    "replay_cursors",
                    "Open change stream cursors that replay older events.",
                )),
            ),
            subscriptions: gauges(r, "subscriptions", "Open subscriptions.", &["stream"]),
            replays_total: counters(
                r,
                "replays_total",
                "Reconnects that were brought up to date, by the source of the events.",
                &["source"],
            ),
            resets_total: counters(
                r,
                "resets_total",
                "Resets sent to clients, by reason.",
                &["reason"],
            ),
            snapshots_total: counters(
                r,
                "snapshots_total",
                "Snapshots that were read, given again, or could not be, by stream and outcome.",
                &["stream", "outcome"],
            ),
            snapshot_seconds: histogram(
                r,
                "snapshot_seconds",
                "How long MongoDB's answer to the query of a snapshot took.",
                &SNAPSHOT_BUCKETS,
            ),
            slow_clients_total: register(
                r,
                IntCounter::with_opts(opts(
                    "slow_clients_total",
                    "Times that a client fell so far behind that it was moved to a replay.",
                )),
            ),
            delivery_seconds: {
                let name = "delivery_seconds";
                let help = "Time from an event's wall clock time in MongoDB to the write to the client's socket.";
                let opts = HistogramOpts::from(opts(name, help)).buckets(DELIVERY_BUCKETS.to_vec());
                register(r, SpreadHistogram::with_opts(&opts))
            },
            filter_reloads_total: counters(
                r,
                "filter_reloads_total",
                "Reloads of the filter files, by result.",
                &["result"],
            ),
            filter_state: gauges(
                r,
                "filter_state",
                "1 for the state that a stream is in: ready, waiting or broken.",
                &["stream", "state"],
            ),
            filter_directories_unread: register(
                r,
                IntGauge::with_opts(opts(
                    "filter_directories_unread",
                    "Directories of filter files that cannot be read.",
                )),
            ),
            filter_findings: gauges(
                r,
                "filter_findings",
                "1 for each problem found in MongoDB with what a stream reads, such as a missing \
                 collection.",
                &["stream", "finding"],
            ),
            // Without labels, and there only once it is known: 0 would be an empty oplog.
            oplog_window_seconds: register(
                r,
                GaugeVec::new(
                    opts("oplog_window_seconds", "How far back MongoDB's oplog reaches."),
                    &[],
                ),
            ),
            task_panics_total: counters(
                r,
                "task_panics_total",
                "Panics in the sidecar's own tasks. Each one is a bug: please report it.",
                &["task"],
            ),
            auth_total: counters(
                r,
                "auth_total",
                "Decisions about opening protected streams, and rights that ended, by result.",
                &["result"],
            ),
            refused_total: counters(
                r,
                "refused_total",
                "Streams and requests that were refused because there are too many, and connections that were closed to make room, by limit.",
                &["limit"],
            ),
            proxy_requests_total: counters(
                r,
                "proxy_requests_total",
                "Requests forwarded to the app, by the status that the client got.",
                &["code"],
            ),
            proxy_request_seconds: histogram(
                r,
                "proxy_request_seconds",
                "Time from a forwarded request's head to the end of the response.",
                &REQUEST_BUCKETS,
            ),
            build_info: gauges(
                r,
                "build_info",
                "Always 1; the label is the version.",
                &["version"],
            ),
            log_lines_dropped_total: register(
                r,
                IntCounter::with_opts(opts(
                    "log_lines_dropped_total",
                    "Log lines that were not written because the reader of standard error is too slow.",
                )),
            ),
            tracer: Tracer::default(),
            request_log: RequestLog::default(),
            proxied: (0..MAX_STATUS).map(|_| OnceLock::new()).collect(),
            registry,
        }
    }

    /// Removes the metrics of an upstream that was closed.
    pub fn forget_upstream(&self, upstream: &str) {
        // Not there: it was never told.
        let _ = self.events_read_total.remove_label_values(&[upstream]);
        let _ = self.upstream_lag_seconds.remove_label_values(&[upstream]);
        forget(&self.upstream_restarts_total, "upstream", upstream);
    }

    /// Removes the metrics of a stream that is gone. Says whether it did, which it does not as long as
    /// somebody listens.
    pub fn forget_stream(&self, stream: &str) -> bool {
        if self.subscriptions.with_label_values(&[stream]).get() > 0 {
            return false;
        }
        // Not there: it was never told.
        let _ = self.subscriptions.remove_label_values(&[stream]);
        let _ = self.events_sent_total.remove_label_values(&[stream]);
        forget(&self.snapshots_total, "stream", stream);
        true
    }

    /// In the
    /// [text format](https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format).
    pub fn text(&self) -> String {
        let mut out = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut out) {
            Ok(()) => String::from_utf8_lossy(&out).into_owned(),
            Err(error) => format!("# the metrics cannot be encoded: {error}\n"),
        }
    }
}

/// Removes all series with this label, whatever their others.
fn forget(counters: &IntCounterVec, name: &str, value: &str) {
    for family in counters.collect() {
        for metric in family.get_metric() {
            let labels: HashMap<&str, &str> =
                metric.get_label().iter().map(|label| (label.name(), label.value())).collect();
            if labels.get(name) == Some(&value) {
                // There is none to miss: it was just told.
                let _ = counters.remove(&labels);
            }
        }
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("sidestream")
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(registry, IntCounterVec::new(opts(name, help), labels))
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(registry, IntGaugeVec::new(opts(name, help), labels))
}

fn histogram(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    let opts = HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec());
    register(registry, Histogram::with_opts(opts))
}

/// Names and labels are the constants above, so that an error here is one of this file, and the
/// first start of any build shows it.
fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<C>,
) -> C {
    let metric = metric.expect("a metric's name and labels are valid");
    registry.register(Box::new(metric.clone())).expect("a metric's name is used once");
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_prefixed() {
        let metrics = Metrics::default();
        metrics.connections.with_label_values(&["sse"]).set(3);
        assert!(metrics.text().contains("sidestream_connections{transport=\"sse\"} 3"));
    }
}
