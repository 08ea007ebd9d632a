//! What a request asks for: which streams, with which parameters, from which position. Pure.

use bson::Timestamp;

use super::problem::Problem;
use crate::config::RESERVED_QUERY;
use crate::event::Position;
use crate::event::seal::Ids;
use crate::session::bookmark::Label;
use crate::session::bookmark::{self, Bookmark};
use crate::session::subscription::From;

/// One stream.
#[derive(Debug)]
pub struct WantedStream {
    pub label: Label<'static>,
    /// Its parameters.
    pub query: Vec<(String, String)>,
    pub from: From,
    /// Whether `from` is a time that the client has chosen.
    pub is_since: bool,
}

/// The streams of a request.
#[derive(Debug)]
pub enum Wanted {
    One(WantedStream),
    /// Under names: `GET {prefix}?stream=…`.
    Many(Vec<WantedStream>),
}

/// The last of a query's values with this name.
pub fn value<'q>(query: &'q [(String, String)], name: &str) -> Option<&'q str> {
    query.iter().rfind(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// Whether it asks for streams under names; `rest` is what follows the prefix.
pub fn has_many(rest: &str, query: &[(String, String)]) -> bool {
    rest.is_empty() && value(query, "stream").is_some()
}

/// Reads a request: what follows the prefix, the query, and `Last-Event-ID`.
///
/// # Errors
/// A 400 that names what is wrong. `most` streams may share a connection.
pub fn of(
    rest: &str,
    query: Vec<(String, String)>,
    last_event_id: Option<&[u8]>,
    most: usize,
    ids: &Ids,
) -> Result<Wanted, Problem> {
    let id = id_of(last_event_id, &query);
    let since = value(&query, "since").map(since).transpose()?;
    let is_since = since.is_some();
    if !has_many(rest, &query) {
        let from = from(id.as_deref(), since, ids);
        let label = Label::new(rest, None);
        let is_since = is_since && id.is_none_or(|id| id.is_empty());
        return Ok(Wanted::One(WantedStream { label, query, from, is_since }));
    }
    let labels = labels(&query, most)?;
    let bookmark = match id.as_deref() {
        None | Some("") => Ok(Bookmark::default()),
        Some(id) => Bookmark::parse(id, ids),
    };
    let from_of = |label: &Label<'_>| match &bookmark {
        Err(_) => From::Invalid,
        Ok(bookmark) => match bookmark.get(label.name()) {
            Some(place) => From::Position(place.clone()),
            None => since.clone().unwrap_or(From::Now),
        },
    };
    let mut streams: Vec<WantedStream> = labels
        .into_iter()
        .map(|label| {
            let is_new =
                bookmark.as_ref().is_ok_and(|bookmark| bookmark.get(label.name()).is_none());
            let is_since = is_since && is_new;
            WantedStream { from: from_of(&label), label, query: Vec::new(), is_since }
        })
        .collect();
    for (name, value) in query {
        if RESERVED_QUERY.contains(&name.as_str()) {
            continue;
        }
        let parameter = |stream: &WantedStream| {
            name.strip_prefix(stream.label.name())?.strip_prefix('.').map(str::to_string)
        };
        // Names may hold dots: the longest that fits is meant.
        let owner = streams
            .iter_mut()
            .filter(|stream| parameter(stream).is_some())
            .max_by_key(|stream| stream.label.name().len());
        match owner {
            Some(stream) => {
                let parameter = parameter(stream).unwrap_or_default();
                if RESERVED_QUERY.contains(&parameter.as_str()) {
                    let detail = format!(
                        "`{name}`: `{parameter}` is for all streams of the request; write it \
                         without the stream's name"
                    );
                    return Err(Problem::new(400, detail));
                }
                stream.query.push((parameter, value));
            }
            None => {
                let detail = format!(
                    "parameter `{name}`: it does not name a requested stream; write \
                     `STREAM.parameter=value`"
                );
                return Err(Problem::new(400, detail));
            }
        }
    }
    Ok(Wanted::Many(streams))
}

/// `most` is `clients.max_streams_per_connection`.
fn too_many(most: usize) -> String {
    let shared = bookmark::MAX_STREAMS;
    match most > shared {
        true => format!(
            "more than {shared} streams under one id: open another connection, or a WebSocket on the \
             reserved path itself, to which `subscribe` adds up to {most} with ids of their own"
        ),
        false => format!(
            "more than {most} streams on one connection (clients.max_streams_per_connection): open \
             another one"
        ),
    }
}

/// Nothing could be said of a stream whose name is empty.
pub fn no_alias(stream: &str) -> Problem {
    Problem::new(400, format!("stream `{stream}`: the name that it is given is empty"))
}

fn labels(query: &[(String, String)], most: usize) -> Result<Vec<Label<'static>>, Problem> {
    let mut labels: Vec<Label<'static>> = Vec::new();
    for (_, value) in query.iter().filter(|(name, _)| name == "stream") {
        let label = match value.split_once(':') {
            Some(("", stream)) => return Err(no_alias(stream)),
            Some((alias, stream)) => Label::new(stream, Some(alias)),
            None => Label::new(value, None),
        };
        if labels.iter().any(|known| known.name() == label.name()) {
            let name = label.name();
            let detail = match label.alias() {
                None => format!(
                    "stream `{name}`: named twice; give each a name of its own, as in \
                     `stream=a:{name}`"
                ),
                Some(_) => {
                    format!("stream `{name}`: two streams have this name; give each one of its own")
                }
            };
            return Err(Problem::new(400, detail));
        }
        labels.push(label);
        if labels.len() > most.min(bookmark::MAX_STREAMS) {
            return Err(Problem::new(400, too_many(most)));
        }
    }
    Ok(labels)
}

/// The header wins over the query. An empty header counts as none: some clients always send it.
fn id_of(last_event_id: Option<&[u8]>, query: &[(String, String)]) -> Option<String> {
    let in_header = last_event_id.filter(|id| !id.is_empty());
    let in_header = in_header.map(|id| String::from_utf8_lossy(id).into_owned());
    in_header.or_else(|| value(query, "lastEventId").map(str::to_string))
}

/// Where a stream begins; an empty id means that the client has none.
pub fn from(id: Option<&str>, since: Option<From>, ids: &Ids) -> From {
    match id {
        None | Some("") => since.unwrap_or(From::Now),
        Some(id) => ids.read(id).map_or(From::Invalid, From::Position),
    }
}

/// Reads `since`: a time, floored to the second and inclusive, or an age.
///
/// # Errors
/// A 400.
pub fn since(text: &str) -> Result<From, Problem> {
    let invalid = || {
        let detail = "`since` is a time, as 2026-11-27T20:00:00Z, or an age, as 30s or 5m";
        Problem::new(400, detail)
    };
    if let Ok(age) = crate::config::parse_duration(text) {
        let seconds = u32::try_from(age.as_secs()).map_err(|_| invalid())?;
        return Ok(From::Ago(seconds));
    }
    // In a query a plus is a blank: of the offset of a time zone, most likely.
    let time: jiff::Timestamp = text.replace(' ', "+").parse().map_err(|_| invalid())?;
    let floored = time.as_second() - i64::from(time.subsec_nanosecond() < 0);
    let time = u32::try_from(floored).map_err(|_| invalid())?;
    Ok(From::Position(Position::before(Timestamp { time, increment: 1 })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time_of(text: &str) -> Option<u32> {
        match since(text) {
            Ok(From::Position(position)) => Some(position.time().time),
            _ => None,
        }
    }

    #[test]
    fn since_is_a_time_or_an_age() {
        assert_eq!(time_of("1970-01-01T00:01:40Z"), Some(100));
        assert_eq!(time_of("1970-01-01T00:01:40.999Z"), Some(100));
        assert_eq!(time_of("1970-01-01T01:01:40+01:00"), Some(100));
        // As a query is decoded.
        assert_eq!(time_of("1970-01-01T01:01:40 01:00"), Some(100));
        assert!(matches!(since("30s"), Ok(From::Ago(30))));
        assert!(matches!(since("1500ms"), Ok(From::Ago(1))));
        for wrong in
            ["", "yesterday", "30", "1969-01-01T00:00:00Z", "2026-11-27", "9999-13-01T00:00:00Z"]
        {
            assert!(since(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_are_told_apart() {
        let query = |pairs: &[&str]| -> Vec<(String, String)> {
            pairs.iter().map(|value| ("stream".to_string(), (*value).to_string())).collect()
        };
        let labels = |pairs: &[&str]| super::labels(&query(pairs), 3);
        let found = labels(&["orders", "a:chat", "b:chat"]).unwrap();
        assert_eq!(found.iter().map(Label::name).collect::<Vec<_>>(), ["orders", "a", "b"]);
        assert_eq!(found[1].stream(), "chat");
        assert!(labels(&["chat", "chat"]).unwrap_err().detail.contains("stream=a:chat"));
        let refused = labels(&["a:chat", "a:orders"]).unwrap_err();
        assert!(refused.detail.contains("`a`: two streams"), "{refused:?}");
        let refused = labels(&["a:chat", ":orders"]).unwrap_err();
        assert!(
            refused.detail.contains("`orders`: the name that it is given is empty"),
            "{refused:?}"
        );
        let refused = labels(&["a", "b", "c", "d"]).unwrap_err();
        assert!(refused.detail.starts_with("more than 3 streams on one connection"), "{refused:?}");
        // However many a WebSocket may have: there is no room for more in one id.
        let names: Vec<String> = (0..=bookmark::MAX_STREAMS).map(|at| format!("s{at}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert!(super::labels(&query(&names[1..]), 1000).is_ok());
        let refused = super::labels(&query(&names), 1000).unwrap_err();
        assert!(refused.detail.starts_with("more than 32 streams under one id"), "{refused:?}");
        assert!(refused.detail.contains("up to 1000"), "{refused:?}");
    }
}
