//! Examines one collection for the author of a filter file: its fields, indexes and images.

use std::collections::BTreeMap;

use bson::{Bson, Document, doc};
use mongodb::Client;
use mongodb::error::Error;

use super::connect::{ProbeError, Server};
use super::failure::{self, Failure};
use crate::config::MongodbUri;
use crate::filter::{CollectionShape, Namespace};

/// Documents that are looked at.
const DOCUMENTS: i32 = 100;
/// Connections of a look from the command line.
const POOL: u32 = 4;
/// How long the server may take for each question, in milliseconds.
const MAX_TIME_MILLIS: i32 = 10_000;

/// What was found.
#[derive(Debug)]
pub struct Sample {
    pub seen: CollectionShape,
}

/// Looks once, with a client of its own.
///
/// # Errors
/// Nothing answers, the URI is of no use, or the user may not read the collection.
pub async fn look(uri: &MongodbUri, namespace: &Namespace) -> Result<Sample, ProbeError> {
    let server = Server::default();
    server.connect(uri, POOL).await.map_err(ProbeError::Invalid)?;
    let found = match server.probe().await {
        // A standalone server has no change streams, and its collections can be looked at.
        Ok(_) | Err(ProbeError::Unusable(_)) => see(&server.client().await, namespace)
            .await
            .map(|seen| Sample { seen })
            .map_err(|error| match Failure::of(&error) {
                Failure::Unreachable => ProbeError::Unavailable(failure::message(&error)),
                _ => ProbeError::Unusable(failure::message(&error)),
            }),
        Err(error) => Err(error),
    };
    server.close().await;
    found
}

async fn see(client: &Client, namespace: &Namespace) -> Result<CollectionShape, Error> {
    let mut seen = CollectionShape::default();
    let Some(name) = &namespace.collection else { return Ok(seen) };
    let database = client.database(&namespace.database);
    let sample = doc! {
        "aggregate": name, "pipeline": [{ "$sample": { "size": DOCUMENTS } }],
        "cursor": { "batchSize": DOCUMENTS }, "maxTimeMS": MAX_TIME_MILLIS,
    };
    let answer = database.run_command(sample).await?;
    let mut fields: BTreeMap<String, (usize, Vec<&'static str>)> = BTreeMap::new();
    for document in first_batch(&answer) {
        seen.documents += 1;
        for (name, value) in document.iter().filter(|(name, _)| *name != "_id") {
            let (count, types) = fields.entry(name.clone()).or_default();
            *count += 1;
            let kind = type_name(value);
            if !types.contains(&kind) {
                types.push(kind);
            }
        }
    }
    let mut fields: Vec<_> = fields.into_iter().collect();
    fields.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
    seen.fields = fields.into_iter().map(|(name, (_, types))| (name, types)).collect();

    // What the user may not see is left out.
    let listed = doc! { "listIndexes": name, "maxTimeMS": MAX_TIME_MILLIS };
    if let Ok(answer) = database.run_command(listed).await {
        let keys = first_batch(&answer).filter_map(|index| index.get_document("key").ok());
        seen.indexes = keys
            .map(|key| key.keys().cloned().collect::<Vec<_>>())
            .filter(|fields| fields != &["_id"])
            .collect();
    }
    let listed =
        doc! { "listCollections": 1, "filter": { "name": name }, "maxTimeMS": MAX_TIME_MILLIS };
    if let Ok(answer) = database.run_command(listed).await {
        seen.has_pre_images = first_batch(&answer).next().map(|described| {
            let options = described.get_document("options");
            let images =
                options.and_then(|options| options.get_document("changeStreamPreAndPostImages"));
            images.is_ok_and(|images| images.get_bool("enabled").unwrap_or_default())
        });
    }
    Ok(seen)
}

fn first_batch(answer: &Document) -> impl Iterator<Item = &Document> {
    let batch = answer.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
    batch.map(Vec::as_slice).unwrap_or_default().iter().filter_map(Bson::as_document)
}

/// As `$type` names it.
fn type_name(value: &Bson) -> &'static str {
    match value {
        Bson::Double(_) => "double",
        Bson::String(_) => "string",
        Bson::Array(_) => "array",
        Bson::Document(_) => "object",
        Bson::Boolean(_) => "bool",
        Bson::Null => "null",
        Bson::RegularExpression(_) => "regex",
        Bson::JavaScriptCode(_) | Bson::JavaScriptCodeWithScope(_) => "javascript",
        Bson::Int32(_) => "int",
        Bson::Int64(_) => "long",
        Bson::Timestamp(_) => "timestamp",
        Bson::Binary(_) => "binData",
        Bson::ObjectId(_) => "objectId",
        Bson::DateTime(_) => "date",
        Bson::Symbol(_) => "symbol",
        Bson::Decimal128(_) => "decimal",
        Bson::Undefined => "undefined",
        Bson::MaxKey => "maxKey",
        Bson::MinKey => "minKey",
        Bson::DbPointer(_) => "dbPointer",
    }
}
