//! The app's answer heads: checked strictly, so that what is passed on has one interpretation.
//!
//! Pure: from bytes to a verdict. The app is not an attacker, but if two readers could interpret an
//! answer differently, one client's answer could become another client's.

use std::mem::MaybeUninit;
use std::ops::ControlFlow;

use memchr::{memchr, memchr_iter};

/// A longer head is refused, in bytes.
pub const MAX_HEAD: usize = 256 * 1024;
/// More header lines are refused.
const MAX_FIELDS: usize = 256;

/// What every head begins with.
const HTTP1: &[u8] = b"HTTP/1.";

/// What the beginning of an answer's bytes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadState {
    /// Not all of it is here yet.
    Partial,
    /// No answer, or one with two readings; why.
    Malformed(&'static str),
    Head(Head),
}

/// How the body after a head is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    None,
    Length(u64),
    Chunked,
    /// By the end of the connection.
    UntilClose,
}

/// What is to be known of a head; the rest stays in its bytes, see [`lines`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// In bytes, with the empty line.
    pub length: usize,
    pub status: u16,
    pub body: Body,
    /// Whether the app's connection can be used again once this answer is over.
    pub is_keep_alive: bool,
}

impl Head {
    /// Another head follows: this is 100, 102, 103 or the like.
    pub fn is_informational(&self) -> bool {
        self.status < 200 && self.status != 101
    }
}

/// What was asked, as far as it says how the answer is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestKind {
    pub is_head: bool,
    /// The app may switch to WebSocket.
    pub is_upgrade: bool,
}

/// Looks at the beginning of an answer. `seen` is how far it was looked at before, so that a head
/// which comes byte by byte costs no more than another: 0 at first, and again for the next head.
pub fn inspect(bytes: &[u8], seen: &mut usize, asked: RequestKind) -> HeadState {
    // Here, since httparse passes over empty lines before a head; and at once, since what speaks
    // another protocol may never end a line.
    let common = bytes.len().min(HTTP1.len());
    if bytes[..common] != HTTP1[..common] {
        return HeadState::Malformed("it does not begin as HTTP/1 does");
    }
    let from = std::mem::replace(seen, bytes.len());
    for at in memchr_iter(b'\n', &bytes[from..]).map(|at| from + at) {
        if at >= MAX_HEAD {
            break;
        }
        if at == 0 || bytes[at - 1] != b'\r' {
            return HeadState::Malformed("a line of its head ends in a bare LF");
        }
        if at >= 3 && bytes[at - 3..at] == *b"\r\n\r" {
            return match parse(&bytes[..=at], asked) {
                Ok(head) => HeadState::Head(head),
                Err(reason) => HeadState::Malformed(reason),
            };
        }
    }
    if bytes.len() >= MAX_HEAD {
        return HeadState::Malformed("its head is longer than 256 KiB");
    }
    HeadState::Partial
}

fn parse(bytes: &[u8], asked: RequestKind) -> Result<Head, &'static str> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut answer = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut answer,
        bytes,
        &mut fields,
    );
    match parsed {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err("its head has more than 256 fields"),
        _ => return Err("its head is malformed"),
    }
    let (Some(status), Some(minor)) = (answer.code, answer.version) else {
        return Err("its head is malformed");
    };
    if status < 100 {
        return Err("its status is invalid");
    }
    if has_bare_carriage_return(bytes) {
        return Err("its head contains a bare CR");
    }
    let mut framing = Framing::default();
    for field in answer.headers.iter() {
        framing.take(field.name, field.value)?;
    }
    if framing.length.is_some() && framing.is_chunked {
        return Err("it has both Content-Length and Transfer-Encoding");
    }
    if framing.is_chunked && minor == 0 {
        return Err("HTTP/1.0 has no Transfer-Encoding");
    }
    let body = match (status, framing.length) {
        (101, _) if !asked.is_upgrade => {
            return Err("it switches protocols without being asked to");
        }
        (101, _) if !framing.is_web_socket => {
            return Err("it switches to another protocol than the WebSocket that it was asked for");
        }
        (100..200 | 204 | 304, _) => Body::None,
        _ if asked.is_head => Body::None,
        _ if framing.is_chunked => Body::Chunked,
        (_, Some(0)) => Body::None,
        (_, Some(length)) => Body::Length(length),
        (_, None) => Body::UntilClose,
    };
    let is_lasting = minor == 1 && !framing.is_close && body != Body::UntilClose && status != 101;
    Ok(Head { length: bytes.len(), status, body, is_keep_alive: is_lasting })
}

/// httparse takes a CR without LF at some places.
fn has_bare_carriage_return(bytes: &[u8]) -> bool {
    memchr_iter(b'\r', bytes).any(|at| bytes.get(at + 1) != Some(&b'\n'))
}

#[derive(Default)]
struct Framing {
    length: Option<u64>,
    is_chunked: bool,
    is_close: bool,
    /// The one protocol that `Upgrade` names is WebSocket's.
    is_web_socket: bool,
    has_upgrade: bool,
}

impl Framing {
    fn take(&mut self, name: &str, value: &[u8]) -> Result<(), &'static str> {
        if name.eq_ignore_ascii_case("content-length") {
            let length = number(value).ok_or("its Content-Length is not a number")?;
            // Said twice, it is still one length; of the two lines one is passed on.
            if self.length.is_some_and(|other| other != length) {
                return Err("it has several Content-Lengths");
            }
            self.length = Some(length);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if self.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err("it has a Transfer-Encoding other than one `chunked`");
            }
            self.is_chunked = true;
        } else if name.eq_ignore_ascii_case("upgrade") {
            let is_only = !std::mem::replace(&mut self.has_upgrade, true);
            self.is_web_socket = is_only && value.trim_ascii().eq_ignore_ascii_case(b"websocket");
        } else if name.eq_ignore_ascii_case("connection") {
            let mut tokens = value.split(|byte| *byte == b',');
            self.is_close |= tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"));
        }
        Ok(())
    }
}

fn number(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// One header line of a head that was found well-formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// As it came, with its CR LF.
    pub whole: &'a [u8],
    pub name: &'a [u8],
    /// Without blanks around it.
    pub value: &'a [u8],
}

impl Line<'_> {
    /// Compares the field's name, ignoring case.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// The header lines of a head, request's or answer's, that was found well-formed.
pub fn lines(head: &[u8]) -> impl Iterator<Item = Line<'_>> {
    let start = memchr(b'\n', head).map_or(head.len(), |at| at + 1);
    let mut rest = &head[start..];
    std::iter::from_fn(move || {
        let end = memchr(b'\n', rest)?;
        let (whole, after) = rest.split_at(end + 1);
        let colon = memchr(b':', whole)?;
        rest = after;
        Some(Line { whole, name: &whole[..colon], value: whole[colon + 1..].trim_ascii() })
    })
}

/// The first line of a head that was found well-formed, without its CR LF.
pub fn first_line(head: &[u8]) -> &[u8] {
    &head[..memchr(b'\r', head).unwrap_or(head.len())]
}

/// The fields of a connection that its `Connection` fields name.
#[derive(Debug, Default)]
pub struct Named<'a> {
    values: [&'a [u8]; Named::MAX],
    count: usize,
}

impl<'a> Named<'a> {
    /// More lines are refused.
    const MAX: usize = 8;

    /// # Errors
    /// There are more than anybody needs.
    pub fn of(head: &'a [u8]) -> Result<Named<'a>, TooMany> {
        let mut named = Named::default();
        for line in lines(head).filter(|line| line.is("connection")) {
            *named.values.get_mut(named.count).ok_or(TooMany)? = line.value;
            named.count += 1;
        }
        Ok(named)
    }

    /// Whether the `Connection` header names this field, ignoring case.
    pub fn has(&self, name: &[u8]) -> bool {
        self.tokens(|token| match token.eq_ignore_ascii_case(name) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })
        .is_break()
    }

    /// Gives each token to `to` until that breaks.
    pub fn tokens<B>(&self, mut to: impl FnMut(&[u8]) -> ControlFlow<B>) -> ControlFlow<B> {
        for value in &self.values[..self.count] {
            for token in value.split(|byte| *byte == b',') {
                to(token.trim_ascii())?;
            }
        }
        ControlFlow::Continue(())
    }
}

/// `Connection` fields without end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GET: RequestKind = RequestKind { is_head: false, is_upgrade: false };
    const HEAD: RequestKind = RequestKind { is_head: true, is_upgrade: false };
    #[test]
    fn only_web_sockets_are_switched_to() {
        for fields in ["", "Upgrade: h2c\r\n", "Upgrade: websocket\r\nUpgrade: h2c\r\n"] {
            let said = format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n");
            assert!(matches!(whole(&said, UPGRADE), HeadState::Malformed(_)), "{said:?}");
        }
    }

    const UPGRADE: RequestKind = RequestKind { is_head: false, is_upgrade: true };

    fn whole(text: &str, asked: RequestKind) -> HeadState {
        inspect(text.as_bytes(), &mut 0, asked)
    }

    #[test]
    fn where_a_body_ends() {
        for (asked, said, body, is_keep_alive) in [
            (GET, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Body::Length(2), true),
            (GET, "HTTP/1.1 200 OK\r\ncontent-length:0\r\n\r\n", Body::None, true),
            (
                GET,
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n",
                Body::Length(2),
                true,
            ),
            (GET, "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", Body::Chunked, true),
            (GET, "HTTP/1.1 200\r\n\r\n", Body::UntilClose, false),
            (GET, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n", Body::Length(2), false),
            (
                GET,
                "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 2\r\n\r\n",
                Body::Length(2),
                false,
            ),
            (GET, "HTTP/1.1 204 No Content\r\n\r\n", Body::None, true),
            (GET, "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", Body::None, true),
            (HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", Body::None, true),
            (HEAD, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Body::None, true),
            (GET, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", Body::None, true),
            (UPGRADE, "HTTP/1.1 101 Go\r\nUpgrade: WebSocket\r\n\r\n", Body::None, false),
            (GET, "HTTP/1.1 999 caf\u{e9}\r\nContent-Length: 1\r\n\r\n", Body::Length(1), true),
        ] {
            let HeadState::Head(head) = whole(said, asked) else { panic!("{said:?}") };
            assert_eq!((head.body, head.is_keep_alive), (body, is_keep_alive), "{said:?}");
            assert!(said.as_bytes()[..head.length].ends_with(b"\r\n\r\n"), "{said:?}");
        }
    }

    #[test]
    fn what_has_two_readings_is_refused() {
        for said in [
            "\x16\x03\x01",
            "ICY 200 OK\r\n",
            "\r\nHTTP/1.1 200 OK\r\n\r\n",
            "HTTP/2 200\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 099 No\r\n\r\n",
            "HTTP/1.1 200 OK\n\n",
            "HTTP/1.1 200 OK\r\nX: 1\nY: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: 1\rY: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: 1\r\n 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX : 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno field\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        ] {
            assert!(matches!(whole(said, GET), HeadState::Malformed(_)), "{said:?}");
        }
        let long = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(MAX_HEAD));
        assert!(matches!(whole(&long, GET), HeadState::Malformed(_)));
        let many = "X: 1\r\n".repeat(MAX_FIELDS + 1);
        let many = format!("HTTP/1.1 200 OK\r\n{many}\r\n");
        assert!(matches!(whole(&many, GET), HeadState::Malformed(_)));
    }

    #[test]
    fn lines_are_those_that_came() {
        let head = b"HTTP/1.1 200 OK\r\nA:1\r\nb-C:  x: y \r\nEmpty:\r\n\r\n";
        let found: Vec<_> = lines(head).map(|line| (line.name, line.value)).collect();
        let expected: [(&[u8], &[u8]); 3] = [(b"A", b"1"), (b"b-C", b"x: y"), (b"Empty", b"")];
        assert_eq!(found, expected);
        let all: Vec<u8> = lines(head).flat_map(|line| line.whole.to_vec()).collect();
        assert_eq!(all, head[17..head.len() - 2]);
        assert_eq!(first_line(head), b"HTTP/1.1 200 OK");
    }

    #[test]
    fn connection_names_fields() {
        let head = b"HTTP/1.1 200 OK\r\nConnection: a, B\r\nconnection:c\r\n\r\n";
        let named = Named::of(head).expect("few");
        assert!(named.has(b"A") && named.has(b"b") && named.has(b"c") && !named.has(b"d"));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "Connection: a\r\n".repeat(9));
        assert_eq!(Named::of(many.as_bytes()).err(), Some(TooMany));
    }

    fn heads() -> impl Strategy<Value = Vec<u8>> {
        let parts = prop::sample::select(vec![
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.0 204\r\n",
            "HTTP/1.1 101 Go\r\n",
            "Content-Length: 3\r\n",
            "Content-Length: 4\r\n",
            "Transfer-Encoding: chunked\r\n",
            "Connection: close\r\n",
            "X: \u{e9}\r\n",
            "\r\n",
            "\n",
            "\r",
            ":",
            " ",
            "\0",
        ]);
        prop::collection::vec(parts, 0..8).prop_map(|parts| parts.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn it_is_one_verdict_however_the_bytes_come(
            bytes in heads(),
            cuts in prop::collection::vec(1_usize..9, 1..8),
        ) {
            let at_once = inspect(&bytes, &mut 0, UPGRADE);
            let (mut seen, mut end) = (0, 0);
            let mut verdict = HeadState::Partial;
            let mut cuts = cuts.iter().cycle();
            while verdict == HeadState::Partial && end < bytes.len() {
                end = (end + cuts.next().unwrap()).min(bytes.len());
                verdict = inspect(&bytes[..end], &mut seen, UPGRADE);
            }
            prop_assert_eq!(
                std::mem::discriminant(&verdict),
                std::mem::discriminant(&at_once)
            );
            if let (HeadState::Head(one), HeadState::Head(other)) = (verdict, at_once) {
                prop_assert_eq!(one, other);
                let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
                let mut answer = httparse::Response::new(&mut fields);
                prop_assert!(answer.parse(&bytes).is_ok());
                let found: Vec<_> = lines(&bytes[..one.length]).collect();
                prop_assert_eq!(found.len(), answer.headers.len());
                for (line, field) in found.iter().zip(answer.headers.iter()) {
                    prop_assert_eq!(line.name, field.name.as_bytes());
                    prop_assert_eq!(line.value, field.value.trim_ascii());
                }
            }
        }
    }
}
