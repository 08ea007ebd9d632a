//! Inspects the deployment from time to time: whether what the filters name exists, and can send
//! events.
//!
//! It runs at the start, after reloads, when a change stream is open again, and every minute.
//! Without it, a stream on a view would open and stay silent forever, with no error.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::metrics::Metrics;
use crate::session::catalog::Catalog;
use crate::upstream::connect::Server;
use crate::upstream::inspection::{self, Finding, FindingKind, Inspection, Known, Weight};

const EVERY: Duration = Duration::from_secs(60);
/// While MongoDB does not answer.
const RETRY: Duration = Duration::from_secs(5);
/// Change streams begin together, and files change together: one look is for all of them.
const GATHER: Duration = Duration::from_millis(200);
/// After so long a look begins anew, with what it has not come to: files may have changed.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often what was found so far is put in force while a look takes longer.
const NOTE_EVERY: Duration = Duration::from_secs(1);

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
        let (known, mut told) = (Mutex::new(Known::default()), BTreeSet::new());
        let mut failed = BTreeSet::new();
        loop {
            let is_complete = self.look(&known, &mut told).await;
            let failed_before = std::mem::replace(&mut failed, known.lock().failed());
            // What fails for the first time may have passed in a moment.
            let pause = match is_complete && failed.is_subset(&failed_before) {
                true => EVERY,
                false => RETRY,
            };
            let _ = tokio::time::timeout(pause, self.news.notified()).await;
            tokio::time::sleep(GATHER).await;
        }
    }

    /// Looks at everything once, as far as there is time; says whether there was.
    async fn look(&self, known: &Mutex<Known>, told: &mut BTreeSet<Finding>) -> bool {
        let client = self.server.client().await;
        let declared = self.catalog.declared();
        let filters = {
            let mut known = known.lock();
            known.keep(&declared);
            known.in_turn(declared)
        };
        let tell = |report| known.lock().add(report);
        let looking = inspection::inspect(&client, &filters, self.window, None, &tell);
        let mut looking = pin!(tokio::time::timeout(PATIENCE, looking));
        let mut pace = tokio::time::interval_at(Instant::now() + NOTE_EVERY, NOTE_EVERY);
        let ended = loop {
            tokio::select! {
                ended = &mut looking => break ended,
                _ = pace.tick() => self.note(known, told),
            }
        };
        self.note(known, told);
        match ended {
            Ok(Ok(())) => true,
            // Streams say so: they are not read, either.
            Ok(Err(error)) => {
                debug!(%error, "the deployment cannot be inspected");
                false
            }
            Err(_) => {
                debug!("the inspection of the deployment is not complete, and goes on");
                false
            }
        }
    }

    /// Puts in force what is new, and tells it once.
    fn note(&self, known: &Mutex<Known>, told: &mut BTreeSet<Finding>) {
        let (filters, inspection) = {
            let mut known = known.lock();
            if !known.take_news() {
                return;
            }
            (known.filters(), known.inspection())
        };
        let Inspection { findings, oplog, .. } = &inspection;
        if let Some(reach) = oplog {
            let none: [&str; 0] = [];
            let seconds = reach.as_secs_f64();
            self.metrics.oplog_window_seconds.with_label_values(&none).set(seconds);
        }
        let now: BTreeSet<Finding> = findings.iter().cloned().collect();
        // What has one cause, a database without an answer, is one line.
        let mut not_inspected: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for finding in now.difference(told) {
            let (stream, kind) = (finding.stream.as_deref(), finding.kind.name());
            match finding.kind.weight() {
                _ if finding.kind == FindingKind::NotInspected => {
                    not_inspected.entry(finding.text()).or_default().extend(stream);
                }
                Weight::Error | Weight::Warning => {
                    warn!(stream, kind, "{}", finding.text());
                }
                Weight::Unknown | Weight::Note => info!(stream, kind, "{}", finding.text()),
            }
        }
        let kind = FindingKind::NotInspected.name();
        for (text, streams) in not_inspected {
            let streams = (!streams.is_empty()).then(|| streams.join(", "));
            warn!(streams, kind, "{text}");
        }
        for finding in told.difference(&now) {
            let (stream, kind) = (finding.stream.as_deref(), finding.kind.name());
            info!(stream, kind, "resolved: {}", finding.message);
        }
        *told = now;
        let changed = self.catalog.note(&filters, inspection);
        for (what, names) in [("refused", changed.removed), ("served again", changed.added)] {
            if !names.is_empty() {
                warn!(streams = names.join(", "), "streams {what}");
            }
        }
    }
}
