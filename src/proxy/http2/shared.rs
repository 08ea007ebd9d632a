//! What the streams of an HTTP/2 connection share, and limits on the memory that they occupy
//! together.
//!
//! Request heads (cheap to send because of compression), answers that wait for the socket, and
//! uploads that the app does not take each have a fixed allowance per connection. Beyond it, they
//! share a budget of the process.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::{Reason, SendStream};
use parking_lot::Mutex;

use super::{STREAM_WINDOW, Site};
use crate::proxy::connections::Registration;
use crate::proxy::limits::budget::{HEADS, Lease, UNSENT, UPLOADS};

/// Request heads that are held at the same time, in bytes as we hold them.
const MAX_HEADS: usize = 1024 * 1024;
/// Of that, what a connection has without asking.
const OWN_HEADS: usize = 64 * 1024;
/// Of answers, what may wait for the socket.
const MAX_UNSENT: usize = 512 * 1024;
/// Of that, what a connection has without asking.
const OWN_UNSENT: usize = 32 * 1024;

/// A stream whose answer is cut short, and why.
pub type Broken = (SendStream<Bytes>, Reason);

/// What the streams of one HTTP/2 connection share.
pub struct ConnectionState {
    pub site: Arc<Site>,
    pub peer: Option<IpAddr>,
    pub registration: Registration,
    to_connection: Mutex<ToConnection>,
    given_up: AtomicUsize,
    /// Streams for which more is to be done than to wait until the client has taken an answer of ours.
    working: Mutex<usize>,
    /// Uploads that the app does not take, and that have a place of their own.
    stuck: AtomicU32,
    heads: AtomicUsize,
    unsent: AtomicUsize,
    /// Streams that wait for others to be sent.
    waiting: Mutex<Vec<Waker>>,
}

/// What the connection's task has to do. Streams whose answers are cut short are reset by it, behind
/// what they have sent so far: h2 drops what is still queued on a stream that is reset.
#[derive(Default)]
struct ToConnection {
    broken: Vec<Broken>,
    waker: Option<Waker>,
}

impl ConnectionState {
    /// `peer` is the other end of the connection, before any trusted proxy is considered.
    pub fn new(
        site: Arc<Site>,
        peer: Option<IpAddr>,
        registration: Registration,
    ) -> ConnectionState {
        ConnectionState {
            site,
            peer,
            registration,
            to_connection: Mutex::default(),
            given_up: AtomicUsize::new(0),
            working: Mutex::new(0),
            stuck: AtomicU32::new(0),
            heads: AtomicUsize::new(0),
            unsent: AtomicUsize::new(0),
            waiting: Mutex::default(),
        }
    }

    /// A request came. `None`: the connection was closed to make room for others.
    pub fn begin(self: &Arc<ConnectionState>) -> Option<Working> {
        let mut working = self.working.lock();
        if !self.registration.work() {
            return None;
        }
        *working += 1;
        drop(working);
        Some(Working(self.clone()))
    }

    /// Has the connection's task reset a stream.
    pub fn put_broken(&self, broken: Broken) {
        let mut to = self.to_connection.lock();
        to.broken.push(broken);
        to.wake();
    }

    /// For the connection's task, which is woken when there is more to do.
    pub fn take_broken(&self, waker: &Waker) -> Vec<Broken> {
        let mut to = self.to_connection.lock();
        if !to.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            to.waker = Some(waker.clone());
        }
        std::mem::take(&mut to.broken)
    }

    /// A client has given up a request before it had an answer.
    pub fn give_up(&self) {
        self.given_up.fetch_add(1, Ordering::AcqRel);
        self.to_connection.lock().wake();
    }

    /// How many requests were given up before they had an answer: floods of resets count here.
    pub fn given_up(&self) -> usize {
        self.given_up.load(Ordering::Acquire)
    }

    /// How many uploads wait for the app in places of their own.
    pub fn stuck(&self) -> u32 {
        self.stuck.load(Ordering::Acquire)
    }

    /// A place for an upload that the app does not take; its client may send as much on others.
    pub fn stick(self: &Arc<ConnectionState>) -> Option<Stuck> {
        let lease = UPLOADS.take(usize::try_from(STREAM_WINDOW).unwrap_or(usize::MAX))?;
        self.stuck.fetch_add(1, Ordering::AcqRel);
        self.to_connection.lock().wake();
        Some(Stuck { shared: self.clone(), _lease: lease })
    }

    /// Holds a request head of so many bytes; `None` when this connection holds too much of them.
    pub fn hold_head(self: &Arc<ConnectionState>, bytes: usize) -> Option<HeldHead> {
        let before = self.heads.fetch_add(bytes, Ordering::AcqRel);
        let mut held = HeldHead { shared: self.clone(), bytes, lease: None };
        if before + bytes > OWN_HEADS {
            held.lease = HEADS.take(bytes);
            if held.lease.is_none() || before + bytes > MAX_HEADS {
                return None;
            }
        }
        Some(held)
    }

    /// Ready when more of an answer may be given to the connection to be sent.
    pub fn poll_unsent(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_room() {
            return Poll::Ready(());
        }
        self.waiting.lock().push(cx.waker().clone());
        // It may have been sent in between.
        if self.has_room() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn has_room(&self) -> bool {
        let unsent = self.unsent.load(Ordering::Acquire);
        unsent < OWN_UNSENT || (unsent < MAX_UNSENT && UNSENT.has_left())
    }

    /// Counts a piece of an answer until it is sent.
    pub fn counted(self: &Arc<ConnectionState>, piece: Bytes) -> Bytes {
        if piece.is_empty() {
            return piece;
        }
        let before = self.unsent.fetch_add(piece.len(), Ordering::AcqRel);
        let lease = (before >= OWN_UNSENT).then(|| UNSENT.take(piece.len())).flatten();
        Bytes::from_owner(Counted { piece, shared: self.clone(), _lease: lease })
    }
}

impl ToConnection {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// A stream that is not only waiting for its client. A connection without one goes when there is no
/// room: whoever takes none of our answers must not keep its descriptor.
pub struct Working(Arc<ConnectionState>);

impl Drop for Working {
    fn drop(&mut self) {
        let mut working = self.0.working.lock();
        *working -= 1;
        if *working == 0 {
            self.0.registration.rest();
        }
    }
}

/// See [`ConnectionState::stick`]. Given back when dropped.
pub struct Stuck {
    shared: Arc<ConnectionState>,
    _lease: Lease,
}

impl Drop for Stuck {
    fn drop(&mut self) {
        self.shared.stuck.fetch_sub(1, Ordering::AcqRel);
        self.shared.to_connection.lock().wake();
    }
}

/// See [`ConnectionState::hold_head`]. Given back when dropped.
pub struct HeldHead {
    shared: Arc<ConnectionState>,
    bytes: usize,
    lease: Option<Lease>,
}

impl Drop for HeldHead {
    fn drop(&mut self) {
        self.shared.heads.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// A piece of an answer that is not sent yet.
struct Counted {
    piece: Bytes,
    shared: Arc<ConnectionState>,
    _lease: Option<Lease>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.piece
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.shared.unsent.fetch_sub(self.piece.len(), Ordering::AcqRel);
        let waiting = std::mem::take(&mut *self.shared.waiting.lock());
        waiting.into_iter().for_each(Waker::wake);
    }
}
