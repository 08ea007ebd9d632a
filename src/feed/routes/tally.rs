//! What the streams of one upstream have cost so far, by name.

use std::collections::HashMap;

/// Of one stream, since its feed began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Events that were made for its clients, counted once for each way that they see them.
    pub deliveries: u64,
    /// What these took, in bytes of JSON.
    pub bytes: u64,
    /// When the server wrote the newest of them, in milliseconds since 1970.
    pub newest_millis: Option<i64>,
}

/// Of all of them. There are as many as there are files.
#[derive(Debug, Default)]
pub(super) struct Tallies(HashMap<String, Tally>);

impl Tallies {
    /// Counts a delivery: bytes of its JSON, and when the server wrote it, in milliseconds since
    /// 1970.
    pub fn add(&mut self, stream: &str, bytes: usize, wall_millis: Option<i64>) {
        let tally = match self.0.get_mut(stream) {
            Some(tally) => tally,
            None => self.0.entry(stream.to_owned()).or_default(),
        };
        tally.deliveries += 1;
        tally.bytes += bytes as u64;
        tally.newest_millis = wall_millis.max(tally.newest_millis);
    }

    pub fn of(&self, stream: &str) -> Tally {
        self.0.get(stream).copied().unwrap_or_default()
    }
}
