//! Which transport a request asks for, by `Accept`
//! ([RFC 9110, 12.5.1](https://www.rfc-editor.org/rfc/rfc9110#name-accept)). Pure.

/// A way of sending streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Sse,
    /// The same, with `?heartbeat=event`.
    SseWithPositionEvents,
    Ndjson,
    Poll,
    WebSocket,
}

/// Those that metrics and reports tell apart.
pub const COUNTED: [Transport; 4] =
    [Transport::Sse, Transport::Ndjson, Transport::Poll, Transport::WebSocket];

/// How well a request's `Accept` speaks of a transport.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
struct Fit {
    /// Named, rather than taken by a wildcard.
    is_named: bool,
    /// From 0 to 1; never 0.
    quality: f32,
}

/// Those that `Accept` chooses from, in the order of preference.
const BY_ACCEPT: [(Transport, &str); 3] = [
    (Transport::Sse, "text/event-stream"),
    (Transport::Ndjson, "application/x-ndjson"),
    (Transport::Poll, "application/json"),
];

/// The error for a client that accepts no supported type.
pub const OFFERED: &str =
    "streams are sent as text/event-stream, application/x-ndjson or application/json";
/// The error for a `transport` in the query that is none of these.
pub const NAMES: &str = "`transport` is one of sse, ndjson, poll";

impl Transport {
    /// By the query's `transport`.
    pub fn parse(name: &str) -> Option<Transport> {
        BY_ACCEPT.iter().map(|(transport, _)| *transport).find(|it| it.name() == name)
    }

    /// For the label `transport` of metrics.
    pub fn name(self) -> &'static str {
        match self {
            Transport::Sse | Transport::SseWithPositionEvents => "sse",
            Transport::Ndjson => "ndjson",
            Transport::Poll => "poll",
            Transport::WebSocket => "websocket",
        }
    }

    /// Stands for the name where there is no room for it.
    pub fn number(self) -> u8 {
        let place = COUNTED.iter().position(|it| it.name() == self.name());
        place.map_or(u8::MAX, |place| place as u8)
    }

    /// The name that [`Transport::number`] stands for.
    pub fn numbered(number: u8) -> Option<&'static str> {
        COUNTED.get(usize::from(number)).map(|it| it.name())
    }
}

/// What was chosen, and whether by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    pub transport: Transport,
    pub is_named: bool,
}

/// Chooses by the values of `Accept`: a type that is named wins over one that a wildcard takes.
/// None at all takes everything. `None`: the client takes nothing that is served here.
pub fn choose(accept: &[&[u8]]) -> Option<Chosen> {
    let ranges: Vec<Range> = accept
        .iter()
        .flat_map(|value| value.split(|b| *b == b','))
        .filter_map(Range::parse)
        .collect();
    if ranges.is_empty() {
        return Some(Chosen { transport: Transport::Sse, is_named: false });
    }
    let mut best: Option<(Fit, Transport)> = None;
    for (transport, media_type) in BY_ACCEPT {
        if let Some(fit) = fit(media_type, &ranges)
            && best.is_none_or(|(best, _)| fit > best)
        {
            best = Some((fit, transport));
        }
    }
    best.map(|(fit, transport)| Chosen { transport, is_named: fit.is_named })
}

/// The most specific range that takes a type decides.
fn fit(media_type: &str, ranges: &[Range]) -> Option<Fit> {
    let group = media_type.split_once('/').map_or(media_type, |(group, _)| group);
    let takes = |wanted: &str| ranges.iter().find(|range| range.media == wanted);
    let named = takes(media_type);
    let found = named.or_else(|| takes(&format!("{group}/*"))).or_else(|| takes("*/*"))?;
    let fit = Fit { is_named: named.is_some(), quality: found.quality };
    (fit.quality > 0.0).then_some(fit)
}

/// One media range.
#[derive(Debug)]
struct Range {
    media: String,
    quality: f32,
}

impl Range {
    /// `None` for what is empty, as between two commas.
    fn parse(text: &[u8]) -> Option<Range> {
        let text = std::str::from_utf8(text).ok()?.to_ascii_lowercase();
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next().filter(|media| !media.is_empty())?.to_string();
        let quality = parts.find_map(|part| part.strip_prefix("q=")).map(|q| q.parse());
        // What is no number says nothing about the client's wish.
        let quality = quality.and_then(Result::ok).unwrap_or(1.0_f32).clamp(0.0, 1.0);
        Some(Range { media, quality })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_agree() {
        for transport in COUNTED.into_iter().chain([Transport::SseWithPositionEvents]) {
            assert_eq!(Transport::numbered(transport.number()), Some(transport.name()));
        }
        for (transport, media_type) in BY_ACCEPT {
            assert_eq!(Transport::parse(transport.name()), Some(transport));
            assert!(NAMES.contains(transport.name()) && OFFERED.contains(media_type));
        }
    }

    #[test]
    fn negotiation_reads_media_ranges() {
        let sse = |is_named| Some((Transport::Sse, is_named));
        let ndjson = |is_named| Some((Transport::Ndjson, is_named));
        let poll = |is_named| Some((Transport::Poll, is_named));
        for (accept, expected) in [
            (vec![], sse(false)),
            (vec![""], sse(false)),
            (vec!["text/event-stream"], sse(true)),
            (vec!["*/*"], sse(false)),
            (vec!["text/html, */*;q=0.8"], sse(false)),
            (vec!["application/json", "text/*"], poll(true)),
            (vec!["application/*"], ndjson(false)),
            (vec!["application/x-ndjson, */*"], ndjson(true)),
            (vec!["application/json, application/x-ndjson"], ndjson(true)),
            (vec!["application/json, text/event-stream;q=0.5"], poll(true)),
            (vec!["text/event-stream;q=0"], None),
            (vec!["text/event-stream;q=0, */*"], ndjson(false)),
            (vec!["TEXT/EVENT-STREAM; q=0.5"], sse(true)),
            (vec!["*/*", "text/event-stream"], sse(true)),
            (vec!["image/png"], None),
        ] {
            let values: Vec<&[u8]> = accept.iter().map(|value| value.as_bytes()).collect();
            let chosen = choose(&values).map(|chosen| (chosen.transport, chosen.is_named));
            assert_eq!(chosen, expected, "{accept:?}");
        }
    }
}
