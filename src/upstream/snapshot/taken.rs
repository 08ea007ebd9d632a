//! The documents of one snapshot, encoded, from the first ones that are there until the last client
//! has been given all of them.
//!
//! Invariants:
//!
//! - Clients are given documents while later ones are still being read, and never more than there are:
//!   the end, and with it the position, comes only when the whole of it was read.
//! - Of a snapshot that cannot be read to its end, the rest is never given.

use std::sync::Weak;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use super::shared::Refused;
use crate::event::Position;

/// The documents of one moment, or those that have been read so far.
#[derive(Debug)]
pub struct Taken {
    position: Position,
    documents: RwLock<Documents>,
    /// How the reading of it ended.
    end: OnceLock<End>,
    /// Clients that are being sent it.
    readers: AtomicUsize,
    last_read: Mutex<Instant>,
}

#[derive(Debug, Default)]
struct Documents {
    chunks: Vec<Chunk>,
    count: usize,
    /// What they take in memory.
    bytes: usize,
}

/// Some documents, one behind the other in one piece of memory.
#[derive(Debug)]
pub(super) struct Chunk {
    /// Each in relaxed Extended JSON, as the data of a `document` event.
    pub json: Bytes,
    /// Where in it each of them ends.
    pub ends: Box<[u32]>,
}

#[derive(Debug)]
enum End {
    Complete(Instant),
    /// The rest does not come; and why not, where another attempt would end in the same way.
    Failed(Option<Refused>),
}

impl Taken {
    /// Without documents. `position` is where the changes go on.
    pub(super) fn new(position: Position) -> Taken {
        Taken {
            position,
            documents: RwLock::default(),
            end: OnceLock::new(),
            readers: AtomicUsize::new(0),
            last_read: Mutex::new(Instant::now()),
        }
    }

    /// Where the changes go on.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// How many documents there are so far.
    pub(super) fn count(&self) -> usize {
        self.documents.read().count
    }

    /// What it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Taken>() + self.documents.read().bytes
    }

    pub(super) fn add(&self, chunks: impl IntoIterator<Item = Chunk>) {
        let mut documents = self.documents.write();
        for chunk in chunks {
            documents.count += chunk.ends.len();
            documents.bytes += chunk.json.len() + size_of_val(&*chunk.ends) + size_of::<Chunk>();
            documents.chunks.push(chunk);
        }
    }

    /// All documents are there.
    pub(super) fn complete(&self) {
        // It ends once.
        let _ = self.end.set(End::Complete(Instant::now()));
    }

    /// No more documents come.
    pub(super) fn fail(&self, refused: Option<Refused>) {
        let _ = self.end.set(End::Failed(refused));
    }

    pub(super) fn has_failed(&self) -> bool {
        matches!(self.end.get(), Some(End::Failed(_)))
    }

    /// When all documents were there.
    pub(super) fn completed_at(&self) -> Option<Instant> {
        match self.end.get() {
            Some(End::Complete(at)) => Some(*at),
            Some(End::Failed(_)) | None => None,
        }
    }

    /// Whether clients are being sent it.
    pub(super) fn has_readers(&self) -> bool {
        self.readers.load(Ordering::Relaxed) > 0
    }

    /// When a client last asked for documents.
    pub(super) fn last_read(&self) -> Instant {
        *self.last_read.lock()
    }
}

/// What a client is given next.
#[derive(Debug)]
pub enum Given {
    /// Each in relaxed Extended JSON, as the data of a `document` event. At least one.
    Documents(Vec<Bytes>),
    /// The next ones are being read.
    NotYet,
    /// It has all of them.
    Complete,
    /// They had to make room for others, or could not be read to their end: to be begun again.
    Gone,
    /// They could not be read to their end, and another attempt would not help.
    Refused(Refused),
}

/// One client's place among the documents of a snapshot. It does not hold them.
#[derive(Debug)]
pub struct Reading {
    taken: Weak<Taken>,
    chunk: usize,
    /// Within the chunk.
    next: usize,
    given: usize,
}

impl Reading {
    /// Begins at the first document, and counts as a reader of the snapshot until it is dropped.
    pub fn new(taken: &Arc<Taken>) -> Reading {
        taken.readers.fetch_add(1, Ordering::Relaxed);
        *taken.last_read.lock() = Instant::now();
        Reading { taken: Arc::downgrade(taken), chunk: 0, next: 0, given: 0 }
    }

    /// The next documents, at most `max`, and `bytes` or a single one.
    pub fn next(&mut self, max: usize, bytes: usize) -> Given {
        let Some(taken) = self.taken.upgrade() else { return Given::Gone };
        *taken.last_read.lock() = Instant::now();
        // Looked at before the documents: none comes after it.
        let end = taken.end.get();
        if let Some(End::Failed(refused)) = end {
            return refused.map_or(Given::Gone, Given::Refused);
        }
        let found = self.take(&taken.documents.read().chunks, max, bytes);
        match (found.is_empty(), end) {
            (false, _) => Given::Documents(found),
            (true, Some(_)) => Given::Complete,
            (true, None) => Given::NotYet,
        }
    }

    fn take(&mut self, chunks: &[Chunk], max: usize, bytes: usize) -> Vec<Bytes> {
        let (mut found, mut size) = (Vec::new(), 0);
        while let Some(chunk) = chunks.get(self.chunk) {
            let Some(end) = chunk.ends.get(self.next) else {
                (self.chunk, self.next) = (self.chunk + 1, 0);
                continue;
            };
            if found.len() == max || size >= bytes {
                break;
            }
            let begin = self.next.checked_sub(1).map_or(0, |before| chunk.ends[before]);
            let json = chunk.json.slice(begin as usize..*end as usize);
            size += json.len();
            found.push(json);
            self.next += 1;
        }
        self.given += found.len();
        found
    }

    /// How many documents were given.
    pub fn given(&self) -> usize {
        self.given
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(taken) = self.taken.upgrade() {
            taken.readers.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use bson::Timestamp;

    use super::*;

    fn chunk(documents: &[&str]) -> Chunk {
        let mut end = 0;
        let ends = documents.iter().map(|json| {
            end += json.len() as u32;
            end
        });
        Chunk { ends: ends.collect(), json: Bytes::from(documents.concat()) }
    }

    fn taken() -> Arc<Taken> {
        Arc::new(Taken::new(Position::before(Timestamp { time: 1, increment: 1 })))
    }

    fn documents(given: Given) -> Vec<Bytes> {
        match given {
            Given::Documents(found) => found,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn documents_are_given_while_later_ones_are_read() {
        let taken = taken();
        let mut reading = Reading::new(&taken);
        assert!(taken.has_readers() && matches!(reading.next(9, 100), Given::NotYet));
        taken.add([chunk(&["{}", "{\"a\":1}", "{}"]), chunk(&[]), chunk(&["{\"b\":2}"])]);
        assert_eq!(documents(reading.next(2, 100)), ["{}", "{\"a\":1}"]);
        assert_eq!(documents(reading.next(9, 100)), ["{}", "{\"b\":2}"]);
        assert!(matches!(reading.next(9, 100), Given::NotYet));
        taken.add([chunk(&["{\"c\":3}", "{}"])]);
        taken.complete();
        // Bytes are a limit too, but for a single one.
        assert_eq!(documents(reading.next(9, 1)), ["{\"c\":3}"]);
        assert_eq!(documents(reading.next(9, 1)), ["{}"]);
        assert!(matches!(reading.next(9, 1), Given::Complete) && reading.given() == 6);
        // Another one begins at the first.
        assert_eq!(documents(Reading::new(&taken).next(9, 100)).len(), 6);
        drop(reading);
        assert!(!taken.has_readers() && taken.count() == 6);
    }

    #[test]
    fn nothing_is_given_of_what_could_not_be_read_to_its_end() {
        for (refused, is_refused) in [(None, false), (Some(Refused::TooLarge), true)] {
            let taken = taken();
            taken.add([chunk(&["{}"])]);
            let mut reading = Reading::new(&taken);
            taken.fail(refused);
            // What is told last does not make it whole.
            taken.complete();
            assert!(taken.has_failed() && taken.completed_at().is_none());
            match reading.next(9, 100) {
                Given::Gone => assert!(!is_refused),
                Given::Refused(Refused::TooLarge) => assert!(is_refused),
                other => panic!("{other:?}"),
            }
        }
        let taken = taken();
        let mut reading = Reading::new(&taken);
        drop(taken);
        assert!(matches!(reading.next(9, 100), Given::Gone));
    }
}
