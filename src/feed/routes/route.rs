//! One filter with one set of bound values, and its latest deliveries.
//!
//! Invariants:
//!
//! - `recent` has every delivery of this route with a number from `complete_from` on. For earlier
//!   ones there is [`crate::feed::lookback`].
//! - It is appended to only under the feed's lock, so numbers rise.
//! - Lock order: the feed, then the route. Never the other way.
//! - A reader notes the round of [`Wakers`] before it reads, so that it misses no wake-up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use parking_lot::Mutex;

use super::delivery::{Delivery, ResetReason, View, images};
use super::table::{Key, RouteId};
use super::wakers::Wakers;
use crate::event::{ChangeEvent, OperationType};
use crate::filter::{BoundValues, Filter, FullDocument, FullDocumentBeforeChange};
use crate::matcher::Predicate;

/// What a client takes at once, to send it: it holds no more than this, and the last delivery.
pub(crate) const READ_BYTES: usize = 64 * 1024;

/// The result of looking for deliveries.
#[derive(Debug)]
pub enum Read {
    /// In order; the cursor has been moved behind them. `are_all`: there were no more of them.
    Deliveries {
        found: Vec<Arc<Delivery>>,
        are_all: bool,
    },
    UpToDate,
    /// The deliveries from the cursor on are no longer all here; it has been moved to the first
    /// that is not, as far as that is known.
    Behind,
}

/// How many numbers of deliveries are kept that are not here any more.
const DROPPED: usize = 32;

#[derive(Debug)]
struct Recent {
    complete_from: u64,
    /// Boxed, since most of perhaps a million routes hold nothing.
    held: Option<Box<Held>>,
}

#[derive(Debug)]
struct Held {
    /// From here on all deliveries are here, or their numbers are in `dropped`.
    known_from: u64,
    /// So that a cursor that was up to date long ago is known to be behind by these alone.
    dropped: VecDeque<u64>,
    deliveries: VecDeque<Arc<Delivery>>,
}

impl Held {
    /// Before the first delivery from this number on.
    fn empty(known_from: u64) -> Held {
        Held { known_from, dropped: VecDeque::new(), deliveries: VecDeque::new() }
    }
}

impl Recent {
    fn starting_at(number: u64) -> Recent {
        Recent { complete_from: number, held: None }
    }

    fn deliveries(&self) -> impl DoubleEndedIterator<Item = &Arc<Delivery>> {
        self.held.iter().flat_map(|held| &held.deliveries)
    }

    /// How many deliveries are before this number.
    fn count_before(&self, number: u64) -> usize {
        let before = |held: &Held| held.deliveries.partition_point(|it| it.number < number);
        self.held.as_deref().map_or(0, before)
    }

    fn push(&mut self, delivery: Arc<Delivery>, keep: usize) {
        // First, so that the room for them need not grow.
        while self.held.as_ref().is_some_and(|held| held.deliveries.len() >= keep) {
            self.drop_first();
        }
        let held = self.held.get_or_insert_with(|| Box::new(Held::empty(self.complete_from)));
        held.deliveries.push_back(delivery);
    }

    /// Lets go of deliveries before `first`, and of their numbers before `oldest`; says whether any
    /// are left.
    fn trim(&mut self, first: u64, oldest: u64) -> bool {
        let front =
            |held: &Option<Box<Held>>| held.as_ref()?.deliveries.front().map(|it| it.number);
        while front(&self.held).is_some_and(|number| number < first) {
            self.drop_first();
        }
        let dropped = |held: &Option<Box<Held>>| held.as_ref()?.dropped.front().copied();
        while dropped(&self.held).is_some_and(|number| number < oldest) {
            self.forget_first();
        }
        let Some(held) = &mut self.held else { return false };
        if held.deliveries.is_empty() {
            held.deliveries.shrink_to_fit();
        }
        if held.dropped.is_empty() {
            held.dropped.shrink_to_fit();
        }
        if held.deliveries.is_empty() && held.dropped.is_empty() {
            self.held = None;
        }
        self.held.is_some()
    }

    /// Drops the oldest delivery.
    fn drop_first(&mut self) {
        let Some(held) = &mut self.held else { return };
        let Some(gone) = held.deliveries.pop_front() else { return };
        self.complete_from = gone.number + 1;
        // First, so that the room for them need not grow.
        if held.dropped.len() >= DROPPED
            && let Some(number) = held.dropped.pop_front()
        {
            held.known_from = number + 1;
        }
        held.dropped.push_back(gone.number);
    }

    fn forget_first(&mut self) {
        let Some(held) = &mut self.held else { return };
        if let Some(number) = held.dropped.pop_front() {
            held.known_from = number + 1;
        }
    }

    /// The first delivery from a cursor on, if it is not here any more; where that is not known, it
    /// may be the cursor's own.
    fn first_dropped(&self, cursor: u64) -> Option<u64> {
        if cursor >= self.complete_from {
            return None;
        }
        let known = self.held.as_ref().filter(|held| cursor >= held.known_from).and_then(|held| {
            let at = held.dropped.partition_point(|number| *number < cursor);
            held.dropped.get(at).copied()
        });
        Some(known.unwrap_or(cursor))
    }
}

/// Shared by all subscriptions with the same filter and values.
#[derive(Debug)]
pub struct Route {
    id: RouteId,
    key: Key,
    recent: Mutex<Recent>,
    pub(super) subscribers: AtomicU32,
    is_retired: AtomicBool,
    /// Whether it is among those that trimming looks at; under the feed's lock.
    is_holding: AtomicBool,
    pub wakers: Wakers,
}

impl Route {
    /// A route that is complete from the journal's number `complete_from` on.
    pub(super) fn new(id: RouteId, key: Key, complete_from: u64) -> Route {
        Route {
            id,
            key,
            recent: Mutex::new(Recent::starting_at(complete_from)),
            subscribers: AtomicU32::new(0),
            is_retired: AtomicBool::new(false),
            is_holding: AtomicBool::new(false),
            wakers: Wakers::default(),
        }
    }

    /// What routes have in common that show the same, whichever comes after the other.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Its number in its table.
    pub fn id(&self) -> RouteId {
        self.id
    }

    /// The filter that the route was bound from, as its file was read then.
    pub fn filter(&self) -> &Arc<Filter> {
        self.key.filter()
    }

    /// What the filter's placeholders stand for; the same for all subscriptions of the route.
    pub fn values(&self) -> &BoundValues {
        self.key.values()
    }

    /// The filter's `match` with those values, as events are tested by it.
    pub fn predicate(&self) -> &Predicate {
        self.key.predicate()
    }

    /// How many subscriptions share it now.
    pub fn subscriber_count(&self) -> u32 {
        self.subscribers.load(Ordering::Relaxed)
    }

    /// Whether the filter has been changed or removed since: its subscriptions have to move.
    pub fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Acquire)
    }

    /// Tells its subscriptions that the filter is no longer the one in force.
    pub fn retire(&self) {
        self.is_retired.store(true, Ordering::Release);
        self.wakers.wake_all();
    }

    /// What the event is for this route's clients, encoded; `None` when they do not see it.
    pub fn deliver(&self, number: u64, event: &ChangeEvent) -> Option<Delivery> {
        Some(self.encode(number, event, self.judge(event)?))
    }

    /// The same for all routes of a filter that come to the same effect.
    pub(super) fn encode(&self, number: u64, event: &ChangeEvent, effect: Effect) -> Delivery {
        match effect {
            Effect::Reset(reason) => Delivery::reset(number, event, reason),
            Effect::Event(view) => Delivery::event(number, event, self.filter(), view),
        }
    }

    /// Whether there is a delivery of the event for this route's clients.
    pub fn wants(&self, event: &ChangeEvent) -> bool {
        self.judge(event).is_some()
    }

    /// What the event is for this route's clients; `None` when they do not see it.
    pub(super) fn judge(&self, event: &ChangeEvent) -> Option<Effect> {
        let operation = event.operation();
        if self.is_invalidated_by(event) {
            return Some(Effect::Reset(ResetReason::Invalidated));
        }
        let is_of_collection = match &self.filter().namespace.collection {
            Some(collection) => event.collection() == Some(collection),
            None => true,
        };
        if !is_of_collection || !self.filter().operations.contains(operation) {
            return None;
        }
        if event.is_cut() || self.misses_image(event) {
            return Some(Effect::Reset(ResetReason::HistoryLost));
        }
        match operation {
            OperationType::Delete => self.matches_delete(event).map(Effect::Event),
            OperationType::Insert | OperationType::Replace | OperationType::Update => {
                self.matches_change(event)
            }
            // Of the whole database, or of collections: their streams are reset by what is above.
            OperationType::Drop
            | OperationType::Rename
            | OperationType::DropDatabase
            | OperationType::Invalidate
            | OperationType::Other => None,
        }
    }

    fn is_invalidated_by(&self, event: &ChangeEvent) -> bool {
        // dropDatabase needs no case of its own: a drop of each collection comes before it.
        if !matches!(event.operation(), OperationType::Drop | OperationType::Rename) {
            return false;
        }
        match self.filter().namespace.collection.as_deref() {
            None => true,
            Some(collection) => {
                event.collection() == Some(collection) || event.rename_target() == Some(collection)
            }
        }
    }

    /// Whether the filter requires an image of this event that the server did not keep.
    fn misses_image(&self, event: &ChangeEvent) -> bool {
        let wants_before =
            event.operation() != OperationType::Insert && self.filter().requires_before_image();
        let wants_after = event.operation() == OperationType::Update
            && self.filter().full_document == FullDocument::Required;
        wants_before && event.full_document_before_change().is_none()
            || wants_after && event.full_document().is_none()
    }

    fn wants_view(&self) -> bool {
        self.filter().before_image != FullDocumentBeforeChange::Off
    }

    /// A delete carries only its key: without a before-image it is matched on what that tells, and
    /// not sent when that does not decide, so that no one learns of a document never theirs.
    fn matches_delete(&self, event: &ChangeEvent) -> Option<Option<View>> {
        if let Some(before) = event.full_document_before_change() {
            let is_leave = self.predicate().matches(before);
            return is_leave.then_some(Some(View::Leave));
        }
        let view = self.wants_view().then_some(View::Leave);
        let is_decided = self.predicate().matches_key(event.document_key()?) == Some(true);
        is_decided.then_some(view)
    }

    fn matches_change(&self, event: &ChangeEvent) -> Option<Effect> {
        let before = match (event.operation(), event.full_document_before_change()) {
            _ if !self.wants_view() => None,
            (OperationType::Insert, _) => Some(false),
            (_, Some(document)) => Some(self.predicate().matches(document)),
            // The server did not keep it: the view cannot be told, the match still can.
            (_, None) => None,
        };
        let after = match event.full_document() {
            Some(document) => self.predicate().matches(document),
            None => return self.judge_without_document(event, before),
        };
        let view = match (before, after) {
            (Some(false), true) => Some(View::Enter),
            (Some(true), true) => Some(View::Stay),
            (Some(true), false) => Some(View::Leave),
            (None, true) => None,
            (Some(false) | None, false) => return None,
        };
        (!self.hides(event, view)).then_some(Effect::Event(view))
    }

    /// An update that came without its document; `before`: whether it was in view, where that is
    /// known.
    fn judge_without_document(&self, event: &ChangeEvent, before: Option<bool>) -> Option<Effect> {
        // It was gone when it was looked up. What follows is a delete, whose image is that after this
        // update: where that has left the filter, nobody would hear of it there.
        if before == Some(true) && self.filter().full_document == FullDocument::UpdateLookup {
            return Some(Effect::Event(Some(View::Leave)));
        }
        let by_key = event.document_key().and_then(|key| self.predicate().matches_key(key));
        match by_key {
            Some(true) => {
                let view = before.map(|was_in| if was_in { View::Stay } else { View::Enter });
                (!self.hides(event, view)).then_some(Effect::Event(view))
            }
            Some(false) => None,
            None => self.misses_undecided().then_some(Effect::Reset(ResetReason::HistoryLost)),
        }
    }

    /// Whether clients miss something where an update without its document cannot be judged by its
    /// key.
    fn misses_undecided(&self) -> bool {
        match self.filter().full_document {
            // Updates come without documents: a filter with conditions on them sends none.
            FullDocument::Default => false,
            // It is gone: a delete follows, and it was not in view before, or that is not known and
            // the delete is not told either.
            FullDocument::UpdateLookup => false,
            // The server has no image: it may have come, stayed or gone.
            FullDocument::WhenAvailable | FullDocument::Required => true,
        }
    }

    /// Whether an update changed nothing that these clients see, and moved the document neither into
    /// their view nor out of it: that something changed is hidden, too.
    fn hides(&self, event: &ChangeEvent, view: Option<View>) -> bool {
        let (Some(projection), Some(update)) =
            (&self.filter().projection, event.update_description())
        else {
            return false;
        };
        let may_have_moved = match view {
            Some(View::Stay) => false,
            Some(View::Enter | View::Leave) => true,
            None => self.predicate().may_depend_on(update),
        };
        !may_have_moved && projection.hides_update(update, images(event))
    }

    /// Says whether it held nothing before that trimming has to look at. Only under the feed's lock.
    pub(super) fn begin_holding(&self) -> bool {
        !self.is_holding.swap(true, Ordering::Relaxed)
    }

    /// Adds a delivery, as one of at most `keep`, and wakes waiting subscriptions. Only under the feed's
    /// lock.
    pub(super) fn push(&self, delivery: Arc<Delivery>, keep: usize) {
        {
            self.recent.lock().push(delivery, keep);
        }
        self.wakers.wake_all();
    }

    /// Lets go of deliveries of events before `first`, and of their numbers before `oldest`, the
    /// journal's first; says whether any are left. Only under the feed's lock.
    pub(super) fn trim(&self, first: u64, oldest: u64) -> bool {
        let is_holding = self.recent.lock().trim(first, oldest);
        self.is_holding.store(is_holding, Ordering::Relaxed);
        is_holding
    }

    /// Forgets everything after a break in the history.
    pub(super) fn restart_at(&self, number: u64) {
        {
            *self.recent.lock() = Recent::starting_at(number);
        }
        self.wakers.wake_all();
    }

    /// The next deliveries from the cursor on, at most `max`, and [`READ_BYTES`] or a single one.
    pub fn read(&self, cursor: &mut u64, max: usize) -> Read {
        let recent = self.recent.lock();
        if let Some(dropped) = recent.first_dropped(*cursor) {
            *cursor = dropped;
            return Read::Behind;
        }
        let Some(held) = &recent.held else { return Read::UpToDate };
        let from = held.deliveries.partition_point(|delivery| delivery.number < *cursor);
        let mut bytes = 0;
        let has_room = |delivery: &&Arc<Delivery>| {
            let is_room = bytes < READ_BYTES;
            bytes += delivery.json.len();
            is_room
        };
        let unread = held.deliveries.range(from..).take(max);
        let found: Vec<_> = unread.take_while(has_room).cloned().collect();
        match found.last() {
            None => Read::UpToDate,
            Some(last) => {
                *cursor = last.number + 1;
                let are_all = from + found.len() == held.deliveries.len();
                Read::Deliveries { found, are_all }
            }
        }
    }

    /// The newest deliveries from a number on, the newest first: at most so many.
    pub(crate) fn latest(&self, from: u64, most: usize) -> Vec<Arc<Delivery>> {
        let recent = self.recent.lock();
        let newest = recent.deliveries().rev().take_while(|delivery| delivery.number >= from);
        newest.take(most).cloned().collect()
    }

    /// The number from which a cursor has something to read; `None` when it has everything.
    pub(crate) fn unread_from(&self, cursor: u64) -> Option<u64> {
        let recent = self.recent.lock();
        if let Some(dropped) = recent.first_dropped(cursor) {
            return Some(dropped);
        }
        let held = recent.held.as_ref()?;
        held.deliveries.get(recent.count_before(cursor)).map(|delivery| delivery.number)
    }

    /// Whether the deliveries from a cursor on are no longer all here.
    pub(crate) fn is_behind(&self, cursor: u64) -> bool {
        cursor < self.recent.lock().complete_from
    }

    /// Whether a cursor has everything that this route made.
    pub(crate) fn is_up_to_date(&self, cursor: u64) -> bool {
        let recent = self.recent.lock();
        cursor >= recent.complete_from
            && recent.deliveries().next_back().is_none_or(|delivery| delivery.number < cursor)
    }
}

/// What an event is for a route's clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Effect {
    /// How it moves their view, where that is known.
    Event(Option<View>),
    Reset(ResetReason),
}

#[cfg(test)]
mod tests {
    use super::*;

    // There may be one for each client. With its values, but for long ones.
    #[test]
    fn a_route_is_small() {
        let counts = 2 * size_of::<usize>();
        assert!(size_of::<Route>() + counts <= 128, "{}", size_of::<Route>());
    }
}
