//! Arguments, logging, exit codes. Everything else is in the library.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use sidestream::access::claims::Claims;
use sidestream::access::limits;
use sidestream::config::{Config, Flags, Log, LogFormat, Origin, Sources};
use sidestream::explain::Explanation;
use sidestream::filter::{self, BindError};
use sidestream::upstream::connect::ProbeError;
use sidestream::{Sidecar, StartError};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

// glibc keeps the memory of connections that are gone; jemalloc gives it back.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The input is bad.
const BAD_INPUT: u8 = 1;
/// The command line is wrong.
const BAD_USAGE: u8 = 2;
/// MongoDB or a port is unavailable at the start.
const UNAVAILABLE: u8 = 3;

/// Live updates for an existing web app, without a change in its code.
///
/// A sidecar in front of the app: forwards ordinary HTTP unchanged, and answers one reserved path
/// with streams of Server-Sent Events that come from MongoDB change streams.
#[derive(Parser)]
#[command(
    name = "sidestream",
    version,
    arg_required_else_help = true,
    after_help = "Example:\n  \
    sidestream run --app http://127.0.0.1:3000 --filters ./filters"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the sidecar: forward to the app, serve the event streams.
    #[command(after_help = "Example:\n  sidestream run --app http://127.0.0.1:3000 \
        --mongodb 'mongodb://127.0.0.1:27017/?replicaSet=rs0' --filters ./filters\n  \
        curl -N http://127.0.0.1:8080/_events/orders\n\n\
        Exit code 0: ended by SIGTERM or SIGINT. 1: settings are bad. 2: the command line is wrong.\n\
        3: a port is taken, or MongoDB is unavailable and --wait was not given.")]
    Run(RunArgs),
    /// Validate filter files.
    #[command(after_help = "Example:\n  sidestream check ./filters\n\n\
        Exit code 0: all good. 1: problems, each with file, line and column.")]
    Check {
        /// The directory of filter files.
        #[arg(default_value = "./filters")]
        dir: PathBuf,
    },
    /// Show what a filter becomes: its change stream, and what is evaluated in the sidecar.
    #[command(
        after_help = "Example:\n  sidestream explain orders --param status=paid --claim sub=ada"
    )]
    Explain {
        /// The stream's name.
        stream: String,
        /// A parameter's value; may be repeated.
        #[arg(long = "param", value_name = "NAME=VALUE", value_parser = parse_pair)]
        params: Vec<(String, String)>,
        /// A claim's value: JSON, or else text. Dots lead into nested claims; may be repeated.
        #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = parse_pair)]
        claims: Vec<(String, String)>,
        /// The directory of filter files.
        #[arg(long, value_name = "DIR", default_value = "./filters")]
        filters: PathBuf,
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
}

/// For people, or for machines.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    Ok((name.to_string(), value.to_string()))
}

#[derive(Args)]
struct RunArgs {
    /// A settings file [default: sidestream.yaml in the working directory, where there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The public port [default: 0.0.0.0:8080]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Health and metrics; not for the public [default: 127.0.0.1:9180]
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// The app behind the sidecar: http://, https:// or unix:/path [default: http://127.0.0.1:3000]
    #[arg(long, value_name = "URL")]
    app: Option<String>,
    /// The reserved path [default: /_events]
    #[arg(long, value_name = "PATH")]
    prefix: Option<String>,
    /// The directory of filter files, watched for changes [default: ./filters]
    #[arg(long, value_name = "DIR")]
    filters: Option<String>,
    /// The MongoDB connection string [default: mongodb://127.0.0.1:27017/?replicaSet=rs0]
    #[arg(long, value_name = "URI")]
    mongodb: Option<String>,
    /// Wait for MongoDB instead of giving up when nothing answers at the start
    ///
    /// Without it, sidestream ends with exit code 3: after three seconds when every host of the
    /// connection string refuses connections, after serverSelectionTimeoutMS (10 seconds) when
    /// they say nothing. A MongoDB that answers but cannot be used yet (a standalone server, a
    /// replica set that is not initiated, missing privileges) is always waited for: the app is
    /// served, and /readyz on the admin port says what to do.
    #[arg(long)]
    wait: bool,
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => run(args),
        Command::Check { dir } => check(&dir),
        Command::Explain { stream, params, claims, filters, output } => {
            explain(&stream, &params, &claims, &filters, output)
        }
    }
}

/// The settings are looked at for one thing only: whether anybody could be signed in.
fn check(dir: &Path) -> ExitCode {
    let sources = std::env::current_dir().map(|working_dir| Sources {
        config_file: None,
        working_dir,
        env: environment(),
        flags: Flags::default(),
    });
    let config = sources.ok().and_then(|sources| Config::load(sources).ok());
    let report = filter::check(dir, config.is_some_and(|config| config.auth.has_source()));
    print!("{report}");
    if report.is_good() { ExitCode::SUCCESS } else { ExitCode::from(BAD_INPUT) }
}

fn explain(
    stream: &str,
    params: &[(String, String)],
    claims: &[(String, String)],
    dir: &Path,
    output: Output,
) -> ExitCode {
    let claims = Claims::of_pairs(claims);
    let loaded = filter::load_directory(dir);
    let Some(found) = loaded.filters.0.get(stream) else {
        let errors = loaded.diagnostics.iter().filter(|diagnostic| diagnostic.is_error());
        errors.for_each(|diagnostic| eprintln!("{diagnostic}"));
        let names: Vec<&str> = loaded.filters.0.keys().map(String::as_str).collect();
        eprintln!(
            "error: no good filter file makes a stream `{stream}` in {}; there are: {}",
            dir.display(),
            names.join(", ")
        );
        return ExitCode::from(BAD_INPUT);
    };
    match Explanation::of(found, &loaded.filters, params, claims.document()) {
        Ok(explanation) if output == Output::Json => println!("{:#}", explanation.to_json()),
        Ok(explanation) => print!("{explanation}"),
        Err(error) => {
            let flag = match error {
                BindError::Parameter(_) => "--param",
                _ => "--claim",
            };
            eprintln!("error: {error}; give it with {flag} NAME=VALUE");
            return ExitCode::from(BAD_INPUT);
        }
    }
    ExitCode::SUCCESS
}

/// Variables that are no text cannot be settings.
fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn run(args: RunArgs) -> ExitCode {
    let working_dir = match std::env::current_dir() {
        Ok(dir) => dir,
        Err(error) => {
            eprintln!("error: the working directory cannot be read: {error}");
            return ExitCode::from(BAD_INPUT);
        }
    };
    let sources = Sources {
        config_file: args.config,
        working_dir,
        env: environment(),
        flags: Flags {
            listen: args.listen,
            admin: args.admin,
            app: args.app,
            prefix: args.prefix,
            filters: args.filters,
            mongodb: args.mongodb,
        },
    };
    let config = match Config::load(sources) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            let is_usage =
                errors.problems.iter().all(|problem| matches!(problem.origin, Origin::Flag(_)));
            return ExitCode::from(if is_usage { BAD_USAGE } else { BAD_INPUT });
        }
    };
    // Writes out what is left when it is dropped.
    let _log = start_log(config.log);
    limits::raise_descriptors();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "no threads could be started");
            return ExitCode::from(UNAVAILABLE);
        }
    };
    runtime.block_on(serve(config, args.wait))
}

async fn serve(config: Config, wait: bool) -> ExitCode {
    let (mut terminate, mut interrupt) =
        match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
            (Err(error), _) | (_, Err(error)) => {
                error!(%error, "signals cannot be received");
                return ExitCode::from(UNAVAILABLE);
            }
        };
    let sidecar = match Sidecar::start(config).await {
        Ok(sidecar) => sidecar,
        Err(error) => {
            error!("{error}");
            return ExitCode::from(match error {
                StartError::Listen { .. } => UNAVAILABLE,
                StartError::Tls { .. } => BAD_INPUT,
            });
        }
    };
    info!(listen = %sidecar.listen, admin = %sidecar.admin, "sidestream is listening");
    let stopped = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::pin!(stopped);
    let probed = tokio::select! {
        probed = sidecar.probe() => Some(probed),
        () = &mut stopped => None,
    };
    match probed {
        Some(Err(ProbeError::Unavailable(reason))) if !wait => {
            error!("MongoDB is unavailable: {reason}. With --wait, sidestream waits for it");
            sidecar.finish().await;
            return ExitCode::from(UNAVAILABLE);
        }
        Some(Err(ProbeError::Invalid(reason))) => {
            error!("mongodb.uri cannot be used: {reason}");
            sidecar.finish().await;
            return ExitCode::from(BAD_INPUT);
        }
        Some(Err(reason)) => {
            warn!("MongoDB cannot be used yet: {reason}. The app is served meanwhile");
            stopped.await;
        }
        Some(Ok(())) => stopped.await,
        None => {}
    }
    info!("shutting down");
    sidecar.finish().await;
    ExitCode::SUCCESS
}

/// Lines that wait to be written, at most; the next ones are dropped.
const LOG_LINES: usize = 8192;

/// A thread of its own writes the lines: a log whose reader or disk stalls must not stall streams,
/// nor the answers to probes.
fn start_log(log: Log) -> WorkerGuard {
    // These tell of every frame, and of every client that leaves; what matters of that we say
    // ourselves.
    let quiet = "h2=info,pingora=error,pingora_core=error";
    let level = log.level.as_str();
    let filter = EnvFilter::new(format!("{level},{quiet}"));
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(LOG_LINES)
        .thread_name("log")
        .finish(std::io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match log.format {
        LogFormat::Json => builder.json().init(),
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
    }
    guard
}
