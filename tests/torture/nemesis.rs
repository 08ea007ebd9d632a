//! What breaks things: each fault alone, or mixed; seeded.
//!
//! A fault says which resets, refusals and ends it may cause, and for which streams. Everything
//! else that a client is told is a broken promise.

use std::time::{Duration, Instant};

use mongodb::bson::{Bson, Document, doc};
use rustix::process::Signal;
use tokio::sync::watch;

use crate::clients::Mood;
use crate::cluster::{Cluster, MEMBERS};
use crate::relay::Mode;
use crate::streams::{DATABASE, DOOMED, STREAMS};
use crate::support::until;
use crate::witness::Witness;
use crate::writers::Pace;

/// What the nemesis works on.
pub struct World<'a> {
    pub cluster: &'a mut Cluster,
    pub witness: &'a mut Witness,
    pub mood: &'a watch::Sender<Mood>,
    pub pace: &'a watch::Sender<Pace>,
    pub rng: &'a mut fastrand::Rng,
    pub ends_at: Instant,
    /// Makes edits of files differ.
    pub edits: &'a mut u64,
}

macro_rules! faults {
    ($($variant:ident $name:literal $about:literal)*) => {
        /// One way of breaking things.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Fault { $($variant,)* }

        impl Fault {
            pub const ALL: &[Fault] = &[$(Fault::$variant,)*];

            pub fn name(self) -> &'static str {
                match self { $(Fault::$variant => $name,)* }
            }

            pub fn about(self) -> &'static str {
                match self { $(Fault::$variant => $about,)* }
            }
        }
    };
}

faults! {
    None "none" "nothing breaks; clients come and go"
    KillSidestream "kill9-sidestream" "kill -9 a sidecar, start it again"
    RollingRestart "rolling-restart" "SIGTERM one sidecar after the other, start it again"
    StopSidestream "stop-sidestream" "SIGSTOP a sidecar for longer than the driver waits"
    StepDown "stepdown" "the primary steps down"
    KillPrimary "kill9-primary" "kill -9 the primary, start it again"
    FreezePrimary "freeze-primary" "SIGSTOP the primary"
    FreezeSecondary "freeze-secondary" "SIGSTOP a secondary"
    LoseMajority "lose-majority" "one member down and one frozen: no majority"
    CutClients "cut-clients" "cut and delay the sockets between clients and sidecars"
    CutMongodb "cut-mongodb" "cut and delay the sockets between sidecars and MongoDB"
    StallMongodb "stall-mongodb" "sockets to MongoDB stall, or are lost without a word"
    EditFilters "edit-filters" "edit, break, remove and add filter files"
    DropCollection "drop-collection" "drop, rename and create a collection"
    DropDatabase "drop-database" "drop a database"
    SlowClients "slow-clients" "a third of the clients reads nothing, under heavy writes"
    ShortOplog "short-oplog" "sidecars are cut off until their place is off the oplog"
    FailResumable "fail-resumable" "getMore and aggregate fail with what passes"
    FailFatal "fail-fatal" "getMore and aggregate fail with 280 and 286"
    Mixed "mixed" "several of them, one upon the other"
}

impl Fault {
    pub fn parse(name: &str) -> Option<Fault> {
        Fault::ALL.iter().copied().find(|fault| fault.name() == name)
    }

    /// Whether a client of this stream may be told this. A reset for a dropped collection is
    /// checked by the history instead.
    pub fn may_reset(self, stream: &str, reason: &str) -> bool {
        match self {
            // `victims`: its file was back before the stream was told that it had gone.
            Fault::EditFilters => {
                matches!(stream, "orders" | "victims") && reason == "filter-changed"
            }
            Fault::ShortOplog => reason == "history-lost",
            Fault::FailFatal => matches!(reason, "history-lost" | "invalid-token"),
            _ => false,
        }
    }

    /// Whether a new stream may be refused with this status.
    pub fn may_refuse(self, stream: &str, status: u16) -> bool {
        match self {
            Fault::EditFilters => stream == "victims" && status == 404,
            _ => false,
        }
    }

    pub fn may_end(self, stream: &str) -> bool {
        self == Fault::EditFilters && stream == "victims"
    }

    /// Breaks things until the time is over. What is still broken then, [`Cluster::heal`] heals.
    pub async fn run(self, world: &mut World<'_>) {
        match self {
            Fault::Mixed => world.mixed().await,
            fault => fault.alone(world).await,
        }
    }

    async fn alone(self, world: &mut World<'_>) {
        match self {
            Fault::None | Fault::Mixed => world.rest().await,
            Fault::KillSidestream => world.kill_sidestream().await,
            Fault::RollingRestart => world.rolling_restart().await,
            Fault::StopSidestream => world.stop_sidestream().await,
            Fault::StepDown => world.step_down().await,
            Fault::KillPrimary => world.kill_primary().await,
            Fault::FreezePrimary => world.freeze(true).await,
            Fault::FreezeSecondary => world.freeze(false).await,
            Fault::LoseMajority => world.lose_majority().await,
            Fault::CutClients => world.cut_clients().await,
            Fault::CutMongodb => world.cut_mongodb().await,
            Fault::StallMongodb => world.stall_mongodb().await,
            Fault::EditFilters => world.edit_filters().await,
            Fault::DropCollection => world.drop_collection().await,
            Fault::DropDatabase => world.drop_database().await,
            Fault::SlowClients => world.slow_clients().await,
            Fault::ShortOplog => world.short_oplog().await,
            Fault::FailResumable => world.fail(&[43, 91, 10107, 11600, 13388, 8], 2).await,
            Fault::FailFatal => world.fail(&[280, 286], 1).await,
        }
    }
}

impl World<'_> {
    fn is_over(&self) -> bool {
        Instant::now() >= self.ends_at
    }

    fn left(&self) -> Duration {
        self.ends_at.saturating_duration_since(Instant::now())
    }

    async fn rest(&self) {
        tokio::time::sleep(self.left()).await;
    }

    /// The pace of the fault: a pause of its kind, cut short at the end of the phase.
    async fn pause(&mut self, from: f64, to: f64) {
        let pause = Duration::from_secs_f64(from + self.rng.f64() * (to - from));
        tokio::time::sleep(pause.min(self.left())).await;
    }

    /// A part of what is left, at most so long.
    fn part(&self, part: f64, most: u64) -> f64 {
        self.left().mul_f64(part).min(Duration::from_secs(most)).as_secs_f64()
    }

    fn sidecar(&mut self) -> usize {
        self.rng.usize(..self.cluster.sidecars.len())
    }

    async fn kill_sidestream(&mut self) {
        while !self.is_over() {
            let index = self.sidecar();
            self.cluster.kill_sidecar(index);
            self.pause(0.0, 0.7).await;
            self.cluster.start_sidecar(index).await;
            self.pause(0.3, 3.0).await;
        }
    }

    /// As a deployment does it: the next one only when the last one is ready again.
    async fn rolling_restart(&mut self) {
        while !self.is_over() {
            for index in 0..self.cluster.sidecars.len() {
                self.cluster.restart_sidecar(index).await;
                self.pause(0.3, 1.5).await;
            }
        }
    }

    async fn stop_sidestream(&mut self) {
        while !self.is_over() {
            let index = self.sidecar();
            self.cluster.signal_sidecar(index, Signal::STOP);
            let time = self.part(0.7, 25);
            self.pause(time * 0.7, time).await;
            self.cluster.signal_sidecar(index, Signal::CONT);
            self.pause(0.5, 3.0).await;
        }
    }

    async fn step_down(&mut self) {
        while !self.is_over() {
            let primary = self.cluster.primary().await;
            let command = doc! {
                "replSetStepDown": 5, "secondaryCatchUpPeriodSecs": 2, "force": self.rng.bool(),
            };
            if let Err(error) = self.cluster.ask(primary, command).await {
                eprintln!("no step-down this time: {error}");
            }
            self.pause(2.0, 5.0).await;
        }
    }

    async fn kill_primary(&mut self) {
        while !self.is_over() {
            let primary = self.cluster.primary().await;
            self.cluster.kill(primary);
            let time = self.part(0.5, 8);
            self.pause(time * 0.3, time).await;
            self.cluster.restart(primary);
            self.pause(2.0, 6.0).await;
        }
    }

    async fn freeze(&mut self, is_primary: bool) {
        while !self.is_over() {
            let primary = self.cluster.primary().await;
            let other = (primary + self.rng.usize(1..MEMBERS)) % MEMBERS;
            let index = if is_primary { primary } else { other };
            self.cluster.freeze(index);
            let time = self.part(0.7, 25);
            self.pause(time * 0.6, time).await;
            self.cluster.thaw(index);
            self.pause(0.5, 3.0).await;
        }
    }

    async fn lose_majority(&mut self) {
        while !self.is_over() {
            let primary = self.cluster.primary().await;
            let (down, frozen) = ((primary + 1) % MEMBERS, (primary + 2) % MEMBERS);
            self.cluster.kill(down);
            self.pause(0.2, 0.5).await;
            self.cluster.freeze(frozen);
            let time = self.part(0.7, 20);
            self.pause(time * 0.6, time).await;
            match self.rng.bool() {
                true => self.cluster.thaw(frozen),
                false => self.cluster.restart(down),
            }
            self.pause(0.5, 3.0).await;
            if self.cluster.is_frozen[frozen] {
                self.cluster.thaw(frozen);
            }
            if self.cluster.is_down[down] {
                self.cluster.restart(down);
            }
        }
    }

    async fn cut_clients(&mut self) {
        while !self.is_over() {
            let index = self.sidecar();
            let delay = Duration::from_millis(self.rng.u64(5..150));
            let front = &self.cluster.fronts[index];
            match self.rng.u8(..4) {
                0 => front.set(Mode::Delay(delay)),
                1 => front.set(Mode::Stall),
                2 => front.set(Mode::Pass),
                _ => front.cut(),
            }
            self.pause(0.1, 1.0).await;
        }
    }

    async fn cut_mongodb(&mut self) {
        while !self.is_over() {
            let index = self.rng.usize(..MEMBERS);
            let (is_all, refuses) = (self.rng.bool(), self.rng.u8(..3) == 0);
            let mode = match self.rng.bool() {
                true => Mode::Delay(Duration::from_millis(self.rng.u64(5..150))),
                false => Mode::Pass,
            };
            for (number, relay) in self.cluster.members.iter().enumerate() {
                if is_all || number == index {
                    relay.set(mode);
                    relay.refuse(refuses);
                    relay.cut();
                }
            }
            self.pause(0.2, 2.0).await;
            self.cluster.members.iter().for_each(|relay| relay.refuse(false));
            self.pause(0.2, 1.0).await;
        }
    }

    async fn stall_mongodb(&mut self) {
        while !self.is_over() {
            let mode = if self.rng.bool() { Mode::Stall } else { Mode::Lose };
            self.cluster.members.iter().for_each(|relay| relay.set(mode));
            let time = self.part(0.7, 25);
            self.pause(time * 0.6, time).await;
            self.cluster.members.iter().for_each(|relay| relay.set(Mode::Pass));
            self.pause(0.5, 3.0).await;
        }
    }

    async fn edit_filters(&mut self) {
        let text = |name: &str| STREAMS.iter().find(|it| it.name == name).expect("a stream").text;
        // Means something else each time, and shows the same: no document has such a field.
        let edited = |edit: u64| {
            format!("{}description: edit {edit}\nproject: {{ edit_{edit}: 0 }}\n", text("orders"))
        };
        while !self.is_over() {
            let filters = &self.cluster.filters;
            *self.edits += 1;
            filters.write("orders", &edited(*self.edits));
            filters.write("rooms", "collection: torture.rooms\nmatch: { owner: [ }\n");
            let late = format!("collection: torture.late_{}\naccess: public\n", self.edits);
            filters.write(&format!("late_{}", self.edits), &late);
            if self.rng.bool() {
                filters.remove("victims");
            }
            self.pause(0.2, 1.0).await;
            let filters = &self.cluster.filters;
            filters.write("victims", text("victims"));
            filters.write("rooms", text("rooms"));
            filters.remove(&format!("late_{}", self.edits));
            self.pause(0.2, 1.0).await;
        }
        *self.edits += 1;
        let last = format!("edit {}", self.edits);
        self.cluster.filters.write("orders", &edited(*self.edits));
        for program in self.cluster.sidecars.iter().flatten() {
            until("the last edit is in force", || async {
                let listed = crate::support::http::get(program.listen, "/_events").await.text();
                listed.contains(&last) && listed.contains("victims")
            })
            .await;
        }
    }

    async fn drop_collection(&mut self) {
        let database = self.cluster.client.database(DATABASE);
        let admin = self.cluster.client.database("admin");
        while !self.is_over() {
            let done = match self.rng.u8(..3) {
                0 => database.collection::<Document>("victims").drop().await,
                1 => {
                    let rename = doc! {
                        "renameCollection": "torture.victims", "to": "torture.victims_old",
                        "dropTarget": true,
                    };
                    admin.run_command(rename).await.map(drop)
                }
                _ => database.create_collection("victims").await,
            };
            // Gone already, or here already: the writers make it too.
            drop(done);
            self.pause(0.05, 0.8).await;
        }
    }

    async fn drop_database(&mut self) {
        while !self.is_over() {
            // Tried again in the next round.
            let _ = self.cluster.client.database(DOOMED).drop().await;
            self.pause(0.2, 1.5).await;
        }
    }

    async fn slow_clients(&mut self) {
        let pace = *self.pace.borrow();
        self.pace.send_replace(Pace { pause: pace.pause / 4, payload: 4096 });
        while !self.is_over() {
            self.mood.send_modify(|mood| mood.is_slow = true);
            let time = self.part(0.8, 10);
            self.pause(time * 0.6, time).await;
            self.mood.send_modify(|mood| mood.is_slow = false);
            self.pause(0.5, 1.5).await;
        }
        self.pace.send_replace(pace);
    }

    /// The oplog rolls by its size, so this one ends when it has, not by the clock.
    async fn short_oplog(&mut self) {
        let cut_at = self.cluster.now().await;
        for relay in &self.cluster.members {
            relay.refuse(true);
            relay.cut();
        }
        let junk = self.cluster.client.database("filler").collection::<Document>("junk");
        let began = Instant::now();
        loop {
            // The driver's default of 16 MB bounds a document.
            let filler = doc! { "bytes": "z".repeat(6 << 20) };
            let _ = junk.insert_one(filler).await;
            if let Err(error) = self.witness.read_along().await {
                eprintln!("the history is not read along: {error}");
            }
            let oldest = self.cluster.oldest().await;
            let is_off = oldest.is_some_and(|oldest| oldest > cut_at);
            if is_off || began.elapsed() > Duration::from_secs(120) {
                break;
            }
        }
        let _ = junk.drop().await;
        self.rest().await;
    }

    async fn fail(&mut self, codes: &[i32], most: i32) {
        while !self.is_over() {
            let code = self.rng.choice(codes).copied().unwrap_or(43);
            let index = self.sidecar();
            let commands: &[&str] = match self.rng.u8(..3) {
                0 => &["getMore"],
                1 => &["aggregate"],
                _ => &["getMore", "aggregate"],
            };
            let times = self.rng.i32(1..=most);
            let mode = Bson::Document(doc! { "times": times });
            self.cluster.fail(index, commands, mode, code).await;
            // So that there are aggregates to fail.
            if self.rng.bool() {
                self.cluster.fronts[index].cut();
            }
            self.pause(0.3, 1.5).await;
        }
        self.cluster.stop_failing().await;
    }

    async fn mixed(&mut self) {
        const PARTS: [Fault; 11] = [
            Fault::KillSidestream,
            Fault::RollingRestart,
            Fault::StopSidestream,
            Fault::StepDown,
            Fault::KillPrimary,
            Fault::FreezeSecondary,
            Fault::CutClients,
            Fault::CutMongodb,
            Fault::DropCollection,
            Fault::SlowClients,
            Fault::FailResumable,
        ];
        let ends_at = self.ends_at;
        while Instant::now() < ends_at {
            let fault = self.rng.choice(PARTS).unwrap_or(Fault::StepDown);
            if self.rng.bool() {
                let delay = Duration::from_millis(self.rng.u64(1..40));
                self.cluster.fronts.iter().for_each(|front| front.set(Mode::Delay(delay)));
                self.cluster.members.iter().for_each(|member| member.set(Mode::Delay(delay)));
            }
            let time = Duration::from_secs_f64(2.0 + self.rng.f64() * 3.0);
            self.ends_at = ends_at.min(Instant::now() + time);
            Box::pin(fault.alone(self)).await;
            self.ends_at = ends_at;
            for index in 0..MEMBERS {
                if self.cluster.is_down[index] {
                    self.cluster.restart(index);
                }
            }
        }
    }
}
