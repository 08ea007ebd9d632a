//! The collection that a client of a stream with a snapshot keeps, as a page would: built from the
//! documents, swapped at `ready`, then changed by each event. Pure.

use crate::history::{Documents, Record};

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
}
