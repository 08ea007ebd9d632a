//! Whether a key fits the algorithms that it is meant for.

use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};

use crate::config::units::{Invalid, invalid};

/// RFC 7518, 3.2: a secret has at least as many bits as the hash. Shorter ones can be found by
/// trying, from one token that anybody may have.
pub(super) fn is_long_enough(secret: &str, algorithms: &[Algorithm]) -> Result<(), Invalid> {
    let bytes_of = |algorithm: &Algorithm| match algorithm {
        Algorithm::HS256 => 32,
        Algorithm::HS384 => 48,
        // Others are refused beside a secret.
        _ => 64,
    };
    let least = algorithms.iter().max_by_key(|algorithm| bytes_of(algorithm));
    match least.map(|algorithm| (algorithm, bytes_of(algorithm))) {
        Some((algorithm, least)) if secret.len() < least => Err(invalid(
            format!("is shorter than the {least} bytes that {algorithm:?} needs"),
            format!("make one with `openssl rand -base64 {least}`"),
        )),
        _ => Ok(()),
    }
}

/// The key of a PEM file, where it fits every algorithm.
pub(super) fn public_key(pem: &[u8], algorithms: &[Algorithm]) -> Result<DecodingKey, Invalid> {
    const HINT: &str = "name the PEM file of the public key that belongs to the algorithms";
    let mut found = None;
    for algorithm in algorithms {
        let (read, kind) = match algorithm.family() {
            AlgorithmFamily::Rsa => (DecodingKey::from_rsa_pem(pem), "RSA"),
            AlgorithmFamily::Ec => (DecodingKey::from_ec_pem(pem), "elliptic curve"),
            AlgorithmFamily::Ed => (DecodingKey::from_ed_pem(pem), "Ed25519"),
            // Refused with the algorithms.
            AlgorithmFamily::Hmac => return Err(invalid("is not a secret", HINT)),
        };
        let key = read.map_err(|_| {
            invalid(format!("holds no {kind} public key, which {algorithm:?} needs"), HINT)
        })?;
        let length = key.try_get_as_bytes().map_or(0, <[u8]>::len);
        let is_fitting = match algorithm {
            Algorithm::ES256 => length == 65,
            Algorithm::ES384 => length == 97,
            // A key of 2048 bits with its exponent; anything shorter can be broken.
            _ if algorithm.family() == AlgorithmFamily::Rsa => length >= 2048 / 8,
            _ => true,
        };
        if !is_fitting {
            return Err(invalid(format!("holds a key of a size that {algorithm:?} forbids"), HINT));
        }
        found = Some(key);
    }
    found.ok_or_else(|| invalid("is used by no algorithm", HINT))
}
