//! What every transport shares: where its bytes go, how frames become bytes, and the loop that
//! sends them.
//!
//! Knows neither the HTTP version nor the socket: it writes to a [`Sink`], which the proxy provides
//! for each protocol. A transport is an [`Encoder`].

pub(super) mod latest;
pub mod relay;

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use relay::Relays;
use tokio::time::{Instant, sleep};

use crate::api::negotiation::Transport;
use crate::event::json;
use crate::event::seal::Ids;
use crate::feed::routes::{Delivery, DeliveryKind};
use crate::metrics::Metrics;
use crate::session::bookmark::Bookmark;
use crate::session::bookmark::Label;
use crate::session::connection::{Connection, Frame};
use crate::session::control::{Control, Ended};
use crate::session::subscription::FrameKind;

/// How many bytes go together, at most; a larger event goes alone.
const MAX_WRITE: usize = 64 * 1024;
/// A larger event goes in pieces of so many bytes, for each of which a client has
/// `clients.send_timeout`: what it gets over a slow line in several minutes is not lost to it.
const PIECE: usize = 256 * 1024;
/// What a client that an operator ended has to take what is under way.
const LAST_WRITE: Duration = Duration::from_secs(5);

/// Where a stream's bytes go.
pub trait Sink: Send {
    /// Sends the pieces in order and flushes, behind the rest of what was written while the task waited; with
    /// none, that alone. Many clients may be in the middle of the same ones: a sink copies no more than is
    /// worth it.
    fn send(&mut self, pieces: &[Bytes]) -> impl Future<Output = io::Result<()>> + Send;
    /// Resolves when the client has gone, or is behind. May be dropped and called again.
    fn closed(&mut self) -> impl Future<Output = ()> + Send;
    /// Whether the client has not taken all that was written while its task waited, or cannot.
    fn is_behind(&self) -> bool {
        false
    }
    /// Where others can write to it while its task waits, has the connection's events sent that way.
    fn share(&mut self, _connection: &mut Connection, _transport: Transport, _pace: &Pace) {}
}

/// Frames to bytes. One for all connections of its transport: it holds nothing.
pub trait Encoder: Sync {
    /// The head's fields, beside those of every answer.
    fn headers(&self) -> &'static [(&'static str, &'static str)];
    /// What comes before any frame, if anything; `retry` is when a client should come back after a
    /// cut.
    fn first(&self, retry: Duration) -> Option<Bytes>;
    /// Whose frames these are.
    fn transport(&self) -> Transport;
    /// One frame, as pieces behind those that are there. What a delivery holds is made once, and
    /// shared by all who are sent it.
    fn encode(&self, frame: &Frame, mark: &Mark<'_>, out: &mut Vec<Bytes>);
}

/// What a client is to know of a frame beside what it says.
#[derive(Debug)]
pub struct Mark<'a> {
    /// The stream, where a connection has several.
    pub label: Option<Label<'a>>,
    /// How clients see positions.
    pub ids: &'a Ids,
    /// Where one id says it of all streams.
    bookmark: Option<Bookmark>,
    /// Whether no stream of the connection is left.
    pub is_last: bool,
}

impl<'a> Mark<'a> {
    /// A frame's, by its connection; `ids` is how clients see positions.
    pub fn of(frame: &Frame, connection: &'a Connection, ids: &'a Ids) -> Mark<'a> {
        let label = connection.label(frame.stream);
        let bookmark = label.as_ref().and_then(|_| connection.bookmark());
        let ends = matches!(frame.kind, FrameKind::End(_));
        Mark { label, ids, bookmark, is_last: ends && connection.is_empty() }
    }

    /// That of a connection with one stream.
    pub fn plain(ids: &'a Ids) -> Mark<'a> {
        Mark { label: None, ids, bookmark: None, is_last: false }
    }

    /// What to come back with after this frame, where it says so. Where one id says it of all streams,
    /// a snapshot that takes the place of what a client has already does: that stream is no longer in
    /// it, and who is cut off before `ready` begins that snapshot again.
    pub fn id(&self, frame: &Frame) -> Option<Arc<str>> {
        let position = frame.kind.position();
        match &self.bookmark {
            Some(bookmark) if position.is_some() || frame.kind.replaces_documents() => {
                bookmark.to_text(self.ids).map(Arc::from)
            }
            Some(_) => None,
            None => position.map(|position| self.ids.show_kept(&position)),
        }
    }

    /// Whether one id says it of all streams.
    pub fn has_shared_id(&self) -> bool {
        self.bookmark.is_some()
    }

    /// The members that name the stream, at the beginning of a JSON object: with a comma at their
    /// end, or nothing.
    pub fn members(&self) -> String {
        let Some(label) = &self.label else { return String::new() };
        let stream = json::text(label.stream());
        match label.alias() {
            // As its client chose it: what ends lines is escaped, as within documents.
            Some(alias) => format!("\"stream\":{stream},\"as\":{},", json::text(alias)),
            None => format!("\"stream\":{stream},"),
        }
    }
}

/// How a stream went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    pub ended: Ended,
    /// Whether it may have been within an event: what came after it would be taken for a part of
    /// that.
    pub is_cut: bool,
}

impl Ending {
    /// Between two frames.
    pub(super) fn clean(ended: Ended) -> Ending {
        Ending { ended, is_cut: false }
    }

    /// Perhaps within one.
    pub(super) fn cut(ended: Ended) -> Ending {
        Ending { ended, is_cut: true }
    }
}

/// What all connections have in common.
#[derive(Debug)]
pub struct Pace {
    pub metrics: Arc<Metrics>,
    /// How clients see positions.
    pub ids: Ids,
    /// `clients.retry`
    pub retry: Duration,
    /// How long a client may take nothing.
    pub send_timeout: Duration,
    pub relays: Arc<Relays>,
}

/// Sends a connection's frames until it ends. The head of the answer has been sent.
///
/// There are many of these, almost all of them idle: what they hold meanwhile is small, or boxed
/// where few have it.
pub async fn serve<S: Sink>(
    sink: &mut S,
    connection: &mut Connection,
    encoder: &dyn Encoder,
    pace: &Pace,
) -> Ending {
    // Boxed, and gone before the stream idles.
    let begun = Box::pin(async {
        match encoder.first(pace.retry) {
            Some(first) => send(sink, &mut connection.control, pace, &[first]).await,
            None => Ok(()),
        }
    });
    if let Err(ending) = begun.await {
        return ending;
    }
    loop {
        share(sink, connection, encoder, pace);
        let next = tokio::select! {
            biased;
            next = connection.next() => Some(next),
            () = sink.closed() => None,
        };
        let sent = match next {
            Some(Ok(frame)) => deliver(sink, connection, encoder, pace, frame).await,
            Some(Err(ended)) => return Ending::clean(ended),
            None if sink.is_behind() => send(sink, &mut connection.control, pace, &[]).await,
            None => return Ending::clean(Ended::ClientGone),
        };
        if let Err(ending) = sent {
            return ending;
        }
    }
}

/// Has the connection's events sent while its task waits, if that is worth it.
pub(super) fn share<S: Sink>(
    sink: &mut S,
    connection: &mut Connection,
    encoder: &dyn Encoder,
    pace: &Pace,
) {
    if connection.wants_outlet() {
        sink.share(connection, encoder.transport(), pace);
    }
}

/// Sends a frame, and those that are ready behind it.
///
/// # Errors
/// How the stream ended meanwhile.
pub(super) async fn deliver<S: Sink>(
    sink: &mut S,
    connection: &mut Connection,
    encoder: &dyn Encoder,
    pace: &Pace,
    frame: Frame,
) -> Result<(), Ending> {
    let Gathered { pieces, large, sent } = gather(connection, encoder, &pace.ids, frame);
    if !pieces.is_empty() {
        send(sink, &mut connection.control, pace, &pieces).await?;
    }
    if !large.is_empty() {
        Box::pin(send_large(sink, &mut connection.control, pace, large)).await?;
    }
    count(&pace.metrics, connection, &sent);
    Ok(())
}

/// Sends more than a client may take within `clients.send_timeout`, piece by piece. Who has lost the
/// right to it is not given the rest of a large event.
///
/// # Errors
/// How the stream ended meanwhile.
pub(super) async fn send_large<S: Sink>(
    sink: &mut S,
    control: &mut Control,
    pace: &Pace,
    pieces: Vec<Bytes>,
) -> Result<(), Ending> {
    let mut rest: VecDeque<Bytes> = pieces.into();
    while !rest.is_empty() {
        send(sink, control, pace, &take_piece(&mut rest)).await?;
        let over = poll_fn(|cx| Poll::Ready(pin!(control.ended()).poll(cx))).await;
        if !rest.is_empty()
            && let Poll::Ready(ended @ (Ended::Unauthorized | Ended::AuthUnavailable)) = over
        {
            return Err(Ending::cut(ended));
        }
    }
    Ok(())
}

/// The next [`PIECE`] bytes, as slices of what is there.
fn take_piece(rest: &mut VecDeque<Bytes>) -> Vec<Bytes> {
    let (mut taken, mut room) = (Vec::new(), PIECE);
    while room > 0
        && let Some(mut piece) = rest.pop_front()
    {
        if piece.len() > room {
            rest.push_front(piece.split_off(room));
        }
        room -= piece.len();
        taken.push(piece);
    }
    taken
}

/// Sends these pieces, within `clients.send_timeout`.
///
/// # Errors
/// How the stream ended meanwhile: the client has gone or takes nothing, or the connection is over.
pub(super) async fn send<S: Sink>(
    sink: &mut S,
    control: &mut Control,
    pace: &Pace,
    pieces: &[Bytes],
) -> Result<(), Ending> {
    let mut sending = pin!(sink.send(pieces));
    let at_once = poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx))).await;
    let sent = match at_once {
        Poll::Ready(sent) => sent,
        // Boxed, as few writes wait: there is no room for timers in each idle stream.
        Poll::Pending => {
            let waited = Box::pin(async {
                let late = sleep(pace.send_timeout);
                let mut late = pin!(late);
                loop {
                    tokio::select! {
                        biased;
                        sent = &mut sending => return Some(sent),
                        () = &mut late => return None,
                        // Asked for all the while, so that it is known in time; what is under way was
                        // given before, and the client is told why when it has taken that.
                        ended = control.ended(), if control.over().is_none() => {
                            if ended == Ended::Operator {
                                let soon = late.deadline().min(Instant::now() + LAST_WRITE);
                                late.as_mut().reset(soon);
                            }
                        }
                    }
                }
            });
            match waited.await {
                Some(sent) => sent,
                None => return Err(Ending::cut(control.over().unwrap_or(Ended::Stalled))),
            }
        }
    };
    sent.map_err(|_| Ending::cut(Ended::ClientGone))
}

/// What is to be sent next.
#[derive(Default)]
struct Gathered {
    /// Small pieces that go into one write.
    pieces: Vec<Bytes>,
    /// What goes behind them by itself.
    large: Vec<Bytes>,
    /// The deliveries among all of it, each with its stream.
    sent: Vec<(u16, Arc<Delivery>)>,
}

/// Takes everything that is ready, as much as goes together.
fn gather(connection: &mut Connection, encoder: &dyn Encoder, ids: &Ids, first: Frame) -> Gathered {
    let mut gathered = Gathered::default();
    let mut size = 0;
    let mut next = Some(first);
    while let Some(frame) = next {
        let begin = gathered.pieces.len();
        encoder.encode(&frame, &Mark::of(&frame, connection, ids), &mut gathered.pieces);
        let length: usize = gathered.pieces[begin..].iter().map(Bytes::len).sum();
        size += length;
        if length > MAX_WRITE {
            gathered.large = gathered.pieces.split_off(begin);
        }
        if let FrameKind::Delivery(delivery) = frame.kind {
            gathered.sent.push((frame.stream, delivery));
        }
        next = if size < MAX_WRITE { connection.next_ready() } else { None };
    }
    gathered
}

/// Counts what was written, by stream number, and how long it took since the server wrote it.
pub(super) fn count(metrics: &Metrics, connection: &mut Connection, sent: &[(u16, Arc<Delivery>)]) {
    let now = wall_millis();
    for (stream, delivery) in sent {
        if matches!(delivery.kind, DeliveryKind::Event(_)) {
            connection.count_sent(*stream);
            observe(metrics, delivery, now);
        }
    }
}

/// In milliseconds since 1970.
fn wall_millis() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis())
}

/// How long an event took that is written at this time.
fn observe(metrics: &Metrics, delivery: &Delivery, now: u128) {
    if let Some(wall) = delivery.wall_millis.and_then(|wall| u128::try_from(wall).ok()) {
        // Clocks differ: an event from the future took no time.
        let millis = u32::try_from(now.saturating_sub(wall)).unwrap_or(u32::MAX);
        metrics.delivery_seconds.observe(f64::from(millis) / 1000.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::Drain;
    use crate::session::listeners::Listeners;

    const STALL: Duration = Duration::from_secs(60);

    /// Takes so long for each piece.
    struct Slow {
        pause: Duration,
        taken: Vec<u8>,
        sizes: Vec<usize>,
    }

    impl Sink for Slow {
        async fn send(&mut self, pieces: &[Bytes]) -> io::Result<()> {
            sleep(self.pause).await;
            self.sizes.push(pieces.iter().map(Bytes::len).sum());
            pieces.iter().for_each(|piece| self.taken.extend_from_slice(piece));
            Ok(())
        }

        async fn closed(&mut self) {
            std::future::pending().await
        }
    }

    async fn sent(pause: Duration, event: &Bytes, drain: &Drain) -> (Result<(), Ending>, Slow) {
        let mut sink = Slow { pause, taken: Vec::new(), sizes: Vec::new() };
        let listener = Arc::new(Listeners::default()).add(0, None);
        let mut control = Control::new(drain, Duration::ZERO, None, listener);
        let (metrics, relays) = (Arc::default(), Arc::default());
        let pace = Pace { metrics, ids: Ids::Token, retry: STALL, send_timeout: STALL, relays };
        let sent = send_large(&mut sink, &mut control, &pace, vec![event.clone()]).await;
        (sent, sink)
    }

    #[test]
    fn what_a_client_calls_its_streams_ends_no_line() {
        let label = Label::new("chat", Some("\u{85}\n\r\u{2028}\u{2029}\"é"));
        let mark = Mark { label: Some(label), ..Mark::plain(&Ids::Token) };
        let expected = r#""stream":"chat","as":"\u0085\n\r\u2028\u2029\"é","#;
        assert_eq!(mark.members(), expected);
    }

    // Otherwise it would be cut in its middle, and again each time that the client comes back.
    #[tokio::test(start_paused = true)]
    async fn a_large_event_may_take_longer_than_a_stall() {
        let event: Bytes = (0..3 * PIECE + 1).map(|at| (at % 251) as u8).collect();
        let drain = Drain::new(Duration::from_secs(1));
        let (result, sink) = sent(STALL - Duration::from_secs(1), &event, &drain).await;
        assert_eq!((result, sink.taken == *event), (Ok(()), true));
        assert_eq!(sink.sizes, [PIECE, PIECE, PIECE, 1]);
        let (result, sink) = sent(STALL + Duration::from_secs(1), &event, &drain).await;
        assert_eq!((result, sink.taken.len()), (Err(Ending::cut(Ended::Stalled)), 0));
        // A drain lets it be finished, and whoever stalls is let go in its name.
        drain.begin();
        let (result, sink) = sent(STALL - Duration::from_secs(1), &event, &drain).await;
        assert_eq!((result, sink.taken == *event), (Ok(()), true));
        let (result, _) = sent(STALL + Duration::from_secs(1), &event, &drain).await;
        assert_eq!(result, Err(Ending::cut(Ended::Draining)));
    }
}
