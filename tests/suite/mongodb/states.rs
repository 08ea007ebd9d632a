//! What MongoDB can be at the start, what the sidecar says of it, and that it starts by itself
//! once somebody has done what it says.

use std::net::SocketAddr;

use mongodb::Client;
use mongodb::bson::doc;
use serde_json::json;

use super::{collection, expect, filter, insert};
use crate::support::http::{self, Answer};
use crate::support::mongo::{Own, ROOT, Setup, now};
use crate::support::sidecar::{self, Filters};
use crate::support::sse::{Block, Stream};
use crate::support::until;

async fn readyz(admin: SocketAddr) -> Answer {
    http::get(admin, "/readyz").await
}

/// Waits until `/readyz` and `/streams` say all of this of the stream that waits.
async fn says(admin: SocketAddr, parts: &[&str]) -> String {
    let said = std::sync::Mutex::new(String::new());
    until(&format!("/streams says {parts:?}"), || async {
        let streams = http::get(admin, "/streams").await.json();
        let stream = &streams["streams"][0];
        assert_eq!(stream["state"], "waiting", "{stream}");
        let reason = stream["reason"].as_str().unwrap().to_owned();
        let has_all = parts.iter().all(|part| reason.contains(part));
        let is_told = has_all && readyz(admin).await.text().contains(&reason);
        *said.lock().unwrap() = reason;
        is_told
    })
    .await;
    said.into_inner().unwrap()
}

/// The app is served, and streams say that they will come: to who takes a refusal for final, by an
/// open stream with signs of life. `is_ready`: where waiting does not mend it, and so holds up nobody.
async fn is_only_a_proxy(sidecar: &sidestream::Sidecar, is_ready: bool) {
    let listen = sidecar.listen;
    // Nobody listens behind this sidecar, and that is what a working proxy says.
    assert_eq!(http::get(listen, "/page").await.head.status, 502);
    let answer = http::get(listen, "/_events/orders").await;
    assert_eq!(answer.head.status, 503);
    assert_eq!(answer.head.field("content-type"), Some("application/problem+json"));
    assert!(answer.head.field("retry-after").is_some());
    assert_eq!(answer.json()["status"], 503);
    let mut waiting = Stream::open(listen, "/_events/orders").await;
    assert!(waiting.block().await.expect("a line").retry.is_some());
    for _ in 0..2 {
        let block = waiting.block().await.expect("the stream goes on");
        assert!(block.is_comment, "nobody can say where now is: {block:?}");
    }
    let status = if is_ready { 200 } else { 503 };
    assert_eq!(readyz(sidecar.admin).await.head.status, status);
}

async fn is_live(sidecar: &sidestream::Sidecar) -> bool {
    http::get(sidecar.admin, "/streams").await.json()["streams"][0]["state"] == "ready"
}

async fn becomes_ready_and_delivers(sidecar: &sidestream::Sidecar, client: &Client) {
    until("it becomes ready by itself", || async { is_live(sidecar).await }).await;
    assert_eq!(readyz(sidecar.admin).await.head.status, 200);
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    stream.settled().await;
    insert(&collection(client, "shop", "orders"), 0..2).await;
    expect(&mut stream, 0..2).await;
}

async fn a_standalone_server_can_be_made_a_replica_set(options: &str) {
    let mut own = Own::standalone().await;
    let filters = Filters::new(&[("orders", &filter("shop.orders"))]);
    let uri = format!("mongodb://{}/{options}", own.host(0));
    let sidecar = sidecar::start_before(sidecar::nowhere(), &uri, &filters, &[]).await;
    says(sidecar.admin, &["standalone", "--replSet rs0", "rs.initiate()"]).await;
    is_only_a_proxy(&sidecar, true).await;

    own.kill(0);
    own.restart_as_member();
    says(sidecar.admin, &["not initiated", "rs.initiate()"]).await;
    is_only_a_proxy(&sidecar, true).await;
    own.initiate().await;
    becomes_ready_and_delivers(&sidecar, &own.client().await).await;
    sidecar.finish().await;
}

#[tokio::test]
async fn a_standalone_server() {
    a_standalone_server_can_be_made_a_replica_set("").await;
}

// The driver forgets a host for good that should be of a set and is not.
#[tokio::test]
async fn a_standalone_server_where_a_replica_set_is_asked_for() {
    a_standalone_server_can_be_made_a_replica_set("?replicaSet=rs0").await;
}

#[tokio::test]
async fn another_replica_set_than_the_one_asked_for() {
    let own = Own::start(Setup::default()).await;
    let filters = Filters::new(&[("orders", &filter("shop.orders"))]);
    let uri = format!("mongodb://{}/?replicaSet=other", own.host(0));
    let sidecar = sidecar::start_before(sidecar::nowhere(), &uri, &filters, &[]).await;
    says(sidecar.admin, &["replica set `rs0`", "asks for replicaSet=other"]).await;
    is_only_a_proxy(&sidecar, true).await;
    sidecar.finish().await;
}

#[tokio::test]
async fn a_server_that_comes_later() {
    let mut own = Own::start(Setup::default()).await;
    let before = sidestream::event::Position::before(now(&own.client().await).await);
    own.kill(0);
    let filters = Filters::new(&[("orders", &filter("shop.orders"))]);
    let sidecar = sidecar::start_before(sidecar::nowhere(), &own.uri(), &filters, &[]).await;
    says(sidecar.admin, &["nothing listens at", &own.host(0)]).await;
    is_only_a_proxy(&sidecar, false).await;
    let mut early = Stream::open(sidecar.listen, "/_events/orders").await;
    let mut invalid = Stream::resume(sidecar.listen, "/_events/orders", "nonsense").await;
    let mut resumed = Stream::resume(sidecar.listen, "/_events/orders", before.as_str()).await;
    own.restart(0);
    // What the page has loaded meanwhile may be older than the stream's beginning.
    for (stream, reason) in
        [(&mut early, Some("started")), (&mut invalid, Some("invalid-token")), (&mut resumed, None)]
    {
        let told: Vec<_> = stream.until_ready().await.iter().map(Block::json).collect();
        let due: Vec<_> = reason.iter().map(|reason| json!({ "reason": reason })).collect();
        assert_eq!(told, due);
    }
    becomes_ready_and_delivers(&sidecar, &own.client().await).await;
    expect(&mut early, 0..2).await;
    sidecar.finish().await;
}

#[tokio::test]
async fn a_user_without_rights_and_a_wrong_password() {
    let own = Own::start(Setup { auth: true, ..Setup::default() }).await;
    let root = own.client().await;
    let poor = doc! { "createUser": "poor", "pwd": "hush-hush", "roles": [] };
    root.database("admin").run_command(poor).await.unwrap();
    let filters = Filters::new(&[("orders", &filter("shop.orders"))]);

    let uri = format!("mongodb://poor:hush-hush@{}/?replicaSet=rs0", own.host(0));
    let sidecar = sidecar::start_before(sidecar::nowhere(), &uri, &filters, &[]).await;
    let parts = ["not authorized on shop", "`find` and `changeStream`", "role: \"read\""];
    let said = says(sidecar.admin, &parts).await;
    assert!(!said.contains("$clusterTime"), "the whole command is noise: {said}");
    is_only_a_proxy(&sidecar, true).await;

    let wrong = format!("mongodb://poor:wr0ng-secret@{}/?replicaSet=rs0", own.host(0));
    let other = sidecar::start_before(sidecar::nowhere(), &wrong, &filters, &[]).await;
    says(other.admin, &["Authentication failed", "check user, password and authSource"]).await;
    is_only_a_proxy(&other, true).await;
    for (listen, admin) in [(sidecar.listen, sidecar.admin), (other.listen, other.admin)] {
        for (address, path) in [
            (admin, "/readyz"),
            (admin, "/streams"),
            (admin, "/metrics"),
            (listen, "/_events/nothing"),
            (listen, "/_events"),
        ] {
            let text = http::get(address, path).await.text();
            for secret in ["hush-hush", "wr0ng-secret", ROOT.1] {
                assert!(!text.contains(secret), "{path}: {text}");
            }
        }
    }
    other.finish().await;

    let grant = doc! { "grantRolesToUser": "poor", "roles": [{ "role": "read", "db": "shop" }] };
    root.database("admin").run_command(grant).await.unwrap();
    becomes_ready_and_delivers(&sidecar, &root).await;
    sidecar.finish().await;
}

#[tokio::test]
async fn tls_credentials_and_a_read_preference() {
    let own = Own::start(Setup { auth: true, tls: true, ..Setup::default() }).await;
    let filters = Filters::new(&[("orders", &filter("shop.orders"))]);
    let trusted = own.certificate(0);
    let uri = format!(
        "{}&tls=true&tlsCAFile={}&readPreference=secondaryPreferred&readConcernLevel=local\
         &compressors=zlib&zlibCompressionLevel=3&socketTimeoutMS=5000&useNewUrlParser=true",
        own.uri(),
        trusted.display()
    );
    let sidecar = sidecar::start(&uri, &filters, &[]).await;
    let client = own.client().await;
    becomes_ready_and_delivers(&sidecar, &client).await;
    sidecar.finish().await;

    // Whom it cannot trust it does not talk to.
    let uri = format!("{}&tls=true", own.uri());
    let sidecar = sidecar::start_before(sidecar::nowhere(), &uri, &filters, &[]).await;
    says(sidecar.admin, &["certificate"]).await;
    assert!(!is_live(&sidecar).await);
    sidecar.finish().await;
}
