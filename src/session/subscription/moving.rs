//! How a stream goes on in another feed: its client notices nothing of it.
//!
//! Where the rights are on collections and not on their database, streams that were read together are
//! read each by itself from then on. Both feeds read the same collection of the same deployment, and a
//! token is the same place in both of them. The old one may be closed meanwhile, or be read no more: it
//! is here as long as this subscription has it, and what it has not delivered comes from the new one.

use std::mem;
use std::sync::Arc;

use super::{Begin, Phase, Source, Subscription};
use crate::feed::Feed;
use crate::feed::routes::{ResetReason, Seat};

impl Subscription {
    /// Whether it reads this feed.
    pub fn reads(&self, feed: &Arc<Feed>) -> bool {
        Arc::ptr_eq(&self.source.feed, feed)
    }

    /// Goes on in the feed of `source`, which supplies the same stream: behind its position, where it has
    /// one; else with what it waited for. A snapshot that its client is being sent goes on, too.
    pub fn move_to(&mut self, source: Arc<Source>) {
        // Nobody has told the client yet, and the new feed knows nothing of it.
        let is_lost = self.is_broken() && self.has_missed();
        let feed = source.feed.clone();
        // First: a break that comes while it joins is one that it sees.
        self.epoch = feed.epoch();
        let route = feed.join_as(&self.route);
        self.listener.listen_on(route.clone(), self.listed);
        source.count_events_of(route.filter());
        let old = mem::replace(&mut self.source, source);
        let left = mem::replace(&mut self.route, route);
        left.wakers.leave(&mut self.seat);
        self.seat = Seat::default();
        old.feed.leave(&left);
        match mem::replace(&mut self.phase, Phase::wait_for(&feed, Begin::There)) {
            _ if is_lost => self.reset(ResetReason::HistoryLost),
            Phase::Waiting(waiting) => self.begin_once_live(waiting.begin),
            Phase::Beginning(mut beginning) => {
                beginning.leave_feed();
                self.phase = Phase::Beginning(beginning);
            }
            Phase::Following(_) | Phase::Replaying(_) => {
                self.vouch_from(&old.feed);
                self.begin_once_live(match self.position {
                    Some(_) => Begin::There,
                    None => Begin::Reset(ResetReason::HistoryLost),
                });
            }
        }
    }

    /// A feed that is new reads what was before its start first: there, a client would seem to have
    /// everything that it is still to be given.
    fn begin_once_live(&mut self, begin: Begin) {
        match self.source.feed.was_live() {
            true => self.begin_with(begin),
            false => self.wait_to(begin),
        }
    }

    /// What the old feed knew of the token's collection: the new one may not have read an event of it.
    fn vouch_from(&self, old: &Feed) {
        let filter = self.route.filter();
        if let Some(position) = &self.position
            && let Some(uuid) = position.collection_uuid()
            && let Some(name) = &filter.namespace.collection
            && old.knows(filter, position)
        {
            self.source.feed.note_collection(uuid, name);
        }
    }

    /// Whether its client misses something where the history of its feed has broken. One that waits to be
    /// reset for another reason, or for the documents of a snapshot, does not.
    pub(super) fn has_missed(&self) -> bool {
        match &self.phase {
            Phase::Waiting(waiting) => matches!(waiting.begin, Begin::There),
            Phase::Beginning(beginning) => beginning.has_begun(),
            Phase::Following(_) | Phase::Replaying(_) => true,
        }
    }
}
