//! `sidestream check`: validates filter files, and the settings on the way; with `--mongodb` also
//! against a deployment.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::print::{complain, print};
use super::settings::SettingsFile;
use super::{BAD_INPUT, UNAVAILABLE, bounds, runtime};
use crate::config::{Config, MongodbUri};
use crate::diagnostic::{Diagnostic, Format, Severity, Source};
use crate::feed::FeedKey;
use crate::filter::{self, CheckReport, Filter};
use crate::session::examples;
use crate::upstream::budget::{self, CursorBudget};
use crate::upstream::connect::ProbeError;
use crate::upstream::inspection::{self, Finding, Weight};
use crate::upstream::snapshot::Bounds;

/// What of the settings a deployment is held against.
#[derive(Clone, Copy)]
struct Needs {
    /// `replay.window`
    window: Duration,
    snapshots: Bounds,
}

/// Where the settings cannot be read: their defaults.
impl Default for Needs {
    fn default() -> Needs {
        let snapshots =
            Bounds { documents: 10_000, bytes: 16 * 1024 * 1024, time: Duration::from_secs(10) };
        Needs { window: Duration::from_secs(120), snapshots }
    }
}

/// Validate filter files.
#[derive(Args)]
pub struct CheckArgs {
    /// The directory of filter files [default: `filters` of the settings]
    pub dir: Option<PathBuf>,
    #[command(flatten)]
    pub file: SettingsFile,
    /// Also check the files against this deployment [without URI: that of the settings]
    #[arg(long, value_name = "URI", num_args = 0..=1, default_missing_value = "")]
    pub mongodb: Option<String>,
    /// Count warnings as errors
    #[arg(long)]
    pub strict: bool,
    /// For people, for programs, or as annotations on a GitHub pull request
    #[arg(long, value_enum, default_value = "human")]
    pub output: Format,
}

/// Of the settings it matters whether anybody could be signed in, and where the files are. What is
/// wrong in them is told with the rest.
pub fn check(args: &CheckArgs) -> ExitCode {
    let sources = match args.file.to_look_at() {
        Ok(sources) => sources,
        Err(error) => {
            complain(error);
            return ExitCode::from(BAD_INPUT);
        }
    };
    let working_dir = sources.working_dir.clone();
    let (dir, has_source, needs, cursors, mistakes) = match Config::load(sources) {
        Ok(config) => {
            let needs = Needs { window: config.replay.window, snapshots: bounds(config.snapshot) };
            let given = args.mongodb.as_deref().filter(|uri| !uri.is_empty());
            let pool = budget::pool_of(given.unwrap_or(config.mongodb.uri.expose()));
            let (most, replays) = (config.mongodb.max_cursors, config.replay.max_concurrent);
            let cursors = CursorBudget::new(most, replays, pool);
            (config.filters, config.auth.has_source(), needs, cursors, Vec::new())
        }
        // Whether they name a source is not known, so nothing is said about that.
        Err(errors) => {
            let (dir, needs) = (PathBuf::from("./filters"), Needs::default());
            (dir, true, needs, CursorBudget::ample(), errors.diagnostics)
        }
    };
    // As short as it was written.
    let dir = dir.strip_prefix(&working_dir).map(PathBuf::from).unwrap_or(dir);
    let mut report = filter::check(args.dir.as_deref().unwrap_or(&dir), has_source);
    // Then it is not known which deployment is meant.
    let has_deployment = mistakes.is_empty() || args.mongodb.as_deref() != Some("");
    report.diagnostics.splice(0..0, mistakes);
    report.diagnostics.extend(waiting(&report, &cursors));
    let (examples, failed) = examples::run(&report.filters);
    report.example_count = examples;
    report.diagnostics.extend(failed);
    let mut unavailable = None;
    if let Some(given) = args.mongodb.as_ref().filter(|_| has_deployment) {
        match look(args.file.deployment(given), &report, needs) {
            Ok(found) => report.diagnostics.extend(found),
            Err(Failure::Unavailable(reason)) => unavailable = Some(reason),
            Err(Failure::Mistake(mistake)) => report.diagnostics.push(*mistake),
        }
    }
    if args.strict {
        report = report.strict();
    }
    let verdict = if report.is_good() { ExitCode::SUCCESS } else { ExitCode::from(BAD_INPUT) };
    let printed = print(report.render(args.output), verdict);
    if let Some(reason) = unavailable {
        complain(format_args!(
            "error: MongoDB is unavailable, so the files were not checked against it: {reason}"
        ));
        return ExitCode::from(if report.is_good() { UNAVAILABLE } else { BAD_INPUT });
    }
    printed
}

/// The streams that would wait for a change stream, since those before them take all.
fn waiting(report: &CheckReport, cursors: &CursorBudget) -> Vec<Diagnostic> {
    // In the order in which `run` opens them.
    let mut feeds: BTreeMap<FeedKey, Vec<&Arc<Filter>>> = BTreeMap::new();
    for filter in report.filters.0.values() {
        feeds.entry(FeedKey::of(filter)).or_default().push(filter);
    }
    let message = format!("this stream would wait: {}", cursors.explain());
    let told = |filter: &Arc<Filter>| Diagnostic {
        severity: Severity::Warning,
        message: message.clone(),
        ..filter.at_collection.clone()
    };
    feeds.into_values().skip(cursors.feeds()).flatten().map(told).collect()
}

enum Failure {
    Unavailable(String),
    Mistake(Box<Diagnostic>),
}

fn in_flag(severity: Severity, message: String, hint: Option<String>) -> Diagnostic {
    let diagnostic = Diagnostic::new(severity, Source::Flag("--mongodb".into()), message);
    Diagnostic { hint, ..diagnostic }
}

/// What a deployment cannot do of what the files ask.
fn look(
    uri: Result<MongodbUri, (String, Option<String>)>,
    report: &CheckReport,
    needs: Needs,
) -> Result<Vec<Diagnostic>, Failure> {
    let mistake =
        |message, hint| Failure::Mistake(Box::new(in_flag(Severity::Error, message, hint)));
    let uri = uri.map_err(|(message, hint)| mistake(message, hint))?;
    let filters: Vec<Arc<Filter>> = report.filters.0.values().cloned().collect();
    let runtime = runtime().map_err(|error| Failure::Unavailable(error.to_string()))?;
    let looked =
        runtime.block_on(inspection::inspect_uri(&uri, &filters, needs.window, needs.snapshots));
    let looked = looked.map_err(|error| match error {
        ProbeError::Unavailable(reason) => Failure::Unavailable(reason),
        ProbeError::Unusable(reason) | ProbeError::Invalid(reason) => mistake(reason, None),
    })?;
    Ok(looked.findings.into_iter().map(|finding| diagnostic(finding, report)).collect())
}

/// A finding, at the file of its stream.
fn diagnostic(finding: Finding, report: &CheckReport) -> Diagnostic {
    let severity = match finding.kind.weight() {
        Weight::Error => Severity::Error,
        Weight::Warning | Weight::Unknown => Severity::Warning,
        Weight::Note => Severity::Note,
    };
    let filter = finding.stream.as_ref().and_then(|stream| report.filters.0.get(stream));
    match filter {
        Some(filter) => Diagnostic {
            severity,
            message: finding.message,
            hint: finding.fix,
            ..filter.at_collection.clone()
        },
        None => in_flag(severity, finding.message, finding.fix),
    }
}
