//! The matcher against a real `mongod`: the row file, and generated filters and documents.

use bson::{Document, RawDocumentBuf, doc};
use mongodb::{Client, Collection};
use sidestream::matcher::{Predicate, Template};

use crate::{rows, support};

async fn collection(client: &Client, name: &str) -> Collection<RawDocumentBuf> {
    client.database("matcher").collection(name)
}

fn predicate(filter: &Document) -> Result<Predicate, String> {
    let template = Template::parse(filter).map_err(|errors| format!("{errors:?}"))?;
    Ok(template.bind(&mut |_| None))
}

/// Puts the documents in place of what is there, with their index as `_id`.
async fn replace(collection: &Collection<RawDocumentBuf>, documents: &[Document]) {
    collection.delete_many(doc! {}).await.unwrap();
    let raw = documents.iter().enumerate().map(|(index, document)| {
        let mut with_id = doc! { "_id": index as i32 };
        with_id.extend(document.clone());
        RawDocumentBuf::try_from(&with_id).unwrap()
    });
    collection.insert_many(raw).await.unwrap();
}

/// Which of the documents the server finds, by index.
async fn found(
    collection: &Collection<RawDocumentBuf>,
    filter: &Document,
    count: usize,
) -> Result<Vec<bool>, String> {
    let ids = collection.clone_with_type::<Document>();
    let mut cursor =
        ids.find(filter.clone()).projection(doc! { "_id": 1 }).await.map_err(|e| e.to_string())?;
    let mut found = vec![false; count];
    while cursor.advance().await.map_err(|e| e.to_string())? {
        let id = cursor.current().get_i32("_id").unwrap();
        found[id as usize] = true;
    }
    Ok(found)
}

#[tokio::test]
async fn rows_as_the_server_says() {
    let client = Client::with_uri_str(support::mongo::uri()).await.unwrap();
    let collection = collection(&client, "rows").await;
    let (groups, refused) = rows::all();
    let is_blessing = std::env::var_os("BLESS").is_some();
    let mut lines: Vec<String> = rows::TEXT.lines().map(str::to_owned).collect();
    let mut wrong = Vec::new();
    for group in &groups {
        let documents: Vec<Document> = group.rows.iter().map(|row| row.document.clone()).collect();
        replace(&collection, &documents).await;
        let found = found(&collection, &group.filter, documents.len()).await;
        let found = found.unwrap_or_else(|error| panic!("{}: {error}", group.filter));
        let ours = predicate(&group.filter);
        for (row, server) in group.rows.iter().zip(found) {
            let raw = RawDocumentBuf::try_from(&row.document).unwrap();
            let ours = ours.as_ref().map(|predicate| predicate.matches(&raw));
            if is_blessing {
                lines[row.line - 1].replace_range(..1, if server { "+" } else { "-" });
            } else if row.matches != Some(server) {
                wrong.push(format!("line {}: the server says {server}", row.line));
            }
            if ours != Ok(server) {
                wrong.push(format!(
                    "line {}: the matcher says {ours:?}: {} of {}",
                    row.line, group.filter, row.document
                ));
            }
        }
    }
    for refused in &refused {
        if predicate(&refused.filter).is_ok() {
            wrong.push(format!("line {}: the matcher takes {}", refused.line, refused.filter));
        }
    }
    if is_blessing {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/matcher_rows.txt");
        std::fs::write(path, lines.join("\n") + "\n").unwrap();
    }
    client.shutdown().await;
    assert!(wrong.is_empty(), "{} rows differ:\n{}", wrong.len(), wrong.join("\n"));
}
