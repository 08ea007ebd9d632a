//! The examples of the filter files that are shipped and shown, through a running sidecar and a
//! real MongoDB: what `expect` says is what a client gets.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mongodb::Client;
use mongodb::bson::{Document, doc};
use serde_json::Value;
use sidestream::event::OperationType;
use sidestream::filter::{self, Example, Expect};

use crate::access::issuer::{claims, secret};
use crate::support::sidecar::{self, Filters};
use crate::support::sse::Stream;
use crate::support::{http, mongo, unique};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// How long nothing has to come where nothing is expected, once another client has had the event.
const QUIET: Duration = Duration::from_millis(200);

/// One example, and the file that it is of.
struct Row {
    name: String,
    text: String,
    example: Example,
}

fn files_below(directory: &Path, extension: &str, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, extension, into);
        } else if path.extension().is_some_and(|end| end == extension) {
            into.push(path);
        }
    }
}

fn rows() -> Vec<Row> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut texts = Vec::new();
    let mut paths = Vec::new();
    files_below(&root.join("filters"), "yaml", &mut paths);
    files_below(&root.join("examples"), "yaml", &mut paths);
    paths.retain(|path| {
        let below = path.strip_prefix(&root).expect("it is below");
        below.components().any(|part| part.as_os_str() == "filters")
    });
    for path in &paths {
        texts.push((path.display().to_string(), std::fs::read_to_string(path).unwrap()));
    }
    let mut documents = Vec::new();
    files_below(&root.join("docs"), "md", &mut documents);
    for path in &documents {
        let text = std::fs::read_to_string(path).unwrap();
        let blocks = text.split("```yaml\n# filters/").skip(1);
        let blocks = blocks.filter_map(|block| block.split("```").next());
        texts.extend(blocks.map(|block| (path.display().to_string(), format!("# {block}"))));
    }
    let mut rows = Vec::new();
    for (name, text) in texts {
        let filter = filter::parse_filter("row", Path::new(&name), &text).expect("a good file");
        for example in &filter.examples {
            let name = format!("{name}: {}", example.name);
            rows.push(Row { name, text: text.clone(), example: example.clone() });
        }
    }
    rows
}

/// The file, about another collection.
fn about(text: &str, collection: &str) -> String {
    let lines = text.lines().map(|line| match line.starts_with("collection:") {
        true => format!("collection: {collection}\n"),
        false => format!("{line}\n"),
    });
    lines.collect()
}

/// Makes the change of an example.
async fn change(collection: &mongodb::Collection<Document>, example: &Example) {
    let key = |document: &Document| doc! { "_id": document.get("_id").cloned().unwrap() };
    match (example.operation, &example.before, &example.after) {
        (OperationType::Insert, _, Some(after)) => {
            collection.insert_one(after).await.unwrap();
        }
        (OperationType::Delete, Some(before), _) => {
            collection.delete_one(key(before)).await.unwrap();
        }
        (OperationType::Replace, _, Some(after)) => {
            collection.replace_one(key(after), after).await.unwrap();
        }
        (_, Some(before), Some(after)) => {
            let mut set = after.clone();
            set.remove("_id");
            let gone = before.iter().filter(|(field, _)| !after.contains_key(*field));
            let unset: Document =
                gone.map(|(field, value)| (field.clone(), value.clone())).collect();
            let mut update = doc! { "$set": set };
            if !unset.is_empty() {
                update.insert("$unset", unset);
            }
            collection.update_one(key(after), update).await.unwrap();
        }
        (operation, ..) => panic!("{operation:?} without a document before it"),
    }
}

/// The next event of this type.
async fn next(stream: &mut Stream, operation: &str) -> Value {
    loop {
        let event = stream.event().await;
        if event.name() == operation {
            return event.json();
        }
    }
}

#[tokio::test]
async fn what_expect_says_is_what_a_client_gets() {
    let rows = rows();
    assert!(rows.len() > 25, "{} examples", rows.len());
    let database = unique("same");
    let client = Client::with_uri_str(mongo::uri()).await.expect("a client");
    let filters = Filters::new(&[]);
    for (index, row) in rows.iter().enumerate() {
        let collection = format!("c{index}");
        let name = format!("{database}.{collection}");
        filters.write(&format!("row{index}"), &about(&row.text, &name));
        filters.write(&format!("all{index}"), &format!("collection: {name}\naccess: public\n"));
        let images = doc! { "enabled": true };
        let create = doc! { "create": &collection, "changeStreamPreAndPostImages": images };
        client.database(&database).run_command(create).await.unwrap();
        if let Some(before) = &row.example.before {
            let collection = client.database(&database).collection::<Document>(&collection);
            collection.insert_one(before).await.unwrap();
        }
    }
    let auth =
        [("SIDESTREAM_AUTH__JWT__SECRET", SECRET), ("SIDESTREAM_AUTH__JWT__ALGORITHMS", "HS256")];
    let sidecar = sidecar::start(&mongo::uri(), &filters, &auth).await;
    let key = secret(SECRET);
    for (index, row) in rows.iter().enumerate() {
        let Row { name, example, .. } = row;
        let query: Vec<String> =
            example.params.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let target = format!("/_events/row{index}?{}", query.join("&"));
        let fields = example.claims.as_ref().map(|claimed| {
            let mut claimed = Document::try_from(&**claimed).unwrap();
            // Tokens have to say who it is.
            claimed.entry("sub".to_owned()).or_insert_with(|| "somebody".into());
            let claimed = serde_json::to_value(&claimed).unwrap();
            format!("Authorization: Bearer {}\r\n", key.sign(&claims(claimed)))
        });
        let fields = fields.unwrap_or_default();
        let status = http::request(sidecar.listen, "HEAD", &target, &fields).await.head.status;
        if status != 200 {
            assert!([401, 403].contains(&status), "{name}: {status}");
            assert_eq!(example.expect, Expect::None, "{name}: {status}");
            continue;
        }
        let mut stream = Stream::open_with(sidecar.listen, &target, &fields).await;
        let mut all = Stream::open(sidecar.listen, &format!("/_events/all{index}")).await;
        // Each mode of images is a feed of its own: what is written before it was read for the first time
        // is told by a reset.
        stream.settled().await;
        all.settled().await;
        change(&client.database(&database).collection(&format!("c{index}")), example).await;
        let operation = example.operation.name();
        if example.operation != OperationType::Delete {
            next(&mut all, operation).await;
        }
        if example.expect == Expect::None {
            while let Ok(event) = tokio::time::timeout(QUIET, stream.event()).await {
                assert_ne!(event.name(), operation, "{name}: {:?}", event.data);
            }
            continue;
        }
        let data = next(&mut stream, operation).await;
        if example.expect != Expect::Sent {
            assert_eq!(data["view"], example.expect.name(), "{name}: {data}");
        }
        if let Some(shows) = &example.shows {
            let shown = sidestream::session::trial::shown_document(&data);
            assert_eq!(*shown, relaxed(shows), "{name}");
        }
    }
    sidecar.finish().await;
}

fn relaxed(document: &Document) -> Value {
    mongodb::bson::Bson::Document(document.clone()).into_relaxed_extjson()
}
