//! How far a stream is with its reading.

use crate::feed::Feed;
use crate::feed::routes::Route;

/// Where a stream is with its reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Its feed was not read yet, or its snapshot is not complete.
    Waiting,
    /// In the journal: from this number on.
    Following(u64),
    /// In a replay: what it has is of this cluster time, in seconds.
    Replaying(u32),
}

impl Progress {
    const KIND: u32 = 62;
    const WAITING: u64 = 0;
    const FOLLOWING: u64 = 1;
    const REPLAYING: u64 = 2;

    /// In one number, with its kind in the two highest bits: neither a journal's numbers nor seconds
    /// reach as far.
    pub(super) fn packed(self) -> u64 {
        let (kind, value) = match self {
            Progress::Waiting => (Progress::WAITING, 0),
            Progress::Following(number) => (Progress::FOLLOWING, number),
            Progress::Replaying(seconds) => (Progress::REPLAYING, u64::from(seconds)),
        };
        kind << Progress::KIND | value
    }

    pub(super) fn unpacked(packed: u64) -> Progress {
        let value = packed & ((1 << Progress::KIND) - 1);
        match packed >> Progress::KIND {
            Progress::FOLLOWING => Progress::Following(value),
            Progress::REPLAYING => Progress::Replaying(u32::try_from(value).unwrap_or(u32::MAX)),
            _ => Progress::Waiting,
        }
    }

    /// Where the next event of this route comes from for who is there, and how old the oldest is that it
    /// has not, in seconds.
    pub(super) fn lag(self, route: &Route, feed: &Feed, now: f64) -> (&'static str, Option<f64>) {
        let seconds_since = |time: u32| (now - f64::from(time)).max(0.0);
        match self {
            Progress::Waiting => ("waiting", None),
            Progress::Following(place) => match route.unread_from(place) {
                Some(number) => {
                    let is_behind = route.is_behind(place);
                    // Trimmed between two looks: it has just gone by.
                    let lag = feed.time_at(number).map_or(0.0, seconds_since);
                    (if is_behind && lag > 0.0 { "look-back" } else { "memory" }, Some(lag))
                }
                None => ("memory", Some(0.0)),
            },
            Progress::Replaying(seconds) => ("replay", Some(seconds_since(seconds))),
        }
    }
}
