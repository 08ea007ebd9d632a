//! The console: one page, that asks this port for the rest.
//!
//! It brings everything along and may fetch from nowhere else: its policy names the digests of its
//! own script and style, so that nothing that is shown on it could ever run.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue, Response, header};
use sha2::{Digest, Sha256};

use super::answer;

const STYLE: &str = include_str!("console.css");
const SCRIPT: &str = include_str!("console.js");

/// Where the page has its token, and whether it may show events.
const TOKEN: &str = "PAGE-TOKEN";
const TAP: &str = "PAGE-TAP";

/// The page as sent, but for its token, and its policy.
static PAGE: LazyLock<(String, String)> = LazyLock::new(|| {
    let page = include_str!("console.html")
        .replace("<style></style>", &format!("<style>{STYLE}</style>"))
        .replace("<script></script>", &format!("<script>{SCRIPT}</script>"));
    let digest = |text: &str| STANDARD.encode(Sha256::digest(text));
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        digest(SCRIPT),
        digest(STYLE)
    );
    (page, policy)
});

/// The page, with the token that it proves itself by.
pub(super) fn page(token: Option<&str>, may_tap: bool) -> Response<Vec<u8>> {
    let (page, policy) = &*PAGE;
    let page = page.replace(TOKEN, token.unwrap_or_default());
    let page = page.replace(TAP, if may_tap { "on" } else { "off" });
    let mut response = answer(200, "text/html; charset=utf-8", page.into_bytes());
    let headers = response.headers_mut();
    // Base64 and words: valid in a field.
    if let Ok(policy) = HeaderValue::from_str(policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(
        HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("same-origin"),
    );
    response
}
