//! Watches the filter directory and puts what it finds in force.
//!
//! Editors write in several steps, and a ConfigMap changes by a symlink swap: a moment of quiet is
//! waited for, then everything is read, and only what differs has an effect.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::catalog::Catalog;
use crate::filter::{self, Loaded};
use crate::metrics::Metrics;

/// Changes that follow each other faster than this are one.
const QUIET: Duration = Duration::from_millis(100);
/// Where nothing tells of changes (a directory that is not there yet, some network file systems),
/// the files are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Reads the directory and puts its filters in force; a broken file changes nothing. Says how many
/// files were broken.
pub fn load(dir: &std::path::Path, catalog: &Catalog, metrics: &Metrics) -> usize {
    let Loaded { mut filters, diagnostics, broken } = filter::load_directory(dir);
    for diagnostic in &diagnostics {
        if diagnostic.is_error() {
            error!("{diagnostic}");
        } else {
            warn!("{diagnostic}");
        }
    }
    for old in catalog.filters() {
        if broken.contains(&old.name) {
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
pub async fn watch(dir: PathBuf, catalog: Arc<Catalog>, metrics: Arc<Metrics>) {
    // One waiting notice is enough: what it announces is a look at everything.
    let (changed, mut changes) = mpsc::channel(1);
    let mut watcher = None;
    let mut seen = fingerprint(dir.clone()).await;
    loop {
        if watcher.is_none() {
            watcher = start(&dir, changed.clone());
        }
        // The slow look runs also beside a watcher: a directory can be replaced under it.
        let _ = tokio::time::timeout(LOOK_EVERY, changes.recv()).await;
        while let Ok(Some(())) = tokio::time::timeout(QUIET, changes.recv()).await {}
        let now = fingerprint(dir.clone()).await;
        if now == seen {
            continue;
        }
        seen = now;
        let (dir, catalog, metrics) = (dir.clone(), catalog.clone(), metrics.clone());
        let loading = tokio::task::spawn_blocking(move || load(&dir, &catalog, &metrics));
        if let Err(error) = loading.await {
            error!(%error, "the filters could not be read");
        }
        // What was watched may be another directory by now.
        watcher = None;
    }
}

fn start(dir: &std::path::Path, changed: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
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

/// Names and contents of the files, as one number.
async fn fingerprint(dir: PathBuf) -> u64 {
    tokio::task::spawn_blocking(move || filter::fingerprint(&dir)).await.unwrap_or_default()
}
