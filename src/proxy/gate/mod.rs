//! The strict gate: a request head is read once, here, and whatever two readers could take for
//! different requests is refused, reserved path or not.
//!
//! Pure: bytes in, verdict out. The rules are those of
//! [RFC 9112](https://www.rfc-editor.org/rfc/rfc9112) without its leniencies; the app behind us,
//! whatever it is, then sees only requests that have one reading.

use std::mem::MaybeUninit;
use std::net::IpAddr;

/// A longer head is refused, in bytes.
pub const MAX_HEAD: usize = 64 * 1024;
/// More header lines are refused.
pub const MAX_HEADERS: usize = 128;
/// What an HTTP/2 connection begins with.
pub const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the beginning of a connection's bytes is.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not all of it is here yet.
    Partial,
    Http2,
    Refused(HeadRefusal),
    Request(Head),
}

/// Why a head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadRefusal {
    pub status: u16,
    pub reason: &'static str,
}

/// How the body after a head is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    None,
    Length(u64),
    Chunked,
}

/// What the dispatcher has to know of a request; the rest stays in its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The head's length in bytes, its empty line included.
    pub length: usize,
    /// How long the method is, which the head begins with; a blank follows, and the target.
    method: usize,
    target: usize,
    pub is_head: bool,
    /// Done twice, it does what it does done once.
    pub is_idempotent: bool,
    /// The minor version: HTTP/1.0 or HTTP/1.1.
    pub minor: u8,
    pub body: Body,
    pub is_upgrade: bool,
    /// Whether the client wants to keep the connection.
    pub is_keep_alive: bool,
}

impl Head {
    /// The method of this head, which these bytes begin with.
    pub fn method<'a>(&self, bytes: &'a [u8]) -> &'a str {
        let method = bytes.get(..self.method).unwrap_or_default();
        // A method that passed is ASCII.
        std::str::from_utf8(method).unwrap_or_default()
    }

    /// The request target of this head, which these bytes begin with.
    pub fn target<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let start = self.method + 1;
        bytes.get(start..start + self.target).unwrap_or_default()
    }
}

const fn refuse(status: u16, reason: &'static str) -> Verdict {
    Verdict::Refused(HeadRefusal { status, reason })
}

/// Looks at the bytes that a connection, or its next request, begins with, as they come. Remembers
/// how far it has looked, so that a head which comes byte by byte costs no more than another.
#[derive(Debug, Default)]
pub struct Gate {
    seen: usize,
    /// HTTP/2 may not begin here.
    is_late: bool,
}

impl Gate {
    /// For what does not stand at the beginning of a connection: HTTP/2 begins there or not at all.
    pub fn late() -> Gate {
        Gate { seen: 0, is_late: true }
    }

    /// Looks at all of the bytes, of which there may be more than the last time.
    pub fn inspect(&mut self, bytes: &[u8]) -> Verdict {
        let common = bytes.len().min(H2_PREFACE.len());
        if !self.is_late && !bytes.is_empty() && bytes[..common] == H2_PREFACE[..common] {
            return if common == H2_PREFACE.len() { Verdict::Http2 } else { Verdict::Partial };
        }
        let seen = std::mem::replace(&mut self.seen, bytes.len());
        let mut line_feeds = bytes[seen..].iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        while let Some((at, _)) = line_feeds.next().map(|(at, byte)| (seen + at, byte)) {
            if at >= MAX_HEAD {
                break;
            }
            // A bare LF could hide the end that another reader sees.
            if at == 0 || bytes[at - 1] != b'\r' {
                return refuse(400, "a line ends in a bare LF");
            }
            if bytes[..=at].ends_with(b"\r\n\r\n") {
                return parse(&bytes[..=at]);
            }
        }
        match bytes.len() {
            MAX_HEAD.. => refuse(431, "the request head is longer than 64 KiB"),
            _ => Verdict::Partial,
        }
    }
}

/// As [`Gate::inspect`], for callers that keep the count themselves.
pub fn inspect(bytes: &[u8], seen: &mut usize) -> Verdict {
    let mut gate = Gate { seen: *seen, is_late: false };
    let verdict = gate.inspect(bytes);
    *seen = gate.seen;
    verdict
}

fn parse(head: &[u8]) -> Verdict {
    if let Err(reason) = check_bytes(head) {
        return refuse(400, reason);
    }
    if head.starts_with(b"\r\n") {
        return refuse(400, "the request begins with empty lines");
    }
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(head, &mut headers) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return refuse(400, "the request head is malformed"),
        Err(httparse::Error::TooManyHeaders) => {
            return refuse(431, "the request head has more than 128 header fields");
        }
        Err(httparse::Error::Version) if has_foreign_version(head) => {
            return refuse(505, "only HTTP/1.0, 1.1 and 2 are supported");
        }
        Err(_) => return refuse(400, "the request head is malformed"),
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return refuse(400, "the request head is malformed");
    };
    if method == "CONNECT" {
        return refuse(405, "CONNECT is not supported");
    }
    let checked = check_target(method, target, request.headers)
        .and_then(|()| check_host(request.headers, minor))
        .and_then(|()| check_names(request.headers));
    if let Err(reason) = checked {
        return refuse(400, reason);
    }
    let body = match body_of(request.headers, minor) {
        Ok(body) => body,
        Err(reason) => return refuse(400, reason),
    };
    Verdict::Request(Head {
        length: head.len(),
        method: method.len(),
        target: target.len(),
        is_head: method == "HEAD",
        is_idempotent: matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE"),
        minor,
        body,
        is_upgrade: has_token(request.headers, "connection", "upgrade")
            && find(request.headers, "upgrade").next().is_some(),
        is_keep_alive: if minor == 0 {
            has_token(request.headers, "connection", "keep-alive")
        } else {
            !has_token(request.headers, "connection", "close")
        },
    })
}

/// Whether the request line is well-formed but for a version that is not ours.
fn has_foreign_version(head: &[u8]) -> bool {
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    let parts: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    matches!(parts[..], [_, _, version] if version.starts_with(b"HTTP/"))
}

/// Once over the head, whose lines are known to end in CR LF.
fn check_bytes(head: &[u8]) -> Result<(), &'static str> {
    let mut before = 0;
    for byte in head {
        if before == b'\r' && *byte != b'\n' {
            return Err("the request head contains a bare CR");
        }
        if *byte <= b' ' || *byte == 0x7f {
            match *byte {
                b' ' | b'\t' if before == b'\n' => {
                    return Err("a header field is folded over several lines");
                }
                b' ' | b'\t' | b'\r' | b'\n' => {}
                _ => return Err("the request head contains a control character"),
            }
        }
        before = *byte;
    }
    Ok(())
}

fn find<'a>(
    headers: &'a [httparse::Header<'a>],
    name: &'a str,
) -> impl Iterator<Item = &'a [u8]> + 'a {
    headers
        .iter()
        .filter(move |header| header.name.eq_ignore_ascii_case(name))
        .map(|header| header.value)
}

fn has_token(headers: &[httparse::Header<'_>], name: &str, token: &str) -> bool {
    find(headers, name).any(|value| {
        value
            .split(|b| *b == b',')
            .any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    })
}

/// The four forms of [RFC 9112](https://www.rfc-editor.org/rfc/rfc9112) section 3.2, but for the
/// one of tunnels.
fn check_target(
    method: &str,
    target: &str,
    headers: &[httparse::Header<'_>],
) -> Result<(), &'static str> {
    if target.contains('#') {
        return Err("the request target has a fragment, which browsers never send");
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok(());
    }
    let scheme = target.find("://").map(|end| &target[..end]);
    let is_known = scheme.is_some_and(|scheme| {
        scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")
    });
    let Some(authority) = scheme.filter(|_| is_known).map(|scheme| &target[scheme.len() + 3..])
    else {
        return Err("the request target is neither a path nor an absolute URL");
    };
    let authority = &authority[..authority.find(['/', '?', '#']).unwrap_or(authority.len())];
    if !authority.bytes().all(is_host_byte) {
        return Err("the Host header is invalid");
    }
    match find(headers, "host").next() {
        Some(host) if !host.eq_ignore_ascii_case(authority.as_bytes()) => {
            Err("the request target and the Host header name different hosts")
        }
        _ => Ok(()),
    }
}

fn check_host(headers: &[httparse::Header<'_>], minor: u8) -> Result<(), &'static str> {
    let mut hosts = find(headers, "host");
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => match host.iter().copied().all(is_host_byte) {
            true => Ok(()),
            false => Err("the Host header is invalid"),
        },
        // HTTP/1.0 came before the field.
        (None, _) if minor == 0 => Ok(()),
        (None, _) => Err("the request has no Host header"),
        (Some(_), Some(_)) => Err("the request has several Host headers"),
    }
}

/// Of a name, an address and a port; `@`, `/` and `,` would make two readings.
pub fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=%:[]".contains(&byte)
}

/// Servers that hand fields on as variables take `_` and `-` for the same, and some pass over those
/// that they do not expect: what looks like one of these names must be it.
pub fn is_twin(name: &str) -> bool {
    const GUARDED: [&str; 6] = [
        "content-length",
        "transfer-encoding",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "content-type",
    ];
    fn letters(name: &str) -> impl Iterator<Item = u8> {
        name.bytes().filter(|byte| !b"-_".contains(byte)).map(|byte| byte.to_ascii_lowercase())
    }
    // Most names begin otherwise.
    let may_be = matches!(
        name.as_bytes().first(),
        Some(b'c' | b'C' | b't' | b'T' | b'x' | b'X' | b'-' | b'_')
    );
    may_be
        && GUARDED.iter().any(|guarded| {
            letters(name).eq(letters(guarded)) && !name.eq_ignore_ascii_case(guarded)
        })
}

fn check_names(headers: &[httparse::Header<'_>]) -> Result<(), &'static str> {
    match headers.iter().any(|header| is_twin(header.name)) {
        true => Err("a header field's name differs from a well-known one only in its dashes"),
        false => Ok(()),
    }
}

fn body_of(headers: &[httparse::Header<'_>], minor: u8) -> Result<Body, &'static str> {
    let mut codings = find(headers, "transfer-encoding");
    let mut lengths = find(headers, "content-length");
    let length = lengths.next();
    if lengths.next().is_some() {
        return Err("the request has several Content-Lengths");
    }
    if let Some(coding) = codings.next() {
        if codings.next().is_some() || !coding.eq_ignore_ascii_case(b"chunked") {
            return Err("the only supported Transfer-Encoding is one `chunked`");
        }
        if length.is_some() {
            return Err("the request has both Content-Length and Transfer-Encoding");
        }
        if minor == 0 {
            return Err("HTTP/1.0 has no Transfer-Encoding");
        }
        return Ok(Body::Chunked);
    }
    let Some(length) = length else {
        return Ok(Body::None);
    };
    let is_number = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
    let number = is_number
        .then(|| std::str::from_utf8(length).ok()?.parse::<u64>().ok())
        .flatten()
        .ok_or("the Content-Length is not a number")?;
    Ok(if number == 0 { Body::None } else { Body::Length(number) })
}

/// The values of one header field of a head that passed.
pub fn header_values<'a>(head: &'a [u8], name: &str) -> Vec<&'a [u8]> {
    // Lines were checked: CR LF, no folding.
    head.split(|b| *b == b'\n')
        .skip(1)
        .filter_map(|line| {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let colon = line.iter().position(|b| *b == b':')?;
            line[..colon]
                .eq_ignore_ascii_case(name.as_bytes())
                .then(|| line[colon + 1..].trim_ascii())
        })
        .collect()
}

/// Whether an address is one of those whose `X-Forwarded-*` is believed.
pub fn is_trusted(networks: &[ipnet::IpNet], address: Option<IpAddr>) -> bool {
    address.is_some_and(|address| {
        let address = address.to_canonical();
        networks.iter().any(|network| network.contains(&address))
    })
}

#[cfg(test)]
mod tests;
