//! Settings of `auth` that are text of a form of their own: URLs, header fields, sources, origins.

use http::{HeaderName, Uri};

use super::ClaimsFrom;
use crate::config::token_source::{RESERVED_QUERY, TokenSource};
use crate::config::units::{Invalid, invalid, show};

/// Header fields that belong to a connection or a body, and say nothing about who asks.
const NO_CREDENTIALS: &[&str] = &[
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    // Whoever asks writes what they like there.
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
];

/// `http://` or `https://`, with a host and without credentials.
pub(in crate::config) fn parse_url(text: &str) -> Result<Uri, Invalid> {
    const EXAMPLE: &str = "write http://host:port/path or https://host/path";
    let uri: Uri = match text.parse() {
        Ok(uri) => uri,
        Err(_) => return Err(invalid(format!("{} is not a URL", show(text)), EXAMPLE)),
    };
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(invalid(format!("{} has an unsupported scheme", show(text)), EXAMPLE));
    }
    match uri.authority() {
        Some(authority) if authority.as_str().contains('@') => Err(invalid(
            "credentials are not supported here",
            "remove everything before `@`: requests carry the client's own credentials",
        )),
        Some(authority) if !authority.host().is_empty() => Ok(uri),
        _ => Err(invalid(format!("{} has no host", show(text)), EXAMPLE)),
    }
}

/// `authorization`, `cookie:NAME` or `query:NAME`; not the reserved path's own names.
pub(super) fn parse_source(text: &str) -> Result<TokenSource, Invalid> {
    const EXAMPLE: &str = "write authorization, cookie:NAME or query:NAME";
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.$!".contains(&b))
    };
    match text.split_once(':') {
        None if text == "authorization" => Ok(TokenSource::Authorization),
        Some(("cookie", name)) if is_name(name) => Ok(TokenSource::Cookie(name.to_owned())),
        Some(("query", name)) if RESERVED_QUERY.contains(&name) => Err(invalid(
            format!("`{name}` is reserved in the query"),
            "give the token another name",
        )),
        Some(("query", name)) if is_name(name) => Ok(TokenSource::Query(name.to_owned())),
        _ => Err(invalid(format!("{} is not a source of tokens", show(text)), EXAMPLE)),
    }
}

/// The name of a header field that may say who asks, in small letters.
pub(super) fn parse_header(text: &str) -> Result<HeaderName, Invalid> {
    const EXAMPLE: &str = "write names of header fields, as in [cookie, authorization]";
    let name: HeaderName = text.to_ascii_lowercase().parse().map_err(|_| {
        invalid(format!("{} is not the name of a header field", show(text)), EXAMPLE)
    })?;
    if NO_CREDENTIALS.contains(&name.as_str()) {
        return Err(invalid(format!("`{name}` does not identify the caller"), EXAMPLE));
    }
    Ok(name)
}

/// `body`, `header:NAME` or `header-json:NAME`.
pub(super) fn parse_claims(text: &str) -> Result<ClaimsFrom, Invalid> {
    const EXAMPLE: &str =
        "write body, header:NAME (text, which becomes `sub`) or header-json:NAME (a JSON object)";
    let name = |name: &str| {
        name.parse().map_err(|_| {
            invalid(format!("{} is not the name of a header field", show(name)), EXAMPLE)
        })
    };
    match text.split_once(':') {
        None if text == "body" => Ok(ClaimsFrom::Body),
        Some(("header", field)) => name(field).map(ClaimsFrom::Header),
        Some(("header-json", field)) => name(field).map(ClaimsFrom::HeaderJson),
        _ => Err(invalid(format!("{} is not a source of claims", show(text)), EXAMPLE)),
    }
}

pub(super) fn parse_origin(text: &str) -> Result<String, Invalid> {
    const EXAMPLE: &str = "write scheme and host as a browser does: https://shop.example";
    if text == "*" || text == "null" {
        return Err(invalid(
            format!("`{text}` would let any page read a user's streams"),
            "name the origins, one by one",
        ));
    }
    let uri: Uri =
        text.parse().map_err(|_| invalid(format!("{} is not an origin", show(text)), EXAMPLE))?;
    let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority())
    else {
        return Err(invalid(format!("{} is not an origin", show(text)), EXAMPLE));
    };
    let behind = text.splitn(4, '/').nth(3).unwrap_or_default();
    if !behind.is_empty() || uri.query().is_some() || authority.as_str().contains(['@', '*']) {
        return Err(invalid(
            format!("{} has more than scheme, host and port", show(text)),
            EXAMPLE,
        ));
    }
    let authority = authority.as_str().to_ascii_lowercase();
    let default_port = if scheme == "https" { ":443" } else { ":80" };
    let authority = authority.strip_suffix(default_port).unwrap_or(&authority);
    Ok(format!("{scheme}://{authority}"))
}
