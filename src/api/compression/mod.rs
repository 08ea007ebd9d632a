//! Which content coding a client accepts
//! ([RFC 9110, 12.5.3](https://www.rfc-editor.org/rfc/rfc9110#name-accept-encoding)), and a [`Sink`] that
//! writes in it.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

mod compressor;

use crate::api::problem::Problem;
use crate::api::transport::Sink;
use crate::config::Compression;
pub(in crate::api) use compressor::Compressor;

/// How long a client has to take the end of a stream.
const FAREWELL: Duration = Duration::from_secs(5);

/// Chooses among what is offered, best first, by the values of `Accept-Encoding`: what the client
/// prefers, and the first of those that it likes alike. `None`: nothing is compressed.
///
/// # Errors
/// A 406: neither what is offered is taken, nor bytes as they are.
pub fn choose(offered: &[Compression], accepted: &[&[u8]]) -> Result<Option<Compression>, Problem> {
    let codings: Vec<Coding> = accepted
        .iter()
        .flat_map(|value| value.split(|b| *b == b','))
        .filter_map(Coding::parse)
        .collect();
    let quality = |name: &str| {
        let named = codings.iter().find(|coding| coding.name == name);
        named
            .or_else(|| codings.iter().find(|coding| coding.name == "*"))
            .map(|found| found.quality)
    };
    let mut best: Option<(f32, Compression)> = None;
    for compression in offered {
        let quality = quality(compression.name()).unwrap_or(0.0);
        if quality > best.map_or(0.0, |(best, _)| best) {
            best = Some((quality, *compression));
        }
    }
    let is_named = codings.iter().any(|coding| coding.name == "identity");
    let plain = quality("identity").unwrap_or(1.0);
    match best {
        // Only who says so would rather have bytes as they are.
        Some((quality, _)) if is_named && plain > quality => Ok(None),
        Some((_, compression)) => Ok(Some(compression)),
        None if plain > 0.0 => Ok(None),
        None => {
            let offered: Vec<&str> = offered.iter().map(|compression| compression.name()).collect();
            let detail = format!("streams are sent as they are, or as {}", offered.join(", "));
            Err(Problem::new(406, detail))
        }
    }
}

/// One member of `Accept-Encoding`.
struct Coding {
    name: String,
    quality: f32,
}

impl Coding {
    /// `None` for what is empty, as between two commas.
    fn parse(text: &[u8]) -> Option<Coding> {
        let text = std::str::from_utf8(text).ok()?.to_ascii_lowercase();
        let mut parts = text.split(';').map(str::trim);
        let name = match parts.next()? {
            "" => return None,
            // The same, by the standard.
            "x-gzip" => "gzip",
            name => name,
        };
        let quality = parts.find_map(|part| part.strip_prefix("q=")).map(str::parse);
        // What is no number says nothing about the client's wish.
        let quality = quality.and_then(Result::ok).unwrap_or(1.0_f32).clamp(0.0, 1.0);
        Some(Coding { name: name.to_owned(), quality })
    }
}

/// Compresses what goes to another sink; each write can be decoded as soon as it has come.
pub struct Compressed<'a, S> {
    sink: &'a mut S,
    compressor: Compressor,
}

impl<S: Sink> Compressed<'_, S> {
    /// One for each stream: the compressor remembers what it has written before.
    pub fn new(sink: &mut S, compressor: Compressor) -> Compressed<'_, S> {
        Compressed { sink, compressor }
    }

    /// Writes what a decoder expects at the end.
    pub async fn finish(self) {
        // The stream is over either way.
        if let Ok(end) = self.compressor.finish() {
            let _ = timeout(FAREWELL, self.sink.send(&[end])).await;
        }
    }
}

impl<S: Sink> Sink for Compressed<'_, S> {
    async fn send(&mut self, pieces: &[Bytes]) -> io::Result<()> {
        let bytes = self.compressor.compress(pieces)?;
        self.sink.send(&[bytes]).await
    }

    async fn closed(&mut self) {
        self.sink.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_decides_and_then_the_list() {
        use Compression::{Brotli, Gzip, Zstd};
        let offered = [Zstd, Gzip];
        for (accepted, expected) in [
            (vec![], Ok(None)),
            (vec![""], Ok(None)),
            (vec!["gzip, deflate, br, zstd"], Ok(Some(Zstd))),
            (vec!["gzip, deflate, br"], Ok(Some(Gzip))),
            (vec!["br"], Ok(None)),
            (vec!["br", "gzip"], Ok(Some(Gzip))),
            (vec!["zstd;q=0.5, gzip"], Ok(Some(Gzip))),
            (vec!["zstd; q=0, *"], Ok(Some(Gzip))),
            (vec!["*"], Ok(Some(Zstd))),
            (vec!["*;q=0"], Err(406)),
            (vec!["*;q=0, identity;q=0.1"], Ok(None)),
            (vec!["identity;q=0"], Err(406)),
            (vec!["identity;q=0, gzip;q=0.1"], Ok(Some(Gzip))),
            (vec!["identity, gzip;q=0.5"], Ok(None)),
            (vec!["identity, gzip"], Ok(Some(Gzip))),
            (vec!["X-GZIP;Q=1"], Ok(Some(Gzip))),
            (vec!["gzip;q=0, zstd;q=0.000"], Ok(None)),
            (vec!["gzip;q=much"], Ok(Some(Gzip))),
        ] {
            let values: Vec<&[u8]> = accepted.iter().map(|value| value.as_bytes()).collect();
            let chosen = choose(&offered, &values).map_err(|problem| problem.status);
            assert_eq!(chosen, expected, "{accepted:?}");
        }
        assert_eq!(choose(&[Brotli], &[b"br;q=0.001"]).unwrap(), Some(Brotli));
    }
}
