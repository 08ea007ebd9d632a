//! Commands for who writes filter files: `new`, and `check` against a deployment.

use std::path::Path;
use std::process::{Command, Output};

use mongodb::Client;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};
use sidestream::filter;

use crate::access::issuer::{claims, secret};
use crate::support::sidecar::{self, Filters};
use crate::support::{http, mongo, unique};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_sidestream");

fn run(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).current_dir(directory).output().unwrap()
}

/// In a thread, so that what runs in this process goes on meanwhile.
pub async fn run_beside(directory: &Path, arguments: &[&str]) -> Output {
    let (directory, arguments) =
        (directory.to_owned(), arguments.iter().map(ToString::to_string).collect::<Vec<_>>());
    let running = tokio::task::spawn_blocking(move || {
        run(&directory, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    });
    running.await.unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub async fn database(name: &str) -> mongodb::Database {
    Client::with_uri_str(mongo::uri()).await.expect("a client").database(name)
}

#[test]
fn a_new_file_is_good_and_never_written_over_another() {
    let dir = tempfile::tempdir().unwrap();
    let new = |stream: &str, collection: &str| {
        run(dir.path(), &["new", stream, "--collection", collection])
    };
    for (stream, collection) in
        [("orders", "shop.orders"), ("shop/all", "shop.*"), ("chat", "chat.rooms")]
    {
        let output = new(stream, collection);
        assert!(output.status.success(), "{}", err(&output));
        let file = dir.path().join(format!("filters/{stream}.yaml"));
        let text = std::fs::read_to_string(&file).unwrap();
        let filter = filter::parse_filter(stream, &file, &text).unwrap();
        assert_eq!(filter.namespace.to_string(), collection);
        assert!(filter.warnings.is_empty(), "{:?}", filter.warnings);
        assert!(text.contains("yaml-language-server"), "{text}");
    }
    std::fs::write(dir.path().join("filters/orders.yaml"), "mine").unwrap();
    std::fs::write(dir.path().join("filters/team__a.json"), "mine").unwrap();
    for (stream, collection, said) in [
        ("orders", "shop.orders", "already exists"),
        ("team/a", "shop.orders", "already exists"),
        ("a b", "shop.orders", "cannot be a stream's name"),
        ("../a", "shop.orders", "cannot be a stream's name"),
        ("/etc/a", "shop.orders", "cannot be a stream's name"),
        ("a", "orders", "does not name a database and a collection"),
    ] {
        let output = new(stream, collection);
        assert_eq!(output.status.code(), Some(1), "{stream}");
        assert!(err(&output).contains(said), "{stream}: {}", err(&output));
    }
    assert_eq!(std::fs::read_to_string(dir.path().join("filters/orders.yaml")).unwrap(), "mine");
}

#[tokio::test]
async fn a_new_file_lists_what_is_in_the_collection() {
    let name = unique("new");
    let collection = database(&name).await.collection::<Document>("orders");
    let documents = (0..20).map(|n| match n % 4 {
        0 => doc! { "status": "new", "total": n, "secret": "hunter2" },
        1 => doc! { "status": "paid", "total": f64::from(n) },
        _ => doc! { "status": "paid", "placed": mongodb::bson::DateTime::now() },
    });
    collection.insert_many(documents).await.unwrap();
    let index = mongodb::IndexModel::builder().keys(doc! { "status": 1, "placed": -1 }).build();
    collection.create_index(index).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let namespace = format!("{name}.orders");
    let uri = mongo::uri();
    let look = |stream: &'static str| {
        let (namespace, uri, dir) = (namespace.clone(), uri.clone(), dir.path().to_owned());
        async move {
            let output =
                run_beside(&dir, &["new", stream, "--collection", &namespace, "--mongodb", &uri])
                    .await;
            assert!(output.status.success(), "{}", err(&output));
            let file = dir.join(format!("filters/{stream}.yaml"));
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(filter::parse_filter(stream, &file, &text).unwrap().warnings.is_empty());
            text
        }
    };
    let text = look("orders").await;
    for line in [
        "# Seen in 20 documents:",
        "# Index: status, placed",
        "# The collection does not record it yet:",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    let types = |field: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("#   {field} ")));
        line.unwrap().split_whitespace().skip(2).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(types("status"), "string");
    assert_eq!(types("placed"), "date");
    assert!(["int, double", "double, int"].contains(&types("total").as_str()));
    // No value leaves the collection.
    assert!(!text.contains("hunter2") && !text.contains("paid"), "{text}");

    let images = doc! { "collMod": "orders", "changeStreamPreAndPostImages": { "enabled": true } };
    database(&name).await.run_command(images).await.unwrap();
    assert!(look("images").await.contains("\nfullDocumentBeforeChange: whenAvailable\n"));
}

#[tokio::test]
async fn files_are_checked_against_the_deployment() {
    let name = unique("check");
    let db = database(&name).await;
    db.create_collection("orders").await.unwrap();
    db.run_command(doc! { "create": "recent", "viewOn": "orders", "pipeline": [] }).await.unwrap();
    let file = |collection: &str, more: &str| {
        format!("collection: {name}.{collection}\naccess: public\n{more}")
    };
    let filters = Filters::new(&[
        ("orders", &file("orders", "")),
        ("images", &file("orders", "fullDocumentBeforeChange: whenAvailable\n")),
        ("view", &file("recent", "")),
        ("other", &file("Orders", "")),
    ]);
    let uri = mongo::uri();
    let output = run_beside(filters.path(), &["check", ".", "--mongodb", &uri]).await;
    let said = out(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("view.yaml:1:13: error: "), "{said}");
    assert!(said.contains("other.yaml:1:13: warning: "), "{said}");
    assert!(said.contains("images.yaml:1:13: warning: "), "{said}");
    assert!(said.contains("changeStreamPreAndPostImages"), "{said}");
    assert!(!said.contains("orders.yaml"), "{said}");

    filters.remove("view");
    let check = |more: &'static [&'static str]| {
        let (uri, path) = (uri.clone(), filters.path().to_owned());
        async move { run_beside(&path, &[&["check", ".", "--mongodb", &uri], more].concat()).await }
    };
    assert_eq!(check(&[]).await.status.code(), Some(0));
    assert_eq!(check(&["--strict"]).await.status.code(), Some(1));
    let told: Value = serde_json::from_str(&out(&check(&["--output", "json"]).await)).unwrap();
    assert_eq!(told["errors"], 0);
    assert!(told["warnings"].as_u64().unwrap() >= 2, "{told:#}");

    // Without a URI, the deployment is that of the settings.
    let settings = tempfile::tempdir().unwrap();
    let with = |text: String| {
        std::fs::write(settings.path().join("sidestream.yaml"), text).unwrap();
        let (beside, dir) = (settings.path().to_owned(), filters.path().display().to_string());
        async move { run_beside(&beside, &["check", &dir, "--mongodb"]).await }
    };
    let said = out(&with(format!("mongodb: {{ uri: '{uri}' }}\n")).await);
    assert!(said.contains("images.yaml:1:13: warning: "), "{said}");
    let output = with("mongodb: { uri_file: uri }\n".to_owned()).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(out(&output).contains("secrets are not opened"), "{}", out(&output));

    let nowhere = "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=300&replicaSet=rs0";
    let output = run_beside(filters.path(), &["check", ".", "--mongodb", nowhere]).await;
    assert_eq!(output.status.code(), Some(3), "{}", err(&output));
    let output = run_beside(filters.path(), &["check", ".", "--mongodb", "127.0.0.1"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(out(&output).contains("--mongodb: error: "), "{}", out(&output));
}

#[tokio::test]
async fn the_streams_as_an_asyncapi_document() {
    let name = unique("asyncapi");
    let file =
        |access: &str, more: &str| format!("collection: {name}.orders\naccess: {access}\n{more}");
    let params = "match: { status: { $in: { $param: status } }, total: { $gte: { $param: least } }, by: { $param: by } }\n\
                  params: { status: { type: [string], enum: [new, paid] }, least: { type: int, min: 0, default: 0 },\n\
                  \x20         by: { type: long, enum: [1, 9007199254740993], default: 1 } }\n\
                  fullDocumentBeforeChange: whenAvailable\n";
    let filters = Filters::new(&[
        ("shop/orders", &file("public", params)),
        ("deletes", &file("public", "operations: [delete]\nmatch: { _id: 1 }\n")),
        ("mine", &file("authenticated", "")),
    ]);
    let auth = [
        ("SIDESTREAM_AUTH__JWT__SECRET", "0123456789abcdef0123456789abcdef"),
        ("SIDESTREAM_AUTH__JWT__ALGORITHMS", "HS256"),
    ];
    let sidecar = sidecar::start(&mongo::uri(), &filters, &auth).await;
    let answer = http::get(sidecar.listen, "/_events/asyncapi.json").await;
    assert_eq!(answer.head.status, 200);
    let document = answer.json();
    assert_eq!(document["asyncapi"], "3.0.0");
    let channels: Vec<&String> = document["channels"].as_object().unwrap().keys().collect();
    assert_eq!(
        channels,
        ["deletes", "shop__orders"],
        "of what a caller may not open nothing is told"
    );
    let orders = &document["channels"]["shop__orders"];
    assert_eq!(orders["address"], "/_events/shop/orders");
    let query = &document["operations"]["shop__orders"]["bindings"]["http"]["query"];
    assert_eq!(query["required"], json!(["status"]));
    assert_eq!(
        query["properties"],
        json!({
            "status": { "type": "array", "items": { "type": "string", "enum": ["new", "paid"] } },
            "least": { "type": "integer", "minimum": 0, "default": 0 },
            // As JSON numbers, two of them may be one.
            "by": { "type": ["integer", "string"], "enum": [1, "9007199254740993"], "default": 1 },
        })
    );
    assert_resolves(&document, &document);

    let token = secret("0123456789abcdef0123456789abcdef").sign(&claims(json!({})));
    let fields = format!("Authorization: Bearer {token}\r\n");
    let whole =
        http::request(sidecar.listen, "GET", "/_events/asyncapi.json", &fields).await.json();
    assert_eq!(whole["channels"].as_object().unwrap().len(), 3);
    // For the check by AsyncAPI's own parser, scripts/asyncapi-test.
    if let Some(file) = std::env::var_os("ASYNCAPI_FILE") {
        std::fs::write(file, whole.to_string()).unwrap();
    }
    sidecar.finish().await;
}

/// Every reference leads somewhere.
fn assert_resolves(value: &Value, document: &Value) {
    match value {
        Value::Object(object) => {
            if let Some(reference) = object.get("$ref").and_then(Value::as_str) {
                let found = document.pointer(reference.trim_start_matches('#'));
                assert!(found.is_some(), "{reference}");
            }
            object.values().for_each(|value| assert_resolves(value, document));
        }
        Value::Array(values) => values.iter().for_each(|value| assert_resolves(value, document)),
        _ => {}
    }
}

/// `sidestream explain x | head`: whoever reads has gone before everything was written.
#[test]
fn a_reader_that_has_gone_makes_no_command_panic() {
    let dir = tempfile::tempdir().unwrap();
    let filters = dir.path().join("filters");
    std::fs::create_dir(&filters).unwrap();
    std::fs::write(filters.join("a.yaml"), "collection: shop.a\naccess: public\n").unwrap();
    std::fs::write(dir.path().join("pod.yaml"), "kind: ConfigMap\napiVersion: v1\n").unwrap();
    let gone = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    let commands: [(&[&str], i32); 20] = [
        (&["--help"], 0),
        (&["--version"], 0),
        (&["schema"], 0),
        (&["schema", "config"], 0),
        (&["explain", "a"], 0),
        (&["explain", "a", "--output", "json"], 0),
        (&["check"], 0),
        (&["check", "--output", "json"], 0),
        (&["check", "--output", "github"], 0),
        (&["check", "nowhere"], 1),
        (&["new", "b", "--collection", "shop.b"], 0),
        (&["inject", "-f", "pod.yaml"], 0),
        // These only complain.
        (&["explain", "nothing"], 1),
        (&["inject", "-f", "nothing.yaml"], 1),
        (&["top", "--once", "http://127.0.0.1:9"], 3),
        (&["tail", "http://127.0.0.1:9/_events/a"], 3),
        (&["drain", "--for", "0s", "--admin", "127.0.0.1:9"], 3),
        (&["webhook", "--nothing"], 2),
        (&["run", "--nothing"], 2),
        // The log has no reader either.
        (&["run", "--admin", "nowhere"], 2),
    ];
    for (arguments, code) in commands {
        let ended = Command::new(PROGRAM)
            .args(arguments)
            .current_dir(dir.path())
            .stdout(gone())
            .stderr(gone())
            .status()
            .unwrap();
        assert_eq!(ended.code(), Some(code), "{arguments:?}");
    }
}
