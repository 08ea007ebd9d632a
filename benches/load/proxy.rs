//! Everything that is no event stream: what passing through costs, beside other proxies.

use std::net::SocketAddr;
use std::time::Duration;

use super::Bench;
use super::crowd::{Crowd, Wants};
use super::process::{Process, free_port, log_in, loopback, wait_for_port};
use super::report::{Goal, Row};
use super::requests::{Answered, ask};
use super::rivals::{self, Rival};
use super::sidecar::How;

const CONNECTIONS: usize = 32;

struct Contender<'a> {
    name: &'static str,
    address: SocketAddr,
    process: &'a Process,
}

/// The median of its rounds.
#[derive(Debug, Clone, Copy)]
struct Passed {
    per_second: f64,
    p50: f64,
    p99: f64,
    cpu_micros: f64,
}

pub fn run(bench: &mut Bench) {
    let dir = bench.dir.path().to_owned();
    let port = free_port();
    let program = std::env::current_exe().expect("this program");
    let arguments = ["serve-app".to_owned(), port.to_string()];
    let app_process = Process::start(&program, &arguments, &[], &log_in(&dir, "app"));
    assert!(wait_for_port(port, Duration::from_secs(10)), "the app: {}", app_process.said());
    let app = loopback(port);

    // One thread each, as each rival has one worker.
    let how = How { app: Some(app), threads: Some(1), ..How::default() };
    let sidecar = bench.start(&how);
    let mut found: Vec<(&'static str, Rival)> = Vec::new();
    for (name, rival) in
        [("nginx", rivals::nginx(&dir, app)), ("HAProxy", rivals::haproxy(&dir, app))]
    {
        match rival {
            Ok(rival) => found.push((name, rival)),
            Err(why) => bench.report.absent(name, &why),
        }
    }
    let ours =
        Contender { name: "Sidestream", address: sidecar.address, process: &sidecar.process };
    let mut contenders = vec![ours];
    contenders.extend(found.iter().map(|(name, rival)| Contender {
        name,
        address: rival.address,
        process: &rival.process,
    }));
    contenders.push(Contender { name: "the app itself", address: app, process: &app_process });

    for (path, size) in [("/small", "130 bytes"), ("/large", "16 KiB")] {
        compare(bench, &contenders, path, size, CONNECTIONS);
    }
    compare(bench, &contenders, "/small", "130 bytes", 1);

    // Streams that only wait must not be felt.
    let clients = bench.scaled(10_000);
    let before = rounds(bench, &contenders[..1], "/small", CONNECTIONS);
    let crowd = Crowd::open(sidecar.address, clients, |number| {
        (format!("/_events/one?key={number}"), Wants::All)
    });
    match crowd {
        Err(why) => bench.report.absent("requests beside idle streams", &why),
        Ok(crowd) => {
            let during = rounds(bench, &contenders[..1], "/small", CONNECTIONS);
            drop(crowd);
            let what = format!("requests while {clients} streams wait");
            let row = Row::new("proxy-with-streams", &what, "requests/s", during[0].per_second);
            let row = row.beside("without them, just before", before[0].per_second);
            bench.report.add(row.goal(Goal::RatioAtLeast(0.95)));
        }
    }
}

fn compare(
    bench: &mut Bench,
    contenders: &[Contender<'_>],
    path: &str,
    size: &str,
    connections: usize,
) {
    let passed = rounds(bench, contenders, path, connections);
    let ours = passed[0];
    let name = path.trim_start_matches('/');
    let on =
        if connections == 1 { "1 connection".into() } else { format!("{connections} connections") };
    for (contender, theirs) in contenders.iter().zip(&passed).skip(1) {
        let who = contender.name;
        let slug = who.split(' ').next_back().unwrap_or(who).to_lowercase();
        let is_nginx = who == "nginx";
        let what = format!("requests passed on, {size}, {on}");
        let id = format!("proxy-{name}-{connections}-{slug}");
        let row = Row::new(&id, &what, "requests/s", ours.per_second);
        let row = row.beside(who, theirs.per_second);
        let note = format!(
            "processor time {:.1} µs, theirs {:.1}; p99 {:.0} µs, theirs {:.0}",
            ours.cpu_micros, theirs.cpu_micros, ours.p99, theirs.p99
        );
        let row = if is_nginx && connections > 1 { row.goal(Goal::RatioAtLeast(0.8)) } else { row };
        bench.report.add(row.note(note));
        if connections == 1 {
            let row = Row::new(&format!("{id}-p50"), &format!("{size}, {on}, p50"), "µs", ours.p50);
            let row = row.beside(who, theirs.p50);
            bench.report.add(if is_nginx { row.goal(Goal::MoreByAtMost(10.0)) } else { row });
        }
    }
}

/// They take turns, so that what else the machine does meets all of them.
fn rounds(
    bench: &Bench,
    contenders: &[Contender<'_>],
    path: &str,
    connections: usize,
) -> Vec<Passed> {
    let (rounds, time) = match bench.is_smoke {
        true => (1, Duration::from_millis(200)),
        false => (5, Duration::from_secs(2)),
    };
    let mut all: Vec<Vec<(Answered, f64)>> = vec![Vec::new(); contenders.len()];
    for _ in 0..rounds {
        for (contender, answered) in contenders.iter().zip(&mut all) {
            let cpu = contender.process.cpu();
            let one = ask(contender.address, path, connections, time);
            let one = one.unwrap_or_else(|why| panic!("{}: {why}", contender.name));
            let cpu = contender.process.cpu().saturating_sub(cpu);
            answered.push((one, cpu.as_secs_f64() * 1e6 / one.count as f64));
        }
    }
    let median = |of: &dyn Fn(&(Answered, f64)) -> f64, answered: &[(Answered, f64)]| {
        let mut values: Vec<f64> = answered.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    all.iter()
        .map(|answered| Passed {
            per_second: median(&|(one, _)| one.per_second, answered),
            p50: median(&|(one, _)| one.p50_micros, answered),
            p99: median(&|(one, _)| one.p99_micros, answered),
            cpu_micros: median(&|(_, cpu)| *cpu, answered),
        })
        .collect()
}
