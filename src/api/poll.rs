//! Long polling: one response with the events so far, and the position to continue from.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::time::sleep;

use super::capacity::{ByteBudget, Lease};
use super::envelope;
use super::problem::Problem;
use super::reserved::{Open, Opened, Plain};
use super::transport::{self, Encoder, Mark};
use crate::feed::routes::Delivery;
use crate::session::connection::Frame;
use crate::session::subscription::FrameKind;

/// How long a poll waits that does not say, and how long at most.
const WAIT: Duration = Duration::from_secs(20);
const MAX_WAIT: Duration = Duration::from_secs(60);
/// So much goes into one answer, and one event more.
const MAX_BYTES: usize = 1024 * 1024;
/// What answers may hold beyond their first bytes while their clients do not take them: for the
/// process. Without more of it, an answer ends sooner, and the next poll goes on from there.
static ANSWERS: ByteBudget = ByteBudget::new(32 * 1024 * 1024);
/// What an answer has without asking, and how much it asks for at a time.
const OWN: usize = 8 * 1024;
const STEP: usize = 64 * 1024;

/// The encoder of what is between the brackets.
#[derive(Debug)]
struct Poll;

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
    /// It came without an id: it is answered as soon as there is one.
    pub answers_at_once: bool,
    /// Where to go on, when nothing has come.
    pub resume: Option<String>,
    pub fields: Vec<(&'static str, String)>,
}

/// What has come.
#[derive(Default)]
struct Found {
    pieces: Vec<Bytes>,
    size: usize,
    events: usize,
    ready: usize,
    /// Streams whose snapshots have begun and are not complete: those go into one answer.
    begun: HashSet<u16>,
    sent: Vec<(u16, Arc<Delivery>)>,
    leases: Vec<Lease>,
    /// How large it may become by these.
    room: usize,
}

impl Found {
    /// Whether more goes into this answer.
    fn has_room(&mut self) -> bool {
        if !self.begun.is_empty() || self.size < self.room.max(OWN) {
            return true;
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
    /// Waits for the first event, and answers with what has come by then. It stays where it is: a future
    /// that owned it would have room for it twice.
    pub async fn answer(mut self: Box<Self>) -> Plain {
        let mut found = Found::default();
        {
            let mut over = pin!(sleep(self.wait));
            loop {
                let next = tokio::select! {
                    biased;
                    next = self.opened.connection.next() => next,
                    () = &mut over, if found.begun.is_empty() => break,
                };
                // Draining, or the right has ended: what has come is answered all the same.
                let Ok(frame) = next else { break };
                self.take(frame, &mut found);
                while found.has_room()
                    && let Some(frame) = self.opened.connection.next_ready()
                {
                    self.take(frame, &mut found);
                }
                let is_there = found.ready >= self.opened.connection.len();
                let has_come = found.events > 0 || (self.answers_at_once && is_there);
                if has_come && found.begun.is_empty() {
                    break;
                }
            }
        }
        let Opened { mut connection, open } = self.opened;
        transport::count(&open.handler.pace.metrics, &mut connection, &found.sent);
        let text = format!("],\"resume\":{}}}", json!(self.resume));
        let end = End { text, _leases: found.leases, _open: open };
        let mut body = vec![Bytes::from_static(b"{\"events\":[")];
        body.append(&mut found.pieces);
        body.push(Bytes::from_owner(end));
        Plain { status: 200, headers: self.fields, body }
    }

    fn take(&mut self, frame: Frame, found: &mut Found) {
        let Opened { connection, open, .. } = &self.opened;
        let mark = Mark::of(&frame, connection, &open.handler.pace.ids);
        if let Some(id) = mark.id(&frame) {
            self.resume = Some(id);
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
        found.size += found.pieces[begin..].iter().map(Bytes::len).sum::<usize>();
        found.events += 1;
        if let FrameKind::Delivery(delivery) = frame.kind {
            found.sent.push((frame.stream, delivery));
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
