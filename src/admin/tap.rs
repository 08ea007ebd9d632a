//! What a stream sends now: the newest events that its clients are sent, as they see them.
//!
//! Off unless `console.tap`, and only for the console's own page: these are documents. Nothing is kept
//! for it: it shows what the routes hold in memory anyway, restricted by `project` like everything else
//! that is sent. The log says who looked.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use http::Response;
use serde_json::{Value, json};

use super::filters::pairs;
use super::{Admin, refuse};
use crate::feed::routes::Delivery;

/// How many events one answer has: the newest.
const MOST: usize = 20;
/// How often it is answered, for all pages together.
const EVERY: Duration = Duration::from_millis(250);
/// The data of larger events is left out, in bytes.
const MAX_DATA: usize = 64 * 1024;
/// How often the log says that somebody looks on.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// When it was last answered, and who was last told of in the log.
#[derive(Debug, Default)]
pub(super) struct Tapped {
    answered: Option<Instant>,
    told: HashMap<(String, IpAddr), Instant>,
}

impl Admin {
    /// `POST ?stream=NAME&after=NUMBER`: events from that number on, at most [`MOST`], and the number to
    /// ask with next. Without `after`, none yet.
    pub(super) fn tap(&self, query: &str, peer: SocketAddr) -> Response<Vec<u8>> {
        if !self.may_tap {
            return refuse(403, "console.tap is off: only its settings can turn it on");
        }
        let (mut stream, mut after) = (None, None);
        for (key, value) in pairs(query) {
            match (key.as_str(), value.parse()) {
                ("stream", _) => stream = Some(value),
                ("after", Ok(number)) => after = Some(number),
                _ => return refuse(400, "write ?stream=NAME, and &after=NUMBER"),
            }
        }
        let Some(stream) = stream else { return refuse(400, "name the stream: ?stream=NAME") };
        let Ok(found) = self.catalog.find(&stream) else {
            return refuse(404, "there is no such stream");
        };
        if !self.note_tap(&stream, peer.ip()) {
            return refuse(429, "asked too often: once in 250 ms, for all pages together");
        }
        let now = found.feed().numbers().1;
        let events = match after {
            Some(after) => found.feed().latest(&stream, after, MOST),
            None => Vec::new(),
        };
        let next = events.last().map_or(after.unwrap_or(now), |last| last.number + 1);
        let events: Vec<Value> = events.iter().map(|delivery| shown(delivery)).collect();
        super::json(200, &json!({ "stream": stream, "events": events, "next": next }))
    }

    /// Whether it may be answered now; tells the log who asks.
    fn note_tap(&self, stream: &str, by: IpAddr) -> bool {
        let mut tapped = self.tapped.lock();
        let now = Instant::now();
        if tapped.answered.is_some_and(|at| now.duration_since(at) < EVERY) {
            return false;
        }
        tapped.answered = Some(now);
        tapped.told.retain(|_, at| now.duration_since(*at) < TELL_EVERY);
        if let Entry::Vacant(new) = tapped.told.entry((stream.to_owned(), by)) {
            new.insert(now);
            tracing::info!(stream, %by, "the events of a stream are shown in the console");
        }
        true
    }
}

fn shown(delivery: &Delivery) -> Value {
    let size = delivery.json.len();
    let data = (size <= MAX_DATA).then(|| serde_json::from_slice::<Value>(&delivery.json).ok());
    json!({ "event": delivery.event_name(), "bytes": size, "data": data.flatten() })
}
