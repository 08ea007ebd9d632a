//! What is told of a snapshot before anybody asks for one: by `check` and `explain` with a deployment.

use std::path::Path;
use std::process::Command;

use mongodb::bson::{Document, doc, oid::ObjectId};
use mongodb::{Client, IndexModel};
use serde_json::Value;

use crate::support::mongo::{Own, Setup};
use crate::support::sidecar::Filters;
use crate::support::{mongo, unique};

fn orders(database: &str, conditions: &str) -> String {
    format!(
        "collection: {database}.orders\n{conditions}fullDocumentBeforeChange: whenAvailable\n\
         snapshot: true\naccess: authenticated\n"
    )
}

/// Code and output of the program, run beside the files.
async fn run(filters: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    run_with(&mongo::uri(), filters, arguments).await
}

async fn run_with(uri: &str, filters: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let (filters, arguments) = (filters.to_owned(), arguments.join(" "));
    let uri = uri.to_owned();
    let running = tokio::task::spawn_blocking(move || {
        Command::new(env!("CARGO_BIN_EXE_sidestream"))
            .args(arguments.split(' '))
            .args(["--mongodb", &uri])
            .current_dir(&filters)
            .output()
            .unwrap()
    });
    let output = running.await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), text + &String::from_utf8_lossy(&output.stderr))
}

/// `message` and `hint` of what is told about a file, of one severity.
fn told<'f>(found: &'f [Value], file: &str, severity: &str) -> Vec<(&'f str, &'f str)> {
    let of_it = found.iter().filter(|it| it["severity"] == severity);
    let of_it = of_it.filter(|it| it["file"].as_str().is_some_and(|path| path.ends_with(file)));
    of_it
        .map(|it| (it["message"].as_str().unwrap(), it["hint"].as_str().unwrap_or_default()))
        .collect()
}

async fn check(filters: &Filters) -> Vec<Value> {
    diagnostics(&run(filters.path(), &["check", ".", "--output", "json"]).await.1)
}

fn diagnostics(text: &str) -> Vec<Value> {
    let told: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    told["diagnostics"].as_array().unwrap().clone()
}

async fn database(name: &str) -> mongodb::Database {
    Client::with_uri_str(mongo::uri()).await.expect("a client").database(name)
}

#[tokio::test]
async fn check_says_what_a_snapshot_needs_and_what_it_costs() {
    // Nobody else fills its oplog, which `check` would warn of.
    let mongo = Own::start(Setup::default()).await;
    let name = unique("costs");
    let database = mongo.client().await.database(&name);
    let collection = database.collection::<Document>("orders");
    let documents = (0..4).map(|n| {
        doc! { "customer": ObjectId::new(), "status": if n < 3 { "open" } else { "shipped" } }
    });
    collection.insert_many(documents).await.unwrap();
    let filters = Filters::new(&[
        ("open", &orders(&name, "match: { status: open }\n")),
        ("mine", &orders(&name, "match: { customer: { $claim: sub, type: objectId } }\n")),
        (
            "some",
            &orders(
                &name,
                "match: { status: { $param: s } }\nparams: { s: { type: string, required: false } }\n",
            ),
        ),
        ("odd", &orders(&name, "match: { status: { $not: { $eq: open } } }\n")),
        ("every", &orders(&name, "")),
    ]);
    let arguments = ["check", ".", "--output", "json"];
    let (code, text) = run_with(&mongo.uri(), filters.path(), &arguments).await;
    let found = diagnostics(&text);
    assert_eq!(code, Some(0), "{found:#?}");
    let at = format!("db.getSiblingDB(\"{name}\").");
    let images = format!(
        "{at}runCommand({{ collMod: \"orders\", changeStreamPreAndPostImages: {{ enabled: true }} }})"
    );
    let index =
        |field: &str| format!("{at}getCollection(\"orders\").createIndex({{ {field}: 1 }})");
    for (file, field) in
        [("open.yaml", "status"), ("mine.yaml", "customer"), ("some.yaml", "status")]
    {
        let warnings = told(&found, file, "warning");
        let hint =
            |part: &str| warnings.iter().find(|(message, _)| message.contains(part)).unwrap().1;
        assert_eq!(hint("begins the snapshot again"), images, "{file}");
        assert_eq!(hint("no index carries the snapshot's query"), index(field), "{file}");
    }
    let warnings = told(&found, "odd.yaml", "warning");
    assert!(warnings.iter().any(|(message, _)| message.contains("no index helps")), "{warnings:?}");
    // What is asked for as a whole is read as a whole.
    let warnings = told(&found, "every.yaml", "warning");
    assert!(!warnings.iter().any(|(message, _)| message.contains("index")), "{warnings:?}");
    for (file, cost) in
        [("open.yaml", "finds 3 documents of 4 in"), ("every.yaml", "finds 4 documents in")]
    {
        let notes = told(&found, file, "note");
        assert!(matches!(&notes[..], [(message, _)] if message.contains(cost)), "{notes:?}");
    }
    for file in ["mine.yaml", "some.yaml"] {
        assert_eq!(told(&found, file, "note"), [], "it depends on the values");
    }

    // When it has been done, there is nothing left to say but what it costs, also to the strict.
    let enabled = doc! { "enabled": true };
    let command = doc! { "collMod": "orders", "changeStreamPreAndPostImages": enabled };
    database.run_command(command).await.unwrap();
    for keys in [doc! { "status": 1 }, doc! { "customer": 1 }] {
        collection.create_index(IndexModel::builder().keys(keys).build()).await.unwrap();
    }
    filters.remove("odd");
    let auth = "auth: { jwt: { secret: 0123456789abcdef0123456789abcdef, algorithms: [HS256] } }\n";
    let settings = |more: &str| {
        std::fs::write(filters.path().join("sidestream.yml"), format!("{auth}{more}")).unwrap();
    };
    settings("");
    let strict = ["--strict", "--config", "sidestream.yml"];
    // The settings lie among the filters, which takes another directory for these.
    let inner = Filters::new(&[
        ("open", &orders(&name, "match: { status: open }\n")),
        ("every", &orders(&name, "")),
    ]);
    let dir = inner.path().display().to_string();
    let arguments = [&["check", dir.as_str(), "--output", "json"], &strict[..]].concat();
    let (code, text) = run_with(&mongo.uri(), filters.path(), &arguments).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("\"warnings\": 0"), "a note is no warning: {text}");
    let found = diagnostics(&text);
    let notes = told(&found, "open.yaml", "note");
    assert!(notes[0].0.contains("by the index status_1"), "{notes:?}");

    settings("snapshot: { max_documents: 3 }\n");
    let (code, text) = run_with(&mongo.uri(), filters.path(), &arguments).await;
    assert_eq!(code, Some(1), "{text}");
    let found = diagnostics(&text);
    let errors = told(&found, "every.yaml", "error");
    assert!(errors[0].0.contains("more than snapshot.max_documents (3)"), "{errors:?}");
    assert_eq!(told(&found, "open.yaml", "error"), []);
}

#[tokio::test]
async fn an_index_for_a_snapshot_has_its_collation() {
    let name = unique("collated");
    let database = database(&name).await;
    let collation = mongodb::options::Collation::builder().locale("de").build();
    database.create_collection("orders").collation(collation).await.unwrap();
    let orders_of = database.collection::<Document>("orders");
    orders_of.insert_one(doc! { "status": "open" }).await.unwrap();
    // It compares by German rules, and a snapshot does not.
    let index = IndexModel::builder().keys(doc! { "status": 1 }).build();
    orders_of.create_index(index).await.unwrap();
    let filters = Filters::new(&[("open", &orders(&name, "match: { status: open }\n"))]);
    let found = check(&filters).await;
    let warnings = told(&found, "open.yaml", "warning");
    let index = warnings.iter().find(|(message, _)| message.contains("no index")).unwrap();
    assert!(index.1.ends_with("createIndex({ status: 1 }, { collation: { locale: \"simple\" } })"));
    assert!(!warnings.iter().any(|(message, _)| message.contains("may find")), "{warnings:?}");
    let (_, text) = run(filters.path(), &["explain", "open", "--filters", "."]).await;
    assert!(
        text.contains("createIndex({ status: 1 }, { collation: { locale: \"simple\" } })"),
        "{text}"
    );
}

#[tokio::test]
async fn text_that_is_compared_with_object_ids_is_told() {
    let name = unique("types");
    let database = database(&name).await;
    let room = || doc! { "room": { "id": ObjectId::new() }, "author": "ada", "either": "x" };
    let mut documents: Vec<Document> = (0..3)
        .map(|_| {
            let mut document = room();
            document.extend(doc! { "customer": ObjectId::new(), "teams": [ObjectId::new()] });
            document
        })
        .collect();
    documents[0].insert("either", ObjectId::new());
    database.collection::<Document>("orders").insert_many(documents).await.unwrap();
    let file = |conditions: &str, params: &str| {
        format!(
            "collection: {name}.orders\noperations: [insert]\nmatch: {{ {conditions} }}\n{params}access: authenticated\n"
        )
    };
    let text = "params: { room: { type: string } }\n";
    let filters = Filters::new(&[
        ("claim", &file("customer: { $claim: sub }", "")),
        ("list", &file("$or: [{ teams: { $in: { $claim: teams } } }]", "")),
        ("param", &file("room.id: { $param: room }", text)),
        ("right", &file("customer: { $claim: sub, type: objectId }, author: { $claim: name }", "")),
        ("either", &file("either: { $claim: sub }, nothing: { $claim: sub }", "")),
    ]);
    let found = check(&filters).await;
    let hints = |file: &str| -> Vec<String> {
        let told = told(&found, file, "warning");
        told.iter()
            .filter(|(message, _)| message.contains("is text"))
            .map(|(_, hint)| hint.to_string())
            .collect()
    };
    assert_eq!(hints("claim.yaml"), ["write `customer: { $claim: sub, type: objectId }`"]);
    assert_eq!(hints("list.yaml"), ["write `teams: { $claim: teams, type: objectId }`"]);
    assert_eq!(hints("param.yaml"), ["declare it as `room: { type: objectId }`"]);
    for file in ["right.yaml", "either.yaml"] {
        assert!(hints(file).is_empty(), "{file}: {:?}", hints(file));
    }
}

#[tokio::test]
async fn explain_shows_the_query_of_a_snapshot() {
    let name = unique("find");
    let database = database(&name).await;
    let collection = database.collection::<Document>("orders");
    collection.insert_many((0..3).map(|n| doc! { "_id": n, "status": "open" })).await.unwrap();
    let conditions = "match: { status: { $param: s }, note: { $regex: x } }\n\
                      params: { s: { type: string } }\nproject: { item: 1 }\n";
    let filters = Filters::new(&[
        ("some", &orders(&name, conditions)),
        ("plain", &format!("collection: {name}.orders\naccess: public\n")),
    ]);
    let explain = ["explain", "some", "--filters", ".", "--param", "s=open"];
    let (code, text) = run(filters.path(), &explain).await;
    assert_eq!(code, Some(0), "{text}");
    for line in [
        format!("  find         {name}.orders"),
        // The rest of `match` is not MongoDB's to decide.
        "  filter       {\"status\":{\"$eq\":\"open\"}}".to_owned(),
        "  projection   {\"_id\":1,\"item\":1,\"note\":1,\"status\":1}".to_owned(),
        "  index        no index: the whole collection is read".to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(text.contains("createIndex({ status: 1 })"), "{text}");

    let index = IndexModel::builder().keys(doc! { "status": 1 }).build();
    collection.create_index(index).await.unwrap();
    let (_, text) = run(filters.path(), &[&explain[..], &["--output", "json"]].concat()).await;
    let told: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(told["snapshot"]["filter"]["status"]["$eq"], "open");
    assert_eq!(told["snapshot"]["projection"]["item"], 1);
    let plan = &told["snapshot"]["plan"];
    assert_eq!(plan["indexes"][0], "status_1");
    assert_eq!(
        (plan["documents"].as_u64(), plan["reads_whole_collection"].as_bool()),
        (Some(3), Some(false))
    );
    assert_eq!(plan["create_index"], Value::Null);

    let (_, text) =
        run(filters.path(), &["explain", "plain", "--filters", ".", "--output", "json"]).await;
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(told.get("snapshot"), None);
}
