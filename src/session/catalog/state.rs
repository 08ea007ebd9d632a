//! What the catalog keeps: the filters, which feed each of them is to have, and how each stream does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::event::Position;
use crate::feed::{Feed, FeedKey, Status};
use crate::filter::{Filter, Namespace, Unlisted};
use crate::session::subscription::{Shared, Source};
use crate::upstream::inspection::{Finding, Weight};

/// The streams, under the catalog's lock.
#[derive(Debug, Default)]
pub(super) struct State {
    /// What the files say, as far as they can be read.
    pub declared: BTreeMap<String, Arc<Filter>>,
    /// Of these, in force.
    pub filters: BTreeMap<String, Arc<Filter>>,
    /// Of these, can never send anything, and why.
    pub refused: BTreeMap<String, (Arc<Filter>, String)>,
    /// The files that are not in force as they are, and why.
    pub troubles: BTreeMap<String, String>,
    pub unread: Unread,
    /// What the last look at the deployment found.
    pub findings: Vec<Finding>,
    pub oplog: Option<Duration>,
    pub feeds: BTreeMap<FeedKey, Supplied>,
    /// By stream: the feed of each filter in force.
    pub keys: BTreeMap<String, FeedKey>,
    /// By stream: what the subscriptions to each filter in force share.
    pub sources: BTreeMap<String, Arc<Source>>,
    /// How far the clients of each stream may have been when its file was last edited.
    pub edited: BTreeMap<String, Position>,
    /// Streams that are no longer in force, and of which metrics still tell.
    pub gone: BTreeSet<String>,
    /// Collections that are read by themselves, since the rights are not on their database. Stays
    /// so while the process runs: a stream that moves is read anew, for as far as `replay.window`.
    pub alone: BTreeSet<Namespace>,
}

/// What of the files could not be read the last time.
#[derive(Debug, Default)]
pub struct Unread {
    /// The streams whose files have mistakes.
    pub names: BTreeSet<String>,
    /// Of these directories nothing is known.
    pub unlisted: Unlisted,
}

impl Unread {
    /// Whether a stream of this name may be there once its file can be read.
    pub fn may_hold(&self, name: &str) -> bool {
        self.names.contains(name) || self.unlisted.may_hold(name)
    }
}

/// A feed, and its upstream's task.
#[derive(Debug)]
pub(super) struct Supplied {
    pub feed: Arc<Feed>,
    /// Said when the task has to end; closed when it has.
    pub stop: watch::Sender<bool>,
    pub unused_since: Option<Instant>,
}

/// How a stream is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamState {
    /// Its feed is read.
    Ready,
    /// Its feed is not read at present.
    Waiting,
    /// Its file is not in force as it is.
    Broken,
}

impl StreamState {
    /// So that metrics have a value for each state, also for those that no stream is in.
    pub const ALL: [StreamState; 3] =
        [StreamState::Ready, StreamState::Waiting, StreamState::Broken];

    /// For `/streams` and metrics.
    pub fn name(self) -> &'static str {
        match self {
            StreamState::Ready => "ready",
            StreamState::Waiting => "waiting",
            StreamState::Broken => "broken",
        }
    }
}

/// A stream as platform teams see it.
#[derive(Debug)]
pub struct StreamReport {
    pub name: String,
    pub state: StreamState,
    pub is_in_force: bool,
    /// Why it is not ready, or what else there is to know.
    pub reason: Option<String>,
}

impl State {
    /// Which feed a filter is to have.
    pub fn key_of(&self, filter: &Filter) -> FeedKey {
        match self.alone.contains(&filter.namespace) {
            true => FeedKey::alone(filter),
            false => FeedKey::of(filter),
        }
    }

    /// Keeps new filters from a feed that could no longer be read with them, for want of rights.
    pub fn keep_apart(&mut self, filters: &[Arc<Filter>]) {
        for filter in filters {
            let key = FeedKey::of(filter);
            let collection = filter.namespace.collection.as_deref();
            let would_lose =
                self.feeds.get(&key).is_some_and(|it| it.feed.would_lose_by(collection));
            if !would_lose {
                continue;
            }
            // Who wants the whole database has to wait, and whoever was there is moved.
            let apart = filters.iter().filter(|other| match collection {
                Some(_) => other.namespace == filter.namespace,
                None => FeedKey::of(other) == key && other.namespace.collection.is_some(),
            });
            self.alone.extend(apart.map(|filter| filter.namespace.clone()));
        }
    }

    /// Makes sure that every filter in force has a source that is read from its feed.
    pub fn find_sources(&mut self, shared: &Arc<Shared>) {
        let mut before = std::mem::take(&mut self.sources);
        for name in self.filters.keys() {
            let supplied = self.keys.get(name).and_then(|key| self.feeds.get(key));
            let Some(Supplied { feed, .. }) = supplied else { continue };
            let known = before.remove(name).filter(|known| Arc::ptr_eq(&known.feed, feed));
            let source =
                known.unwrap_or_else(|| Arc::new(Source::new(shared.clone(), feed.clone())));
            self.sources.insert(name.clone(), source);
        }
    }

    /// Takes apart what cannot be read together for want of rights.
    pub fn split(&mut self, without_rights: &BTreeSet<String>) {
        for (name, key) in &self.keys {
            let is_refused = key.collection.is_none()
                && without_rights.contains(&key.database)
                && self.feeds.get(key).is_some_and(|supplied| {
                    supplied.feed.reads_several() && supplied.feed.status() != Status::Live
                });
            let namespace = self.filters.get(name).map(|filter| &filter.namespace);
            if let Some(namespace) = namespace.filter(|it| it.collection.is_some() && is_refused) {
                self.alone.insert(namespace.clone());
            }
        }
    }

    /// How the stream is doing; if not well, why.
    pub fn report(&self, name: &str) -> (StreamState, Option<String>) {
        let filter = self.filters.get(name);
        if let Some(trouble) = self.troubles.get(name) {
            let reason = match filter {
                Some(_) => format!("{trouble}; the last valid version of the file stays in force"),
                None => trouble.clone(),
            };
            return (StreamState::Broken, Some(reason));
        }
        if let Some((_, reason)) = self.refused.get(name) {
            return (StreamState::Broken, Some(reason.clone()));
        }
        let feed = self.keys.get(name).and_then(|key| self.feeds.get(key));
        match feed.map(|supplied| supplied.feed.status()) {
            Some(Status::Live) => (StreamState::Ready, self.remarks(name)),
            Some(Status::Away(absence)) => (StreamState::Waiting, Some(absence.reason)),
            Some(Status::Starting) | None => {
                let reason = "MongoDB has not been read up to the present yet";
                (StreamState::Waiting, Some(reason.to_owned()))
            }
        }
    }

    /// What there is to know about a stream that works.
    fn remarks(&self, name: &str) -> Option<String> {
        let is_told = |finding: &&Finding| {
            finding.stream.as_deref() == Some(name) && finding.kind.weight() != Weight::Unknown
        };
        let remarks: Vec<String> =
            self.findings.iter().filter(is_told).map(Finding::text).collect();
        (!remarks.is_empty()).then(|| remarks.join("; "))
    }
}
