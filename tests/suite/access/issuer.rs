//! An issuer of tokens, with keys of every kind.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384};
use rsa::pkcs8::{EncodePrivateKey, EncodePublicKey, LineEnding};
use serde_json::{Value, json};

/// A key pair, or a secret.
#[derive(Clone)]
pub struct Key {
    pub id: &'static str,
    pub algorithm: Algorithm,
    signing: EncodingKey,
    /// PEM; empty for a secret.
    pub public: String,
}

/// One for all tests: a good prime is hard to find.
pub fn rsa_key() -> &'static Key {
    static KEY: OnceLock<Key> = OnceLock::new();
    KEY.get_or_init(|| {
        let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).expect("a key");
        let private = key.to_pkcs8_pem(LineEnding::LF).expect("PEM");
        Key {
            id: "rsa",
            algorithm: Algorithm::RS256,
            signing: EncodingKey::from_rsa_pem(private.as_bytes()).expect("a key"),
            public: key.to_public_key().to_public_key_pem(LineEnding::LF).expect("PEM"),
        }
    })
}

pub fn ec_key(id: &'static str, algorithm: Algorithm) -> Key {
    let curve = match algorithm {
        Algorithm::ES384 => &PKCS_ECDSA_P384_SHA384,
        _ => &PKCS_ECDSA_P256_SHA256,
    };
    let pair = KeyPair::generate_for(curve).expect("a key");
    Key {
        id,
        algorithm,
        signing: EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).expect("a key"),
        public: pair.public_key_pem(),
    }
}

pub fn ed_key(id: &'static str) -> Key {
    // PKCS #8, version 1, by hand: a header and the seed.
    let header = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
    let seed: Vec<u8> = (0..32).map(|_| fastrand::u8(..)).collect();
    let signing = EncodingKey::from_ed_der(&[&header[..], &seed].concat());
    Key { id, algorithm: Algorithm::EdDSA, signing, public: String::new() }
}

pub fn secret(secret: &str) -> Key {
    let signing = EncodingKey::from_secret(secret.as_bytes());
    Key { id: "secret", algorithm: Algorithm::HS256, signing, public: String::new() }
}

impl Key {
    pub fn with(&self, algorithm: Algorithm) -> Key {
        Key { algorithm, ..self.clone() }
    }

    pub fn named(&self, id: &'static str) -> Key {
        Key { id, ..self.clone() }
    }

    pub fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.id.to_owned());
        jsonwebtoken::encode(&header, claims, &self.signing).expect("a token")
    }

    pub fn sign_nameless(&self, claims: &Value) -> String {
        jsonwebtoken::encode(&Header::new(self.algorithm), claims, &self.signing).expect("a token")
    }

    pub fn jwk(&self) -> Value {
        let jwk = Jwk::from_encoding_key(&self.signing, self.algorithm).expect("a key");
        let mut jwk = serde_json::to_value(jwk).expect("JSON");
        jwk["kid"] = json!(self.id);
        jwk["use"] = json!("sig");
        jwk
    }
}

pub fn key_set(keys: &[&Key]) -> Value {
    json!({ "keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>() })
}

/// Seconds since 1970, with an offset.
pub fn time(offset: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs();
    i64::try_from(now).expect("a time") + offset
}

/// Claims of somebody, valid for an hour; `more` on top, null for what is to be left out.
pub fn claims(more: Value) -> Value {
    let mut claims = json!({
        "sub": "ada", "iss": "https://issuer.example", "aud": "shop", "exp": time(3600),
    });
    let Value::Object(more) = more else { panic!("an object") };
    for (name, value) in more {
        match value {
            Value::Null => claims.as_object_mut().expect("an object").remove(&name),
            value => claims.as_object_mut().expect("an object").insert(name, value),
        };
    }
    claims
}
