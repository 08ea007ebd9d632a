//! Everything that can break: a replica set of three real servers, each behind a relay, and several
//! Sidestream processes, each behind another.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::TryStreamExt;
use mongodb::Client;
use mongodb::bson::{Bson, Document, Timestamp, doc};
use mongodb::error::Error;
use mongodb::options::ReadConcern;
use rustix::process::Signal;

use crate::history::{Documents, Key};
use crate::memory;
use crate::relay::{Governs, Mode, Relay};
use crate::streams::{COLLECTIONS, DATABASE, OWNERS, STREAMS};
use crate::support::mongo::{Own, Setup};
use crate::support::sidecar::{Filters, Program, metric, nowhere};
use crate::support::{http, until};
use crate::writers;

/// In the `appName` of every sidecar; its number follows.
pub const APP: &str = "torture-sidecar";
pub const MEMBERS: usize = 3;

/// The replica set, the sidecars, and the relays in front of them.
pub struct Cluster {
    pub own: Own,
    /// Between everybody and a member of the set; only the sidecars suffer from it.
    pub members: Vec<Relay>,
    /// Between the clients and a sidecar.
    pub fronts: Vec<Relay>,
    pub sidecars: Vec<Option<Program>>,
    pub filters: Filters,
    pub client: Client,
    pub is_down: [bool; MEMBERS],
    pub is_frozen: [bool; MEMBERS],
    pub memory: memory::Watch,
    /// All of them together.
    clients: usize,
    /// What sidecars said that are no more.
    pub logs: Vec<String>,
}

impl Cluster {
    pub async fn start(sidecars: usize, clients: usize) -> Cluster {
        let setup = Setup { members: MEMBERS, is_initiated: false, ..Setup::default() };
        let mut own = Own::start(setup).await;
        let mut members = Vec::new();
        for index in 0..MEMBERS {
            let target: SocketAddr = own.host(index).parse().expect("an address");
            members.push(Relay::start(target, Governs::App(APP)).await);
        }
        own.advertise(members.iter().map(|relay| relay.address.to_string()).collect());
        own.initiate().await;
        // A change stream that the driver resumes may lose its place in a read that is tried again.
        let options =
            "w=majority&readConcernLevel=majority&serverSelectionTimeoutMS=4000&retryReads=false";
        let client = Client::with_uri_str(format!("{}&{options}", own.uri())).await;
        let mut cluster = Cluster {
            own,
            members,
            fronts: Vec::new(),
            sidecars: Vec::new(),
            filters: Filters::new(&STREAMS.map(|stream| (stream.name, stream.text))),
            client: client.expect("a client"),
            is_down: [false; MEMBERS],
            is_frozen: [false; MEMBERS],
            memory: memory::Watch::start(),
            clients,
            logs: Vec::new(),
        };
        cluster.await_members().await;
        for (database, name) in COLLECTIONS {
            let images = doc! { "enabled": true };
            let create = match name {
                "images" => doc! { "create": name, "changeStreamPreAndPostImages": images },
                _ => doc! { "create": name },
            };
            cluster.client.database(database).run_command(create).await.expect("a collection");
        }
        for index in 0..sidecars {
            cluster.fronts.push(Relay::start(nowhere(), Governs::All).await);
            cluster.sidecars.push(None);
            cluster.start_sidecar(index).await;
        }
        cluster.await_sidecars().await;
        cluster
    }

    /// Starts the program, or starts it again; waits until it listens.
    pub async fn start_sidecar(&mut self, index: usize) {
        // One remembers little, so that resuming is mostly the oplog's business. Another remembers
        // much, and reads from a secondary, so that the two are never equally far.
        let (window, kib, preference) = match index {
            0 => ("1s", 64, "primary"),
            _ => ("30s", 8 * 1024, "secondaryPreferred"),
        };
        let bytes = format!("{kib}KiB");
        let options = format!("appName={APP}-{index}&readPreference={preference}");
        let uri = format!("{}&{options}", self.own.uri());
        let filters = self.filters.path().display().to_string();
        let arguments = ["--app", "http://127.0.0.1:9", "--filters", &filters, "--mongodb", &uri];
        let env = [
            ("SIDESTREAM_CLIENTS__HEARTBEAT", "300ms"),
            ("SIDESTREAM_CLIENTS__MAX_BUFFERED", "4"),
            ("SIDESTREAM_DRAIN", "2s"),
            ("SIDESTREAM_REPLAY__WINDOW", window),
            ("SIDESTREAM_REPLAY__MAX_BYTES", &bytes),
        ];
        let program = Program::start(&arguments, &env).await;
        // Any of the clients may come to any of the sidecars.
        let allowed = memory::allowed(kib * 1024, self.clients as u64);
        self.memory.begin(index, program.id(), allowed);
        self.fronts[index].point_at(program.listen);
        self.sidecars[index] = Some(program);
    }

    pub fn kill_sidecar(&mut self, index: usize) {
        if let Some(program) = self.sidecars[index].take() {
            self.logs.push(program.log());
            program.signal(Signal::KILL);
        }
    }

    /// Lets it say goodbye, starts it again, and waits until it is ready.
    pub async fn restart_sidecar(&mut self, index: usize) {
        if let Some(mut program) = self.sidecars[index].take() {
            program.signal(Signal::TERM);
            program.ended().await;
            self.logs.push(program.log());
        }
        self.start_sidecar(index).await;
        self.await_sidecars().await;
    }

    pub fn signal_sidecar(&self, index: usize, signal: Signal) {
        if let Some(program) = &self.sidecars[index] {
            program.signal(signal);
        }
    }

    pub fn kill(&mut self, index: usize) {
        self.own.kill(index);
        self.is_down[index] = true;
    }

    pub fn restart(&mut self, index: usize) {
        self.own.restart(index);
        self.is_down[index] = false;
    }

    pub fn freeze(&mut self, index: usize) {
        self.own.freeze(index);
        self.is_frozen[index] = true;
    }

    pub fn thaw(&mut self, index: usize) {
        self.own.thaw(index);
        self.is_frozen[index] = false;
    }

    /// The member that takes writes, as soon as there is one.
    pub async fn primary(&self) -> usize {
        loop {
            for index in 0..MEMBERS {
                if self.is_down[index] || self.is_frozen[index] {
                    continue;
                }
                let hello = self.ask(index, doc! { "hello": 1 }).await;
                if hello.is_ok_and(|it| it.get_bool("isWritablePrimary").unwrap_or(false)) {
                    return index;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Runs a command on one member, whatever it is at present.
    pub async fn ask(&self, index: usize, command: Document) -> Result<Document, Error> {
        let client = self.own.direct(index).await;
        let asked = async { client.database("admin").run_command(command).await };
        let answer = tokio::time::timeout(Duration::from_secs(5), asked).await;
        client.shutdown().immediate(true).await;
        answer.unwrap_or_else(|_| Err(Error::custom("no answer")))
    }

    /// Makes commands of the sidecars' change streams fail, on every member.
    pub async fn fail(&self, sidecar: usize, commands: &[&str], mode: Bson, code: i32) {
        let data = doc! {
            "failCommands": commands, "errorCode": code, "appName": format!("{APP}-{sidecar}"),
        };
        let point = doc! { "configureFailPoint": "failCommand", "mode": mode, "data": data };
        for index in 0..MEMBERS {
            if let Err(error) = self.ask(index, point.clone()).await {
                eprintln!("member {index} has no failpoint: {error}");
            }
        }
    }

    pub async fn stop_failing(&self) {
        for index in 0..MEMBERS {
            let point = doc! { "configureFailPoint": "failCommand", "mode": "off" };
            if let Err(error) = self.ask(index, point).await {
                eprintln!("member {index} keeps its failpoint: {error}");
            }
        }
    }

    /// Ends every fault, and waits until all are well: a primary with both its secondaries, and
    /// every sidecar ready.
    pub async fn heal(&mut self) {
        for relay in self.members.iter().chain(&self.fronts) {
            relay.refuse(false);
            relay.set(Mode::Pass);
        }
        for index in 0..MEMBERS {
            if self.is_frozen[index] {
                self.thaw(index);
            }
            if self.is_down[index] {
                self.restart(index);
            }
        }
        for index in 0..self.sidecars.len() {
            if self.sidecars[index].is_none() {
                self.start_sidecar(index).await;
            }
            self.signal_sidecar(index, Signal::CONT);
        }
        self.await_members().await;
        self.await_sidecars().await;
    }

    async fn await_sidecars(&self) {
        for program in self.sidecars.iter().flatten() {
            until("the sidecar is ready", || async {
                http::get(program.admin, "/readyz").await.head.status == 200
            })
            .await;
        }
    }

    async fn await_members(&self) {
        until("all members are well", || async {
            let primary = self.primary().await;
            let Ok(status) = self.ask(primary, doc! { "replSetGetStatus": 1 }).await else {
                return false;
            };
            let members = status.get_array("members").cloned().unwrap_or_default();
            members
                .iter()
                .filter_map(Bson::as_document)
                .all(|member| matches!(member.get_str("stateStr"), Ok("PRIMARY" | "SECONDARY")))
        })
        .await;
    }

    /// Writes what every client has to see before a phase is over: a document for each value of
    /// the parameter in each collection, and then one that comes last.
    pub async fn mark(&self, phase: usize) -> Result<(), String> {
        for (database, name) in COLLECTIONS {
            for owner in 0..OWNERS {
                self.insert(database, name, "marker", phase, owner).await?;
            }
        }
        self.insert(DATABASE, "orders", "last", phase, 0).await
    }

    async fn insert(
        &self,
        database: &str,
        name: &str,
        writer: &str,
        phase: usize,
        owner: i64,
    ) -> Result<(), String> {
        let key = Key { writer: writer.to_string(), number: phase as i64, owner };
        let collection = self.client.database(database).collection::<Document>(name);
        let mut error = String::new();
        for _ in 0..20 {
            match collection.insert_one(writers::document(&key, 0, 8)).await {
                Ok(_) => return Ok(()),
                Err(failed) if failed.to_string().contains("E11000") => return Ok(()),
                Err(failed) => error = failed.to_string(),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Err(format!("the marker cannot be written: {error}"))
    }

    /// The documents that are there, of one value of the parameter or of all.
    pub async fn documents(
        &self,
        database: &str,
        name: &str,
        owner: Option<i64>,
    ) -> Result<Documents, Error> {
        let query = owner.map_or_else(|| doc! {}, |owner| doc! { "owner": owner });
        let collection = self.client.database(database).collection::<Document>(name);
        let mut found = collection.find(query).projection(doc! { "payload": 0 }).await?;
        let mut documents = Documents::new();
        while let Some(document) = found.try_next().await? {
            let whole = |document: &Document, name: &str| match document.get(name) {
                Some(Bson::Int32(number)) => i64::from(*number),
                Some(Bson::Int64(number)) => *number,
                other => unreachable!("the writers write whole numbers, not {other:?}"),
            };
            let id = document.get_document("_id").expect("the writers' key");
            let writer = id.get_str("w").expect("the writer's name").to_string();
            let key = Key { writer, number: whole(id, "n"), owner: whole(id, "owner") };
            documents.insert(key, whole(&document, "seq"));
        }
        Ok(documents)
    }

    /// The time of the newest write that a majority has.
    pub async fn now(&self) -> Timestamp {
        let primary = self.primary().await;
        let hello = self.ask(primary, doc! { "hello": 1 }).await.expect("a primary");
        hello.get_timestamp("operationTime").expect("its time")
    }

    /// The oldest time in the primary's oplog.
    pub async fn oldest(&self) -> Option<Timestamp> {
        let oplog = self.client.database("local").collection::<Document>("oplog.rs");
        let first = oplog
            .find_one(doc! {})
            .read_concern(ReadConcern::local())
            .sort(doc! { "$natural": 1 })
            .await
            .ok()??;
        first.get_timestamp("ts").ok()
    }

    /// One metric of all sidecars together.
    pub async fn metric(&self, name: &str) -> f64 {
        let mut sum = 0.0;
        for program in self.sidecars.iter().flatten() {
            sum += metric(program.admin, name).await;
        }
        sum
    }

    /// Everything that the sidecars said.
    pub fn all_logs(&self) -> String {
        let now = self.sidecars.iter().flatten().map(Program::log);
        self.logs.iter().cloned().chain(now).collect::<Vec<_>>().join("\n---\n")
    }
}
