//! Token text, whatever comes.

use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use serde_json::json;

use super::token::{self, Keys, LEEWAY, Rules, TokenError};

const NOW: f64 = 1_800_000_000.0;

fn rules() -> Rules {
    Rules { algorithms: vec![Algorithm::HS256], issuer: None, audience: None }
}

fn keys() -> Keys {
    Keys::Fixed(DecodingKey::from_secret(b"secret"))
}

fn sign(claims: &serde_json::Value) -> String {
    let key = EncodingKey::from_secret(b"secret");
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key).unwrap()
}

#[test]
fn times_have_a_small_leeway() {
    let leeway = LEEWAY.as_secs_f64();
    for (claims, expected) in [
        (json!({ "exp": NOW + 1.0 }), Ok(NOW + 1.0)),
        (json!({ "exp": NOW - leeway + 0.5 }), Ok(NOW - leeway + 0.5)),
        (json!({ "exp": NOW - leeway }), Err(TokenError::Expired)),
        (json!({ "exp": -1 }), Err(TokenError::Expired)),
        (json!({}), Err(TokenError::NoExpiry)),
        (json!({ "exp": null }), Err(TokenError::Malformed)),
        (json!({ "exp": "1900000000" }), Err(TokenError::Malformed)),
        (json!({ "exp": 10_000_000_000_000_000_i64 }), Err(TokenError::Malformed)),
        (json!({ "exp": NOW + 9.0, "nbf": NOW + leeway }), Ok(NOW + 9.0)),
        (json!({ "exp": NOW + 9.0, "nbf": NOW + leeway + 1.0 }), Err(TokenError::NotYet)),
        (json!({ "exp": NOW + 9.0, "nbf": "soon" }), Err(TokenError::Malformed)),
        // Payloads that are no claims.
        (json!([1]), Err(TokenError::Malformed)),
        (json!("text"), Err(TokenError::Malformed)),
    ] {
        let verified = token::verify(&sign(&claims), &keys(), &rules(), NOW);
        assert_eq!(verified.map(|verified| verified.expires_at), expected, "{claims}");
    }
}

#[test]
fn a_stream_ends_at_its_expiry_and_not_long_after() {
    for (left, chance, expected) in [
        (3600.0, 0.0, 3600.0),
        (3600.0, 1.0, 3605.0),
        (10.0, 1.0, 11.0),
        (1.0, 1.0, 1.5),
        (-1.0, 0.0, 0.0),
        (-1.0, 1.0, 0.5),
        (-10.0, 1.0, 0.0),
        (1e15, 1.0, 30.0 * 24.0 * 3600.0),
    ] {
        let remaining = token::remaining(NOW + left, NOW, chance);
        assert_eq!(remaining, Duration::from_secs_f64(expected), "{left} {chance}");
    }
}

#[test]
fn key_sets_hold_all_sorts_of_keys() {
    let rsa = json!({ "kty": "RSA", "kid": "r", "n": "w".repeat(342), "e": "AQAB" });
    let with = |more: serde_json::Value| {
        let mut key = rsa.clone();
        key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        key
    };
    for (key, is_good) in [
        (rsa.clone(), true),
        (with(json!({ "use": "sig", "alg": "RS256" })), true),
        (with(json!({ "use": "enc" })), false),
        (with(json!({ "alg": "ES256" })), false),
        (with(json!({ "alg": "RSA-OAEP" })), false),
        (with(json!({ "n": "w".repeat(171) })), false),
        (json!({ "kty": "oct", "k": "c2VjcmV0", "alg": "HS256" }), false),
        (json!({ "kty": "XYZ" }), false),
        (json!(7), false),
    ] {
        let set = json!({ "keys": [key] }).to_string();
        assert_eq!(token::read_key_set(set.as_bytes()).is_ok(), is_good, "{set}");
    }
    for set in ["", "{}", "[]", r#"{"keys":{}}"#, r#"{"keys":[]}"#] {
        assert!(token::read_key_set(set.as_bytes()).is_err(), "{set}");
    }
}

proptest::proptest! {
    /// Whatever the text, there is a verdict, and never a good one.
    #[test]
    fn any_text_is_refused(
        text in "\\PC{0,40}|[A-Za-z0-9_-]{0,30}\\.[A-Za-z0-9_-]{0,30}\\.[A-Za-z0-9_-]{0,30}",
    ) {
        proptest::prop_assert!(token::verify(&text, &keys(), &rules(), NOW).is_err());
    }

    /// No change of a good token is a good token, but for bits that base64 leaves unused.
    #[test]
    fn any_change_is_refused(at in 0usize..200, to in "[A-Za-z0-9_.-]") {
        let good = sign(&json!({ "sub": "ada", "exp": NOW + 60.0 }));
        proptest::prop_assert!(token::verify(&good, &keys(), &rules(), NOW).is_ok());
        let at = at % good.len();
        let mut changed = good.clone();
        changed.replace_range(at..=at, &to);
        if changed != good {
            proptest::prop_assert!(token::verify(&changed, &keys(), &rules(), NOW).is_err());
        }
    }

    /// Any JSON is claims or a refusal; key sets likewise.
    #[test]
    fn any_json_is_read_without_a_panic(text in "[\\[\\]{}\",:a-z0-9.$\\\\u-]{0,60}") {
        let _ = super::claims::Claims::from_json(text.as_bytes());
        let _ = token::read_key_set(text.as_bytes());
    }
}
