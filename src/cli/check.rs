//! `sidestream check`: validates filter files, and the settings on the way.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::BAD_INPUT;
use super::settings::SettingsFile;
use crate::config::Config;
use crate::diagnostic::Format;
use crate::filter;
use crate::session::examples;

#[derive(Args)]
pub struct CheckArgs {
    /// The directory of filter files [default: `filters` of the settings]
    pub dir: Option<PathBuf>,
    #[command(flatten)]
    pub file: SettingsFile,
    /// Count warnings as errors
    #[arg(long)]
    pub strict: bool,
    /// For people, for programs, or as annotations of a pull request on GitHub
    #[arg(long, value_enum, default_value = "human")]
    pub output: Format,
}

/// Of the settings it matters whether anybody could be signed in, and where the files are. What is
/// wrong in them is told with the rest.
pub fn check(args: &CheckArgs) -> ExitCode {
    let sources = match args.file.to_look_at() {
        Ok(sources) => sources,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(BAD_INPUT);
        }
    };
    let working_dir = sources.working_dir.clone();
    let (dir, has_source, mistakes) = match Config::load(sources) {
        Ok(config) => (config.filters, config.auth.has_source(), Vec::new()),
        // Whether they name a source is not known, so nothing is said about that.
        Err(errors) => (PathBuf::from("./filters"), true, errors.diagnostics),
    };
    // As short as it was written.
    let dir = dir.strip_prefix(&working_dir).map(PathBuf::from).unwrap_or(dir);
    let mut report = filter::check(args.dir.as_deref().unwrap_or(&dir), has_source);
    report.diagnostics.splice(0..0, mistakes);
    let (examples, failed) = examples::run(&report.filters);
    report.example_count = examples;
    report.diagnostics.extend(failed);
    if args.strict {
        report = report.strict();
    }
    print!("{}", report.render(args.output));
    if report.is_good() { ExitCode::SUCCESS } else { ExitCode::from(BAD_INPUT) }
}
