//! Request heads of HTTP/2, from their fields: what passes the gate becomes a head of HTTP/1 that has
//! one reading, and that is the same request.
//!
//! The first byte of the input says whether a body follows, and whether the peer is trusted; each
//! line after it is a field, its name and its value apart by the first colon that is not in front.

#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use libfuzzer_sys::fuzz_target;
use sidestream_fuzz::proxy::app::answer::lines;
use sidestream_fuzz::proxy::forwarded::is_claim;
use sidestream_fuzz::proxy::gate::{Body, Verdict, inspect};
use sidestream_fuzz::proxy::http2::gate::{check, host_of};
use sidestream_fuzz::proxy::http2::head::{Framing, request};
use sidestream_fuzz::proxy::side::Side;

/// With what we add, a head may have more fields than one reader takes.
const MAX_FIELDS: usize = 120;

/// As the h2 crate makes requests of fields; `None` for what it resets.
fn parts_of(fields: &[u8]) -> Option<http::request::Parts> {
    let mut uri = http::uri::Parts::default();
    let mut built = Request::new(());
    for line in fields.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let colon = 1 + line.get(1..)?.iter().position(|byte| *byte == b':')?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        match name {
            b":method" => *built.method_mut() = Method::from_bytes(value).ok()?,
            b":scheme" => uri.scheme = Some(Scheme::try_from(value).ok()?),
            b":authority" => uri.authority = Some(Authority::try_from(value).ok()?),
            b":path" => uri.path_and_query = Some(PathAndQuery::try_from(value).ok()?),
            name => {
                let name = HeaderName::from_lowercase(name).ok()?;
                built.headers_mut().append(name, HeaderValue::from_bytes(value).ok()?);
            }
        }
    }
    if uri.authority.is_none() {
        // Without one, the library leaves the scheme out.
        uri.scheme = None;
    }
    *built.uri_mut() = Uri::from_parts(uri).ok()?;
    Some(built.into_parts().0)
}

fuzz_target!(|input: &[u8]| {
    let Some((first, fields)) = input.split_first() else { return };
    let (has_body, is_trusted) = (first & 1 != 0, first & 2 != 0);
    let Some(parts) = parts_of(fields) else { return };
    if check(&parts).is_err() || parts.headers.len() > MAX_FIELDS {
        return;
    }
    let length = parts.headers.get("content-length").map(HeaderValue::as_bytes);
    if !has_body && length.is_some_and(|length| length.iter().any(|digit| *digit != b'0')) {
        // The library resets what ends before its length.
        return;
    }
    let peer = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let trusted_proxies = if is_trusted { vec![peer.into()] } else { Vec::new() };
    let side = Side { trusted_proxies, scheme: "https" };
    let (head, framing) = request(&parts, has_body, &side, Some(peer));
    // The gate of HTTP/1 is the judge.
    let verdict = inspect(&head, &mut 0);
    let Verdict::Request(passed) = verdict else {
        panic!("{verdict:?} for {:?}", String::from_utf8_lossy(&head))
    };
    assert_eq!(passed.length, head.len());
    assert_eq!(passed.method(&head), parts.method.as_str());
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    assert_eq!(passed.target(&head), target.as_bytes());
    match framing {
        Framing::None => assert_eq!(passed.body, Body::None),
        Framing::Length => assert_ne!(passed.body, Body::Chunked),
        Framing::Chunked => assert_eq!(passed.body, Body::Chunked),
    }
    let hosts: Vec<_> = lines(&head).filter(|line| line.is("host")).collect();
    assert_eq!(hosts.len(), 1);
    assert_eq!(hosts[0].value, host_of(&parts).trim_ascii());
    if !is_trusted {
        let claims = lines(&head).filter(|line| is_claim(line.name)).count();
        assert_eq!(claims, 3, "{:?}", String::from_utf8_lossy(&head));
    }
});
