//! Which transport a request asks for, by `Accept`
//! ([RFC 9110, 12.5.1](https://www.rfc-editor.org/rfc/rfc9110#name-accept)). Pure.

/// A way of sending a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Sse,
}

/// How well a request's `Accept` speaks of a transport.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
struct Fit {
    /// Named, rather than taken by a wildcard.
    is_named: bool,
    /// From 0 to 1; never 0.
    quality: f32,
}

impl Transport {
    /// In the order of preference, for a client that takes several.
    const ALL: [Transport; 1] = [Transport::Sse];

    pub fn media_type(self) -> &'static str {
        match self {
            Transport::Sse => "text/event-stream",
        }
    }

    /// For the label `transport` of metrics.
    pub fn name(self) -> &'static str {
        match self {
            Transport::Sse => "sse",
        }
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
        return Some(Chosen { transport: Transport::ALL[0], is_named: false });
    }
    let mut best: Option<(Fit, Transport)> = None;
    for transport in Transport::ALL {
        if let Some(fit) = fit(transport.media_type(), &ranges)
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
    fn negotiation_reads_media_ranges() {
        for (accept, expected) in [
            (vec![], Some(false)),
            (vec![""], Some(false)),
            (vec!["text/event-stream"], Some(true)),
            (vec!["*/*"], Some(false)),
            (vec!["text/html, */*;q=0.8"], Some(false)),
            (vec!["application/json", "text/*"], Some(false)),
            (vec!["text/event-stream;q=0"], None),
            (vec!["text/event-stream;q=0, */*"], None),
            (vec!["TEXT/EVENT-STREAM; q=0.5"], Some(true)),
            (vec!["*/*", "text/event-stream"], Some(true)),
            (vec!["image/png"], None),
        ] {
            let values: Vec<&[u8]> = accept.iter().map(|value| value.as_bytes()).collect();
            let chosen = choose(&values).map(|chosen| chosen.is_named);
            assert_eq!(chosen, expected, "{accept:?}");
        }
    }
}
