//! Keys of tokens in files that are replaced while the sidecar runs.

use jsonwebtoken::Algorithm;
use serde_json::json;

use super::issuer::{Key, claims, ec_key, secret};
use super::{bearer, filter, insert, knock};
use crate::support::sidecar::{Filters, Program};
use crate::support::sse::Stream;
use crate::support::volume::Volume;
use crate::support::{mongo, unique, until};

async fn start(filters: &Filters, key: (&str, &std::path::Path), algorithm: &str) -> Program {
    let arguments = ["--filters", filters.path().to_str().unwrap(), "--mongodb", &mongo::uri()];
    let env = [(key.0, key.1.to_str().unwrap()), ("SIDESTREAM_AUTH__JWT__ALGORITHMS", algorithm)];
    Program::start_ready(&arguments, &env).await
}

async fn status(program: &Program, key: &Key) -> u16 {
    let fields = bearer(&key.sign(&claims(json!({}))));
    knock(program.listen, "/_events/known", &fields).await.head.status
}

#[tokio::test]
async fn a_secret_that_was_replaced_signs_from_then_on() {
    const SECRETS: [&str; 2] =
        ["the first secret, of thirty-two bytes", "the second secret, which is as long as that"];
    let database = unique("keys");
    let filters = Filters::new(&[("known", &filter(&database, "authenticated", ""))]);
    let mut volume = Volume::new("jwt", SECRETS[0]);
    let path = volume.path("jwt");
    let program = start(&filters, ("SIDESTREAM_AUTH__JWT__SECRET_FILE", &path), "HS256").await;
    let [first, second] = SECRETS.map(secret);
    let fields = bearer(&first.sign(&claims(json!({}))));
    let mut open = Stream::open_with(program.listen, "/_events/known", &fields).await;
    open.settled().await;
    assert_eq!(status(&program, &second).await, 401);

    // What is no key changes nothing.
    volume.swap("jwt", "short");
    let log = program.log_with("the old key of tokens stays in use").await;
    assert!(log.contains("is shorter than the 32 bytes") && !log.contains("\"short\""), "{log}");
    assert_eq!(status(&program, &first).await, 200);

    volume.swap("jwt", SECRETS[1]);
    until("the new secret is taken", || async { status(&program, &second).await == 200 }).await;
    assert_eq!(status(&program, &first).await, 401);
    // A stream that is open has its right until its token expires.
    insert(&database, "orders", mongodb::bson::doc! { "_id": 1 }).await;
    assert_eq!(open.event().await.json()["documentKey"]["_id"], 1);
    let log = program.log_with("the key of tokens was read again").await;
    assert!(SECRETS.iter().all(|secret| !log.contains(secret)), "{log}");
}

#[tokio::test]
async fn a_public_key_that_was_replaced_is_read_again() {
    let filters = Filters::new(&[("known", &filter(&unique("keys"), "authenticated", ""))]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key.pem");
    let [first, second] = ["first", "second"].map(|id| ec_key(id, Algorithm::ES256));
    std::fs::write(&file, &first.public).unwrap();
    let key = ("SIDESTREAM_AUTH__JWT__PUBLIC_KEY_FILE", &*file);
    let program = start(&filters, key, "ES256").await;
    assert_eq!((status(&program, &first).await, status(&program, &second).await), (200, 401));
    std::fs::remove_file(&file).unwrap();
    program.log_with("the old key of tokens stays in use").await;
    assert_eq!(status(&program, &first).await, 200);
    std::fs::write(&file, &second.public).unwrap();
    until("the new key is taken", || async { status(&program, &second).await == 200 }).await;
    assert_eq!(status(&program, &first).await, 401);
}
