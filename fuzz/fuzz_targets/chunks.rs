//! Chunked bodies: where one ends does not depend on the pieces in which it comes, and what is
//! taken is what a strict reader takes.
//!
//! The first byte of the input says where the rest is cut in two, in 255ths.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sidestream_fuzz::chunks::Chunks;

/// How many bytes belong to the body, whether it is done, or that it is malformed.
fn follow(pieces: &[&[u8]]) -> Option<(usize, bool)> {
    let mut chunks = Chunks::default();
    let mut taken = 0;
    for piece in pieces {
        if chunks.is_done() {
            break;
        }
        let length = chunks.follow(piece).ok()?;
        assert!(length <= piece.len());
        assert!(length == piece.len() || chunks.is_done(), "only a body that is done leaves some");
        taken += length;
    }
    Some((taken, chunks.is_done()))
}

fuzz_target!(|input: &[u8]| {
    let Some((cut, bytes)) = input.split_first() else { return };
    let whole = follow(&[bytes]);
    let (first, second) = bytes.split_at(usize::from(*cut) * bytes.len() / 255);
    assert_eq!(follow(&[first, second]), whole);
    if bytes.len() <= 512 {
        let bytewise: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(follow(&bytewise), whole);
    }
});
