//! Reads an open cursor to its end: puts batches into the feed, and reports why the cursor ended.
//!
//! No event is skipped here: one that cannot be parsed ends the cursor with a reset.
//!
//! This and [`super::replay`]'s pass are two loops over what they share: opening and reading
//! ([`super::cursor`]), waiting ([`super::patience`]), errors ([`super::failure`]) and large events
//! ([`super::large`]). They differ in what they are for: this one never ends by itself, reads ahead so
//! that MongoDB is never waited for, starts again when the list of collections grows, and reports how it
//! is. A pass takes one event at a time, waits for its clients, and ends where the journal begins.

use std::time::{Duration, Instant};

use bson::{RawDocumentBuf, Timestamp};
use mongodb::error::Error;
use tokio::sync::mpsc;
use tracing::info;

use super::Upstream;
use super::cursor::{Events, Next};
use super::deployment::{Deployment, DeploymentError};
use super::patience::Patience;
use crate::event::{ChangeEvent, OperationType};
use crate::feed::Status;
use crate::trace::SpanSide;

/// How many events are taken in at once.
const TOGETHER: usize = 64;
/// How often old events are dropped on a quiet stream.
const EXPIRE_EVERY: Duration = Duration::from_secs(5);

/// Why following a cursor ended.
pub(super) enum CursorEnd {
    /// The list of collections grew.
    Relisted,
    /// The database was dropped, and the cursor with it.
    Invalidated,
    Failed(DeploymentError),
}

impl Upstream {
    /// Reads the cursor to its end; also says whether the server answered it at all.
    pub(super) async fn follow(
        &self,
        events: Events,
        generation: u64,
        deployment: Deployment,
        patience: &mut Patience,
    ) -> (CursorEnd, bool) {
        let mut has_read = false;
        // Where there is nothing to be read, opening it has told how far it is.
        let past = events.read_past();
        if past.is_some_and(|head| !self.feed.advance(generation, head)) {
            return (CursorEnd::Relisted, has_read);
        }
        if self.has_caught_up(deployment.majority_time) {
            self.note_live();
        }
        // One batch waits while another is taken in. Dropping what is in flight is fine: the cursor
        // is not used again after that.
        let (to, mut read) = mpsc::channel(1);
        let reading = self.take_all(&mut read, generation, &deployment, patience, &mut has_read);
        let ended = tokio::select! {
            // First: the next batch is asked for before the last one is taken in.
            biased;
            ended = async {
                events.read_ahead(to).await;
                // What it has sent has still to be taken.
                std::future::pending().await
            } => ended,
            ended = reading => ended,
        };
        (ended, has_read)
    }

    async fn take_all(
        &self,
        read: &mut mpsc::Receiver<Next<Vec<RawDocumentBuf>>>,
        generation: u64,
        deployment: &Deployment,
        patience: &mut Patience,
        has_read: &mut bool,
    ) -> CursorEnd {
        let mut generations = self.feed.watch_generation();
        let mut is_live = self.feed.status() == Status::Live;
        let mut expired_at = Instant::now();
        loop {
            if !is_live && self.has_caught_up(deployment.majority_time) {
                is_live = true;
                self.note_live();
            }
            let next = tokio::select! {
                biased;
                next = patience.answer(read.recv()) => next,
                _ = generations.wait_for(|current| *current != generation) => {
                    return CursorEnd::Relisted;
                }
            };
            let next = match next {
                Ok(next) => next.unwrap_or(Next::Closed),
                Err(silence) => return CursorEnd::Failed(silence.into()),
            };
            if matches!(next, Next::Events(_) | Next::Nothing(_)) {
                *has_read = true;
                // From now on, a long silence means something again.
                patience.gained();
            }
            match next {
                Next::Events(events) => {
                    if let Err(ended) = self.take_in(generation, events).await {
                        return ended;
                    }
                }
                // Nothing new within the wait: all that a majority has is read.
                Next::Nothing(head) => {
                    if !is_live {
                        is_live = true;
                        self.note_live();
                    }
                    if head.is_some_and(|head| !self.feed.advance(generation, head)) {
                        return CursorEnd::Relisted;
                    }
                }
                Next::Closed => {
                    let error = Error::custom("the server closed the cursor");
                    return CursorEnd::Failed(error.into());
                }
                Next::Failed(error) => return CursorEnd::Failed(error.into()),
            }
            if expired_at.elapsed() >= EXPIRE_EVERY {
                expired_at = Instant::now();
                self.feed.expire();
            }
        }
    }

    /// Takes in what came together, some events at a time, so that clients run in between.
    async fn take_in(&self, generation: u64, events: Vec<RawDocumentBuf>) -> Result<(), CursorEnd> {
        let upstream = self.feed.key().to_string();
        let read = self.metrics.events_read_total.with_label_values(&[&upstream]);
        let span = self.metrics.tracer.root(SpanSide::Internal, "batch");
        span.set("sidestream.events", events.len() as i64);
        span.set_with("sidestream.upstream", || upstream.clone());
        let mut events = events.into_iter().peekable();
        while events.peek().is_some() {
            let (mut next, mut last) = (Vec::with_capacity(TOGETHER), None);
            for raw in events.by_ref().take(TOGETHER) {
                read.inc();
                match ChangeEvent::parse(raw) {
                    Ok(event) if event.operation() == OperationType::Invalidate => {
                        last = Some(Ok(event));
                        break;
                    }
                    Ok(event) => next.push(event),
                    // It cannot be placed among the others, so nobody could be told of it in its
                    // place.
                    Err(error) => {
                        last = Some(Err(error));
                        break;
                    }
                }
            }
            if !self.feed.append_all(generation, next) {
                return Err(CursorEnd::Relisted);
            }
            match last {
                None => {}
                Some(Ok(invalidate)) => {
                    let was_taken = self.feed.advance(generation, invalidate.token().clone());
                    return Err(if was_taken {
                        CursorEnd::Invalidated
                    } else {
                        CursorEnd::Relisted
                    });
                }
                Some(Err(error)) => {
                    let error = DeploymentError::Unreadable(error.to_string());
                    return Err(CursorEnd::Failed(error));
                }
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn has_caught_up(&self, target: Timestamp) -> bool {
        self.feed.now().is_some_and(|(head, _)| {
            let time = head.time();
            (time.time, time.increment) >= (target.time, target.increment)
        })
    }

    fn note_live(&self) {
        if matches!(self.feed.status(), Status::Away(_)) {
            info!(upstream = %self.feed.key(), "change stream is open again");
        }
        if self.feed.status() != Status::Live {
            self.news.notify_one();
        }
        self.feed.set_status(Status::Live);
    }
}
