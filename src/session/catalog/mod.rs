//! The streams in force: filters by name, and the feeds that supply them.
//!
//! Reloading the filter files goes through here: what did not change is not touched, and where it is
//! read from another feed, its clients go on there: see [`Catalog::follow`]. A feed lives as long as a
//! filter uses it, plus a grace period: see [`Catalog::close_unused`].

mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bson::Timestamp;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::event::Position;
use crate::feed::journal::JournalLimits;
use crate::feed::{Feed, FeedKey, Status};
use crate::filter::{Bound, Filter, FilterSet};
use crate::metrics::Metrics;
use crate::session::listeners::{Listed, Listener};
use crate::session::subscription::{From, Shared, Source, Subscription};
use crate::tasks::Tasks;
use crate::upstream::Upstream;
use crate::upstream::budget::{CursorBudget, CursorPlace};
use crate::upstream::connect::Server;
use crate::upstream::inspection::{Finding, Inspection};

use state::{State, Supplied};
pub use state::{StreamReport, StreamState, Unread};

/// How long after the start the process is not ready because of a feed that has not been read.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long a feed stays that no filter uses, for an edit that is taken back, at most; not longer
/// than its journal would reach back.
const GRACE: Duration = Duration::from_secs(60);

/// Why a stream cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("there is no stream `{0}`")]
    NoSuchStream(String),
    /// It may be there once its file can be read.
    #[error("the filter file cannot be read")]
    Unread,
}

/// A stream in force.
#[derive(Debug, Clone)]
pub struct ActiveStream {
    pub filter: Arc<Filter>,
    source: Arc<Source>,
}

impl ActiveStream {
    /// What it is read from.
    pub fn feed(&self) -> &Arc<Feed> {
        &self.source.feed
    }

    /// Whether its feed has ever been read up to the present. Before that, the present position is
    /// unknown.
    pub fn was_read(&self) -> bool {
        self.feed().was_live()
    }

    /// The newest cluster time that was read.
    pub fn newest(&self) -> Option<Timestamp> {
        self.feed().now().map(|(head, _)| head.time())
    }
}

/// What feeds are made with.
#[derive(Debug, Clone)]
pub struct FeedSettings {
    pub limits: JournalLimits,
    /// `clients.max_buffered`
    pub keep: usize,
    pub window: Duration,
    /// Of the change streams that may be open.
    pub budget: CursorBudget,
    /// Told when there is something new to look at in the deployment.
    pub news: Arc<Notify>,
}

/// The streams in force, by name, and the feeds that supply them.
pub struct Catalog {
    state: RwLock<State>,
    settings: FeedSettings,
    server: Server,
    pub shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    tasks: Tasks,
    started_at: Instant,
    was_ready: AtomicBool,
}

/// What a reload did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    pub added: Vec<String>,
    pub changed: Vec<String>,
    pub removed: Vec<String>,
}

impl Catalog {
    /// Without streams, until [`Catalog::put`] is given the filters.
    pub fn new(server: Server, settings: FeedSettings, shared: Shared, tasks: Tasks) -> Catalog {
        Catalog {
            state: RwLock::new(State::default()),
            settings,
            server,
            metrics: shared.metrics.clone(),
            shared: Arc::new(shared),
            tasks,
            started_at: Instant::now(),
            was_ready: AtomicBool::new(false),
        }
    }

    /// Puts a set of filters in force. Filters whose meaning did not change keep their routes and
    /// their clients; those of a changed or removed one are told. `troubles` are the files that are
    /// not in force as they are, with what is wrong.
    pub fn put(
        &self,
        set: FilterSet,
        troubles: BTreeMap<String, String>,
        unread: Unread,
    ) -> Reloaded {
        let mut state = self.state.write();
        state.declared = set.0;
        (state.troubles, state.unread) = (troubles, unread);
        let State { declared, refused, .. } = &mut *state;
        refused.retain(|name, (filter, _)| {
            declared.get(name).is_some_and(|declared| declared.is_same(filter))
        });
        let reloaded = self.enforce(&mut state);
        self.settings.news.notify_one();
        reloaded
    }

    /// Takes in what a look at the deployment found: what can never send anything is not in force.
    /// Where the rights are on collections and not on their database, each is read by itself.
    pub fn note(&self, looked_at: &[Arc<Filter>], inspection: Inspection) -> Reloaded {
        let Inspection { findings, oplog, without_rights } = inspection;
        let mut state = self.state.write();
        state.split(&without_rights);
        let State { declared, refused, .. } = &mut *state;
        refused.clear();
        for finding in findings.iter().filter(|finding| finding.kind.is_final()) {
            let name = finding.stream.as_deref().unwrap_or_default();
            // A file that was changed since is looked at again.
            let is_current =
                |filter: &&Arc<Filter>| looked_at.iter().any(|other| other.is_same(filter));
            if let Some(filter) = declared.get(name).filter(is_current) {
                refused.insert(name.to_owned(), (filter.clone(), finding.text()));
            }
        }
        state.findings = findings;
        state.oplog = oplog;
        self.enforce(&mut state)
    }

    /// Puts in force what is declared and not refused.
    fn enforce(&self, state: &mut State) -> Reloaded {
        let mut reloaded = Reloaded::default();
        let (mut retired, mut kept) = (Vec::new(), Vec::new());
        let mut before = std::mem::take(&mut state.filters);
        for (name, filter) in &state.declared {
            if state.refused.contains_key(name) {
                continue;
            }
            match before.remove(name) {
                Some(old) if old.is_same(filter) => kept.push(old),
                Some(old) => {
                    reloaded.changed.push(name.clone());
                    retired.push(old);
                }
                None => reloaded.added.push(name.clone()),
            }
            state.filters.insert(name.clone(), filter.clone());
        }
        for (name, old) in before {
            reloaded.removed.push(name);
            retired.push(old);
        }
        state.gone.extend(reloaded.removed.iter().cloned());
        let keys = std::mem::take(&mut state.keys);
        self.supply(state);
        // Whoever listens to another feed than the stream has now goes on there.
        for filter in kept.iter().filter(|kept| keys.get(&kept.name) != state.keys.get(&kept.name))
        {
            if let Some(supplied) = keys.get(&filter.name).and_then(|key| state.feeds.get(key)) {
                supplied.feed.retire(filter);
            }
        }
        for filter in retired {
            let supplied = keys.get(&filter.name).and_then(|key| state.feeds.get(key));
            if let Some(supplied) = supplied {
                supplied.feed.retire(&filter);
                // A quiet client is told of a place behind the newest event, before the next one.
                let read =
                    supplied.feed.now().map(|(head, _)| supplied.feed.without_collection(head));
                let given = self.shared.snapshots.furthest(&filter.name);
                let edited = read.max(given).map(|furthest| (filter.name.clone(), furthest));
                state.edited.extend(edited);
            }
        }
        reloaded
    }

    /// Makes sure that every filter has a feed that reads its collection.
    fn supply(&self, state: &mut State) {
        let mut wanted: BTreeMap<FeedKey, Vec<Arc<Filter>>> = BTreeMap::new();
        let filters: Vec<Arc<Filter>> = state.filters.values().cloned().collect();
        state.keep_apart(&filters);
        for filter in filters {
            let key = state.key_of(&filter);
            state.keys.insert(filter.name.clone(), key.clone());
            wanted.entry(key).or_default().push(filter);
        }
        for (key, supplied) in &mut state.feeds {
            match wanted.contains_key(key) {
                true => supplied.unused_since = None,
                false => drop(supplied.unused_since.get_or_insert_with(Instant::now)),
            }
        }
        let mut waiting = Vec::new();
        for (key, filters) in wanted {
            match state.feeds.get(&key) {
                Some(supplied) => supplied.feed.read_also(&filters),
                None => {
                    let (supplied, has_slot) = self.start(key.clone(), &filters);
                    state.feeds.insert(key, supplied);
                    if !has_slot {
                        waiting.extend(filters.iter().map(|filter| filter.name.clone()));
                    }
                }
            }
        }
        state.find_sources(&self.shared);
        if !waiting.is_empty() {
            warn!(
                streams = waiting.join(", "),
                "these streams wait for a change stream: {}",
                self.settings.budget.explain()
            );
        }
    }

    /// Also says whether the feed has a change stream, or waits for one.
    fn start(&self, key: FeedKey, filters: &[Arc<Filter>]) -> (Supplied, bool) {
        let feed = Feed::new(key, self.settings.limits, self.settings.keep);
        let feed = Arc::new(feed.within(&self.tasks));
        feed.read_also(filters);
        let (stop, stopped) = watch::channel(false);
        let place = self.settings.budget.line_up();
        let has_slot = matches!(place, CursorPlace::Taken(_));
        let upstream = Upstream {
            server: self.server.clone(),
            feed: feed.clone(),
            window: self.settings.window,
            metrics: self.metrics.clone(),
            budget: self.settings.budget.clone(),
            place: Mutex::new(Some(place)),
            news: self.settings.news.clone(),
            shutdown: stopped,
        };
        upstream.start(&self.tasks);
        (Supplied { feed, stop, unused_since: None }, has_slot)
    }

    /// Forgets what metrics tell of streams that are gone, once their last client is, too.
    fn forget_gone(&self) {
        if self.state.read().gone.is_empty() {
            return;
        }
        let State { gone, filters, .. } = &mut *self.state.write();
        gone.retain(|name| !filters.contains_key(name) && !self.metrics.forget_stream(name));
    }

    /// Closes the feeds that no filter has used for a while: their cursors, their journals and what
    /// metrics tell of them. Waits until they are gone.
    pub async fn close_unused(&self) {
        self.forget_gone();
        let grace = GRACE.min(self.settings.window);
        let is_due = |supplied: &Supplied| {
            supplied.unused_since.is_some_and(|since| since.elapsed() >= grace)
        };
        if !self.state.read().feeds.values().any(is_due) {
            return;
        }
        let closed: Vec<_> =
            self.state.write().feeds.extract_if(.., |_, supplied| is_due(supplied)).collect();
        for (key, supplied) in closed {
            supplied.stop.send_replace(true);
            supplied.stop.closed().await;
            self.metrics.forget_upstream(&key.to_string());
            info!(upstream = %key, "no filter uses this change stream any more: closed");
        }
    }

    /// Finds a stream by name.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn find(&self, name: &str) -> Result<ActiveStream, OpenError> {
        let state = self.state.read();
        let found = state.filters.get(name).and_then(|filter| {
            // Every filter in force has one.
            let source = state.sources.get(name)?.clone();
            Some(ActiveStream { filter: filter.clone(), source })
        });
        found.ok_or_else(|| match state.unread.may_hold(name) {
            true => OpenError::Unread,
            false => OpenError::NoSuchStream(name.to_string()),
        })
    }

    /// Opens a stream for a client, with what [`Filter::bind`] has made of its query and claims.
    pub fn subscribe(
        &self,
        found: &ActiveStream,
        bound: Bound,
        from: From,
        listener: (Arc<Listener>, Listed),
    ) -> Subscription {
        // Who was away then holds documents of another filter, and nobody would tell.
        let edited_since = |position: &Position| {
            let state = self.state.read();
            let edited = state.edited.get(&found.filter.name);
            let edited = edited.filter(|_| found.filter.snapshot().is_some());
            edited.filter(|edited| position <= edited).cloned()
        };
        let from = match from {
            From::Position(position) => match edited_since(&position) {
                Some(edited) => {
                    // A snapshot that was kept from before the edit, by a file that meant the same,
                    // would bring the client here again with each id. Nothing newer can be read before
                    // there is something newer.
                    let has_more = found.feed().now().is_some_and(|(head, _)| head > edited);
                    From::FilterChanged { was_ready: false, beyond: has_more.then_some(edited) }
                }
                None => From::Position(position),
            },
            from => from,
        };
        let source = found.source.clone();
        let subscription = Subscription::new(source, &found.filter, bound, from, listener);
        self.retire_if_late(found, &subscription);
        subscription
    }

    /// Has a subscription go on in the feed that its stream is read from now, exactly where it is, where
    /// that is all that has changed. Says whether it does.
    pub fn follow(&self, subscription: &mut Subscription) -> bool {
        let Ok(found) = self.find(&subscription.filter().name) else { return false };
        // On the feed that it has, its filter was another one meanwhile.
        if !found.filter.is_same(subscription.filter()) || subscription.reads(found.feed()) {
            return false;
        }
        subscription.move_to(found.source.clone());
        self.retire_if_late(&found, subscription);
        true
    }

    /// Between finding a filter and joining its route somebody may have had to be asked who this is. Of
    /// a change that came meanwhile everybody was told but this client, who was not there.
    fn retire_if_late(&self, found: &ActiveStream, subscription: &Subscription) {
        let is_current = self.find(&found.filter.name).is_ok_and(|current| {
            current.filter.is_same(subscription.filter())
                && Arc::ptr_eq(current.feed(), found.feed())
        });
        if !is_current {
            subscription.retire();
            let State { filters, gone, .. } = &mut *self.state.write();
            // Its metrics may have been forgotten before.
            if !filters.contains_key(&found.filter.name) {
                gone.insert(found.filter.name.clone());
            }
        }
    }

    /// Every filter in force, by name.
    pub fn filters(&self) -> Vec<Arc<Filter>> {
        self.state.read().filters.values().cloned().collect()
    }

    /// Every filter that can be read, in force or not.
    pub fn declared(&self) -> Vec<Arc<Filter>> {
        self.state.read().declared.values().cloned().collect()
    }

    /// What the last look at the deployment found.
    pub fn findings(&self) -> Vec<Finding> {
        self.state.read().findings.clone()
    }

    /// How far back the oplog reaches, where that is known.
    pub fn oplog(&self) -> Option<Duration> {
        self.state.read().oplog
    }

    /// Those in use, and those that are kept for a while after their last filter has gone.
    pub fn feeds(&self) -> Vec<Arc<Feed>> {
        self.state.read().feeds.values().map(|supplied| supplied.feed.clone()).collect()
    }

    /// Every stream that there is a file for, by name.
    pub fn streams(&self) -> Vec<StreamReport> {
        let state = self.state.read();
        let names: BTreeSet<&String> = state.declared.keys().chain(state.troubles.keys()).collect();
        let report = |name: &String| {
            let (stream_state, reason) = state.report(name);
            let is_in_force = state.filters.contains_key(name);
            StreamReport { name: name.clone(), state: stream_state, is_in_force, reason }
        };
        names.into_iter().map(report).collect()
    }

    /// Whether every feed in use was read up to now, or was refused for a reason that waiting does
    /// not mend; or enough time has passed since the start. Once so, it stays so: streams wait by
    /// themselves, and the app is served all the while.
    pub fn is_ready(&self) -> bool {
        if self.was_ready.load(Ordering::Acquire) {
            return true;
        }
        let is_ready = self.started_at.elapsed() >= READY_WITHIN
            || self.state.read().feeds.values().all(|supplied| {
                let Supplied { feed, unused_since, .. } = supplied;
                let is_refused =
                    matches!(feed.status(), Status::Away(absence) if absence.needs_a_person);
                unused_since.is_some() || feed.was_live() || is_refused
            });
        self.was_ready.fetch_or(is_ready, Ordering::AcqRel);
        is_ready
    }

    /// What keeps the feeds and the filter files from being read, for people.
    pub fn troubles(&self) -> Vec<String> {
        let feeds = self.feeds();
        let of_feeds = feeds.iter().filter_map(|feed| match feed.status() {
            Status::Away(absence) => Some(format!("{}: {}", feed.key(), absence.reason)),
            Status::Starting | Status::Live => None,
        });
        let state = self.state.read();
        state.unread.unlisted.troubles().chain(of_feeds).collect()
    }

    /// How many directories of filter files could not be read.
    pub fn unread_directories(&self) -> usize {
        self.state.read().unread.unlisted.troubles().count()
    }
}
