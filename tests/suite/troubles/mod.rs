//! The troubles of docs/operations/: each is caused, and the operator's view says the right thing.
//!
//! Each prints what there was to be seen, which is where those pages have it from, and holds the page
//! against it: `scripts/cargo test --test suite -- troubles:: --nocapture --test-threads 1`.

mod memory;
mod resets;
mod slow;
mod start;

use std::path::Path;

use std::time::Duration;

use mongodb::Client;
use mongodb::bson::{Document, doc};
use serde_json::Value;

use crate::support::mongo::{Own, ROOT, Setup};
use crate::support::sidecar::{Filters, Program, nowhere};
use crate::support::sse::Stream;
use crate::support::{http, mongo, unique, until};

/// What whoever is woken at night can ask.
struct View {
    overview: Value,
    streams: Value,
    ready: (u16, String),
    metrics: String,
    log: String,
}

/// The lines of the blocks of output on a page of docs/operations, below this heading and above the next one.
fn shown_in(page: &str, heading: &str) -> Vec<String> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations");
    let page = std::fs::read_to_string(docs.join(page)).expect(page);
    let (_, section) = page.split_once(&format!("{heading}\n")).expect(heading);
    let section = section.split("\n#").next().unwrap();
    let mut lines = Vec::new();
    for block in section.split("```text\n").skip(1) {
        let block = block.split("```").next().unwrap().lines();
        // Those in a list are indented, and so is the end of a block.
        lines.extend(block.map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
    }
    lines
}

/// What may differ from run to run left out: numbers, and how far lines are indented.
fn without_numbers(text: &str) -> String {
    let mut kept = String::new();
    for word in text.split_whitespace() {
        for c in word.chars() {
            match c {
                '0'..='9' | '.' if kept.ends_with('#') => {}
                '0'..='9' => kept.push('#'),
                c => kept.push(c),
            }
        }
        kept.push(' ');
    }
    kept
}

/// Holds the output on a page against what was seen. An ellipsis stands for anything.
fn hold(page: &str, heading: &str, seen: &str) {
    hold_lines(&shown_in(page, heading), heading, seen);
}

/// The same of the metrics alone: what an error of MongoDB says depends on the moment.
fn hold_metrics(page: &str, heading: &str, seen: &str) {
    let mut lines = shown_in(page, heading);
    lines.retain(|line| line.starts_with("sidestream_"));
    hold_lines(&lines, heading, seen);
}

fn hold_lines(lines: &[String], heading: &str, seen: &str) {
    let seen = without_numbers(seen);
    assert!(!lines.is_empty(), "{heading} shows nothing");
    for line in lines {
        for part in line.split('…') {
            let part = without_numbers(part);
            assert!(seen.contains(part.trim()), "{heading}: `{line}` is not in\n{seen}");
        }
    }
}

impl View {
    async fn of(program: &Program) -> View {
        let ready = http::get(program.admin, "/readyz").await;
        View {
            overview: http::get(program.admin, "/overview").await.json(),
            streams: http::get(program.admin, "/streams").await.json(),
            ready: (ready.head.status, ready.text()),
            metrics: http::get(program.admin, "/metrics").await.text(),
            log: program.log(),
        }
    }

    /// All of it; the log as text.
    fn text(&self) -> String {
        let lines = self.log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let log: Vec<String> = lines
            .map(|line| {
                let fields = line["fields"].as_object().unwrap();
                let text = |value: &Value| value.as_str().map_or(value.to_string(), str::to_owned);
                let rest = fields.iter().filter(|(name, _)| *name != "message");
                let rest: String =
                    rest.map(|(name, value)| format!(" {name}={}", text(value))).collect();
                let (level, target) = (text(&line["level"]), text(&line["target"]));
                format!("{level} {target}: {}{rest}\n", text(&fields["message"]))
            })
            .collect();
        format!(
            "{}\n{}\n{}\n{}\n{}",
            self.ready.1,
            self.overview,
            self.streams,
            self.metrics,
            log.concat()
        )
    }

    fn stream(&self, name: &str) -> &Value {
        let streams = self.streams["streams"].as_array().unwrap();
        streams.iter().find(|stream| stream["name"] == name).expect("the stream")
    }

    /// Of one series; 0 where there is none.
    fn metric(&self, name: &str) -> f64 {
        let found = self.metrics.lines().find_map(|line| line.strip_prefix(name));
        found.map_or(0.0, |value| value.trim().parse().unwrap())
    }

    /// Of these names.
    fn show(&self, title: &str, metrics: &[&str]) {
        println!("== {title}\n/readyz {} {}", self.ready.0, self.ready.1.trim_end());
        println!("/overview {}\n/streams {}", self.overview, self.streams);
        for line in self.metrics.lines() {
            if metrics.iter().any(|name| line.starts_with(&format!("sidestream_{name}"))) {
                println!("{line}");
            }
        }
        let text = self.text();
        let tail: Vec<&str> = text.lines().rev().take(4).collect();
        tail.iter().rev().for_each(|line| println!("{line}"));
    }
}

fn file(namespace: &str) -> String {
    format!("collection: {namespace}\naccess: public\n")
}

async fn start(uri: &str, filters: &Filters, env: &[(&str, &str)]) -> Program {
    let (path, app) = (filters.path().display().to_string(), format!("http://{}", nowhere()));
    let arguments = ["--app", &app, "--filters", &path, "--mongodb", uri];
    let mut all = vec![("SIDESTREAM_CLIENTS__HEARTBEAT", "200ms")];
    all.extend(env);
    Program::start_ready(&arguments, &all).await
}

async fn open(program: &Program, name: &str) -> Stream {
    let mut stream = Stream::open(program.listen, &format!("/_events/{name}")).await;
    stream.until_ready().await;
    stream
}

async fn write(uri: &str, database: &str, count: usize, bytes: usize) {
    let client = Client::with_uri_str(uri).await.unwrap();
    let collection = client.database(database).collection::<Document>("orders");
    for _ in 0..count {
        collection.insert_one(doc! { "text": "x".repeat(bytes) }).await.unwrap();
    }
}

#[tokio::test]
async fn mongodb_is_frozen() {
    let own = Own::start(Setup::default()).await;
    let filters = Filters::new(&[("orders", &file("shop.orders"))]);
    let program = start(&own.uri(), &filters, &[]).await;
    let mut stream = open(&program, "orders").await;
    own.freeze(0);
    until("it is noticed", || async {
        View::of(&program).await.stream("orders")["state"] == "waiting"
    })
    .await;
    let view = View::of(&program).await;
    view.show(
        "MongoDB is frozen",
        &["upstream_", "connections{transport=\"sse\"}", "filter_state"],
    );
    // The app is served; the stream is open, with signs of life.
    assert_eq!(view.ready.0, 200);
    assert!(view.ready.1.starts_with("ready\nshop/updateLookup: "), "{}", view.ready.1);
    assert!(view.stream("orders")["reason"].is_string());
    assert_eq!(view.streams["upstreams"][0]["status"], "away");
    assert_eq!(view.overview["troubles"].as_array().unwrap().len(), 1);
    assert_eq!(view.metric("sidestream_connections{transport=\"sse\"}"), 1.0);
    assert_eq!(view.metric("sidestream_filter_state{state=\"waiting\",stream=\"orders\"}"), 1.0);
    assert!(view.log.contains("\"upstream\":\"shop/updateLookup\""), "{}", view.log);
    stream.block().await.expect("a sign of life");
    // The log has a line for each attempt.
    until("an attempt is in the log", || async {
        program.log().contains("change stream is unavailable")
    })
    .await;
    own.thaw(0);
    write(&own.uri(), "shop", 1, 1).await;
    stream.event().await;
    let state = async || View::of(&program).await.stream("orders")["state"].clone();
    until("it is read again", || async { state().await == "ready" }).await;
    until("the log says so", || async { program.log().contains("change stream is open again") })
        .await;
    let seen = view.text() + &View::of(&program).await.text();
    let page = "late.md";
    hold_metrics(page, "## The lag grows: MongoDB is not read", &seen);
}

/// A client that was away for longer than the oplog reaches.
#[tokio::test]
async fn the_oplog_is_too_short() {
    let own = Own::start(Setup { oplog_mib: 1, ..Setup::default() }).await;
    let filters = Filters::new(&[("orders", &file("shop.orders"))]);
    let small = [("SIDESTREAM_REPLAY__MAX_BYTES", "64KiB")];
    let program = start(&own.uri(), &filters, &small).await;
    let mut early = open(&program, "orders").await;
    write(&own.uri(), "shop", 1, 1).await;
    let old = early.event().await.id.unwrap();
    drop(early);
    // Others write, until the oplog begins later and the journal has nothing so old.
    let mut reason = String::new();
    while reason != "history-lost" {
        write(&own.uri(), "noise", 20, 100_000).await;
        write(&own.uri(), "shop", 1, 100_000).await;
        let mut stream = Stream::resume(program.listen, "/_events/orders", &old).await;
        let first = stream.event().await;
        reason = first.json()["reason"].as_str().unwrap_or_default().to_owned();
    }
    let reaches = async || View::of(&program).await.overview["oplog_hours"].clone();
    until("it was looked", || async { reaches().await.is_number() }).await;
    let view = View::of(&program).await;
    view.show(
        "the oplog is too short",
        &["resets_total", "oplog_window_seconds", "filter_findings"],
    );
    assert_eq!(view.metric("sidestream_resets_total{reason=\"history-lost\"}"), 1.0);
    assert_eq!(view.overview["resets"]["history-lost"], 1);
    let window = view.metric("sidestream_oplog_window_seconds");
    assert!(window < 120.0, "{window}");
    hold("resets.md", "## The oplog is too short", &view.text());
}

#[tokio::test]
async fn a_file_is_broken() {
    let database = unique("troubles");
    let filters = Filters::new(&[("orders", &file(&format!("{database}.orders")))]);
    let program = start(&mongo::uri(), &filters, &[]).await;
    let mut stream = open(&program, "orders").await;
    filters.write("orders", &format!("collection: {database}.orders\nacess: public\n"));
    let state = async || View::of(&program).await.stream("orders")["state"].clone();
    until("it is noticed", || async { state().await == "broken" }).await;
    let view = View::of(&program).await;
    view.show("a file is broken", &["filter_"]);
    assert!(
        view.stream("orders")["reason"].as_str().unwrap().contains("acess"),
        "{:?}",
        view.streams
    );
    assert_eq!(view.metric("sidestream_filter_reloads_total{result=\"broken\"}"), 1.0);
    assert_eq!(view.metric("sidestream_filter_state{state=\"broken\",stream=\"orders\"}"), 1.0);
    let files = http::get(program.admin, "/filters").await.json();
    let text = files["filters"][0]["diagnostics"][0]["text"].as_str().unwrap().to_owned();
    println!("/filters {text}");
    assert!(text.contains("orders.yaml:2:1: error: ") && text.contains("^"), "{text}");
    until("the log says so", || async { program.log().contains("orders.yaml:2:1") }).await;
    let seen = (view.text() + &text).replace(&filters.path().display().to_string(), "filters");
    hold("silent.md", "## A broken file", &seen);
    // The version before is in force.
    write(&mongo::uri(), &database, 1, 1).await;
    stream.event().await;
}

#[tokio::test]
async fn a_client_is_slow() {
    let database = unique("troubles");
    let filters = Filters::new(&[("orders", &file(&format!("{database}.orders")))]);
    // Seconds of what is written fit into the journal: who is behind that is known to lag by as much
    // as it holds, and no more.
    let env =
        [("SIDESTREAM_REPLAY__MAX_BYTES", "64MiB"), ("SIDESTREAM_CLIENTS__SEND_TIMEOUT", "1h")];
    let program = start(&mongo::uri(), &filters, &env).await;
    // It takes nothing more.
    let _slow = open(&program, "orders").await;
    let mut quick = open(&program, "orders").await;
    let listeners = async || http::get(program.admin, "/listeners?stream=orders").await.json();
    let client = Client::with_uri_str(mongo::uri()).await.unwrap();
    let orders = client.database(&database).collection::<Document>("orders");
    // At most five megabytes a second, whatever the machine: the journal holds more than ten seconds.
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    let writing = async {
        loop {
            pace.tick().await;
            orders.insert_one(doc! { "text": "x".repeat(100_000) }).await.unwrap();
        }
    };
    let reading = async { while quick.block().await.is_some() {} };
    let watching = until("it lags", || async {
        listeners().await["listeners"][0]["lag_seconds"].as_f64().is_some_and(|lag| lag >= 3.0)
    });
    tokio::select! { () = writing => {}, () = reading => {}, () = watching => {} }
    let view = View::of(&program).await;
    view.show(
        "a client is slow",
        &["slow_clients_total", "delivery_seconds_sum", "connections{transport=\"sse\"}"],
    );
    let told = listeners().await;
    println!("/listeners {told}");
    let source = told["listeners"][0]["source"].as_str().unwrap();
    assert!(matches!(source, "look-back" | "memory" | "replay"), "{told}");
    let lag = |at: usize| told["listeners"][at]["lag_seconds"].as_f64().unwrap();
    assert!(lag(0) >= 3.0 && lag(0) > lag(1), "{told}");
    // Nobody else is worse off for it, and nothing is kept for it.
    assert!(view.overview["journal_bytes"].as_u64().unwrap() <= 65 << 20);
}

#[tokio::test]
async fn rights_are_removed() {
    let own = Own::start(Setup { auth: true, ..Setup::default() }).await;
    let root = own.client().await;
    let admin = root.database("admin");
    let user = doc! { "createUser": "sidecar", "pwd": "the-sidecars-password",
    "roles": [{ "role": "read", "db": "shop" }] };
    admin.run_command(user).await.unwrap();
    let uri = format!("mongodb://sidecar:the-sidecars-password@{}/?replicaSet=rs0", own.host(0));
    let filters = Filters::new(&[("orders", &file("shop.orders"))]);
    let program = start(&uri, &filters, &[]).await;
    let mut stream = open(&program, "orders").await;
    let roles =
        |command: &str| doc! { command: "sidecar", "roles": [{ "role": "read", "db": "shop" }] };
    admin.run_command(roles("revokeRolesFromUser")).await.unwrap();
    // A cursor is held against the rights with its next batch, at the latest when it is opened again.
    let state = async || View::of(&program).await.stream("orders")["state"].clone();
    until("it is noticed", || async { state().await == "waiting" }).await;
    let view = View::of(&program).await;
    view.show(
        "rights are removed",
        &["upstream_restarts_total", "filter_state", "filter_findings"],
    );
    let reason = view.stream("orders")["reason"].as_str().unwrap();
    assert!(reason.contains("changeStream"), "{reason}");
    assert_eq!(view.ready.0, 200);
    let page = "silent.md";
    hold_metrics(page, "## Privileges were revoked", &view.text());
    for secret in [ROOT.1, "the-sidecars-password"] {
        assert!(!view.log.contains(secret) && !view.metrics.contains(secret));
        assert!(!view.streams.to_string().contains(secret) && !view.ready.1.contains(secret));
    }
    admin.run_command(roles("grantRolesToUser")).await.unwrap();
    until("it is read again", || async { state().await == "ready" }).await;
    let orders = root.database("shop").collection::<Document>("orders");
    orders.insert_one(doc! { "_id": 1 }).await.unwrap();
    stream.event().await;
}
