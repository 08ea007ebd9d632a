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

/// Of all of them, with the number of routes that each has now. There are as many as there are files.
#[derive(Debug, Default)]
pub(super) struct Tallies(HashMap<String, (Tally, usize)>);

impl Tallies {
    /// Counts a delivery: bytes of its JSON, and when the server wrote it, in milliseconds since
    /// 1970.
    pub fn add(&mut self, stream: &str, bytes: usize, wall_millis: Option<i64>) {
        self.change(stream, |(tally, _)| {
            tally.deliveries += 1;
            tally.bytes += bytes as u64;
            tally.newest_millis = wall_millis.max(tally.newest_millis);
        });
    }

    /// Counted as they come and go: nobody who only asks looks at perhaps a million of them.
    pub fn add_route(&mut self, stream: &str) {
        self.change(stream, |(_, routes)| *routes += 1);
    }

    /// The opposite of [`Tallies::add_route`]; what the stream has cost stays.
    pub fn remove_route(&mut self, stream: &str) {
        self.change(stream, |(_, routes)| *routes = routes.saturating_sub(1));
    }

    /// Zeros for a stream that never had a route.
    pub fn of(&self, stream: &str) -> (Tally, usize) {
        self.0.get(stream).copied().unwrap_or_default()
    }

    fn change(&mut self, stream: &str, change: impl FnOnce(&mut (Tally, usize))) {
        match self.0.get_mut(stream) {
            Some(known) => change(known),
            None => change(self.0.entry(stream.to_owned()).or_default()),
        }
    }
}
