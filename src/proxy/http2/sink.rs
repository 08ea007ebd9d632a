//! Writing to an HTTP/2 client, never more than its window allows. A client that does not read is a
//! slow client, as over HTTP/1, and nothing accumulates for it here.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;

use crate::api::transport::Sink;
use crate::proxy::pieces::MAX_COPY;

/// The client has reset the stream, or left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

/// Sends these bytes, which become fewer, as there is room; ready when there are none left.
///
/// # Errors
/// [`Gone`]
pub fn poll_send(
    stream: &mut SendStream<Bytes>,
    cx: &mut Context<'_>,
    bytes: &mut Bytes,
    is_last: bool,
) -> Poll<Result<(), Gone>> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let mut room = stream.capacity();
        if room == 0 {
            room = match ready!(stream.poll_capacity(cx)) {
                Some(Ok(room)) => room,
                _ => return Poll::Ready(Err(Gone)),
            };
        }
        let piece = bytes.split_to(room.min(bytes.len()));
        stream.send_data(piece, is_last && bytes.is_empty()).map_err(|_| Gone)?;
    }
    Poll::Ready(Ok(()))
}

/// How many of the pieces are copied together, to go into one frame; one at least.
fn group(pieces: &[Bytes]) -> usize {
    let sums = pieces.iter().scan(0, |sum, piece| {
        *sum += piece.len();
        Some(*sum)
    });
    sums.take_while(|sum| *sum <= MAX_COPY).count().max(1)
}

/// Server-Sent Events on an HTTP/2 stream.
pub struct StreamSink {
    pub stream: SendStream<Bytes>,
}

impl StreamSink {
    /// Ends the stream. Needs no window, so it never waits.
    pub fn finish(&mut self) {
        // The stream is over either way.
        let _ = self.stream.send_data(Bytes::new(), true);
    }
}

impl StreamSink {
    /// Ends it within what it was sending.
    pub fn cut(&mut self) {
        self.stream.send_reset(h2::Reason::CANCEL);
    }
}

impl Sink for StreamSink {
    async fn send(&mut self, pieces: &[Bytes]) -> io::Result<()> {
        let mut rest = pieces;
        while !rest.is_empty() {
            let (group, behind) = rest.split_at(group(rest));
            rest = behind;
            // Shared with the other clients of the route, where it is one.
            let mut bytes = match group {
                [one] => one.clone(),
                many => many.concat().into(),
            };
            let sent = poll_fn(|cx| poll_send(&mut self.stream, cx, &mut bytes, false)).await;
            sent.map_err(|Gone| io::Error::from(io::ErrorKind::ConnectionReset))?;
        }
        Ok(())
    }

    async fn closed(&mut self) {
        // However it went: a reset, or the end of the connection.
        let _ = poll_fn(|cx| self.stream.poll_reset(cx)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pieces_go_together() {
        for (sizes, expected) in [
            (vec![1], 1),
            (vec![MAX_COPY + 1, 1], 1),
            (vec![1, MAX_COPY - 1, 1], 2),
            (vec![1, MAX_COPY], 1),
            (vec![10, 20, 30], 3),
        ] {
            let pieces: Vec<Bytes> = sizes.iter().map(|size| vec![0; *size].into()).collect();
            assert_eq!(group(&pieces), expected, "{sizes:?}");
        }
    }
}
