//! Who may open a stream. So far: from which pages.

/// What a request tells about the page that it comes from.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// `Origin`
    pub origin: Option<&'a [u8]>,
    /// `Sec-Fetch-Site`, from browsers that send no `Origin` with this request.
    pub fetch_site: Option<&'a [u8]>,
    /// `Host` or `:authority`, or what a trusted proxy says it was.
    pub host: Option<&'a [u8]>,
}

/// Pages elsewhere must not read a user's streams with the user's cookies: only the app's own may,
/// and whatever is no browser.
pub fn is_same_origin(request: Origin<'_>) -> bool {
    match (request.origin, request.fetch_site) {
        (Some(origin), _) => {
            let authority = origin
                .windows(3)
                .position(|part| part == b"://")
                .map(|at| (&origin[..at], &origin[at + 3..]));
            match (authority, request.host) {
                (Some((scheme, authority)), Some(host)) => {
                    without_port(authority, scheme).eq_ignore_ascii_case(without_port(host, scheme))
                }
                _ => false,
            }
        }
        (None, Some(site)) => {
            site.eq_ignore_ascii_case(b"same-origin") || site.eq_ignore_ascii_case(b"none")
        }
        (None, None) => true,
    }
}

/// The authority without the port that its scheme has anyway.
fn without_port<'a>(authority: &'a [u8], scheme: &[u8]) -> &'a [u8] {
    let port: &[u8] = if scheme.eq_ignore_ascii_case(b"https") { b":443" } else { b":80" };
    authority.strip_suffix(port).unwrap_or(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_elsewhere_are_refused() {
        for (origin, fetch_site, host, expected) in [
            (None, None, "a", true),
            (Some("http://a"), None, "a", true),
            (Some("http://a:80"), None, "A", true),
            (Some("https://a"), None, "a:443", true),
            (Some("http://a:8080"), None, "a:8080", true),
            (Some("http://a:8080"), None, "a", false),
            (Some("http://b"), Some("same-origin"), "a", false),
            (Some("null"), None, "a", false),
            (None, Some("same-origin"), "a", true),
            (None, Some("none"), "a", true),
            (None, Some("same-site"), "a", false),
            (None, Some("cross-site"), "a", false),
        ] {
            let request = Origin {
                origin: origin.map(str::as_bytes),
                fetch_site: fetch_site.map(str::as_bytes),
                host: Some(host.as_bytes()),
            };
            assert_eq!(is_same_origin(request), expected, "{origin:?} {fetch_site:?} {host}");
        }
    }
}
