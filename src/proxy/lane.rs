//! A lane beside pingora for the rare HTTP/1.1 requests with trailer fields, which pingora drops.
//!
//! A request comes here when it says `TE: trailers` or announces its own with `Trailer`
//! ([RFC 9110](https://www.rfc-editor.org/rfc/rfc9110) section 6.5). It gets a connection to the
//! app of its own, which is closed behind the answer; bytes are passed on as they come. The
//! request's framing is followed to its end, so that nothing behind it reaches the app.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::gate::{Body, Head};
use super::io::Socket;

/// What one read passes on at most, in bytes.
const PIECE: usize = 16 * 1024;
/// A chunk's size line, or all trailer fields, in bytes.
const MAX_SECTION: usize = 64 * 1024;
/// Fields that belong to a connection and not to the request
/// ([RFC 9110](https://www.rfc-editor.org/rfc/rfc9110) section 7.6.1).
const HOP_BY_HOP: [&str; 5] = ["connection", "keep-alive", "proxy-connection", "te", "upgrade"];

/// Where the app is, once it has been found.
pub enum AppSocket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Whether a request belongs here.
pub fn wants(head: &Head) -> bool {
    head.minor > 0 && head.has_trailers && !head.is_upgrade
}

/// The head as the app gets it: without the connection's fields, with these added.
pub fn rewrite(head: &[u8], added: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let nominated: Vec<String> = super::gate::header_values(head, "connection")
        .iter()
        .flat_map(|value| value.split(|b| *b == b','))
        .map(|name| String::from_utf8_lossy(name.trim_ascii()).to_ascii_lowercase())
        .collect();
    let mut out = Vec::with_capacity(head.len() + 128);
    // The gate has seen that all lines end in CR LF and none is folded.
    for (number, line) in head.split_inclusive(|b| *b == b'\n').enumerate() {
        if line == b"\r\n" {
            continue;
        }
        let name = line.split(|b| *b == b':').next().unwrap_or_default();
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        let is_replaced = added.iter().any(|(added, _)| added.eq_ignore_ascii_case(&name));
        let is_of_connection = HOP_BY_HOP.contains(&name.as_str()) || nominated.contains(&name);
        if number == 0 || !(is_replaced || is_of_connection) {
            out.extend_from_slice(line);
        }
    }
    for (name, value) in added {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }
    // Just `close`: some apps compare the whole value.
    out.extend_from_slice(b"TE: trailers\r\nConnection: close\r\n\r\n");
    out
}

/// Passes a request on and its answer back. `head` is the rewritten one, `rest` what was read
/// behind it. Returns the answer's status, 0 when there was none.
pub async fn pass(
    client: Socket,
    app: AppSocket,
    head: Vec<u8>,
    rest: BytesMut,
    body: Body,
) -> u16 {
    match app {
        AppSocket::Tcp(app) => pass_on(client, app, head, rest, body).await,
        AppSocket::Unix(app) => pass_on(client, app, head, rest, body).await,
    }
}

async fn pass_on<A: AsyncRead + AsyncWrite>(
    client: Socket,
    app: A,
    head: Vec<u8>,
    rest: BytesMut,
    body: Body,
) -> u16 {
    let is_head = head.starts_with(b"HEAD ");
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_app, mut to_app) = tokio::io::split(app);
    let status = Arc::new(std::sync::atomic::AtomicU16::new(0));
    let request = async {
        let sent = async {
            to_app.write_all(&head).await.map_err(|_| Broken::App)?;
            send_body(&mut from_client, &mut to_app, rest, Follower::new(body)).await
        };
        match sent.await {
            Ok(()) => {}
            // An app may answer early and take no more: the answer ends the exchange.
            Err(Broken::App) => std::future::pending().await,
            Err(Broken::Client(error)) => return Err(error),
        }
        // A client that goes away ends the exchange; what else it sends is not for this app.
        let mut space = [0; 64];
        while from_client.read(&mut space).await? > 0 {}
        io::Result::Ok(())
    };
    let answer = async {
        let mut bytes = BytesMut::with_capacity(PIECE);
        // An app need not close the connection: its answer ends where its framing says.
        let mut follower = loop {
            let head = read_answer_head(&mut from_app, &mut bytes).await?;
            status.store(head.status, std::sync::atomic::Ordering::Relaxed);
            to_client.write_all(&head.bytes).await?;
            if head.status >= 200 {
                break head.body(is_head).map(Follower::new);
            }
            to_client.flush().await?;
        };
        loop {
            let length = match &mut follower {
                Some(follower) => follower.follow(&bytes)?,
                None => bytes.len(),
            };
            to_client.write_all(&bytes[..length]).await?;
            to_client.flush().await?;
            if follower.as_ref().is_some_and(Follower::is_done) {
                return to_client.shutdown().await;
            }
            bytes.clear();
            if from_app.read_buf(&mut bytes).await? == 0 {
                return to_client.shutdown().await;
            }
        }
    };
    tokio::pin!(answer);
    tokio::select! {
        // Either side that breaks off ends both.
        _ = request => {}
        _ = &mut answer => {}
    }
    status.load(std::sync::atomic::Ordering::Relaxed)
}

/// An answer's head as the client gets it.
struct AnswerHead {
    status: u16,
    bytes: Vec<u8>,
}

impl AnswerHead {
    /// How the body is delimited; `None`: by the end of the connection.
    fn body(&self, is_head: bool) -> Option<Body> {
        if is_head || matches!(self.status, 204 | 304) {
            return Some(Body::None);
        }
        let values = |name| super::gate::header_values(&self.bytes, name);
        if let Some(coding) = values("transfer-encoding").last() {
            return coding.eq_ignore_ascii_case(b"chunked").then_some(Body::Chunked);
        }
        let length = values("content-length");
        let length = std::str::from_utf8(length.first()?).ok()?.parse().ok()?;
        Some(if length == 0 { Body::None } else { Body::Length(length) })
    }
}

/// Reads the next head out of `bytes` and what follows; says `Connection: close` in it.
async fn read_answer_head(
    from: &mut (impl AsyncRead + Unpin),
    bytes: &mut BytesMut,
) -> io::Result<AnswerHead> {
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|part| part == b"\r\n\r\n") {
            break at + 4;
        }
        if bytes.len() > MAX_SECTION {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if from.read_buf(bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let head = bytes.split_to(end);
    let code = head.get(9..12).and_then(|code| std::str::from_utf8(code).ok());
    let status: u16 = code
        .and_then(|code| code.parse().ok())
        .ok_or(io::Error::from(io::ErrorKind::InvalidData))?;
    if status < 200 {
        return Ok(AnswerHead { status, bytes: head.to_vec() });
    }
    let mut out = Vec::with_capacity(head.len() + 24);
    for line in head[..end - 2].split_inclusive(|b| *b == b'\n') {
        let name = line.split(|b| *b == b':').next().unwrap_or_default();
        let is_of_connection =
            name.eq_ignore_ascii_case(b"connection") || name.eq_ignore_ascii_case(b"keep-alive");
        if !is_of_connection {
            out.extend_from_slice(line);
        }
    }
    out.extend_from_slice(b"Connection: close\r\n\r\n");
    Ok(AnswerHead { status, bytes: out })
}

/// Who broke off.
enum Broken {
    Client(io::Error),
    App,
}

async fn send_body(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    mut bytes: BytesMut,
    mut follower: Follower,
) -> Result<(), Broken> {
    loop {
        let length = follower.follow(&bytes).map_err(Broken::Client)?;
        to.write_all(&bytes[..length]).await.map_err(|_| Broken::App)?;
        if follower.is_done() {
            return to.flush().await.map_err(|_| Broken::App);
        }
        bytes.clear();
        bytes.reserve(PIECE);
        if from.read_buf(&mut bytes).await.map_err(Broken::Client)? == 0 {
            return Err(Broken::Client(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

/// Finds the end of a request's body in its bytes, strictly as
/// [RFC 9112](https://www.rfc-editor.org/rfc/rfc9112) section 7.1 writes it.
struct Follower {
    state: State,
    /// Bytes of the current size line, or of all trailer fields.
    section: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// So much of the body, or of a chunk, is to come.
    Length(u64),
    Size {
        size: u64,
        digits: u8,
        in_extension: bool,
    },
    SizeEnd(u64),
    Data(u64),
    DataEnd,
    DataEndLf,
    FieldStart,
    Field,
    FieldEnd,
    LastLf,
    Done,
}

impl Follower {
    fn new(body: Body) -> Follower {
        let state = match body {
            Body::None => State::Done,
            Body::Length(length) => State::Length(length),
            Body::Chunked => State::Size { size: 0, digits: 0, in_extension: false },
        };
        Follower { state, section: 0 }
    }

    fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// How many of these bytes belong to the body.
    fn follow(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut at = 0;
        while at < bytes.len() && !self.is_done() {
            match self.state {
                State::Length(left) | State::Data(left) => {
                    let here = left.min((bytes.len() - at) as u64);
                    // Not more than a slice is long.
                    at += here as usize;
                    let is_chunk = matches!(self.state, State::Data(_));
                    self.state = match (left - here, is_chunk) {
                        (0, true) => State::DataEnd,
                        (0, false) => State::Done,
                        (left, true) => State::Data(left),
                        (left, false) => State::Length(left),
                    };
                }
                _ => {
                    self.state = self.step(bytes[at])?;
                    at += 1;
                }
            }
        }
        Ok(at)
    }

    fn step(&mut self, byte: u8) -> io::Result<State> {
        let malformed = || Err(io::ErrorKind::InvalidData.into());
        self.section += 1;
        if self.section > MAX_SECTION {
            return malformed();
        }
        Ok(match (self.state, byte) {
            (State::Size { size, digits, in_extension: false }, byte)
                if byte.is_ascii_hexdigit() && digits < 15 =>
            {
                let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                State::Size { size: size * 16 + digit, digits: digits + 1, in_extension: false }
            }
            (State::Size { size, digits: 1.., .. }, b'\r') => State::SizeEnd(size),
            (State::Size { size, digits: digits @ 1.., in_extension }, byte)
                if (in_extension || byte == b';') && byte != b'\n' && byte != 0 =>
            {
                State::Size { size, digits, in_extension: true }
            }
            (State::SizeEnd(0), b'\n') => State::FieldStart,
            (State::SizeEnd(size), b'\n') => {
                self.section = 0;
                State::Data(size)
            }
            (State::DataEnd, b'\r') => State::DataEndLf,
            (State::DataEndLf, b'\n') => {
                self.section = 0;
                State::Size { size: 0, digits: 0, in_extension: false }
            }
            (State::FieldStart, b'\r') => State::LastLf,
            (State::FieldStart | State::Field, b'\n' | 0) => return malformed(),
            (State::Field, b'\r') => State::FieldEnd,
            (State::FieldStart | State::Field, _) => State::Field,
            (State::FieldEnd, b'\n') => State::FieldStart,
            (State::LastLf, b'\n') => State::Done,
            _ => return malformed(),
        })
    }
}

/// Finds the app.
///
/// # Errors
/// Those of connecting; `TimedOut` after the deadline.
pub async fn connect(app: &crate::config::AppAddress, deadline: Duration) -> io::Result<AppSocket> {
    use crate::config::AppAddress;
    let connecting = async {
        match app {
            AppAddress::Unix { path } => UnixStream::connect(path).await.map(AppSocket::Unix),
            AppAddress::Tcp { host, port, .. } => {
                let tcp = TcpStream::connect((host.as_str(), *port)).await?;
                tcp.set_nodelay(true)?;
                Ok(AppSocket::Tcp(tcp))
            }
        }
    };
    tokio::time::timeout(deadline, connecting).await.map_err(|_| io::ErrorKind::TimedOut)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_ends_where_it_says() {
        let chunked = Body::Chunked;
        let whole = b"3\r\nabc\r\n0\r\n\r\n";
        let fields = b"A;x=\"y\"\r\n0123456789\r\n0\r\nX-Sum: 1\r\nY: 2\r\n\r\n";
        for (body, bytes) in [
            (Body::Length(3), b"abc".as_slice()),
            (chunked, b"0\r\n\r\n"),
            (chunked, whole),
            (chunked, fields),
        ] {
            let more = [bytes, b"GET / HTTP/1.1\r\n\r\n"].concat();
            let mut follower = Follower::new(body);
            assert_eq!(follower.follow(&more).unwrap(), bytes.len());
            assert!(follower.is_done());
            // In any two pieces.
            for cut in 0..bytes.len() {
                let mut follower = Follower::new(body);
                assert_eq!(follower.follow(&more[..cut]).unwrap(), cut);
                assert!(!follower.is_done());
                assert_eq!(follower.follow(&more[cut..]).unwrap(), bytes.len() - cut);
            }
        }
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        for bytes in [
            "\r\n",
            "x\r\n",
            "3\nabc",
            "3\r\nabcd\r\n",
            "3 \r\nabc",
            "0\r\nX: 1\n\r\n",
            "-1\r\n",
            "1000000000000000000\r\n",
            ";a\r\n",
        ] {
            assert!(Follower::new(Body::Chunked).follow(bytes.as_bytes()).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_head_keeps_what_is_the_requests_own() {
        let head = b"GET /x HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE, X-Hop\r\n\
            X-Hop: 1\r\nX-Keep: 2\r\nX-Forwarded-For: 9\r\n\r\n";
        let added = [("X-Forwarded-For", b"127.0.0.1".to_vec())];
        let text = String::from_utf8(rewrite(head, &added)).unwrap();
        let expected = "GET /x HTTP/1.1\r\nHost: a\r\nX-Keep: 2\r\nX-Forwarded-For: 127.0.0.1\r\n\
            TE: trailers\r\nConnection: close\r\n\r\n";
        assert_eq!(text, expected);
    }
}
