//! Memory that traffic may use beyond the fixed state of each connection: a limit for the process.
//! A connection that finds nothing left continues with less.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Large buffers for bodies: 68 connections at full speed. The others have small ones.
pub static BODIES: Budget = Budget::new(32 * 1024 * 1024);
/// What is read of uploads that the app does not take, to find out whether their clients are there.
pub static AHEAD: Budget = Budget::new(24 * 1024 * 1024);
/// Request heads over HTTP/2, which compression makes cheap to send.
pub static HEADS: Budget = Budget::new(16 * 1024 * 1024);
/// What HTTP/2 connections have been given to send, and have not sent.
pub static UNSENT: Budget = Budget::new(16 * 1024 * 1024);
/// Uploads over HTTP/2 that the app does not take.
pub static UPLOADS: Budget = Budget::new(32 * 1024 * 1024);

/// So many bytes, for all who share it.
#[derive(Debug)]
pub struct Budget {
    left: AtomicUsize,
}

/// Some bytes of a budget. Given back when dropped.
#[derive(Debug)]
pub struct Lease {
    budget: &'static Budget,
    bytes: usize,
}

impl Budget {
    pub const fn new(bytes: usize) -> Budget {
        Budget { left: AtomicUsize::new(bytes) }
    }

    /// Whether there is anything left.
    pub fn has_left(&self) -> bool {
        self.left.load(Ordering::Acquire) > 0
    }

    /// So many bytes, if they are left.
    pub fn take(&'static self, bytes: usize) -> Option<Lease> {
        let less = |left: usize| left.checked_sub(bytes);
        self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).ok()?;
        Some(Lease { budget: self, bytes })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.budget.left.fetch_add(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_given_back() {
        static BUDGET: Budget = Budget::new(10);
        let one = BUDGET.take(6).unwrap();
        assert!(BUDGET.take(5).is_none());
        let two = BUDGET.take(4).unwrap();
        drop(one);
        assert!(BUDGET.take(7).is_none());
        drop(two);
        assert!(BUDGET.take(10).is_some());
    }
}
