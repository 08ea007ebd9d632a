//! The beginning of a stream with a snapshot: the documents that match, before its changes.
//!
//! Where it stands by itself, from the moment that a stream has to begin (again) to the one at which
//! its client has all documents. Nothing here has a position: who is cut off begins anew.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use crate::event::Position;
use crate::feed::Feed;
use crate::feed::journal::Located;
use crate::feed::routes::{READ_BYTES, ResetReason, Route};
use crate::session::listeners::Listener;
use crate::upstream::snapshot::{Given, PendingQuery, Reading, Refused, SnapshotAnswer, Snapshots};

/// How many documents one look gives.
const BATCH: usize = 64;
/// How often it is asked without a pause.
const ASK: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// A snapshot for one client: from asking for it until its last document is given.
#[derive(Debug)]
pub(super) struct Beginning {
    /// What the client is told; `None`: it is new.
    pub reason: Option<ResetReason>,
    /// The documents have to be those of a moment behind this place.
    pub beyond: Option<Position>,
    /// How often in a row.
    asked: u32,
    state: State,
}

#[derive(Debug)]
enum State {
    /// So that no loop arises.
    Pausing(Instant),
    Asked(PendingQuery),
    Giving {
        reading: Reading,
        /// While its documents are being read.
        query: Option<PendingQuery>,
        position: Position,
    },
    Refused,
}

/// What a look found.
#[derive(Debug)]
pub(super) enum SnapshotStep {
    Nothing,
    /// The documents are there, and begin.
    Begins,
    Documents(Vec<Bytes>),
    /// All were given. The changes go on at the position, which has this number in the journal where
    /// that has it.
    Done {
        position: Position,
        cursor: Option<u64>,
        documents: usize,
    },
    /// They had to make room for others.
    Gone,
    Refused(Refused),
}

impl Beginning {
    /// Nothing is asked before `at`.
    pub fn new(reason: Option<ResetReason>, beyond: Option<Position>, at: Instant) -> Beginning {
        Beginning { reason, beyond, asked: 0, state: State::Pausing(at) }
    }

    /// It goes on in another feed. What its client is being given is of no feed; what it has only asked
    /// for is read beside the old one, which may be read no more.
    pub fn leave_feed(&mut self) {
        if let State::Asked(_) = self.state {
            self.state = State::Pausing(Instant::now());
        }
    }

    /// Whether the client was given something of it.
    pub fn has_begun(&self) -> bool {
        matches!(self.state, State::Giving { .. })
    }

    /// What there is without waiting, for this listener.
    pub fn look(
        &mut self,
        snapshots: &Snapshots,
        feed: &Arc<Feed>,
        route: &Arc<Route>,
        listener: &Listener,
    ) -> SnapshotStep {
        match &mut self.state {
            State::Pausing(until) if Instant::now() < *until => SnapshotStep::Nothing,
            State::Asked(asked) if !asked.has_changed() => SnapshotStep::Nothing,
            State::Asked(asked) if asked.was_put_out() => {
                self.state = State::Refused;
                SnapshotStep::Refused(Refused::Busy)
            }
            // It never gives what is needed: not for ever at once.
            State::Asked(asked) if asked.has_ended() && self.asked >= ASK => {
                self.asked = 0;
                self.state = State::Pausing(Instant::now() + PAUSE);
                SnapshotStep::Nothing
            }
            State::Pausing(_) | State::Asked(_) => {
                let has_waited = matches!(self.state, State::Asked(_));
                let is_again = matches!(&self.state, State::Asked(asked) if !asked.has_ended());
                let asker = || listener.asker();
                match snapshots.ask(feed, route, self.beyond.as_ref(), has_waited, asker) {
                    SnapshotAnswer::Taken(taken, query) => {
                        let (reading, position) = (Reading::new(&taken), taken.position().clone());
                        self.state = State::Giving { reading, query, position };
                        SnapshotStep::Begins
                    }
                    SnapshotAnswer::Refused(refused) => {
                        self.state = State::Refused;
                        SnapshotStep::Refused(refused)
                    }
                    SnapshotAnswer::Asked(asked) => {
                        // Once for each query.
                        self.asked += u32::from(!is_again);
                        self.state = State::Asked(asked);
                        SnapshotStep::Nothing
                    }
                }
            }
            State::Giving { reading, query, position } => {
                if let Some(query) = query {
                    query.note();
                }
                match reading.next(BATCH, READ_BYTES) {
                    Given::Documents(documents) => SnapshotStep::Documents(documents),
                    Given::NotYet => SnapshotStep::Nothing,
                    Given::Complete => SnapshotStep::Done {
                        position: position.clone(),
                        cursor: match feed.locate(position) {
                            Some(Located::At(cursor)) => Some(cursor),
                            _ => None,
                        },
                        documents: reading.given(),
                    },
                    Given::Gone => SnapshotStep::Gone,
                    Given::Refused(refused) => {
                        self.state = State::Refused;
                        SnapshotStep::Refused(refused)
                    }
                }
            }
            State::Refused => SnapshotStep::Nothing,
        }
    }

    /// Resolves when a look may give more. May be dropped and called again.
    pub async fn changed(&mut self) {
        match &mut self.state {
            State::Pausing(until) => sleep_until(*until).await,
            State::Asked(query) | State::Giving { query: Some(query), .. } => query.changed().await,
            State::Giving { query: None, .. } => {}
            State::Refused => std::future::pending().await,
        }
    }
}
