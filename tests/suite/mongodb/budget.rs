//! A database for each tenant: many change streams, and a limit to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use mongodb::Client;
use mongodb::bson::{Document, doc};

use super::sharing::cursors;
use super::{collection, expect, filter, insert};
use crate::support::sidecar::{self, Filters, Program, metric};
use crate::support::sse::Stream;
use crate::support::{http, mongo, unique, until};

/// In the order of the alphabet, by which places are given.
fn tenants(count: usize) -> Vec<String> {
    let name = unique("tenant");
    (0..count).map(|number| format!("{name}_{number:02}")).collect()
}

fn files(databases: &[String]) -> Filters {
    let filters = Filters::new(&[]);
    for (number, database) in databases.iter().enumerate() {
        filters.write(&format!("s{number}"), &filter(&format!("{database}.orders")));
    }
    filters
}

async fn names_of(sidecar: &sidestream::Sidecar, state: &str) -> Vec<String> {
    let told = http::get(sidecar.admin, "/streams").await.json();
    let streams = told["streams"].as_array().unwrap().iter();
    let streams = streams.filter(|stream| stream["state"] == state);
    streams.map(|stream| stream["name"].as_str().unwrap().to_owned()).collect()
}

/// Answers that clients of this name wait for, at this moment.
async fn waiting_answers(client: &Client, app: &str) -> usize {
    let pipeline = [
        doc! { "$currentOp": { "allUsers": true } },
        doc! { "$match": { "op": "getmore", "appName": app } },
    ];
    let mut found = client.database("admin").aggregate(pipeline).await.expect("the operations");
    let mut count = 0;
    while found.advance().await.expect("an operation") {
        count += 1;
    }
    count
}

// Each holds one of the driver's connections while it waits, and the driver has ten by default.
#[tokio::test]
async fn forty_databases_wait_for_their_events_at_the_same_time() {
    let databases = tenants(40);
    let filters = files(&databases);
    let app = unique("forty");
    let uri = format!("{}&appName={app}", mongo::uri());
    let sidecar = sidecar::start(&uri, &filters, &[]).await;
    let client = Client::with_uri_str(mongo::uri()).await.unwrap();
    until("as many answers are waited for", || async {
        // Some may be between two of them.
        waiting_answers(&client, &app).await > 30
    })
    .await;
    assert_eq!(metric(sidecar.admin, "sidestream_upstream_cursors").await, 40.0);
    let mut streams = Vec::new();
    for number in 0..40 {
        let mut stream = Stream::open(sidecar.listen, &format!("/_events/s{number}")).await;
        stream.settled().await;
        streams.push(stream);
    }
    for (database, stream) in databases.iter().zip(&mut streams) {
        insert(&collection(&client, database, "orders"), 0..2).await;
        expect(stream, 0..2).await;
    }
    sidecar.finish().await;
}

#[tokio::test]
async fn a_directory_that_would_open_too_many_is_told_which_files_wait() {
    const MAX: usize = 4;
    let databases = tenants(5);
    let filters = files(&databases);
    let app = unique("few");
    let uri = format!("{}&appName={app}", mongo::uri());
    let settings = [
        ("SIDESTREAM_MONGODB__MAX_CURSORS", "4"),
        ("SIDESTREAM_REPLAY__MAX_BYTES", "1KiB"),
        ("SIDESTREAM_REPLAY__WINDOW", "1s"),
    ];
    let dir = filters.path().display().to_string();
    let mut check = tokio::process::Command::new(env!("CARGO_BIN_EXE_sidestream"));
    let checked = check.args(["check", &dir]).envs(settings).output().await.unwrap();
    assert!(checked.status.success(), "{checked:?}");
    let told = String::from_utf8(checked.stdout).unwrap();
    let waits = told.matches("would wait: mongodb.max_cursors allows 4 change streams").count();
    assert_eq!(waits, 2, "{told}");
    assert!(told.contains("s3.yaml:") && told.contains("s4.yaml:"), "{told}");
    let sidecar = sidecar::start(&uri, &filters, &settings).await;
    let client = Client::with_uri_str(mongo::uri()).await.unwrap();
    let most = Arc::new(AtomicUsize::new(0));
    let is_over = Arc::new(AtomicBool::new(false));
    let watching = tokio::spawn({
        let (client, app, most, is_over) =
            (client.clone(), app.clone(), most.clone(), is_over.clone());
        async move {
            let mut before = 0;
            while !is_over.load(Ordering::Acquire) {
                // One that is just being closed is seen once.
                let now = cursors(&client, &app).await;
                most.fetch_max(now.min(before), Ordering::AcqRel);
                before = now;
            }
        }
    });
    // One is kept for clients that come back.
    until("three are read", || async { names_of(&sidecar, "ready").await == ["s0", "s1", "s2"] })
        .await;
    assert_eq!(names_of(&sidecar, "waiting").await, ["s3", "s4"]);
    let told = http::get(sidecar.admin, "/streams").await.json();
    let reason = told["streams"][3]["reason"].as_str().unwrap();
    assert!(reason.contains("mongodb.max_cursors allows 4 change streams"), "{reason}");
    assert_eq!(http::get(sidecar.admin, "/readyz").await.head.status, 200);

    // Whoever was away is served all the same.
    let mut first = Stream::open(sidecar.listen, "/_events/s0").await;
    let id = first.settled().await;
    insert(&collection(&client, &databases[0], "orders"), 0..50).await;
    expect(&mut first, 0..50).await;
    for _ in 0..3 {
        let mut back = Stream::resume(sidecar.listen, "/_events/s0", &id).await;
        expect(&mut back, 0..50).await;
    }
    let mut waiting = Stream::open(sidecar.listen, "/_events/s3").await;
    filters.remove("s1");
    until("the next one is read", || async {
        names_of(&sidecar, "ready").await == ["s0", "s2", "s3"]
    })
    .await;
    waiting.settled().await;
    insert(&collection(&client, &databases[3], "orders"), 0..2).await;
    expect(&mut waiting, 0..2).await;
    is_over.store(true, Ordering::Release);
    watching.await.unwrap();
    let most = most.load(Ordering::Acquire);
    assert!(most > 0 && most <= MAX, "{most} change streams at a time");
    sidecar.finish().await;
}

// Of an app that runs in many small processes, for example. In a pool of one, the change stream that waits
// for events would have the only connection.
#[tokio::test]
async fn a_pool_that_is_too_small_is_raised() {
    let databases = tenants(1);
    let filters = files(&databases);
    let uri = format!("{}&maxPoolSize=1", mongo::uri());
    let dir = filters.path().display().to_string();
    let program = Program::start_ready(&["--filters", &dir, "--mongodb", &uri], &[]).await;
    program.log_with("maxPoolSize=1 in mongodb.uri is too small: it is 4 here").await;
}

#[tokio::test]
async fn a_pool_that_the_connection_string_makes_small_is_told() {
    let databases = tenants(4);
    let filters = files(&databases);
    let uri = format!("{}&maxPoolSize=4", mongo::uri());
    let dir = filters.path().display().to_string();
    let program = Program::start_ready(&["--filters", &dir, "--mongodb", &uri], &[]).await;
    let log = program.log_with("maxPoolSize in mongodb.uri").await;
    let lines = || {
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Document>(line).ok());
        lines.collect::<Vec<_>>()
    };
    let told = lines().into_iter().find_map(|line| {
        let fields = line.get_document("fields").ok()?;
        let is_it = fields.get_str("message").ok()?.contains("maxPoolSize in mongodb.uri");
        is_it.then(|| fields.get_str("streams").unwrap_or_default().to_owned())
    });
    // Room for two, and one of them for clients that come back.
    assert_eq!(told.as_deref(), Some("s1, s2, s3"), "{log}");
}
