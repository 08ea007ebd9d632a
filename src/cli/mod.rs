//! The command line: one file for each command. Arguments, logging, exit codes; everything else is
//! in the other rooms.

mod check;
mod drain;
mod event_source;
mod explain;
mod inject;
mod log;
mod new;
mod print;
mod run;
mod schema;
mod settings;
mod tail;
mod top;
mod webhook;

use std::io;
use std::process::ExitCode;

use clap::builder::PossibleValue;
use clap::{Parser, Subcommand, ValueEnum};
use tokio::runtime::{self, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::error;

use crate::config;
use crate::diagnostic::Format;
use crate::upstream::snapshot::Bounds;

/// The input is bad.
const BAD_INPUT: u8 = 1;
/// The command line is wrong.
const BAD_USAGE: u8 = 2;
/// MongoDB or a port is unavailable at the start.
const UNAVAILABLE: u8 = 3;
/// What Rust programs end with that panicked.
const BUG: u8 = 101;

/// Live updates for an existing web app, without changing its code.
///
/// A sidecar in front of the app: forwards ordinary HTTP unchanged, and serves event streams from
/// MongoDB change streams (Server-Sent Events, NDJSON, long poll, WebSocket) on one reserved path.
#[derive(Parser)]
#[command(
    name = "sidestream",
    version,
    arg_required_else_help = true,
    after_help = "Example:\n  \
    sidestream run --app http://127.0.0.1:3000 --filters ./filters"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What a command does is said at its arguments, which `--help` takes it from.
#[derive(Subcommand)]
enum Command {
    #[command(after_help = "Example:\n  sidestream run --app http://127.0.0.1:3000 \
        --mongodb 'mongodb://127.0.0.1:27017/?replicaSet=rs0' --filters ./filters\n  \
        curl -N http://127.0.0.1:8080/_events/orders\n\n\
        Exit code 0: ended by SIGTERM, SIGINT or SIGHUP. 1: settings are bad. 2: the command line is wrong.\n\
        3: a port is taken, or MongoDB is unavailable and --wait was not given.")]
    Run(run::RunArgs),
    #[command(after_help = "Example:\n  sidestream check ./filters\n  \
        sidestream check --strict --output github\n\n\
        Reads the same settings as `run`, but opens no file that contains a secret.\n\n\
        Exit code 0: all good. 1: problems, each with file, line and column.")]
    Check(check::CheckArgs),
    #[command(
        after_help = "Example:\n  sidestream explain orders --param status=paid --claim sub=ada\n  \
        echo '{ before: { _id: 1, status: new }, after: { _id: 1, status: paid } }' |\n    \
        sidestream explain orders --param status=paid --event -"
    )]
    Explain(explain::ExplainArgs),
    #[command(after_help = "Example:\n  sidestream schema filter > filter.schema.json\n  \
        sidestream schema config > sidestream.schema.json\n\n\
        In VS Code with the YAML extension, as the first line of sidestream.yaml:\n  \
        # yaml-language-server: $schema=sidestream.schema.json")]
    Schema(schema::SchemaArgs),
    #[command(after_help = "Example:\n  sidestream drain --for 5s\n\n\
        After this, /readyz answers 503, so that load balancers stop using the sidecar. \
        Everything\n\
        else continues until SIGTERM.\n\n\
        Exit code 0: done. 3: the admin port did not answer; drain waits in this case too.")]
    Drain(drain::DrainArgs),
    #[command(
        after_help = "Example:\n  sidestream inject -f deployment.yaml | kubectl apply -f -\n\n\
        Labels and annotations of the pod templates control it; see docs/kubernetes/injection.md.\n\
        Warnings and errors go to standard error.\n\n\
        Exit code 0: printed. 1: the manifests cannot be used, and nothing is printed."
    )]
    Inject(inject::InjectArgs),
    #[command(after_help = "Example, with a certificate from files:\n  \
        sidestream webhook --certificate-file tls.crt --key-file tls.key --kubernetes-version 1.33\n\n\
        In a cluster, the Helm chart in helm/sidestream runs it.\n\n\
        Exit code 0: ended by SIGTERM, SIGINT or SIGHUP. 1: the settings for the Kubernetes API are \
        unusable.\n\
        2: the command line is wrong. 3: a port is taken.")]
    Webhook(Box<webhook::WebhookArgs>),
    #[command(after_help = "Example:\n  sidestream new orders --collection shop.orders\n  \
        sidestream new shop/orders --collection shop.orders --mongodb mongodb://127.0.0.1:27017")]
    New(new::NewArgs),
    #[command(
        after_help = "Example:\n  sidestream tail http://127.0.0.1:8080/_events/orders?status=paid\n  \
        sidestream tail --header 'Authorization: Bearer …' --count 1 http://127.0.0.1:8080/_events/mine | jq .data\n\n\
        In a pipe, prints one JSON object per line. Exit code 0: --count is reached. 1: refused. \
        3: no answer."
    )]
    Tail(tail::TailArgs),
    #[command(after_help = "Example:\n  sidestream top\n  \
        sidestream top --once --output json http://127.0.0.1:9180 | jq '.streams[].state'\n\n\
        In a terminal: up and down choose a stream, Enter opens it with its listeners, Esc goes back;\n\
        s, or n, t, l, r, e, c, sorts by name, state, listeners, rate, events, cost; q quits.\n\n\
        Exit code 0: printed. 2: the command line is wrong. 3: the admin port does not answer.")]
    Top(top::TopArgs),
}

/// For people, or for machines.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    #[value(alias = "text")]
    Human,
    Json,
}

/// `--output human|json|github`, for commands that report diagnostics.
impl ValueEnum for Format {
    fn value_variants<'a>() -> &'a [Format] {
        &Format::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.as_str()))
    }
}

/// The bounds of `snapshot` in the settings.
fn bounds(snapshot: config::Snapshot) -> Bounds {
    Bounds { documents: snapshot.max_documents, bytes: snapshot.max_bytes, time: snapshot.max_time }
}

/// The runtime of a command that asks something and ends.
fn runtime() -> io::Result<Runtime> {
    runtime::Builder::new_current_thread().enable_all().build()
}

/// The runtime of a command that serves.
///
/// # Errors
/// The exit code; the reason is in the log.
fn serving_runtime() -> Result<Runtime, ExitCode> {
    runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        error!(%error, "no threads could be started");
        ExitCode::from(UNAVAILABLE)
    })
}

/// SIGTERM, SIGINT and SIGHUP, which end a command that serves.
struct StopSignals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// From here on, the process does not end by them.
    ///
    /// # Errors
    /// The exit code; the reason is in the log.
    fn listen() -> Result<StopSignals, ExitCode> {
        let listen = || -> io::Result<StopSignals> {
            let [terminate, interrupt, hangup] =
                [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()]
                    .map(signal);
            Ok(StopSignals { terminate: terminate?, interrupt: interrupt?, hangup: hangup? })
        };
        listen().map_err(|error| {
            error!(%error, "signals cannot be received");
            ExitCode::from(UNAVAILABLE)
        })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            // The terminal has gone.
            _ = self.hangup.recv() => {}
        }
    }
}

/// Runs the command that the arguments of this process name.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => run::run(args),
        Command::Check(args) => check::check(&args),
        Command::Explain(args) => explain::explain(&args),
        Command::Schema(args) => schema::schema(&args),
        Command::Drain(args) => drain::drain(&args),
        Command::Inject(args) => inject::inject(args),
        Command::Webhook(args) => webhook::webhook(*args),
        Command::New(args) => new::new(&args),
        Command::Tail(args) => tail::tail(args),
        Command::Top(args) => top::top(&args),
    }
}
