//! An answer's head on its way to the client: its lines as they came, but for those that concern
//! one connection, and for what says how this one goes on.
//!
//! Pure: bytes in, bytes out.

use bytes::{BufMut, BytesMut};

use crate::proxy::app::answer::{Body as Framing, Head, Named, first_line, lines};
use crate::proxy::app::body::Body;
use crate::proxy::date;

/// The client that an answer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct To {
    /// The minor version that the client speaks.
    pub minor: u8,
    /// The connection ends with this answer.
    pub is_last: bool,
}

/// How an answer goes on behind its head.
#[derive(Debug)]
pub struct Begun {
    pub body: Body,
    pub is_last: bool,
}

/// Appends what the client gets for a head of the app's.
///
/// # Errors
/// The head has more `Connection` fields than anybody needs.
pub fn write(head: &Head, bytes: &[u8], to: To, out: &mut BytesMut) -> Result<Begun, &'static str> {
    let named = Named::of(bytes).map_err(|_| "it has too many Connection fields")?;
    out.reserve(head.length + 128);
    out.put_slice(b"HTTP/1.1");
    out.put_slice(&first_line(bytes)[b"HTTP/1.x".len()..]);
    out.put_slice(b"\r\n");
    if head.status == 101 {
        // All of it is about this connection.
        lines(bytes).for_each(|line| out.put_slice(line.whole));
        out.put_slice(b"\r\n");
        return Ok(Begun { body: Body::Done, is_last: true });
    }
    let body = match (head.body, to.minor) {
        (Framing::None, _) => Body::Done,
        (Framing::Length(length), _) => Body::length(length),
        // Chunks came after HTTP/1.0: the end of the connection ends the body.
        (Framing::Chunked, 0) => Body::bare(),
        (Framing::UntilClose, 0) => Body::UntilClose,
        (Framing::Chunked, _) => Body::chunks(),
        (Framing::UntilClose, _) => Body::IntoChunks,
    };
    let is_bare = head.status == 204 || head.is_informational();
    let is_unchunked = to.minor == 0 || is_bare;
    let (mut has_date, mut has_length) = (false, false);
    for line in lines(bytes) {
        let is_dropped = match line.name.len() {
            4 if line.is("date") => {
                has_date = true;
                false
            }
            10 => line.is("connection") || line.is("keep-alive"),
            14 if line.is("content-length") => is_bare || std::mem::replace(&mut has_length, true),
            16 => line.is("proxy-connection"),
            17 if line.is("transfer-encoding") => is_unchunked,
            _ => false,
        };
        let is_named = || named.has(line.name) && !is_framing(line.name);
        if !is_dropped && !is_named() {
            out.put_slice(line.whole);
        }
    }
    if head.is_informational() {
        out.put_slice(b"\r\n");
        return Ok(Begun { body, is_last: false });
    }
    if !has_date {
        date::put(out);
    }
    if matches!(body, Body::IntoChunks) {
        out.put_slice(b"Transfer-Encoding: chunked\r\n");
    }
    let is_last = to.is_last || matches!(body, Body::Bare(_) | Body::UntilClose);
    out.put_slice(match is_last {
        true => b"Connection: close\r\n\r\n".as_slice(),
        false => b"Connection: keep-alive\r\n\r\n",
    });
    Ok(Begun { body, is_last })
}

fn is_framing(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"content-length") || name.eq_ignore_ascii_case(b"transfer-encoding")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::app::answer::{HeadState, RequestKind, inspect};

    fn written(said: &str, to: To) -> (String, String, bool) {
        let said = said.replace('\n', "\r\n");
        let asked = RequestKind { is_head: false, is_upgrade: true };
        let HeadState::Head(head) = inspect(said.as_bytes(), &mut 0, asked) else {
            panic!("{said}")
        };
        let mut out = BytesMut::new();
        let begun = write(&head, &said.as_bytes()[..head.length], to, &mut out).unwrap();
        let text = String::from_utf8(out.to_vec()).unwrap().replace("\r\n", "\n");
        let kind = format!("{:?}", begun.body);
        (text, kind.split(['(', ' ']).next().unwrap().to_string(), begun.is_last)
    }

    const STAYS: To = To { minor: 1, is_last: false };

    #[test]
    fn what_concerns_one_connection_stays_and_the_rest_passes() {
        for (said, to, passed, body, is_last) in [
            (
                "HTTP/1.1 200 Fine, really\nDATE: x\nA:1\na:  2\nContent-Length: 2\n\n",
                STAYS,
                "HTTP/1.1 200 Fine, really\nDATE: x\nA:1\na:  2\nContent-Length: 2\n\
                 Connection: keep-alive\n\n",
                "Length",
                false,
            ),
            (
                "HTTP/1.1 200 \nDate: x\nConnection: close, A, Content-Length\nA:1\n\
                 Keep-Alive: 5\nProxy-Connection: x\nContent-Length: 0\nContent-Length: 0\n\n",
                STAYS,
                "HTTP/1.1 200 \nDate: x\nContent-Length: 0\nConnection: keep-alive\n\n",
                "Done",
                false,
            ),
            (
                "HTTP/1.0 200\nDate: x\n\n",
                STAYS,
                "HTTP/1.1 200\nDate: x\nTransfer-Encoding: chunked\nConnection: keep-alive\n\n",
                "IntoChunks",
                false,
            ),
            (
                "HTTP/1.1 200 OK\nDate: x\nTransfer-Encoding: chunked\nTrailer: y\n\n",
                To { minor: 1, is_last: true },
                "HTTP/1.1 200 OK\nDate: x\nTransfer-Encoding: chunked\nTrailer: y\n\
                 Connection: close\n\n",
                "Chunks",
                true,
            ),
            (
                "HTTP/1.1 200 OK\nDate: x\nTransfer-Encoding: chunked\n\n",
                To { minor: 0, is_last: false },
                "HTTP/1.1 200 OK\nDate: x\nConnection: close\n\n",
                "Bare",
                true,
            ),
            (
                "HTTP/1.1 200 OK\nDate: x\n\n",
                To { minor: 0, is_last: false },
                "HTTP/1.1 200 OK\nDate: x\nConnection: close\n\n",
                "UntilClose",
                true,
            ),
            (
                "HTTP/1.1 204 No\nDate: x\nContent-Length: 5\n\n",
                STAYS,
                "HTTP/1.1 204 No\nDate: x\nConnection: keep-alive\n\n",
                "Done",
                false,
            ),
            (
                "HTTP/1.1 204 No\nDate: x\nTransfer-Encoding: chunked\n\n",
                STAYS,
                "HTTP/1.1 204 No\nDate: x\nConnection: keep-alive\n\n",
                "Done",
                false,
            ),
            (
                "HTTP/1.1 103 Early\nLink: </a>\nConnection: x\n\n",
                STAYS,
                "HTTP/1.1 103 Early\nLink: </a>\n\n",
                "Done",
                false,
            ),
            (
                "HTTP/1.1 101 Go\nConnection: Upgrade\nUpgrade: WebSocket\n\n",
                STAYS,
                "HTTP/1.1 101 Go\nConnection: Upgrade\nUpgrade: WebSocket\n\n",
                "Done",
                true,
            ),
        ] {
            let expected = (passed.to_string(), body.to_string(), is_last);
            assert_eq!(written(said, to), expected, "{said}");
        }
    }

    #[test]
    fn a_date_is_added_where_there_is_none() {
        let (head, ..) = written("HTTP/1.1 200 OK\nContent-Length: 0\n\n", STAYS);
        assert_eq!(head.matches("\nDate: ").count(), 1, "{head}");
    }
}
