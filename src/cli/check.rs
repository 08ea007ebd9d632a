//! `sidestream check`: validates filter files.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::{BAD_INPUT, environment};
use crate::config::{Config, Flags, Sources};
use crate::filter;

#[derive(Args)]
pub struct CheckArgs {
    /// The directory of filter files.
    #[arg(default_value = "./filters")]
    pub dir: PathBuf,
}

/// The settings are looked at for one thing only: whether anybody could be signed in.
pub fn check(dir: &Path) -> ExitCode {
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
