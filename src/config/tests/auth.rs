//! The settings of `auth`: what is taken, and the exact text about what is not.

use jsonwebtoken::Algorithm;

use super::*;

pub(super) const EC_KEY: &str = "-----BEGIN PUBLIC KEY-----
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
    assert!(matches!(jwt.key, JwtKey::File { .. }));
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
fn claims_in_a_header_are_text_or_json_by_the_setting() {
    let header = |text: &str| {
        let env = [
            ("SIDESTREAM_AUTH__FORWARD__URL", "http://localhost:3000/me"),
            ("SIDESTREAM_AUTH__FORWARD__CLAIMS", text),
        ];
        from_env(&env).map(|config| config.auth.forward.unwrap().claims)
    };
    let name = http::HeaderName::from_static("x-user");
    assert_eq!(header("header:X-User").unwrap(), ClaimsFrom::Header(name.clone()));
    assert_eq!(header("header-json:X-User").unwrap(), ClaimsFrom::HeaderJson(name));
    assert!(header("header-text:X-User").is_err() && header("json").is_err());
}

#[test]
fn commands_that_only_look_open_no_secret() {
    let dir = directory(&[]);
    let env = [
        ("SIDESTREAM_MONGODB__URI_FILE", "nowhere"),
        ("SIDESTREAM_AUTH__JWT__SECRET_FILE", "nowhere"),
        ("SIDESTREAM_AUTH__JWT__ALGORITHMS", "HS256"),
        ("SIDESTREAM_TLS__CERT_FILE", "nowhere"),
        ("SIDESTREAM_TLS__KEY_FILE", "nowhere"),
    ];
    let looking = sources(&dir, &env, Flags::default());
    let running = looking.clone();
    let config = Config::load(Sources { leaves_secrets: true, ..looking }).unwrap();
    assert!(config.auth.has_source());
    assert!(matches!(config.auth.jwt.unwrap().key, JwtKey::Unread));
    assert_eq!(Config::load(running).unwrap_err().diagnostics.len(), 4);
}

#[test]
fn the_least_and_the_environment() {
    let env = [
        (
            "SIDESTREAM_AUTH__JWT__SECRET",
            "[hunter2], 007 and so on, until there are the 64 bytes of HS512 or more",
        ),
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
