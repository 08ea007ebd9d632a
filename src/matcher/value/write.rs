//! Building a document by copying raw elements.

use bson::RawDocumentBuf;

use crate::event::raw::{Owned, Value, tag};

/// Bytes of a document under construction.
pub(crate) struct Writer {
    bytes: Vec<u8>,
    /// Where the documents begin that are still open, the outermost first.
    open: Vec<usize>,
}

impl Writer {
    /// An empty document, to be taken by [`Writer::into_document`] or [`Writer::finish`].
    pub fn document() -> Writer {
        Writer { bytes: vec![0; 4], open: vec![0] }
    }

    /// A document that has at most so many bytes in the end.
    pub fn document_within(bytes: usize) -> Writer {
        let mut writer = Writer { bytes: Vec::with_capacity(bytes), open: vec![0] };
        writer.bytes.extend_from_slice(&[0; 4]);
        writer
    }

    /// An array, to be taken by [`Writer::into_array`].
    pub fn array() -> Writer {
        Writer::document()
    }

    /// Appends to an array, under the next index.
    pub fn push(&mut self, index: usize, value: Value<'_>) {
        self.element(index_name(index).as_bytes(), value);
    }

    /// Ends what is still open. The fields' names must be indexes, as [`Writer::push`] makes them.
    pub fn into_array(self) -> Owned {
        Owned::of(Value { tag: tag::ARRAY, data: self.finish().as_bytes() })
    }

    /// Ends what is still open, and gives the document as a value.
    pub fn into_document(self) -> Owned {
        Owned::of(Value { tag: tag::DOCUMENT, data: self.finish().as_bytes() })
    }

    /// Appends a field to the innermost open document, its value copied as it is.
    pub fn element(&mut self, name: &[u8], value: Value<'_>) {
        self.head(name, value.tag);
        self.bytes.extend_from_slice(value.data);
    }

    /// Begins a document or an array (`kind`, from [`tag`]) as a field of the innermost open one.
    pub fn open(&mut self, name: &[u8], kind: u8) {
        self.head(name, kind);
        self.open.push(self.bytes.len());
        self.bytes.extend_from_slice(&[0; 4]);
    }

    /// Ends the innermost open document or array.
    pub fn close(&mut self) {
        self.bytes.push(0);
        let Some(start) = self.open.pop() else { return };
        // A projection is never longer than what it was made from, so the length fits.
        let length = i32::try_from(self.bytes.len() - start).unwrap_or(i32::MAX);
        self.bytes[start..start + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// Ends what is still open, and gives the bytes.
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
pub(crate) fn index_name(index: usize) -> String {
    index.to_string()
}
