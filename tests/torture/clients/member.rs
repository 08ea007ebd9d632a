//! One stream of a client: what it saw of it, and how it lies about that.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use serde_json::Value;

use super::{Log, Sabotage};
use crate::history::{Event, Key, Record};

pub struct Member {
    /// Its name on the connection.
    pub alias: String,
    pub stream: usize,
    pub owner: i64,
    pub log: Arc<Mutex<Log>>,
    pub is_after_reconnect: bool,
    began: Instant,
    /// Held back by a sabotage.
    held: Option<Record>,
}

impl Member {
    pub fn new(alias: String, stream: usize, owner: i64, began: Instant) -> Member {
        let log = Arc::default();
        Member { alias, stream, owner, log, is_after_reconnect: false, began, held: None }
    }

    pub fn note(&self, record: Record) {
        let mut log = self.log.lock();
        log.kept.take(&record);
        log.records.push((self.began.elapsed(), record));
    }

    /// Half a snapshot is of no use: who is cut off within it comes back as one who is new.
    pub fn begin_snapshot(&self, reason: String) {
        self.log.lock().last_id = None;
        self.note(Record::Snapshot(reason));
    }

    /// Says whether it was not there before.
    pub fn reach(&self, id: &str) -> bool {
        let mut log = self.log.lock();
        let is_new = log.last_id.as_deref() != Some(id);
        if is_new {
            log.last_id = Some(id.to_string());
        }
        is_new
    }

    /// Notes it, or lies.
    pub fn take(&mut self, record: Record, sabotage: Option<Sabotage>) {
        if let Some(held) = self.held.take() {
            self.note(record);
            self.note(held);
            return;
        }
        if !self.is_after_reconnect || !matches!(record, Record::Event(_)) {
            self.note(record);
            return;
        }
        self.is_after_reconnect = false;
        match sabotage {
            Some(Sabotage::Loss) => {}
            Some(Sabotage::Double) => {
                self.note(record.clone());
                self.note(record);
            }
            Some(Sabotage::Reorder) => self.held = Some(record),
            Some(Sabotage::LaterId) | None => self.note(record),
        }
    }
}

/// Numbers that a browser would round come as text.
fn whole(number: &Value) -> i64 {
    let large = || number["$numberLong"].as_str()?.parse().ok();
    number.as_i64().or_else(large).unwrap_or_default()
}

fn key(json: &Value) -> Key {
    let id = &json["documentKey"]["_id"];
    Key {
        writer: id["w"].as_str().unwrap_or_default().to_string(),
        number: whole(&id["n"]),
        owner: whole(&id["owner"]),
    }
}

fn shown(json: &Value) -> Option<i64> {
    json["fullDocument"]["seq"].as_i64()
}

pub fn document(json: &Value) -> Record {
    Record::Document(key(json), shown(json).unwrap_or_default())
}

pub fn event(id: String, op: &str, json: &Value) -> Event {
    let seq = match op {
        "update" => &json["updateDescription"]["updatedFields"]["seq"],
        "delete" => &Value::Null,
        _ => &json["fullDocument"]["seq"],
    };
    Event {
        id,
        op: op.to_string(),
        collection: json["ns"]["coll"].as_str().unwrap_or_default().to_string(),
        key: key(json),
        seq: seq.as_i64(),
        shown: shown(json),
        view: json["view"].as_str().map(str::to_string),
    }
}
