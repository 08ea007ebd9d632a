//! Long polling: one response with the events so far, and the position to continue from.
//!
//! A response is whole before it is sent, as long as the budget for such responses has room for it.
//! The documents of a larger snapshot are sent as the client takes them, as on a stream: a client that
//! takes nothing holds its place among them, not the documents.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::capacity::{ByteBudget, Lease};
use super::envelope;
use super::problem::Problem;
use super::reserved::{Open, Opened, Plain};
use super::transport::{self, Encoder, Ending, Mark, Sink};
use crate::api::negotiation::Transport;
use crate::feed::routes::Delivery;
use crate::session::connection::Frame;
use crate::session::control::Ended;
use crate::session::subscription::{FrameKind, Timer};

/// How long a poll waits that does not say, and how long at most.
const WAIT: Duration = Duration::from_secs(20);
const MAX_WAIT: Duration = Duration::from_secs(60);
/// How long a poll may read what its client has missed, whatever `wait` says: one that never got
/// as far would answer with nothing, and the next one begin again. When something has come, the rest is
/// waited for as well, and no longer than this: of answers with a few events, each would be a replay, but
/// one of its streams may not get anywhere.
const CATCH_UP: Duration = Duration::from_secs(10);
/// How often it is looked whether the changes since a snapshot are all there: it may be from some time ago,
/// and nothing tells that there are none.
const LOOK: Duration = Duration::from_millis(20);
/// So much goes into one answer, and one event more; documents of snapshots are not counted.
const MAX_BYTES: usize = 1024 * 1024;
/// What answers may hold beyond their first bytes while their clients do not take them: for the
/// process. Without more of it, an answer ends sooner, and the next poll goes on from there.
static ANSWERS: ByteBudget = ByteBudget::new(32 * 1024 * 1024);
/// What an answer has without asking, and how much it asks for at a time.
const OWN: usize = 8 * 1024;
const STEP: usize = 64 * 1024;
const BEGIN: &[u8] = b"{\"events\":[";

/// The encoder of what is between the brackets.
#[derive(Debug)]
struct Poll;

/// One JSON object for each frame; the poll adds the commas and what goes around them.
pub static POLL: &dyn Encoder = &Poll;

impl Encoder for Poll {
    fn headers(&self) -> &'static [(&'static str, &'static str)] {
        &[("Content-Type", "application/json"), ("Cache-Control", "no-store")]
    }

    fn first(&self, _retry: Duration) -> Option<Bytes> {
        None
    }

    fn transport(&self) -> Transport {
        Transport::Poll
    }

    fn encode(&self, frame: &Frame, mark: &Mark<'_>, out: &mut Vec<Bytes>) {
        envelope::encode(frame, mark, "}", out);
    }
}

/// A poll that was let in.
pub struct Polling {
    opened: Opened,
    began: Instant,
    /// That of the connection: for signs of life, which advance `resume`, and for the end of the wait.
    timer: Timer,
    /// Where to go on, when nothing has come.
    resume: Option<Arc<str>>,
    /// Of the head, for pages of other origins.
    pub(super) cors: Box<[(&'static str, String)]>,
    wait_millis: u32,
    /// How many of its streams are up to date.
    ready: u16,
    /// It came without an id, or its wait is over: it is answered as soon as nothing is missing.
    answers_at_once: bool,
    /// Whether the wait is over, and what the client has missed is still being read.
    is_late: bool,
}

/// What to answer a poll with.
pub enum PollAnswer {
    Whole(Plain),
    /// And the fields of its head.
    Begun(Box<BegunPoll>, Vec<(&'static str, String)>),
}

/// An answer whose snapshot is larger than what is held for a client.
pub struct BegunPoll {
    polling: Box<Polling>,
    found: Option<Box<Found>>,
}

/// What has come.
#[derive(Default)]
struct Found {
    pieces: Vec<Bytes>,
    /// Of what has come, with what was sent before.
    size: usize,
    events: usize,
    /// Streams whose snapshots have begun and are not complete: those go into one answer.
    begun: HashSet<u16>,
    /// Whether there are documents of a snapshot, so that the changes since then belong to them.
    has_snapshot: bool,
    sent: Vec<(u16, Arc<Delivery>)>,
    leases: Vec<Lease>,
    /// How large it may become by these, or before it is sent as far as it is.
    room: usize,
    /// Whether it is sent as it comes.
    is_sent: bool,
    /// How long the client should stay away, by the end of a stream.
    retry: Option<Duration>,
}

/// How far an answer is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Complete,
    /// More is to come.
    More,
    /// The rest of a snapshot is to come, and there is no room for it.
    Full,
}

impl Found {
    /// Whether more goes into this answer.
    fn has_room(&mut self) -> bool {
        if self.size < self.room.max(OWN) {
            return true;
        }
        if self.is_sent {
            return false;
        }
        let more = self.size - self.room + STEP;
        let lease = (self.size < MAX_BYTES).then(|| ANSWERS.take(more)).flatten();
        let has_room = lease.is_some();
        if has_room {
            self.room += more;
        }
        self.leases.extend(lease);
        has_room
    }

    /// What has come was sent: there is room for as much again.
    fn was_sent(&mut self) {
        self.is_sent = true;
        self.leases.clear();
        self.room = match self.begun.is_empty() && self.size >= MAX_BYTES {
            true => 0,
            false => self.size + STEP,
        };
    }
}

/// The end of an answer, which is let go of when all of it was taken: until then it has its place
/// among the connections, and its share of the memory.
struct End {
    text: String,
    _leases: Vec<Lease>,
    _open: Open,
}

impl AsRef<[u8]> for End {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

/// The fields of a head that all answers of a transport have.
pub fn fields_of(encoder: &dyn Encoder) -> Vec<(&'static str, String)> {
    encoder.headers().iter().map(|(name, value)| (*name, (*value).to_string())).collect()
}

/// Reads `wait`.
///
/// # Errors
/// A 400.
pub fn wait_of(text: Option<&str>) -> Result<Duration, Problem> {
    let Some(text) = text else { return Ok(WAIT) };
    // Which needs no unit to be understood.
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    match crate::config::parse_duration(text) {
        Ok(wait) if wait <= MAX_WAIT => Ok(wait),
        _ => Err(Problem::new(400, "`wait` is a duration of at most 60s, as 20s")),
    }
}

impl Polling {
    /// Begins to wait; `resume` is where to go on, when nothing comes.
    pub(super) fn new(
        mut opened: Opened,
        wait: Duration,
        answers_at_once: bool,
        resume: Option<Arc<str>>,
    ) -> Polling {
        let began = Instant::now();
        let until = began + wait;
        let timer = opened.connection.take_timer();
        let mut timer = timer.unwrap_or_else(|| Box::pin(sleep_until(until)));
        if timer.deadline() > until {
            timer.as_mut().reset(until);
        }
        // No more than a minute.
        let wait_millis = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        Polling {
            opened,
            began,
            timer,
            resume,
            cors: Box::default(),
            wait_millis,
            ready: 0,
            answers_at_once,
            is_late: false,
        }
    }

    /// Waits for the first event, and answers with what has come by then. What the client has missed is
    /// read first, which `wait` does not cut short. It stays where it is: a future that owned it would
    /// have room for it twice.
    pub async fn answer(mut self: Box<Self>) -> PollAnswer {
        // Boxed when there is something: almost all polls wait.
        let mut found: Option<Box<Found>> = None;
        loop {
            match self.step(&mut found).await {
                Step::Complete => break,
                Step::More => {}
                Step::Full => {
                    let fields = self.fields(found.as_deref());
                    let begun = BegunPoll { polling: self, found };
                    return PollAnswer::Begun(Box::new(begun), fields);
                }
            }
        }
        let mut found = found.unwrap_or_default();
        let (text, headers) = (self.end(), self.fields(Some(&found)));
        let Opened { mut connection, open } = self.opened;
        transport::count(&open.handler.pace.metrics, &mut connection, &found.sent);
        let end = End { text, _leases: found.leases, _open: open };
        let mut body = vec![Bytes::from_static(BEGIN)];
        body.append(&mut found.pieces);
        body.push(Bytes::from_owner(end));
        PollAnswer::Whole(Plain { status: 200, headers, body })
    }

    /// All fields of the head.
    fn fields(&mut self, found: Option<&Found>) -> Vec<(&'static str, String)> {
        let mut fields = fields_of(POLL);
        fields.extend(std::mem::take(&mut self.cors));
        self.opened.open.handler.vary(&mut fields);
        if let Some(retry) = found.and_then(|found| found.retry) {
            fields.push(("Retry-After", retry.as_secs().to_string()));
        }
        fields
    }

    fn end(&self) -> String {
        format!("],\"resume\":{}}}", json!(self.resume))
    }

    /// When it has waited long enough.
    fn until(&self, has_events: bool) -> Instant {
        let wait = Duration::from_millis(self.wait_millis.into());
        self.began
            + match (has_events, self.is_late) {
                (true, _) => CATCH_UP,
                (false, true) => wait.max(CATCH_UP),
                (false, false) => wait,
            }
    }

    /// Whether nothing is missing of what its streams had when it came, but for changes since a snapshot.
    fn are_ready(&self) -> bool {
        usize::from(self.ready) >= self.opened.connection.len()
    }

    /// Whether nothing is missing of what its streams had when it came.
    fn is_there(&self, found: Option<&Found>) -> bool {
        let has_snapshot = found.is_some_and(|found| found.has_snapshot);
        self.are_ready() && (!has_snapshot || self.opened.connection.has_caught_up())
    }

    /// It is time for a sign of life, or the wait is over.
    fn wake(&mut self, found: &mut Option<Box<Found>>) -> Step {
        let now = Instant::now();
        let found = found.as_deref();
        // A snapshot that has begun is sent whole.
        let may_end = found.is_none_or(|found| found.begun.is_empty());
        let has_events = found.is_some_and(|found| found.events > 0);
        if may_end && has_events && self.is_there(found) {
            return Step::Complete;
        }
        if may_end && self.until(has_events) <= now {
            if self.is_there(found) || self.is_late {
                return Step::Complete;
            }
            (self.is_late, self.answers_at_once) = (true, true);
            if self.until(has_events) <= now {
                return Step::Complete;
            }
        }
        let (beat, until) = (self.opened.connection.beat(), self.look_at(has_events));
        self.timer.as_mut().reset(if until > now { beat.min(until) } else { beat });
        Step::More
    }

    /// When to look again: at the end of the wait, or sooner where only changes since a snapshot are missing.
    fn look_at(&self, has_events: bool) -> Instant {
        let until = self.until(has_events);
        match has_events && self.are_ready() {
            true => until.min(Instant::now() + LOOK),
            false => until,
        }
    }

    /// Takes the next frame, and those that are ready behind it.
    async fn step(&mut self, found: &mut Option<Box<Found>>) -> Step {
        let next = tokio::select! {
            biased;
            next = self.opened.connection.next() => next,
            () = self.timer.as_mut() => return self.wake(found),
        };
        // Draining, or the right has ended: what has come is answered all the same.
        let Ok(frame) = next else { return Step::Complete };
        self.take(frame, found);
        let has_room =
            |found: &mut Option<Box<Found>>| found.as_mut().is_none_or(|it| it.has_room());
        let mut is_room = has_room(found);
        while is_room && let Some(frame) = self.opened.connection.next_ready() {
            self.take(frame, found);
            is_room = has_room(found);
        }
        let (has_events, is_whole) = match found {
            Some(found) => (found.events > 0, found.begun.is_empty()),
            None => (false, true),
        };
        let has_come = has_events || self.answers_at_once;
        match is_whole {
            true if has_come && (self.is_there(found.as_deref()) || !is_room) => Step::Complete,
            true if has_events => self.hold(),
            false if !is_room => Step::Full,
            _ => Step::More,
        }
    }

    /// What has come waits for the rest, but not for ever.
    fn hold(&mut self) -> Step {
        if self.until(true) <= Instant::now() {
            return Step::Complete;
        }
        let next = self.look_at(true);
        if self.timer.deadline() > next {
            self.timer.as_mut().reset(next);
        }
        Step::More
    }

    /// Nothing is held for frames that say only how far the client is: almost all polls wait, and have
    /// had no others.
    fn take(&mut self, frame: Frame, found: &mut Option<Box<Found>>) {
        let Opened { connection, open, .. } = &self.opened;
        let mark = Mark::of(&frame, connection, &open.handler.pace.ids);
        if let Some(id) = mark.id(&frame) {
            self.resume = Some(id);
        }
        let is_ready = matches!(frame.kind, FrameKind::Ready(..));
        self.ready = self.ready.saturating_add(u16::from(is_ready));
        if matches!(
            frame.kind,
            FrameKind::Position(_) | FrameKind::Keepalive | FrameKind::Ready(_, None)
        ) {
            return;
        }
        let found = found.get_or_insert_default();
        match frame.kind {
            FrameKind::Ready(..) => drop(found.begun.remove(&frame.stream)),
            FrameKind::Snapshot(_) => {
                found.begun.insert(frame.stream);
                found.has_snapshot = true;
            }
            FrameKind::End(ended) => {
                found.begun.remove(&frame.stream);
                found.retry = found.retry.max(ended.retry());
            }
            // The last two were nothing to be held.
            FrameKind::Delivery(_)
            | FrameKind::Document(_)
            | FrameKind::Reset(..)
            | FrameKind::Position(_)
            | FrameKind::Keepalive => {}
        }
        let begin = found.pieces.len();
        if found.events > 0 {
            found.pieces.push(Bytes::from_static(b","));
        }
        POLL.encode(&frame, &mark, &mut found.pieces);
        let taken = |piece: &Bytes| piece.len() + size_of::<Bytes>();
        found.size += found.pieces[begin..].iter().map(taken).sum::<usize>();
        found.events += 1;
        if let FrameKind::Delivery(delivery) = frame.kind {
            found.sent.push((frame.stream, delivery));
        }
    }
}

impl BegunPoll {
    /// Sends the answer as its client takes it. The head has been sent.
    pub async fn serve<S: Sink>(&mut self, sink: &mut S) -> Ending {
        let BegunPoll { polling, found } = self;
        let mut pieces = vec![Bytes::from_static(BEGIN)];
        let mut step = Step::Full;
        loop {
            pieces.append(&mut found.get_or_insert_default().pieces);
            if step == Step::Complete {
                pieces.push(Bytes::from(polling.end()));
            }
            let Opened { connection, open } = &mut polling.opened;
            let pace = &open.handler.pace;
            let pieces = std::mem::take(&mut pieces);
            let sent = transport::send_large(sink, &mut connection.control, pace, pieces).await;
            if let Err(ending) = sent {
                return ending;
            }
            let held = found.get_or_insert_default();
            transport::count(&pace.metrics, connection, &std::mem::take(&mut held.sent));
            if step == Step::Complete {
                return Ending::clean(Ended::ClientGone);
            }
            held.was_sent();
            step = tokio::select! {
                biased;
                step = polling.step(found) => step,
                () = sink.closed() => return Ending::cut(Ended::ClientGone),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_waits_a_minute_at_most() {
        assert_eq!(wait_of(None).unwrap(), WAIT);
        assert_eq!(wait_of(Some("0")).unwrap(), Duration::ZERO);
        assert_eq!(wait_of(Some("0s")).unwrap(), Duration::ZERO);
        assert_eq!(wait_of(Some("60s")).unwrap(), MAX_WAIT);
        for wrong in ["61s", "1h", "", "20", "soon"] {
            assert!(wait_of(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
