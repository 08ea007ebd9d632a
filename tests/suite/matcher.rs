//! The matcher against a real `mongod`: the row file, and generated filters and documents.

use std::pin::pin;

use bson::{Document, RawDocumentBuf, doc};
use futures_util::{StreamExt, TryStreamExt, stream};
use mongodb::{Client, Collection};
use sidestream::matcher::projection::Projection;
use sidestream::matcher::{Predicate, Template};

use sidestream::feed::routes::Index;

use crate::generate::Generator;
use crate::{rows, support};

/// How many groups of rows are asked about at the same time.
const AT_A_TIME: usize = 4;

async fn collection(client: &Client, name: &str) -> Collection<RawDocumentBuf> {
    client.database("matcher").collection(name)
}

fn predicate(filter: &Document) -> Result<Predicate, String> {
    let template = Template::parse(filter).map_err(|errors| format!("{errors:?}"))?;
    Ok(template.bind(&mut |_| None))
}

/// Puts the documents in place of what is there, with their index as `_id`.
/// Gives what is there now.
pub async fn replace(
    collection: &Collection<RawDocumentBuf>,
    documents: &[Document],
) -> Vec<RawDocumentBuf> {
    collection.delete_many(doc! {}).await.unwrap();
    let with_id = |(index, document): (usize, &Document)| {
        let mut with_id = doc! { "_id": index as i32 };
        with_id.extend(document.clone());
        RawDocumentBuf::try_from(&with_id).unwrap()
    };
    let stored: Vec<RawDocumentBuf> = documents.iter().enumerate().map(with_id).collect();
    collection.insert_many(&stored).await.unwrap();
    stored
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
    let (groups, refused) = rows::all();
    let is_blessing = std::env::var_os("BLESS").is_some();
    let mut lines: Vec<String> = rows::TEXT.lines().map(str::to_owned).collect();
    let mut wrong = Vec::new();
    // Each group costs some answers of the server: a few at a time, each in a collection of its own.
    let mut collections = Vec::new();
    for number in 0..AT_A_TIME {
        collections.push(collection(&client, &format!("rows{number}")).await);
    }
    let asked = groups.iter().zip(collections.iter().cycle()).map(async |(group, collection)| {
        let documents: Vec<Document> = group.rows.iter().map(|row| row.document.clone()).collect();
        replace(collection, &documents).await;
        let found = found(collection, &group.filter, documents.len()).await;
        (group, found.unwrap_or_else(|error| panic!("{}: {error}", group.filter)))
    });
    // In order: the next one begins when the first of them is done, and takes its collection.
    let mut answers = pin!(stream::iter(asked).buffered(AT_A_TIME));
    while let Some((group, found)) = answers.next().await {
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

/// Documents of one batch; every filter is asked about all of them at once.
const BATCH: usize = 80;
const FILTERS_PER_BATCH: usize = 100;

/// How many generated filters, from `MATCHER_CASES`; the seed, from `MATCHER_SEED`.
pub fn cases_and_seed(default: usize) -> (usize, u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let cases = number("MATCHER_CASES").map_or(default, |cases| cases as usize);
    let seed = number("MATCHER_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("MATCHER_SEED={seed} MATCHER_CASES={cases}");
    (cases, seed)
}

#[tokio::test]
async fn generated_filters_as_the_server_says() {
    compare("generated", 2_000, Generator::filter).await;
}

#[tokio::test]
async fn generated_schemas_as_the_server_says() {
    compare("schemas", 1_000, |generator| doc! { "$jsonSchema": generator.schema(3) }).await;
}

async fn compare(name: &str, default: usize, mut make: impl FnMut(&mut Generator) -> Document) {
    let client = Client::with_uri_str(support::mongo::uri()).await.unwrap();
    let collection = collection(&client, name).await;
    let (cases, seed) = cases_and_seed(default);
    let mut generator = Generator::new(seed);
    let (mut asked, mut wrong) = (0, Vec::new());
    while asked < cases && wrong.len() < 30 {
        let documents: Vec<Document> = (0..BATCH).map(|_| generator.document()).collect();
        let stored = replace(&collection, &documents).await;
        for _ in 0..FILTERS_PER_BATCH {
            asked += 1;
            let filter = make(&mut generator);
            let server = found(&collection, &filter, BATCH).await;
            match (predicate(&filter), server) {
                (Ok(predicate), Ok(server)) => {
                    for (index, (raw, server)) in stored.iter().zip(server).enumerate() {
                        if predicate.matches(raw) != server {
                            let document = &documents[index];
                            wrong.push(format!("the server says {server}: {filter} of {document}"));
                            break;
                        }
                    }
                }
                (Ok(_), Err(error)) => wrong.push(format!("the server refuses {filter}: {error}")),
                // An `enum` with the same number in two types, for example.
                (Err(_), Err(_)) => {}
                (Err(error), Ok(_)) => {
                    wrong.push(format!("the matcher refuses {filter}: {error}"));
                }
            }
        }
    }
    client.shutdown().await;
    assert!(wrong.is_empty(), "MATCHER_SEED={seed}\n{}", wrong.join("\n"));
}

/// Expressions fail on some documents, where the server fails the whole query. So each document is
/// asked by itself where the batch fails.
#[tokio::test]
async fn generated_expressions_as_the_server_says() {
    let client = Client::with_uri_str(support::mongo::uri()).await.unwrap();
    let collection = collection(&client, "expressions").await;
    let (cases, seed) = cases_and_seed(300);
    let mut generator = Generator::new(seed);
    let (mut asked, mut wrong) = (0, Vec::new());
    while asked < cases && wrong.len() < 30 {
        let documents: Vec<Document> = (0..20).map(|_| generator.document()).collect();
        replace(&collection, &documents).await;
        for _ in 0..FILTERS_PER_BATCH {
            asked += 1;
            let filter = doc! { "$expr": generator.expression(2) };
            let ours = match predicate(&filter) {
                Ok(predicate) => predicate,
                Err(error) => {
                    wrong.push(format!("the matcher refuses {filter}: {error}"));
                    continue;
                }
            };
            let whole = found(&collection, &filter, documents.len()).await;
            for (index, document) in documents.iter().enumerate() {
                let server = match &whole {
                    Ok(found) => Ok(found[index]),
                    Err(_) => {
                        let mut one = doc! { "_id": index as i32 };
                        one.extend(filter.clone());
                        found(&collection, &one, documents.len()).await.map(|found| found[index])
                    }
                };
                let mut stored = doc! { "_id": index as i32 };
                stored.extend(document.clone());
                let verdict = ours.matches(&RawDocumentBuf::try_from(&stored).unwrap());
                match server {
                    Ok(server) if server == verdict => {}
                    // Constants are computed beforehand there, also where no document asks.
                    Err(error) if !verdict || error.contains("Failed to optimize") => {}
                    server => {
                        wrong.push(format!("the server says {server:?}: {filter} of {document}"));
                        break;
                    }
                }
            }
        }
    }
    client.shutdown().await;
    assert!(wrong.is_empty(), "MATCHER_SEED={seed}\n{}", wrong.join("\n"));
}

#[tokio::test]
async fn generated_patterns_as_the_server_says() {
    let client = Client::with_uri_str(support::mongo::uri()).await.unwrap();
    let collection = collection(&client, "patterns").await;
    let (cases, seed) = cases_and_seed(600);
    let mut generator = Generator::new(seed);
    let documents: Vec<Document> = (0..200).map(|_| doc! { "a": generator.text() }).collect();
    replace(&collection, &documents).await;
    let mut wrong = Vec::new();
    let mut both_take = 0;
    for _ in 0..cases {
        let (pattern, options) = generator.pattern();
        let filter = doc! { "a": { "$regex": &pattern, "$options": options } };
        let server = found(&collection, &filter, documents.len()).await;
        match (predicate(&filter), server) {
            (Ok(ours), Ok(server)) => {
                both_take += 1;
                for (document, server) in documents.iter().zip(server) {
                    let raw = RawDocumentBuf::try_from(document).unwrap();
                    if ours.matches(&raw) != server {
                        let text = document.get_str("a").unwrap();
                        wrong.push(format!(
                            "the server says {server}: /{pattern}/{options} {text:?}"
                        ));
                        break;
                    }
                }
            }
            // Its engine takes less: no repeated anchors, for example.
            (_, Err(_)) => {}
            // What linear time rules out.
            (Err(error), Ok(_)) if error.contains("possessive") || error.contains("after") => {}
            (Err(error), Ok(_)) => wrong.push(format!("the matcher refuses /{pattern}/: {error}")),
        }
    }
    client.shutdown().await;
    assert!(both_take > cases / 10, "too few patterns compile");
    assert!(wrong.is_empty(), "MATCHER_SEED={seed}\n{}", wrong.join("\n"));
}

#[tokio::test]
async fn generated_projections_as_the_server_says() {
    let client = Client::with_uri_str(support::mongo::uri()).await.unwrap();
    let collection = collection(&client, "projections").await;
    let (cases, seed) = cases_and_seed(500);
    let mut generator = Generator::new(seed);
    let documents: Vec<Document> = (0..BATCH).map(|_| generator.document()).collect();
    replace(&collection, &documents).await;
    let mut wrong = Vec::new();
    for _ in 0..cases {
        let project = generator.projection();
        let ours = Projection::parse(&project);
        let cursor = collection.find(doc! {}).sort(doc! { "_id": 1 }).projection(project.clone());
        let server: Result<Vec<RawDocumentBuf>, _> = match cursor.await {
            Ok(cursor) => cursor.try_collect().await,
            Err(error) => Err(error),
        };
        match (ours, server) {
            (Ok(ours), Ok(server)) => {
                for (index, server) in server.iter().enumerate() {
                    let mut stored = doc! { "_id": index as i32 };
                    stored.extend(documents[index].clone());
                    let shown = ours.apply(&RawDocumentBuf::try_from(&stored).unwrap());
                    if shown.as_bytes() != server.as_bytes() {
                        let server = Document::try_from(server.clone()).unwrap();
                        wrong.push(format!("the server shows {server}: {project} of {stored}"));
                        break;
                    }
                }
            }
            (Err(_), Err(_)) => {}
            (ours, server) => wrong.push(format!("{project}: {ours:?}, {:?}", server.err())),
        }
    }
    client.shutdown().await;
    assert!(wrong.is_empty(), "MATCHER_SEED={seed}\n{}", wrong.join("\n"));
}

/// Needs no server: the index against the matcher, and the verdict on keys against the verdict on
/// whole documents.
#[test]
fn generated_filters_agree_with_index_and_key() {
    let (cases, seed) = cases_and_seed(3_000);
    let mut generator = Generator::new(seed);
    let mut decided = 0;
    for _ in 0..cases.div_ceil(100) {
        let mut index = Index::new();
        let filters: Vec<Document> = (0..100).map(|_| generator.filter()).collect();
        let predicates: Vec<Predicate> =
            filters.iter().map(|filter| predicate(filter).unwrap()).collect();
        for (id, predicate) in predicates.iter().enumerate() {
            index.insert(id, predicate);
        }
        for _ in 0..BATCH {
            let document = generator.document();
            let key: Document = document.clone().into_iter().filter(|_| generator.coin()).collect();
            let raw = RawDocumentBuf::try_from(&document).unwrap();
            let raw_key = RawDocumentBuf::try_from(&key).unwrap();
            let mut candidates = Vec::new();
            index.candidates(&raw, &mut candidates);
            for (id, predicate) in predicates.iter().enumerate() {
                let verdict = predicate.matches(&raw);
                assert!(
                    !verdict || candidates.contains(&id),
                    "MATCHER_SEED={seed}: no candidate: {} of {document}",
                    filters[id]
                );
                if let Some(by_key) = predicate.matches_key(&raw_key) {
                    decided += 1;
                    assert_eq!(
                        by_key, verdict,
                        "MATCHER_SEED={seed}: by key {key}: {} of {document}",
                        filters[id]
                    );
                }
            }
        }
    }
    assert!(decided > 0, "no key decides anything");
}
