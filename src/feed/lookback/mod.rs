//! Events that a route no longer keeps as deliveries: found in the journal, in one scan for all
//! subscriptions that need them.
//!
//! Clients that reconnect after an outage are at many different positions in the journal. If each
//! of them scanned it, a storm would cost the number of clients times the number of events. Instead
//! they ask here, and one task scans the journal for all of them: an index of their routes names
//! the routes that an event concerns, and the task records its number. The clients make deliveries
//! from the numbers, and share them.
//!
//! Invariants:
//!
//! - A [`Past`] has the number of every event from `from` up to `to` that its route wants.
//! - Only the task creates and changes pasts, and it wakes every subscription that waits for it.
//! - Pasts and the deliveries that they keep stay within `budget` bytes. A pass that has used its
//!   share ends there; a subscription that needs more asks again from its new position.
//! - A subscription enables a `Notified` of the route before it asks; see
//!   [`Feed::is_looking_back`].
//! - The lock of this state and the feed's lock are never held together, nor while predicates are
//!   evaluated.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Feed;
use crate::event::ChangeEvent;
use crate::feed::routes::{Delivery, Finder, READ_BYTES, Route, RouteId, Slot};

/// Of what the journal may hold, this may hold so much, and always
const SHARE: usize = 8;
/// so much: a pass has to get somewhere.
const LEAST_BUDGET: usize = 1 << 20;
/// How many events are taken out from under the feed's lock at once.
const SLICE: usize = 256;
/// How many predicates are evaluated, or routes taken in, before others get a chance to run.
const BURST: usize = 1024;
/// How long a pass waits for others who want it too,
const GATHER: Duration = Duration::from_millis(5);
/// and how long after another pass at most: twice as long as that one took, so that a steady
/// coming and going leaves most of the processor to others.
const MOST_GATHER: Duration = Duration::from_millis(100);
/// How long pasts stay for those who have not read them, when room is needed for others,
const LAG: Duration = Duration::from_millis(500);
const LAG_POLL: Duration = Duration::from_millis(10);
/// and when nobody asks for anything.
const LINGER: Duration = Duration::from_secs(2);

/// What a look behind a route's own deliveries finds.
#[derive(Debug)]
pub enum Back {
    /// In order, perhaps none; the cursor has been moved behind them.
    Deliveries(Vec<Arc<Delivery>>),
    /// The route will be woken when it is known.
    Asked,
    /// The journal no longer has what comes next.
    Gone,
}

/// Finds, in one pass over the journal for all who ask, the events that their routes no longer
/// keep.
#[derive(Debug)]
pub(super) struct LookBack {
    budget: usize,
    state: Mutex<State>,
    /// For the task, when it has nothing to do.
    asked: Notify,
}

#[derive(Debug, Default)]
struct State {
    asked: HashMap<RouteId, Ask>,
    /// The routes that the current pass looks for.
    taken: HashMap<RouteId, Arc<Route>>,
    pasts: HashMap<RouteId, Past>,
    /// What the pasts take, in bytes.
    used: usize,
    has_task: bool,
}

#[derive(Debug)]
struct Ask {
    route: Arc<Route>,
    from: u64,
}

#[derive(Debug)]
struct Past {
    from: u64,
    to: u64,
    entries: Vec<Entry>,
    bytes: usize,
    since: Instant,
}

#[derive(Debug, Clone)]
struct Entry {
    number: u64,
    /// Kept where there is room.
    delivery: Option<Arc<Delivery>>,
}

/// What a client reads at once.
struct Page {
    entries: Vec<(u64, Option<Arc<Delivery>>)>,
    next: u64,
}

/// A past in the making.
struct Search {
    route: Arc<Route>,
    from: u64,
    /// What is known already.
    known: Range<u64>,
    found: Vec<Entry>,
}

#[derive(Default)]
struct Pass {
    finder: Finder,
    searches: HashMap<RouteId, Search>,
    bytes: usize,
}

impl Feed {
    /// The deliveries from a cursor on that the route itself no longer has, at most `max`, and
    /// [`READ_BYTES`] or a single one.
    pub fn look_back(self: &Arc<Feed>, route: &Arc<Route>, cursor: &mut u64, max: usize) -> Back {
        let Some(page) = self.lookback.page(route.id(), *cursor, max) else {
            if *cursor < self.numbers().0 {
                return Back::Gone;
            }
            if self.lookback.ask(route, *cursor) {
                self.tasks.spawn("look-back", serve(self.clone()));
            }
            return Back::Asked;
        };
        let events = self.events_of(&page);
        let mut found = Vec::with_capacity(page.entries.len());
        let (mut made, mut bytes, mut next) = (Vec::new(), 0, page.next);
        for ((number, delivery), event) in page.entries.into_iter().zip(events) {
            if bytes >= READ_BYTES {
                next = number;
                break;
            }
            let delivery = match (delivery, event) {
                (Some(delivery), _) => delivery,
                (None, Some(event)) => {
                    // The same predicate found it wanted before.
                    let made_of = self.large_deliveries.deliver(route, number, &event);
                    let Some(delivery) = made_of else { continue };
                    made.push(delivery.clone());
                    delivery
                }
                (None, None) => return Back::Gone,
            };
            bytes += delivery.json.len();
            found.push(delivery);
        }
        self.lookback.keep(route.id(), &made);
        *cursor = next;
        Back::Deliveries(found)
    }

    /// Whether a route that asked is still to be woken. Asked after a `Notified` was enabled.
    pub fn is_looking_back(&self, route: &Route) -> bool {
        let state = self.lookback.state.lock();
        state.asked.contains_key(&route.id()) || state.taken.contains_key(&route.id())
    }

    /// The events of a page that nobody has made deliveries of; `None` for others, and for those
    /// that are gone.
    fn events_of(&self, page: &Page) -> Vec<Option<Arc<ChangeEvent>>> {
        if page.entries.iter().all(|(_, delivery)| delivery.is_some()) {
            return vec![None; page.entries.len()];
        }
        let inner = self.inner.lock();
        let event = |(number, delivery): &(u64, Option<_>)| match delivery {
            Some(_) => None,
            None => inner.journal.as_ref()?.get(*number).cloned(),
        };
        page.entries.iter().map(event).collect()
    }
}

impl LookBack {
    /// For a journal of so many bytes.
    pub fn new(journal_bytes: usize) -> LookBack {
        let budget = (journal_bytes / SHARE).max(LEAST_BUDGET);
        LookBack { budget, state: Mutex::default(), asked: Notify::new() }
    }

    fn page(&self, route: RouteId, cursor: u64, max: usize) -> Option<Page> {
        let state = self.state.lock();
        let past = state.pasts.get(&route)?;
        if !(past.from..past.to).contains(&cursor) {
            return None;
        }
        let at = past.entries.partition_point(|entry| entry.number < cursor);
        let entries = past.entries[at..].iter().take(max);
        let entries: Vec<_> = entries.map(|entry| (entry.number, entry.delivery.clone())).collect();
        let next = match entries.last() {
            Some((last, _)) if at + entries.len() < past.entries.len() => last + 1,
            _ => past.to,
        };
        Some(Page { entries, next })
    }

    /// Says whether a task has to be started.
    fn ask(&self, route: &Arc<Route>, from: u64) -> bool {
        let mut state = self.state.lock();
        let ask = state.asked.entry(route.id());
        let ask = ask.or_insert_with(|| Ask { route: route.clone(), from });
        ask.from = ask.from.min(from);
        self.asked.notify_one();
        !std::mem::replace(&mut state.has_task, true)
    }

    /// Lets the others of this route share what one of them made, as far as there is room.
    fn keep(&self, route: RouteId, made: &[Arc<Delivery>]) {
        if made.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        let State { pasts, used, .. } = &mut *state;
        let Some(past) = pasts.get_mut(&route) else { return };
        for delivery in made {
            let found = past.entries.binary_search_by_key(&delivery.number, |entry| entry.number);
            let Ok(place) = found else { continue };
            let entry = &mut past.entries[place];
            // The other half is for numbers, without which nobody gets further.
            if entry.delivery.is_none() && *used + delivery.size() <= self.budget / 2 {
                entry.delivery = Some(delivery.clone());
                past.bytes += delivery.size();
                *used += delivery.size();
            }
        }
    }

    /// Lets go of what nobody seems to read any more. Waits, not for long, until at least half of
    /// the room is there.
    async fn make_room(&self) {
        let mut age = LINGER;
        loop {
            {
                let mut state = self.state.lock();
                state.pasts.retain(|_, past| past.since.elapsed() < age);
                state.used = state.pasts.values().map(|past| past.bytes).sum();
                if state.used <= self.budget / 2 {
                    return;
                }
            }
            age = LAG;
            tokio::time::sleep(LAG_POLL).await;
        }
    }

    /// Those who want what comes from `at` on, or later.
    fn take(&self, at: u64) -> Vec<Ask> {
        let mut state = self.state.lock();
        let State { asked, taken, .. } = &mut *state;
        let asks: Vec<Ask> =
            asked.extract_if(|_, ask| ask.from >= at).map(|(_, ask)| ask).collect();
        taken.extend(asks.iter().map(|ask| (ask.route.id(), ask.route.clone())));
        asks
    }

    /// What is known of a route already.
    fn known(&self, route: RouteId) -> Option<Range<u64>> {
        self.state.lock().pasts.get(&route).map(|past| past.from..past.to)
    }

    /// Adds what a pass found until it ended before the event of this number, and wakes everybody
    /// who asked.
    fn publish(&self, pass: Pass, end: u64) {
        let woken = {
            let mut state = self.state.lock();
            for (id, search) in pass.searches {
                if end <= search.from {
                    continue;
                }
                let before = state.pasts.remove(&id);
                state.used -= before.as_ref().map_or(0, |past| past.bytes);
                let past = search.end(before, end);
                state.used += past.bytes;
                state.pasts.insert(id, past);
            }
            std::mem::take(&mut state.taken)
        };
        for route in woken.into_values() {
            route.wakers.wake_all();
        }
    }

    /// Says whether there is nothing more to do; then everything is given back.
    fn rest(&self) -> bool {
        let mut state = self.state.lock();
        let is_idle = state.asked.is_empty();
        if is_idle {
            *state = State::default();
        }
        is_idle
    }
}

impl Search {
    /// Where to look for what is not known yet; `None`: it is. The journal begins at `first`.
    fn begin(ask: &Ask, known: Option<Range<u64>>, first: u64) -> Option<Search> {
        let from = ask.from.max(first);
        // What cannot be joined to is of no use.
        let known = known.filter(|known| known.end >= first).unwrap_or(from..from);
        if known.contains(&from) {
            return None;
        }
        let from = if from > known.end { known.end } else { from };
        Some(Search { route: ask.route.clone(), from, known, found: Vec::new() })
    }

    /// Another client of the same route, whose place has not been passed yet.
    fn widen(&mut self, from: u64) {
        if !self.known.contains(&from) {
            self.from = self.from.min(from);
        }
    }

    fn wants(&self, number: u64) -> bool {
        number >= self.from && !self.known.contains(&number)
    }

    /// One past with what was found and what was known before; no other task changes it.
    fn end(self, before: Option<Past>, end: u64) -> Past {
        let before = before.filter(|past| (past.from..past.to) == self.known);
        let (from, to, entries) = match before {
            // Read up to it, and perhaps beyond.
            Some(before) if self.from < before.from && end >= before.from => {
                let behind = self.found.partition_point(|entry| entry.number < before.from);
                let mut entries = self.found;
                let later = entries.split_off(behind);
                entries.extend(before.entries);
                entries.extend(later);
                (self.from, end.max(before.to), entries)
            }
            Some(before) if self.from == before.to => {
                let mut entries = before.entries;
                entries.extend(self.found);
                (before.from, end, entries)
            }
            _ => (self.from, end, self.found),
        };
        let mut entries = entries;
        entries.shrink_to_fit();
        let kept = entries.iter().filter_map(|entry| entry.delivery.as_ref());
        let bytes =
            entries.len() * size_of::<Entry>() + kept.map(|kept| kept.size()).sum::<usize>();
        Past { from, to, entries, bytes, since: Instant::now() }
    }
}

/// Scans the journal as long as subscriptions ask. At most one for a feed.
async fn serve(feed: Arc<Feed>) {
    let mut task = Task { feed: feed.clone(), is_over: false };
    let back = &feed.lookback;
    let mut gather = GATHER;
    loop {
        if !back.state.lock().asked.is_empty() {
            tokio::time::sleep(gather).await;
            let began = Instant::now();
            back.make_room().await;
            look(&feed).await;
            gather = (2 * began.elapsed()).clamp(GATHER, MOST_GATHER);
        } else if tokio::time::timeout(LINGER, back.asked.notified()).await.is_err() {
            gather = GATHER;
            if back.rest() {
                break;
            }
        }
    }
    // Another task may have begun.
    task.is_over = true;
}

/// One pass over the journal, from the oldest place that is asked for to its end.
async fn look(feed: &Arc<Feed>) {
    let back = &feed.lookback;
    let room = back.budget.saturating_sub(back.state.lock().used);
    let mut pass = Pass::default();
    pass.admit(feed, 0).await;
    let Some(start) = pass.searches.values().map(|search| search.from).min() else {
        back.publish(pass, 0);
        return;
    };
    let (mut at, mut burst) = (start, 0);
    let mut candidates = Vec::new();
    'journal: while let Some(events) = feed.events_from(at, SLICE) {
        if events.is_empty() {
            break;
        }
        for (number, event) in events {
            if pass.bytes >= room {
                break 'journal;
            }
            burst += 1 + pass.take(number, &event, &mut candidates);
            at = number + 1;
            if burst >= BURST {
                burst = 0;
                tokio::task::yield_now().await;
            }
        }
        pass.admit(feed, at).await;
    }
    back.publish(pass, at);
}

impl Pass {
    /// Takes in who wants what comes from `at` on.
    async fn admit(&mut self, feed: &Feed, at: u64) {
        let (first, _) = feed.numbers();
        for (number, ask) in feed.lookback.take(at).into_iter().enumerate() {
            let id = ask.route.id();
            if let Some(search) = self.searches.get_mut(&id) {
                search.widen(ask.from);
                continue;
            }
            let search = Search::begin(&ask, feed.lookback.known(id), first);
            // Who continues what ended before this pass is, is woken with the others and asks again.
            if let Some(search) = search.filter(|search| search.from >= at) {
                self.finder.add(ask.route);
                self.searches.insert(id, search);
            }
            if number % BURST == BURST - 1 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Records which routes an event concerns. Returns how many predicates were evaluated.
    fn take(&mut self, number: u64, event: &ChangeEvent, candidates: &mut Vec<Slot>) -> usize {
        self.finder.candidates(event, candidates);
        for slot in candidates.iter() {
            let found = self.finder.get(*slot).map(|route| route.id());
            let Some(search) = found.and_then(|id| self.searches.get_mut(&id)) else { continue };
            if search.wants(number) && search.route.wants(event) {
                search.found.push(Entry { number, delivery: None });
                self.bytes += size_of::<Entry>();
            }
        }
        candidates.len()
    }
}

/// Dropped in a panic, lets go of those who wait: with a reset, since another look would come to the
/// same end.
struct Task {
    feed: Arc<Feed>,
    is_over: bool,
}

impl Drop for Task {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        if std::thread::panicking()
            && let Some((head, _)) = self.feed.now()
        {
            self.feed.restart_at(&head);
        }
        let state = std::mem::take(&mut *self.feed.lookback.state.lock());
        let asked = state.asked.into_values().map(|ask| ask.route);
        for route in asked.chain(state.taken.into_values()) {
            route.wakers.wake_all();
        }
    }
}

#[cfg(test)]
mod tests;
