//! Inspects the deployment from time to time: whether what the filters name exists, and can send
//! events.
//!
//! It runs at the start, after reloads, when a change stream is open again, and every minute.
//! Without it, a stream on a view would open and stay silent forever, with no error.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tracing::{debug, info, warn};

use crate::filter::Filter;
use crate::metrics::Metrics;
use crate::session::catalog::Catalog;
use crate::upstream::connect::Server;
use crate::upstream::inspection::{self, Finding, Inspection, Weight};

const EVERY: Duration = Duration::from_secs(60);
/// While MongoDB does not answer.
const RETRY: Duration = Duration::from_secs(5);
/// Change streams begin together, and files change together: one look is for all of them.
const GATHER: Duration = Duration::from_millis(200);
/// A look that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Inspects the deployment at the start, after reloads and every minute.
#[derive(Clone)]
pub struct Survey {
    pub catalog: Arc<Catalog>,
    pub server: Server,
    pub metrics: Arc<Metrics>,
    /// `replay.window`
    pub window: Duration,
    /// That there is something to look at.
    pub news: Arc<Notify>,
}

impl Survey {
    /// Runs until it is dropped.
    pub async fn run(self) {
        let mut told = BTreeSet::new();
        loop {
            let pause = match tokio::time::timeout(PATIENCE, self.look()).await {
                Ok(Some((filters, inspection))) => {
                    self.note(&filters, inspection, &mut told);
                    EVERY
                }
                _ => RETRY,
            };
            let _ = tokio::time::timeout(pause, self.news.notified()).await;
            tokio::time::sleep(GATHER).await;
        }
    }

    async fn look(&self) -> Option<(Vec<Arc<Filter>>, Inspection)> {
        let client = self.server.client().await;
        let filters = self.catalog.declared();
        match inspection::inspect(&client, &filters, self.window, None).await {
            Ok(inspection) => Some((filters, inspection)),
            Err(error) => {
                debug!(%error, "the deployment cannot be inspected");
                None
            }
        }
    }

    /// Tells what is new, once.
    fn note(&self, filters: &[Arc<Filter>], inspection: Inspection, told: &mut BTreeSet<Finding>) {
        let Inspection { findings, oplog, .. } = &inspection;
        if let Some(reach) = oplog {
            let none: [&str; 0] = [];
            let seconds = reach.as_secs_f64();
            self.metrics.oplog_window_seconds.with_label_values(&none).set(seconds);
        }
        let now: BTreeSet<Finding> = findings.iter().cloned().collect();
        for finding in now.difference(told) {
            let (stream, kind) = (finding.stream.as_deref(), finding.kind.name());
            match finding.kind.weight() {
                Weight::Error | Weight::Warning => {
                    warn!(stream, kind, "{}", finding.text());
                }
                Weight::Unknown | Weight::Note => info!(stream, kind, "{}", finding.text()),
            }
        }
        for finding in told.difference(&now) {
            let (stream, kind) = (finding.stream.as_deref(), finding.kind.name());
            info!(stream, kind, "resolved: {}", finding.message);
        }
        *told = now;
        let changed = self.catalog.note(filters, inspection);
        for (what, names) in [("refused", changed.removed), ("served again", changed.added)] {
            if !names.is_empty() {
                warn!(streams = names.join(", "), "streams {what}");
            }
        }
    }
}
