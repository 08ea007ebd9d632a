//! Where a subscription reads: at which place it begins, where it goes on after a replay, and how it
//! begins again after a reset.

use bson::Timestamp;
use tokio::time::Instant;

use super::{Begin, Collected, Cursor, FrameKind, Phase, Source, Subscription};
use crate::event::Position;
use crate::feed::journal::Located;
use crate::feed::routes::ResetReason;
use crate::session::beginning::Beginning;
use crate::upstream::snapshot::{MAX_ROUND, Round};

/// A position without a document is taken on trust; further ahead than this it is of another
/// deployment. Replicas differ by what one of them has not read yet.
const MAX_AHEAD_OF_JOURNAL_SECONDS: u32 = 300;

/// How far a stream has begun: whether [`FrameKind::Ready`] is out, or in `ready`; until then, whether
/// its position is the token of an event that its client was not shown; and after which pause its
/// snapshot last began again. In one byte, since every stream has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun(u8);

const IS_READY: u8 = 0x80;
const IS_HIDDEN: u8 = 0x40;
const _: () = assert!(MAX_ROUND == !(IS_READY | IS_HIDDEN));

impl Begun {
    /// In no round yet.
    pub fn new(was_ready: bool) -> Begun {
        Begun(if was_ready { IS_READY } else { 0 })
    }

    /// Whether the client was told that its stream is ready, or will be next.
    pub fn was_ready(self) -> bool {
        self.0 & IS_READY != 0
    }

    /// Makes it ready; says whether it was.
    pub fn replace_ready(&mut self) -> bool {
        let was_ready = self.was_ready();
        self.0 |= IS_READY;
        was_ready
    }

    /// Whether the client must not be shown its position as it is.
    fn is_hidden(self) -> bool {
        self.0 & IS_HIDDEN != 0
    }

    /// Notes whether its position is the token of an event that its client was not shown.
    pub fn set_hidden(&mut self, is_hidden: bool) {
        self.0 = (self.0 & !IS_HIDDEN) | (if is_hidden { IS_HIDDEN } else { 0 });
    }

    fn round(self) -> Round {
        self.0 & MAX_ROUND
    }

    fn set_round(&mut self, round: Round) {
        self.0 = (self.0 & !MAX_ROUND) | (round & MAX_ROUND);
    }
}

impl Subscription {
    /// Goes on after a position: from the journal, or by a replay.
    pub(super) fn go_to(&mut self, position: Position) {
        self.position = Some(position.clone());
        match self.source.feed.locate_for(self.route.filter(), &position) {
            Some(Located::At(number)) if self.is_plausible(&position) => {
                self.source.shared.metrics.replays_total.with_label_values(&["memory"]).inc();
                self.phase = Phase::Following(Cursor::at(number));
            }
            // The journal still reads what was before the start, and may get there.
            _ if !self.source.feed.was_live() => {
                self.phase = Phase::wait_for(&self.source.feed, Begin::There);
            }
            Some(Located::At(_)) => self.reset(ResetReason::InvalidToken),
            _ => self.replay(position),
        }
    }

    /// The journal has caught up: to where the client wanted to go.
    pub(super) fn go_live(&mut self) {
        let begin = match &self.phase {
            Phase::Waiting(waiting) => waiting.begin,
            Phase::Following(_) | Phase::Replaying(_) | Phase::Beginning(_) => Begin::There,
        };
        self.begin_with(begin);
    }

    pub(super) fn begin_with(&mut self, begin: Begin) {
        match (begin, self.position.clone()) {
            (Begin::Reset(reason), _) => self.reset(reason),
            (Begin::Ago(seconds), _) => self.go_back(seconds),
            (Begin::There, Some(position)) => self.go_to(position),
            (Begin::There, None) => self.go_to_now(),
        }
    }

    /// Goes on from so many seconds before the newest cluster time that was read.
    pub(super) fn go_back(&mut self, seconds: u32) {
        match self.source.feed.now() {
            Some((head, _)) if self.source.feed.was_live() => {
                self.go_to(Position::of_an_age(head.time().time.saturating_sub(seconds)));
            }
            _ => self.wait_to(Begin::Ago(seconds)),
        }
    }

    fn is_plausible(&self, position: &Position) -> bool {
        let Timestamp { time: ahead, .. } = position.time();
        self.source.feed.now().is_none_or(|(head, _)| {
            ahead <= head.time().time.saturating_add(MAX_AHEAD_OF_JOURNAL_SECONDS)
        })
    }

    pub(super) fn replay(&mut self, position: Position) {
        let replay = self.source.shared.replayer.start(&self.source.feed, &self.route, position);
        self.phase = Phase::Replaying(Box::new(replay));
    }

    /// Goes on after the newest event.
    pub(super) fn go_to_now(&mut self) {
        match self.find_now() {
            Some(_) if self.has_snapshot() => self.begin_again(None, None, false),
            Some(first) => self.begin_at(first),
            None => self.wait_to(Begin::Reset(ResetReason::Started)),
        }
    }

    /// Tells the client what was lost, and goes on from now; a stream with a snapshot sends that
    /// instead.
    pub(super) fn reset(&mut self, reason: ResetReason) {
        self.reset_beyond(reason, None);
    }

    /// The same, where a snapshot has to be of a moment behind a place.
    pub(super) fn reset_beyond(&mut self, reason: ResetReason, beyond: Option<Position>) {
        let Some(first) = self.find_now() else { return self.wait_to(Begin::Reset(reason)) };
        if self.has_snapshot() {
            return self.begin_again(Some(reason), beyond, reason != ResetReason::Started);
        }
        self.source.shared.metrics.resets_total.with_label_values(&[reason.name()]).inc();
        self.ready.push_back(FrameKind::Reset(reason, Some(first.clone())));
        self.begin_at(first);
    }

    /// A reset before the feed was read would be answered with data that is older than "now".
    pub(super) fn wait_to(&mut self, begin: Begin) {
        self.phase = Phase::wait_for(&self.source.feed, begin);
    }

    /// After a replay that the journal goes on from. Its end may be an event of another collection,
    /// whose token is none of this filter's: it is located as the sidecar's own, and kept as a place
    /// that shows no collection.
    pub(super) fn meet(&mut self, position: Position) {
        let located = self.source.feed.locate(&position);
        self.reach(self.source.feed.without_collection(position));
        match located {
            Some(Located::At(number)) => self.phase = Phase::Following(Cursor::at(number)),
            _ => self.go_on(),
        }
    }

    /// After a replay, or a part of one: from where the client is now.
    pub(super) fn go_on(&mut self) {
        match self.position.clone() {
            Some(position) => match self.source.feed.locate_for(self.route.filter(), &position) {
                Some(Located::At(number)) => self.phase = Phase::Following(Cursor::at(number)),
                _ => self.replay(position),
            },
            None => self.reset(ResetReason::HistoryLost),
        }
    }

    /// From the documents that match now, those of a moment behind a place.
    pub(super) fn begin_again(
        &mut self,
        reason: Option<ResetReason>,
        beyond: Option<Position>,
        is_braked: bool,
    ) {
        let at = match is_braked {
            true => {
                let Source { shared, feed, .. } = &*self.source;
                let round = self.begun.round();
                let (at, round) = shared.snapshots.brake(feed, &self.route, round);
                self.begun.set_round(round);
                at
            }
            false => Instant::now(),
        };
        self.position = None;
        self.phase = Phase::Beginning(Box::new(Beginning::new(reason, beyond, at)));
    }

    /// Nothing has been missed at this place, since nothing was asked for before.
    fn begin_at(&mut self, first: Position) {
        if !self.begun.replace_ready() {
            self.ready.push_back(FrameKind::Ready(first, None));
        }
    }

    /// Up to date, perhaps for the first time.
    pub(super) fn say_ready(&mut self) -> Collected {
        let Phase::Following(cursor) = &self.phase else { return Collected::Nothing };
        if self.begun.was_ready() {
            return Collected::Nothing;
        }
        // None: something has come just now, and is sent first.
        let found = self.source.feed.position_without_document(&self.route, cursor.number);
        let Some((position, next)) = found.filter(|_| !self.is_broken()) else {
            return Collected::Nothing;
        };
        self.phase = Phase::Following(Cursor::at(next));
        let shown = match self.position.take() {
            // What the client has may be further: its own id, of a replica that had read more, or an
            // event of the time before which everything is certain.
            Some(had) if had > position => {
                let is_hidden = self.begun.is_hidden();
                let shown =
                    if is_hidden { self.source.feed.without_document(&had) } else { had.clone() };
                self.position = Some(had);
                shown
            }
            _ => {
                self.position = Some(position.clone());
                position
            }
        };
        self.begin_at(shown);
        Collected::Work
    }

    /// Moves to where nothing has been missed because nothing was asked for yet; `None` before the
    /// feed was read for the first time. Returns the position to give the client, so that being cut
    /// off before its first event costs nothing.
    ///
    /// Where the newest thing read is an event, the position lies before its time: a client that
    /// comes back with it may be given that event, which it never had.
    fn find_now(&mut self) -> Option<Position> {
        self.position = None;
        if !self.source.feed.was_live() {
            return None;
        }
        let (head, end) = self.source.feed.now()?;
        self.phase = Phase::Following(Cursor::at(end));
        // It may be newer than `head`: then what came in between is not for this route.
        let first = self.source.feed.position_without_document(&self.route, end);
        let first = first.map_or_else(|| Position::before(head.time()), |(first, _)| first);
        self.position = Some(first.clone().max(self.source.feed.without_collection(head)));
        Some(first)
    }
}
