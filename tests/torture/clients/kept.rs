//! The collection that a client of a stream with a snapshot keeps, as a page would: built from the
//! documents, swapped at `ready`, then changed by each event. Pure.

use std::collections::HashMap;

use crate::history::{Key, Record};

/// The numbers of documents.
pub type Documents = HashMap<Key, i64>;

#[derive(Debug, Default)]
pub struct Kept {
    pub shown: Documents,
    /// A snapshot that is not complete.
    next: Option<Documents>,
}

impl Kept {
    pub fn take(&mut self, record: &Record) {
        match record {
            Record::Snapshot(_) => self.next = Some(Documents::new()),
            Record::Document(key, seq) => {
                if let Some(next) = &mut self.next {
                    next.insert(key.clone(), *seq);
                }
            }
            Record::Position(_) => {
                if let Some(next) = self.next.take() {
                    self.shown = next;
                }
            }
            Record::Event(event) => {
                if event.op == "delete" || event.view.as_deref() == Some("leave") {
                    self.shown.remove(&event.key);
                } else if let Some(seq) = event.shown {
                    self.shown.insert(event.key.clone(), seq);
                }
            }
            _ => {}
        }
    }

    /// How it differs from what is there.
    pub fn differs(&self, there: &Documents) -> Option<String> {
        let lacks = there.iter().filter(|(key, _)| !self.shown.contains_key(key)).count();
        let first = there
            .iter()
            .find(|(key, seq)| self.shown.get(key) != Some(seq))
            .map(|(key, seq)| format!("{key:?} is {seq}, and here {:?}", self.shown.get(key)))
            .or_else(|| {
                let gone = self.shown.keys().find(|key| !there.contains_key(key))?;
                Some(format!("{gone:?} is gone"))
            })?;
        let (had, have) = (self.shown.len(), there.len());
        Some(format!("{had} documents of {have}, {lacks} are missing; {first}"))
    }
}
