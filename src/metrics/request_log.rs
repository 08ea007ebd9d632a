//! The log of requests: one line for each that was answered, or for one of so many.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::info;

/// Off unless made with a number.
#[derive(Debug, Default)]
pub struct RequestLog {
    /// One line for so many requests; 0: none.
    every: u64,
    seen: AtomicU64,
}

/// What a line says.
#[derive(Debug)]
pub struct LoggedRequest<'a> {
    pub method: &'a str,
    /// Without its query, which may hold credentials.
    pub path: &'a str,
    /// That the client got; 0: it left before.
    pub status: u16,
    pub seconds: f64,
    /// As far as trusted proxies tell.
    pub client: Option<IpAddr>,
}

impl RequestLog {
    /// One in `every` requests is logged; 0: none.
    pub fn new(every: u64) -> RequestLog {
        RequestLog { every, seen: AtomicU64::new(0) }
    }

    /// Whether any request is logged, so that a line has to be prepared at all.
    pub fn is_on(&self) -> bool {
        self.every > 0
    }

    /// Whether the next line is written: failures always are.
    fn takes(&self, status: u16) -> bool {
        self.is_on()
            && (status >= 500
                || self.seen.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.every))
    }

    /// Writes the line, if it is this one's turn or the status is a 5xx.
    pub fn tell(&self, request: &LoggedRequest<'_>) {
        if !self.takes(request.status) {
            return;
        }
        let LoggedRequest { method, path, status, seconds, client } = request;
        let client = client.map(|address| address.to_string());
        info!(method, path, status, seconds, client, "request");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_so_many_is_told_and_every_failure() {
        let log = RequestLog::new(3);
        let told = (0..9).filter(|_| log.takes(200)).count();
        assert_eq!((told, log.takes(502), log.takes(503)), (3, true, true));
        let off = RequestLog::default();
        assert!(!off.is_on() && !off.takes(502));
    }
}
