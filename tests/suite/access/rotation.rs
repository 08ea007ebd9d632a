//! An issuer that signs with another key from now on, and answers or does not.

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use sidestream::Sidecar;

use super::issuer::{Key, claims, ec_key, key_set};
use super::server::{Reply, Server};
use super::tokens::{files, start};
use super::{bearer, knock};
use crate::support::sidecar::{Filters, metric};
use crate::support::{http, unique, until};

/// A sidecar that has read the key `old` of an issuer, and a key that the issuer does not have yet.
struct Rotation {
    issuer: Server,
    sidecar: Sidecar,
    _filters: Filters,
    old: Key,
    new: Key,
    ada: Value,
}

impl Rotation {
    async fn begin() -> Rotation {
        let (old, new) = (ec_key("old", Algorithm::ES256), ec_key("new", Algorithm::ES256));
        let set = key_set(&[&old]);
        let issuer = Server::start(move |_| Reply::json(&set)).await;
        let filters = files(&unique("rotation"));
        let settings = [("JWKS_URL", &*issuer.url("/jwks")), ("ALGORITHMS", "ES256")];
        let sidecar = start(&filters, &settings).await;
        let ada = claims(json!({}));
        let rotation = Rotation { issuer, sidecar, _filters: filters, old, new, ada };
        assert_eq!(rotation.status(&rotation.old).await, 200);
        rotation
    }

    fn publish(&self, keys: &[&Key]) {
        let set = key_set(keys);
        self.issuer.answer_with(move |_| Reply::json(&set));
    }

    /// What a client gets with a token that is signed with this key.
    async fn status(&self, key: &Key) -> u16 {
        let fields = bearer(&key.sign(&self.ada));
        knock(self.sidecar.listen, "/_events/known", &fields).await.head.status
    }

    async fn status_of_a_made_up_key(&self) -> u16 {
        self.status(&ec_key("made-up", Algorithm::ES256)).await
    }

    /// That a page with the new key is told to come back, and that others are told as much.
    async fn expect_retry(&self) {
        let fields = bearer(&self.new.sign(&self.ada));
        let page = format!("{fields}Accept: text/event-stream\r\n");
        let answer = http::request(self.sidecar.listen, "GET", "/_events/known", &page).await;
        assert_eq!(answer.head.status, 200);
        assert_eq!(answer.head.field("content-type"), Some("text/event-stream"));
        let text = answer.text();
        assert!(text.starts_with("retry: ") && !text.contains("event:"), "{text}");
        let answer = knock(self.sidecar.listen, "/_events/known", &fields).await;
        assert_eq!(answer.head.status, 503);
        assert!(answer.head.field("retry-after").is_some());
        // Whose key is known is not concerned.
        assert_eq!(self.status(&self.old).await, 200);
    }

    async fn expect_the_new_key(&self) {
        until("the new key is found", || async {
            let status = self.status(&self.new).await;
            assert!(matches!(status, 200 | 503), "{status}");
            status == 200
        })
        .await;
    }

    async fn unavailable(&self) -> f64 {
        metric(self.sidecar.admin, "sidestream_auth_total{result=\"unavailable\"}").await
    }
}

#[tokio::test]
async fn a_rotated_key_is_found_and_made_up_ones_do_not_flood_the_issuer() {
    let it = Rotation::begin().await;
    let before = it.issuer.count();
    for _ in 0..10 {
        assert_eq!(it.status(&it.old).await, 200);
    }
    assert_eq!(it.issuer.count(), before, "the set is kept");
    assert_eq!(it.status(&it.new).await, 401);
    it.publish(&[&it.new]);
    assert_eq!(it.status(&it.new).await, 200);
    assert_eq!(it.status(&it.old).await, 401, "a key that was withdrawn");
    assert_eq!(it.status_of_a_made_up_key().await, 401);
    for _ in 0..50 {
        // Which of them depends on how long ago the issuer was asked.
        assert!(matches!(it.status_of_a_made_up_key().await, 401 | 503));
    }
    assert!(it.issuer.count() < before + 8, "{} fetches", it.issuer.count());
    it.sidecar.finish().await;
}

#[tokio::test]
async fn a_key_that_is_rotated_after_made_up_ones_used_up_the_looks_is_no_refusal() {
    let it = Rotation::begin().await;
    until("nobody may look for now", || async {
        let status = it.status_of_a_made_up_key().await;
        assert!(matches!(status, 401 | 503), "{status}");
        status == 503
    })
    .await;
    it.publish(&[&it.old, &it.new]);
    it.expect_the_new_key().await;
    it.sidecar.finish().await;
}

#[tokio::test]
async fn a_key_that_is_rotated_while_the_issuer_errs_is_no_refusal() {
    let it = Rotation::begin().await;
    it.issuer.answer_with(|_| Reply::status(500));
    it.expect_retry().await;
    assert!(it.unavailable().await >= 2.0);
    it.publish(&[&it.old, &it.new]);
    it.expect_the_new_key().await;
    it.sidecar.finish().await;
}

#[tokio::test]
async fn a_key_that_is_rotated_while_the_issuer_hangs_is_no_refusal() {
    let it = Rotation::begin().await;
    it.issuer.answer_with(|_| Reply::Never);
    it.expect_retry().await;
    assert!(it.unavailable().await >= 2.0);
    it.publish(&[&it.old, &it.new]);
    it.expect_the_new_key().await;
    it.sidecar.finish().await;
}

#[tokio::test]
async fn a_look_for_a_new_key_that_panics_is_counted_and_comes_again() {
    let it = Rotation::begin().await;
    it.publish(&[&it.old, &it.new]);
    let before = it.issuer.count();
    it.issuer.hold();
    let fields = bearer(&it.new.sign(&it.ada));
    let listen = it.sidecar.listen;
    let waiting =
        tokio::spawn(async move { knock(listen, "/_events/known", &fields).await.head.status });
    until("the issuer is asked", || async { it.issuer.count() > before }).await;
    it.sidecar.tasks().make_panic("key-set");
    assert_eq!(waiting.await.unwrap(), 503);
    let panics = "sidestream_task_panics_total{task=\"key-set\"}";
    assert_eq!(metric(it.sidecar.admin, panics).await, 1.0);
    assert_eq!(it.status(&it.old).await, 200);
    it.issuer.release();
    it.expect_the_new_key().await;
    it.sidecar.finish().await;
}
