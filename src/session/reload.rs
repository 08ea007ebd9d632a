//! Watches the filter directory and puts its files in force.
//!
//! Editors write in several steps, and a ConfigMap changes by a symlink swap. The watcher therefore
//! waits for a moment without changes, then reads everything, and applies only what differs. The
//! files are read if their names, sizes and times suggest a change. Each reading remembers the
//! stamp that was taken before it, so that no edit between two readings is missed.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::diagnostic::Diagnostic;
use crate::filter::{self, Loaded, Stamp};
use crate::metrics::Metrics;
use crate::session::catalog::Catalog;
use crate::trace::SpanSide;

/// Changes that follow each other faster than this are one.
const QUIET: Duration = Duration::from_millis(100);
/// Where nothing tells of changes (a directory that is not there yet, some network file systems),
/// the files are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The filter files, and where they go.
#[derive(Clone)]
pub struct Reload {
    pub dir: PathBuf,
    /// Whether anybody vouches for callers; else protected streams are not served.
    pub has_source: bool,
    pub catalog: Arc<Catalog>,
    pub metrics: Arc<Metrics>,
    pub findings: LatestFindings,
}

/// The result of the last reading of the files.
#[derive(Clone, Default)]
pub struct LatestFindings(Arc<Mutex<Arc<Findings>>>);

/// What is wrong with the filter files.
#[derive(Debug, Default)]
pub struct Findings {
    /// What the files' paths begin with.
    pub dir: PathBuf,
    pub diagnostics: Vec<Diagnostic>,
}

impl LatestFindings {
    pub fn look(&self) -> Arc<Findings> {
        self.0.lock().clone()
    }
}

/// What was read last.
#[derive(Debug, Clone, Copy)]
pub struct LastRead {
    stamp: Stamp,
    content: u64,
}

impl Reload {
    /// Reads the directory and puts its filters in force. Says how many files were broken.
    pub fn load(&self) -> (LastRead, usize) {
        let (loaded, seen) = read(&self.dir, self.has_source);
        (seen, self.put(loaded))
    }

    /// Puts filters in force; a broken file changes nothing.
    fn put(&self, loaded: Loaded) -> usize {
        let Loaded { mut filters, diagnostics, broken, refused, mut reasons, is_complete } = loaded;
        let span = self.metrics.tracer.root(SpanSide::Internal, "load filter files");
        for diagnostic in &diagnostics {
            let (place, hint) = (diagnostic.origin.to_string(), diagnostic.hint.as_deref());
            if diagnostic.is_error() {
                error!(place, hint, "{}", diagnostic.message);
            } else {
                warn!(place, hint, "{}", diagnostic.message);
            }
        }
        for old in self.catalog.declared() {
            let name = &old.name;
            let is_unread =
                !is_complete && !filters.0.contains_key(name) && !refused.contains(name);
            if broken.contains(name) || is_unread {
                filters.0.insert(name.clone(), old);
            }
        }
        let troubles: BTreeMap<String, String> = broken
            .iter()
            .chain(&refused)
            .map(|name| {
                let reason = reasons.remove(name);
                (name.clone(), reason.unwrap_or_else(|| "see the log".to_owned()))
            })
            .collect();
        span.set("sidestream.broken_files", troubles.len() as i64);
        let (trouble_count, result) =
            (troubles.len(), if troubles.is_empty() { "ok" } else { "broken" });
        let reloaded = self.catalog.put(filters, troubles);
        *self.findings.0.lock() = Arc::new(Findings { dir: self.dir.clone(), diagnostics });
        self.metrics.filter_reloads_total.with_label_values(&[result]).inc();
        for (what, names) in [
            ("added", reloaded.added),
            ("changed", reloaded.changed),
            ("removed", reloaded.removed),
        ] {
            if !names.is_empty() {
                info!(streams = names.join(", "), "filters {what}");
            }
        }
        trouble_count
    }

    /// Follows the directory for as long as the process runs. `seen` is what is in force.
    pub async fn watch(self, mut seen: Option<LastRead>) {
        // One waiting notice is enough: what it announces is a look at everything.
        let (changed, mut changes) = mpsc::channel(1);
        let mut watcher = None;
        loop {
            // Before the look: what changes after it is announced.
            if watcher.is_none() {
                watcher = start(&self.dir, changed.clone());
            }
            if self.look(&mut seen).await {
                // What was watched may be another directory by now.
                watcher = None;
                continue;
            }
            self.catalog.close_unused().await;
            // The slow look runs also beside a watcher: a directory can be replaced under it.
            let _ = tokio::time::timeout(LOOK_EVERY, changes.recv()).await;
            while let Ok(Some(())) = tokio::time::timeout(QUIET, changes.recv()).await {}
        }
    }

    /// Reads the files if they may have changed. Says whether they had.
    async fn look(&self, seen: &mut Option<LastRead>) -> bool {
        let (dir, has_source, before) = (self.dir.clone(), self.has_source, *seen);
        let looking = tokio::task::spawn_blocking(move || {
            let is_unchanged =
                |before: LastRead| filter::stamp(&dir).is_unchanged_since(&before.stamp);
            match before.is_some_and(is_unchanged) {
                true => None,
                false => Some(read(&dir, has_source)),
            }
        });
        let read = match looking.await {
            Ok(read) => read,
            // A bug in reading is one of this task.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The process ends.
            Err(_) => None,
        };
        let Some((loaded, now)) = read else { return false };
        let is_new = before.is_none_or(|before| before.content != now.content);
        *seen = Some(now);
        if is_new {
            self.put(loaded);
        }
        is_new
    }
}

fn start(dir: &Path, changed: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            // Full: a look is already announced.
            let _ = changed.try_send(());
        }
    })
    .ok()?;
    watcher.watch(dir, RecursiveMode::Recursive).ok()?;
    Some(watcher)
}

/// Reads the files, and says what they are.
fn read(dir: &Path, has_source: bool) -> (Loaded, LastRead) {
    let stamp = filter::stamp(dir);
    let loaded = filter::load_directory(dir);
    let loaded = if has_source { loaded } else { loaded.without_source() };
    let mut hasher = DefaultHasher::new();
    for (name, filter) in &loaded.filters.0 {
        (name, filter.meaning, &filter.description).hash(&mut hasher);
    }
    for diagnostic in &loaded.diagnostics {
        diagnostic.to_string().hash(&mut hasher);
    }
    (loaded, LastRead { stamp, content: hasher.finish() })
}
