//! Runs the examples of filter files: compares `expect` with what a client would receive.

use std::sync::Arc;

use bson::{Document, RawDocumentBuf};
use serde_json::Value;

use super::trial::{self, Reason, Trial};
use crate::diagnostic::Diagnostic;
use crate::event::json::write_relaxed_document;
use crate::filter::{BindError, Bound, Example, Expect, Filter, FilterSet};

/// So many lines of a difference are shown.
const MAX_LINES: usize = 20;

/// Runs all examples of a set of filters: how many there are, and those that fail.
pub fn run(filters: &FilterSet) -> (usize, Vec<Diagnostic>) {
    let all = filters
        .0
        .values()
        .flat_map(|filter| filter.examples.iter().map(move |example| (filter, example)));
    let mut count = 0;
    let failed = all
        .inspect(|_| count += 1)
        .filter_map(|(filter, example)| run_one(filter, example).err().map(|wrong| *wrong))
        .collect();
    (count, failed)
}

fn run_one(filter: &Arc<Filter>, example: &Example) -> Result<(), Box<Diagnostic>> {
    let name = &example.name;
    let expected = example.expect;
    let bound: Bound = match filter.bind(&example.params, example.claims.as_deref()) {
        Ok(bound) => bound,
        // Who may not listen gets nothing.
        Err(BindError::Parameter(error)) => {
            let hint = Some("correct `params`".into());
            return Err(example.wrong_outcome(format!("{name}: {error}"), hint).into());
        }
        Err(_) if expected == Expect::None => return Ok(()),
        Err(error) => {
            let message =
                format!("{name}: expected {}, but the caller is refused: {error}", expected.name());
            let hint = Some("give the caller's claims under `claims`".into());
            return Err(example.wrong_outcome(message, hint).into());
        }
    };
    let event =
        trial::event_of(filter, example.operation, example.before.as_ref(), example.after.as_ref());
    let Some(event) = event else {
        let message = format!("{name}: the documents are not valid BSON");
        return Err(example.wrong_outcome(message, None).into());
    };
    let outcome = trial::try_event(filter, bound, &event);
    check_outcome(example, &outcome)?;
    match (&example.shows, &outcome) {
        (Some(shows), Trial::Sent { data, .. }) => {
            check_document(example, shows, trial::shown_document(data))
        }
        (Some(_), Trial::NotSent(_)) => {
            let message = format!("{name}: nothing is sent, so nothing is shown");
            Err(example.wrong_document(message, Some("remove `shows`".into())).into())
        }
        (None, _) => Ok(()),
    }
}

fn check_outcome(example: &Example, outcome: &Trial) -> Result<(), Box<Diagnostic>> {
    let got = match outcome {
        Trial::NotSent(_) => "none",
        Trial::Sent { event: "reset", .. } => "a reset",
        Trial::Sent { .. } => outcome.view().unwrap_or("sent"),
    };
    let is_met = match example.expect {
        Expect::Sent => matches!(outcome, Trial::Sent { event, .. } if *event != "reset"),
        expected => expected.name() == got,
    };
    if is_met {
        return Ok(());
    }
    let hint = match outcome {
        Trial::NotSent(reason @ Reason::KeyAlone("delete")) => {
            format!("{reason}; `fullDocumentBeforeChange: whenAvailable` provides the document")
        }
        Trial::NotSent(reason) => reason.to_string(),
        Trial::Sent { event, .. } if example.expect == Expect::None => {
            format!("all conditions hold, so the {event} is sent")
        }
        Trial::Sent { event: "reset", .. } => {
            "an image that the file requires is missing".to_owned()
        }
        Trial::Sent { .. } => {
            "the view follows from whether the documents before and after match".to_owned()
        }
    };
    let message = format!("{}: expected {}, got {got}", example.name, example.expect.name());
    Err(example.wrong_outcome(message, Some(hint)).into())
}

fn check_document(example: &Example, shows: &Document, got: &Value) -> Result<(), Box<Diagnostic>> {
    let expected = RawDocumentBuf::try_from(shows).ok().and_then(|raw| {
        let mut text = Vec::new();
        write_relaxed_document(&raw, &mut text);
        serde_json::from_slice::<Value>(&text).ok()
    });
    let expected = expected.unwrap_or_default();
    let mut lines = Vec::new();
    difference("", Some(&expected), Some(got), &mut lines);
    if lines.is_empty() {
        return Ok(());
    }
    if lines.len() > MAX_LINES {
        let more = lines.len() - MAX_LINES;
        lines.truncate(MAX_LINES);
        lines.push(format!("… and {more} more"));
    }
    let lines: String = lines.iter().map(|line| format!("\n    {line}")).collect();
    let message = format!("{}: the document that is sent differs from `shows`", example.name);
    Err(example.wrong_document(message, Some(format!("- expected, + sent{lines}"))).into())
}

/// The fields in which two documents differ. The order of fields means nothing to a client.
fn difference(path: &str, expected: Option<&Value>, got: Option<&Value>, lines: &mut Vec<String>) {
    if let (Some(Value::Object(expected)), Some(Value::Object(got))) = (expected, got) {
        let keys = expected.keys().chain(got.keys().filter(|key| !expected.contains_key(*key)));
        for key in keys {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            difference(&path, expected.get(key), got.get(key), lines);
        }
        return;
    }
    if expected == got {
        return;
    }
    lines.extend(expected.map(|value| format!("- {path}: {value}")));
    lines.extend(got.map(|value| format!("+ {path}: {value}")));
}
