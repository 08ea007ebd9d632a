//! The filter files: what is in force, what is wrong with them, and what one of them becomes.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use http::Response;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::{Admin, refuse};
use crate::access::claims::Claims;
use crate::diagnostic::{Diagnostic, Source};
use crate::filter::{self, Access, Filter, FilterSet};
use crate::matcher::Placeholder;
use crate::session::explain::Explanation;
use crate::session::trial::{self, Trial};

impl Admin {
    /// Each stream with its file, its state and its diagnostics; then what is wrong beside.
    pub(super) fn filters(&self) -> Response<Vec<u8>> {
        let told = self.findings.look();
        let declared = self.catalog.declared();
        let streams = self.catalog.streams();
        let by_name: HashMap<&str, &Arc<Filter>> =
            declared.iter().map(|filter| (filter.name.as_str(), filter)).collect();
        let mut by_stream: HashMap<&str, Vec<Value>> =
            streams.iter().map(|stream| (stream.name.as_str(), Vec::new())).collect();
        let mut beside = Vec::new();
        for diagnostic in &told.diagnostics {
            let of_it = match stream_of(&told.dir, diagnostic) {
                Some(stream) => by_stream.get_mut(stream.as_str()),
                None => None,
            };
            of_it.unwrap_or(&mut beside).push(shown(diagnostic));
        }
        let filters: Vec<Value> = streams
            .iter()
            .map(|stream| {
                let name = stream.name.as_str();
                json!({
                    "stream": stream.name,
                    "state": stream.state.name(),
                    "in_force": stream.is_in_force,
                    "reason": stream.reason,
                    "declared": by_name.get(name).map(|filter| declaration(filter)),
                    "diagnostics": by_stream.get(name),
                })
            })
            .collect();
        super::json(200, &json!({ "filters": filters, "diagnostics": beside }))
    }

    /// `?stream=NAME`, with `&param=NAME=VALUE` and `&claim=NAME=VALUE` as often as needed: what
    /// `sidestream explain` says of the files in force.
    pub(super) fn explain(&self, query: &str) -> Response<Vec<u8>> {
        let Question { filter, set, params, claims } = match self.question(query) {
            Ok(question) => question,
            Err((status, why)) => return refuse(status, &why),
        };
        match Explanation::of(&filter, &set, &params, claims.document()) {
            Ok(explanation) => super::json(200, &explanation.to_json()),
            Err(error) => refuse(400, &error.to_string()),
        }
    }

    /// The same of one event or document, which is the body: whether it is sent, as what, and which
    /// condition decided.
    pub(super) fn try_event(&self, query: &str, body: &[u8]) -> Response<Vec<u8>> {
        let Question { filter, params, claims, .. } = match self.question(query) {
            Ok(question) => question,
            Err((status, why)) => return refuse(status, &why),
        };
        match tried(&filter, &params, &claims, body) {
            Ok(trial) => super::json(200, &trial.to_json()),
            Err(why) => refuse(400, &why),
        }
    }

    fn question(&self, query: &str) -> Result<Question, (u16, String)> {
        let (mut stream, mut params, mut claims) = (None, Vec::new(), Vec::new());
        for (key, value) in pairs(query) {
            let list = match key.as_str() {
                "stream" => {
                    stream = Some(value);
                    continue;
                }
                "param" => &mut params,
                "claim" => &mut claims,
                _ => {
                    let reason =
                        format!("unknown parameter `{key}`; known are stream, param, claim");
                    return Err((400, reason));
                }
            };
            let Some((name, value)) = value.split_once('=') else {
                return Err((400, format!("`{key}`: write it as NAME=VALUE")));
            };
            list.push((name.to_owned(), value.to_owned()));
        }
        let stream = stream.ok_or((400, "name the stream: ?stream=NAME".to_owned()))?;
        let filters = self.catalog.filters();
        let set = FilterSet(filters.into_iter().map(|it| (it.name.clone(), it)).collect());
        let filter = set.0.get(&stream).cloned();
        let filter = filter.ok_or((404, "there is no such stream".to_owned()))?;
        Ok(Question { filter, set, params, claims: Claims::of_pairs(&claims) })
    }
}

/// What is asked about a stream: with which values.
struct Question {
    filter: Arc<Filter>,
    set: FilterSet,
    params: Vec<(String, String)>,
    claims: Claims,
}

fn tried(
    filter: &Arc<Filter>,
    params: &[(String, String)],
    claims: &Claims,
    body: &[u8],
) -> Result<Trial, String> {
    let text = std::str::from_utf8(body).map_err(|_| "the event is not UTF-8".to_owned())?;
    let written = filter::parse_document(Path::new("event"), text).map_err(|diagnostics| {
        diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    })?;
    let bound = filter.bind_unasked(params, Some(claims.document()));
    let bound = bound.map_err(|error| error.to_string())?;
    Ok(trial::try_event(filter, bound, &trial::event_from(filter, &written)?))
}

/// What the file says, as far as it can be said in a line.
fn declaration(filter: &Filter) -> Value {
    json!({
        "description": filter.description,
        "database": filter.namespace.database,
        "collection": filter.namespace.collection,
        "access": match &filter.access {
            Access::Public => "public",
            Access::Authenticated => "authenticated",
            Access::Match(_) => "match",
        },
        "operations": filter.operations.names().collect::<Vec<_>>(),
        "snapshot": filter.snapshot().is_some(),
        "params": filter.params.to_json(),
        "claims": claims(filter),
    })
}

/// The claims of a caller that `match` names, each once, in alphabetical order.
fn claims(filter: &Filter) -> BTreeSet<&str> {
    let uses = filter.template.uses().iter();
    uses.filter_map(|it| match &it.placeholder {
        Placeholder::Claim(claim) => Some(claim.path.as_str()),
        Placeholder::Param(_) => None,
    })
    .collect()
}

/// A diagnostic as `check --output json` has it, and as `check` prints it: `text`.
fn shown(diagnostic: &Diagnostic) -> Value {
    let mut shown = diagnostic.to_json();
    shown["text"] = diagnostic.to_string().into();
    shown
}

/// The stream of the file that a diagnostic is about.
fn stream_of(dir: &Path, diagnostic: &Diagnostic) -> Option<String> {
    let Source::File { path, .. } = &diagnostic.origin else { return None };
    let below = path.strip_prefix(dir).ok()?.with_extension("");
    // As files are named in a ConfigMap, whose keys have no `/`.
    below.to_str().map(|name| name.replace("__", "/"))
}

/// A query, decoded as forms are.
pub(super) fn pairs(query: &str) -> impl Iterator<Item = (String, String)> + '_ {
    let decode = |text: &str| {
        let text = text.replace('+', " ");
        percent_decode_str(&text).decode_utf8_lossy().into_owned()
    };
    query.split('&').filter(|pair| !pair.is_empty()).map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key), decode(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnostic_is_of_the_stream_of_its_file() {
        let dir = Path::new("/filters");
        let of = |file: &str| {
            let found = filter::parse_document(&dir.join(file), "{ nothing");
            stream_of(dir, &found.unwrap_err()[0])
        };
        assert_eq!(of("orders.yaml").as_deref(), Some("orders"));
        assert_eq!(of("shop/orders.json").as_deref(), Some("shop/orders"));
        assert_eq!(of("shop__orders.yml").as_deref(), Some("shop/orders"));
    }

    #[test]
    fn a_query_is_a_form() {
        let of = |query| pairs(query).collect::<Vec<_>>();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(
            of("stream=a%2Fb&param=x=1+%2B&&y"),
            [pair("stream", "a/b"), pair("param", "x=1 +"), pair("y", "")]
        );
        assert_eq!(of("%ff=%"), [pair("\u{fffd}", "%")]);
    }
}
