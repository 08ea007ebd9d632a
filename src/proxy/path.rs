//! Whether a request is for the reserved path, for HTTP/1 and HTTP/2 alike.
//!
//! Decided on the decoded, dot-resolved form ([RFC 3986](https://www.rfc-editor.org/rfc/rfc3986)
//! sections 2.1 and 5.2.4); the original bytes are forwarded. A path whose two forms disagree is
//! refused: some component before or behind the sidecar could interpret it the other way.

use percent_encoding::percent_decode;

/// Whether a request target is for the reserved path or for the app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    App,
    /// The reserved path; the rest of it, without the slash: a stream's name, or nothing.
    Reserved {
        rest: String,
    },
    /// Raw and resolved forms disagree.
    Ambiguous,
}

/// Decides by the request target as sent: origin form, absolute form, or `*`.
pub fn classify(target: &[u8], prefix: &str) -> Target {
    let raw = path_of(target);
    if is_plain(raw) && !is_under(raw, prefix.as_bytes()) {
        return Target::App;
    }
    let resolved = resolve(&percent_decode(raw).collect::<Vec<u8>>());
    let under = |path: &[u8]| -> Option<Vec<u8>> {
        let rest = path.strip_prefix(prefix.as_bytes())?;
        match rest.split_first() {
            None => Some(Vec::new()),
            Some((b'/', rest)) => Some(rest.to_vec()),
            Some(_) => None,
        }
    };
    match (under(raw), under(&resolved)) {
        (None, None) => Target::App,
        (Some(_), Some(rest)) => match String::from_utf8(rest) {
            Ok(rest) => Target::Reserved { rest },
            Err(_) => Target::Ambiguous,
        },
        _ => Target::Ambiguous,
    }
}

/// Whether a path is its own decoded, dot-resolved form, as most are.
fn is_plain(path: &[u8]) -> bool {
    path.starts_with(b"/") && !path.iter().any(|byte| matches!(byte, b'%' | b'.'))
}

fn is_under(path: &[u8], prefix: &[u8]) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.first().is_none_or(|byte| *byte == b'/'))
}

/// The query of a request target, without the question mark.
pub fn query_of(target: &[u8]) -> &[u8] {
    match target.iter().position(|b| *b == b'?') {
        Some(at) => &target[at + 1..],
        None => &[],
    }
}

/// Splits a query into decoded names and values, as HTML forms write them.
pub fn pairs_of(query: &[u8]) -> Vec<(String, String)> {
    let decode = |part: &[u8]| {
        let spaced: Vec<u8> = part.iter().map(|b| if *b == b'+' { b' ' } else { *b }).collect();
        percent_decode(&spaced).decode_utf8_lossy().into_owned()
    };
    query
        .split(|b| *b == b'&')
        .filter(|part| !part.is_empty())
        .map(|part| match part.iter().position(|b| *b == b'=') {
            Some(at) => (decode(&part[..at]), decode(&part[at + 1..])),
            None => (decode(part), String::new()),
        })
        .collect()
}

/// The path: without scheme and authority, query and fragment.
fn path_of(target: &[u8]) -> &[u8] {
    let end = target.iter().position(|b| matches!(b, b'?' | b'#')).unwrap_or(target.len());
    let path = &target[..end];
    if path.starts_with(b"/") {
        return path;
    }
    match path.windows(3).position(|part| part == b"://") {
        Some(at) => {
            let after = &path[at + 3..];
            match after.iter().position(|b| *b == b'/') {
                Some(slash) => &after[slash..],
                None => b"/",
            }
        }
        None => path,
    }
}

/// Removes dot segments. Empty segments stay: `//` is a path of its own.
fn resolve(path: &[u8]) -> Vec<u8> {
    let mut out: Vec<&[u8]> = Vec::new();
    let mut ends_in_slash = false;
    for segment in path.split(|b| *b == b'/').skip(1) {
        ends_in_slash = matches!(segment, b"." | b"..");
        match segment {
            b"." => {}
            b".." => {
                out.pop();
            }
            _ => out.push(segment),
        }
    }
    if ends_in_slash {
        out.push(b"");
    }
    let mut resolved = Vec::with_capacity(path.len());
    for segment in out {
        resolved.push(b'/');
        resolved.extend_from_slice(segment);
    }
    if resolved.is_empty() {
        resolved.push(b'/');
    }
    resolved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_forms_have_to_agree() {
        let reserved = |rest: &str| Target::Reserved { rest: rest.to_string() };
        for (target, expected) in [
            ("/", Target::App),
            ("*", Target::App),
            ("/_eventsx", Target::App),
            ("/a/_events", Target::App),
            ("/a%2Fb?x=/_events", Target::App),
            ("/_events", reserved("")),
            ("/_events/", reserved("")),
            ("/_events?stream=a", reserved("")),
            ("/_events/orders", reserved("orders")),
            ("/_events/shop/orders?status=paid", reserved("shop/orders")),
            ("/_events/shop%2Forders", reserved("shop/orders")),
            ("/_events/./orders", reserved("orders")),
            ("/_events/a/../orders", reserved("orders")),
            ("http://host/_events/orders", reserved("orders")),
            ("http://host", Target::App),
            ("/%5fevents/orders", Target::Ambiguous),
            ("/_events%2Forders", Target::Ambiguous),
            ("/a/../_events/orders", Target::Ambiguous),
            ("/%2e%2e/_events", Target::Ambiguous),
            ("/_events/../admin", Target::Ambiguous),
            ("/_events/%2e%2e/admin", Target::Ambiguous),
            ("/_events/%ff", Target::Ambiguous),
        ] {
            assert_eq!(classify(target.as_bytes(), "/_events"), expected, "{target}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_plain_path_is_its_own_resolved_form(path in "/[a-z/%.0-9]{0,12}") {
            if is_plain(path.as_bytes()) {
                let decoded: Vec<u8> = percent_decode(path.as_bytes()).collect();
                proptest::prop_assert_eq!(resolve(&decoded), path.as_bytes());
            }
        }
    }

    #[test]
    fn queries_are_read_as_forms_write_them() {
        let pairs = pairs_of(query_of(b"/x?a=1&b=x+y%26&c&=d&a=2"));
        let expected = [("a", "1"), ("b", "x y&"), ("c", ""), ("", "d"), ("a", "2")];
        let expected: Vec<(String, String)> =
            expected.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        assert_eq!(pairs, expected);
        assert!(pairs_of(query_of(b"/x")).is_empty());
    }
}
