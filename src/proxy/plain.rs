//! Sidestream's own answers on a client's socket: complete ones, and the heads of event streams.

use std::io;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::date;
use super::io::Socket;
use super::pieces::{MAX_COPY, Pieces};
use crate::api::reserved::Plain;

/// A head; `minor` is that of the client's version.
pub fn head_of(status: u16, fields: &[(&str, &str)], minor: u8) -> BytesMut {
    let reason = http::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("");
    let mut head = BytesMut::with_capacity(512);
    head.put_slice(format!("HTTP/1.{minor} {status} {reason}\r\n").as_bytes());
    for (name, value) in fields {
        for part in [name, ": ", value, "\r\n"] {
            head.put_slice(part.as_bytes());
        }
    }
    date::put(&mut head);
    head.put_slice(b"\r\n");
    head
}

/// Writes a whole answer; the caller closes the connection behind the last one. A client that takes
/// nothing of it for `patience` is given up.
pub async fn answer_plain(
    socket: &mut Socket,
    plain: Plain,
    is_head: bool,
    is_last: bool,
    patience: Duration,
) -> io::Result<()> {
    let length = plain.length().to_string();
    let mut fields: Vec<(&str, &str)> =
        plain.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    // By the standard, 204 has no length.
    if plain.status != 204 {
        fields.push(("Content-Length", &length));
    }
    if is_last {
        fields.push(("Connection", "close"));
    }
    let mut head = head_of(plain.status, &fields, 1);
    let mut body = if is_head { Vec::new() } else { plain.body };
    if head.len() + body.iter().map(Bytes::len).sum::<usize>() <= MAX_COPY {
        body.drain(..).for_each(|piece| head.extend_from_slice(&piece));
    }
    let mut answer: Pieces = std::iter::once(head.freeze()).chain(body).collect();
    // Pieces are let go of as they are taken.
    while answer.has_remaining() {
        if timeout(patience, socket.write_buf(&mut answer)).await?? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    timeout(patience, socket.flush()).await?
}

/// Says that nothing more comes, and waits a moment for the client to close: closing with unread
/// bytes in the socket would reset the connection and could take the answer along.
pub async fn close(socket: &mut Socket) {
    if socket.shutdown().await.is_ok() {
        socket.linger().await;
    }
}
