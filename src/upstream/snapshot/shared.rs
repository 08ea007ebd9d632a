//! One snapshot for all clients of a route who come about the same time: read once, encoded once.
//!
//! Law of this file:
//!
//! - One query at a time for a route, and so many for all of them; who comes meanwhile waits for the
//!   same one. Whoever takes it may leave: the next one takes it anew.
//! - What was taken is given to others as long as the feed's journal reaches back to its moment, so
//!   that what came since is in memory.
//! - What is kept for others stays within `snapshot.max_bytes`, the newest first. Who is being sent one
//!   holds it besides, together with all who are sent the same.
//! - That something is too large is not asked again for a minute.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;

use super::{Bounds, SnapshotError, read};
use crate::event::Position;
use crate::feed::Feed;
use crate::feed::journal::Located;
use crate::feed::routes::{Route, encode_document};
use crate::upstream::connect::Server;

/// How long it is not asked again whether something is too large.
const VERDICT: Duration = Duration::from_secs(60);
/// How many routes are remembered before those that are gone are looked for.
const SWEEP_AT: usize = 256;

/// The documents of one moment, encoded.
#[derive(Debug)]
pub struct Taken {
    /// Where the changes go on.
    pub position: Position,
    /// Each in relaxed Extended JSON, as the data of a `document` event.
    pub documents: Vec<Bytes>,
    bytes: usize,
}

/// Takes and shares snapshots.
#[derive(Debug)]
pub struct Snapshots {
    server: Server,
    bounds: Bounds,
    turns: Semaphore,
    slots: parking_lot::Mutex<HashMap<usize, Slot>>,
    kept: parking_lot::Mutex<Kept>,
}

/// By the route's address, which is its own as long as the route is there.
#[derive(Debug, Clone)]
struct Slot {
    route: Weak<Route>,
    latest: Arc<Mutex<Latest>>,
}

/// What came of the last query of a route. Locked while there is another.
#[derive(Debug, Default)]
struct Latest {
    taken: Weak<Taken>,
    too_large: Option<(Instant, &'static str)>,
}

#[derive(Debug, Default)]
struct Kept {
    newest_last: VecDeque<Arc<Taken>>,
    bytes: usize,
}

impl Snapshots {
    /// `max_concurrent`: queries at a time, for all routes.
    pub fn new(server: Server, bounds: Bounds, max_concurrent: usize) -> Snapshots {
        Snapshots {
            server,
            bounds,
            turns: Semaphore::new(max_concurrent),
            slots: parking_lot::Mutex::default(),
            kept: parking_lot::Mutex::default(),
        }
    }

    /// What a route's clients would see now, or saw a moment ago. May be dropped while it waits.
    ///
    /// # Errors
    /// [`SnapshotError`]
    pub async fn get(&self, feed: &Feed, route: &Arc<Route>) -> Result<Arc<Taken>, SnapshotError> {
        let slot = self.slot(route);
        let mut latest = slot.latest.lock().await;
        if let Some(taken) = latest.taken.upgrade().filter(|taken| is_joinable(feed, taken)) {
            return Ok(taken);
        }
        if let Some((at, what)) = latest.too_large
            && at.elapsed() < VERDICT
        {
            return Err(SnapshotError::TooLarge(what));
        }
        // The semaphore is never closed, so there is no error to hear of.
        let _turn = self.turns.acquire().await;
        match self.take(feed, route).await {
            Ok(taken) => {
                let taken = Arc::new(taken);
                *latest = Latest { taken: Arc::downgrade(&taken), too_large: None };
                self.kept.lock().keep(taken.clone(), self.bounds.bytes);
                Ok(taken)
            }
            Err(error) => {
                if let SnapshotError::TooLarge(what) = error {
                    latest.too_large = Some((Instant::now(), what));
                }
                Err(error)
            }
        }
    }

    async fn take(&self, feed: &Feed, route: &Route) -> Result<Taken, SnapshotError> {
        let filter = route.filter();
        let Some(collection) = filter.namespace.collection.as_deref() else {
            return Err(SnapshotError::Unsupported("it is of one collection".to_string()));
        };
        if feed.is_sharded() {
            return Err(SnapshotError::Sharded);
        }
        let client = self.server.client().await;
        let namespace = (filter.namespace.database.as_str(), collection);
        let found = read(&client, namespace, route.predicate(), self.bounds).await?;
        let encode = |document| encode_document(namespace, document, filter.projection.as_ref());
        let documents: Vec<Bytes> = found.documents.iter().map(|it| encode(it)).collect();
        let bytes = documents.iter().map(|document| document.len() + size_of::<Bytes>()).sum();
        Ok(Taken { position: found.position, documents, bytes })
    }

    fn slot(&self, route: &Arc<Route>) -> Slot {
        let mut slots = self.slots.lock();
        if slots.len() >= SWEEP_AT {
            slots.retain(|_, slot| slot.route.strong_count() > 0);
        }
        let new = || Slot { route: Arc::downgrade(route), latest: Arc::default() };
        let slot = slots.entry(Arc::as_ptr(route).addr()).or_insert_with(new);
        // Of a route that is gone, at the same address.
        if slot.route.strong_count() == 0 {
            *slot = new();
        }
        slot.clone()
    }
}

/// Whether what came after it is in memory.
fn is_joinable(feed: &Feed, taken: &Taken) -> bool {
    matches!(feed.locate(&taken.position), Some(Located::At(_)))
}

impl Kept {
    fn keep(&mut self, taken: Arc<Taken>, most: usize) {
        self.bytes += taken.bytes;
        self.newest_last.push_back(taken);
        while self.bytes > most
            && let Some(oldest) = self.newest_last.pop_front()
        {
            self.bytes -= oldest.bytes;
        }
    }
}
