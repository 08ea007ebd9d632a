//! Header fields on their way: what concerns one connection stays, everything else passes.

use bytes::Bytes;
use http::header;
use pingora::http::{RequestHeader, ResponseHeader};

/// How a request differs from the common one on its way to the app.
#[derive(Debug, Default)]
pub struct Trailing {
    pub is_chunked: bool,
    /// The client takes trailers.
    pub is_wanted: bool,
}

impl Trailing {
    pub fn of(request: &RequestHeader) -> Trailing {
        Trailing {
            is_chunked: request.version == http::Version::HTTP_11
                && request.headers.contains_key(header::TRANSFER_ENCODING),
            is_wanted: request.version >= http::Version::HTTP_11
                && has_token(request.headers.get_all(header::TE), b"trailers"),
        }
    }

    pub fn is_any(&self) -> bool {
        self.is_chunked || self.is_wanted
    }
}

fn has_token<'a>(values: impl IntoIterator<Item = &'a http::HeaderValue>, token: &[u8]) -> bool {
    let mut parts = values.into_iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
    parts.any(|part| part.trim_ascii().eq_ignore_ascii_case(token))
}

/// Pingora takes these fields away, since it takes trailers away. We do not.
pub fn keep_trailer_fields(from: &RequestHeader, to: &mut RequestHeader) -> pingora::Result<()> {
    let trailing = Trailing::of(from);
    if trailing.is_chunked {
        for (name, value) in from.case_header_iter() {
            if name.as_slice().eq_ignore_ascii_case(b"trailer") {
                to.append_header(name.clone(), value.clone())?;
            }
        }
    }
    if trailing.is_wanted && !to.headers.contains_key(header::CONNECTION) {
        to.insert_header("TE", "trailers")?;
        to.insert_header(header::CONNECTION, "TE")?;
    }
    Ok(())
}

/// HTTP/2 clients send a cookie a field, for the sake of compression; HTTP/1.1 knows one field with
/// all of them (RFC 9113 section 8.2.3).
pub fn join_cookies(request: &mut RequestHeader) -> pingora::Result<()> {
    let crumbs = request.headers.get_all(header::COOKIE);
    let crumbs: Vec<&[u8]> = crumbs.iter().map(http::HeaderValue::as_bytes).collect();
    if crumbs.len() < 2 {
        return Ok(());
    }
    let whole = crumbs.join(&b"; "[..]);
    request.insert_header(header::COOKIE, whole)
}

/// What an HTTP/2 client sends, as HTTP/1.1 that takes trailers.
pub fn as_http1(request: &mut RequestHeader, has_body: bool) -> pingora::Result<()> {
    for name in [
        "connection",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ] {
        request.remove_header(name);
    }
    join_cookies(request)?;
    let host = host_of(request).unwrap_or_default().to_vec();
    request.insert_header(header::HOST, host)?;
    request.insert_header("TE", "trailers")?;
    request.insert_header(header::CONNECTION, "TE")?;
    if has_body && !request.headers.contains_key(header::CONTENT_LENGTH) {
        request.insert_header(header::TRANSFER_ENCODING, "chunked")?;
    }
    Ok(())
}

/// What concerns the app's connection is none of the client's business.
pub fn remove_hop_by_hop(answer: &mut ResponseHeader) {
    let named: Vec<http::HeaderName> = answer
        .headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .filter_map(|name| http::HeaderName::from_bytes(name.trim_ascii()).ok())
        // These say where the body ends.
        .filter(|name| ![header::TRANSFER_ENCODING, header::CONTENT_LENGTH].contains(name))
        .collect();
    for name in named {
        answer.remove_header(&name);
    }
    for name in ["connection", "keep-alive", "proxy-connection"] {
        answer.remove_header(name);
    }
}

/// The app's `Date` as it wrote it.
pub fn date_of(answer: &ResponseHeader) -> Option<Bytes> {
    let value = answer.headers.get(header::DATE)?;
    let mut names = answer.case_header_iter().map(|(name, _)| name.as_slice());
    let name = names.find(|name| name.eq_ignore_ascii_case(b"date")).unwrap_or(b"Date");
    Some([name, b": ", value.as_bytes()].concat().into())
}

pub fn host_of(request: &RequestHeader) -> Option<&[u8]> {
    let authority = request.uri.authority().map(|authority| authority.as_str().as_bytes());
    authority.or_else(|| request.headers.get("host").map(|value| value.as_bytes()))
}
