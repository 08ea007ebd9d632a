//! A request's head on its way to the app: its lines as they came, but for those that concern one
//! connection, and for what we add.
//!
//! Pure: bytes in, bytes out.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::ops::ControlFlow;

use bytes::{BufMut, BytesMut};

use crate::proxy::app::answer::{Line, Named, lines};
use crate::proxy::forwarded;
use crate::proxy::gate::{Body, Head};
use crate::proxy::grpc;
use crate::proxy::side::Side;

/// More names in `Connection` fields are refused.
const MAX_NAMED: usize = 32;

/// What became of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// The app is asked to switch protocols.
    pub is_upgrade: bool,
    /// By its `Content-Type`.
    pub is_grpc: bool,
}

/// What is to be done with a line.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Pass,
    Drop,
    Host,
    Te,
    Trailer,
    Upgrade,
    ContentType,
    /// One of those that we write ourselves.
    Forwarded,
    /// Another that says where the request came from.
    Claim,
}

fn fate(line: &Line<'_>) -> Fate {
    let is = |name| line.is(name);
    // Few names have these lengths.
    match line.name.len() {
        2 if is("te") => Fate::Te,
        4 if is("host") => Fate::Host,
        7 if is("trailer") => Fate::Trailer,
        7 if is("upgrade") => Fate::Upgrade,
        12 if is("content-type") => Fate::ContentType,
        10 if is("connection") || is("keep-alive") => Fate::Drop,
        14 if is("http2-settings") => Fate::Drop,
        16 if is("proxy-connection") => Fate::Drop,
        18 if is("proxy-authenticate") => Fate::Drop,
        19 if is("proxy-authorization") => Fate::Drop,
        15 if is("x-forwarded-for") => Fate::Forwarded,
        16 if is("x-forwarded-host") => Fate::Forwarded,
        17 if is("x-forwarded-proto") => Fate::Forwarded,
        9.. if forwarded::is_claim(line.name) => Fate::Claim,
        _ => Fate::Pass,
    }
}

/// Appends the head that the app gets for the one at the beginning of these bytes.
///
/// # Errors
/// Its `Connection` names what no connection may take away, or its target another scheme than it
/// came by; why it is refused.
pub fn write(
    head: &Head,
    bytes: &[u8],
    side: &Side,
    peer: Option<IpAddr>,
    out: &mut BytesMut,
) -> Result<Sent, &'static str> {
    let bytes = &bytes[..head.length];
    let named = Named::of(bytes).map_err(|_| "the request has too many Connection fields")?;
    check_named(&named)?;
    out.reserve(head.length + 256);
    out.put_slice(head.method(bytes).as_bytes());
    out.put_u8(b' ');
    out.put_slice(head.target(bytes));
    out.put_slice(b" HTTP/1.1\r\n");
    let is_upgrade = is_web_socket(head, bytes);
    let is_trusted = side.is_trusted(peer);
    let (mut host, mut has_forwarded, mut takes_trailers) = (None, false, false);
    let mut is_grpc = false;
    for line in lines(bytes) {
        match fate(&line) {
            Fate::Host => host = Some(line.value),
            Fate::Drop => continue,
            Fate::Te => {
                takes_trailers |= has_token(line.value, b"trailers");
                continue;
            }
            Fate::Trailer if head.body == Body::Chunked => {}
            Fate::Upgrade if is_upgrade => {}
            Fate::Trailer | Fate::Upgrade => continue,
            Fate::Forwarded => {
                has_forwarded = true;
                continue;
            }
            Fate::Claim if !is_trusted => continue,
            _ if named.has(line.name) && !is_framing(&line) => continue,
            Fate::ContentType => is_grpc |= grpc::is_grpc(line.value),
            Fate::Pass | Fate::Claim => {}
        }
        out.put_slice(line.whole);
    }
    if host.is_none() {
        // HTTP/1.1 requires it, also where nothing is known.
        host = Some(authority_of(head.target(bytes)));
        put(out, "Host", host.unwrap_or_default());
    }
    if is_upgrade {
        out.put_slice(b"Connection: Upgrade\r\n");
    } else if takes_trailers && head.minor > 0 {
        out.put_slice(b"TE: trailers\r\nConnection: TE\r\n");
    }
    let believed = if has_forwarded && is_trusted { bytes } else { &[] };
    let proto = proto_of(believed, side);
    if scheme_of(head.target(bytes)).is_some_and(|scheme| !scheme.eq_ignore_ascii_case(proto)) {
        return Err("the scheme of the request target is not that of the connection");
    }
    put_forwarded(believed, side, peer, host.unwrap_or_default(), out);
    out.put_slice(b"\r\n");
    Ok(Sent { is_upgrade, is_grpc })
}

/// Some fields are the request's own, or ours: a `Connection` that names them wants them to be lost
/// on the way.
fn check_named(named: &Named<'_>) -> Result<(), &'static str> {
    let mut count = 0;
    let checked = named.tokens(|token| {
        count += 1;
        let is_name = token.iter().all(|byte| is_token_byte(*byte));
        let is_ours = token.eq_ignore_ascii_case(b"host") || forwarded::is_claim(token);
        match is_name && !is_ours && count <= MAX_NAMED {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    });
    match checked {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => {
            Err("the request's Connection header names a field that it must \
                                       not")
        }
    }
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Says where the body ends, whatever a `Connection` says.
fn is_framing(line: &Line<'_>) -> bool {
    line.is("content-length") || line.is("transfer-encoding")
}

fn has_token(value: &[u8], token: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(token))
}

/// WebSockets are the protocol that is switched to. Others, HTTP/2 above all, would carry requests
/// past the gate.
fn is_web_socket(head: &Head, bytes: &[u8]) -> bool {
    if !head.is_upgrade || head.minor == 0 || head.body != Body::None || head.method(bytes) != "GET"
    {
        return false;
    }
    let mut upgrades = lines(bytes).filter(|line| line.is("upgrade"));
    upgrades.next().is_some_and(|line| line.value.eq_ignore_ascii_case(b"websocket"))
        && upgrades.next().is_none()
}

/// Of a target in absolute form; others have none.
fn scheme_of(target: &[u8]) -> Option<&[u8]> {
    if target.starts_with(b"/") {
        return None;
    }
    target.windows(3).position(|part| part == b"://").map(|at| &target[..at])
}

/// Of a target in absolute form; others have none.
fn authority_of(target: &[u8]) -> &[u8] {
    let Some(scheme) = scheme_of(target) else { return &[] };
    let rest = &target[scheme.len() + 3..];
    &rest[..rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len())]
}

fn put(out: &mut BytesMut, name: &str, value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.put_slice(name.as_bytes());
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

/// As [`Side::forwarded`]; `believed` is the head if its `X-Forwarded-*` are to be believed.
fn put_forwarded(
    believed: &[u8],
    side: &Side,
    peer: Option<IpAddr>,
    host: &[u8],
    out: &mut BytesMut,
) {
    out.put_slice(b"X-Forwarded-For: ");
    for line in lines(believed).filter(|line| line.is("x-forwarded-for")) {
        out.put_slice(line.value);
        out.put_slice(b", ");
    }
    match peer {
        // A buffer grows: writing to it cannot fail.
        Some(peer) => _ = write!(out, "{}", peer.to_canonical()),
        None => out.put_slice(b"unknown"),
    }
    out.put_slice(b"\r\n");
    put(out, "X-Forwarded-Proto", proto_of(believed, side));
    put(out, "X-Forwarded-Host", first(believed, "x-forwarded-host").unwrap_or(host));
}

fn first<'a>(head: &'a [u8], name: &str) -> Option<&'a [u8]> {
    lines(head).find(|line| line.is(name)).map(|line| line.value)
}

fn proto_of<'a>(believed: &'a [u8], side: &'a Side) -> &'a [u8] {
    first(believed, "x-forwarded-proto").unwrap_or(side.scheme.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::gate::{Gate, Verdict};

    fn side(trusted: &str) -> Side {
        Side { trusted_proxies: vec![trusted.parse().unwrap()], scheme: "http" }
    }

    fn written(request: &str, trusted: &str) -> Result<(String, bool), &'static str> {
        let request = request.replace('\n', "\r\n");
        let Verdict::Request(head) = Gate::default().inspect(request.as_bytes()) else {
            panic!("{request}")
        };
        let mut out = BytesMut::new();
        let peer = Some("192.0.2.1".parse().unwrap());
        let sent = write(&head, request.as_bytes(), &side(trusted), peer, &mut out)?;
        Ok((String::from_utf8(out.to_vec()).unwrap().replace("\r\n", "\n"), sent.is_upgrade))
    }

    const ADDED: &str =
        "X-Forwarded-For: 192.0.2.1\nX-Forwarded-Proto: http\nX-Forwarded-Host: a:1\n\n";

    #[test]
    fn what_concerns_one_connection_stays_and_the_rest_passes() {
        for (request, passed) in [
            ("GET /x?y HTTP/1.1\nhOsT: a:1\nX:1\nx:  2 \n\n", "hOsT: a:1\nX:1\nx:  2 \n"),
            ("GET /x?y HTTP/1.0\nHost: a:1\nConnection: keep-alive\n\n", "Host: a:1\n"),
            (
                "GET /x?y HTTP/1.1\nHost: a:1\nConnection: X-Mine, close\nx-mine: 1\nY: 1\n\n",
                "Host: a:1\nY: 1\n",
            ),
            (
                "GET /x?y HTTP/1.1\nHost: a:1\nKeep-Alive: 5\nProxy-Connection: x\n\
                 Proxy-Authorization: x\nProxy-Authenticate: x\nHTTP2-Settings: x\nUpgrade: h2c\n\
                 Trailer: x\nForwarded: for=x\nX_Real-IP: 1\nX-Original-URL: /y\nx-forwarder: 1\n\n",
                "Host: a:1\nx-forwarder: 1\n",
            ),
            (
                "GET /x?y HTTP/1.1\nHost: a:1\nConnection: Content-Length\nContent-Length: 0\n\n",
                "Host: a:1\nContent-Length: 0\n",
            ),
            (
                "GET /x?y HTTP/1.1\nHost: a:1\nTransfer-Encoding: Chunked\nTrailer: x\n\n",
                "Host: a:1\nTransfer-Encoding: Chunked\nTrailer: x\n",
            ),
            (
                "GET /x?y HTTP/1.1\nHost: a:1\nTE: gzip, trailers\n\n",
                "Host: a:1\nTE: trailers\nConnection: TE\n",
            ),
            ("GET /x?y HTTP/1.1\nHost: a:1\nTE: gzip\n\n", "Host: a:1\n"),
            ("GET /x?y HTTP/1.1\nHost: a:1\nX-Forwarded-For: 1.2.3.4\n\n", "Host: a:1\n"),
        ] {
            let expected = format!("GET /x?y HTTP/1.1\n{passed}{ADDED}");
            assert_eq!(written(request, "10.0.0.0/8"), Ok((expected, false)), "{request}");
        }
    }

    #[test]
    fn only_web_sockets_are_switched_to() {
        let fields = "Host: a:1\nConnection: keep-alive, Upgrade\nUpgrade: WebSocket\n";
        let (head, is_upgrade) =
            written(&format!("GET /x HTTP/1.1\n{fields}\n"), "10.0.0.0/8").unwrap();
        let passed = "Host: a:1\nUpgrade: WebSocket\nConnection: Upgrade\n";
        assert_eq!((head, is_upgrade), (format!("GET /x HTTP/1.1\n{passed}{ADDED}"), true));
        for request in [
            format!("POST /x HTTP/1.1\n{fields}\n"),
            format!("GET /x HTTP/1.0\n{fields}\n"),
            format!("GET /x HTTP/1.1\n{fields}Content-Length: 1\n\n"),
            format!("GET /x HTTP/1.1\n{fields}Upgrade: x\n\n"),
            format!("GET /x HTTP/1.1\n{}\n", fields.replace("WebSocket", "h2c")),
        ] {
            let (head, is_upgrade) = written(&request, "10.0.0.0/8").unwrap();
            assert!(!is_upgrade && !head.contains("pgrade"), "{head}");
        }
    }

    #[test]
    fn trusted_proxies_may_say_where_a_request_came_from() {
        let request = "GET /x HTTP/1.1\nHost: a:1\nForwarded: for=x\nX-Real-IP: 1\n\n";
        let (head, _) = written(request, "192.0.2.0/24").unwrap();
        assert!(head.contains("\nForwarded: for=x\nX-Real-IP: 1\n"), "{head}");
    }

    #[test]
    fn a_target_may_not_name_another_scheme() {
        for (target, claimed, trusted, is_refused) in [
            ("https://a:1/x", "http", "10.0.0.0/8", true),
            ("https://a:1/x", "https", "10.0.0.0/8", true),
            ("HTTP://a:1/x", "https", "10.0.0.0/8", false),
            ("https://a:1/x", "https", "192.0.2.0/24", false),
            ("http://a:1/x", "https", "192.0.2.0/24", true),
            ("/x?y=https://a", "https", "192.0.2.0/24", false),
        ] {
            let request =
                format!("GET {target} HTTP/1.1\nHost: a:1\nX-Forwarded-Proto: {claimed}\n\n");
            assert_eq!(written(&request, trusted).is_err(), is_refused, "{request}");
        }
    }

    #[test]
    fn hosts_are_known_or_empty() {
        for (request, host) in [
            ("GET /x HTTP/1.0\n\n", ""),
            ("GET http://b:2?x HTTP/1.0\n\n", "b:2"),
            ("OPTIONS * HTTP/1.0\n\n", ""),
        ] {
            let (head, _) = written(request, "10.0.0.0/8").unwrap();
            assert!(head.contains(&format!("\nHost: {host}\n")), "{head}");
            assert!(head.contains(&format!("\nX-Forwarded-Host: {host}\n")), "{head}");
        }
    }

    #[test]
    fn it_adds_what_http2_adds() {
        let claimed = "GET / HTTP/1.1\nHost: a\nx-forwarded-for: 1.1.1.1, 2.2.2.2\n\
                       X-Forwarded-For: 3.3.3.3\nX-Forwarded-Proto: https\nX-Forwarded-Host: b\n\n";
        for (request, trusted) in [
            (claimed, "192.0.2.0/24"),
            (claimed, "10.0.0.0/8"),
            ("GET / HTTP/1.1\nHost: a\n\n", "10.0.0.0/8"),
        ] {
            let (head, _) = written(request, trusted).unwrap();
            let values = |name: &str| -> Vec<Vec<u8>> {
                lines(request.as_bytes())
                    .filter(|line| line.is(name))
                    .map(|line| line.value.to_vec())
                    .collect()
            };
            let peer = Some("192.0.2.1".parse().unwrap());
            for (name, value) in side(trusted).forwarded(peer, values, Some(b"a".to_vec())) {
                let line = format!("\n{name}: {}\n", String::from_utf8(value).unwrap());
                assert!(head.contains(&line), "{line:?} in {head}");
                assert_eq!(head.to_lowercase().matches(&name.to_lowercase()).count(), 1);
            }
        }
    }

    #[test]
    fn a_connection_may_not_take_everything_away() {
        for names in [
            "Host",
            "x-forwarded-FOR",
            "a, X-Forwarded-Host",
            "x-real-ip",
            "\"Host\"",
            ":authority",
        ] {
            let request = format!("GET / HTTP/1.1\nHost: a\nConnection: {names}\n\n");
            assert!(written(&request, "10.0.0.0/8").is_err(), "{names}");
        }
        let many = "a,".repeat(MAX_NAMED + 1);
        let request = format!("GET / HTTP/1.1\nHost: a\nConnection: {many}\n\n");
        assert!(written(&request, "10.0.0.0/8").is_err());
    }
}
