//! The credentials that a request carries. Pure; nothing is verified here.

use std::net::IpAddr;

use http::HeaderName;
use sha2::{Digest, Sha256};

use crate::config::TokenSource;

/// The most tokens of one request that are looked at, what cannot be one last. A cookie can be
/// there several times: a neighbouring subdomain can set as many as a browser holds, and must not
/// crowd out the real one. Each costs a signature.
const MAX_TOKENS: usize = 32;
/// More than browsers send to one site, in bytes.
pub const MAX_BYTES: usize = 16 * 1024;

/// The credentials of one request. Their `Debug` shows nothing of them.
#[derive(Clone, Default)]
pub struct Credentials {
    /// Values that look like tokens, in the order of the settings.
    pub tokens: Vec<String>,
    /// The header fields that are passed on to the app.
    pub forwarded: Forwarded,
    /// The client's address, as reported by trusted proxies.
    pub address: Option<IpAddr>,
}

/// Header fields of the request to the app. Equal for equal callers.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Forwarded {
    pub fields: Vec<(HeaderName, Vec<u8>)>,
    /// The host name that the client uses, since one app may serve several.
    pub host: Vec<u8>,
    pub scheme: Vec<u8>,
    /// The client's address: the app may decide by it, and its own rate limits apply to it.
    pub address: Option<IpAddr>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl std::fmt::Debug for Forwarded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Forwarded {
    /// Whether they are larger than any real credentials.
    pub fn is_oversized(&self) -> bool {
        let length: usize = self.fields.iter().map(|(_, value)| value.len()).sum();
        length + self.host.len() + self.scheme.len() > MAX_BYTES
    }

    /// A key of fixed size that no two of them share.
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let names = self.fields.iter().map(|(name, value)| (name.as_str().as_bytes(), value));
        let address = self.address.map(|address| address.to_string().into_bytes());
        let address = address.unwrap_or_default();
        let all = names.chain([
            (&b":host"[..], &self.host),
            (&b":scheme"[..], &self.scheme),
            (&b":address"[..], &address),
        ]);
        for (name, value) in all {
            for part in [name, value.as_slice()] {
                // With its length, so that parts cannot run into each other.
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part);
            }
        }
        hash.finalize().into()
    }
}

/// Finds the tokens of a request. Those in the query leave it, so that they go nowhere else.
pub fn tokens<'v>(
    from: &[TokenSource],
    values: &dyn Fn(&str) -> Vec<&'v [u8]>,
    query: &mut Vec<(String, String)>,
) -> Vec<String> {
    let mut found = Vec::new();
    for source in from {
        match source {
            TokenSource::Authorization => {
                let bearers = values("authorization").into_iter().filter_map(bearer);
                found.extend(bearers.map(str::to_owned));
            }
            TokenSource::Cookie(name) => {
                for header in values("cookie") {
                    found.extend(cookies(header, name).map(str::to_owned));
                }
            }
            TokenSource::Query(name) => query.retain_mut(|(key, value)| {
                let is_token = key == name;
                if is_token {
                    found.push(std::mem::take(value));
                }
                !is_token
            }),
        }
    }
    found.retain(|token| !token.is_empty());
    // Stable: among those that could be tokens, the order of the settings stays.
    found.sort_by_key(|token| !could_be_token(token));
    found.truncate(MAX_TOKENS);
    found
}

/// Three parts of base64url with dots between them.
fn could_be_token(text: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    text.split('.').count() == 3 && text.split('.').all(is_part)
}

/// White space of HTTP, and no other: a cookie called `\u{a0}__Host-token` is not `__Host-token`,
/// which a neighbouring subdomain could not set.
const BLANK: [char; 2] = [' ', '\t'];

/// The token of `Bearer …`.
fn bearer(value: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(value).ok()?.trim_matches(BLANK);
    let (scheme, token) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_matches(BLANK))
}

/// The values of the cookies of this name.
fn cookies<'v>(header: &'v [u8], name: &'v str) -> impl Iterator<Item = &'v str> {
    header
        .split(|b| *b == b';')
        .filter_map(|pair| std::str::from_utf8(pair).ok()?.split_once('='))
        .filter(move |(key, _)| key.trim_matches(BLANK) == name)
        .map(|(_, value)| value.trim_matches(BLANK).trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(from: &[TokenSource], headers: &[(&str, &str)], query: &[(&str, &str)]) -> Vec<String> {
        let values = |name: &str| -> Vec<&[u8]> {
            let named = headers.iter().filter(|(key, _)| *key == name);
            named.map(|(_, value)| value.as_bytes()).collect()
        };
        let mut query = query.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let found = tokens(from, &values, &mut query);
        assert!(query.iter().all(|(key, _)| key != "t"), "tokens leave the query");
        found
    }

    #[test]
    fn tokens_come_from_where_the_settings_say() {
        use TokenSource::{Authorization, Cookie, Query};
        let cookie = || Cookie("s".to_owned());
        let headers =
            [("authorization", "bEARER a.b.c"), ("cookie", "x=1; s=d.e.f; s=\"g.h.i\"; ss=no")];
        let query = [("t", "j.k.l"), ("u", "1")];
        let only_t = Query("t".to_owned());
        assert_eq!(find(&[Authorization, only_t.clone()], &headers, &query), ["a.b.c", "j.k.l"]);
        assert_eq!(
            find(&[cookie(), only_t.clone()], &headers, &query),
            ["d.e.f", "g.h.i", "j.k.l"]
        );
        assert!(find(&[Authorization], &[("authorization", "Basic YTpi")], &[]).is_empty());
        assert!(find(&[Authorization], &[("authorization", "Bearer ")], &[]).is_empty());
        assert!(find(&[Authorization], &[("cookie", "s=a.b.c")], &[]).is_empty());
        let many = vec![("t", "a.b.c"); 50];
        assert_eq!(find(&[only_t], &[], &many).len(), MAX_TOKENS);
    }

    #[test]
    fn junk_under_the_cookies_name_does_not_crowd_out_the_real_one() {
        let cookie = TokenSource::Cookie("s".to_owned());
        let junk = "s=junk; ".repeat(100);
        let header = format!("{junk}s=a.b.c");
        let found = find(&[cookie], &[("cookie", &header)], &[]);
        assert_eq!((found.len(), found[0].as_str()), (MAX_TOKENS, "a.b.c"));
    }

    #[test]
    fn only_the_white_space_of_http_is_trimmed() {
        let cookie = TokenSource::Cookie("__Host-s".to_owned());
        for blank in ["\u{a0}", "\u{2000}", "\u{b}", "\u{85}"] {
            let header = format!("{blank}__Host-s=d.e.f; \t__Host-s{blank}=d.e.f; __Host-s=a.b.c");
            assert_eq!(find(std::slice::from_ref(&cookie), &[("cookie", &header)], &[]), ["a.b.c"]);
        }
        assert_eq!(find(&[cookie], &[("cookie", "\t __Host-s \t= a.b.c ")], &[]), ["a.b.c"]);
    }

    #[test]
    fn digests_differ_where_credentials_do() {
        let of = |fields: &[(&'static str, &str)], host: &str| {
            let fields = fields
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), value.as_bytes().to_vec()));
            let host = host.as_bytes().to_vec();
            Forwarded { fields: fields.collect(), host, ..Forwarded::default() }.digest()
        };
        let all = [
            of(&[("cookie", "a=1")], "h"),
            of(&[("cookie", "a=1")], "i"),
            of(&[("cookie", "a=2")], "h"),
            of(&[("authorization", "a=1")], "h"),
            of(&[("cookie", "a="), ("cookie", "1")], "h"),
            of(&[], "a=1h"),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(!all[..index].contains(one), "{index}");
        }
        assert_eq!(of(&[("cookie", "a=1")], "h"), all[0]);
    }
}
