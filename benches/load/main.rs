//! Fast and small, beside the rivals: the product under load, with what it is compared to measured
//! in the same run on the same machine.
//!
//!     make bench                                       everything, and writes benches/results
//!     make bench-smoke                                 a hundredth of it: judges counts, not times
//!     scripts/cargo bench --bench load -- fanout idle  only these groups
//!
//! Options: `--smoke`; `--sidestream PATH`, the product's binary (by default the one that cargo
//! built beside this); `--out DIR`, where the results are written; `--scale N`, so many times fewer
//! clients and events.
//!
//! Times differ from machine to machine and from minute to minute. Every row that is judged is a
//! ratio, or a difference, of two measurements of this run; what is measured in several rounds takes
//! turns, and the row says how far apart the rounds were.

mod app;
mod bulk;
mod console;
mod crowd;
mod cursors;
mod fanout;
mod holders;
mod hostile;
mod idle;
mod latency;
mod mongo;
#[path = "../../tests/suite/support/mongod.rs"]
mod mongod;
mod process;
mod proxy;
mod report;
mod requests;
mod rivals;
mod rollout;
mod secure;
mod servers;
mod sidecar;
mod snapshots;
mod transports;
mod webhook;
mod websocket;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use report::Report;

// As the product: what it is compared with in this process must not suffer from its allocator.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The groups, in the order in which they are run.
const GROUPS: [&str; 13] = [
    "idle",
    "console",
    "fanout",
    "routing",
    "transports",
    "latency",
    "proxy",
    "mongodb",
    "snapshots",
    "secure",
    "hostile",
    "rollout",
    "webhook",
];

/// What a group of rows needs.
pub struct Bench {
    pub runtime: tokio::runtime::Runtime,
    pub dir: tempfile::TempDir,
    pub mongo: mongo::Mongo,
    pub sidestream: PathBuf,
    pub report: Report,
    pub is_smoke: bool,
    scale: usize,
    max_clients: usize,
}

impl Bench {
    /// A number of clients or events, made smaller where the run is to be short.
    pub fn scaled(&self, full: usize) -> usize {
        (full / self.scale).clamp(1, self.max_clients.max(1))
    }

    /// The same for what is no number of clients.
    pub fn events(&self, full: u64) -> u64 {
        (full / self.scale as u64).max(1)
    }

    pub fn start(&self, how: &sidecar::How<'_>) -> sidecar::Sidecar {
        sidecar::Sidecar::start(&self.sidestream, self.dir.path(), &self.mongo.uri, how)
    }

    /// How often what takes long is measured.
    pub fn rounds(&self) -> usize {
        if self.is_smoke { 1 } else { 2 }
    }

    /// Allocators and kernels settle a little after a burst.
    pub fn settle(&self) -> Duration {
        Duration::from_millis(if self.is_smoke { 200 } else { 2_000 })
    }

    /// What has to hold on every machine: who counts wrong ends the run.
    pub fn insist(&self, holds: bool, what: &str) {
        assert!(holds, "wrong: {what}");
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if servers::serve(&arguments).is_some() {
        return;
    }
    let mut groups: Vec<String> = Vec::new();
    let mut is_smoke = false;
    let mut sidestream = PathBuf::from(env!("CARGO_BIN_EXE_sidestream"));
    let mut out = None;
    let mut scale = None;
    let mut rest = arguments.into_iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().unwrap_or_else(|| panic!("{argument} needs a value"));
        match argument.as_str() {
            // What cargo adds.
            "--bench" => {}
            "--smoke" => is_smoke = true,
            "--sidestream" => sidestream = PathBuf::from(value()),
            "--out" => out = Some(PathBuf::from(value())),
            "--scale" => scale = value().parse().ok(),
            name if GROUPS.contains(&name) => groups.push(name.to_owned()),
            other => panic!("unknown argument {other}; groups are {}", GROUPS.join(", ")),
        }
    }
    let descriptors = process::raise_descriptors();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let dir = tempfile::tempdir().expect("a directory");
    let mongo = runtime.block_on(mongo::Mongo::start(dir.path()));
    let mut bench = Bench {
        runtime,
        dir,
        mongo,
        sidestream,
        report: Report { is_judged: !is_smoke, ..Report::default() },
        is_smoke,
        scale: scale.unwrap_or(if is_smoke { 100 } else { 1 }),
        // The product keeps one descriptor in twenty for other things, and so does the harness.
        max_clients: usize::try_from(descriptors - descriptors / 20).unwrap_or(usize::MAX),
    };
    let date = date();
    let mut failed = Vec::new();
    for group in GROUPS {
        if !groups.is_empty() && !groups.iter().any(|wanted| wanted == group) {
            continue;
        }
        println!("{group}");
        let began = Instant::now();
        // One group that fails takes nothing from those before it, nor the turn of those after it.
        if catch_unwind(AssertUnwindSafe(|| run(group, &mut bench))).is_err() {
            bench.report.absent(group, "FAILED in this run; its rows are those before that");
            failed.push(group);
        }
        let took = began.elapsed().as_secs_f64();
        println!("  ({group} took {took:.0} s)");
        bench.report.took.push((group.to_owned(), took));
        if let Some(out) = &out {
            // A run of some groups stands beside the last whole one, and does not replace it.
            let name = [&["load".to_owned()], &groups[..]].concat().join("-");
            bench.report.write(out, &name, &date, &machine());
        }
    }
    println!("\n{}", bench.report.markdown(&machine()));
    let Bench { runtime, mongo, report, .. } = bench;
    runtime.block_on(mongo.client.clone().shutdown().into_future());
    if report.missed() > 0 {
        println!("{} goals missed in this run", report.missed());
    }
    if !failed.is_empty() {
        eprintln!("failed: {}", failed.join(", "));
        std::process::exit(1);
    }
}

fn run(group: &str, bench: &mut Bench) {
    match group {
        "idle" => idle::run(bench),
        "console" => console::run(bench),
        "fanout" => fanout::run(bench),
        "routing" => fanout::to_one_each(bench),
        "transports" => transports::run(bench),
        "latency" => latency::run(bench),
        "proxy" => proxy::run(bench),
        "mongodb" => cursors::run(bench),
        "snapshots" => snapshots::run(bench),
        "secure" => secure::run(bench),
        "hostile" => hostile::run(bench),
        "webhook" => webhook::run(bench),
        _ => rollout::run(bench),
    }
}

pub fn now_micros() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

/// Today, as `2026-11-21`.
fn date() -> String {
    let date = mongodb::bson::DateTime::now().try_to_rfc3339_string().unwrap_or_default();
    date.split('T').next().unwrap_or_default().to_owned()
}

/// Cores and their kind, the system, and how busy it was: without that a figure says little.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("unknown", |(_, name)| name.trim());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let system = read("/etc/os-release");
    let system = system.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let system = system.unwrap_or("Linux").trim_matches('"').to_owned();
    let kernel = read("/proc/sys/kernel/osrelease");
    let kernel: Vec<&str> = kernel.split(['.', '-']).take(2).collect();
    let kernel = kernel.join(".");
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default().to_owned();
    let date = date();
    format!("{date}, {cores} cores of {model}, {system}, Linux {kernel}, load {load}")
}
