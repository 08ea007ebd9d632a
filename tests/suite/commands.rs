//! Commands for who writes filter files: `new`, `tail`, and `check` against a deployment.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use mongodb::Client;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};
use sidestream::filter;

use crate::access::issuer::{claims, secret};
use crate::support::sidecar::{self, Filters};
use crate::support::{http, mongo, unique, until};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sidestream");

fn run(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).current_dir(directory).output().unwrap()
}

/// In a thread, so that what runs in this process goes on meanwhile.
async fn run_beside(directory: &Path, arguments: &[&str]) -> Output {
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

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn database(name: &str) -> mongodb::Database {
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

/// `tail` as a process, whose lines go to a file.
struct Tail {
    child: Child,
    dir: tempfile::TempDir,
}

impl Tail {
    fn start(arguments: &[&str]) -> Tail {
        Tail::run(Command::new(PROGRAM).arg("tail").args(arguments))
    }

    /// On a terminal, which `script` of util-linux makes.
    fn on_a_terminal(url: &str, no_color: &str) -> Tail {
        let command = format!("'{PROGRAM}' tail --count 2 '{url}'");
        Tail::run(
            Command::new("script")
                .args(["--quiet", "--return", "--command", &command, "/dev/null"])
                .env("NO_COLOR", no_color),
        )
    }

    fn run(command: &mut Command) -> Tail {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| std::fs::File::create(dir.path().join(name)).unwrap();
        let child =
            command.stdin(Stdio::null()).stdout(file("out")).stderr(file("err")).spawn().unwrap();
        Tail { child, dir }
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("out")).unwrap()
    }

    /// The lines that are complete.
    fn lines(&self) -> Vec<Value> {
        let text = self.text();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    fn numbers(&self) -> Vec<i64> {
        let lines = self.lines();
        lines.iter().filter_map(|line| line["data"]["fullDocument"]["n"].as_i64()).collect()
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("err")).unwrap()
    }

    async fn code(&mut self) -> Option<i32> {
        let mut code = None;
        until("tail ends", || {
            code = self.child.try_wait().unwrap();
            let ended = code.is_some();
            async move { ended }
        })
        .await;
        code.unwrap().code()
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        // Ours, and perhaps gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn tail_follows_and_comes_back_like_a_browser() {
    let name = unique("tail");
    let filters = Filters::new(&[(
        "orders",
        &format!("collection: {name}.orders\naccess: public\noperations: [insert]\n"),
    )]);
    let quick = [("SIDESTREAM_CLIENTS__RETRY", "100ms"), ("SIDESTREAM_DRAIN", "100ms")];
    let sidecar = sidecar::start(&mongo::uri(), &filters, &quick).await;
    let address = sidecar.listen;
    let url = format!("http://{address}/_events/orders");
    let collection = database(&name).await.collection::<Document>("orders");
    let insert = async |n: i32| {
        collection.insert_one(doc! { "n": n }).await.unwrap();
    };
    let opened = async |count: usize| {
        let admin = sidecar.admin;
        let name = "sidestream_connections{transport=\"sse\"}";
        until("the streams are open", || async move {
            sidecar::metric(admin, name).await >= count as f64
        })
        .await;
    };

    let mut follower = Tail::start(&[&url, "--count", "3"]);
    opened(1).await;
    insert(1).await;
    until("the first event", || {
        let has = follower.numbers() == [1];
        async move { has }
    })
    .await;
    let first = follower.lines().into_iter().find(|line| line["event"] == "insert").unwrap();
    assert!(first["id"].as_str().unwrap().len() > 20, "{first}");

    // What happens while nobody is there comes when it is back.
    sidecar.finish().await;
    insert(2).await;
    let listen = address.to_string();
    let again = [quick[0], quick[1], ("SIDESTREAM_CLIENTS__HEARTBEAT", "200ms")];
    let config =
        sidecar::settings_on(&listen, &mongo::uri(), filters.path(), sidecar::nowhere(), &again);
    let sidecar = sidestream::Sidecar::start(config).await.expect("it starts again");
    insert(3).await;
    assert_eq!(follower.code().await, Some(0), "{}", follower.said());
    assert_eq!(follower.numbers(), [1, 2, 3]);
    assert!(follower.said().contains("reconnecting"), "{}", follower.said());

    // From an id, and in JSON for a pipe.
    let id = first["id"].as_str().unwrap().to_owned();
    let mut resumed = Tail::start(&[&url, "--last-event-id", &id, "--count", "2"]);
    assert_eq!(resumed.code().await, Some(0));
    assert_eq!(resumed.numbers(), [2, 3]);
    // A reset is shown.
    let mut lost = Tail::start(&[&url, "--last-event-id", "nonsense", "--count", "1"]);
    assert_eq!(lost.code().await, Some(0));
    let reset = lost.lines().into_iter().find(|line| line["event"] == "reset").unwrap();
    assert_eq!(reset["data"], json!({ "reason": "invalid-token" }));
    sidecar.finish().await;
}

#[tokio::test]
async fn tail_writes_for_people_on_a_terminal() {
    let name = unique("tail");
    let file = format!("collection: {name}.orders\naccess: public\n");
    let filters = Filters::new(&[("orders", &file)]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let url = format!("http://{}/_events/orders", sidecar.listen);
    let mut tails = [Tail::on_a_terminal(&url, ""), Tail::on_a_terminal(&url, "1")];
    for tail in &tails {
        until("it is ready", || async { tail.text().contains("ready") }).await;
    }
    let orders = database(&name).await.collection::<Document>("orders");
    orders.insert_one(doc! { "_id": 1 }).await.unwrap();
    orders.delete_one(doc! { "_id": 1 }).await.unwrap();
    for tail in &mut tails {
        assert_eq!(tail.code().await, Some(0), "{}", tail.text());
    }
    let [colours, plain] = tails.map(|tail| tail.text());
    for (kind, colour) in [("ready   ", "2"), ("insert  ", "32"), ("delete  ", "31")] {
        let coloured = format!("\u{1b}[{colour}m{kind}\u{1b}[0m {{");
        assert!(colours.contains(&coloured), "{kind}: {colours:?}");
        assert!(plain.contains(&format!("{kind} {{")), "{kind}: {plain:?}");
    }
    assert!(!plain.contains('\u{1b}'), "{plain:?}");
    sidecar.finish().await;
}

#[tokio::test]
async fn tail_tells_what_the_sidecar_says() {
    let name = unique("tail");
    let file = |access: &str| {
        format!("collection: {name}.orders\naccess: {access}\noperations: [insert]\n")
    };
    let filters = Filters::new(&[("public", &file("public")), ("mine", &file("authenticated"))]);
    let auth = [
        ("SIDESTREAM_AUTH__JWT__SECRET", "0123456789abcdef0123456789abcdef"),
        ("SIDESTREAM_AUTH__JWT__ALGORITHMS", "HS256"),
    ];
    let sidecar = sidecar::start(&mongo::uri(), &filters, &auth).await;
    let url = |stream: &str| format!("http://{}/_events/{stream}", sidecar.listen);
    let bearer = format!(
        "Authorization: Bearer {}",
        secret("0123456789abcdef0123456789abcdef").sign(&claims(json!({})))
    );
    let dir = filters.path();
    for (arguments, code, said) in [
        (vec!["tail".to_owned(), url("nothing")], 1, "404: there is no stream `nothing`"),
        (vec!["tail".to_owned(), url("mine")], 1, "401: "),
        (vec!["tail".to_owned(), url("public?x=1")], 1, "400: parameter `x`"),
        (
            vec!["tail".to_owned(), "http://127.0.0.1:9/_events/x".to_owned()],
            3,
            "cannot connect to http://127.0.0.1:9/_events/x",
        ),
        (vec!["tail".to_owned(), "orders".to_owned()], 2, "is not an address"),
        (
            vec!["tail".to_owned(), url("public"), "--header".to_owned(), "x".to_owned()],
            2,
            "write it as 'Name: value'",
        ),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = run_beside(dir, &arguments).await;
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", err(&output));
        assert!(err(&output).contains(said), "{arguments:?}: {}", err(&output));
        assert!(output.stdout.is_empty());
    }
    let admin = sidecar.admin;
    let mut mine = Tail::start(&[&url("mine"), "--header", &bearer, "--count", "1"]);
    until("the stream is open", || async move {
        sidecar::metric(admin, "sidestream_connections{transport=\"sse\"}").await >= 1.0
    })
    .await;
    database(&name)
        .await
        .collection::<Document>("orders")
        .insert_one(doc! { "n": 1 })
        .await
        .unwrap();
    assert_eq!(mine.code().await, Some(0), "{}", mine.said());
    sidecar.finish().await;
}

#[tokio::test]
async fn the_streams_as_an_asyncapi_document() {
    let name = unique("asyncapi");
    let file =
        |access: &str, more: &str| format!("collection: {name}.orders\naccess: {access}\n{more}");
    let params = "match: { status: { $in: { $param: status } }, total: { $gte: { $param: least } } }\n\
                  params: { status: { type: [string], enum: [new, paid] }, least: { type: int, min: 0, default: 0 } }\n\
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
    let commands: [(&[&str], i32); 13] = [
        (&["--help"], 0),
        (&["--version"], 0),
        (&["schema"], 0),
        (&["schema", "config"], 0),
        (&["explain", "a"], 0),
        (&["explain", "a", "--output", "json"], 0),
        (&["check"], 0),
        (&["check", "nowhere"], 1),
        (&["new", "b", "--collection", "shop.b"], 0),
        (&["inject", "-f", "pod.yaml"], 0),
        // These only complain.
        (&["explain", "nothing"], 1),
        (&["inject", "-f", "nothing.yaml"], 1),
        (&["top", "--once", "http://127.0.0.1:9"], 3),
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
