//! A rolling update without a cluster: two Sidestreams behind HAProxy, replaced one after the other
//! as Kubernetes does it (`sidestream drain`, SIGTERM, the next one), under pages that come back as
//! an EventSource does. Every page must be told every event once and in order, and none may be lost;
//! and they must not all come back at once.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mongodb::Collection;
use mongodb::bson::Document;
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::Bench;
use super::mongo;
use super::process::{Process, free_port, log_in, loopback};
use super::report::{Goal, Row};
use super::rivals;
use super::sidecar::{filters, get};

const CLIENTS: usize = 5_000;
/// Between two events.
const PERIOD: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(60);
/// HAProxy's checks are 200 ms apart: after this it has seen several.
const NOTICED: Duration = Duration::from_secs(1);

pub fn run(bench: &mut Bench) {
    let clients = bench.scaled(CLIENTS);
    let drain = Duration::from_secs(if bench.is_smoke { 2 } else { 10 });
    let spread = match rollout(bench, clients, drain) {
        Ok(spread) => spread,
        Err(why) => return bench.report.absent("rollout", &why),
    };
    let at_once = match rollout(bench, clients, Duration::ZERO) {
        Ok(at_once) => at_once,
        Err(why) => return bench.report.absent("rollout", &why),
    };
    bench.insist(spread.wrong == 0, "events lost, doubled or out of order in a rolling update");
    bench.insist(spread.behind == 0, "pages that did not get every event in a rolling update");
    bench.insist(spread.pages_lost == 0, "pages lost in a rolling update");
    bench.insist(spread.reconnects.len() >= clients, "the replicas were not replaced");
    let what = |about: &str| format!("rolling update of two replicas, {clients} pages: {about}");
    let row = |id: &str, about: &str, unit, ours: f64, theirs: f64| {
        Row::new(id, &what(about), unit, ours).beside("drain: 0s", theirs)
    };
    let events = |outcome: &Outcome| (outcome.wrong + outcome.behind) as f64;
    let rows = [
        row(
            "rollout-events",
            "events lost, doubled or late",
            "events",
            events(&spread),
            events(&at_once),
        )
        .goal(Goal::AtMost(0.0)),
        row(
            "rollout-pages",
            "pages that an answer ended for good",
            "pages",
            spread.pages_lost as f64,
            at_once.pages_lost as f64,
        )
        .goal(Goal::AtMost(0.0)),
        row(
            "rollout-peak",
            "most reconnects in a second",
            "1/s",
            spread.peak() as f64,
            at_once.peak() as f64,
        )
        .goal(Goal::AtMost(1.5 * clients as f64 / drain.as_secs_f64()))
        .note(format!("drain: {} s", drain.as_secs())),
    ];
    for row in rows {
        bench.report.add(row);
    }
}

/// What the pages saw.
struct Outcome {
    /// Events out of order: a number that is not the next one.
    wrong: u64,
    /// Pages that never got the last event.
    behind: u64,
    pages_lost: usize,
    /// When each page came back.
    reconnects: Vec<Instant>,
}

impl Outcome {
    /// The most within any second.
    fn peak(&self) -> usize {
        let mut times = self.reconnects.clone();
        times.sort();
        let window = Duration::from_secs(1);
        let within = |(first, at): (usize, &Instant)| {
            times[first..].iter().take_while(|time| **time - *at < window).count()
        };
        times.iter().enumerate().map(within).max().unwrap_or(0)
    }
}

struct Shared {
    /// The number of the last event that each page was told.
    told: Vec<AtomicU64>,
    wrong: AtomicU64,
    pages_lost: AtomicUsize,
    open: AtomicUsize,
    is_over: AtomicBool,
    reconnects: Mutex<Vec<Instant>>,
}

/// One replica, at addresses that outlive it.
struct Replica<'a> {
    program: &'a Path,
    dir: &'a Path,
    uri: &'a str,
    filters: PathBuf,
    drain: Duration,
    address: SocketAddr,
    admin: SocketAddr,
    process: Option<Process>,
}

impl Replica<'_> {
    fn start(&mut self) {
        let arguments = [
            "run".to_owned(),
            format!("--listen={}", self.address),
            format!("--admin={}", self.admin),
            format!("--filters={}", self.filters.display()),
            format!("--mongodb={}", self.uri),
        ];
        let drain = format!("{}s", self.drain.as_secs());
        let log = log_in(self.dir, &format!("sidestream-{}", self.address.port()));
        let env = [("SIDESTREAM_DRAIN", drain.as_str())];
        let process = Process::start(self.program, &arguments, &env, &log);
        let began = Instant::now();
        while get(self.admin, "/readyz").is_none_or(|(status, _)| status != 200) {
            assert!(began.elapsed() < PATIENCE, "it is not ready: {}", process.said());
            std::thread::sleep(Duration::from_millis(20));
        }
        self.process = Some(process);
    }

    /// As kubelet does it.
    fn replace(&mut self, wait: Duration) {
        let wait = format!("--for={}ms", wait.as_millis());
        let admin = format!("--admin={}", self.admin);
        let told = Command::new(self.program).args(["drain", &wait, &admin]).status();
        assert!(told.is_ok_and(|status| status.success()), "it is not told to drain");
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::TERM);
            let began = Instant::now();
            while !process.has_ended() {
                assert!(began.elapsed() < PATIENCE, "it does not end: {}", process.said());
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        self.start();
        std::thread::sleep(NOTICED);
    }
}

fn rollout(bench: &Bench, clients: usize, drain: Duration) -> Result<Outcome, String> {
    let dir = bench.dir.path();
    let replica = || Replica {
        program: &bench.sidestream,
        dir,
        uri: &bench.mongo.uri,
        filters: filters(dir),
        drain,
        address: loopback(free_port()),
        admin: loopback(free_port()),
        process: None,
    };
    let mut replicas = [replica(), replica()];
    replicas.iter_mut().for_each(Replica::start);
    let addresses = replicas.each_ref().map(|replica| (replica.address, replica.admin));
    let balancer = rivals::haproxy_before(dir, addresses)?;
    std::thread::sleep(NOTICED);

    let shared = Arc::new(Shared {
        told: (0..clients).map(|_| AtomicU64::new(0)).collect(),
        wrong: AtomicU64::new(0),
        pages_lost: AtomicUsize::new(0),
        open: AtomicUsize::new(0),
        is_over: AtomicBool::new(false),
        reconnects: Mutex::default(),
    });
    let pages: Vec<_> = (0..clients)
        .map(|page| bench.runtime.spawn(follow(page, balancer.address, shared.clone())))
        .collect();
    let began = Instant::now();
    while shared.open.load(Ordering::Acquire) < clients {
        if began.elapsed() > PATIENCE {
            return Err("the pages cannot all be opened".to_owned());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let writing = bench.runtime.spawn(write(bench.mongo.items(), shared.clone()));
    let wait = if bench.is_smoke { Duration::from_millis(500) } else { Duration::from_secs(5) };
    for replica in &mut replicas {
        replica.replace(wait);
    }
    shared.is_over.store(true, Ordering::Release);
    let last = bench.runtime.block_on(writing).map_err(|error| error.to_string())?;
    let behind = || shared.told.iter().filter(|told| told.load(Ordering::Acquire) < last).count();
    let began = Instant::now();
    while behind() > shared.pages_lost.load(Ordering::Acquire) && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(20));
    }
    let behind = behind() as u64;
    pages.iter().for_each(tokio::task::JoinHandle::abort);
    drop(balancer);
    let reconnects = shared.reconnects.lock().map(|times| times.clone()).unwrap_or_default();
    Ok(Outcome {
        wrong: shared.wrong.load(Ordering::Acquire),
        behind,
        pages_lost: shared.pages_lost.load(Ordering::Acquire),
        reconnects,
    })
}

/// Writes events with numbers from 1 on until it is over; returns the last one.
async fn write(items: Collection<Document>, shared: Arc<Shared>) -> u64 {
    let mut seq = 0;
    let mut ticks = tokio::time::interval(PERIOD);
    while !shared.is_over.load(Ordering::Acquire) {
        ticks.tick().await;
        seq += 1;
        items.insert_one(mongo::item(seq, 1, 100)).await.expect("it writes");
    }
    seq
}

/// A page: comes back after every end, with the id of its last event, and gives up for good on any
/// answer but 200.
async fn follow(page: usize, address: SocketAddr, shared: Arc<Shared>) {
    let mut state = Page { page, id: String::new(), retry: Duration::from_secs(2) };
    let mut was_open = false;
    loop {
        match state.read(address, &shared, &mut was_open).await {
            // As browsers do where nothing answers: the same wait.
            Ok(()) | Err(Ended::Cut) => tokio::time::sleep(state.retry).await,
            Err(Ended::ForGood) => {
                shared.pages_lost.fetch_add(1, Ordering::AcqRel);
                return;
            }
        }
    }
}

enum Ended {
    /// The connection failed or was cut.
    Cut,
    /// An answer that is final for an EventSource.
    ForGood,
}

struct Page {
    page: usize,
    id: String,
    retry: Duration,
}

impl Page {
    /// One connection, to its end.
    async fn read(
        &mut self,
        address: SocketAddr,
        shared: &Shared,
        was_open: &mut bool,
    ) -> Result<(), Ended> {
        let cut = |_| Ended::Cut;
        let mut socket = TcpStream::connect(address).await.map_err(cut)?;
        let resume = match self.id.as_str() {
            "" => String::new(),
            id => format!("Last-Event-ID: {id}\r\n"),
        };
        // HTTP/1.0: no chunks between the lines.
        let head = format!(
            "GET /_events/all HTTP/1.0\r\nHost: x\r\nAccept: text/event-stream\r\n{resume}\r\n"
        );
        socket.write_all(head.as_bytes()).await.map_err(cut)?;
        let mut lines = BufReader::with_capacity(1024, socket).lines();
        let status = lines.next_line().await.map_err(cut)?.ok_or(Ended::Cut)?;
        if !status.contains(" 200") {
            return Err(Ended::ForGood);
        }
        if *was_open {
            if let Ok(mut times) = shared.reconnects.lock() {
                times.push(Instant::now());
            }
        } else {
            *was_open = true;
        }
        let mut has_position = !resume.is_empty();
        let (mut data, mut id) = (String::new(), String::new());
        while let Some(line) = lines.next_line().await.map_err(cut)? {
            if let Some(field) = line.strip_prefix("id: ") {
                field.clone_into(&mut id);
            } else if let Some(field) = line.strip_prefix("retry: ") {
                let millis = field.trim().parse().unwrap_or(2_000);
                self.retry = Duration::from_millis(millis);
            } else if let Some(field) = line.strip_prefix("data: ") {
                field.clone_into(&mut data);
            } else if line.is_empty() && !id.is_empty() {
                // Only a whole block counts, as the standard says.
                self.id = std::mem::take(&mut id);
                if !has_position {
                    has_position = true;
                    shared.open.fetch_add(1, Ordering::AcqRel);
                }
                self.take(&std::mem::take(&mut data), shared);
            }
        }
        Ok(())
    }

    fn take(&self, data: &str, shared: &Shared) {
        let digits = data.split_once("\"seq\":").map_or("", |(_, rest)| rest);
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        let Ok(seq) = digits[..end].parse::<u64>() else {
            // A reset has data, too, and means that something is lost.
            if data.contains("reason") {
                shared.wrong.fetch_add(1, Ordering::AcqRel);
            }
            return;
        };
        let before = shared.told[self.page].swap(seq, Ordering::AcqRel);
        if seq != before + 1 {
            shared.wrong.fetch_add(1, Ordering::AcqRel);
        }
    }
}
