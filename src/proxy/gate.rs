//! The strict gate: a request head is read once, here, and whatever two readers could take for
//! different requests is refused, reserved path or not.
//!
//! Pure: bytes in, verdict out. The rules are those of
//! [RFC 9112](https://www.rfc-editor.org/rfc/rfc9112) without its leniencies; the app behind us,
//! whatever it is, then sees only requests that have one reading.

use std::net::IpAddr;

/// A longer head is refused, in bytes.
pub const MAX_HEAD: usize = 64 * 1024;
/// More header lines are refused; pingora would refuse them too.
const MAX_HEADERS: usize = 128;
/// What an HTTP/2 connection begins with.
pub const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the beginning of a connection's bytes is.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not all of it is here yet.
    Partial,
    Http2,
    Refused(Refusal),
    Request(Head),
}

/// Why a head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
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

/// What the door has to know of a request; the rest stays in its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The head's length in bytes, its empty line included.
    pub length: usize,
    pub method: String,
    pub target: Vec<u8>,
    /// The minor version: HTTP/1.0 or HTTP/1.1.
    pub minor: u8,
    pub body: Body,
    pub is_upgrade: bool,
    /// Whether it takes trailer fields, or announces its own.
    pub has_trailers: bool,
    /// Whether the client wants to keep the connection.
    pub is_keep_alive: bool,
}

const fn refuse(status: u16, reason: &'static str) -> Verdict {
    Verdict::Refused(Refusal { status, reason })
}

/// Looks at the bytes that a connection, or its next request, begins with. `seen` is how many of
/// them an earlier look found to be partial, so that a head that comes byte by byte is not gone
/// over again and again; zero at first.
pub fn inspect(bytes: &[u8], seen: &mut usize) -> Verdict {
    let common = bytes.len().min(H2_PREFACE.len());
    if !bytes.is_empty() && bytes[..common] == H2_PREFACE[..common] {
        return if common == H2_PREFACE.len() { Verdict::Http2 } else { Verdict::Partial };
    }
    let from = seen.saturating_sub(3);
    let Some(length) = head_length(&bytes[from..]).map(|length| from + length) else {
        // A bare LF could hide the end that another reader sees.
        if has_bare_line_feed(&bytes[from..], from == 0) {
            return refuse(400, "a line ends in a bare LF");
        }
        if bytes.len() >= MAX_HEAD {
            return refuse(431, "the request head is longer than 64 KiB");
        }
        *seen = bytes.len();
        return Verdict::Partial;
    };
    if length > MAX_HEAD {
        return refuse(431, "the request head is longer than 64 KiB");
    }
    parse(&bytes[..length])
}

fn head_length(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|part| part == b"\r\n\r\n").map(|at| at + 4)
}

/// `is_start`: these bytes are the first, so that a line feed at their beginning is bare.
fn has_bare_line_feed(bytes: &[u8], is_start: bool) -> bool {
    let is_bare = |pair: &[u8]| pair[0] != b'\r' && pair[1] == b'\n';
    (is_start && bytes.first() == Some(&b'\n')) || bytes.windows(2).any(is_bare)
}

fn parse(head: &[u8]) -> Verdict {
    if head.contains(&0) {
        return refuse(400, "the request head contains a NUL");
    }
    if has_bare_line_feed(head, true) {
        return refuse(400, "a line ends in a bare LF");
    }
    if has_bare_carriage_return(head) {
        return refuse(400, "the request head contains a bare CR");
    }
    if head.windows(3).any(|part| part == b"\r\n " || part == b"\r\n\t") {
        return refuse(400, "a header field is folded over several lines");
    }
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return refuse(400, "the request head is malformed"),
        Err(httparse::Error::TooManyHeaders) => {
            return refuse(431, "the request head has more than 128 header fields");
        }
        Err(httparse::Error::Version) if names_a_version(head) => {
            return refuse(505, "only HTTP/1.0, 1.1 and 2 are spoken");
        }
        Err(_) => return refuse(400, "the request head is malformed"),
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return refuse(400, "the request head is malformed");
    };
    if method == "CONNECT" {
        return refuse(405, "this is no proxy for tunnels");
    }
    let checked = check_host(request.headers, minor)
        .and_then(|()| check_authority(target.as_bytes(), request.headers));
    if let Err(reason) = checked {
        return refuse(400, reason);
    }
    let body = match body_of(request.headers, minor) {
        Ok(body) => body,
        Err(reason) => return refuse(400, reason),
    };
    Verdict::Request(Head {
        length: head.len(),
        method: method.to_string(),
        target: target.as_bytes().to_vec(),
        minor,
        body,
        is_upgrade: has_token(request.headers, "connection", "upgrade")
            && find(request.headers, "upgrade").next().is_some(),
        has_trailers: has_token(request.headers, "te", "trailers")
            || find(request.headers, "trailer").next().is_some(),
        is_keep_alive: if minor == 0 {
            has_token(request.headers, "connection", "keep-alive")
        } else {
            !has_token(request.headers, "connection", "close")
        },
    })
}

/// Whether the request line has three parts and the last one is a version, if not one of ours.
fn names_a_version(head: &[u8]) -> bool {
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    let mut parts = line.split(|b| *b == b' ').skip(2);
    matches!((parts.next(), parts.next()), (Some([b'H', b'T', b'T', b'P', b'/', ..]), None))
}

fn has_bare_carriage_return(head: &[u8]) -> bool {
    head.windows(2).any(|pair| pair[0] == b'\r' && pair[1] != b'\n')
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

fn check_host(headers: &[httparse::Header<'_>], minor: u8) -> Result<(), &'static str> {
    match find(headers, "host").count() {
        1 => Ok(()),
        // HTTP/1.0 came before the field.
        0 if minor == 0 => Ok(()),
        0 => Err("the request has no Host"),
        _ => Err("the request has several Hosts"),
    }
}

/// A target in absolute form has to name the host that `Host` names.
fn check_authority(target: &[u8], headers: &[httparse::Header<'_>]) -> Result<(), &'static str> {
    let Some(at) = target.windows(3).position(|part| part == b"://") else {
        return Ok(());
    };
    if target.starts_with(b"/") {
        return Ok(());
    }
    let authority = &target[at + 3..];
    let end = authority.iter().position(|b| matches!(b, b'/' | b'?' | b'#'));
    let authority = &authority[..end.unwrap_or(authority.len())];
    match find(headers, "host").next() {
        Some(host) if !host.eq_ignore_ascii_case(authority) => {
            Err("the request names one host in its target and another in Host")
        }
        _ => Ok(()),
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
            return Err("the only Transfer-Encoding that is understood is one `chunked`");
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
mod tests {
    use super::*;

    fn status(head: &[u8]) -> Option<u16> {
        match inspect(head, &mut 0) {
            Verdict::Refused(refusal) => Some(refusal.status),
            Verdict::Request(_) => None,
            other => panic!("{other:?} for {}", String::from_utf8_lossy(head)),
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for (fields, refused) in [
            ("Host: a\r\n", None),
            ("Host: a\r\nContent-Length: 3\r\n", None),
            ("Host: a\r\nTransfer-Encoding: chunked\r\n", None),
            ("Host: a\r\nTransfer-Encoding: Chunked\r\n", None),
            ("", Some(400)),
            ("Host: a\r\nHost: a\r\n", Some(400)),
            ("Host: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n", Some(400)),
            ("Host: a\r\nContent-Length: 3, 3\r\n", Some(400)),
            ("Host: a\r\nContent-Length: +3\r\n", Some(400)),
            ("Host: a\r\nContent-Length: -3\r\n", Some(400)),
            ("Host: a\r\nContent-Length: 0x3\r\n", Some(400)),
            ("Host: a\r\nContent-Length: \r\n", Some(400)),
            ("Host: a\r\nContent-Length: 99999999999999999999\r\n", Some(400)),
            ("Host: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n", Some(400)),
            ("Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Some(400)),
            ("Host: a\r\nTransfer-Encoding: gzip, chunked\r\n", Some(400)),
            ("Host: a\r\nTransfer-Encoding: chunked, identity\r\n", Some(400)),
            ("Host: a\r\nTransfer-Encoding : chunked\r\n", Some(400)),
            ("Host: a\r\nTransfer-Encoding: \x0bchunked\r\n", Some(400)),
            ("Host: a\r\nX: 1\r\n 2\r\n", Some(400)),
            ("Host: a\r\nX: 1\nY: 2\r\n", Some(400)),
            ("Host: a\r\nX: 1\rY: 2\r\n", Some(400)),
            ("Host: a\r\nX: a\0b\r\n", Some(400)),
            (" Host: a\r\n", Some(400)),
        ] {
            let head = format!("POST /x HTTP/1.1\r\n{fields}\r\n");
            assert_eq!(status(head.as_bytes()), refused, "{fields:?}");
        }
        assert_eq!(status(b"GET / HTTP/1.0\r\n\r\n"), None);
        assert_eq!(status(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), Some(400));
        assert_eq!(status(b"GET / HTTP/1.1\nHost: a\n\n"), Some(400));
        assert_eq!(status(b"GET / HTTP/2.0\r\nHost: a\r\n\r\n"), Some(505));
    }

    #[test]
    fn a_head_may_come_byte_by_byte_and_not_grow_for_ever() {
        let head = b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nrest";
        let mut seen = 0;
        for end in 0..head.len() - 4 {
            assert_eq!(inspect(&head[..end], &mut seen), Verdict::Partial, "{end}");
        }
        let Verdict::Request(request) = inspect(head, &mut seen) else { panic!("a request") };
        assert_eq!((request.length, request.is_keep_alive), (head.len() - 4, false));
        for end in 1..H2_PREFACE.len() {
            assert_eq!(inspect(&H2_PREFACE[..end], &mut 0), Verdict::Partial);
        }
        assert_eq!(inspect(H2_PREFACE, &mut 0), Verdict::Http2);
        let endless = [b"GET /x HTTP/1.1\r\nX: ".as_slice(), &[b'a'; MAX_HEAD]].concat();
        assert_eq!(status(&endless), Some(431));
    }

    #[test]
    fn header_values_are_found_whatever_their_case() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\nACCEPT: text/html\r\naccept:  */* \r\n\r\n";
        assert_eq!(header_values(head, "Accept"), [b"text/html".as_slice(), b"*/*"]);
    }

    proptest::proptest! {
        /// Whatever comes, in whatever pieces: no panic, and the same verdict; and what passes,
        /// another parser takes for the same request.
        #[test]
        fn pieces_do_not_change_the_verdict(
            lines in proptest::collection::vec("[A-Za-z-]{0,12}:? ?[ -~\r\n\t\u{0}]{0,12}", 0..6),
            ends in proptest::collection::vec(0usize..200, 0..8),
        ) {
            let head = format!("GET /x HTTP/1.1\r\nHost: a\r\n{}\r\n\r\nrest", lines.join("\r\n"));
            let head = head.as_bytes();
            let whole = inspect(head, &mut 0);
            let mut ends = ends;
            ends.sort_unstable();
            let mut seen = 0;
            let mut verdict = Verdict::Partial;
            for end in ends.into_iter().chain([head.len()]) {
                verdict = inspect(&head[..end.min(head.len())], &mut seen);
                if verdict != Verdict::Partial {
                    break;
                }
            }
            let is_refused = |verdict: &Verdict| matches!(verdict, Verdict::Refused(_));
            proptest::prop_assert!(verdict == whole || is_refused(&verdict) && is_refused(&whole));
            if let Verdict::Request(request) = whole {
                let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
                let mut parsed = httparse::Request::new(&mut headers);
                let length = parsed.parse(head).unwrap();
                proptest::prop_assert_eq!(length, httparse::Status::Complete(request.length));
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            inspect(&bytes, &mut 0);
            super::super::path::classify(&bytes, "/_events");
            super::super::path::pairs_of(&bytes);
        }
    }
}
