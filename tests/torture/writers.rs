//! Writers: each numbers its changes per document, singly and in transactions, and tries again
//! whatever fails, so that failovers do not stop it.
//!
//! Every step can be repeated: an update sets a number, an insert has a fixed key. What stays
//! unknown after many attempts is forgotten, together with its document: the history will say
//! whether it happened.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mongodb::bson::{Document, doc};
use mongodb::error::{Error, ErrorKind, WriteFailure};
use mongodb::{Client, ClientSession, Collection};
use parking_lot::Mutex;
use tokio::sync::{RwLock, watch};

use crate::history::{Key, Op};
use crate::streams::{COLLECTIONS, OWNERS};

/// How many documents a writer has alive at most.
const DOCUMENTS: usize = 24;
const ATTEMPTS: usize = 8;
/// One attempt. A frozen primary keeps its connections and says nothing.
const PATIENCE: Duration = Duration::from_secs(5);
const DUPLICATE_KEY: i32 = 11000;

/// A change that a majority has acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Acknowledged {
    pub key: Key,
    pub op: Op,
    pub seq: Option<i64>,
}

/// How the writers go about it.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub pause: Duration,
    pub payload: usize,
}

/// All writers.
pub struct Writers {
    /// Held by a writer during a step; who takes it for writing stops them all between two steps.
    pub gate: Arc<RwLock<()>>,
    pub acknowledged: Arc<Mutex<Vec<Acknowledged>>>,
    pub failed: Arc<AtomicUsize>,
    pub pace: watch::Sender<Pace>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Writers {
    pub fn start(client: &Client, count: usize, seed: u64, pace: Pace) -> Writers {
        let mut writers = Writers {
            gate: Arc::default(),
            acknowledged: Arc::default(),
            failed: Arc::default(),
            pace: watch::Sender::new(pace),
            tasks: Vec::new(),
        };
        for index in 0..count {
            let writer = Writer {
                name: format!("w{index}"),
                client: client.clone(),
                rng: fastrand::Rng::with_seed(seed.wrapping_mul(7919) + index as u64),
                // Numbers that a double cannot hold are another case to the server's tokens.
                next: if index.is_multiple_of(2) { 0 } else { 1 << 60 },
                alive: Vec::new(),
                acknowledged: writers.acknowledged.clone(),
                failed: writers.failed.clone(),
            };
            let (gate, pace) = (writers.gate.clone(), writers.pace.subscribe());
            writers.tasks.push(tokio::spawn(writer.run(gate, pace)));
        }
        writers
    }
}

#[derive(Debug, Clone)]
struct Living {
    place: usize,
    key: Key,
    seq: i64,
}

/// One change, to be tried as often as it takes.
#[derive(Debug, Clone)]
struct Step {
    op: Op,
    document: Living,
}

struct Writer {
    name: String,
    client: Client,
    rng: fastrand::Rng,
    next: i64,
    alive: Vec<Living>,
    acknowledged: Arc<Mutex<Vec<Acknowledged>>>,
    failed: Arc<AtomicUsize>,
}

pub fn id(key: &Key) -> Document {
    doc! { "w": &key.writer, "n": key.number, "owner": key.owner }
}

pub fn document(key: &Key, seq: i64, payload: usize) -> Document {
    doc! { "_id": id(key), "owner": key.owner, "seq": seq, "payload": "x".repeat(payload) }
}

impl Writer {
    async fn run(mut self, gate: Arc<RwLock<()>>, pace: watch::Receiver<Pace>) {
        loop {
            let Pace { pause, payload } = *pace.borrow();
            {
                let _step = gate.read().await;
                let count = if self.rng.u8(..100) < 15 { self.rng.usize(2..7) } else { 1 };
                let steps: Vec<Step> = (0..count).map(|_| self.choose()).collect();
                match steps.as_slice() {
                    [step] => self.single(step, payload).await,
                    steps => self.transaction(steps, payload).await,
                }
            }
            tokio::time::sleep(pause.mul_f64(0.5 + self.rng.f64())).await;
        }
    }

    fn choose(&mut self) -> Step {
        let dice = self.rng.u8(..100);
        if self.alive.is_empty() || (dice < 40 && self.alive.len() < DOCUMENTS) {
            self.next += 1;
            let key = Key {
                writer: self.name.clone(),
                number: self.next,
                owner: self.rng.i64(0..OWNERS),
            };
            let document = Living { place: self.rng.usize(..COLLECTIONS.len()), key, seq: 0 };
            self.alive.push(document.clone());
            return Step { op: Op::Insert, document };
        }
        let at = self.rng.usize(..self.alive.len());
        let op = match dice {
            0..75 => Op::Update,
            75..85 => Op::Replace,
            _ => Op::Delete,
        };
        if op == Op::Delete {
            return Step { op, document: self.alive.swap_remove(at) };
        }
        let document = &mut self.alive[at];
        document.seq += 1;
        Step { op, document: document.clone() }
    }

    async fn single(&mut self, step: &Step, payload: usize) {
        for _ in 0..ATTEMPTS {
            let tried = self.try_step(step, payload, None);
            match tokio::time::timeout(PATIENCE, tried).await {
                Ok(Ok(was_changed)) => {
                    self.note(step, was_changed);
                    return;
                }
                // An attempt before this one was done after all.
                Ok(Err(error)) if is_duplicate(&error) => return,
                Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
                Err(_) => {}
            }
        }
        self.forget(std::slice::from_ref(step));
    }

    async fn transaction(&mut self, steps: &[Step], payload: usize) {
        for _ in 0..ATTEMPTS {
            let tried = self.try_transaction(steps, payload);
            match tokio::time::timeout(PATIENCE * 2, tried).await {
                Ok(Ok(changed)) => {
                    for (step, was_changed) in steps.iter().zip(changed) {
                        self.note(step, was_changed);
                    }
                    return;
                }
                // An earlier attempt was committed after all, or one of its documents is gone with
                // its collection.
                Ok(Err(error)) if is_duplicate(&error) => break,
                Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
                Err(_) => {}
            }
        }
        self.forget(steps);
    }

    async fn try_transaction(&self, steps: &[Step], payload: usize) -> Result<Vec<bool>, Error> {
        let mut session = self.client.start_session().await?;
        session.start_transaction().await?;
        let mut changed = Vec::with_capacity(steps.len());
        for step in steps {
            match self.try_step(step, payload, Some(&mut session)).await {
                Ok(was_changed) => changed.push(was_changed),
                Err(error) => {
                    // It ends with its session in any case.
                    let _ = session.abort_transaction().await;
                    return Err(error);
                }
            }
        }
        loop {
            match session.commit_transaction().await {
                Ok(()) => return Ok(changed),
                Err(error) if error.contains_label("UnknownTransactionCommitResult") => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether anything was changed.
    async fn try_step(
        &self,
        step: &Step,
        payload: usize,
        session: Option<&mut ClientSession>,
    ) -> Result<bool, Error> {
        let Living { place, key, seq } = &step.document;
        let (database, name) = COLLECTIONS[*place];
        let collection: Collection<Document> = self.client.database(database).collection(name);
        let query = doc! { "_id": id(key) };
        let whole = document(key, *seq, payload);
        macro_rules! run {
            ($action:expr) => {
                match session {
                    Some(session) => $action.session(session).await,
                    None => $action.await,
                }
            };
        }
        Ok(match step.op {
            Op::Insert => run!(collection.insert_one(whole)).map(|_| true)?,
            Op::Update => {
                let set = doc! { "$set": { "seq": seq, "payload": "y".repeat(payload) } };
                run!(collection.update_one(query, set))?.modified_count > 0
            }
            Op::Replace => run!(collection.replace_one(query, whole))?.modified_count > 0,
            _ => run!(collection.delete_one(query))?.deleted_count > 0,
        })
    }

    fn note(&self, step: &Step, was_changed: bool) {
        if !was_changed {
            return;
        }
        let Living { key, seq, .. } = &step.document;
        let seq = (step.op != Op::Delete).then_some(*seq);
        self.acknowledged.lock().push(Acknowledged { key: key.clone(), op: step.op, seq });
    }

    fn forget(&mut self, steps: &[Step]) {
        self.failed.fetch_add(steps.len(), Ordering::Relaxed);
        let is_in_doubt = |living: &Living| steps.iter().any(|s| s.document.key == living.key);
        self.alive.retain(|living| !is_in_doubt(living));
    }
}

fn is_duplicate(error: &Error) -> bool {
    match error.kind.as_ref() {
        ErrorKind::Write(WriteFailure::WriteError(error)) => error.code == DUPLICATE_KEY,
        ErrorKind::Command(error) => error.code == DUPLICATE_KEY,
        _ => false,
    }
}
