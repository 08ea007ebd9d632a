//! What an open console costs, with many clients: its page of a stream, which asks for most.

use std::time::Duration;

use serde_json::Value;

use super::Bench;
use super::crowd::{Crowd, Wants};
use super::report::{Figure, Goal, Row};
use super::sidecar::{How, Sidecar};

const CLIENTS: usize = 19_000;
/// How often the page looks.
const EVERY: Duration = Duration::from_secs(2);
/// What it asks for each time. All clients listen to this stream.
const ASKED: [&str; 4] = ["/overview", "/streams", "/filters", "/listeners?stream=one"];

pub fn run(bench: &mut Bench) {
    let clients = bench.scaled(CLIENTS);
    let mut figures: [Vec<f64>; 3] = Default::default();
    for _ in 0..bench.rounds() {
        // Signs of life would drown what is looked for.
        let sidecar = bench.start(&How { heartbeat: Some("1h"), ..How::default() });
        let crowd = Crowd::open(sidecar.address, clients, |number| {
            // Half of them with a value of their own.
            let key = if number % 2 == 0 { number } else { 0 };
            (format!("/_events/one?key={key}"), Wants::All)
        });
        let mut crowd = match crowd {
            Ok(crowd) => crowd,
            Err(why) => return bench.report.absent("an open console", &why),
        };
        crowd.read_for(bench.settle()).expect("the crowd reads");
        let looks = if bench.is_smoke { 1 } else { 10 };
        for (is_open, into) in [false, true, false].into_iter().zip(&mut figures) {
            let before = sidecar.process.cpu();
            for _ in 0..looks {
                if is_open {
                    look(bench, &sidecar, clients);
                }
                let pause = if bench.is_smoke { Duration::from_millis(50) } else { EVERY };
                crowd.read_for(pause).expect("the crowd reads");
            }
            let spent = sidecar.process.cpu().saturating_sub(before).as_secs_f64();
            into.push(100.0 * spent / (EVERY.as_secs_f64() * f64::from(looks)));
        }
        bench.insist(crowd.seen.closed == 0, "clients stay while the console is open");
    }
    let [before, open, after] = figures.map(Figure::median);
    let what = format!("an open console, {clients} clients: its page of a stream");
    let row = Row::new("console-open", &what, "% of a core", open);
    bench.report.add(row.beside("without it", before.clone()).goal(Goal::MoreByAtMost(1.0)));
    // The processor's time is counted in hundredths of a second.
    let row = Row::new("console-closed", "the same, closed again", "% of a core", after);
    bench.report.add(row.beside("never opened", before).goal(Goal::MoreByAtMost(0.1)));
}

/// What the page does every two seconds; on new connections, which costs more than a browser's.
fn look(bench: &Bench, sidecar: &Sidecar, clients: usize) {
    for path in ASKED {
        let (status, body) = sidecar.ask_admin(path).expect("an answer of the admin port");
        bench.insist(status == 200, path);
        if path.starts_with("/listeners") {
            let told: Value = serde_json::from_str(&body).expect("its JSON");
            bench.insist(told["total"] == clients, "every client is counted");
            let shown = told["listeners"].as_array().map_or(0, Vec::len);
            bench.insist(shown == clients.min(100), "those that lag most are listed");
        }
    }
}
