//! The settings of `auth`: how callers are authenticated, and which origins may open streams.
//!
//! Keys are read here, once, so that a key that does not match its algorithms prevents the start,
//! instead of failing at the first client.

mod keys;
pub(super) mod text;

use std::time::Duration;

use http::{HeaderName, Uri};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};

use crate::config::resolve::Resolver;
use crate::config::setting::{
    DAY, Declaration, HOUR, Setting, SettingKind, declared, duration, unset,
};
use crate::config::token_source::TokenSource;
use crate::config::units::{invalid, show};
use crate::config::value::{Group, Value};
use crate::watched::Watched;
pub use keys::KeyFile;
use keys::secret_key;
use text::{parse_claims, parse_header, parse_origin, parse_source, parse_url};

/// How callers are authenticated. Without any source, no caller is.
#[derive(Debug, Clone, Default)]
pub struct Auth {
    pub jwt: Option<Jwt>,
    pub forward: Option<ForwardAuth>,
    /// As browsers write them: `https://shop.example`, in lower case, without a default port.
    pub allowed_origins: Vec<String>,
}

impl Auth {
    /// Whether anybody could be signed in.
    pub fn has_source(&self) -> bool {
        self.jwt.is_some() || self.forward.is_some()
    }
}

/// JSON Web Tokens.
#[derive(Debug, Clone)]
pub struct Jwt {
    pub key: JwtKey,
    /// Never empty; each fits the key.
    pub algorithms: Vec<Algorithm>,
    pub issuer: Option<String>,
    pub audience: Option<String>,
    /// Looked at in this order; never empty.
    pub from: Vec<TokenSource>,
}

/// What signatures of tokens are checked with.
#[derive(Debug, Clone)]
pub enum JwtKey {
    /// A secret or a public key; its `Debug` shows neither.
    Fixed(DecodingKey),
    /// The same, from a file that may be replaced.
    File {
        key: DecodingKey,
        file: KeyFile,
        watched: Watched,
    },
    Jwks(Uri),
    /// The key is in a file that was left alone ([`Sources::leaves_secrets`](super::Sources)).
    Unread,
}

/// Forward authentication: asking the app who the caller is.
#[derive(Debug, Clone)]
pub struct ForwardAuth {
    pub url: Uri,
    /// The header fields that are passed on, in this order; never empty.
    pub headers: Vec<HeaderName>,
    pub claims: ClaimsFrom,
    /// How long a response is reused for new streams.
    pub cache: Duration,
    /// How often open streams are asked about again.
    pub recheck: Duration,
    /// How long a new stream waits for an answer.
    pub timeout: Duration,
    /// How long streams stay open while rechecks get no response.
    pub max_outage: Duration,
}

/// Where in the app's answer the claims are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimsFrom {
    /// A JSON object in the body.
    Body,
    /// Text in a header field: it becomes the claim `sub`, whatever it looks like.
    Header(HeaderName),
    /// A JSON object in a header field.
    HeaderJson(HeaderName),
}

/// The keys of which exactly one holds or names the key.
const KEYS: [&str; 4] =
    ["auth.jwt.secret", "auth.jwt.secret_file", "auth.jwt.public_key_file", "auth.jwt.jwks_url"];

impl Group for Auth {
    fn declare(into: &mut Vec<Setting>) {
        use SettingKind::{Path, Secret, Text, Texts, Url, Words};
        let texts = |example, default| declared(Texts { example }, default);
        let mut add = |key, declaration: Declaration, about| {
            into.push(declaration.named(key, &[about]));
        };
        add(
            KEY_SECRET,
            unset(Secret),
            "The shared secret of HS256, HS384 or HS512: at least as many bytes as the hash, 32, 48 or 64.",
        );
        add(
            "auth.jwt.public_key_file",
            unset(Path),
            "The public key of RS, PS, ES or EdDSA tokens, PEM.",
        );
        add("auth.jwt.jwks_url", unset(Url), "Where the issuer publishes its public keys.");
        add(
            "auth.jwt.algorithms",
            unset(Words { words: ALGORITHMS, example: "[RS256]" }),
            "The accepted algorithms; required with a key. The token never decides.",
        );
        add("auth.jwt.issuer", unset(Text), "The required value of `iss`; not checked if unset.");
        add(
            "auth.jwt.audience",
            unset(Text),
            "The value that `aud` must equal or contain; not checked if unset.",
        );
        add(
            "auth.jwt.from",
            texts("[authorization, cookie:token]", "authorization"),
            "Where requests carry the token: `authorization`, `cookie:NAME`, `query:NAME`.",
        );
        add(
            "auth.forward.url",
            unset(Url),
            "The URL that authenticates callers, requested with the client's own credentials.",
        );
        add(
            "auth.forward.headers",
            texts("[cookie, authorization]", "cookie, authorization"),
            "The request header fields that carry credentials.",
        );
        add(
            "auth.forward.claims",
            declared(Text, "body"),
            "Where the response holds the claims: `body`, a JSON object; `header:NAME`, text, \
             which becomes the claim `sub`; `header-json:NAME`, a JSON object.",
        );
        add(
            "auth.forward.cache",
            duration("10s", Duration::ZERO, HOUR),
            "How long a response is reused for new streams.",
        );
        add(
            "auth.forward.recheck",
            duration("60s", Duration::from_millis(100), DAY),
            "How often open streams are checked again; a refusal closes them.",
        );
        add(
            "auth.forward.timeout",
            duration("5s", Duration::from_millis(100), Duration::from_secs(60)),
            "How long a new stream waits for the response before it is refused with 503.",
        );
        add(
            "auth.forward.max_outage",
            duration("5m", Duration::ZERO, DAY),
            "How long streams stay open while rechecks get no response.",
        );
        add(
            "auth.allowed_origins",
            texts("['https://shop.example']", ""),
            "Other origins whose pages may open streams; empty: same origin only.",
        );
    }

    fn read(resolver: &mut Resolver<'_>) -> Option<Auth> {
        let jwt = resolver.jwt();
        let forward = resolver.forward();
        let allowed_origins = resolver.list("auth.allowed_origins", parse_origin);
        Some(Auth { jwt: jwt?, forward: forward?, allowed_origins: allowed_origins? })
    }
}

/// Of the registry of RFC 7518 and RFC 8037, without `none`.
const ALGORITHMS: &[&str] = &[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256",
    "ES384", "EdDSA",
];

impl Resolver<'_> {
    /// The outer `None` is a problem, the inner one no tokens.
    fn jwt(&mut self) -> Option<Option<Jwt>> {
        const OTHERS: [&str; 4] =
            ["auth.jwt.algorithms", "auth.jwt.issuer", "auth.jwt.audience", "auth.jwt.from"];
        let given: Vec<&str> = KEYS.into_iter().filter(|key| self.is_written(key)).collect();
        let Some(&first) = given.first() else {
            let Some(other) = OTHERS.into_iter().find(|key| self.is_written(key)) else {
                return Some(None);
            };
            self.problem_at(
                other,
                "needs a key to check tokens with",
                "set one of auth.jwt.secret, auth.jwt.public_key_file and auth.jwt.jwks_url",
            );
            return None;
        };
        let from = self.list("auth.jwt.from", parse_source);
        let issuer = Value::read(self, "auth.jwt.issuer");
        let audience = Value::read(self, "auth.jwt.audience");
        // A file and its secret in different layers: the higher layer wins.
        let given: Vec<&str> = match given.as_slice() {
            [KEY_SECRET, KEY_SECRET_FILE] => {
                self.winner(KEY_SECRET, KEY_SECRET_FILE).into_iter().collect()
            }
            _ => given,
        };
        let key = match given.as_slice() {
            [] => return None,
            [key] => *key,
            [_, second, ..] => {
                let message = format!("is given together with `{first}`");
                self.problem_at(second, &message, "keep one of them");
                return None;
            }
        };
        if !self.is_written("auth.jwt.algorithms") {
            let example = if is_secret(key) { "[HS256]" } else { "[RS256]" };
            let message = "needs `auth.jwt.algorithms` as well: a token must not choose its own \
                           algorithm";
            self.problem_at(key, message, &format!("write algorithms: {example}"));
            return None;
        }
        let algorithms = self.algorithms(key)?;
        let key = self.jwt_key(key, &algorithms)?;
        let from = from?;
        if from.is_empty() {
            self.problem_at("auth.jwt.from", "is empty", "write [authorization]");
            return None;
        }
        Some(Some(Jwt { key, algorithms, issuer: issuer?, audience: audience?, from }))
    }

    fn algorithms(&mut self, key: &str) -> Option<Vec<Algorithm>> {
        let wants_secret = is_secret(key);
        let algorithms = self.list("auth.jwt.algorithms", |text| {
            if text.eq_ignore_ascii_case("none") {
                return Err(invalid(
                    "`none` would accept unsigned tokens",
                    "write the algorithm that your tokens are signed with",
                ));
            }
            let algorithm: Algorithm = text.parse().map_err(|_| {
                invalid(
                    format!("{} is not a supported algorithm", show(text)),
                    "write one of HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, \
                     ES256, ES384, EdDSA",
                )
            })?;
            match (wants_secret, algorithm.family() == AlgorithmFamily::Hmac) {
                (true, false) => Err(invalid(
                    format!("{text} needs a public key, and `auth.jwt.secret` is set"),
                    "write HS256, HS384 or HS512, or set auth.jwt.public_key_file",
                )),
                (false, true) => Err(invalid(
                    format!("{text} is for a shared secret, and a public key is set"),
                    "anyone who has the public key could sign tokens: write the algorithm of the \
                     key, such as RS256 or ES256",
                )),
                _ => Ok(algorithm),
            }
        })?;
        if algorithms.is_empty() {
            self.problem_at("auth.jwt.algorithms", "is empty", "write [RS256]");
            return None;
        }
        Some(algorithms)
    }

    fn jwt_key(&mut self, key: &str, algorithms: &[Algorithm]) -> Option<JwtKey> {
        let working_dir = self.working_dir;
        if self.leaves_secrets && key.ends_with("_file") {
            return Some(JwtKey::Unread);
        }
        match key {
            KEY_SECRET => self.read(key, |text| match text {
                "" => Err(invalid("is empty", "give it a value")),
                text => secret_key(text, algorithms).map(JwtKey::Fixed),
            }),
            "auth.jwt.jwks_url" => self.read(key, parse_url).map(JwtKey::Jwks),
            _ => self.read(key, |text| {
                let path = working_dir.join(text);
                let watched = Watched::new(vec![path.clone()]);
                let file = KeyFile::new(path, is_secret(key), algorithms);
                Ok(JwtKey::File { key: file.read()?, file, watched })
            }),
        }
    }

    fn forward(&mut self) -> Option<Option<ForwardAuth>> {
        const OTHERS: [&str; 6] = [
            "auth.forward.headers",
            "auth.forward.claims",
            "auth.forward.cache",
            "auth.forward.recheck",
            "auth.forward.timeout",
            "auth.forward.max_outage",
        ];
        if !self.is_written("auth.forward.url") {
            let Some(other) = OTHERS.into_iter().find(|key| self.is_written(key)) else {
                return Some(None);
            };
            let hint = "set auth.forward.url to a URL that succeeds only for signed-in users";
            self.problem_at(other, "needs `auth.forward.url` as well", hint);
            return None;
        }
        let url = self.read("auth.forward.url", parse_url);
        let headers = self.list("auth.forward.headers", parse_header);
        let claims = self.read("auth.forward.claims", parse_claims);
        let cache = Value::read(self, "auth.forward.cache");
        let recheck = Value::read(self, "auth.forward.recheck");
        let timeout = Value::read(self, "auth.forward.timeout");
        let max_outage = Value::read(self, "auth.forward.max_outage");
        let headers = headers?;
        if headers.is_empty() {
            let hint = "name the header fields that carry credentials: [cookie, authorization]";
            self.problem_at("auth.forward.headers", "is empty", hint);
            return None;
        }
        Some(Some(ForwardAuth {
            url: url?,
            headers,
            claims: claims?,
            cache: cache?,
            recheck: recheck?,
            timeout: timeout?,
            max_outage: max_outage?,
        }))
    }
}

const KEY_SECRET: &str = KEYS[0];
const KEY_SECRET_FILE: &str = KEYS[1];

fn is_secret(key: &str) -> bool {
    matches!(key, KEY_SECRET | KEY_SECRET_FILE)
}
