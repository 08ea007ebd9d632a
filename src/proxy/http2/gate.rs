//! The gate for HTTP/2: what two readers could take for different requests is refused, by the rules
//! of [`crate::proxy::gate`] and of [RFC 9113](https://www.rfc-editor.org/rfc/rfc9113) section 8.
//!
//! Pure. Before it, the `h2` crate has refused with a reset of the stream what is no message at all:
//! pseudo-header fields that are missing, repeated or misplaced, names in upper case, control
//! characters, a body of another length than `content-length` says.

use http::header::{self, HeaderMap};
use http::request::Parts;

use crate::proxy::gate::{HeadRefusal, MAX_HEADERS, is_host_byte, is_twin};

/// What concerns one connection of HTTP/1.1; in HTTP/2 it could only smuggle.
const CONNECTION_SPECIFIC: [&str; 5] =
    ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];

/// Decides about a request.
///
/// # Errors
/// It has two readings, or is none for us.
pub fn check(request: &Parts) -> Result<(), HeadRefusal> {
    if request.method == http::Method::CONNECT {
        return Err(HeadRefusal { status: 405, reason: "CONNECT is not supported" });
    }
    if request.headers.len() > MAX_HEADERS {
        let reason = "the request head has more than 128 header fields";
        return Err(HeadRefusal { status: 431, reason });
    }
    check_target(request)
        .and_then(|()| check_host(request))
        .and_then(|()| check_fields(&request.headers))
        .map_err(|reason| HeadRefusal { status: 400, reason })
}

/// The host that a checked request is for.
pub fn host_of(request: &Parts) -> &[u8] {
    match request.uri.authority() {
        Some(authority) => authority.as_str().as_bytes(),
        None => request.headers.get(header::HOST).map_or(b"", |host| host.as_bytes()),
    }
}

fn check_target(request: &Parts) -> Result<(), &'static str> {
    let is_known = request.uri.scheme().is_none_or(|scheme| {
        scheme == &http::uri::Scheme::HTTP || scheme == &http::uri::Scheme::HTTPS
    });
    if !is_known {
        return Err("the request's scheme is neither http nor https");
    }
    let target = request.uri.path_and_query().map_or("", |target| target.as_str());
    if !target.bytes().all(is_target_byte) {
        return Err("the request target contains a forbidden character");
    }
    match target.starts_with('/') || (target == "*" && request.method == http::Method::OPTIONS) {
        true => Ok(()),
        false => Err("the request target is not a path"),
    }
}

/// As in HTTP/1, where others would end a target. A fragment is cut off by the library.
fn is_target_byte(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f && byte != b'#'
}

fn check_host(request: &Parts) -> Result<(), &'static str> {
    let mut hosts = request.headers.get_all(header::HOST).iter();
    let authority = request.uri.authority().map(|authority| authority.as_str().as_bytes());
    let host = hosts.next().map(http::HeaderValue::as_bytes);
    if hosts.next().is_some() {
        return Err("the request has several Host headers");
    }
    let found = match (authority, host) {
        (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => {
            return Err("the :authority and the Host header name different hosts");
        }
        (Some(found), _) | (None, Some(found)) => found,
        (None, None) => return Err("the request has no Host header"),
    };
    match found.iter().copied().all(is_host_byte) {
        true => Ok(()),
        false => Err("the Host header is invalid"),
    }
}

/// A token of [RFC 9110](https://www.rfc-editor.org/rfc/rfc9110#section-5.6.2), as names of fields are in
/// HTTP/1.
pub fn is_field_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn check_fields(fields: &HeaderMap) -> Result<(), &'static str> {
    for (name, value) in fields {
        let name = name.as_str();
        // The library takes a quotation mark, too.
        if !is_field_name(name) {
            return Err("a header field's name contains a forbidden character");
        }
        if is_twin(name) {
            return Err("a header field's name differs from a well-known one only in its dashes");
        }
        if CONNECTION_SPECIFIC.contains(&name) {
            return Err("the request has a header field that HTTP/2 forbids");
        }
        if name == "te" && !value.as_bytes().eq_ignore_ascii_case(b"trailers") {
            return Err("the only TE that HTTP/2 allows is `trailers`");
        }
        if value.as_bytes().trim_ascii().len() != value.len() {
            return Err("a header field's value begins or ends with a blank");
        }
    }
    let mut lengths = fields.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(()) };
    if lengths.next().is_some() {
        return Err("the request has several Content-Lengths");
    }
    let is_number = length.as_bytes().iter().all(u8::is_ascii_digit)
        && length.to_str().is_ok_and(|length| length.parse::<u64>().is_ok());
    if is_number { Ok(()) } else { Err("the Content-Length is not a number") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(method: &str, uri: &str, fields: &[(&str, &str)]) -> Option<u16> {
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            // As the h2 crate makes them.
            let name = http::HeaderName::from_lowercase(name.as_bytes()).unwrap();
            let value = http::HeaderValue::from_bytes(value.as_bytes()).unwrap();
            request = request.header(name, value);
        }
        check(&request.body(()).unwrap().into_parts().0).err().map(|refusal| refusal.status)
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for (fields, refused) in [
            (&[][..], None),
            (&[("host", "a:80")], None),
            (&[("host", "A:80")], None),
            (&[("host", "b")], Some(400)),
            (&[("host", "a:80"), ("host", "a:80")], Some(400)),
            (&[("content-length", "3")], None),
            (&[("content-length", "3"), ("content-length", "3")], Some(400)),
            (&[("content-length", "+3")], Some(400)),
            (&[("content-length", "")], Some(400)),
            (&[("content-length", "99999999999999999999")], Some(400)),
            (&[("te", "trailers")], None),
            (&[("te", "gzip")], Some(400)),
            (&[("te", "trailers, gzip")], Some(400)),
            (&[("connection", "close")], Some(400)),
            (&[("keep-alive", "5")], Some(400)),
            (&[("proxy-connection", "close")], Some(400)),
            (&[("transfer-encoding", "chunked")], Some(400)),
            (&[("upgrade", "websocket")], Some(400)),
            (&[("content_length", "3")], Some(400)),
            (&[("x_forwarded-for", "1")], Some(400)),
            (&[("x_y", "1")], None),
            (&[("x\"y", "1")], Some(400)),
            (&[("x", " 1")], Some(400)),
            (&[("x", "1\t")], Some(400)),
            (&[("x", "")], None),
            (&[("x", "a\u{e9}")], None),
        ] {
            assert_eq!(status("POST", "http://a:80/x", fields), refused, "{fields:?}");
        }
        let many = vec![("x", "1"); MAX_HEADERS];
        assert_eq!(status("GET", "http://a/", &many), None);
        let more = vec![("x", "1"); MAX_HEADERS + 1];
        assert_eq!(status("GET", "http://a/", &more), Some(431));
    }

    #[test]
    fn a_target_is_a_path_on_a_host() {
        for (method, uri, fields, refused) in [
            ("GET", "https://a/x?y", &[][..], None),
            ("GET", "/x", &[("host", "a")], None),
            ("GET", "/x", &[], Some(400)),
            ("GET", "http://[::1]:80/x", &[], None),
            ("GET", "http://user@a/x", &[], Some(400)),
            ("GET", "/x", &[("host", "a,b")], Some(400)),
            ("GET", "ftp://a/x", &[], Some(400)),
            ("OPTIONS", "*", &[("host", "a")], None),
            ("GET", "*", &[("host", "a")], Some(400)),
            ("CONNECT", "a:80", &[], Some(405)),
        ] {
            assert_eq!(status(method, uri, fields), refused, "{method} {uri} {fields:?}");
        }
    }
}
