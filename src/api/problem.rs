//! Errors as `application/problem+json` ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)).

use bytes::Bytes;
use serde_json::json;

/// Of the body.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// One refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub status: u16,
    pub detail: String,
    /// Further header fields, such as `Allow` or `Retry-After`.
    pub headers: Vec<(&'static str, String)>,
}

impl Problem {
    /// `status` is that of HTTP; `detail` is one sentence for whoever reads it, without secrets.
    pub fn new(status: u16, detail: impl Into<String>) -> Problem {
        Problem { status, detail: detail.into(), headers: Vec::new() }
    }

    /// Adds a header field to the response, behind those that are there.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Problem {
        self.headers.push((name, value.into()));
        self
    }

    /// The phrase of the status.
    pub fn title(&self) -> &'static str {
        http::StatusCode::from_u16(self.status)
            .ok()
            .and_then(|status| status.canonical_reason())
            .unwrap_or("Error")
    }

    /// The members of RFC 9457, with `about:blank` as the type: the status says which problem it
    /// is.
    pub fn to_json(&self) -> serde_json::Value {
        json!({
            "type": "about:blank",
            "title": self.title(),
            "status": self.status,
            "detail": self.detail,
        })
    }

    /// The JSON, as it is sent.
    pub fn body(&self) -> Bytes {
        Bytes::from(self.to_json().to_string())
    }
}
