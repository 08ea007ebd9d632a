//! The streams in force: filters by name, and the feeds that supply them.
//!
//! Reloading the filter files comes through here: what did not change is not touched.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::feed::journal::Limits;
use crate::feed::{Feed, FeedKey, Status};
use crate::filter::{Bound, Filter, FilterSet};
use crate::metrics::Metrics;
use crate::session::subscription::{From, Shared, Subscription};
use crate::upstream::Upstream;
use crate::upstream::connect::Server;

/// Why a stream cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("there is no stream `{0}`")]
    NoSuchStream(String),
}

/// A stream in force.
#[derive(Debug, Clone)]
pub struct Found {
    pub filter: Arc<Filter>,
    feed: Arc<Feed>,
}

impl Found {
    /// Whether its feed was ever read up to now: before, nobody can say where "now" is.
    pub fn was_read(&self) -> bool {
        self.feed.was_live()
    }
}

/// What feeds are made with.
#[derive(Debug, Clone)]
pub struct FeedSettings {
    pub limits: Limits,
    /// `clients.max_buffered`
    pub keep: usize,
    pub window: Duration,
}

#[derive(Debug, Default)]
struct State {
    filters: BTreeMap<String, Arc<Filter>>,
    feeds: BTreeMap<FeedKey, Arc<Feed>>,
}

/// See the file's head.
pub struct Catalog {
    state: RwLock<State>,
    settings: FeedSettings,
    server: Server,
    pub shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    was_ready: AtomicBool,
    shutdown: watch::Receiver<bool>,
    /// One task per feed. Held here so that closing can wait for them.
    upstreams: Mutex<JoinSet<()>>,
}

/// What a reload did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    pub added: Vec<String>,
    pub changed: Vec<String>,
    pub removed: Vec<String>,
}

impl Catalog {
    pub fn new(
        server: Server,
        settings: FeedSettings,
        shared: Shared,
        shutdown: watch::Receiver<bool>,
    ) -> Catalog {
        Catalog {
            state: RwLock::new(State::default()),
            settings,
            server,
            metrics: shared.metrics.clone(),
            shared: Arc::new(shared),
            was_ready: AtomicBool::new(false),
            shutdown,
            upstreams: Mutex::new(JoinSet::new()),
        }
    }

    /// Puts a set of filters in force. Filters whose file did not change keep their routes and
    /// their clients; those of a changed or removed one are told.
    pub fn put(&self, set: FilterSet) -> Reloaded {
        let mut state = self.state.write();
        let mut reloaded = Reloaded::default();
        let mut filters = BTreeMap::new();
        let mut retired = Vec::new();
        for (name, filter) in set.0 {
            match state.filters.remove(&name) {
                Some(old) if old.source_digest == filter.source_digest => {
                    filters.insert(name, old);
                    continue;
                }
                Some(old) => {
                    reloaded.changed.push(name.clone());
                    retired.push(old);
                }
                None => reloaded.added.push(name.clone()),
            }
            filters.insert(name, filter);
        }
        for (name, old) in std::mem::take(&mut state.filters) {
            reloaded.removed.push(name);
            retired.push(old);
        }
        state.filters = filters;
        self.supply(&mut state);
        for filter in retired {
            if let Some(feed) = state.feeds.get(&FeedKey::of(&filter)) {
                feed.retire(&filter);
            }
        }
        reloaded
    }

    /// Makes sure that every filter has a feed that reads its collection.
    fn supply(&self, state: &mut State) {
        let mut wanted: HashMap<FeedKey, Vec<Arc<Filter>>> = HashMap::new();
        for filter in state.filters.values() {
            wanted.entry(FeedKey::of(filter)).or_default().push(filter.clone());
        }
        for (key, filters) in wanted {
            let known = state.feeds.get(&key).cloned();
            let feed = known.unwrap_or_else(|| {
                let feed =
                    Arc::new(Feed::new(key.clone(), self.settings.limits, self.settings.keep));
                state.feeds.insert(key, feed.clone());
                self.start(feed.clone(), &filters);
                feed
            });
            feed.read_also(&filters);
        }
    }

    fn start(&self, feed: Arc<Feed>, filters: &[Arc<Filter>]) {
        feed.read_also(filters);
        let upstream = Upstream {
            server: self.server.clone(),
            feed,
            window: self.settings.window,
            metrics: self.metrics.clone(),
            shutdown: self.shutdown.clone(),
        };
        self.upstreams.lock().spawn(upstream.run());
    }

    /// Waits until every cursor is closed, after shutdown was said.
    pub async fn closed(&self) {
        let mut upstreams = std::mem::take(&mut *self.upstreams.lock());
        while upstreams.join_next().await.is_some() {}
    }

    /// Finds a stream by name.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn find(&self, name: &str) -> Result<Found, OpenError> {
        let state = self.state.read();
        let found = state.filters.get(name).and_then(|filter| {
            // Every filter in force has one.
            let feed = state.feeds.get(&FeedKey::of(filter))?.clone();
            Some(Found { filter: filter.clone(), feed })
        });
        found.ok_or_else(|| OpenError::NoSuchStream(name.to_string()))
    }

    /// Opens a stream for a client, with what [`Filter::bind`] has made of its query and claims.
    pub fn subscribe(&self, found: &Found, bound: Bound, from: From) -> Subscription {
        let (shared, feed) = (self.shared.clone(), found.feed.clone());
        let subscription = Subscription::new(shared, feed, &found.filter, bound, from);
        // Between finding a filter and joining its route somebody had to be asked who this is. Of a
        // file that was changed meanwhile everybody was told but this client, who was not there.
        let current = self.state.read().filters.get(&found.filter.name).cloned();
        if !current.is_some_and(|current| Arc::ptr_eq(&current, subscription.filter())) {
            subscription.retire();
        }
        subscription
    }

    /// Every filter in force, by name.
    pub fn filters(&self) -> Vec<Arc<Filter>> {
        self.state.read().filters.values().cloned().collect()
    }

    pub fn feeds(&self) -> Vec<Arc<Feed>> {
        self.state.read().feeds.values().cloned().collect()
    }

    /// Whether every feed has been read up to now, once. It stays true through an outage, and when
    /// a new filter file brings another feed: streams wait, and the app is served all the while.
    pub fn is_ready(&self) -> bool {
        if self.was_ready.load(Ordering::Acquire) {
            return true;
        }
        let is_ready = self.state.read().feeds.values().all(|feed| feed.was_live());
        self.was_ready.fetch_or(is_ready, Ordering::AcqRel);
        is_ready
    }

    /// What keeps the feeds from being read, for people.
    pub fn troubles(&self) -> Vec<String> {
        let feeds = self.feeds();
        feeds
            .iter()
            .filter_map(|feed| match feed.status() {
                Status::Away(reason) => Some(format!("{}: {reason}", feed.key())),
                Status::Starting | Status::Live => None,
            })
            .collect()
    }
}
