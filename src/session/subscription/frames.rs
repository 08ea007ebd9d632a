//! What a subscription gives: one frame after the other.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::event::Position;
use crate::feed::routes::{Delivery, ResetReason};
use crate::session::control::Ended;

/// How many documents came before a [`FrameKind::Ready`], where a snapshot did.
pub type Documents = Option<u32>;

/// What a client is to be given.
#[derive(Debug)]
pub enum FrameKind {
    Delivery(Arc<Delivery>),
    /// Everything up to here has been read, and nothing was for this client.
    Position(Position),
    /// Nothing to say, and still here.
    Keepalive,
    /// Load the data again, then continue from this position.
    Reset(ResetReason, Option<Position>),
    /// Everything that the client had missed has been sent: the moment to load its data. Comes once
    /// for each stream that a client opens, and behind the documents of each snapshot.
    Ready(Position, Documents),
    /// The documents that match come next, and are all that there is; `None`: for the first time.
    Snapshot(Option<ResetReason>),
    /// The data of one of them.
    Document(Bytes),
    /// The stream is over, and the client should know why.
    End(Ended),
}

impl FrameKind {
    /// What the client has then, and comes back with.
    pub fn position(&self) -> Option<Position> {
        match self {
            FrameKind::Delivery(delivery) => delivery.id(),
            FrameKind::Position(position) | FrameKind::Ready(position, _) => Some(position.clone()),
            FrameKind::Reset(_, position) => position.clone(),
            FrameKind::Snapshot(_)
            | FrameKind::Document(_)
            | FrameKind::Keepalive
            | FrameKind::End(_) => None,
        }
    }

    /// Whether what the client has, and its position, are out of date from here on.
    pub fn replaces_documents(&self) -> bool {
        matches!(self, FrameKind::Snapshot(Some(_)))
    }
}

/// Frames on their way to a client. Boxed, and not there while there is nothing: almost all subscriptions
/// wait.
#[derive(Debug, Default)]
pub(super) struct Queue(Option<Box<Frames>>);

type Frames = VecDeque<FrameKind>;

impl Queue {
    /// Whether there is nothing to give.
    pub fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|frames| frames.is_empty())
    }

    /// The one that is given last.
    pub fn back(&self) -> Option<&FrameKind> {
        self.0.as_ref()?.back()
    }

    /// Adds one behind the others.
    pub fn push_back(&mut self, frame: FrameKind) {
        self.0.get_or_insert_default().push_back(frame);
    }

    /// The one that is given next.
    pub fn pop_front(&mut self) -> Option<FrameKind> {
        self.0.as_mut()?.pop_front()
    }

    /// Adds these behind the others.
    pub fn extend(&mut self, frames: impl IntoIterator<Item = FrameKind>) {
        self.0.get_or_insert_default().extend(frames);
    }

    /// Gives back what held the last frames; there are none now.
    pub fn shrink(&mut self) {
        self.0 = None;
    }
}
