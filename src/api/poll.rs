//! Long polling: one response with the events so far, and the position to continue from.
//!
//! A response is whole before it is sent, as long as the budget for such responses has room for it.
//! The documents of a larger snapshot are sent as the client takes them, as on a stream: a client that
//! takes nothing holds its place among them, not the documents.

use std::collections::HashSet;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::time::{Instant, Sleep, sleep_until};

use super::capacity::{ByteBudget, Lease};
use super::envelope;
use super::problem::Problem;
use super::reserved::{Open, Opened, Plain};
use super::transport::{self, Encoder, Ending, Mark, Sink};
use crate::feed::routes::Delivery;
use crate::session::connection::Frame;
use crate::session::control::Ended;
use crate::session::subscription::FrameKind;

/// How long a poll waits that does not say, and how long at most.
const WAIT: Duration = Duration::from_secs(20);
const MAX_WAIT: Duration = Duration::from_secs(60);
/// How long a poll may read what its client has missed, whatever `wait` says: one that never got
/// as far would answer with nothing, and the next one begin again.
const CATCH_UP: Duration = Duration::from_secs(10);
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

    fn encode(&self, frame: &Frame, mark: &Mark<'_>, out: &mut Vec<Bytes>) {
        envelope::encode(frame, mark, out);
    }
}

/// A poll that was let in.
pub struct Polling {
    pub opened: Opened,
    pub wait: Duration,
    /// It came without an id, or its wait is over: it is answered as soon as nothing is missing.
    pub answers_at_once: bool,
    /// Where to go on, when nothing has come.
    pub resume: Option<Box<str>>,
    /// Of the head, beside those that all answers to polls have.
    pub fields: Vec<(&'static str, String)>,
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
    /// When it has waited long enough.
    until: Instant,
}

/// What has come.
#[derive(Default)]
struct Found {
    pieces: Vec<Bytes>,
    /// Of what has come, with what was sent before.
    size: usize,
    events: usize,
    ready: usize,
    /// Streams whose snapshots have begun and are not complete: those go into one answer.
    begun: HashSet<u16>,
    sent: Vec<(u16, Arc<Delivery>)>,
    leases: Vec<Lease>,
    /// How large it may become by these, or before it is sent as far as it is.
    room: usize,
    /// Whether it is sent as it comes.
    is_sent: bool,
    /// Whether the wait is over, and what the client has missed is still being read.
    is_late: bool,
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
    match crate::config::parse_duration(text) {
        Ok(wait) if wait <= MAX_WAIT => Ok(wait),
        _ => Err(Problem::new(400, "`wait` is a duration of at most 60s, as 20s")),
    }
}

impl Polling {
    /// Waits for the first event, and answers with what has come by then. What the client has missed is
    /// read first, which `wait` does not cut short. It stays where it is: a future that owned it would
    /// have room for it twice.
    pub async fn answer(mut self: Box<Self>) -> PollAnswer {
        // Boxed when there is something: almost all polls wait.
        let mut found: Option<Box<Found>> = None;
        let until = Instant::now() + self.wait;
        {
            let mut over = pin!(sleep_until(until));
            loop {
                match self.step(over.as_mut(), &mut found).await {
                    Step::Complete => break,
                    Step::More => {}
                    Step::Full => {
                        let fields = self.fields();
                        let begun = BegunPoll { polling: self, found, until };
                        return PollAnswer::Begun(Box::new(begun), fields);
                    }
                }
            }
        }
        let mut found = found.unwrap_or_default();
        let (text, headers) = (self.end(), self.fields());
        let Opened { mut connection, open } = self.opened;
        transport::count(&open.handler.pace.metrics, &mut connection, &found.sent);
        let end = End { text, _leases: found.leases, _open: open };
        let mut body = vec![Bytes::from_static(BEGIN)];
        body.append(&mut found.pieces);
        body.push(Bytes::from_owner(end));
        PollAnswer::Whole(Plain { status: 200, headers, body })
    }

    /// All fields of the head.
    fn fields(&mut self) -> Vec<(&'static str, String)> {
        let mut fields = fields_of(POLL);
        fields.append(&mut self.fields);
        fields
    }

    fn end(&self) -> String {
        format!("],\"resume\":{}}}", json!(self.resume))
    }

    /// Takes the next frame, and those that are ready behind it. `over`: when it has waited enough.
    async fn step(&mut self, mut over: Pin<&mut Sleep>, found: &mut Option<Box<Found>>) -> Step {
        let next = tokio::select! {
            biased;
            next = self.opened.connection.next() => next,
            () = over.as_mut(), if found.as_ref().is_none_or(|it| it.begun.is_empty()) => {
                let found = found.get_or_insert_default();
                let is_there = found.ready >= self.opened.connection.len();
                if is_there || found.is_late || self.wait >= CATCH_UP {
                    return Step::Complete;
                }
                found.is_late = true;
                self.answers_at_once = true;
                let until = over.deadline() + (CATCH_UP - self.wait);
                over.reset(until);
                return Step::More;
            }
        };
        // Draining, or the right has ended: what has come is answered all the same.
        let Ok(frame) = next else { return Step::Complete };
        let found = found.get_or_insert_default();
        self.take(frame, found);
        let mut has_room = found.has_room();
        while has_room && let Some(frame) = self.opened.connection.next_ready() {
            self.take(frame, found);
            has_room = found.has_room();
        }
        let is_there = found.ready >= self.opened.connection.len();
        let has_come = found.events > 0 || (self.answers_at_once && is_there);
        match found.begun.is_empty() {
            true if has_come => Step::Complete,
            false if !has_room => Step::Full,
            _ => Step::More,
        }
    }

    fn take(&mut self, frame: Frame, found: &mut Found) {
        let Opened { connection, open, .. } = &self.opened;
        let mark = Mark::of(&frame, connection, &open.handler.pace.ids);
        if let Some(id) = mark.id(&frame) {
            self.resume = Some(id.into());
        }
        match frame.kind {
            FrameKind::Position(_) | FrameKind::Keepalive => return,
            FrameKind::Ready(_, documents) => {
                found.ready += 1;
                found.begun.remove(&frame.stream);
                if documents.is_none() {
                    return;
                }
            }
            FrameKind::Snapshot(_) => drop(found.begun.insert(frame.stream)),
            FrameKind::End(ended) => {
                found.begun.remove(&frame.stream);
                if let Some(retry) = ended.retry() {
                    self.fields.push(("Retry-After", retry.as_secs().to_string()));
                }
            }
            FrameKind::Delivery(_) | FrameKind::Document(_) | FrameKind::Reset(..) => {}
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
        let BegunPoll { polling, found, until } = self;
        let mut over = pin!(sleep_until(*until));
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
                step = polling.step(over.as_mut(), found) => step,
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
        assert_eq!(wait_of(Some("0s")).unwrap(), Duration::ZERO);
        assert_eq!(wait_of(Some("60s")).unwrap(), MAX_WAIT);
        for wrong in ["61s", "1h", "", "20", "soon"] {
            assert!(wait_of(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
