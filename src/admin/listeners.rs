//! Lists the listeners of a stream, and ends one of them.

use http::Response;
use serde_json::{Value, json};

use super::filters::pairs;
use super::{Admin, refuse};
use crate::api::negotiation::Transport;
use crate::config::Subjects;
use crate::session::listeners::ListenerReport;

/// How many are returned at a time.
const LIMIT: usize = 100;
/// And at most.
const MAX_LIMIT: usize = 1000;

impl Admin {
    /// `?stream=NAME`, with `&limit=N`: those who listen, the one that lags most first.
    pub(super) fn listeners(&self, query: &str) -> Response<Vec<u8>> {
        let (mut stream, mut limit) = (None, LIMIT);
        for (key, value) in pairs(query) {
            match (key.as_str(), value.parse()) {
                ("stream", _) => stream = Some(value),
                ("limit", Ok(most @ 1..=MAX_LIMIT)) => limit = most,
                ("limit", _) => {
                    return refuse(400, &format!("`limit` is a number from 1 to {MAX_LIMIT}"));
                }
                _ => {
                    return refuse(
                        400,
                        &format!(
                            "unknown parameter `{key}`; known are stream, \
                                                  limit"
                        ),
                    );
                }
            }
        }
        let Some(stream) = stream else {
            return refuse(400, "name the stream: /listeners?stream=NAME");
        };
        let (reports, total) = match self.catalog.find(&stream) {
            Ok(found) => self.catalog.shared.listeners.of(&stream, found.feed(), limit),
            // Its file is wrong, say: `/streams` tells of it, and nobody can listen.
            Err(_) if self.catalog.streams().iter().any(|it| it.name == stream) => (Vec::new(), 0),
            Err(_) => return refuse(404, "there is no such stream"),
        };
        let listeners: Vec<Value> = reports.iter().map(|one| self.shown_listener(one)).collect();
        super::json(200, &json!({ "stream": stream, "total": total, "listeners": listeners }))
    }

    fn shown_listener(&self, one: &ListenerReport) -> Value {
        let subject = one.caller.as_ref().map(|caller| match self.subjects {
            Subjects::Shown => caller.claims.subject().unwrap_or_default(),
            Subjects::Hashed => self.catalog.shared.listeners.digest(caller),
        });
        json!({
            "id": one.id,
            "subject": subject,
            "age_seconds": one.age_seconds,
            "transport": Transport::numbered(one.transport),
            "lag_seconds": one.lag_seconds,
            "source": one.source,
            "has_other_streams": one.is_one_of_several,
        })
    }

    /// `POST ?id=ID`: ends the connection of a listener, whose client comes back by itself.
    pub(super) fn end_listener(&self, query: &str) -> Response<Vec<u8>> {
        let id = pairs(query).find_map(|(key, value)| (key == "id").then_some(value));
        let Some(id) = id else { return refuse(400, "name the listener: /listeners/end?id=ID") };
        if !self.catalog.shared.listeners.end(&id) {
            return refuse(404, "this listener has gone");
        }
        tracing::info!(listener = id, "a listener was ended from the console");
        super::json(200, &json!({ "ended": id }))
    }
}
