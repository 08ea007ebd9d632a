//! An answer on its way to an HTTP/2 client, read from the app as the client makes room.

use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::SendStream;
use http::header::HeaderMap;

use super::forward::Failure;
use super::head;
use super::shared::ConnectionState;
use super::sink::{Gone, poll_send};
use crate::proxy::app::AppConnection;
use crate::proxy::app::connection::ROOM;
use crate::proxy::limits::pause::Pause;

/// An answer whose head is out.
pub(super) struct Sending {
    pub(super) stream: SendStream<Bytes>,
    /// Taken from the app, and not sent yet.
    pub(super) piece: Bytes,
    pub(super) is_more: bool,
    /// Known at the end of a body, empty before that.
    pub(super) trailers: HeaderMap,
    /// To read into.
    pub(super) room: BytesMut,
    /// While the client takes nothing.
    pub(super) pause: Pause,
    /// The app is waited for, and not the client.
    pub(super) is_for_app: bool,
    /// The client was sent something since the last look.
    pub(super) has_sent: bool,
}

impl Sending {
    /// Ready when all of the answer is sent.
    pub(super) fn poll(
        &mut self,
        app: &mut AppConnection,
        shared: &Arc<ConnectionState>,
        has_heard: &mut impl FnMut(),
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failure>> {
        match self.poll_on(app, shared, has_heard, cx) {
            Poll::Pending if self.is_for_app => {
                self.pause.has_moved();
                Poll::Pending
            }
            Poll::Pending => self.pause.poll_too_long(cx).map(|()| Err(Failure::Stalled)),
            ready => ready,
        }
    }

    fn poll_on(
        &mut self,
        app: &mut AppConnection,
        shared: &Arc<ConnectionState>,
        has_heard: &mut impl FnMut(),
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failure>> {
        self.is_for_app = false;
        while self.is_more {
            ready!(self.poll_piece(cx, false))?;
            let room = ready!(self.poll_room(shared, cx))?;
            let Poll::Ready(more) = app.poll_body_up_to(cx, &mut self.room, room) else {
                // Others may have what this stream does not need now.
                self.stream.reserve_capacity(0);
                self.is_for_app = true;
                return Poll::Pending;
            };
            has_heard();
            self.is_more = more?;
            self.piece = shared.counted(mem::take(&mut self.room).freeze());
            if !self.is_more {
                self.trailers = head::answer_trailers(&app.take_trailers());
            }
        }
        let is_last = self.trailers.is_empty();
        let is_all_sent = self.piece.is_empty();
        ready!(self.poll_piece(cx, is_last))?;
        let ended = match is_last {
            false => self.stream.send_trailers(mem::take(&mut self.trailers)),
            true if is_all_sent => self.stream.send_data(Bytes::new(), true),
            true => Ok(()),
        };
        Poll::Ready(ended.map_err(|_| Failure::ClientGone))
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>, is_last: bool) -> Poll<Result<(), Gone>> {
        let before = self.piece.len();
        let sent = poll_send(&mut self.stream, cx, &mut self.piece, is_last);
        if self.piece.len() < before {
            self.pause.has_moved();
            self.has_sent = true;
        }
        sent
    }

    /// How much may be read of the app's answer: no more than the client has made room for, so that
    /// one that does not read holds nothing here.
    fn poll_room(
        &mut self,
        shared: &ConnectionState,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Gone>> {
        ready!(shared.poll_unsent(cx));
        self.stream.reserve_capacity(ROOM);
        let mut room = self.stream.capacity();
        if room == 0 {
            room = match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(room)) => room,
                _ => return Poll::Ready(Err(Gone)),
            };
        }
        Poll::Ready(Ok(room.min(ROOM)))
    }
}
