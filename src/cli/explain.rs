//! `sidestream explain`: what a filter becomes, and what becomes of one event.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use bson::Document;
use clap::Args;
use serde_json::json;

use super::print::{complain, print};
use super::settings::SettingsFile;
use super::{BAD_INPUT, Output, UNAVAILABLE, bounds, runtime};
use crate::access::claims::Claims;
use crate::config::Config;
use crate::filter::{self, BindError, Filter, FilterSet};
use crate::session::explain::{Explanation, Find};
use crate::session::trial::{self, Reason, Trial};
use crate::upstream::connect::ProbeError;
use crate::upstream::inspection::{self, Plan};

/// More than any event has, in bytes of text.
const MAX_EVENT_BYTES: u64 = 64 * 1024 * 1024;

/// Show what a filter becomes: its change stream, and what the sidecar evaluates.
#[derive(Args)]
pub struct ExplainArgs {
    /// The stream's name
    stream: String,
    /// A parameter's value; may be repeated
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = parse_pair)]
    params: Vec<(String, String)>,
    /// A claim's value: JSON, otherwise text. Dots in the name select nested claims; may be
    /// repeated
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = parse_pair)]
    claims: Vec<(String, String)>,
    /// Say whether one event is sent, and if not, why
    ///
    /// A file, or - for standard input, in JSON or YAML. It contains a change event, which may be
    /// in the form that `sidestream tail` prints; or `before` and `after`, two documents; or one
    /// document, treated as inserted.
    #[arg(long, value_name = "FILE")]
    event: Option<PathBuf>,
    /// Ask this deployment how it carries out the query of a snapshot [without URI: that of the
    /// settings]
    #[arg(long, value_name = "URI", num_args = 0..=1, default_missing_value = "")]
    mongodb: Option<String>,
    /// The directory of filter files [default: `filters` of the settings]
    #[arg(long, value_name = "DIR")]
    filters: Option<PathBuf>,
    #[command(flatten)]
    file: SettingsFile,
    /// For people, or for programs
    #[arg(long, value_enum, default_value = "human")]
    output: Output,
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    Ok((name.to_string(), value.to_string()))
}

/// Prints the explanation. Exit code 1: a file, a value or the event is bad. 3: MongoDB is
/// unavailable.
pub fn explain(args: &ExplainArgs) -> ExitCode {
    match try_explain(args) {
        Ok(text) => print(text, ExitCode::SUCCESS),
        Err(failed) => {
            complain(failed.message);
            ExitCode::from(failed.code)
        }
    }
}

struct Failed {
    message: String,
    code: u8,
}

impl From<String> for Failed {
    fn from(message: String) -> Failed {
        Failed { message, code: BAD_INPUT }
    }
}

fn try_explain(args: &ExplainArgs) -> Result<String, Failed> {
    let dir = args.file.filters(args.filters.as_deref())?;
    let loaded = filter::load_directory(&dir);
    let Some(found) = loaded.filters.0.get(&args.stream) else {
        let errors = loaded.diagnostics.iter().filter(|diagnostic| diagnostic.is_error());
        let mut message: String = errors.map(|diagnostic| format!("{diagnostic}\n")).collect();
        let names: Vec<&str> = loaded.filters.0.keys().map(String::as_str).collect();
        let others = match names.as_slice() {
            [] => "no file there can be used".to_owned(),
            names => format!("there are: {}", names.join(", ")),
        };
        let mends =
            if message.is_empty() { "" } else { ", as long as the mistakes above are there" };
        message.push_str(&format!(
            "error: there is no stream `{}` in {}{mends}; {others}",
            args.stream,
            dir.display(),
        ));
        return Err(message.into());
    };
    let claims = Claims::of_pairs(&args.claims);
    match &args.event {
        Some(file) => Ok(explain_event(args, found, &claims, &read_event(file)?)?),
        None => explain_filter(args, found, &loaded.filters, &claims),
    }
}

fn explain_filter(
    args: &ExplainArgs,
    filter: &Filter,
    set: &FilterSet,
    claims: &Claims,
) -> Result<String, Failed> {
    let mut explanation =
        Explanation::of(filter, set, &args.params, claims.document()).map_err(|e| refused(&e))?;
    if let (Some(uri), Some(find)) = (&args.mongodb, &mut explanation.find) {
        find.plan = Some(plan(args, uri, find)?);
    }
    Ok(match args.output {
        Output::Json => format!("{:#}\n", explanation.to_json()),
        Output::Human => explanation.to_string(),
    })
}

fn plan(args: &ExplainArgs, uri: &str, find: &Find) -> Result<Plan, Failed> {
    let config = Config::load(args.file.to_look_at()?).map_err(|errors| errors.to_string())?;
    let uri = args.file.deployment(uri).map_err(|(message, hint)| {
        let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
        format!("error: --mongodb: {message}{hint}")
    })?;
    let runtime =
        runtime().map_err(|error| format!("error: no runtime could be started: {error}"))?;
    let namespace = (find.database.as_str(), find.collection.as_str());
    let bounds = bounds(config.snapshot);
    let planned = runtime.block_on(inspection::plan_uri(&uri, namespace, &find.query, bounds));
    planned.map_err(|error| match error {
        ProbeError::Unavailable(reason) => Failed {
            message: format!("error: MongoDB is unavailable: {reason}"),
            code: UNAVAILABLE,
        },
        ProbeError::Unusable(reason) | ProbeError::Invalid(reason) => {
            format!("error: {reason}").into()
        }
    })
}

fn explain_event(
    args: &ExplainArgs,
    filter: &Arc<Filter>,
    claims: &Claims,
    written: &Document,
) -> Result<String, String> {
    let bound =
        filter.bind_unasked(&args.params, Some(claims.document())).map_err(|e| refused(&e))?;
    let event =
        trial::event_from(filter, written).map_err(|message| format!("error: {message}"))?;
    // Without claims, the question is about the filter alone.
    let caller = (!args.claims.is_empty()).then(|| claims.document());
    let is_refused = caller.is_some_and(|caller| {
        matches!(filter.bind(&args.params, Some(caller)), Err(BindError::NotAdmitted))
    });
    let outcome = match is_refused {
        true => Trial::NotSent(Reason::NotAdmitted),
        false => trial::try_event(filter, bound, &event),
    };
    let is_of_tail = written.contains_key("event") && filter.projection.is_some();
    let note = (is_of_tail && is_missing_a_field(&outcome)).then_some(
        "`tail` prints what `project` shows, and a condition may need more: give the whole document",
    );
    if args.output == Output::Json {
        let mut told = outcome.to_json();
        told["stream"] = json!(filter.name);
        if let Some(note) = note {
            told["note"] = json!(note);
        }
        return Ok(format!("{told:#}\n"));
    }
    Ok(match &outcome {
        Trial::NotSent(reason) => {
            let note = note.map(|note| format!("note: {note}\n")).unwrap_or_default();
            format!("not sent: {reason}\n{note}")
        }
        Trial::Sent { event, data } => {
            let view = outcome.view().map(|view| format!(", view {view}")).unwrap_or_default();
            format!("sent: {event}{view}\n{data:#}\n")
        }
    })
}

/// Whether a condition on a field decided that the document lacks.
fn is_missing_a_field(outcome: &Trial) -> bool {
    matches!(outcome, Trial::NotSent(Reason::Condition { objection, .. }) if objection.saw.is_empty())
}

fn refused(error: &BindError) -> String {
    let flag = match error {
        BindError::Parameter(_) => "--param",
        _ => "--claim",
    };
    format!("error: {error}; give it with {flag} NAME=VALUE")
}

fn read_event(file: &Path) -> Result<Document, String> {
    let mut bytes = Vec::new();
    let outcome = if file == Path::new("-") {
        std::io::stdin().take(MAX_EVENT_BYTES).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file)
            .and_then(|opened| opened.take(MAX_EVENT_BYTES).read_to_end(&mut bytes))
    };
    outcome.map_err(|error| format!("error: cannot read {}: {error}", file.display()))?;
    let text =
        String::from_utf8(bytes).map_err(|_| format!("error: {} is not UTF-8", file.display()))?;
    filter::parse_document(file, &text).map_err(|diagnostics| {
        diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    })
}
