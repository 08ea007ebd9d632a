//! What a subscription takes when it looks: deliveries of its route, of a replay, of a look back, and
//! the documents of a snapshot.

use std::sync::Arc;

use super::{Begin, Collected, Cursor, FrameKind, Phase, Subscription};
use crate::event::Position;
use crate::feed::Back;
use crate::feed::routes::{Delivery, DeliveryKind, Read, ResetReason};
use crate::session::beginning::SnapshotStep;
use crate::upstream::replay::ReplayStep;

/// How many deliveries one wake-up takes.
pub(super) const BATCH: usize = 64;

impl Subscription {
    /// Takes what is there without waiting, where `ready` is empty.
    pub(super) fn collect(&mut self) -> Collected {
        match &mut self.phase {
            Phase::Waiting(_) => Collected::Nothing,
            Phase::Following(cursor) if cursor.is_at_end => self.say_ready(),
            Phase::Following(cursor) => {
                let read = self.route.read(&mut cursor.number, BATCH);
                cursor.is_at_end =
                    matches!(read, Read::UpToDate | Read::Deliveries { are_all: true, .. });
                if self.is_broken() {
                    return Collected::Nothing;
                }
                match read {
                    Read::UpToDate => self.say_ready(),
                    Read::Deliveries { found, .. } => self.give(found),
                    Read::Behind => self.catch_up(),
                }
            }
            Phase::Replaying(replay) => {
                let look = replay.look();
                match self.is_broken() {
                    true => Collected::Nothing,
                    false => self.take(look),
                }
            }
            Phase::Beginning(beginning) => {
                let look = beginning.look(
                    &self.source.shared.snapshots,
                    &self.source.feed,
                    &self.route,
                    &self.listener,
                );
                match self.is_broken() {
                    true => Collected::Nothing,
                    false => self.begin(look),
                }
            }
        }
    }

    /// Does what a look at a replay calls for.
    fn take(&mut self, look: ReplayStep) -> Collected {
        match look {
            ReplayStep::Nothing => return Collected::Nothing,
            ReplayStep::Deliveries(found) => return self.give(found),
            ReplayStep::Met(position) => self.meet(position),
            ReplayStep::Again => self.go_on(),
            ReplayStep::Lost(reason) => self.reset(reason),
        }
        Collected::Work
    }

    /// Does what a look at a snapshot calls for.
    fn begin(&mut self, look: SnapshotStep) -> Collected {
        let Phase::Beginning(beginning) = &self.phase else { return Collected::Nothing };
        let reason = beginning.reason;
        match look {
            SnapshotStep::Nothing => return Collected::Nothing,
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
                    Some(number) => self.phase = Phase::Following(Cursor::at(number)),
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
        Collected::Work
    }

    /// The route no longer has what comes next: look in the journal, else in the oplog.
    fn catch_up(&mut self) -> Collected {
        let Phase::Following(cursor) = &mut self.phase else { return Collected::Nothing };
        let back = self.source.feed.look_back(&self.route, &mut cursor.number, BATCH);
        if self.is_broken() {
            return Collected::Nothing;
        }
        match back {
            Back::Deliveries(found) => return self.give(found),
            Back::Asked => return Collected::Nothing,
            Back::Gone => {
                self.source.shared.metrics.slow_clients_total.inc();
                match self.position.clone() {
                    Some(position) => self.replay(position),
                    None => self.reset(ResetReason::HistoryLost),
                }
            }
        }
        Collected::Work
    }

    /// Whether the history broke since the last look: the reset has to come next. Asked after every
    /// look at the feed or the route, since what lies behind the break shows there at once; a client
    /// that were given its id and then cut off would come back behind the break, and never know.
    pub(super) fn is_broken(&self) -> bool {
        self.source.feed.epoch() != self.epoch
    }

    /// Has those that its client has not. Most often there is one, and it does not go by way of `ready`.
    fn give(&mut self, found: Vec<Arc<Delivery>>) -> Collected {
        let mut first = None;
        for delivery in found {
            if self.position.as_ref().is_some_and(|had| delivery.token <= *had) {
                continue;
            }
            if let DeliveryKind::Reset(reason) = delivery.kind
                && self.has_snapshot()
            {
                self.begin_again(Some(reason), Some(delivery.token.clone()), true);
                break;
            }
            self.position = Some(delivery.token.clone());
            if !self.begun.was_ready() {
                self.begun.set_hidden(!delivery.shows_token());
            }
            match first {
                None => first = Some(FrameKind::Delivery(delivery)),
                Some(_) => self.ready.push_back(FrameKind::Delivery(delivery)),
            }
        }
        first.map_or(Collected::Work, Collected::Frame)
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
