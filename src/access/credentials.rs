//! What a request brings to say who it is from. Pure; nothing of it is believed here.

use http::HeaderName;
use sha2::{Digest, Sha256};

use crate::config::TokenSource;

/// The most tokens of one request that are looked at: a cookie can be there several times.
const MAX_TOKENS: usize = 4;
/// More than browsers send to one site, in bytes.
pub const MAX_BYTES: usize = 16 * 1024;

/// Its `Debug` shows nothing of it.
#[derive(Clone, Default)]
pub struct Credentials {
    /// What looks like a token, in the order of the settings.
    pub tokens: Vec<String>,
    /// What is passed on to the app.
    pub forwarded: Forwarded,
}

/// Header fields that the app is asked with. Equal for equal callers.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Forwarded {
    pub fields: Vec<(HeaderName, Vec<u8>)>,
    /// What the client calls the app by, since one app may serve several names.
    pub host: Vec<u8>,
    pub scheme: Vec<u8>,
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
    /// Whether they are too large to be anybody's.
    pub fn is_oversized(&self) -> bool {
        let length: usize = self.fields.iter().map(|(_, value)| value.len()).sum();
        length + self.host.len() + self.scheme.len() > MAX_BYTES
    }

    /// A key of fixed size that no two of them share.
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let names = self.fields.iter().map(|(name, value)| (name.as_str().as_bytes(), value));
        let all = names.chain([(&b":host"[..], &self.host), (&b":scheme"[..], &self.scheme)]);
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
    found.truncate(MAX_TOKENS);
    found
}

/// The token of `Bearer …`.
fn bearer(value: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let (scheme, token) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The values of the cookies of this name.
fn cookies<'v>(header: &'v [u8], name: &'v str) -> impl Iterator<Item = &'v str> {
    header
        .split(|b| *b == b';')
        .filter_map(|pair| std::str::from_utf8(pair).ok()?.split_once('='))
        .filter(move |(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim().trim_matches('"'))
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
    fn digests_differ_where_credentials_do() {
        let of = |fields: &[(&'static str, &str)], host: &str| {
            let fields = fields
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), value.as_bytes().to_vec()));
            let host = host.as_bytes().to_vec();
            Forwarded { fields: fields.collect(), host, scheme: Vec::new() }.digest()
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
