//! A run: phase after phase, a fault, its end, a last write, and the check.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::clients::{self, Client, Mood};
use crate::cluster::Cluster;
use crate::history::{self, Cursor, Documents, Excuses, Op, Record, State, Violation};
use crate::memory::Figures;
use crate::nemesis::{Fault, World};
use crate::report::Report;
use crate::streams::{Later, OWNERS, SNAPSHOTS, STREAMS};
use crate::witness::Witness;
use crate::writers::{Acknowledged, Pace, Writers};
use crate::{Arguments, Phase};

/// After a fault is healed, the last write must have reached everybody within this time.
const LIVENESS: Duration = Duration::from_secs(60);
/// What was in doubt when the writers stopped may still be written; then it is told, too.
const STRAGGLERS: Duration = Duration::from_secs(3);
/// Twice as long as a sidecar's memory is at most.
const REMEMBERED: Duration = Duration::from_secs(60);
/// How often each stream is listened to, of the sum: those with a parameter most of all.
const SHARES: [usize; SNAPSHOTS] = [5, 5, 5, 1, 1, 1, 2];

struct Run {
    cluster: Cluster,
    witness: Witness,
    clients: Vec<Client>,
    cursors: Vec<Cursor>,
    /// The token up to which everything was checked, of a phase before this one.
    done: String,
    /// What was there before all that the witness still knows.
    base: State,
    /// How many of each client's records are checked; more may have come since.
    checked: Vec<usize>,
    writers: Writers,
    mood: watch::Sender<Mood>,
    rng: fastrand::Rng,
    edits: u64,
}

/// Says whether every promise was kept.
pub async fn run(arguments: &Arguments) -> bool {
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let began = Instant::now();
    println!("seed {seed}");
    let mut run = Run::start(arguments, seed).await;
    println!(
        "three members, {} sidecars, {} clients with {} streams: {:.1} s",
        arguments.sidecars,
        arguments.clients,
        run.clients.len(),
        began.elapsed().as_secs_f64()
    );
    let (mut kept, mut deliveries, mut writes, mut snapshots) = (true, 0, 0, 0);
    let mut memory: Vec<Figures> = Vec::new();
    for (number, phase) in arguments.plan().iter().enumerate() {
        let at = Instant::now();
        let report = run.phase(number, phase).await;
        let is_fine =
            report.is_kept() != phase.must_fail && report.broken.is_empty() && !report.is_bloated();
        let verdict = match (phase.must_fail, is_fine) {
            (false, true) => "kept",
            (false, false) => "BROKEN",
            (true, true) => "broken on purpose, and found",
            (true, false) => "BROKEN ON PURPOSE, AND NOT FOUND",
        };
        let name = if phase.must_fail { "sabotage" } else { phase.fault.name() };
        let mut shown = report;
        if phase.must_fail && is_fine {
            shown.violations.truncate(2);
        }
        shown.print(name, at.elapsed().as_secs_f64(), verdict);
        kept &= is_fine;
        (deliveries, writes) = (deliveries + shown.events, writes + shown.written);
        snapshots += shown.snapshots;
        memory.resize(memory.len().max(shown.memory.len()), Figures::default());
        for (all, figures) in memory.iter_mut().zip(&shown.memory) {
            all.join(figures);
        }
        if let (false, Some(dir)) = (is_fine, &arguments.artifacts) {
            let logs = run.cluster.all_logs();
            let truth = &run.witness.truth;
            if let Err(error) = shown.save(dir, number, name, &run.clients, truth, &logs) {
                eprintln!("nothing could be kept in {}: {error}", dir.display());
            }
        }
        run.forget();
    }
    let time = began.elapsed().as_secs_f64();
    for (index, figures) in memory.iter().enumerate() {
        println!("memory of sidecar {index}, the whole run: {figures}");
    }
    let verdict = if kept { "every promise was kept" } else { "PROMISES WERE BROKEN" };
    println!(
        "seed {seed}: {writes} written, {deliveries} delivered, {snapshots} snapshots held against the \
         history, {time:.0} s: {verdict}"
    );
    kept && snapshots > 0
}

impl Run {
    async fn start(arguments: &Arguments, seed: u64) -> Run {
        let plain = arguments.clients - arguments.clients / 5;
        let cluster = Cluster::start(arguments.sidecars, arguments.clients).await;
        let witness = Witness::new(cluster.client.clone(), cluster.now().await);
        let pace = Pace { pause: Duration::from_millis(60), payload: 64 };
        let (mood, _) = watch::channel(Mood {
            is_slow: false,
            is_calm: false,
            is_event_source: false,
            sabotage: None,
        });
        let newest = Arc::new(Mutex::new(None));
        let began = Instant::now();
        let clients: Vec<Client> = (0..arguments.clients)
            .flat_map(|index| {
                let owner = |at: usize| (at / 3) as i64 % OWNERS;
                // Every third has several.
                let more = if index % 3 == 1 { &[0, 6, 13, 17][..] } else { &[0] };
                let at = more.iter().map(|more| index + more);
                let mut streams: Vec<_> = at.map(|at| (share(at), owner(at))).collect();
                // The last fifth begins with snapshots. Five apart, so that every transport and every
                // temper is among them.
                let snapshot = index.checked_sub(plain);
                if let Some(number) = snapshot {
                    let owner = number as i64 / 2 % OWNERS;
                    streams = vec![(SNAPSHOTS + number % 2, owner)];
                }
                Client::start(clients::Setup {
                    index: snapshot.map_or(index, |number| plain + 5 * number),
                    seed,
                    streams,
                    sidecars: cluster.fronts.iter().map(|front| front.address).collect(),
                    mood: mood.subscribe(),
                    began,
                    newest: newest.clone(),
                })
            })
            .collect();
        crate::support::until("every client holds an id", || async {
            clients.iter().all(|client| client.log.lock().last_id.is_some())
        })
        .await;
        let writers = Writers::start(&cluster.client, arguments.writers, seed, pace);
        let cursors = vec![Cursor::default(); clients.len()];
        let checked = vec![0; clients.len()];
        let rng = fastrand::Rng::with_seed(seed);
        let (done, base, edits) = (String::new(), State::default(), 0);
        Run { cluster, witness, clients, cursors, done, base, checked, writers, mood, rng, edits }
    }

    async fn phase(&mut self, number: usize, phase: &Phase) -> Report {
        let mut report = Report::default();
        let replays = self.replays().await;
        self.cluster.memory.forget();
        let sabotage = phase.sabotage;
        let is_event_source = phase.is_event_source || phase.fault == Fault::RollingRestart;
        self.mood.send_replace(Mood { is_slow: false, is_calm: false, is_event_source, sabotage });
        let mut world = World {
            cluster: &mut self.cluster,
            witness: &mut self.witness,
            mood: &self.mood,
            pace: &self.writers.pace,
            rng: &mut self.rng,
            ends_at: Instant::now() + phase.time,
            edits: &mut self.edits,
        };
        phase.fault.run(&mut world).await;
        self.cluster.heal().await;
        // The writers go on until here, so that there is something to catch up with.
        let stopped = self.writers.gate.clone().write_owned().await;
        self.mood.send_modify(|mood| (mood.is_calm, mood.is_slow) = (true, false));
        if let Err(error) = self.cluster.mark(number).await {
            report.broken.push(error);
            return report;
        }
        let is_last = |change: &history::Change| {
            change.key.writer == "last" && change.key.number == number as i64
        };
        if let Err(error) = self.witness.read_to(is_last).await {
            report.broken.push(error);
            return report;
        }
        // What was read along has it in the middle.
        let last = self.witness.truth.iter().rfind(|change| is_last(change));
        // Everything of its time: a position without a document may lie before it.
        let mark: String =
            last.map(|last| last.token.chars().take(18).collect()).unwrap_or_default();
        let behind = self.await_clients(&mark).await;
        self.check(phase, (&mark, &behind), &mut report);
        self.compare(phase, &mut report).await;
        report.memory = self.cluster.memory.figures();
        let now = self.replays().await;
        report.replays = ((now.0 - replays.0).max(0.0), (now.1 - replays.1).max(0.0));
        report.forgotten = self.writers.failed.swap(0, Ordering::Relaxed);
        drop(stopped);
        report
    }

    /// A restarted sidecar counts from zero, so this is "at least".
    async fn replays(&self) -> (f64, f64) {
        let name = |source: &str| format!("sidestream_replays_total{{source=\"{source}\"}}");
        (self.cluster.metric(&name("memory")).await, self.cluster.metric(&name("oplog")).await)
    }

    /// Returns when all have been there, or when the time is over: those, by their numbers, that have
    /// not. One that was may begin anew meanwhile, with a snapshot of before.
    async fn await_clients(&self, mark: &str) -> HashSet<usize> {
        let began = Instant::now();
        let mut behind: HashSet<usize> = (0..self.clients.len()).collect();
        loop {
            behind.retain(|number| {
                let log = self.clients[*number].log.lock();
                log.last_id.as_ref().is_none_or(|id| id.as_str() < mark)
            });
            if behind.is_empty() || began.elapsed() >= LIVENESS {
                return behind;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn check(
        &mut self,
        phase: &Phase,
        (mark, behind): (&str, &HashSet<usize>),
        report: &mut Report,
    ) {
        let truth = &self.witness.truth;
        report.written = truth.iter().filter(|change| change.token > self.done).count();
        self.check_witness(report);
        let later = Later::of(truth);
        // Whoever was given a snapshot of before that cannot be held to it.
        let (base, known) = (&self.base, remembered_since(&self.done));
        let states = self.cursors.iter_mut().zip(&mut self.checked);
        for (number, (client, (cursor, checked))) in self.clients.iter().zip(states).enumerate() {
            let stream = &STREAMS[client.stream];
            let (mut records, last_id): (Vec<Record>, _) = {
                let log = client.log.lock();
                (
                    log.records.iter().map(|(_, record)| record.clone()).collect(),
                    log.last_id.clone(),
                )
            };
            *checked = records.len();
            if client.has_shared_id {
                history::name_places(&mut records, truth);
            }
            let excuses = Excuses {
                reset: &|reason| phase.fault.may_reset(stream.name, reason),
                status: &|status| phase.fault.may_refuse(stream.name, status),
                end: phase.fault.may_end(stream.name),
            };
            let expect = |change: &history::Change| stream.expect(client.owner, change, &later);
            let there = |place: &str| {
                let collection = stream.collection?;
                let owner = stream.has_owner.then_some(client.owner);
                let state = (seconds(place) >= known).then(|| base.at(truth, place))?;
                Some(state.documents(stream.database, collection, owner))
            };
            let verdict = history::check(truth, (&expect, &there), &records, cursor, &excuses);
            report.events += verdict.events;
            report.snapshots += verdict.snapshots;
            report.reconnects += verdict.reconnects;
            for reason in verdict.resets {
                *report.resets.entry(reason).or_default() += 1;
            }
            let mut violations = verdict.violations;
            if behind.contains(&number) {
                violations.push(Violation::Behind { at: last_id, mark: mark.to_string() });
            }
            let named = violations.into_iter().map(|violation| (client.name.clone(), violation));
            report.violations.extend(named);
        }
    }

    /// What clients made of snapshots and events has to be what a query finds.
    async fn compare(&self, phase: &Phase, report: &mut Report) {
        let began = Instant::now();
        let found = loop {
            match self.differences().await {
                Err(error) => {
                    report.broken.push(format!("the documents cannot be read: {error}"));
                    return;
                }
                Ok(found) if found.is_empty() => return,
                Ok(found) if phase.must_fail || began.elapsed() > STRAGGLERS => break found,
                Ok(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        };
        report.violations.extend(found);
    }

    async fn differences(&self) -> Result<Vec<(String, Violation)>, mongodb::error::Error> {
        let mut there: HashMap<(usize, i64), Documents> = HashMap::new();
        let mut found = Vec::new();
        for client in &self.clients {
            let stream = &STREAMS[client.stream];
            let (true, Some(collection)) = (stream.has_snapshot, stream.collection) else {
                continue;
            };
            let documents = match there.entry((client.stream, client.owner)) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => {
                    let owner = stream.has_owner.then_some(client.owner);
                    let read = self.cluster.documents(stream.database, collection, owner);
                    entry.insert(read.await?)
                }
            };
            let log = client.log.lock();
            if let Some(differs) = history::difference(&log.kept.shown, documents) {
                found.push((client.name.clone(), Violation::Collection(differs)));
            }
        }
        Ok(found)
    }

    /// The witness must know at least what a majority has acknowledged to the writers.
    fn check_witness(&self, report: &mut Report) {
        let known: HashSet<Acknowledged> = self
            .witness
            .truth
            .iter()
            .filter(|change| !matches!(change.op, Op::Drop | Op::Rename))
            .map(|change| Acknowledged { key: change.key.clone(), op: change.op, seq: change.seq })
            .collect();
        let acknowledged = std::mem::take(&mut *self.writers.acknowledged.lock());
        let missing: Vec<_> = acknowledged.iter().filter(|it| !known.contains(it)).collect();
        if let Some(first) = missing.first() {
            let count = missing.len();
            report.broken.push(format!("the history lacks {count} writes, the first: {first:?}"));
        }
    }

    /// What was checked is done with. The last write has not reached everybody yet, and a snapshot that
    /// is still in a sidecar's memory may lie further back.
    fn forget(&mut self) {
        let mark = self.witness.truth.iter().rfind(|change| change.key.writer == "last");
        self.done = mark.map(|change| change.token.clone()).unwrap_or_default();
        let since = remembered_since(&self.done);
        let truth = &mut self.witness.truth;
        let known = truth.partition_point(|change| seconds(&change.token) < since);
        truth.drain(..known).for_each(|change| self.base.apply(&change));
        for (client, checked) in self.clients.iter().zip(&mut self.checked) {
            client.log.lock().records.drain(..std::mem::take(checked));
        }
    }
}

/// What was before this second is forgotten, when everything up to this token was checked.
fn remembered_since(done: &str) -> u64 {
    seconds(done).saturating_sub(REMEMBERED.as_secs())
}

/// The time that a token begins with, behind the type byte.
fn seconds(token: &str) -> u64 {
    token.get(2..10).and_then(|time| u64::from_str_radix(time, 16).ok()).unwrap_or(0)
}

/// Which stream a client listens to.
fn share(index: usize) -> usize {
    let mut at = index % SHARES.iter().sum::<usize>();
    for (stream, share) in SHARES.iter().enumerate() {
        match at.checked_sub(*share) {
            Some(rest) => at = rest,
            None => return stream,
        }
    }
    0
}
