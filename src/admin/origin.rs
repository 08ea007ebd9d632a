//! What a browser says about the page that makes it send a request.
//!
//! The port has no sign-in: whoever reaches it may read it. A page of another origin, in a browser
//! that reaches it, may not. Browsers do not hand such a page the answer; it is refused all the
//! same, so that nothing depends on what kind of request the page finds.

use http::{HeaderMap, header};

/// Whether a page of another origin has sent it. Links and addresses typed by a person open the
/// console from anywhere; what is no browser says nothing of all this.
pub(super) fn is_foreign(headers: &HeaderMap) -> bool {
    let is_other_site = match value(headers, "sec-fetch-site") {
        None => headers.contains_key("sec-fetch-site"),
        Some("same-origin" | "none") => false,
        Some(_) => {
            let is = |name, wanted| value(headers, name) == Some(wanted);
            !(is("sec-fetch-mode", "navigate") && is("sec-fetch-dest", "document"))
        }
    };
    is_other_site || !has_own_origin(headers)
}

/// Whether `Origin`, where there is one, is that of this port, as the browser asked for it.
pub(super) fn has_own_origin(headers: &HeaderMap) -> bool {
    if !headers.contains_key(header::ORIGIN) {
        return true;
    }
    let host = value(headers, header::HOST.as_str());
    let from = value(headers, header::ORIGIN.as_str()).and_then(|origin| origin.split_once("://"));
    from.is_some_and(|(_, from)| host.is_some_and(|host| host.eq_ignore_ascii_case(from)))
}

/// The text of a field that is there once.
pub(super) fn value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn pages_of_other_origins_are_told_from_people_and_programs() {
        let host = ("host", "localhost:9180");
        let site = |value| ("sec-fetch-site", value);
        let (link, page) = (("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document"));
        for (fields, foreign) in [
            (&[host][..], false),
            (&[], false),
            (&[host, ("origin", "http://localhost:9180")], false),
            (&[host, site("same-origin")], false),
            (&[host, site("none"), link, page], false),
            (&[host, site("cross-site"), link, page], false),
            (&[host, site("same-site"), link, page], false),
            (&[host, ("origin", "https://evil.example")], true),
            (&[host, ("origin", "http://localhost:3000")], true),
            (&[host, ("origin", "null")], true),
            (&[("origin", "http://localhost:9180")], true),
            (&[host, ("origin", "http://localhost:9180"), ("origin", "null")], true),
            (&[host, site("cross-site")], true),
            (&[host, site("same-site"), ("sec-fetch-mode", "no-cors")], true),
            (&[host, site("cross-site"), link, ("sec-fetch-dest", "iframe")], true),
            (&[host, site("none"), site("cross-site")], true),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                let name = HeaderName::from_static(name);
                headers.append(name, HeaderValue::from_str(value).unwrap());
            }
            assert_eq!(is_foreign(&headers), foreign, "{headers:?}");
        }
    }
}
