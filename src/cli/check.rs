//! `sidestream check`: validates filter files.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{BAD_INPUT, outline};
use crate::diagnostic::Format;
use crate::filter;

#[derive(Args)]
pub struct CheckArgs {
    /// The directory of filter files [default: that of the settings, ./filters]
    pub dir: Option<PathBuf>,
    /// A settings file [default: sidestream.yaml in the working directory, where there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Count warnings as errors
    #[arg(long)]
    pub strict: bool,
    /// For people, for programs, or as annotations of a pull request on GitHub
    #[arg(long, value_enum, default_value = "human")]
    pub output: Format,
}

pub fn check(args: &CheckArgs) -> ExitCode {
    let settings = outline(args.config.clone());
    let dir = args.dir.clone().unwrap_or(settings.filters);
    let mut report = filter::check(&dir, settings.has_source);
    report.diagnostics.splice(0..0, settings.diagnostics);
    if args.strict {
        report = report.strict();
    }
    print!("{}", report.render(args.output));
    if report.is_good() { ExitCode::SUCCESS } else { ExitCode::from(BAD_INPUT) }
}
