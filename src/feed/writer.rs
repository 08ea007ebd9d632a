//! The feed as its upstream writes it: opened, appended to, restarted, relisted.
//!
//! One task writes. Nothing here awaits, and no lock is held while events are judged or encoded.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::watch;

use super::{Collections, Feed, Inner};
use crate::event::{ChangeEvent, OperationType, Position};
use crate::feed::journal::Journal;
use crate::feed::routes::Offer;
use crate::filter::Filter;

/// Events in the journal, and the routes that they may concern.
#[must_use]
pub(crate) struct Offered<'f> {
    feed: &'f Feed,
    offers: Vec<Offer>,
}

impl Offered<'_> {
    /// Evaluates the events for their routes, hands out deliveries, and wakes subscriptions.
    pub fn hand_out(mut self) {
        let made: Vec<_> = std::mem::take(&mut self.offers)
            .into_iter()
            .map(|offer| match offer.is_large() {
                true => apart(|| offer.make()),
                false => offer.make(),
            })
            .collect();
        {
            let mut inner = self.feed.inner.lock();
            for made in made {
                inner.routes.hand_out(made);
            }
            inner.handed_out = None;
        }
        std::mem::forget(self);
    }
}

impl Drop for Offered<'_> {
    /// In a panic: these events will not be delivered, so all subscriptions are reset.
    fn drop(&mut self) {
        let head = self.feed.inner.lock().journal.as_ref().map(|journal| journal.head().clone());
        if let Some(head) = head {
            self.feed.restart_at(&head);
        }
        self.feed.inner.lock().handed_out = None;
    }
}

/// What takes long, without keeping the tasks of this thread waiting.
fn apart<T>(work: impl FnOnce() -> T) -> T {
    let is_threaded = Handle::try_current()
        .is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
    if is_threaded { tokio::task::block_in_place(work) } else { work() }
}

impl Feed {
    /// What the cursor was opened on; said before its events come.
    pub fn set_sharded(&self, is_sharded: bool) {
        self.is_sharded.store(is_sharded, Ordering::Relaxed);
    }

    /// Whether events of one cluster time can come from several servers.
    pub fn is_sharded(&self) -> bool {
        self.is_sharded.load(Ordering::Relaxed)
    }

    /// The cursor is open and reads what comes after `start`: either for the first time or again
    /// without a break.
    pub fn opened_at(&self, start: &Position) {
        let mut inner = self.inner.lock();
        if inner.journal.is_none() {
            inner.journal = Some(Journal::starting_at(start.clone(), self.limits));
        }
    }

    /// What was between the last event and `start` can no longer be read.
    pub fn restart_at(&self, start: &Position) {
        let mut inner = self.inner.lock();
        let Inner { journal, routes, .. } = &mut *inner;
        match journal {
            Some(journal) => {
                journal.restart_at(start.clone());
                self.epoch.fetch_add(1, Ordering::AcqRel);
                routes.restart_at(journal.end());
            }
            None => *journal = Some(Journal::starting_at(start.clone(), self.limits)),
        }
    }

    /// Makes sure that the collections of these filters are read, from the newest position on.
    ///
    /// Takes effect at once: whatever a cursor with the old list reads from now on is not taken,
    /// so the new cursor misses nothing between.
    pub fn read_also(&self, filters: &[Arc<Filter>]) {
        let mut inner = self.inner.lock();
        let Inner { journal, routes, collections, generation, .. } = &mut *inner;
        let mut is_new = false;
        for filter in filters {
            is_new |= collections.add(filter.namespace.collection.as_deref());
        }
        if !is_new {
            return;
        }
        *generation += 1;
        if let Some(journal) = journal {
            let head = journal.head().clone();
            journal.restart_at(head);
            routes.trim(journal.first());
        }
        self.relisted.send_replace(*generation);
    }

    /// What the next cursor has to read, and the generation in whose name it speaks.
    pub fn collections(&self) -> (u64, Collections) {
        let inner = self.inner.lock();
        let alone = if inner.is_alone { inner.collections.alone() } else { None };
        (inner.generation, alone.unwrap_or_else(|| inner.collections.clone()))
    }

    /// Notes whether the rights allow a change stream of its one collection, and none of the
    /// database.
    pub fn set_alone(&self, is_alone: bool) {
        self.inner.lock().is_alone = is_alone;
    }

    /// Whether a collection can be added to what is read only at the cost of what is read.
    pub fn would_lose_by(&self, collection: Option<&str>) -> bool {
        let inner = self.inner.lock();
        inner.is_alone && inner.collections.clone().add(collection)
    }

    /// Whether more than one collection is read.
    pub fn reads_several(&self) -> bool {
        self.inner.lock().collections.alone().is_none()
    }

    /// Increases when a collection is added to the list.
    pub fn generation(&self) -> u64 {
        self.inner.lock().generation
    }

    /// Follows the generation of the list.
    pub fn watch_generation(&self) -> watch::Receiver<u64> {
        self.relisted.subscribe()
    }

    /// Appends the next event and wakes the clients that want it; see [`Feed::append_all`].
    #[must_use]
    pub fn append(&self, generation: u64, event: ChangeEvent) -> bool {
        self.append_all(generation, [event])
    }

    /// Appends the next events and wakes the clients that want them. Says whether they were taken:
    /// not before [`Feed::opened_at`], and not from a cursor with an old list. One that was read
    /// before is taken and changes nothing, whatever a cursor does: history never goes back.
    #[must_use]
    pub fn append_all(
        &self,
        generation: u64,
        events: impl IntoIterator<Item = ChangeEvent>,
    ) -> bool {
        let offered = self.take_in(generation, events);
        let was_taken = offered.is_some();
        if let Some(offered) = offered {
            offered.hand_out();
        }
        was_taken
    }

    /// The first half of [`Feed::append_all`]; the other is [`Offered::hand_out`], before anything
    /// else is appended.
    pub(crate) fn take_in(
        &self,
        generation: u64,
        events: impl IntoIterator<Item = ChangeEvent>,
    ) -> Option<Offered<'_>> {
        let is_sharded = self.is_sharded.load(Ordering::Relaxed);
        let mut inner = self.inner.lock();
        if inner.generation != generation {
            return None;
        }
        let Inner { journal, routes, handed_out, last_drop, .. } = &mut *inner;
        let journal = journal.as_mut()?;
        *handed_out = Some((journal.head().clone(), journal.end()));
        let mut offers = Vec::new();
        for mut event in events {
            if event.token() <= journal.head() {
                continue;
            }
            if is_sharded {
                event.note_shards();
            }
            if let (Some(uuid), Some(name)) = (event.token().collection_uuid(), event.collection())
            {
                self.known.note(uuid, name);
            }
            let event = Arc::new(event);
            let number = journal.push(event.clone());
            if matches!(event.operation(), OperationType::Drop | OperationType::Rename) {
                *last_drop = Some(number);
            }
            offers.push(routes.offer(number, event));
        }
        Some(Offered { feed: self, offers })
    }

    /// Everything up to `head` has been read. Says whether that was taken, as for
    /// [`Feed::append`].
    #[must_use]
    pub fn advance(&self, generation: u64, head: Position) -> bool {
        let mut inner = self.inner.lock();
        if inner.generation != generation {
            return false;
        }
        match &mut inner.journal {
            Some(journal) => {
                journal.advance(head);
                true
            }
            None => false,
        }
    }

    /// Drops events that are too old; called from time to time.
    pub fn expire(&self) {
        let mut inner = self.inner.lock();
        let Inner { journal, routes, .. } = &mut *inner;
        if let Some(journal) = journal {
            journal.expire(Instant::now());
            routes.trim(journal.first());
        }
    }

    /// Tells the subscriptions of a filter that it is no longer the one in force.
    pub fn retire(&self, filter: &Arc<Filter>) {
        self.inner.lock().routes.retire(filter);
    }

    /// Ends all subscriptions: no more events will follow.
    pub fn retire_all(&self) {
        self.inner.lock().routes.retire_all();
    }

    /// Drops the events before this number.
    pub fn evict_before(&self, number: u64) {
        let mut inner = self.inner.lock();
        let Inner { journal, routes, .. } = &mut *inner;
        if let Some(journal) = journal {
            journal.evict_before(number);
            routes.trim(journal.first());
        }
    }
}
