//! One request and its answer: what the client's connection, the app's connection and pingora's
//! hooks have to tell each other, since pingora itself does not carry it.
//!
//! Who writes when: everything about a request is known before its last byte is passed on, and
//! everything about an answer before the bytes that it concerns are written. All three run in one
//! task at a time, so the lock is never waited for.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

/// Shared by both sides of one request; used again for the next one of a connection.
#[derive(Debug, Default)]
pub struct Exchange {
    inner: Mutex<Inner>,
    /// There is a [`Plan`] to pick up. Looked at on every write, so it needs no lock.
    is_planned: AtomicBool,
    /// The app's `101` is on its way: from now on bytes pass as they are.
    is_upgraded: AtomicBool,
    /// The request's body broke its framing.
    is_malformed: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    plan: Option<Plan>,
    request_trailers: Bytes,
    answer_trailers: Bytes,
}

/// What is to be done to the bytes of an answer when they come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The app's own `Date` line, without its CR LF: pingora puts its own in its place.
    pub date: Option<Bytes>,
    pub is_chunked: bool,
}

impl Exchange {
    /// Begins the next request.
    pub fn begin(&self) {
        *self.inner.lock() = Inner::default();
        for flag in [&self.is_planned, &self.is_upgraded, &self.is_malformed] {
            flag.store(false, Ordering::Release);
        }
    }

    pub fn set_plan(&self, plan: Plan) {
        self.inner.lock().plan = Some(plan);
        self.is_planned.store(true, Ordering::Release);
    }

    pub fn take_plan(&self) -> Option<Plan> {
        if !self.is_planned.load(Ordering::Acquire) {
            return None;
        }
        self.is_planned.store(false, Ordering::Release);
        self.inner.lock().plan.take()
    }

    pub fn set_upgraded(&self) {
        self.is_upgraded.store(true, Ordering::Release);
    }

    pub fn is_upgraded(&self) -> bool {
        self.is_upgraded.load(Ordering::Acquire)
    }

    pub fn set_malformed(&self) {
        self.is_malformed.store(true, Ordering::Release);
    }

    pub fn is_malformed(&self) -> bool {
        self.is_malformed.load(Ordering::Acquire)
    }

    pub fn set_request_trailers(&self, lines: Vec<u8>) {
        self.inner.lock().request_trailers = lines.into();
    }

    /// Lines with their CR LF; empty when there are none. Kept, since a request may be sent again.
    pub fn request_trailers(&self) -> Bytes {
        self.inner.lock().request_trailers.clone()
    }

    pub fn set_answer_trailers(&self, lines: Vec<u8>) {
        self.inner.lock().answer_trailers = lines.into();
    }

    /// Lines with their CR LF; empty when there are none.
    pub fn answer_trailers(&self) -> Bytes {
        self.inner.lock().answer_trailers.clone()
    }
}
