//! For kubelet, load balancers and Prometheus: alive, ready, leaving, and the metrics.

use http::Response;
use tracing::info;

use super::{Admin, answer, text};
use crate::session::catalog::StreamState;

impl Admin {
    /// With what waits, ready or not: ready means that the app may be sent requests.
    pub(super) fn ready(&self) -> Response<Vec<u8>> {
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
    pub(super) fn leave(&self, headers: &http::HeaderMap) -> Response<Vec<u8>> {
        if headers.contains_key(http::header::ORIGIN) || headers.contains_key("sec-fetch-site") {
            return text(403, "requests from web pages are refused\n");
        }
        self.drain.announce();
        info!(
            "/readyz answers 503 from here on, as `sidestream drain` asks; streams stay open until SIGTERM"
        );
        text(200, "draining: /readyz answers 503, streams stay open until SIGTERM\n")
    }

    /// `/metrics`, in the text format of Prometheus.
    pub(super) fn metrics(&self) -> Response<Vec<u8>> {
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
        let unread = i64::try_from(self.catalog.unread_directories()).unwrap_or(i64::MAX);
        self.metrics.filter_directories_unread.set(unread);
        self.metrics.filter_findings.reset();
        for finding in self.catalog.findings() {
            if let Some(stream) = &finding.stream {
                let labels = [stream.as_str(), finding.kind.name()];
                self.metrics.filter_findings.with_label_values(&labels).set(1);
            }
        }
        answer(200, "text/plain; version=0.0.4; charset=utf-8", self.metrics.text().into_bytes())
    }
}
