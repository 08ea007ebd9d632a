//! What is written to a connection: pingora's bytes, with trailers in place of the bare end that
//! it gives every chunked body.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;

use super::chunks::Chunks;

#[derive(Debug, Default)]
enum Mode {
    /// Bytes pass as they are.
    #[default]
    Plain,
    /// In a head that a chunked body follows; so many bytes of its empty line were seen.
    Head(usize),
    Chunks(Chunks),
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// Accepted and not written yet.
    pending: BytesMut,
    mode: Mode,
}

const HEAD_END: &[u8] = b"\r\n\r\n";

impl Outgoing {
    /// A head comes next, and then a chunked body.
    pub fn expect_chunked_message(&mut self) {
        self.mode = Mode::Head(0);
    }

    /// Takes a whole head, to be drained next.
    pub fn queue_head(&mut self, head: &[u8], is_chunked: bool) {
        self.pending.extend_from_slice(head);
        self.mode = if is_chunked { Mode::Chunks(Chunks::default()) } else { Mode::Plain };
    }

    /// Writes some of the first of these; the trailers are those that are known by now.
    pub fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        socket: &mut S,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
        trailers: impl FnOnce() -> Bytes,
    ) -> Poll<io::Result<usize>> {
        let Some(first) = bufs.iter().find(|buf| !buf.is_empty()) else {
            return Poll::Ready(Ok(0));
        };
        if let Mode::Chunks(chunks) = &self.mode {
            let trailers = trailers();
            if !trailers.is_empty() {
                let mut ahead = chunks.clone();
                if let Ok(Some(at)) = ahead.follow_to_trailers(first) {
                    // The rest of these bytes is the empty line that ends the body.
                    self.pending.extend_from_slice(&first[..at]);
                    self.pending.extend_from_slice(&trailers);
                    self.pending.extend_from_slice(b"\r\n");
                    self.mode = Mode::Plain;
                    return Poll::Ready(Ok(first.len()));
                }
            }
        }
        ready!(self.poll_drain(socket, cx))?;
        let socket = Pin::new(socket);
        let written = ready!(match bufs {
            [one] => socket.poll_write(cx, one),
            _ => socket.poll_write_vectored(cx, bufs),
        })?;
        self.follow(bufs, written);
        Poll::Ready(Ok(written))
    }

    /// Writes what was accepted.
    pub fn poll_drain<S: AsyncWrite + Unpin>(
        &mut self,
        socket: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            let written = ready!(Pin::new(&mut *socket).poll_write(cx, &self.pending))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.pending.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn follow(&mut self, bufs: &[IoSlice<'_>], mut written: usize) {
        for buf in bufs {
            let part = &buf[..written.min(buf.len())];
            written -= part.len();
            self.follow_part(part);
        }
    }

    fn follow_part(&mut self, mut part: &[u8]) {
        while !part.is_empty() {
            match &mut self.mode {
                Mode::Plain => return,
                Mode::Head(seen) => {
                    *seen = match part[0] {
                        byte if byte == HEAD_END[*seen] => *seen + 1,
                        b'\r' => 1,
                        _ => 0,
                    };
                    part = &part[1..];
                    if *seen == HEAD_END.len() {
                        self.mode = Mode::Chunks(Chunks::default());
                    }
                }
                Mode::Chunks(chunks) => match chunks.follow(part) {
                    Ok(_) if !chunks.is_done() => return,
                    // Done, or it was no chunked body after all: an error told in another form.
                    Ok(_) | Err(_) => self.mode = Mode::Plain,
                },
            }
        }
    }
}
