//! JSON Web Tokens: who gets in, and for how long.

use std::time::{Duration, Instant};

use jsonwebtoken::Algorithm;
use mongodb::bson::doc;
use serde_json::{Value, json};

use super::issuer::{claims, ec_key, ed_key, key_set, rsa_key, secret, time};
use super::server::{Reply, Server};
use super::{SECRET, bearer, filter, insert, knock};
use crate::support::sidecar::{self, Filters, metric};
use crate::support::sse::Stream;
use crate::support::{http, mongo, unique, until};

pub(super) fn files(database: &str) -> Filters {
    let by_role = "{ match: { role: { $in: [admin, owner] }, level: { $gte: 3 } } }";
    let bound = "match: { customer: { $claim: sub } }\noperations: [insert]\n";
    let nested = "match: { tenant: { $claim: org.tenant }, team: { $claim: teams } }\n\
                  operations: [insert]\n";
    let room = "match: { room: { $param: room } }\nparams: { room: { type: string } }\n\
                operations: [insert]\n";
    Filters::new(&[
        ("public", &filter(database, "public", "")),
        ("known", &filter(database, "authenticated", "")),
        ("admins", &filter(database, by_role, "")),
        ("mine", &filter(database, "authenticated", bound)),
        ("ours", &filter(database, "authenticated", nested)),
        ("room", &filter(database, "{ match: { rooms: { $param: room } } }", room)),
    ])
}

const PREFIX: &str = "SIDESTREAM_AUTH__JWT__";

fn settings<'s>(pairs: &'s [(&'s str, &'s str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| (format!("{PREFIX}{name}"), (*value).to_owned())).collect()
}

pub(super) async fn start(filters: &Filters, pairs: &[(&str, &str)]) -> sidestream::Sidecar {
    let settings = settings(pairs);
    let settings: Vec<_> = settings.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    sidecar::start(&mongo::uri(), filters, &settings).await
}

/// A header and claims with a signature of one's own making.
fn forged(header: &Value, claims: &Value, signature: &str) -> String {
    let part = |value: &Value| base64(value.to_string().as_bytes());
    format!("{}.{}.{signature}", part(header), part(claims))
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let word = three
            .iter()
            .enumerate()
            .fold(0, |word, (at, byte)| word | u32::from(*byte) << (16 - 8 * at));
        for at in 0..=three.len() {
            out.push(char::from(LETTERS[(word >> (18 - 6 * at) & 63) as usize]));
        }
    }
    out
}

#[tokio::test]
async fn who_gets_in() {
    let database = unique("tokens");
    let (rsa, ec, ed) = (rsa_key(), ec_key("ec", Algorithm::ES256), ed_key("ed"));
    let stranger = ec_key("ec", Algorithm::ES256);
    let set = key_set(&[rsa, &ec, &ed]);
    let issuer = Server::start(move |_| Reply::json(&set)).await;
    let sidecar = start(
        &files(&database),
        &[
            ("JWKS_URL", &issuer.url("/jwks.json")),
            ("ALGORITHMS", "RS256, ES256, EdDSA"),
            ("ISSUER", "https://issuer.example"),
            ("AUDIENCE", "shop"),
        ],
    )
    .await;

    let ada = claims(json!({}));
    let admin = claims(json!({ "role": "admin", "level": 3 }));
    let member = claims(json!({ "org": { "tenant": 7 }, "teams": ["a", "b"] }));
    let none = json!({ "alg": "none", "typ": "JWT" });
    let with = |more: Value| ec.sign(&claims(more));
    let confused = secret(&rsa.public).named("rsa");
    let hs_header = json!({ "alg": "HS256", "kid": "rsa" });
    let rows: &[(&str, &str, Option<String>, u16)] = &[
        // Access rules.
        ("public", "nobody", None, 200),
        ("public", "somebody", Some(ec.sign(&ada)), 200),
        ("public", "a bad token", Some("x.y.z".to_owned()), 200),
        ("known", "nobody", None, 401),
        ("known", "RS256", Some(rsa.sign(&ada)), 200),
        ("known", "ES256", Some(ec.sign(&ada)), 200),
        ("known", "EdDSA", Some(ed.sign(&ada)), 200),
        ("known", "no key named", Some(ec.sign_nameless(&ada)), 200),
        ("admins", "nobody", None, 401),
        ("admins", "no role", Some(ec.sign(&ada)), 403),
        ("admins", "both", Some(ec.sign(&admin)), 200),
        (
            "admins",
            "one of several",
            Some(with(json!({ "role": ["x", "owner"], "level": 9 }))),
            200,
        ),
        ("admins", "too low", Some(with(json!({ "role": "admin", "level": 2.9 }))), 403),
        (
            "admins",
            "an operator",
            Some(with(json!({ "role": { "$in": ["admin"] }, "level": 9 }))),
            403,
        ),
        ("admins", "a number as text", Some(with(json!({ "role": "admin", "level": "9" }))), 403),
        // Claim shapes.
        ("mine", "a subject", Some(ec.sign(&ada)), 200),
        ("mine", "a number", Some(with(json!({ "sub": 7 }))), 200),
        ("mine", "none", Some(with(json!({ "sub": null }))), 403),
        ("ours", "none", Some(ec.sign(&ada)), 403),
        ("ours", "nested", Some(ec.sign(&member)), 200),
        ("ours", "half", Some(with(json!({ "org": { "tenant": 7 } }))), 403),
        ("ours", "not an object", Some(with(json!({ "org": "tenant", "teams": [] }))), 403),
        ("room?room=a", "in it", Some(with(json!({ "rooms": ["a", "b"] }))), 200),
        ("room?room=c", "not in it", Some(with(json!({ "rooms": ["a", "b"] }))), 403),
        ("room", "no room", Some(with(json!({ "rooms": ["a", "b"] }))), 400),
        // Time.
        ("known", "expired", Some(with(json!({ "exp": time(-30) }))), 401),
        ("known", "no expiry", Some(with(json!({ "exp": null }))), 401),
        ("known", "expiry as text", Some(with(json!({ "exp": time(60).to_string() }))), 401),
        ("known", "not yet", Some(with(json!({ "nbf": time(60) }))), 401),
        ("known", "just now", Some(with(json!({ "nbf": time(1) }))), 200),
        // Whose and for whom.
        ("known", "another issuer", Some(with(json!({ "iss": "https://evil.example" }))), 401),
        ("known", "no issuer", Some(with(json!({ "iss": null }))), 401),
        ("known", "another audience", Some(with(json!({ "aud": "bank" }))), 401),
        ("known", "several audiences", Some(with(json!({ "aud": ["bank", "shop"] }))), 200),
        ("known", "no audience", Some(with(json!({ "aud": null }))), 401),
        // Algorithms and keys.
        ("known", "none", Some(forged(&none, &ada, "")), 401),
        ("known", "nOnE", Some(forged(&json!({ "alg": "nOnE" }), &ada, "")), 401),
        ("known", "HS256 with the public key", Some(confused.sign(&ada)), 401),
        ("known", "HS256, no signature", Some(forged(&hs_header, &ada, "")), 401),
        ("known", "RS512, not configured", Some(rsa.with(Algorithm::RS512).sign(&ada)), 401),
        ("known", "PS256, not configured", Some(rsa.with(Algorithm::PS256).sign(&ada)), 401),
        ("known", "another's key of that name", Some(stranger.sign(&ada)), 401),
        ("known", "the wrong key's name", Some(ec.named("rsa").sign(&ada)), 401),
        (
            "known",
            "a key brought along",
            Some(forged(&json!({ "alg": "ES256", "jwk": stranger.jwk() }), &ada, "AAAA")),
            401,
        ),
        (
            "known",
            "critical extensions",
            Some(forged(
                &json!({ "alg": "ES256", "kid": "ec", "crit": ["b64"], "b64": false }),
                &ada,
                "AA",
            )),
            401,
        ),
        // Shapes of text.
        ("known", "two parts", Some("a.b".to_owned()), 401),
        ("known", "four parts", Some(format!("{}.x", ec.sign(&ada))), 401),
        ("known", "cut", Some(ec.sign(&ada).split_at(60).0.to_owned()), 401),
        (
            "known",
            "an empty signature",
            Some(ec.sign(&ada).rsplit_once('.').unwrap().0.to_owned() + "."),
            401,
        ),
        ("known", "something else", Some("opaque".to_owned()), 401),
    ];
    for (stream, name, token, status) in rows {
        let fields = token.as_deref().map(bearer).unwrap_or_default();
        let answer = knock(sidecar.listen, &format!("/_events/{stream}"), &fields).await;
        assert_eq!(answer.head.status, *status, "{stream}: {name}");
        let challenge = answer.head.field("www-authenticate").unwrap_or_default();
        assert_eq!(challenge.starts_with("Bearer"), *status == 401, "{stream}: {name}");
    }
    let changed = {
        let good = ec.sign(&ada);
        let mut parts = good.split('.');
        let (header, signature) = (parts.next().unwrap(), parts.nth(1).unwrap());
        format!("{header}.{}.{signature}", base64(admin.to_string().as_bytes()))
    };
    let answer = knock(sidecar.listen, "/_events/admins", &bearer(&changed)).await;
    assert_eq!(answer.head.status, 401, "claims that were changed");
    assert!(metric(sidecar.admin, "sidestream_auth_total{result=\"allowed\"}").await > 10.0);
    assert!(metric(sidecar.admin, "sidestream_auth_total{result=\"refused\"}").await > 10.0);

    let names = |answer: http::Answer| -> Vec<String> {
        let listed = answer.json()["streams"].as_array().unwrap().clone();
        listed.iter().map(|stream| stream["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(http::get(sidecar.listen, "/_events").await), ["public"]);
    for (claims, expected) in [
        (&ada, &["known", "mine", "public", "room"][..]),
        (&admin, &["admins", "known", "mine", "public", "room"]),
        (&member, &["known", "mine", "ours", "public", "room"]),
    ] {
        let fields = bearer(&ec.sign(claims));
        let answer = http::request(sidecar.listen, "GET", "/_events", &fields).await;
        assert_eq!(names(answer), expected);
    }
    sidecar.finish().await;
}

#[tokio::test]
async fn keys_from_files_and_secrets() {
    let database = unique("tokens");
    let filters = files(&database);
    let ada = claims(json!({}));
    let (rsa, ec, es384) =
        (rsa_key(), ec_key("ec", Algorithm::ES256), ec_key("e3", Algorithm::ES384));
    let hs = secret(SECRET);
    let file = filters.path().join("key.pem");
    let rows = [
        ("RS256", rsa.public.as_str(), rsa.clone(), true),
        ("PS256", &rsa.public, rsa.with(Algorithm::PS256), true),
        ("RS256", &rsa.public, secret(&rsa.public), false),
        ("RS256", &rsa.public, secret(rsa.public.trim()), false),
        ("ES256", &ec.public, ec.clone(), true),
        ("ES384", &es384.public, es384.clone(), true),
        ("ES256", &ec.public, rsa.clone(), false),
        ("HS256", "", hs.clone(), true),
        ("HS256", "", secret("another secret, well known"), false),
        ("HS512", "", hs.clone(), false),
        ("HS512", "", hs.with(Algorithm::HS512), true),
        ("HS256", "", rsa.clone(), false),
    ];
    for (algorithm, public, key, is_in) in rows {
        std::fs::write(&file, public).unwrap();
        let source = match public {
            "" => ("SECRET", SECRET),
            _ => ("PUBLIC_KEY_FILE", file.to_str().unwrap()),
        };
        let sidecar = start(&filters, &[source, ("ALGORITHMS", algorithm)]).await;
        let fields = bearer(&key.sign(&ada));
        let answer = knock(sidecar.listen, "/_events/known", &fields).await;
        let status = if is_in { 200 } else { 401 };
        assert_eq!(answer.head.status, status, "{algorithm} with {:?}", key.algorithm);
        sidecar.finish().await;
    }
}

#[tokio::test]
async fn without_the_issuer_nobody_new_gets_in_and_public_streams_go_on() {
    let database = unique("tokens");
    let key = ec_key("k", Algorithm::ES256);
    let issuer = Server::start(|_| Reply::status(500)).await;
    let url = issuer.url("/jwks");
    let sidecar = start(&files(&database), &[("JWKS_URL", &url), ("ALGORITHMS", "ES256")]).await;
    let fields = bearer(&key.sign(&claims(json!({}))));
    let answer = knock(sidecar.listen, "/_events/known", &fields).await;
    assert_eq!(answer.head.status, 503);
    assert!(answer.head.field("retry-after").is_some());
    assert_eq!(knock(sidecar.listen, "/_events/public", &fields).await.head.status, 200);
    let set = key_set(&[&key]);
    issuer.answer_with(move |_| Reply::json(&set));
    until("the issuer is asked again", || async {
        knock(sidecar.listen, "/_events/known", &fields).await.head.status == 200
    })
    .await;
    sidecar.finish().await;
}

#[tokio::test]
async fn tokens_come_from_cookies_and_the_query_where_the_settings_say_so() {
    let database = unique("tokens");
    let filters = files(&database);
    let hs = secret(SECRET);
    let token = hs.sign(&claims(json!({})));
    let base = [("SECRET", SECRET), ("ALGORITHMS", "HS256")];
    let cookie = format!("Cookie: a=1; token={token}; b=2\r\n");
    let in_query = format!("/_events/known?token={token}");
    let rows = [
        ("authorization", 200, 401, 401),
        ("cookie:token", 401, 200, 401),
        ("query:token", 401, 401, 200),
        ("query:token, authorization, cookie:token", 200, 200, 200),
    ];
    for (from, by_header, by_cookie, by_query) in rows {
        let sidecar = start(&filters, &[&base[..], &[("FROM", from)]].concat()).await;
        let status = async |target: &str, fields: &str| {
            knock(sidecar.listen, target, fields).await.head.status
        };
        assert_eq!(status("/_events/known", &bearer(&token)).await, by_header, "{from}");
        assert_eq!(status("/_events/known", &cookie).await, by_cookie, "{from}");
        assert_eq!(status(&in_query, "").await, by_query, "{from}");
        sidecar.finish().await;
    }
}

#[tokio::test]
async fn claims_bind_values_and_a_stream_ends_with_its_token() {
    let database = unique("tokens");
    let hs = secret(SECRET);
    let base = [("SECRET", SECRET), ("ALGORITHMS", "HS256")];
    let sidecar = start(&files(&database), &base).await;
    let open = async |stream: &str, more: Value| {
        let fields = bearer(&hs.sign(&claims(more)));
        let mut stream = Stream::open_with(sidecar.listen, stream, &fields).await;
        stream.settled().await;
        stream
    };
    let mut ada = open("/_events/mine", json!({})).await;
    let mut number = open("/_events/mine", json!({ "sub": 7 })).await;
    let mut ours =
        open("/_events/ours", json!({ "org": { "tenant": 7 }, "teams": ["a", null] })).await;
    for document in [
        doc! { "_id": 1, "customer": "bob" },
        doc! { "_id": 2, "customer": "7" },
        doc! { "_id": 3 },
        doc! { "_id": 4, "customer": "ada" },
        doc! { "_id": 5, "customer": 7.0 },
        doc! { "_id": 6, "tenant": 7 },
        doc! { "_id": 7, "tenant": 8, "team": "a" },
        doc! { "_id": 8, "tenant": 7_i64, "team": "a" },
    ] {
        insert(&database, "orders", document).await;
    }
    assert_eq!(ada.event().await.json()["documentKey"]["_id"], 4);
    assert_eq!(number.event().await.json()["documentKey"]["_id"], 5);
    assert_eq!(ours.event().await.json()["documentKey"]["_id"], 8);

    // Its times are whole seconds.
    let began = Instant::now();
    let mut short = open("/_events/mine", json!({ "exp": time(2) })).await;
    let end = short.event().await;
    assert_eq!((end.name(), end.json()), ("end", json!({ "reason": "unauthorized" })));
    assert_eq!(short.block().await, None);
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    // The others go on.
    insert(&database, "orders", doc! { "_id": 9, "customer": "ada" }).await;
    assert_eq!(ada.event().await.json()["documentKey"]["_id"], 9);
    assert_eq!(metric(sidecar.admin, "sidestream_auth_total{result=\"ended\"}").await, 1.0);
    sidecar.finish().await;
}
