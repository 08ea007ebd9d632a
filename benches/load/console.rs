//! What an open console costs, with many clients: its page of a stream, which asks for most.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::Bench;
use super::crowd::{Crowd, Wants};
use super::report::{Figure, Goal, Row};
use super::sidecar::{How, Sidecar};

const CLIENTS: usize = 19_000;
/// How often the page looks.
const EVERY: Duration = Duration::from_secs(2);
/// Windows after it was closed.
const WINDOWS: usize = 5;
/// What it asks for each time. All clients listen to this stream.
const ASKED: [&str; 4] = ["/overview", "/streams", "/filters", "/listeners?stream=one"];

pub fn run(bench: &mut Bench) {
    open(bench);
    closed(bench);
}

/// A sidecar and its clients. Signs of life would drown what is looked for.
fn start(bench: &Bench, clients: usize) -> Result<(Sidecar, Crowd), String> {
    let sidecar = bench.start(&How { heartbeat: Some("1h"), ..How::default() });
    let crowd = Crowd::open(sidecar.address, clients, |number| {
        // Half of them with a value of their own.
        let key = if number % 2 == 0 { number } else { 0 };
        (format!("/_events/one?key={key}"), Wants::All)
    })?;
    Ok((sidecar, crowd))
}

/// How often the page looks in one window, and how long it waits in between.
fn looks(bench: &Bench) -> (u32, Duration) {
    if bench.is_smoke { (1, Duration::from_millis(50)) } else { (10, EVERY) }
}

/// Windows with an open console and without take turns: what a wake-up of a thread costs depends on
/// what else the machine does, and changes within minutes.
fn open(bench: &mut Bench) {
    let clients = bench.scaled(CLIENTS);
    let mut figures: [Vec<f64>; 2] = Default::default();
    for _ in 0..bench.rounds() {
        let (sidecar, mut crowd) = match start(bench, clients) {
            Ok(started) => started,
            Err(why) => return bench.report.absent("an open console", &why),
        };
        crowd.read_for(bench.settle()).expect("the crowd reads");
        let (looks, pause) = looks(bench);
        for is_open in [false, true, false, true, false] {
            let (began, before) = (Instant::now(), sidecar.process.exact_cpu());
            for _ in 0..looks {
                if is_open {
                    look(bench, &sidecar, clients);
                }
                crowd.read_for(pause).expect("the crowd reads");
            }
            figures[usize::from(is_open)].push(share(before, &sidecar, began));
        }
        bench.insist(crowd.seen.closed == 0, "clients stay while the console is open");
    }
    let [without, with] = figures.map(Figure::median);
    let what = format!("an open console, {clients} clients: its page of a stream");
    let row = Row::new("console-open", &what, "% of a core", with);
    bench.report.add(row.beside("without it", without).goal(Goal::MoreByAtMost(1.0)));
}

/// Two sidecars side by side, in the same windows: the console of one was open, that of the other never.
fn closed(bench: &mut Bench) {
    let clients = bench.scaled(CLIENTS) / 2;
    let mut figures: [Vec<f64>; 2] = Default::default();
    for round in 0..bench.rounds() {
        let both = start(bench, clients).and_then(|one| Ok([one, start(bench, clients)?]));
        let mut both = match both {
            Ok(both) => both,
            Err(why) => return bench.report.absent("a console that was closed", &why),
        };
        // So that being the first one to start makes no difference.
        if round % 2 == 1 {
            both.reverse();
        }
        let (looks, pause) = looks(bench);
        for _ in 0..looks {
            look(bench, &both[0].0, clients);
            both[0].1.read_for(pause).expect("the crowd reads");
        }
        both[1].1.read_for(bench.settle()).expect("the crowd reads");
        for _ in 0..if bench.is_smoke { 1 } else { WINDOWS } {
            let began = Instant::now();
            let before = both.each_ref().map(|(sidecar, _)| sidecar.process.exact_cpu());
            for _ in 0..looks {
                both[0].1.read_for(pause).expect("the crowd reads");
                both[1].1.read_for(Duration::from_millis(1)).expect("the crowd reads");
            }
            for ((into, (sidecar, _)), before) in figures.iter_mut().zip(&both).zip(before) {
                into.push(share(before, sidecar, began));
            }
        }
    }
    let [after, never] = figures.map(Figure::median);
    let what = format!("a console that was closed again, {clients} clients");
    let row = Row::new("console-closed", &what, "% of a core", after);
    bench.report.add(row.beside("never opened", never).goal(Goal::MoreByAtMost(0.1)));
}

/// What a sidecar has used since then, in percent of a core.
fn share(before: Duration, sidecar: &Sidecar, began: Instant) -> f64 {
    let spent = sidecar.process.exact_cpu().saturating_sub(before).as_secs_f64();
    100.0 * spent / began.elapsed().as_secs_f64()
}

/// What the page does every two seconds; on new connections, which costs more than a browser's.
fn look(bench: &Bench, sidecar: &Sidecar, clients: usize) {
    for path in ASKED {
        let (status, body) = sidecar.ask_admin(path).expect("an answer of the admin port");
        bench.insist(status == 200, path);
        if path.starts_with("/listeners") {
            let told: Value = serde_json::from_str(&body).expect("its JSON");
            let total = &told["total"];
            bench.insist(*total == clients, &format!("{total} of {clients} clients are counted"));
            let shown = told["listeners"].as_array().map_or(0, Vec::len);
            bench.insist(shown == clients.min(100), "those that lag most are listed");
        }
    }
}
