//! `sidestream check`: validates filter files.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{BAD_INPUT, environment};
use crate::config::{Config, Flags, Sources};
use crate::diagnostic::Format;
use crate::filter;

#[derive(Args)]
pub struct CheckArgs {
    /// The directory of filter files.
    #[arg(default_value = "./filters")]
    pub dir: PathBuf,
    /// For people, for programs, or as annotations of a pull request on GitHub
    #[arg(long, value_enum, default_value = "human")]
    pub output: Format,
}

/// The settings are looked at for one thing only: whether anybody could be signed in.
pub fn check(args: &CheckArgs) -> ExitCode {
    let sources = std::env::current_dir().map(|working_dir| Sources {
        config_file: None,
        working_dir,
        env: environment(),
        flags: Flags::default(),
    });
    let config = sources.ok().and_then(|sources| Config::load(sources).ok());
    let report = filter::check(&args.dir, config.is_some_and(|config| config.auth.has_source()));
    print!("{}", report.render(args.output));
    if report.is_good() { ExitCode::SUCCESS } else { ExitCode::from(BAD_INPUT) }
}
