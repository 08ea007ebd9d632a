//! What a subscription takes when it looks: deliveries of its route, of a replay, of a look back, and
//! the documents of a snapshot.

use std::sync::Arc;

use super::{Begin, FrameKind, Phase, Subscription};
use crate::event::Position;
use crate::feed::Back;
use crate::feed::routes::{Delivery, DeliveryKind, Read, ResetReason};
use crate::session::beginning::SnapshotStep;
use crate::upstream::replay::ReplayStep;

/// How many deliveries one wake-up takes.
const BATCH: usize = 64;

impl Subscription {
    /// Takes what is there without waiting; says whether there was anything to do.
    pub(super) fn collect(&mut self) -> bool {
        match &mut self.phase {
            Phase::Waiting(_) => false,
            Phase::Following(cursor) => {
                let read = self.route.read(cursor, BATCH);
                if self.is_broken() {
                    return false;
                }
                match read {
                    Read::UpToDate => return self.say_ready(),
                    Read::Deliveries(found) => self.queue(found),
                    Read::Behind => return self.catch_up(),
                }
                true
            }
            Phase::Replaying(replay) => {
                let look = replay.look();
                !self.is_broken() && self.take(look)
            }
            Phase::Beginning(beginning) => {
                let look = beginning.look(
                    &self.source.shared.snapshots,
                    &self.source.feed,
                    &self.route,
                    &self.listener,
                );
                !self.is_broken() && self.begin(look)
            }
        }
    }

    /// Does what a look at a replay calls for; says whether there was anything to do.
    pub(super) fn take(&mut self, look: ReplayStep) -> bool {
        match look {
            ReplayStep::Nothing => return false,
            ReplayStep::Deliveries(found) => self.queue(found),
            ReplayStep::Met(position) => self.meet(position),
            ReplayStep::Again => self.go_on(),
            ReplayStep::Lost(reason) => self.reset(reason),
        }
        true
    }

    /// Does what a look at a snapshot calls for; says whether there was anything to do.
    pub(super) fn begin(&mut self, look: SnapshotStep) -> bool {
        let Phase::Beginning(beginning) = &self.phase else { return false };
        let reason = beginning.reason;
        match look {
            SnapshotStep::Nothing => return false,
            SnapshotStep::Begins => self.ready.push_back(FrameKind::Snapshot(reason)),
            SnapshotStep::Documents(found) => {
                self.ready.extend(found.into_iter().map(FrameKind::Document));
            }
            SnapshotStep::Done { position, cursor, documents } => {
                self.begun.replace_ready();
                self.position = Some(position.clone());
                let documents = Some(u32::try_from(documents).unwrap_or(u32::MAX));
                self.ready.push_back(FrameKind::Ready(position.clone(), documents));
                match cursor {
                    Some(cursor) => self.phase = Phase::Following(cursor),
                    // It has moved to this feed since it began.
                    None if !self.source.feed.was_live() => {
                        self.phase = Phase::wait_for(&self.source.feed, Begin::There);
                    }
                    None => self.replay(position),
                }
            }
            SnapshotStep::Gone => {
                let beyond = beginning.beyond.clone();
                self.begin_again(reason, beyond, true);
            }
            SnapshotStep::Refused(refused) => self.ready.push_back(FrameKind::End(refused.into())),
        }
        true
    }

    /// The route no longer has what comes next: look in the journal, else in the oplog. Says whether
    /// there was anything to do.
    pub(super) fn catch_up(&mut self) -> bool {
        let Phase::Following(cursor) = &mut self.phase else {
            return false;
        };
        let back = self.source.feed.look_back(&self.route, cursor, BATCH);
        if self.is_broken() {
            return false;
        }
        match back {
            Back::Deliveries(found) => self.queue(found),
            Back::Asked => return false,
            Back::Gone => {
                self.source.shared.metrics.slow_clients_total.inc();
                match self.position.clone() {
                    Some(position) => self.replay(position),
                    None => self.reset(ResetReason::HistoryLost),
                }
            }
        }
        true
    }

    /// Whether the history broke since the last look: the reset has to come next. Asked after every
    /// look at the feed or the route, since what lies behind the break shows there at once; a client
    /// that were given its id and then cut off would come back behind the break, and never know.
    pub(super) fn is_broken(&self) -> bool {
        self.source.feed.epoch() != self.epoch
    }

    pub(super) fn queue(&mut self, found: Vec<Arc<Delivery>>) {
        for delivery in found {
            let is_new = self.position.as_ref().is_none_or(|had| delivery.token > *had);
            if is_new {
                if let DeliveryKind::Reset(reason) = delivery.kind
                    && self.has_snapshot()
                {
                    return self.begin_again(Some(reason), Some(delivery.token.clone()), true);
                }
                self.position = Some(delivery.token.clone());
                if !self.begun.was_ready() {
                    self.begun.set_hidden(!delivery.shows_token());
                }
                self.ready.push_back(FrameKind::Delivery(delivery));
            }
        }
    }

    pub(super) fn has_snapshot(&self) -> bool {
        self.filter().snapshot().is_some()
    }

    pub(super) fn reach(&mut self, position: Position) {
        if self.position.as_ref().is_none_or(|had| position > *had) {
            // It may be an event of another collection.
            self.begun.set_hidden(true);
            self.position = Some(position);
        }
    }
}
