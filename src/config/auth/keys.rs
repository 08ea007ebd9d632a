//! The key of tokens in a file, and whether a key fits the algorithms that it is meant for.

use std::path::{Path, PathBuf};

use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};

use crate::config::resolve::read_text;
use crate::config::units::{Invalid, invalid};

/// A file that contains only the key of tokens: a shared secret, or a public key.
#[derive(Debug, Clone)]
pub struct KeyFile {
    path: PathBuf,
    is_secret: bool,
    algorithms: Vec<Algorithm>,
}

impl KeyFile {
    pub(super) fn new(path: PathBuf, is_secret: bool, algorithms: &[Algorithm]) -> KeyFile {
        KeyFile { path, is_secret, algorithms: algorithms.to_vec() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn read(&self) -> Result<DecodingKey, Invalid> {
        let text = read_text(&self.path)?;
        match self.is_secret {
            true => secret_key(&text, &self.algorithms),
            false => public_key(text.as_bytes(), &self.algorithms),
        }
    }

    /// What it holds now.
    ///
    /// # Errors
    /// It cannot be read, or holds no key that fits the algorithms; without any part of its text.
    pub fn read_again(&self) -> Result<DecodingKey, String> {
        self.read().map_err(|error| error.message)
    }
}

/// The key of a shared secret, where it is long enough for every algorithm.
pub(super) fn secret_key(secret: &str, algorithms: &[Algorithm]) -> Result<DecodingKey, Invalid> {
    is_long_enough(secret, algorithms)?;
    Ok(DecodingKey::from_secret(secret.as_bytes()))
}

/// RFC 7518, 3.2: a secret has at least as many bits as the hash. Shorter ones can be found by
/// trying, from one token that anybody may have.
fn is_long_enough(secret: &str, algorithms: &[Algorithm]) -> Result<(), Invalid> {
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
fn public_key(pem: &[u8], algorithms: &[Algorithm]) -> Result<DecodingKey, Invalid> {
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
