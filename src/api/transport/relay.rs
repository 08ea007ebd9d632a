//! Sends events to clients whose tasks wait: one loop writes to many of them, as a broadcast of a few lines
//! would, and wakes a task only for what takes more than one write.
//!
//! Knows neither the HTTP version nor the socket: it writes to a [`Wire`], which the proxy provides.
//!
//! Invariants:
//!
//! - A task writes nothing while its relay has its follower, and a relay writes nothing while it has none:
//!   both under the relay's lock.
//! - What a client did not take of a write is written before anything else is.
//! - Lock order: the relay, then the route. Who wakes a relay holds neither.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::{Mark, observe, wall_millis};
use crate::api::negotiation::Transport;
use crate::feed::routes::Delivery;
use crate::session::connection::Frame;
use crate::session::subscription::{Follower, FrameKind, Look, Outlet, Source, Unread};

/// More than this is for a client's own task: it may take several writes.
const MOST: usize = 16 * 1024;
/// How many clients a loop serves before others have their turn.
const CHUNK: usize = 32;
/// How often a client is looked at in a row.
const LOOKS: usize = 4;

/// A socket that is written to without waiting.
pub trait Wire: Send + Sync + 'static {
    /// Whether what goes on it is a chunk of HTTP/1.1.
    fn is_chunked(&self) -> bool;
    /// As it goes on the wire: pieces of whole frames, in order.
    fn join(pieces: &[Bytes], is_chunked: bool) -> Bytes;
    /// Writes some of these bytes, or none.
    fn try_write(&self, bytes: &[u8]) -> usize;
    /// Writes some of these bytes, once there is room for them.
    fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;
}

/// What follows the route of a waiting client, and writes to it.
pub struct Relay<W> {
    wire: W,
    transport: Transport,
    relays: Arc<Relays>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// While its task waits: what is followed, and the task.
    waiting: Option<(Follower, Waker)>,
    /// What the client did not take. Boxed, since almost all take everything.
    rest: Option<Box<Rest>>,
    /// While an event is on its way, and from then on if a bug has struck there: the client has to come
    /// back for it.
    is_broken: bool,
}

/// Of a write that was taken in part, or not.
struct Rest {
    bytes: Bytes,
    /// What counts as sent when all of it is taken.
    source: Arc<Source>,
    events: Vec<Arc<Delivery>>,
}

impl<W: Wire> Relay<W> {
    /// Of a client's, which is sent events by this transport. Within the runtime.
    pub fn new(wire: W, transport: Transport, relays: Arc<Relays>) -> Relay<W> {
        relays.runtime.get_or_init(Handle::current);
        Relay { wire, transport, relays, state: Mutex::default() }
    }

    /// The socket.
    pub fn wire(&self) -> &W {
        &self.wire
    }

    /// Whether there is something that has to be written first, or that cannot be.
    pub fn is_behind(&self) -> bool {
        let state = self.state.lock();
        state.rest.is_some() || state.is_broken
    }

    /// Writes what the client did not take before.
    pub fn poll_rest(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.lock();
        if state.is_broken {
            return Poll::Ready(Err(io::ErrorKind::Other.into()));
        }
        let Some(rest) = &mut state.rest else { return Poll::Ready(Ok(())) };
        while !rest.bytes.is_empty() {
            let written = ready!(self.wire.poll_write(cx, &rest.bytes))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            rest.bytes.advance(written);
        }
        let Rest { source, events, .. } = &**rest;
        count(source, events, 1, wall_millis());
        state.rest = None;
        Poll::Ready(Ok(()))
    }

    /// As if a client had not taken these bytes.
    #[cfg(test)]
    pub fn leave(&self, source: Arc<Source>, bytes: &'static [u8]) {
        let bytes = Bytes::from_static(bytes);
        self.state.lock().rest = Some(Box::new(Rest { bytes, source, events: Vec::new() }));
    }

    /// Writes what the client did not take before, and waits for it.
    ///
    /// # Errors
    /// The socket's.
    pub async fn send_rest(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_rest(cx)).await
    }

    /// Sends what there is, as long as it is taken; else wakes the task.
    fn look(self: &Arc<Self>, sent: &mut Sent) {
        let mut state = self.state.lock();
        // Else its task is awake, and looks itself.
        let State { waiting: Some((follower, task)), rest, is_broken } = &mut *state else {
            return;
        };
        *is_broken = true;
        let (is_done, left) = self.give(follower, sent);
        (*is_broken, *rest) = (false, left);
        if !is_done {
            follower.leave_to_task();
            task.wake_by_ref();
        }
    }

    /// Says whether the client has everything, and what it did not take.
    fn give(
        self: &Arc<Self>,
        follower: &mut Follower,
        sent: &mut Sent,
    ) -> (bool, Option<Box<Rest>>) {
        for _ in 0..LOOKS {
            match follower.look(&mut sent.unread, MOST) {
                Look::Events => {
                    follower.note_sent(sent.now);
                    let source = follower.source();
                    let bytes = sent.bytes::<W>(self.transport, self.wire.is_chunked(), source);
                    // An error shows again when the rest is written.
                    let written = self.wire.try_write(&bytes);
                    if written < bytes.len() {
                        let (bytes, events) =
                            (bytes.slice(written..), sent.unread.events().to_vec());
                        return (
                            false,
                            Some(Box::new(Rest { bytes, source: source.clone(), events })),
                        );
                    }
                    sent.count(source);
                }
                Look::Nothing => {
                    let waker = Waker::from(self.clone());
                    if follower.poll_woken(&mut Context::from_waker(&waker)).is_pending() {
                        return (true, None);
                    }
                }
                Look::Other => break,
            }
        }
        (false, None)
    }
}

/// Counts events that so many clients of a stream have taken.
fn count(source: &Source, events: &[Arc<Delivery>], clients: u64, wall: u128) {
    source.count_sent(clients * events.len() as u64);
    for delivery in events {
        for _ in 0..clients {
            observe(&source.shared.metrics, delivery, wall);
        }
    }
}

impl<W: Wire> Outlet for Relay<W> {
    fn follow(self: Arc<Self>, mut follower: Follower, task: &Waker) -> Result<(), Follower> {
        let mut state = self.state.lock();
        if state.rest.is_some() || state.is_broken {
            return Err(follower);
        }
        let waker = Waker::from(self.clone());
        match follower.poll_woken(&mut Context::from_waker(&waker)) {
            Poll::Ready(()) => Err(follower),
            Poll::Pending => {
                state.waiting = Some((follower, task.clone()));
                Ok(())
            }
        }
    }

    fn stop(&self) -> Option<Follower> {
        self.state.lock().waiting.take().map(|(follower, _)| follower)
    }

    fn is_behind(&self) -> bool {
        Relay::is_behind(self)
    }
}

impl<W: Wire> Wake for Relay<W> {
    fn wake(self: Arc<Self>) {
        let relays = self.relays.clone();
        relays.push(self);
    }
}

/// A relay, whatever it writes to.
trait AnyRelay: Send + Sync {
    fn serve(self: Arc<Self>, sent: &mut Sent);
}

impl<W: Wire> AnyRelay for Relay<W> {
    fn serve(self: Arc<Self>, sent: &mut Sent) {
        let looked = catch_unwind(AssertUnwindSafe(|| self.look(sent)));
        if looked.is_err() {
            // It stays broken; whoever took the follower meanwhile sends nothing any more.
            let mut state = self.state.lock();
            if let Some((follower, task)) = &mut state.waiting {
                follower.leave_to_task();
                task.wake_by_ref();
            }
        }
    }
}

/// Those that have something to send, and the loops that send it: as many as there are processors.
#[derive(Default)]
pub struct Relays {
    queue: Mutex<Queue>,
    /// A relay may be woken from anywhere.
    runtime: OnceLock<Handle>,
}

#[derive(Default)]
struct Queue {
    woken: VecDeque<Arc<dyn AnyRelay>>,
    loops: usize,
}

impl Relays {
    fn push(self: &Arc<Self>, relay: Arc<dyn AnyRelay>) {
        let mut queue = self.queue.lock();
        queue.woken.push_back(relay);
        // The first loop for the first one, and another one for each chunk that waits.
        let is_wanted = queue.woken.len() > queue.loops * CHUNK;
        if is_wanted
            && let Some(runtime) = self.runtime.get()
            && queue.loops < runtime.metrics().num_workers()
        {
            queue.loops += 1;
            // First: where the runtime is at its end, the loop is dropped at once, which takes the lock.
            drop(queue);
            runtime.spawn(Loop { relays: self.clone(), is_over: false }.run());
        }
    }

    /// The next ones; `None` ends the loop.
    fn take(&self) -> Option<Vec<Arc<dyn AnyRelay>>> {
        let mut queue = self.queue.lock();
        if queue.woken.is_empty() {
            queue.loops -= 1;
            return None;
        }
        let count = queue.woken.len().min(CHUNK);
        Some(queue.woken.drain(..count).collect())
    }
}

impl fmt::Debug for Relays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relays").finish_non_exhaustive()
    }
}

impl<W: fmt::Debug> fmt::Debug for Relay<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("wire", &self.wire).finish_non_exhaustive()
    }
}

/// One loop.
struct Loop {
    relays: Arc<Relays>,
    is_over: bool,
}

impl Loop {
    async fn run(mut self) {
        while let Some(chunk) = self.relays.take() {
            let mut sent = Sent::new();
            for relay in chunk {
                relay.serve(&mut sent);
            }
            drop(sent);
            tokio::task::yield_now().await;
        }
        self.is_over = true;
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        // With the runtime: nobody is left to serve those that wait, and they hold this.
        let mut queue = self.relays.queue.lock();
        queue.loops -= 1;
        let left = (queue.loops == 0).then(|| std::mem::take(&mut queue.woken));
        drop(queue);
        drop(left);
    }
}

/// What a chunk of clients was sent: read, encoded and counted together, and at one moment.
struct Sent {
    now: Instant,
    /// In milliseconds since 1970.
    wall: u128,
    unread: Unread,
    made: Option<Made>,
    counted: Option<Counted>,
}

/// The bytes of what is unread.
struct Made {
    serial: u64,
    transport: Transport,
    is_chunked: bool,
    bytes: Bytes,
}

/// What was written of it, by so many clients.
struct Counted {
    serial: u64,
    source: Arc<Source>,
    events: Vec<Arc<Delivery>>,
    clients: u64,
}

impl Sent {
    fn new() -> Sent {
        let (now, wall) = (Instant::now(), wall_millis());
        Sent { now, wall, unread: Unread::default(), made: None, counted: None }
    }

    fn bytes<W: Wire>(&mut self, transport: Transport, is_chunked: bool, source: &Source) -> Bytes {
        let serial = self.unread.serial();
        let is_it = |made: &&Made| {
            (made.serial, made.transport, made.is_chunked) == (serial, transport, is_chunked)
        };
        if let Some(made) = self.made.as_ref().filter(is_it) {
            return made.bytes.clone();
        }
        let mark = Mark::plain(&source.shared.ids);
        let mut pieces = Vec::new();
        for delivery in self.unread.events() {
            let frame = Frame { stream: 0, kind: FrameKind::Delivery(delivery.clone()) };
            transport.encoder().encode(&frame, &mark, &mut pieces);
        }
        let bytes = W::join(&pieces, is_chunked);
        self.made = Some(Made { serial, transport, is_chunked, bytes: bytes.clone() });
        bytes
    }

    fn count(&mut self, source: &Arc<Source>) {
        let serial = self.unread.serial();
        match &mut self.counted {
            Some(counted) if counted.serial == serial && Arc::ptr_eq(&counted.source, source) => {
                counted.clients += 1;
            }
            _ => {
                self.flush();
                let (events, source) = (self.unread.events().to_vec(), source.clone());
                self.counted = Some(Counted { serial, source, events, clients: 1 });
            }
        }
    }

    fn flush(&mut self) {
        if let Some(Counted { source, events, clients, .. }) = self.counted.take() {
            count(&source, &events, clients, self.wall);
        }
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Duration, timeout};

    use super::*;
    use crate::feed::{FeedKey, Status};
    use crate::session::subscription::tests::{append, feed, frames, open, shared};
    use crate::session::subscription::{From, Subscription};

    /// A socket with room for so many bytes; one that a bug is in has none to say.
    #[derive(Debug, Default)]
    struct Narrow {
        room: Mutex<usize>,
        taken: Mutex<Vec<u8>>,
        has_bug: bool,
    }

    impl Wire for Narrow {
        fn is_chunked(&self) -> bool {
            false
        }

        fn join(pieces: &[Bytes], _: bool) -> Bytes {
            pieces.concat().into()
        }

        fn try_write(&self, bytes: &[u8]) -> usize {
            assert!(!self.has_bug, "a bug");
            let mut room = self.room.lock();
            let written = bytes.len().min(*room);
            *room -= written;
            self.taken.lock().extend_from_slice(&bytes[..written]);
            written
        }

        fn poll_write(&self, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            match self.try_write(bytes) {
                0 => Poll::Pending,
                written => Poll::Ready(Ok(written)),
            }
        }
    }

    fn relay(room: usize, has_bug: bool, relays: &Arc<Relays>) -> Arc<Relay<Narrow>> {
        let wire = Narrow { room: Mutex::new(room), has_bug, ..Narrow::default() };
        Arc::new(Relay::new(wire, Transport::Ndjson, relays.clone()))
    }

    /// What the relay's client has taken, by the cluster times that are its keys.
    fn taken(relay: &Relay<Narrow>) -> Vec<i64> {
        let text = String::from_utf8(relay.wire.taken.lock().clone()).unwrap();
        let lines =
            text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.map(|line| line["data"]["fullDocument"]["_id"].as_i64().unwrap()).collect()
    }

    /// Waits for the next frame of a stream, and lets the relay write meanwhile; says whether one came.
    async fn waited(subscription: &mut Subscription, relay: &Arc<Relay<Narrow>>) -> bool {
        let outlet: Arc<dyn Outlet> = relay.clone();
        let next = subscription.next(None, Some(&outlet));
        timeout(Duration::from_secs(1), next).await.is_ok()
    }

    fn poll_rest(relay: &Relay<Narrow>) -> Poll<bool> {
        let mut cx = Context::from_waker(Waker::noop());
        relay.poll_rest(&mut cx).map(|written| written.is_ok())
    }

    // Its events would come in the middle of another one.
    #[tokio::test(start_paused = true)]
    async fn what_a_client_did_not_take_is_written_first() {
        let filter = Arc::new(crate::filter::tests::good(""));
        let (shared, relays) = (shared(), Arc::default());
        let feed = feed(&filter, FeedKey::of(&filter), 10);
        feed.set_status(Status::Live);
        let mut subscription = open(&shared, &feed, &filter, From::Now);
        assert_eq!(frames(&mut subscription).await, "ready");
        let relay = relay(500, false, &relays);
        let later = |time: u32| {
            let feed = feed.clone();
            tokio::spawn(async move { append(&feed, time) });
        };
        later(20);
        assert!(!waited(&mut subscription, &relay).await);
        assert_eq!(taken(&relay), [20]);
        // The next one has no room, and the one behind it goes by way of the task.
        *relay.wire.room.lock() = 10;
        later(21);
        assert!(!waited(&mut subscription, &relay).await);
        assert_eq!(poll_rest(&relay), Poll::Pending);
        later(22);
        assert!(waited(&mut subscription, &relay).await);
        *relay.wire.room.lock() = 1000;
        assert_eq!(poll_rest(&relay), Poll::Ready(true));
        assert_eq!(taken(&relay), [20, 21]);
        // From then on as before.
        later(23);
        assert!(!waited(&mut subscription, &relay).await);
        assert_eq!(taken(&relay), [20, 21, 23]);
        assert!(
            shared.metrics.text().contains("sidestream_events_sent_total{stream=\"orders\"} 3")
        );
    }

    // What was to be written is not known to be: who comes back is given it again.
    #[tokio::test(start_paused = true)]
    async fn a_bug_ends_the_connection_that_it_struck_and_no_other() {
        let filter = Arc::new(crate::filter::tests::good(""));
        let (shared, relays) = (shared(), Arc::default());
        let feed = feed(&filter, FeedKey::of(&filter), 10);
        feed.set_status(Status::Live);
        let begin = || open(&shared, &feed, &filter, From::Now);
        let (mut first, mut second) = (begin(), begin());
        assert_eq!(frames(&mut first).await + &frames(&mut second).await, "readyready");
        let (struck, other) = (relay(500, true, &relays), relay(500, false, &relays));
        let appended = async { append(&feed, 20) };
        let waits = (waited(&mut first, &struck), waited(&mut second, &other));
        let (first, second, ()) = tokio::join!(waits.0, waits.1, appended);
        assert!(!first && !second);
        assert_eq!((poll_rest(&struck), taken(&other)), (Poll::Ready(false), vec![20]));
        assert_eq!(relays.queue.lock().loops, 0);
    }

    // The look at a route may be one of the last things that a process does.
    #[test]
    fn whoever_is_woken_when_the_runtime_has_ended_waits_for_nothing() {
        let relays = Arc::default();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let relay = runtime.block_on(async { relay(500, false, &relays) });
        drop(runtime);
        Waker::from(relay.clone()).wake();
        assert_eq!(relays.queue.lock().loops, 0);
        // Nobody holds it any more.
        assert_eq!(Arc::strong_count(&relay), 1);
    }
}
