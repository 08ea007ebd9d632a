//! Holds what a client was told against what the database says has happened. Pure.
//!
//! Law of this file:
//!
//! - The truth is the database's own history, in its order; a token's text is its place in it.
//! - A client's id `P`, with or without an event, says "everything up to `P` is here": what had to
//!   come before `P` and did not is lost, since nobody will send it any more.
//! - An event at or before the client's last id came twice, or too late.
//! - A reset makes the obligations begin anew, and needs a cause. That of a dropped or renamed
//!   collection is no excuse: it is itself an event of the history, due in its place.
//! - A snapshot also makes them begin anew, and needs a cause too; they begin exactly at the id of its
//!   `ready`, before which no event may come. Its documents are those that were there at that id.
//! - A position that the server chose ("from now") may lie before the first event that it means,
//!   within the same cluster time: there, and only there, events may come or not.

#[path = "state.rs"]
mod state;

use std::fmt;

pub use state::{Documents, State, difference};

/// What happened to a document or a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    Insert,
    Update,
    Replace,
    Delete,
    Drop,
    Rename,
}

impl Op {
    pub fn parse(name: &str) -> Option<Op> {
        Some(match name {
            "insert" => Op::Insert,
            "update" => Op::Update,
            "replace" => Op::Replace,
            "delete" => Op::Delete,
            "drop" => Op::Drop,
            "rename" => Op::Rename,
            _ => return None,
        })
    }

    fn ends_collection(self) -> bool {
        matches!(self, Op::Drop | Op::Rename)
    }
}

/// The key of every document that is written: who wrote it, and what filters look at.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Key {
    pub writer: String,
    pub number: i64,
    pub owner: i64,
}

/// One event of the database's own history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub token: String,
    pub op: Op,
    pub database: String,
    pub collection: String,
    /// The new name, of a rename.
    pub to: Option<String>,
    pub key: Key,
    /// The number of this change among those of its document.
    pub seq: Option<i64>,
}

/// Whether a client has to see an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    Never,
    /// Decided by something that the history does not tell.
    May,
    Must,
}

/// One thing that a client did or was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// It came, and brought this id.
    Opened {
        sidecar: usize,
        last_id: Option<String>,
    },
    /// An id without an event.
    Position(String),
    Event(Event),
    Reset {
        id: Option<String>,
        reason: String,
    },
    /// The documents of a stream with a snapshot begin, for this reason.
    Snapshot(String),
    /// One of them, and its number.
    Document(Key, i64),
    End(String),
    Refused(u16),
    Closed(String),
}

/// An event as a client got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub id: String,
    pub op: String,
    pub collection: String,
    pub key: Key,
    pub seq: Option<i64>,
    pub view: Option<String>,
    /// The number in the document that came with it, which may be a later one.
    pub shown: Option<i64>,
}

/// The ids of several streams on one connection name no documents: they are places just behind an event,
/// or before a cluster time. In the records of one of these streams, gives each event the token of
/// the change that is at its place.
pub fn name_places(records: &mut Vec<Record>, truth: &[Change]) {
    let find = |place: &str, is_it: &dyn Fn(&Change) -> bool| {
        let prefix = place.strip_suffix("FF").unwrap_or(place);
        let at = truth.partition_point(|change| change.token.as_str() < prefix);
        let mut there = truth.iter().skip(at).take_while(|it| it.token.starts_with(prefix));
        there.find(|change| is_it(change)).map(|change| change.token.clone())
    };
    let mut last = None;
    records.retain_mut(|record| {
        let found = match record {
            Record::Snapshot(_) => {
                last = None;
                return true;
            }
            Record::Event(event) => find(&event.id, &|_| true).map(|token| (&mut event.id, token)),
            Record::Reset { id: Some(id), reason } if reason == "invalidated" => {
                find(id, &|change| change.op.ends_collection()).map(|token| (id, token))
            }
            // Before the time of what has just been told.
            Record::Position(place) => {
                return !last.as_ref().is_some_and(|last: &String| last.starts_with(&**place));
            }
            _ => None,
        };
        if let Some((id, token)) = found {
            last = Some(token.clone());
            *id = token;
        }
        true
    });
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// It had to come before `by`.
    Lost {
        change: Change,
        by: String,
    },
    Twice(Event),
    /// It came after a later one.
    Late(Event),
    /// Nothing like it is in the history.
    Phantom(Event),
    /// It is in the history, and not for this client.
    Unwanted(Event),
    /// It is in the history, and otherwise.
    Differs {
        event: Event,
        change: Change,
    },
    /// The id went back from one to another.
    WentBack {
        from: String,
        to: String,
    },
    /// A reset that nothing has caused.
    Reset {
        id: Option<String>,
        reason: String,
    },
    /// A snapshot that nothing has caused, or one that is not as it has to be.
    Snapshot(String),
    /// What it was told does not add up to what is there.
    Collection(String),
    /// An answer or an end that nothing has caused.
    Refused(String),
    /// The last write has not come.
    Behind {
        at: Option<String>,
        mark: String,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::Lost { change, by } => {
                write!(f, "lost: {} (the client had reached {by})", describe(change))
            }
            Violation::Twice(event) => write!(f, "twice: {event:?}"),
            Violation::Late(event) => write!(f, "out of order: {event:?}"),
            Violation::Phantom(event) => write!(f, "never happened: {event:?}"),
            Violation::Unwanted(event) => write!(f, "not for this client: {event:?}"),
            Violation::Differs { event, change } => {
                write!(f, "not as it happened: {event:?}, which was {}", describe(change))
            }
            Violation::WentBack { from, to } => write!(f, "the id went back from {from} to {to}"),
            Violation::Reset { id, reason } => {
                write!(f, "a reset without a cause: {reason}, id {id:?}")
            }
            Violation::Snapshot(what) => write!(f, "a snapshot, {what}"),
            Violation::Collection(what) => write!(f, "its collection is not what is there: {what}"),
            Violation::Refused(what) => write!(f, "without a cause: {what}"),
            Violation::Behind { at, mark } => {
                write!(f, "does not go on: at {at:?}, and the last write is at {mark}")
            }
        }
    }
}

fn describe(change: &Change) -> String {
    let Change { token, op, database, collection, key, seq, .. } = change;
    format!("{op:?} {database}.{collection} {key:?} seq {seq:?}, token {token}")
}

/// How far a client is obliged; kept from one phase to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cursor {
    /// `None`: the server has not said yet from where on.
    at: Option<String>,
    /// The server chose it.
    is_fuzzy: bool,
    /// A snapshot has begun, and is not complete: its documents so far.
    snapshot: Option<Documents>,
}

/// What a phase makes excusable.
pub struct Excuses<'a> {
    pub reset: &'a dyn Fn(&str) -> bool,
    pub status: &'a dyn Fn(u16) -> bool,
    pub end: bool,
}

/// What the check found, and how much it looked at.
#[derive(Debug, Default)]
pub struct Verdict {
    pub violations: Vec<Violation>,
    pub events: usize,
    pub reconnects: usize,
    pub resets: Vec<String>,
    /// How many snapshots were held against what was there.
    pub snapshots: usize,
}

/// Type byte and cluster time, with which every token begins.
fn time(token: &str) -> &str {
    token.get(..18).unwrap_or(token)
}

struct Checker<'a> {
    truth: &'a [Change],
    expect: &'a dyn Fn(&Change) -> Expect,
    there: There<'a>,
    cursor: &'a mut Cursor,
    verdict: Verdict,
}

/// What a client's stream shows at a place; `None` if the history does not reach back to it.
pub type There<'a> = &'a dyn Fn(&str) -> Option<Documents>;

/// Checks one client's records of one phase. `truth` is sorted, and holds everything after the
/// cursor.
pub fn check(
    truth: &[Change],
    (expect, there): (&dyn Fn(&Change) -> Expect, There<'_>),
    records: &[Record],
    cursor: &mut Cursor,
    excuses: &Excuses<'_>,
) -> Verdict {
    let mut checker = Checker { truth, expect, there, cursor, verdict: Verdict::default() };
    let mut seen = std::collections::HashSet::new();
    for record in records {
        match record {
            Record::Opened { last_id, .. } => {
                checker.verdict.reconnects += 1;
                match last_id {
                    None => *checker.cursor = Cursor::default(),
                    // Only where the server has said nothing else since.
                    Some(id) if checker.cursor.at.is_none() => {
                        *checker.cursor = Cursor { at: Some(id.clone()), ..Cursor::default() };
                    }
                    Some(_) => {}
                }
            }
            Record::Position(id) => checker.reach(id),
            Record::Snapshot(reason) => {
                checker.verdict.resets.push(format!("snapshot ({reason})"));
                checker.snapshot(reason, excuses);
            }
            Record::Document(key, seq) => checker.document(key, *seq),
            Record::Event(event) => {
                checker.verdict.events += 1;
                let was_seen = !seen.insert(&event.id);
                checker.event(event, was_seen);
            }
            Record::Reset { id, reason } => {
                checker.verdict.resets.push(reason.clone());
                checker.reset(id.as_deref(), reason, excuses);
            }
            Record::End(reason) if !excuses.end => {
                checker.fail(Violation::Refused(format!("end, {reason}")));
            }
            Record::Refused(status) if !(excuses.status)(*status) => {
                checker.fail(Violation::Refused(format!("status {status}")));
            }
            Record::End(_) | Record::Refused(_) | Record::Closed(_) => {}
        }
    }
    checker.verdict
}

impl Checker<'_> {
    fn fail(&mut self, violation: Violation) {
        self.verdict.violations.push(violation);
    }

    fn find(&self, token: &str) -> Option<&Change> {
        let at = self.truth.binary_search_by(|change| change.token.as_str().cmp(token)).ok()?;
        self.truth.get(at)
    }

    /// An id without an event.
    fn reach(&mut self, id: &str) {
        match &self.cursor.at {
            // Exactly where a snapshot says that the changes go on.
            None => {
                let snapshot = self.cursor.snapshot.take();
                let (at, is_fuzzy) = (Some(id.to_string()), snapshot.is_none());
                *self.cursor = Cursor { at, is_fuzzy, snapshot: None };
                if let (Some(shown), Some(there)) = (snapshot, (self.there)(id)) {
                    self.verdict.snapshots += 1;
                    if let Some(differs) = difference(&shown, &there) {
                        self.fail(Violation::Snapshot(format!("not as it was at {id}: {differs}")));
                    }
                }
            }
            Some(at) if id < at.as_str() => {
                let violation = Violation::WentBack { from: at.clone(), to: id.to_string() };
                self.fail(violation);
            }
            Some(at) if id == at.as_str() => {}
            Some(_) => self.move_to(id, true),
        }
    }

    fn document(&mut self, key: &Key, seq: i64) {
        let is_new = match &mut self.cursor.snapshot {
            Some(documents) => documents.insert(key.clone(), seq).is_none(),
            None => return self.fail(Violation::Snapshot(format!("{key:?} came outside of one"))),
        };
        if !is_new {
            self.fail(Violation::Snapshot(format!("{key:?} came twice")));
        }
    }

    /// Everything up to `id` had to be here; with `id` itself, if it is included.
    fn move_to(&mut self, id: &str, is_included: bool) {
        if let Some(at) = &self.cursor.at {
            let from = self.truth.partition_point(|change| change.token <= *at);
            let to = self.truth.partition_point(|change| match is_included {
                true => change.token.as_str() <= id,
                false => change.token.as_str() < id,
            });
            for change in self.truth.get(from..to).unwrap_or_default() {
                let is_excused = self.cursor.is_fuzzy && time(&change.token) == time(at);
                if !is_excused && (self.expect)(change) == Expect::Must {
                    let lost = Violation::Lost { change: change.clone(), by: id.to_string() };
                    self.verdict.violations.push(lost);
                }
            }
        }
        *self.cursor = Cursor { at: Some(id.to_string()), ..Cursor::default() };
    }

    fn event(&mut self, event: &Event, was_seen: bool) {
        if self.cursor.snapshot.is_some() {
            self.fail(Violation::Snapshot(format!("and within it: {event:?}")));
        }
        if self.cursor.at.as_ref().is_some_and(|at| event.id <= *at) {
            if was_seen {
                self.fail(Violation::Twice(event.clone()));
                return;
            }
            // What was taken for lost is here, too late.
            self.verdict.violations.retain(|violation| {
                !matches!(violation, Violation::Lost { change, .. } if change.token == event.id)
            });
            self.fail(Violation::Late(event.clone()));
            return;
        }
        match self.find(&event.id).cloned() {
            None => self.fail(Violation::Phantom(event.clone())),
            Some(change) if !is_same(event, &change) => {
                self.fail(Violation::Differs { event: event.clone(), change });
            }
            Some(change) if (self.expect)(&change) == Expect::Never => {
                self.fail(Violation::Unwanted(event.clone()));
            }
            Some(_) => {}
        }
        self.move_to(&event.id, false);
    }

    fn reset(&mut self, id: Option<&str>, reason: &str, excuses: &Excuses<'_>) {
        let of_collection = id.filter(|_| reason == "invalidated");
        if let Some(id) = of_collection {
            let is_due = self.find(id).is_some_and(|change| {
                change.op.ends_collection() && (self.expect)(change) != Expect::Never
            });
            let is_new = self.cursor.at.as_ref().is_none_or(|at| id > at.as_str());
            if is_due && is_new {
                self.move_to(id, false);
                return;
            }
        }
        if of_collection.is_some() || !(excuses.reset)(reason) {
            let id = id.map(str::to_string);
            self.fail(Violation::Reset { id, reason: reason.to_string() });
        }
        *self.cursor = Cursor { at: id.map(str::to_string), is_fuzzy: true, snapshot: None };
    }

    fn snapshot(&mut self, reason: &str, excuses: &Excuses<'_>) {
        let is_behind =
            |change: &Change| self.cursor.at.as_ref().is_none_or(|at| change.token > *at);
        let is_due = match reason {
            // Who has none may also come before its sidecar has read anything.
            "new" | "started" => self.cursor.at.is_none(),
            "invalidated" => self.truth.iter().any(|change| {
                is_behind(change)
                    && change.op.ends_collection()
                    && (self.expect)(change) != Expect::Never
            }),
            reason => (excuses.reset)(reason),
        };
        if !is_due {
            let at = self.cursor.at.as_deref().unwrap_or("none");
            self.fail(Violation::Snapshot(format!("for no cause: {reason}, the last id is {at}")));
        }
        *self.cursor = Cursor { snapshot: Some(Documents::new()), ..Cursor::default() };
    }
}

fn is_same(event: &Event, change: &Change) -> bool {
    let view = match (event.view.as_deref(), change.op) {
        (None, _) => true,
        (Some(view), Op::Insert) => view == "enter",
        (Some(view), Op::Update | Op::Replace) => view == "stay" || is_ghost(event),
        (Some(view), Op::Delete) => view == "leave",
        (Some(_), Op::Drop | Op::Rename) => false,
    };
    view && Op::parse(&event.op) == Some(change.op)
        && event.collection == change.collection
        && event.key == change.key
        // What has left the view is told without its content: here, what was gone when looked up.
        && (event.seq == change.seq || is_ghost(event))
}
/// An update whose document was gone when it was looked up.
fn is_ghost(event: &Event) -> bool {
    event.op == "update" && event.seq.is_none() && event.view.as_deref() == Some("leave")
}
