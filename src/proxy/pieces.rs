//! Shared pieces of bytes, presented as one buffer to write from. Many clients may be sending the
//! same pieces, and no client has a copy.

use std::collections::VecDeque;
use std::io::{IoSlice, Write as _};

use bytes::{Buf, Bytes};

/// Up to so many bytes, it is cheaper to copy pieces together.
pub const MAX_COPY: usize = 16 * 1024;

/// The pieces in one, as a chunk of HTTP/1.1 where they are to be.
pub fn joined(pieces: &[Bytes], is_chunked: bool) -> Vec<u8> {
    let length: usize = pieces.iter().map(Bytes::len).sum();
    let mut joined = Vec::with_capacity(length + 16);
    if is_chunked {
        // There is no error in memory.
        let _ = write!(joined, "{length:x}\r\n");
    }
    pieces.iter().for_each(|piece| joined.extend_from_slice(piece));
    if is_chunked {
        joined.extend_from_slice(b"\r\n");
    }
    joined
}

/// None of the pieces is empty.
#[derive(Debug)]
pub struct Pieces {
    queue: VecDeque<Bytes>,
    remaining: usize,
}

impl FromIterator<Bytes> for Pieces {
    fn from_iter<I: IntoIterator<Item = Bytes>>(pieces: I) -> Pieces {
        let queue: VecDeque<Bytes> = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        let remaining = queue.iter().map(Bytes::len).sum();
        Pieces { queue, remaining }
    }
}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        self.queue.front().map_or(&[], |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let both = slices.iter_mut().zip(&self.queue);
        both.map(|(slice, piece)| *slice = IoSlice::new(piece)).count()
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.remaining, "{count} of {}", self.remaining);
        self.remaining -= count;
        while let Some(first) = self.queue.front_mut() {
            if count < first.len() {
                first.advance(count);
                break;
            }
            count -= first.len();
            self.queue.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn they_are_written_in_order_however_much_is_taken(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..10),
            takes in prop::collection::vec(1_usize..30, 1..50),
        ) {
            let mut pieces: Pieces = parts.iter().cloned().map(Bytes::from).collect();
            let mut written = Vec::new();
            for take in takes.iter().cycle() {
                let mut slices = [IoSlice::new(&[]); 4];
                let filled = pieces.chunks_vectored(&mut slices);
                let at_hand: Vec<&[u8]> = slices[..filled].iter().map(|slice| &**slice).collect();
                let at_hand = at_hand.concat();
                prop_assert_eq!(pieces.chunk(), slices.first().map_or(&[][..], |slice| slice));
                prop_assert_eq!(pieces.remaining() > 0, filled > 0);
                if filled == 0 {
                    break;
                }
                let take = (*take).min(at_hand.len());
                written.extend_from_slice(&at_hand[..take]);
                pieces.advance(take);
            }
            prop_assert_eq!(written, parts.concat());
        }
    }
}
