//! Admission reviews (`admission.k8s.io/v1`): bytes in, the answer's JSON out. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::json_patch;
use super::pod::{self, Outcome, Situation};
use super::{Platform, Version, workload};

/// The version of the API that is spoken.
const API_VERSION: &str = "admission.k8s.io/v1";

/// What was decided; for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Injected,
    /// Left alone, and its owner was told why.
    Warned,
    Unchanged,
    Refused,
}

impl Decision {
    /// As the metrics call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Decision::Injected => "injected",
            Decision::Warned => "warned",
            Decision::Unchanged => "unchanged",
            Decision::Refused => "refused",
        }
    }
}

/// An answered review.
#[derive(Debug)]
pub struct Answered {
    /// The review to send back.
    pub review: Value,
    pub verdict: Decision,
    /// `namespace/name` of the pod, for the log.
    pub pod: String,
}

/// A body that is no review that can be answered: it has no `uid` to answer to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    #[error("the body is not an AdmissionReview of {API_VERSION}")]
    NotReview,
    #[error("the review has no request with a uid")]
    NoRequest,
    #[error("the body has more than {MAX_VALUES} values")]
    TooManyValues,
}

/// No pod has nearly that many. Two characters of text can be a value, which is 72 bytes in memory.
const MAX_VALUES: usize = 100_000;

/// Counts the values of a JSON text, without reading it: never too few.
fn values(body: &[u8]) -> usize {
    let (mut found, mut is_text, mut is_escaped) = (1, false, false);
    for &byte in body {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_text => is_escaped = true,
            b'"' => is_text = !is_text,
            b',' | b'[' | b'{' if !is_text => found += 1,
            _ => {}
        }
    }
    found
}

/// Answers one review.
///
/// # Errors
/// [`Malformed`]: an answer with status 400.
pub fn answer(body: &[u8], platform: &Platform, version: Version) -> Result<Answered, Malformed> {
    if values(body) > MAX_VALUES {
        return Err(Malformed::TooManyValues);
    }
    let review: Value =
        serde_json::from_slice(body).map_err(|error| Malformed::NotJson(error.to_string()))?;
    let is = |key: &str, expected: &str| review.get(key).is_some_and(|found| found == expected);
    if !is("apiVersion", API_VERSION) || !is("kind", "AdmissionReview") {
        return Err(Malformed::NotReview);
    }
    let request = review.get("request").filter(|request| request.is_object());
    let uid = request.and_then(|request| request.get("uid")).and_then(Value::as_str);
    let (Some(request), Some(uid)) = (request, uid.filter(|uid| !uid.is_empty())) else {
        return Err(Malformed::NoRequest);
    };
    let object = request.get("object").unwrap_or(&Value::Null);
    let pod = pod_name(request, object);
    let (response, verdict) = decide(request, object, platform, version);
    let mut response = response;
    response["uid"] = uid.into();
    let review = json!({
        "apiVersion": API_VERSION,
        "kind": "AdmissionReview",
        "response": response,
    });
    Ok(Answered { review, verdict, pod })
}

fn decide(
    request: &Value,
    object: &Value,
    platform: &Platform,
    version: Version,
) -> (Value, Decision) {
    let is_created_pod = request.pointer("/kind/kind").is_some_and(|kind| kind == "Pod")
        && request.pointer("/kind/group").is_none_or(|group| group == "")
        && request.get("operation").is_some_and(|operation| operation == "CREATE")
        && request.get("subResource").is_none_or(|name| name.is_null() || name == "");
    if !is_created_pod {
        // A rule that sends more than was asked for must not keep anything from being made.
        return (json!({ "allowed": true }), Decision::Unchanged);
    }
    let is_of_job = workload::is_owned_by_job(object);
    match pod::inject(object, Situation { platform, version, is_of_job }) {
        Outcome::Injected { pod, warnings, .. } => {
            let steps: Vec<Value> =
                json_patch::diff(object, &pod).iter().map(json_patch::Step::to_json).collect();
            let patch = STANDARD.encode(Value::Array(steps).to_string());
            let mut response = json!({ "allowed": true, "patchType": "JSONPatch", "patch": patch });
            warn(&mut response, &warnings);
            (response, Decision::Injected)
        }
        Outcome::Unchanged { warning: Some(warning) } => {
            let mut response = json!({ "allowed": true });
            warn(&mut response, &[warning]);
            (response, Decision::Warned)
        }
        Outcome::Unchanged { warning: None } => (json!({ "allowed": true }), Decision::Unchanged),
        Outcome::Refused(mistakes) => {
            let sentences: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
            let message = cut(&format!("sidestream: {}", sentences.join("; ")), MAX_MESSAGE_CHARS);
            let status = json!({ "code": 403, "reason": "Forbidden", "message": message });
            (json!({ "allowed": false, "status": status }), Decision::Refused)
        }
    }
}

/// A pod may have as many wrong annotations as fit into it.
const MAX_MESSAGE_CHARS: usize = 2000;
/// Kubernetes cuts longer warnings.
const MAX_WARNING_CHARS: usize = 256;

fn warn(response: &mut Value, warnings: &[String]) {
    if warnings.is_empty() {
        return;
    }
    let warnings = warnings
        .iter()
        .map(|warning| Value::from(cut(&format!("sidestream: {warning}"), MAX_WARNING_CHARS)));
    response["warnings"] = warnings.collect();
}

fn cut(text: &str, max_chars: usize) -> String {
    match text.char_indices().nth(max_chars) {
        None => text.to_owned(),
        Some(_) => text.chars().take(max_chars - 1).chain(['…']).collect(),
    }
}

/// Pods that a controller makes have no name yet.
fn pod_name(request: &Value, object: &Value) -> String {
    fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
        value.get(key)?.as_str().filter(|text| !text.is_empty())
    }
    let namespace = text(request, "namespace").unwrap_or("?");
    let metadata = object.get("metadata").unwrap_or(&Value::Null);
    let name = text(metadata, "name").or_else(|| text(metadata, "generateName"));
    let shown: String = format!("{namespace}/{}", name.unwrap_or("?"))
        .chars()
        .take(MAX_WARNING_CHARS)
        .map(|c| if c.is_control() { '�' } else { c })
        .collect();
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn review(object: Value) -> Value {
        json!({
            "apiVersion": API_VERSION,
            "kind": "AdmissionReview",
            "request": {
                "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
                "kind": { "group": "", "version": "v1", "kind": "Pod" },
                "operation": "CREATE",
                "namespace": "shop",
                "object": object,
            },
        })
    }

    fn ask(review: &Value) -> Result<Answered, Malformed> {
        answer(review.to_string().as_bytes(), &Platform::default(), Version::CURRENT)
    }

    #[test]
    fn what_cannot_be_answered() {
        let ask = |body: &[u8]| answer(body, &Platform::default(), Version::CURRENT).unwrap_err();
        assert!(matches!(ask(b""), Malformed::NotJson(_)));
        assert!(matches!(ask(b"{\"a\":"), Malformed::NotJson(_)));
        assert!(matches!(ask("[".repeat(90_000).as_bytes()), Malformed::NotJson(_)));
        assert_eq!(ask("[".repeat(100_000).as_bytes()), Malformed::TooManyValues);
        assert_eq!(
            ask(format!("[{}1]", "1,".repeat(100_000)).as_bytes()),
            Malformed::TooManyValues
        );
        // Commas in text are no values.
        let text = format!("[\"{}\\\"{}\"]", ",".repeat(90_000), "[".repeat(90_000));
        assert_eq!(ask(text.as_bytes()), Malformed::NotReview);
        assert_eq!(ask(b"[]"), Malformed::NotReview);
        assert_eq!(ask(b"null"), Malformed::NotReview);
        let mut old = review(json!({}));
        old["apiVersion"] = "admission.k8s.io/v1beta1".into();
        assert_eq!(ask(old.to_string().as_bytes()), Malformed::NotReview);
        for request in
            [json!(null), json!([]), json!({}), json!({ "uid": 3 }), json!({ "uid": "" })]
        {
            let mut bad = review(json!({}));
            bad["request"] = request;
            assert_eq!(ask(bad.to_string().as_bytes()), Malformed::NoRequest);
        }
    }

    #[test]
    fn what_is_no_created_pod_is_let_through() {
        for (pointer, value) in [
            ("/request/kind/kind", json!("Deployment")),
            ("/request/operation", json!("UPDATE")),
            ("/request/object", json!(null)),
            ("/request/object", json!({ "spec": 3 })),
            ("/request/object", json!({ "metadata": 3, "spec": { "containers": {} } })),
        ] {
            let mut review = review(json!({ "spec": { "containers": [] } }));
            *review.pointer_mut(pointer).unwrap() = value;
            let answered = ask(&review).unwrap();
            assert_eq!(answered.review["response"]["allowed"], true, "{pointer}");
            assert!(answered.review["response"].get("patch").is_none());
        }
    }

    #[test]
    fn a_refusal_is_a_sentence_of_bounded_length() {
        let mut annotations = serde_json::Map::new();
        for index in 0..1000 {
            annotations.insert(format!("sidestream/x{index}"), "x".into());
        }
        let pod =
            json!({ "metadata": { "annotations": annotations }, "spec": { "containers": [] } });
        let answered = ask(&review(pod)).unwrap();
        let response = &answered.review["response"];
        assert_eq!(response["allowed"], false);
        assert_eq!(response["uid"], "705ab4f5-6393-11e8-b7cc-42010a800002");
        let message = response["status"]["message"].as_str().unwrap();
        assert!(message.starts_with("sidestream: sidestream/x0: there is no such annotation"));
        assert!(message.chars().count() <= MAX_MESSAGE_CHARS);
    }
}
