//! The settings of `auth`: what is taken, and the exact text about what is not.

use jsonwebtoken::Algorithm;

use super::*;

const EC_KEY: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEVs/o5+uQbTjL3chynL4wXgUg2R9
q9UU8I5mEovUf86QZ7kOBIjJwqnzD1omageEHWwHdBO6B+dFabmdT9POxg==
-----END PUBLIC KEY-----
";

#[test]
fn without_auth_there_is_no_source() {
    let auth = from_file("auth: {}\n").unwrap().auth;
    assert!(!auth.has_source() && auth.allowed_origins.is_empty());
}

#[test]
fn the_contract_in_full() {
    let dir = directory(&[("key.pem", EC_KEY)]);
    let text = "\
auth:
  jwt:
    public_key_file: key.pem
    algorithms: [ES256]
    issuer: https://issuer.example
    audience: shop
    from: [authorization, 'cookie:__Host-t', 'query:token']
  forward:
    url: http://127.0.0.1:3000/me
    headers: [Cookie, x-api-key]
    claims: header:X-User
    cache: 0s
    recheck: 30s
    timeout: 1s
    max_outage: 1m
  allowed_origins: ['https://Shop.example:443', 'http://localhost:5173']
";
    std::fs::write(dir.path().join("sidestream.yaml"), text).unwrap();
    let auth = Config::load(sources(&dir, &[], Flags::default())).unwrap().auth;
    let jwt = auth.jwt.as_ref().unwrap();
    assert!(matches!(jwt.key, JwtKey::Fixed(_)));
    assert_eq!(jwt.algorithms, [Algorithm::ES256]);
    assert_eq!(jwt.issuer.as_deref(), Some("https://issuer.example"));
    assert_eq!(
        jwt.from,
        [
            TokenSource::Authorization,
            TokenSource::Cookie("__Host-t".into()),
            TokenSource::Query("token".into())
        ]
    );
    let forward = auth.forward.as_ref().unwrap();
    assert_eq!(forward.url, "http://127.0.0.1:3000/me");
    assert_eq!(forward.headers, ["cookie", "x-api-key"]);
    assert!(matches!(&forward.claims, ClaimsFrom::Header(name) if name == "x-user"));
    assert_eq!(forward.recheck, Duration::from_secs(30));
    assert_eq!(auth.allowed_origins, ["https://shop.example", "http://localhost:5173"]);
}

#[test]
fn the_least_and_the_environment() {
    let env = [
        ("SIDESTREAM_AUTH__JWT__SECRET", "[hunter2], 007"),
        ("SIDESTREAM_AUTH__JWT__ALGORITHMS", "HS256,HS512"),
        ("SIDESTREAM_AUTH__FORWARD__URL", "http://localhost:3000/me"),
    ];
    let config = from_env(&env).unwrap();
    let jwt = config.auth.jwt.as_ref().unwrap();
    assert_eq!(jwt.algorithms, [Algorithm::HS256, Algorithm::HS512]);
    assert_eq!(jwt.from, [TokenSource::Authorization]);
    let forward = config.auth.forward.as_ref().unwrap();
    assert_eq!(forward.headers, ["cookie", "authorization"]);
    assert_eq!(forward.claims, ClaimsFrom::Body);
    assert_eq!(
        (forward.cache, forward.recheck),
        (Duration::from_secs(10), Duration::from_secs(60))
    );
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn mistakes() {
    let rows: &[(&str, &str)] = &[
        (
            "auth: { jwt: { secret: hunter2 } }\n",
            "sidestream.yaml:1:24: error: auth.jwt.secret: needs `auth.jwt.algorithms` as well: \
             which one a token uses must not be up to the token\n  hint: write algorithms: [HS256]",
        ),
        (
            "auth: { jwt: { algorithms: [HS256] } }\n",
            "sidestream.yaml:1:28: error: auth.jwt.algorithms: needs a key to check tokens with\n  \
             hint: set one of auth.jwt.secret, auth.jwt.public_key_file and auth.jwt.jwks_url",
        ),
        (
            "auth: { jwt: { secret: hunter2, algorithms: [HS256, none] } }\n",
            "sidestream.yaml:1:53: error: auth.jwt.algorithms: `none` would take any token, also \
             one that nobody signed\n  hint: write the algorithm that your tokens are signed with",
        ),
        (
            "auth: { jwt: { jwks_url: 'https://a/b', algorithms: [HS256] } }\n",
            "sidestream.yaml:1:54: error: auth.jwt.algorithms: HS256 is for a shared secret, and a \
             public key is set\n  hint: a public key is known to everybody: whoever has it could \
             sign. Write the algorithm of the key, such as RS256 or ES256",
        ),
        (
            "auth: { jwt: { public_key_file: key.pem, algorithms: [HS256] } }\n",
            "sidestream.yaml:1:55: error: auth.jwt.algorithms: HS256 is for a shared secret, and a \
             public key is set\n  hint: a public key is known to everybody: whoever has it could \
             sign. Write the algorithm of the key, such as RS256 or ES256",
        ),
        (
            "auth: { jwt: { public_key_file: key.pem, algorithms: [RS256] } }\n",
            "sidestream.yaml:1:33: error: auth.jwt.public_key_file: holds no RSA public key, which \
             RS256 needs\n  hint: name the PEM file of the public key that belongs to the \
             algorithms",
        ),
        (
            "auth: { jwt: { public_key_file: key.pem, algorithms: [ES384] } }\n",
            "sidestream.yaml:1:33: error: auth.jwt.public_key_file: holds a key of a size that \
             ES384 forbids\n  hint: name the PEM file of the public key that belongs to the \
             algorithms",
        ),
        (
            "auth: { jwt: { secret: hunter2, jwks_url: 'https://a', algorithms: [HS256] } }\n",
            "sidestream.yaml:1:43: error: auth.jwt.jwks_url: is given together with \
             `auth.jwt.secret`\n  hint: keep one of them",
        ),
        (
            "auth: { jwt: { secret: hunter2, algorithms: [HS256], from: [header] } }\n",
            "sidestream.yaml:1:61: error: auth.jwt.from: `header` is no place for a token\n  \
             hint: write authorization, cookie:NAME or query:NAME",
        ),
        (
            "auth: { jwt: { secret: hunter2, algorithms: [HS256], from: ['query:wait'] } }\n",
            "sidestream.yaml:1:61: error: auth.jwt.from: `wait` has a meaning of its own in a \
             query\n  hint: give the token another name",
        ),
        (
            "auth: { jwt: { sercet: hunter2 } }\n",
            "sidestream.yaml:1:16: error: auth.jwt.sercet: unknown key\n  \
             hint: did you mean `auth.jwt.secret`?",
        ),
        (
            "auth: { forward: { recheck: 5m } }\n",
            "sidestream.yaml:1:29: error: auth.forward.recheck: needs `auth.forward.url` as \
             well\n  hint: set auth.forward.url to what answers only those who are signed in",
        ),
        (
            "auth: { forward: { url: 'http://u:hunter2@a/me' } }\n",
            "sidestream.yaml:1:25: error: auth.forward.url: credentials are not supported here\n  \
             hint: drop what is before `@`: the client's own credentials are what is passed on",
        ),
        (
            "auth: { forward: { url: /me } }\n",
            "sidestream.yaml:1:25: error: auth.forward.url: `/me` has no scheme that we know\n  \
             hint: write http://host:port/path or https://host/path",
        ),
        (
            "auth: { forward: { url: 'http://a/me', headers: [host] } }\n",
            "sidestream.yaml:1:50: error: auth.forward.headers: `host` says nothing about who \
             asks\n  hint: write names of header fields, as in [cookie, authorization]",
        ),
        (
            "auth: { forward: { url: 'http://a/me', claims: cookie } }\n",
            "sidestream.yaml:1:48: error: auth.forward.claims: `cookie` is no place for claims\n  \
             hint: write body or header:NAME",
        ),
        (
            "auth: { allowed_origins: ['*'] }\n",
            "sidestream.yaml:1:27: error: auth.allowed_origins: `*` would let any page read a \
             user's streams\n  hint: name the origins, one by one",
        ),
        (
            "auth: { allowed_origins: ['https://a/b'] }\n",
            "sidestream.yaml:1:27: error: auth.allowed_origins: `https://a/b` is more than an \
             origin\n  hint: write scheme and host as a browser does: https://shop.example",
        ),
        (
            "auth: { allowed_origins: [shop.example] }\n",
            "sidestream.yaml:1:27: error: auth.allowed_origins: `shop.example` is no origin\n  \
             hint: write scheme and host as a browser does: https://shop.example",
        ),
        (
            "auth: { allowed_origins: { a: b } }\n",
            "sidestream.yaml:1:26: error: auth.allowed_origins: expected a list, found a \
             mapping\n  hint: write ['https://shop.example']",
        ),
    ];
    for (text, expected) in rows {
        let dir = directory(&[("sidestream.yaml", text), ("key.pem", EC_KEY)]);
        let errors = Config::load(sources(&dir, &[], Flags::default())).expect_err(text);
        assert_eq!(errors.to_string(), *expected, "{text}");
        assert!(!errors.to_string().contains("hunter2"), "{text}");
    }
}
