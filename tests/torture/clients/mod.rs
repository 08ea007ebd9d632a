//! Clients as browsers are: they listen, lose the connection, and come back to any sidecar with the
//! last id that they saw. A quarter of them uses each transport, and a quarter has several streams
//! on its connection: under one id, or over a WebSocket with an id each. A fifth listens to streams with
//! snapshots, keeps the collection, and is now and then loaded again without an id.
//!
//! In the mood of an `EventSource` those of Server-Sent Events do exactly what the standard says: they
//! never leave, come back when `retry:` says so, and take any answer but 200 for the last.
//!
//! What they saw of each stream goes into a log, in order; nobody judges here. A sabotaged client lies to
//! its own log, or to the sidecar, so that the check can be checked.

pub mod kept;
mod member;
pub mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sidestream::event::seal::Ids;
use sidestream::session::bookmark::Bookmark;
use tokio::sync::watch;

use crate::history::Record;
use crate::streams::STREAMS;
use kept::Kept;
use member::{Member, document, event};
use wire::{Opening, Told, Transport, Wanted, Wire};

/// After so much silence an impatient client gives the connection up; heartbeats are far quicker.
const SILENCE: Duration = Duration::from_secs(5);
/// As long as the network takes to notice that the other side is gone.
const LONG_SILENCE: Duration = Duration::from_secs(25);

/// Until a stream says otherwise, as in Chromium.
const RETRY: Duration = Duration::from_secs(3);

/// Why a connection ended, for an answer that is no stream.
const REFUSED: &str = "refused";

/// How a client is made to lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Sabotage {
    /// After a reconnect, an event is left out.
    Loss,
    /// After a reconnect, an event is noted twice.
    Double,
    /// Two events are noted in the wrong order.
    Reorder,
    /// A reconnect brings an id that is further on.
    LaterId,
}

/// What all clients look at.
#[derive(Debug, Clone, Copy)]
pub struct Mood {
    /// Some do not read at all.
    pub is_slow: bool,
    /// Nobody leaves of their own will.
    pub is_calm: bool,
    /// Everybody does exactly as the standard says.
    pub is_event_source: bool,
    pub sabotage: Option<Sabotage>,
}

/// One client's memory.
#[derive(Debug, Default)]
pub struct Log {
    pub records: Vec<(Duration, Record)>,
    pub last_id: Option<String>,
    /// What it makes of a stream with a snapshot.
    pub kept: Kept,
}

/// One stream of a connection, as its client saw it.
pub struct Client {
    pub name: String,
    pub stream: usize,
    pub owner: i64,
    /// Its ids are those of several streams: places that name no document.
    pub has_shared_id: bool,
    pub log: Arc<Mutex<Log>>,
    _task: Arc<Task>,
}

/// What listens; ends with the last of its streams' clients.
struct Task(tokio::task::JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a connection is made of.
pub struct Setup {
    pub index: usize,
    pub seed: u64,
    /// Its streams, as their numbers and the values of their parameters.
    pub streams: Vec<(usize, i64)>,
    pub sidecars: Vec<SocketAddr>,
    pub mood: watch::Receiver<Mood>,
    pub began: Instant,
    /// The furthest id that anybody has.
    pub newest: Arc<Mutex<Option<String>>>,
}

impl Client {
    /// One for each stream of the connection.
    pub fn start(setup: Setup) -> Vec<Client> {
        // Not by the remainder, by which they differ in temper.
        let transport = Transport::ALL[setup.index / 4 % 4];
        let has_shared_id = setup.streams.len() > 1 && transport != Transport::WebSocket;
        let rng = fastrand::Rng::with_seed(setup.seed.wrapping_mul(1_000_003) + setup.index as u64);
        let members: Vec<Member> = setup
            .streams
            .iter()
            .enumerate()
            .map(|(number, (stream, owner))| {
                Member::new(format!("s{number}"), *stream, *owner, setup.began)
            })
            .collect();
        let named = members.iter().map(|member| {
            let target = STREAMS[member.stream].target(member.owner);
            let name = format!("client {} {transport:?} {} {target}", setup.index, member.alias);
            (name, member.stream, member.owner, member.log.clone())
        });
        let named: Vec<_> = named.collect();
        let run =
            Run { setup, transport, has_shared_id, members, shared_id: None, rng, retry: RETRY };
        let task = Arc::new(Task(tokio::spawn(run.forever())));
        let client = |(name, stream, owner, log)| {
            let _task = task.clone();
            Client { name, stream, owner, has_shared_id, log, _task }
        };
        named.into_iter().map(client).collect()
    }
}

/// How long a client keeps a connection, and how long it stays away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Temper {
    /// Never leaves by itself.
    Steady,
    /// Comes and goes.
    Restless,
    /// Away for longer than the sidecar's memory.
    Sleeper,
}

struct Run {
    setup: Setup,
    transport: Transport,
    has_shared_id: bool,
    members: Vec<Member>,
    /// The last one of several streams.
    shared_id: Option<String>,
    rng: fastrand::Rng,
    /// When to come back after a cut.
    retry: Duration,
}

impl Run {
    fn temper(&self) -> Temper {
        match self.setup.index % 4 {
            _ if self.mood().is_event_source => Temper::Steady,
            0 => Temper::Steady,
            3 => Temper::Sleeper,
            _ => Temper::Restless,
        }
    }

    fn mood(&self) -> Mood {
        *self.setup.mood.borrow()
    }

    fn is_event_source(&self) -> bool {
        self.mood().is_event_source && self.transport == Transport::Sse
    }

    async fn forever(mut self) {
        loop {
            let sidecar = self.rng.usize(..self.setup.sidecars.len());
            let why = self.listen(sidecar).await;
            // Whoever polls asks again at once, but for who leaves.
            let has_polled = why == wire::POLLED;
            if has_polled && (self.temper() == Temper::Steady || self.rng.u8(..8) > 0) {
                continue;
            }
            let is_refused = why == REFUSED;
            for member in &self.members {
                member.note(Record::Closed(why.clone()));
            }
            if self.is_event_source() {
                if is_refused {
                    return;
                }
                tokio::time::sleep(self.retry).await;
                continue;
            }
            // As a page that is loaded again, so that snapshots are taken while things break.
            for member in &self.members {
                if STREAMS[member.stream].has_snapshot && self.rng.u8(..3) == 0 {
                    member.log.lock().last_id = None;
                }
            }
            let away = match (self.mood().is_calm, self.temper()) {
                (true, _) => self.rng.u64(20..200),
                (_, Temper::Sleeper) => self.rng.u64(1_000..6_000),
                (_, _) if self.rng.u8(..4) == 0 => self.rng.u64(500..2_500),
                (_, _) => self.rng.u64(20..500),
            };
            let mut mood = self.setup.mood.clone();
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(away)) => {}
                // A sleeper wakes up when a phase ends, not at once with all the others.
                () = async { drop(mood.wait_for(|mood| mood.is_calm).await) } => {
                    tokio::time::sleep(Duration::from_millis(self.rng.u64(20..300))).await;
                }
            }
        }
    }

    /// The streams as they are asked for, and the id that they share.
    fn wanted(&self) -> (Vec<Wanted>, Option<String>) {
        let is_late = self.mood().sabotage == Some(Sabotage::LaterId) && self.members.len() == 1;
        let wanted: Vec<Wanted> = self
            .members
            .iter()
            .map(|member| {
                let stream = &STREAMS[member.stream];
                let mut resume = member.log.lock().last_id.clone();
                if is_late && resume.is_some() {
                    resume = self.setup.newest.lock().clone().max(resume);
                }
                Wanted {
                    alias: member.alias.clone(),
                    stream: stream.name,
                    owner: stream.has_owner.then_some(member.owner),
                    resume,
                }
            })
            .collect();
        let id = match self.has_shared_id {
            true => self.shared_id.clone(),
            false => wanted.first().and_then(|wanted| wanted.resume.clone()),
        };
        (wanted, id)
    }

    /// One connection; says why it ended.
    async fn listen(&mut self, sidecar: usize) -> String {
        let Some(address) = self.setup.sidecars.get(sidecar).copied() else {
            return "no such sidecar".to_string();
        };
        let (wanted, id) = self.wanted();
        let opened = wire::open(self.transport, address, &wanted, id.as_deref());
        let wire = match tokio::time::timeout(SILENCE, opened).await {
            Ok(Ok(wire)) => wire,
            Ok(Err(opening)) => return self.not_opened(opening),
            Err(_) => return "no answer".to_string(),
        };
        for (member, wanted) in self.members.iter_mut().zip(wanted) {
            member.note(Record::Opened { sidecar, last_id: wanted.resume });
            member.is_after_reconnect = true;
        }
        self.read(wire).await
    }

    fn not_opened(&self, opening: Opening) -> String {
        let (status, said) = match opening {
            Opening::Failed(why) => return why,
            Opening::Refused(status, said) => (status, said),
        };
        // Trouble that will pass is told as a stream to those alone who take everything else for final.
        if self.transport != Transport::Sse && matches!(status, 429 | 503) {
            return "told to come later".to_string();
        }
        let is_named = |member: &Member| said.contains(&format!("stream `{}`", member.alias));
        for member in self.members.iter().filter(|it| self.members.len() == 1 || is_named(it)) {
            member.note(Record::Refused(status));
        }
        REFUSED.to_string()
    }

    async fn read(&mut self, mut wire: Wire) -> String {
        let temper = self.temper();
        let stays = match temper {
            Temper::Steady => Duration::MAX,
            Temper::Restless => Duration::from_millis(self.rng.u64(200..4_000)),
            Temper::Sleeper => Duration::from_millis(self.rng.u64(500..3_000)),
        };
        let opened = Instant::now();
        let silence = if temper == Temper::Steady { LONG_SILENCE } else { SILENCE };
        let mut mood = self.setup.mood.clone();
        wire.digest();
        loop {
            while let Some(told) = wire.told() {
                if let Some(why) = self.take(told) {
                    return why;
                }
            }
            self.retry = wire.retry.unwrap_or(self.retry);
            if opened.elapsed() > stays && !self.mood().is_calm {
                return "left".to_string();
            }
            if self.mood().is_slow && self.setup.index.is_multiple_of(3) {
                // The sender goes with the process.
                let _ = mood.wait_for(|mood| !mood.is_slow).await;
            }
            let wait = silence.min(stays.max(Duration::from_millis(50)));
            match tokio::time::timeout(wait, wire.more()).await {
                Ok(Ok(())) => {}
                Ok(Err(opening)) => return self.not_opened(opening),
                Err(_) if wait < silence => {}
                Err(_) => return "silence".to_string(),
            }
        }
    }

    /// Notes what a client is told; returns why it leaves, if it does.
    fn take(&mut self, told: Told) -> Option<String> {
        if told.event.as_deref() == Some("refused") {
            let status = told.data["status"].as_u64().and_then(|it| u16::try_from(it).ok());
            let said = format!("stream `{}`", told.alias.unwrap_or_default());
            return Some(self.not_opened(Opening::Refused(status.unwrap_or(0), said)));
        }
        let sabotage = self.mood().sabotage;
        let alias = told.alias.as_deref();
        let is_meant = |member: &Member| alias.is_none_or(|alias| alias == member.alias);
        let mut id = told.id;
        if let Some(shared) = id.take_if(|_| self.has_shared_id) {
            let Ok(bookmark) = Bookmark::parse(&shared, &Ids::Token) else {
                return Some(format!("an id that cannot be read: {shared}"));
            };
            self.shared_id = Some(shared);
            for member in &mut self.members {
                let Some(place) = bookmark.get(&member.alias) else { continue };
                let place = place.as_str().to_string();
                if is_meant(member) && alias.is_some() {
                    id = Some(place);
                } else if member.reach(&place) {
                    member.take(Record::Position(place), sabotage);
                }
            }
        }
        // A position of several streams is noted already, and a sign of life says nothing.
        let member = match (alias, self.members.as_mut_slice()) {
            (None, [one]) => one,
            (None, _) => return None,
            (Some(_), members) => members.iter_mut().find(|member| is_meant(member))?,
        };
        if let (Some(id), 1) = (&id, self.setup.streams.len()) {
            let mut newest = self.setup.newest.lock();
            if newest.as_ref().is_none_or(|newest| id > newest) {
                *newest = Some(id.clone());
            }
        }
        let json = &told.data;
        let reason = || json["reason"].as_str().unwrap_or_default().to_string();
        let reached = id.clone();
        match told.event.as_deref() {
            None | Some("ready") => {
                if let Some(id) = id {
                    member.take(Record::Position(id), sabotage);
                }
            }
            Some("reset") => member.take(Record::Reset { id, reason: reason() }, sabotage),
            Some("snapshot") => member.begin_snapshot(reason()),
            Some("document") => member.note(document(json)),
            Some("end") => {
                member.take(Record::End(reason()), sabotage);
                return Some("told to".to_string());
            }
            Some(name) => {
                let event = event(id.unwrap_or_default(), name, json);
                member.take(Record::Event(event), sabotage);
            }
        }
        // Only now, so that whoever sees it there sees all of it.
        if let Some(id) = &reached {
            member.reach(id);
        }
        None
    }
}
