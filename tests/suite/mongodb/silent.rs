//! Streams that would open and stay silent, or send less than `find` shows: told, or refused.

use mongodb::Client;
use mongodb::bson::doc;

use super::{collection, expect, filter, insert};
use crate::support::mongo::{Own, Setup};
use crate::support::sidecar::{self, Filters, Program, metric};
use crate::support::sse::Stream;
use crate::support::{http, mongo, unique, until};

/// State and reason of a stream.
pub(super) async fn stream_of(admin: std::net::SocketAddr, name: &str) -> (String, String) {
    let told = http::get(admin, "/streams").await.json();
    let streams = told["streams"].as_array().unwrap().clone();
    let stream = streams.into_iter().find(|stream| stream["name"] == name).unwrap_or_default();
    let text = |key: &str| stream[key].as_str().unwrap_or_default().to_owned();
    (text("state"), text("reason"))
}

/// Waits until `/streams` says so.
pub(super) async fn says(admin: std::net::SocketAddr, name: &str, state: &str, parts: &[&str]) {
    until(&format!("{name} is {state}, with {parts:?}"), || async {
        let (is, reason) = stream_of(admin, name).await;
        is == state && parts.iter().all(|part| reason.contains(part))
    })
    .await;
}

pub(super) async fn finding(admin: std::net::SocketAddr, name: &str, kind: &str) -> f64 {
    let name = format!("sidestream_filter_findings{{finding=\"{kind}\",stream=\"{name}\"}}");
    metric(admin, &name).await
}

#[tokio::test]
async fn what_can_never_send_is_refused_and_comes_into_force_when_it_can() {
    let database = unique("silent");
    let client = Client::with_uri_str(mongo::uri()).await.unwrap();
    let shop = client.database(&database);
    shop.create_collection("orders").await.unwrap();
    let view = doc! { "create": "paid", "viewOn": "orders", "pipeline": [] };
    shop.run_command(view).await.unwrap();
    let series = doc! { "create": "weather", "timeseries": { "timeField": "at" } };
    shop.run_command(series).await.unwrap();
    let file = |name: &str| filter(&format!("{database}.{name}"));
    let filters = Filters::new(&[
        ("orders", &file("orders")),
        ("paid", &file("paid")),
        ("weather", &file("weather")),
    ]);
    let (dir, uri) = (filters.path().display().to_string(), mongo::uri());
    let program = Program::start_ready(&["--filters", &dir, "--mongodb", &uri], &[]).await;
    let on = format!("collection: {database}.orders");
    says(program.admin, "paid", "broken", &["is a view", &on]).await;
    says(program.admin, "weather", "broken", &["is a time-series collection"]).await;
    says(program.admin, "orders", "ready", &[]).await;
    assert_eq!(finding(program.admin, "paid", "view").await, 1.0);
    assert_eq!(finding(program.admin, "weather", "time-series").await, 1.0);
    assert_eq!(
        metric(program.admin, "sidestream_filter_state{state=\"broken\",stream=\"paid\"}").await,
        1.0
    );
    program.log_with("views have no change stream").await;
    assert_eq!(http::get(program.listen, "/_events/paid").await.head.status, 404);

    // A reload is a reason to look again.
    shop.collection::<mongodb::bson::Document>("paid").drop().await.unwrap();
    shop.create_collection("paid").await.unwrap();
    filters.write("more", &file("orders"));
    says(program.admin, "paid", "ready", &[]).await;
    assert_eq!(finding(program.admin, "paid", "view").await, 0.0);
    let mut stream = Stream::open(program.listen, "/_events/paid").await;
    stream.settled().await;
    insert(&collection(&client, &database, "paid"), 0..2).await;
    expect(&mut stream, 0..2).await;
}

#[tokio::test]
async fn what_is_probably_not_meant_is_told() {
    let database = unique("silent");
    let client = Client::with_uri_str(mongo::uri()).await.unwrap();
    let shop = client.database(&database);
    shop.create_collection("Orders").await.unwrap();
    let swedish = doc! { "create": "people", "collation": { "locale": "sv", "strength": 2 } };
    shop.run_command(swedish).await.unwrap();
    let kept = doc! { "create": "kept", "changeStreamPreAndPostImages": { "enabled": true } };
    shop.run_command(kept).await.unwrap();
    let file = |name: &str| filter(&format!("{database}.{name}"));
    let before = "fullDocumentBeforeChange: whenAvailable\n";
    let filters = Filters::new(&[
        ("case", &file("orders")),
        ("missing", &file("bills")),
        ("collation", &file("people")),
        ("images", &format!("{}{before}", file("people"))),
        ("kept", &format!("{}{before}", file("kept"))),
        ("whole", &filter(&format!("{database}.*"))),
        ("nowhere", &filter(&format!("{}.*", database.to_uppercase()))),
    ]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let admin = sidecar.admin;
    let right_case = format!("write `collection: {database}.Orders`");
    says(admin, "case", "ready", &["but it has `Orders`", &right_case]).await;
    says(admin, "missing", "ready", &["there is no collection", "createCollection(\"bills\")"])
        .await;
    says(admin, "collation", "ready", &["default collation (sv)", "locale: \"simple\""]).await;
    let command =
        "runCommand({ collMod: \"people\", changeStreamPreAndPostImages: { enabled: true } })";
    says(admin, "images", "ready", &["does not record images", command]).await;
    says(admin, "nowhere", "ready", &["but there is", &format!("collection: {database}.*")]).await;
    says(admin, "whole", "ready", &["people` has a default collation (sv)"]).await;
    assert_eq!(stream_of(admin, "kept").await, ("ready".to_owned(), String::new()));
    for (name, kind) in [("case", "other-case"), ("missing", "missing-collection")] {
        assert_eq!(finding(admin, name, kind).await, 1.0);
    }

    // The command that it names mends it.
    let on = doc! { "collMod": "people", "changeStreamPreAndPostImages": { "enabled": true } };
    shop.run_command(on).await.unwrap();
    shop.create_collection("bills").await.unwrap();
    filters.write("more", &file("Orders"));
    until("both are mended", || async {
        let images = finding(admin, "images", "images").await;
        images + finding(admin, "missing", "missing-collection").await == 0.0
    })
    .await;
    sidecar.finish().await;
}

#[tokio::test]
async fn how_far_the_oplog_reaches_is_told_and_who_may_not_see_it_is_told_how() {
    let own = Own::start(Setup { auth: true, ..Setup::default() }).await;
    let filters = Filters::new(&[("orders", &filter("shop.orders"))]);
    let sidecar = sidecar::start(&own.uri(), &filters, &[]).await;
    until("it is known", || async {
        http::get(sidecar.admin, "/metrics")
            .await
            .text()
            .contains("\nsidestream_oplog_window_seconds ")
    })
    .await;
    let told = http::get(sidecar.admin, "/streams").await.json();
    assert!(told["upstreams"][0]["oplog_hours"].is_number(), "{told}");
    sidecar.finish().await;

    let root = own.client().await;
    let user = doc! {
        "createUser": "shopper", "pwd": "x", "roles": [{ "role": "read", "db": "shop" }],
    };
    root.database("shop").run_command(user).await.unwrap();
    let uri = format!("mongodb://shopper:x@{}/shop?replicaSet=rs0", own.host(0));
    let dir = filters.path().display().to_string();
    let program = Program::start_ready(&["--filters", &dir, "--mongodb", &uri], &[]).await;
    until("it is told", || async {
        let command = "db.getSiblingDB(\\\"shop\\\").grantRolesToUser(\\\"shopper\\\", [{ role: \\\"read\\\", db: \\\"local\\\" }])";
        program.log().contains(command)
    })
    .await;
    let told = http::get(program.admin, "/streams").await.json();
    assert!(told["upstreams"][0]["oplog_hours"].is_null(), "{told}");
}
