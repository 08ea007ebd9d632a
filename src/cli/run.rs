//! `sidestream run`: the sidecar, from its settings to its exit code.

use std::process::ExitCode;

use clap::Args;
use tracing::{error, info, warn};

use super::log::{self, Dropped};
use super::print::complain;
use super::settings::{SettingFlags, SettingsFile};
use super::{BAD_INPUT, BAD_USAGE, BUG, StopSignals, UNAVAILABLE, serving_runtime};
use crate::api::capacity;
use crate::config::Config;
use crate::diagnostic::Source;
use crate::upstream::connect::ProbeError;
use crate::{Sidecar, StartError};

/// Run the sidecar: forward to the app, serve event streams.
#[derive(Args)]
pub struct RunArgs {
    #[command(flatten)]
    file: SettingsFile,
    #[command(flatten)]
    flags: SettingFlags,
    /// Wait for MongoDB instead of exiting when it does not answer at the start
    ///
    /// Without this flag, sidestream exits with code 3: after three seconds if every host of the
    /// connection string refuses connections, after serverSelectionTimeoutMS (10 seconds) if the
    /// hosts do not answer. If MongoDB answers but cannot be used yet (a standalone server, a
    /// replica set that is not initiated, missing privileges), sidestream always waits: it serves
    /// the app, and /readyz on the admin port says what to do.
    #[arg(long)]
    wait: bool,
}

/// Serves until SIGTERM, SIGINT or SIGHUP. Exit code 1: settings are bad. 2: the command line is wrong. 3:
/// a port or MongoDB is unavailable. 101: a bug ended it.
pub fn run(args: RunArgs) -> ExitCode {
    let sources = match args.file.sources(args.flags) {
        Ok(sources) => sources,
        Err(error) => {
            complain(error);
            return ExitCode::from(BAD_INPUT);
        }
    };
    let config = match Config::load(sources) {
        Ok(config) => config,
        Err(errors) => {
            complain(&errors);
            let is_usage =
                errors.diagnostics.iter().all(|mistake| matches!(mistake.origin, Source::Flag(_)));
            return ExitCode::from(if is_usage { BAD_USAGE } else { BAD_INPUT });
        }
    };
    // Writes out what is left when it is dropped.
    let log = log::start(config.log);
    capacity::raise_descriptors();
    let runtime = match serving_runtime() {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    let ended = runtime.block_on(serve(config, args.wait, log.dropped()));
    log.finish();
    ended
}

async fn serve(config: Config, wait: bool, dropped: Dropped) -> ExitCode {
    let mut signals = match StopSignals::listen() {
        Ok(signals) => signals,
        Err(code) => return code,
    };
    let sidecar = match Sidecar::start(config).await {
        Ok(sidecar) => sidecar,
        Err(error) => {
            error!("{error}");
            return ExitCode::from(match error {
                StartError::Listen { .. } => UNAVAILABLE,
                StartError::Tls(_) | StartError::Ids { .. } | StartError::Trace(_) => BAD_INPUT,
            });
        }
    };
    info!(listen = %sidecar.listen, admin = %sidecar.admin, "sidestream is listening");
    let metrics = sidecar.metrics().clone();
    let tasks = sidecar.tasks().clone();
    tasks.keep("log", |_| {}, move || dropped.clone().watch(metrics.clone()));
    let stopped = async {
        tokio::select! {
            () = signals.received() => Ok(()),
            failed = tasks.failed() => Err(failed),
        }
    };
    tokio::pin!(stopped);
    let probed = tokio::select! {
        probed = sidecar.probe() => Ok(probed),
        stopped = &mut stopped => Err(stopped),
    };
    let ended = match probed {
        Ok(Err(ProbeError::Unavailable(reason))) if !wait => {
            error!("MongoDB is unavailable: {reason}. With --wait, sidestream waits for it");
            sidecar.finish().await;
            return ExitCode::from(UNAVAILABLE);
        }
        Ok(Err(ProbeError::Invalid(reason))) => {
            error!("mongodb.uri cannot be used: {reason}");
            sidecar.finish().await;
            return ExitCode::from(BAD_INPUT);
        }
        Ok(Err(reason)) => {
            warn!("MongoDB cannot be used yet: {reason}. The app is served meanwhile");
            stopped.await
        }
        Ok(Ok(())) => stopped.await,
        Err(ended) => ended,
    };
    match &ended {
        Ok(()) => info!("shutting down"),
        Err(reason) => error!("a bug, please report it: {reason}; shutting down"),
    }
    sidecar.finish().await;
    if ended.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(BUG) }
}
