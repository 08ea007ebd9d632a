//! Documents as they are read become chunks of JSON, and clients have the first while the next are read.

use bson::RawDocument;
use bytes::Bytes;

use super::Collect;
use super::taken::Chunk;
use crate::event::Position;
use crate::feed::routes::DocumentWriter;

/// What documents that lie together have at least, in bytes, unless no more come.
const CHUNK: usize = 64 * 1024;
/// What is not copied to have the size that it needs.
const LARGE: usize = 4 * CHUNK;

/// Encodes documents.
pub(super) struct Encoding<'a, F> {
    writer: DocumentWriter<'a>,
    /// The chunk that is being written.
    room: Vec<u8>,
    ends: Vec<u32>,
    chunks: Vec<Chunk>,
    /// What is done with the chunks so far, when more are to come.
    so_far: F,
}

impl<'a, F: FnMut(&Position, Vec<Chunk>) + Send> Encoding<'a, F> {
    /// Nothing yet. `so_far` is given the position of the moment that is read, and the chunks since the
    /// last time.
    pub fn new(writer: DocumentWriter<'a>, so_far: F) -> Encoding<'a, F> {
        Encoding { writer, room: Vec::new(), ends: Vec::new(), chunks: Vec::new(), so_far }
    }

    /// Those that nothing was done with yet.
    pub fn rest(mut self) -> Vec<Chunk> {
        self.end_chunk();
        self.chunks
    }

    fn end_chunk(&mut self) {
        if self.ends.is_empty() {
            return;
        }
        let json = if self.room.len() <= LARGE {
            let json = Bytes::copy_from_slice(&self.room);
            self.room.clear();
            json
        } else {
            // The room must not stay as large, either.
            let mut large = std::mem::take(&mut self.room);
            large.shrink_to_fit();
            large.into()
        };
        self.chunks.push(Chunk { json, ends: self.ends.as_slice().into() });
        self.ends.clear();
    }
}

impl<F: FnMut(&Position, Vec<Chunk>) + Send> Collect for Encoding<'_, F> {
    fn document(&mut self, document: &RawDocument) {
        self.writer.write(document, &mut self.room);
        // A chunk's last document begins below `CHUNK`, and none has 4 GiB.
        self.ends.push(u32::try_from(self.room.len()).unwrap_or(u32::MAX));
        if self.room.len() >= CHUNK {
            self.end_chunk();
        }
    }

    fn so_far(&mut self, position: &Position) {
        self.end_chunk();
        (self.so_far)(position, std::mem::take(&mut self.chunks));
    }
}
