//! Tokens and key sets: only what was signed with the key gets in, whatever its text; what was
//! signed with it and is nonsense is refused.
//!
//! The first byte of the input says what the rest is: a token, its payload, its header, or a key
//! set.

#![no_main]

use std::sync::LazyLock;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use libfuzzer_sys::fuzz_target;
use sidestream_fuzz::access::token::{self, Keys, Rules};

const NOW: f64 = 1_800_000_000.0;
const HEADER: &[u8] = br#"{"alg":"HS256"}"#;
const PAYLOAD: &[u8] = br#"{"sub":"ada","exp":1800000060}"#;

static KEYS: LazyLock<(EncodingKey, Keys, Rules)> = LazyLock::new(|| {
    let secret = b"a secret of this target";
    let rules = Rules { algorithms: vec![Algorithm::HS256], issuer: None, audience: None };
    let keys = Keys::Fixed(DecodingKey::from_secret(secret));
    (EncodingKey::from_secret(secret), keys, rules)
});

/// Base64 for URLs, without padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let number = group.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
        let number = number << (8 * (3 - group.len()));
        for digit in 0..=group.len() {
            out.push(char::from(DIGITS[(number >> (18 - 6 * digit) & 63) as usize]));
        }
    }
    out
}

fn signed(header: &[u8], payload: &[u8]) -> String {
    let message = format!("{}.{}", base64(header), base64(payload));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &KEYS.0, Algorithm::HS256);
    format!("{message}.{}", signature.expect("a signature"))
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    let (key, keys, rules) = &*KEYS;
    let text = match kind % 4 {
        0 => String::from_utf8_lossy(bytes).into_owned(),
        1 => signed(HEADER, bytes),
        2 => signed(bytes, PAYLOAD),
        _ => {
            if let Ok(set) = token::read_key_set(bytes) {
                // A set of public keys never takes what a shared secret signed.
                let text = signed(HEADER, PAYLOAD);
                assert!(token::verify(&text, &Keys::Set(set), rules, NOW).is_err());
            }
            return;
        }
    };
    let Ok(verified) = token::verify(&text, keys, rules, NOW) else { return };
    assert!(verified.expires_at.is_finite() && verified.expires_at > NOW - 5.0);
    let left = token::remaining(verified.expires_at, NOW, 1.0);
    assert!(left.as_secs_f64() <= (verified.expires_at + 5.0 - NOW).max(0.0) + 1e-6);
    let (message, signature) = text.rsplit_once('.').expect("three parts");
    let wanted = jsonwebtoken::crypto::sign(message.as_bytes(), key, Algorithm::HS256);
    assert_eq!(wanted.as_deref(), Ok(signature));
});
