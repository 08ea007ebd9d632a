//! What says who a request is from, in header fields and in the query: nothing is taken for a token
//! that the settings do not name, none stays in the query, and no other cookies crowd a real one
//! out.
//!
//! The input is a `Cookie` field, a line break, an `Authorization` field, a line break, a query.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sidestream_fuzz::access::credentials::{self, Forwarded};
use sidestream_fuzz::config::TokenSource;
use sidestream_fuzz::path;

const REAL: &str = "eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl";

static FROM: LazyLock<[TokenSource; 3]> = LazyLock::new(|| {
    [
        TokenSource::Authorization,
        TokenSource::Cookie("__Host-t".to_owned()),
        TokenSource::Query("t".to_owned()),
    ]
});

fn tokens(cookie: &[u8], bearer: &[u8], query: &[u8]) -> Vec<String> {
    let values = |name: &str| match name {
        "cookie" => vec![cookie],
        "authorization" => vec![bearer],
        _ => Vec::new(),
    };
    let mut query = path::pairs_of(query);
    let others = query.iter().filter(|(name, _)| name != "t").count();
    let found = credentials::tokens(&*FROM, &values, &mut query);
    assert_eq!(query.len(), others, "tokens leave the query, and nothing else does");
    assert!(query.iter().all(|(name, _)| name != "t"));
    found
}

fuzz_target!(|input: &[u8]| {
    let mut parts = input.splitn(3, |b| *b == b'\n');
    let mut next = || parts.next().unwrap_or_default();
    let (cookie, bearer, query) = (next(), next(), next());
    let found = tokens(cookie, bearer, query);
    assert!(found.len() <= 32 && found.iter().all(|token| !token.is_empty()));
    // Without its name somewhere, a cookie is none of ours.
    let has_name = |field: &[u8]| field.windows(8).any(|part| part == b"__Host-t");
    if !has_name(cookie) && !bearer.trim_ascii_start().to_ascii_lowercase().starts_with(b"bearer") {
        assert!(tokens(cookie, bearer, b"").is_empty());
    }
    // Junk, however much, comes after what could be a token.
    let with_real = [b"__Host-t=", REAL.as_bytes(), b"; ", cookie].concat();
    let found = tokens(&with_real, b"", b"");
    assert_eq!(found.first().map(String::as_str), Some(REAL));

    let forwarded = |fields: &[(&'static str, &[u8])]| Forwarded {
        fields: fields
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.to_vec()))
            .collect(),
        ..Forwarded::default()
    };
    let one = forwarded(&[("cookie", cookie), ("authorization", bearer)]);
    let other = forwarded(&[("cookie", bearer), ("authorization", cookie)]);
    assert_eq!(one.digest() == other.digest(), cookie == bearer);
});
