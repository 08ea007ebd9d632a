//! "Nothing lost, nothing twice, whatever breaks", as a program: real servers, real sidecars,
//! faults, and a check of what every client was told against the database's own history.
//!
//! See docs/guarantees.md. `--list` names the faults; the same `--seed` makes the same choices,
//! though what the machine makes of them is its own affair.

mod clients;
mod cluster;
mod history;
mod memory;
mod nemesis;
mod relay;
mod report;
mod run;
mod streams;
// Made for the other binary, which uses all of it.
#[allow(dead_code)]
#[path = "../suite/support/mod.rs"]
mod support;
mod witness;
mod writers;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use clients::Sabotage;
use nemesis::Fault;

/// Breaks things and checks that no client of Sidestream notices more than it may.
#[derive(Debug, Clone, Parser)]
struct Arguments {
    /// Lists the faults.
    #[arg(long)]
    list: bool,
    /// Only this fault; may be given several times.
    #[arg(long, value_name = "NAME", value_parser = parse_fault)]
    fault: Vec<Fault>,
    /// How long each fault lasts.
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
    /// How often the whole plan is gone through.
    #[arg(long, value_name = "N", default_value_t = 1)]
    rounds: usize,
    #[arg(long, value_name = "N", default_value_t = 200)]
    clients: usize,
    #[arg(long, value_name = "N", default_value_t = 2)]
    sidecars: usize,
    #[arg(long, value_name = "N", default_value_t = 6)]
    writers: usize,
    /// For every choice; without it, one is chosen and said.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// A few faults, a few seconds each, and one sabotaged phase at the end, which
    /// the check has to find.
    #[arg(long)]
    short: bool,
    /// Every client does exactly as an `EventSource` does: any answer but 200 is the last one. In
    /// `rolling-restart` they always do.
    #[arg(long)]
    event_source: bool,
    /// Makes the clients lie in every phase: the run has to fail.
    #[arg(long, value_name = "HOW")]
    sabotage: Option<Sabotage>,
    /// Where the histories of clients go for whom a promise was broken.
    #[arg(long, value_name = "DIR")]
    artifacts: Option<PathBuf>,
}

fn parse_fault(name: &str) -> Result<Fault, String> {
    Fault::parse(name).ok_or_else(|| "no such fault; --list names them".to_string())
}

/// What is done one after the other.
struct Phase {
    fault: Fault,
    time: Duration,
    is_event_source: bool,
    sabotage: Option<Sabotage>,
    /// The check has to find something.
    must_fail: bool,
}

impl Arguments {
    fn plan(&self) -> Vec<Phase> {
        const SHORT: [Fault; 8] = [
            Fault::KillSidestream,
            Fault::RollingRestart,
            Fault::StepDown,
            Fault::CutMongodb,
            Fault::DropCollection,
            Fault::EditFilters,
            Fault::KillPrimary,
            Fault::SlowClients,
        ];
        let faults = match (self.fault.as_slice(), self.short) {
            ([], true) => &SHORT[..],
            ([], false) => Fault::ALL,
            (faults, _) => faults,
        };
        let seconds = if self.short { self.seconds.min(4) } else { self.seconds };
        let time = Duration::from_secs(seconds);
        let mut plan: Vec<Phase> = std::iter::repeat_n(faults, self.rounds)
            .flatten()
            .map(|fault| Phase {
                fault: *fault,
                time,
                is_event_source: self.event_source,
                sabotage: self.sabotage,
                must_fail: false,
            })
            .collect();
        if self.short {
            let sabotage = Some(self.sabotage.unwrap_or(Sabotage::LaterId));
            plan.push(Phase {
                fault: Fault::CutClients,
                time,
                is_event_source: false,
                sabotage,
                must_fail: true,
            });
        }
        plan
    }
}

fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    if arguments.list {
        for fault in Fault::ALL {
            println!("{:<18}{}", fault.name(), fault.about());
        }
        return ExitCode::SUCCESS;
    }
    if arguments.short {
        arguments.clients = arguments.clients.min(40);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let is_kept = runtime.expect("a runtime").block_on(async {
        let mut stopped = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
            .expect("a signal handler");
        // Whoever stops the run early still gets everything cleaned up.
        tokio::select! {
            is_kept = run::run(&arguments) => is_kept,
            _ = tokio::signal::ctrl_c() => false,
            _ = stopped.recv() => false,
        }
    });
    if is_kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
