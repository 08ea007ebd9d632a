//! Header fields of HTTP/2 requests on their way: what concerns one connection stays, everything else passes.

use http::header;
use pingora::http::{RequestHeader, ResponseHeader};

/// Whether the client says that it takes trailers.
pub fn takes_trailers(request: &RequestHeader) -> bool {
    has_token(request.headers.get_all(header::TE), b"trailers")
}

fn has_token<'a>(values: impl IntoIterator<Item = &'a http::HeaderValue>, token: &[u8]) -> bool {
    let mut parts = values.into_iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
    parts.any(|part| part.trim_ascii().eq_ignore_ascii_case(token))
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

pub fn host_of(request: &RequestHeader) -> Option<&[u8]> {
    let authority = request.uri.authority().map(|authority| authority.as_str().as_bytes());
    authority.or_else(|| request.headers.get("host").map(|value| value.as_bytes()))
}
