//! Watches the filter directory and puts its files in force.
//!
//! Editors write in several steps, and a ConfigMap changes by a symlink swap. The watcher therefore
//! waits for a moment without changes, then reads everything, and applies only what differs. The
//! files are read if their names, sizes and times suggest a change. Each reading remembers the
//! stamp that was taken before it, so that no edit between two readings is missed. A file that is
//! gone ends its streams only if it is still gone a moment later.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::diagnostic::Diagnostic;
use crate::filter::{self, Loaded, Stamp};
use crate::metrics::Metrics;
use crate::session::catalog::{Catalog, Unread};
use crate::trace::SpanSide;

/// Changes that follow each other faster than this are one.
const QUIET: Duration = Duration::from_millis(100);
/// But nobody who writes without a pause, such as a log in the same directory, holds up the edits of
/// others for longer than this.
const BUSY: Duration = Duration::from_secs(1);
/// A file has to be missing for so long to be taken for removed: editors rename the old file away
/// before they write the new one.
const GONE_FOR: Duration = Duration::from_millis(250);
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
    /// The findings of the newest reading; empty before the first one.
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

/// Streams in force whose files are missing, and since when. Until it is sure that they were removed,
/// they stay.
type Gone = BTreeMap<String, Instant>;

impl Reload {
    /// Reads the directory and puts its filters in force. Says how many files were broken.
    pub fn load(&self) -> (LastRead, usize) {
        let (loaded, seen) = read(&self.dir, self.has_source);
        (seen, self.put(loaded, &Gone::new()))
    }

    /// Puts filters in force; a broken file changes nothing, and neither does one that may come back.
    fn put(&self, loaded: Loaded, gone: &Gone) -> usize {
        let Loaded { mut filters, diagnostics, broken, refused, mut reasons, unlisted } = loaded;
        let span = self.metrics.tracer.root(SpanSide::Internal, "load filter files");
        let known = self.findings.look();
        for diagnostic in &diagnostics {
            let (place, hint) = (diagnostic.origin.to_string(), diagnostic.hint.as_deref());
            if diagnostic.is_error() {
                error!(place, hint, "{}", diagnostic.message);
            } else if !known.diagnostics.contains(diagnostic) {
                // Once, and not at each edit of some other file.
                warn!(place, hint, "{}", diagnostic.message);
            }
        }
        for old in self.catalog.declared() {
            let name = &old.name;
            let is_unread = (unlisted.may_hold(name) || gone.contains_key(name))
                && !filters.0.contains_key(name)
                && !refused.contains(name);
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
        let trouble_count = troubles.len();
        let result = if troubles.is_empty() && unlisted.is_empty() { "ok" } else { "broken" };
        if unlisted.is_empty() && self.catalog.unread_directories() > 0 {
            info!("the directory of filter files can be read again");
        }
        let unread = Unread { names: broken, unlisted };
        let reloaded = self.catalog.put(filters, troubles, unread);
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
        let mut gone = Gone::new();
        loop {
            // Before the look: what changes after it is announced.
            if watcher.is_none() {
                watcher = start(&self.dir, changed.clone());
            }
            if self.look(&mut seen, &mut gone).await {
                // What was watched may be another directory by now.
                watcher = None;
                continue;
            }
            self.catalog.close_unused().await;
            // The slow look runs also beside a watcher: a directory can be replaced under it.
            let wait = if gone.is_empty() { LOOK_EVERY } else { GONE_FOR };
            let _ = tokio::time::timeout(wait, changes.recv()).await;
            let burst = async {
                while let Ok(Some(())) = tokio::time::timeout(QUIET, changes.recv()).await {}
            };
            let _ = tokio::time::timeout(BUSY, burst).await;
        }
    }

    /// Reads the files if they may have changed. Says whether they had.
    async fn look(&self, seen: &mut Option<LastRead>, gone: &mut Gone) -> bool {
        let had_gone = !gone.is_empty();
        let (dir, has_source, before) = (self.dir.clone(), self.has_source, *seen);
        let looking = tokio::task::spawn_blocking(move || {
            let is_unchanged =
                |before: LastRead| filter::stamp(&dir).is_unchanged_since(&before.stamp);
            match !had_gone && before.is_some_and(is_unchanged) {
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
        let some_are_removed = note_gone(gone, self.missing(&loaded), Instant::now());
        if is_new || some_are_removed {
            self.put(loaded, gone);
        }
        is_new
    }

    /// The streams in force that have no file.
    fn missing(&self, loaded: &Loaded) -> BTreeSet<String> {
        let has_file = |name: &String| {
            loaded.filters.0.contains_key(name)
                || loaded.broken.contains(name)
                || loaded.refused.contains(name)
        };
        let declared = self.catalog.declared();
        let names = declared.iter().map(|old| old.name.clone());
        // Of a directory that cannot be read nothing is known.
        names.filter(|name| !loaded.unlisted.may_hold(name) && !has_file(name)).collect()
    }
}

/// Notes which streams have no file now, and since when. Those that have been missing for long enough
/// are forgotten: they were removed. Says whether there are such.
fn note_gone(gone: &mut Gone, missing: BTreeSet<String>, now: Instant) -> bool {
    gone.retain(|name, _| missing.contains(name));
    for name in missing {
        gone.entry(name).or_insert(now);
    }
    let before = gone.len();
    gone.retain(|_, since| now - *since < GONE_FOR);
    gone.len() < before
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_gone_when_it_stays_away() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let start = Instant::now();
        let mut gone = Gone::new();
        let mut look = |missing: &[&str], at: Duration| {
            let is_decided = note_gone(&mut gone, names(missing), start + at);
            (is_decided, gone.keys().cloned().collect::<Vec<_>>().join(" "))
        };
        let early = GONE_FOR - Duration::from_millis(1);
        assert_eq!(look(&["a", "b"], Duration::ZERO), (false, "a b".to_owned()));
        // One is back, as after an editor has saved it; the other one is not yet given up.
        assert_eq!(look(&["b"], early), (false, "b".to_owned()));
        // The other one is, though the first is away again: for that, time begins anew.
        assert_eq!(look(&["a", "b"], GONE_FOR), (true, "a".to_owned()));
        assert_eq!(look(&["a"], GONE_FOR + early), (false, "a".to_owned()));
        assert_eq!(look(&["a"], 2 * GONE_FOR), (true, String::new()));
        assert_eq!(look(&[], 3 * GONE_FOR), (false, String::new()));
    }
}
