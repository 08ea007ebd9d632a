//! The token of the console's page. Only that page may make changes.
//!
//! A new token is made for each process. A page of another origin can make a browser send a POST
//! here, but cannot read the token, which is in the page's text. A page whose name resolves to this
//! port (DNS rebinding) has already been refused because of its `Host`.

use http::HeaderMap;
use tokio_rustls::rustls::crypto::ring;

use super::origin;

/// The field that brings it: one that no form sends.
pub(super) const FIELD: &str = "sidestream-token";

/// A token, in hexadecimal digits. `None`: the system gives no random bytes, and nothing can be
/// changed from the page.
pub(super) fn make() -> Option<String> {
    let mut bytes = [0; 16];
    ring::default_provider().secure_random.fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whether a request comes from the page: by its token, and by what the browser says of its origin.
pub(super) fn is_from_own_page(headers: &HeaderMap, token: &Option<String>) -> bool {
    let has_token = match (origin::value(headers, FIELD), token) {
        (Some(given), Some(token)) => is_same(given.as_bytes(), token.as_bytes()),
        _ => false,
    };
    let has_own_site = !headers.contains_key("sec-fetch-site")
        || origin::value(headers, "sec-fetch-site") == Some("same-origin");
    has_token && origin::has_own_origin(headers) && has_own_site
}

/// In the same time wherever they differ.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let difference = one.iter().zip(other).fold(0, |found, (a, b)| found | (a ^ b));
    one.len() == other.len() && difference == 0
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn only_the_page_itself_may() {
        let token = make();
        let own = token.clone().unwrap();
        assert_eq!(own.len(), 32);
        assert_ne!(make(), token);
        let host = ("host", "localhost:9180");
        let mine = (FIELD, own.as_str());
        for (fields, is_allowed) in [
            (&[host, mine][..], true),
            (&[host, mine, ("origin", "http://localhost:9180")], true),
            (&[host, mine, ("sec-fetch-site", "same-origin")], true),
            (&[host], false),
            (&[host, (FIELD, &own[1..])], false),
            (&[host, (FIELD, "")], false),
            (&[host, mine, mine], false),
            (&[host, mine, ("origin", "http://localhost:9181")], false),
            (&[host, mine, ("origin", "https://evil.example")], false),
            (&[host, mine, ("origin", "null")], false),
            (&[mine, ("origin", "http://localhost:9180")], false),
            (&[host, mine, ("sec-fetch-site", "same-site")], false),
            (&[host, mine, ("sec-fetch-site", "none")], false),
        ] {
            let fields = fields.iter().map(|(name, value)| {
                (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
            });
            let mut headers = HeaderMap::new();
            fields.for_each(|(name, value)| {
                headers.append(name, value);
            });
            assert_eq!(is_from_own_page(&headers, &token), is_allowed, "{headers:?}");
            assert!(!is_from_own_page(&headers, &None));
        }
    }
}
