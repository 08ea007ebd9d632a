//! Everything that is no event stream: what passing through costs, beside other proxies.

use std::net::SocketAddr;
use std::time::Duration;

use super::Bench;
use super::app::PIECE;
use super::bulk::{Way, transfer};
use super::crowd::{Crowd, Wants};
use super::process::{Process, free_port, log_in, loopback, wait_for_port};
use super::report::{Figure, Goal, Row};
use super::requests::{Answered, ask};
use super::rivals::{self, Rival};
use super::sidecar::How;

const CONNECTIONS: usize = 32;
/// How long each turn takes where no time is judged.
const SMOKE: Duration = Duration::from_millis(200);

struct Contender<'a> {
    name: &'static str,
    address: SocketAddr,
    process: &'a Process,
}

/// The median of its rounds.
struct Passed {
    per_second: Figure,
    p50: Figure,
    p99: Figure,
    cpu_micros: Figure,
}

pub fn run(bench: &mut Bench) {
    let dir = bench.dir.path().to_owned();
    let port = free_port();
    let program = std::env::current_exe().expect("this program");
    let arguments = ["serve-app".to_owned(), port.to_string()];
    let app_process = Process::start(&program, &arguments, &[], &log_in(&dir, "app"));
    assert!(wait_for_port(port, Duration::from_secs(10)), "the app: {}", app_process.said());
    let app = loopback(port);

    // One thread each, as each rival has one worker; Pushpin is several processes as it comes.
    let how = How { app: Some(app), threads: Some(1), ..How::default() };
    let sidecar = bench.start(&how);
    let mut found: Vec<(&'static str, Rival)> = Vec::new();
    for (name, rival) in [
        ("nginx", rivals::nginx(&dir, app)),
        ("HAProxy", rivals::haproxy(&dir, app)),
        ("Caddy", rivals::caddy(&dir, app)),
        ("Envoy", rivals::envoy(&dir, app)),
        ("Pushpin", rivals::pushpin(&dir, app)),
    ] {
        match rival {
            Ok(rival) => found.push((name, rival)),
            Err(why) => bench.report.absent(&format!("{name}, as a proxy"), &why),
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

    for way in [Way::Down, Way::Up] {
        move_bulk(bench, &contenders, way);
    }

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
            let [Some(before), Some(during)] = [&before[0], &during[0]] else { return };
            let row =
                Row::new("proxy-with-streams", &what, "requests/s", during.per_second.clone());
            let row = row.beside("without them, just before", before.per_second.clone());
            bench.report.add(row.goal(Goal::RatioAtLeast(0.95)));
        }
    }
}

impl Contender<'_> {
    /// For the names of rows.
    fn slug(&self) -> String {
        self.name.split(' ').next_back().unwrap_or(self.name).to_lowercase()
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
    let Some(ours) = &passed[0] else { return };
    let name = path.trim_start_matches('/');
    let on =
        if connections == 1 { "1 connection".into() } else { format!("{connections} connections") };
    for (contender, theirs) in contenders.iter().zip(&passed).skip(1) {
        let (who, Some(theirs)) = (contender.name, theirs) else { continue };
        let is_nginx = who == "nginx";
        let what = format!("requests forwarded, {size}, {on}");
        let id = format!("proxy-{name}-{connections}-{}", contender.slug());
        let row = Row::new(&id, &what, "requests/s", ours.per_second.clone());
        let row = row.beside(who, theirs.per_second.clone());
        let note = format!(
            "processor time {:.1} µs, theirs {:.1}; p99 {:.0} µs, theirs {:.0}",
            ours.cpu_micros.value, theirs.cpu_micros.value, ours.p99.value, theirs.p99.value
        );
        let row = if is_nginx && connections > 1 { row.goal(Goal::RatioAtLeast(0.8)) } else { row };
        bench.report.add(row.note(note));
        if connections == 1 {
            let what = format!("{size}, {on}, p50");
            let row = Row::new(&format!("{id}-p50"), &what, "µs", ours.p50.clone());
            let row = row.beside(who, theirs.p50.clone());
            bench.report.add(if is_nginx { row.goal(Goal::MoreByAtMost(10.0)) } else { row });
        }
    }
}

/// They take turns, so that what else the machine does meets all of them. Nothing for those who
/// failed.
fn rounds(
    bench: &mut Bench,
    contenders: &[Contender<'_>],
    path: &str,
    connections: usize,
) -> Vec<Option<Passed>> {
    let time = if bench.is_smoke { SMOKE } else { Duration::from_secs(2) };
    let all = take_turns(bench, contenders, |contender| {
        let cpu = contender.process.cpu();
        let one = ask(contender.address, path, connections, time)?;
        let cpu = contender.process.cpu().saturating_sub(cpu);
        Ok((one, cpu.as_secs_f64() * 1e6 / one.count as f64))
    });
    let figures = |answered: Vec<(Answered, f64)>| Passed {
        per_second: Figure::median(answered.iter().map(|(one, _)| one.per_second)),
        p50: Figure::median(answered.iter().map(|(one, _)| one.p50_micros)),
        p99: Figure::median(answered.iter().map(|(one, _)| one.p99_micros)),
        cpu_micros: Figure::median(answered.iter().map(|(_, cpu)| *cpu)),
    };
    all.into_iter().map(|answered| answered.map(figures)).collect()
}

fn move_bulk(bench: &mut Bench, contenders: &[Contender<'_>], way: Way) {
    let (time, mib) = if bench.is_smoke { (SMOKE, 1) } else { (Duration::from_secs(1), 64) };
    let pieces = (mib << 20) / PIECE;
    let moved = take_turns(bench, contenders, |contender| {
        let cpu = contender.process.cpu();
        let moved = transfer(contender.address, way, pieces, time)?;
        let cpu = contender.process.cpu().saturating_sub(cpu);
        Ok((moved.bytes_per_second / 1e9, cpu.as_secs_f64() * 1e9 / moved.bytes))
    });
    let Some(ours) = &moved[0] else { return };
    let name = if way == Way::Down { "down" } else { "up" };
    let what = format!("{name}loads of {mib} MiB, 1 connection");
    let figure = |rounds: &[(f64, f64)]| Figure::median(rounds.iter().map(|(speed, _)| *speed));
    let cpu = |rounds: &[(f64, f64)]| Figure::median(rounds.iter().map(|(_, cpu)| *cpu)).value;
    for (contender, theirs) in contenders.iter().zip(&moved).skip(1) {
        let (who, Some(theirs)) = (contender.name, theirs) else { continue };
        let id = format!("proxy-{name}-{}", contender.slug());
        let row = Row::new(&id, &what, "GB/s", figure(ours)).beside(who, figure(theirs));
        let row = if who == "nginx" { row.goal(Goal::RatioAtLeast(0.9)) } else { row };
        let (mine, others) = (cpu(ours), cpu(theirs));
        let note = format!("{mine:.2} s of processor time for a GB, theirs {others:.2}");
        bench.report.add(row.note(note));
    }
}

/// Measures one after the other, round by round. Who fails is left out, and said to be.
fn take_turns<T>(
    bench: &mut Bench,
    contenders: &[Contender<'_>],
    mut measure: impl FnMut(&Contender<'_>) -> Result<T, String>,
) -> Vec<Option<Vec<T>>> {
    let rounds = if bench.is_smoke { 1 } else { 5 };
    let mut all: Vec<Option<Vec<T>>> = contenders.iter().map(|_| Some(Vec::new())).collect();
    for _ in 0..rounds {
        for (at, contender) in contenders.iter().enumerate() {
            let Some(measured) = &mut all[at] else { continue };
            match measure(contender) {
                Ok(one) => measured.push(one),
                Err(why) => {
                    all[at] = None;
                    let who = contender.name;
                    bench.insist(at > 0, &format!("{who}, as a proxy: {why}"));
                    bench.report.absent(&format!("{who}, as a proxy"), &why);
                }
            }
        }
    }
    all
}
