//! Building a document by copying raw elements.

use bson::RawDocumentBuf;

use crate::event::raw::Value;

/// Bytes of a document under construction.
pub(super) struct Writer {
    bytes: Vec<u8>,
    /// Where the documents begin that are still open, the outermost first.
    open: Vec<usize>,
}

impl Writer {
    pub fn document() -> Writer {
        Writer { bytes: vec![0; 4], open: vec![0] }
    }

    pub fn element(&mut self, name: &[u8], value: Value<'_>) {
        self.head(name, value.tag);
        self.bytes.extend_from_slice(value.data);
    }

    pub fn open(&mut self, name: &[u8], kind: u8) {
        self.head(name, kind);
        self.open.push(self.bytes.len());
        self.bytes.extend_from_slice(&[0; 4]);
    }

    pub fn close(&mut self) {
        self.bytes.push(0);
        let Some(start) = self.open.pop() else { return };
        // A projection is never longer than what it was made from, so the length fits.
        let length = i32::try_from(self.bytes.len() - start).unwrap_or(i32::MAX);
        self.bytes[start..start + 4].copy_from_slice(&length.to_le_bytes());
    }

    pub fn finish(mut self) -> RawDocumentBuf {
        while !self.open.is_empty() {
            self.close();
        }
        RawDocumentBuf::from_bytes(self.bytes).unwrap_or_default()
    }

    fn head(&mut self, name: &[u8], kind: u8) {
        self.bytes.push(kind);
        self.bytes.extend_from_slice(name);
        self.bytes.push(0);
    }
}

/// The name of an array's element.
pub(super) fn index_name(index: usize) -> String {
    index.to_string()
}
