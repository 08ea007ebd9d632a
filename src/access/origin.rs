//! Which pages may open streams, and which CORS headers they receive.
//!
//! Pages of other origins must not read a user's streams with the user's cookies. Only pages of the
//! app's own origin, of allowed origins, and clients other than browsers may open streams.

/// What a request tells about the page that it comes from.
#[derive(Debug, Clone, Copy, Default)]
pub struct Origin<'a> {
    /// `Origin`
    pub origin: Option<&'a [u8]>,
    /// `Sec-Fetch-Site`, from browsers that send no `Origin` with this request.
    pub fetch_site: Option<&'a [u8]>,
    /// `Host` or `:authority`, or what a trusted proxy says it was.
    pub host: Option<&'a [u8]>,
    /// `http` or `https`, where that is known: of our own TLS, or from a trusted proxy.
    pub scheme: Option<&'a [u8]>,
}

/// Whose page it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Page {
    /// The app's own, or no page at all.
    Own,
    /// One that is allowed by name: this one, as the browser wrote it.
    Allowed(String),
    Foreign,
}

/// Decides by `Origin`, and by `Sec-Fetch-Site` where there is none.
pub fn page(request: Origin<'_>, allowed: &[String]) -> Page {
    match (request.origin, request.fetch_site) {
        (Some(origin), _) if is_same(origin, request) => Page::Own,
        (Some(origin), _) => match std::str::from_utf8(origin) {
            Ok(origin) if allowed.iter().any(|known| known.eq_ignore_ascii_case(origin)) => {
                Page::Allowed(origin.to_owned())
            }
            _ => Page::Foreign,
        },
        (None, Some(site)) => {
            let is_own =
                site.eq_ignore_ascii_case(b"same-origin") || site.eq_ignore_ascii_case(b"none");
            if is_own { Page::Own } else { Page::Foreign }
        }
        (None, None) => Page::Own,
    }
}

fn is_same(origin: &[u8], request: Origin<'_>) -> bool {
    let Some(at) = origin.windows(3).position(|part| part == b"://") else { return false };
    let (scheme, authority) = (&origin[..at], &origin[at + 3..]);
    let Some(host) = request.host else { return false };
    // Behind a proxy that does not say so, TLS may have ended: then only the host can be compared.
    request.scheme.is_none_or(|known| known.eq_ignore_ascii_case(scheme))
        && without_port(authority, scheme).eq_ignore_ascii_case(without_port(host, scheme))
}

/// The authority without the port that its scheme has anyway.
fn without_port<'a>(authority: &'a [u8], scheme: &[u8]) -> &'a [u8] {
    let port: &[u8] = if scheme.eq_ignore_ascii_case(b"https") { b":443" } else { b":80" };
    authority.strip_suffix(port).unwrap_or(authority)
}

/// What a browser on this page is told with every answer, refusals included.
pub fn headers(page: &Page, allowed: &[String]) -> Vec<(&'static str, String)> {
    // Caches would mix up answers to different pages; without allowed pages there are none.
    let mut headers = Vec::new();
    if !allowed.is_empty() {
        headers.push(("Vary", "Origin".to_owned()));
    }
    if let Page::Allowed(origin) = page {
        headers.push(("Access-Control-Allow-Origin", origin.clone()));
        headers.push(("Access-Control-Allow-Credentials", "true".to_owned()));
        headers.push(("Access-Control-Expose-Headers", "Retry-After, WWW-Authenticate".to_owned()));
    }
    headers
}

/// What a browser on an allowed page is told before it asks: the fields that a client of streams
/// sends.
pub const PREFLIGHT: [(&str, &str); 3] = [
    ("Access-Control-Allow-Methods", "GET, HEAD"),
    ("Access-Control-Allow-Headers", "Authorization, Cache-Control, Last-Event-ID"),
    ("Access-Control-Max-Age", "600"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_elsewhere_are_refused() {
        let allowed = vec!["https://shop.example".to_owned(), "http://a:8081".to_owned()];
        let ok = |name: &str| Page::Allowed(name.to_owned());
        for (origin, fetch_site, host, scheme, expected) in [
            (None, None, "a", None, Page::Own),
            (Some("http://a"), None, "a", None, Page::Own),
            (Some("http://a:80"), None, "A", None, Page::Own),
            (Some("https://a"), None, "a:443", None, Page::Own),
            (Some("https://a"), None, "a", Some("https"), Page::Own),
            (Some("http://a"), None, "a", Some("https"), Page::Foreign),
            (Some("https://a"), None, "a", Some("http"), Page::Foreign),
            (Some("http://a:8080"), None, "a:8080", None, Page::Own),
            (Some("http://a:8080"), None, "a", None, Page::Foreign),
            (Some("http://b"), Some("same-origin"), "a", None, Page::Foreign),
            (Some("http://a.b"), None, "a", None, Page::Foreign),
            (Some("http://b.a"), None, "a", None, Page::Foreign),
            (Some("null"), None, "a", None, Page::Foreign),
            (Some(""), None, "a", None, Page::Foreign),
            (None, Some("same-origin"), "a", None, Page::Own),
            (None, Some("none"), "a", None, Page::Own),
            (None, Some("same-site"), "a", None, Page::Foreign),
            (None, Some("cross-site"), "a", None, Page::Foreign),
            (
                Some("https://shop.example"),
                Some("cross-site"),
                "a",
                None,
                ok("https://shop.example"),
            ),
            (Some("http://shop.example"), None, "a", None, Page::Foreign),
            (Some("https://shop.example.evil"), None, "a", None, Page::Foreign),
            (Some("https://shop.example:444"), None, "a", None, Page::Foreign),
            (Some("http://a:8081"), None, "a", None, ok("http://a:8081")),
        ] {
            let request = Origin {
                origin: origin.map(str::as_bytes),
                fetch_site: fetch_site.map(str::as_bytes),
                host: Some(host.as_bytes()),
                scheme: scheme.map(str::as_bytes),
            };
            assert_eq!(page(request, &allowed), expected, "{origin:?} {fetch_site:?} {host}");
        }
    }
}
