//! Watches the filter directory and puts what it finds in force.
//!
//! Editors write in several steps, and a ConfigMap changes by a symlink swap: a moment of quiet is
//! waited for, then everything is read, and only what differs has an effect.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::filter::{self, Loaded};
use crate::metrics::Metrics;
use crate::session::catalog::Catalog;

/// Changes that follow each other faster than this are one.
const QUIET: Duration = Duration::from_millis(100);
/// Where nothing tells of changes (a directory that is not there yet, some network file systems),
/// the files are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Reads the directory and puts its filters in force. Says how many files were broken.
pub fn load(dir: &Path, has_source: bool, catalog: &Catalog, metrics: &Metrics) -> usize {
    put(read(dir, has_source), catalog, metrics)
}

/// Without anybody who vouches for callers, protected streams are not served.
fn read(dir: &Path, has_source: bool) -> Loaded {
    let loaded = filter::load_directory(dir);
    if has_source { loaded } else { loaded.without_source() }
}

/// Puts filters in force; a broken file changes nothing.
fn put(loaded: Loaded, catalog: &Catalog, metrics: &Metrics) -> usize {
    let Loaded { mut filters, diagnostics, broken, is_complete } = loaded;
    for diagnostic in &diagnostics {
        if diagnostic.is_error() {
            error!("{diagnostic}");
        } else {
            warn!("{diagnostic}");
        }
    }
    for old in catalog.filters() {
        if broken.contains(&old.name) || (!is_complete && !filters.0.contains_key(&old.name)) {
            filters.0.insert(old.name.clone(), old);
        }
    }
    let reloaded = catalog.put(filters);
    let result = if broken.is_empty() { "ok" } else { "broken" };
    metrics.filter_reloads_total.with_label_values(&[result]).inc();
    for (what, names) in
        [("added", reloaded.added), ("changed", reloaded.changed), ("removed", reloaded.removed)]
    {
        if !names.is_empty() {
            info!(streams = names.join(", "), "filters {what}");
        }
    }
    broken.len()
}

/// Follows the directory for as long as the process runs.
pub async fn watch(dir: PathBuf, has_source: bool, catalog: Arc<Catalog>, metrics: Arc<Metrics>) {
    // One waiting notice is enough: what it announces is a look at everything.
    let (changed, mut changes) = mpsc::channel(1);
    let mut watcher = None;
    let mut seen = look(&dir, has_source).await.map(|(_, fingerprint)| fingerprint);
    loop {
        if watcher.is_none() {
            watcher = start(&dir, changed.clone());
        }
        // The slow look runs also beside a watcher: a directory can be replaced under it.
        let _ = tokio::time::timeout(LOOK_EVERY, changes.recv()).await;
        while let Ok(Some(())) = tokio::time::timeout(QUIET, changes.recv()).await {}
        let Some((loaded, fingerprint)) = look(&dir, has_source).await else {
            continue;
        };
        if seen == Some(fingerprint) {
            continue;
        }
        seen = Some(fingerprint);
        put(loaded, &catalog, &metrics);
        // What was watched may be another directory by now.
        watcher = None;
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

/// Reads the files, and says as one number what they are.
async fn look(dir: &Path, has_source: bool) -> Option<(Loaded, u64)> {
    let dir = dir.to_path_buf();
    let looking = tokio::task::spawn_blocking(move || {
        let loaded = read(&dir, has_source);
        let mut hasher = DefaultHasher::new();
        for (name, filter) in &loaded.filters.0 {
            (name, filter.source_digest).hash(&mut hasher);
        }
        for diagnostic in &loaded.diagnostics {
            diagnostic.to_string().hash(&mut hasher);
        }
        (loaded, hasher.finish())
    });
    // It fails only when the process ends.
    looking.await.ok()
}
