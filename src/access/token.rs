//! JSON Web Tokens: from text and keys to claims, or to the reason for a refusal. Pure: the time is
//! an argument.
//!
//! Invariants: the algorithm comes from the configuration. The key comes from the configuration or
//! from the issuer's set, and the token only selects one of these keys. Nothing in a token is
//! trusted before its signature is verified, and no part of it appears in an error.

use std::time::Duration;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, Header, Validation};

use super::claims::{Claims, MAX_BYTES};

/// Leeway for clocks that differ.
pub const LEEWAY: Duration = Duration::from_secs(5);
/// The most keys of a set that are kept, and tried for a token that names none.
const MAX_KEYS: usize = 64;
/// RSA keys with less than 2048 bits can be broken: 256 bytes in base64.
const MIN_MODULUS_CHARS: usize = 341;

/// Why a token is not taken. For metrics and for the one who develops: no part of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token is malformed")]
    Malformed,
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    /// Perhaps a new one: worth another look at the issuer's set.
    #[error("the token's key is not known")]
    UnknownKey,
    #[error("the token's signature is invalid")]
    Signature,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYet,
    #[error("the token has no expiry")]
    NoExpiry,
    #[error("the token was issued by another issuer")]
    Issuer,
    #[error("the token is for another audience")]
    Audience,
}

/// A valid token.
#[derive(Debug, Clone)]
pub struct Verified {
    pub claims: Claims,
    /// Seconds since 1970.
    pub expires_at: f64,
}

/// The requirements on a token's content.
#[derive(Debug, Clone)]
pub struct Rules {
    pub algorithms: Vec<Algorithm>,
    pub issuer: Option<String>,
    pub audience: Option<String>,
}

/// The keys that may have signed a token.
#[derive(Debug, Clone)]
pub enum Keys {
    Fixed(DecodingKey),
    Set(Vec<SetKey>),
}

/// One key of an issuer's set.
#[derive(Debug, Clone)]
pub struct SetKey {
    id: Option<String>,
    family: AlgorithmFamily,
    /// What the set says that the key is for; `None`: any algorithm of its kind.
    algorithm: Option<Algorithm>,
    key: DecodingKey,
}

/// Reads an issuer's key set. What is not for signatures, is of an unknown kind or is too weak is
/// passed over: sets hold all sorts of keys.
///
/// # Errors
/// It is not a key set, or has no usable key.
pub fn read_key_set(json: &[u8]) -> Result<Vec<SetKey>, &'static str> {
    #[derive(serde::Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    let set: Set = serde_json::from_slice(json).map_err(|_| "the answer is not a JSON key set")?;
    let keys: Vec<SetKey> = set.keys.into_iter().filter_map(set_key).take(MAX_KEYS).collect();
    if keys.is_empty() {
        return Err("the key set has no public key for signatures");
    }
    Ok(keys)
}

fn set_key(value: serde_json::Value) -> Option<SetKey> {
    let named = value.get("alg").and_then(|name| name.as_str()).map(str::to_owned);
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    if jwk.common.public_key_use.as_ref().is_some_and(|used| *used != PublicKeyUse::Signature) {
        return None;
    }
    let (family, only) = match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) if rsa.n.len() >= MIN_MODULUS_CHARS => {
            (AlgorithmFamily::Rsa, None)
        }
        AlgorithmParameters::EllipticCurve(ec) => match ec.curve {
            EllipticCurve::P256 => (AlgorithmFamily::Ec, Some(Algorithm::ES256)),
            EllipticCurve::P384 => (AlgorithmFamily::Ec, Some(Algorithm::ES384)),
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            (AlgorithmFamily::Ed, Some(Algorithm::EdDSA))
        }
        // A shared secret in a public set is none.
        _ => return None,
    };
    let algorithm = match named {
        Some(name) => Some(name.parse().ok()?),
        None => only,
    };
    if algorithm.is_some_and(|algorithm: Algorithm| {
        algorithm.family() != family || only.is_some_and(|only| only != algorithm)
    }) {
        return None;
    }
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    Some(SetKey { id: jwk.common.key_id, family, algorithm, key })
}

/// Verifies a token.
///
/// # Errors
/// [`TokenError`]
pub fn verify(token: &str, keys: &Keys, rules: &Rules, now: f64) -> Result<Verified, TokenError> {
    let header = header(token)?;
    // `none` is no algorithm that the header's type knows, so it is malformed already.
    if !rules.algorithms.contains(&header.alg) {
        return Err(TokenError::Algorithm);
    }
    let claims = match keys {
        Keys::Fixed(key) => check_signature(token, key, header.alg)?,
        Keys::Set(keys) => check_with_set(token, keys, &header)?,
    };
    let expires_at = check_claims(&claims, rules, now)?;
    Ok(Verified { claims, expires_at })
}

fn header(token: &str) -> Result<Header, TokenError> {
    if token.len() > MAX_BYTES || token.split('.').count() != 3 {
        return Err(TokenError::Malformed);
    }
    let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Malformed)?;
    // Extensions that must be understood: we understand none.
    if header.crit.is_some() || header.zip.is_some() || header.enc.is_some() {
        return Err(TokenError::Malformed);
    }
    Ok(header)
}

fn check_with_set(token: &str, keys: &[SetKey], header: &Header) -> Result<Claims, TokenError> {
    let mut outcome = Err(TokenError::UnknownKey);
    for key in keys {
        let is_named = header.kid.is_none() || header.kid == key.id;
        let is_fitting = key.family == header.alg.family()
            && key.algorithm.is_none_or(|algorithm| algorithm == header.alg);
        if !is_named || !is_fitting {
            continue;
        }
        outcome = check_signature(token, &key.key, header.alg);
        if outcome.is_ok() {
            break;
        }
    }
    // A token that names no key may be signed with a new one, too.
    match outcome {
        Err(TokenError::Signature) if header.kid.is_none() => Err(TokenError::UnknownKey),
        outcome => outcome,
    }
}

fn check_signature(
    token: &str,
    key: &DecodingKey,
    algorithm: Algorithm,
) -> Result<Claims, TokenError> {
    use jsonwebtoken::errors::ErrorKind;
    if key.family() != algorithm.family() {
        return Err(TokenError::Algorithm);
    }
    let mut validation = Validation::new(algorithm);
    // The claims are checked below, in one place, with errors of our own.
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    match jsonwebtoken::decode::<Claims>(token, key, &validation) {
        Ok(data) => Ok(data.claims),
        Err(error) => Err(match error.kind() {
            ErrorKind::Json(_) | ErrorKind::Utf8(_) | ErrorKind::Base64(_) => TokenError::Malformed,
            ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => TokenError::Algorithm,
            _ => TokenError::Signature,
        }),
    }
}

/// Returns when the token expires.
fn check_claims(claims: &Claims, rules: &Rules, now: f64) -> Result<f64, TokenError> {
    let leeway = LEEWAY.as_secs_f64();
    let seconds = |name| claims.seconds(name).map_err(|_| TokenError::Malformed);
    let expires_at = seconds("exp")?.ok_or(TokenError::NoExpiry)?;
    if now >= expires_at + leeway {
        return Err(TokenError::Expired);
    }
    if seconds("nbf")?.is_some_and(|begins| now + leeway < begins) {
        return Err(TokenError::NotYet);
    }
    if rules.issuer.as_deref().is_some_and(|issuer| claims.text("iss") != Some(issuer)) {
        return Err(TokenError::Issuer);
    }
    if rules.audience.as_deref().is_some_and(|audience| !claims.has_text("aud", audience)) {
        return Err(TokenError::Audience);
    }
    Ok(expires_at)
}

/// How long a stream under this token may stay, from `now` on: to its expiry and a little more, by
/// chance, within the leeway. Tokens that were made together do not end together.
pub fn remaining(expires_at: f64, now: f64, chance: f64) -> Duration {
    // A month at a time is enough, and no timer overflows.
    const MOST: f64 = 30.0 * 24.0 * 3600.0;
    let left = (expires_at - now).max(0.0);
    let latest = (expires_at + LEEWAY.as_secs_f64() - now).max(0.0);
    let spread = (left / 10.0).min(LEEWAY.as_secs_f64()).max(0.5);
    Duration::from_secs_f64((left + spread * chance).min(latest).min(MOST))
}
