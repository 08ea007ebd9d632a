//! Generated filters and documents: what a page shows is what `find` finds, at once and after any
//! number of changes.

use std::collections::BTreeMap;
use std::path::Path;

use futures_util::TryStreamExt;
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::options::Collation;
use serde_json::Value;
use sidestream::event::json::write_relaxed_document;
use sidestream::filter::parse_filter;
use sidestream::matcher::Predicate;

use super::{Page, client, orders};
use crate::generate::Generator;
use crate::support::sidecar::{self, Filters};
use crate::support::{mongo, unique};

/// Streams, and changes to what they show.
const STREAMS: usize = 25;
const CHANGES: usize = 150;
const IDS: i64 = 30;

/// Documents by their key, as a page has them.
type Documents = BTreeMap<String, Value>;

fn relaxed(document: &RawDocumentBuf) -> Value {
    let mut out = Vec::new();
    write_relaxed_document(document, &mut out);
    serde_json::from_slice(&out).unwrap()
}

fn numbered(id: i64, document: Document) -> Document {
    let mut whole = doc! { "_id": id };
    whole.extend(document.into_iter().filter(|(name, _)| name != "_id"));
    whole
}

/// What `find` says; where an expression makes it fail on some document, what the matcher says.
async fn found(
    orders: &mongodb::Collection<Document>,
    (written, predicate): (&Document, &Predicate),
) -> Documents {
    let raw = orders.clone_with_type::<RawDocumentBuf>();
    let simple = Collation::builder().locale("simple").build();
    let finding = async {
        let found = raw.find(written.clone()).collation(simple).await?;
        found.try_collect::<Vec<RawDocumentBuf>>().await
    };
    let documents = match finding.await {
        Ok(documents) => documents,
        Err(_) => {
            let all = raw.find(doc! {}).await.unwrap();
            let all: Vec<RawDocumentBuf> = all.try_collect().await.unwrap();
            all.into_iter().filter(|document| predicate.matches(document)).collect()
        }
    };
    documents
        .iter()
        .map(|document| {
            let document = relaxed(document);
            (serde_json::json!({ "_id": document["_id"] }).to_string(), document)
        })
        .collect()
}

#[tokio::test]
async fn a_page_shows_what_find_finds() {
    let seed = std::env::var("EVENTS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("EVENTS_SEED={seed}");
    let mut generator = Generator::new(seed);
    let mut random = fastrand::Rng::with_seed(seed);
    let database = unique("generated");
    let client = client().await;
    let orders = orders(&client, &database).await;
    let mut documents = Vec::new();
    for id in 0..IDS / 2 {
        let document = numbered(id, generator.document());
        orders.insert_one(&document).await.unwrap();
        documents.push(RawDocumentBuf::try_from(&document).unwrap());
    }
    let filters = Filters::new(&[]);
    let mut streams: Vec<(String, Document, Predicate)> = Vec::new();
    let mut matches_any = false;
    while streams.len() < STREAMS {
        let written = generator.filter();
        let text = serde_json::json!({
            "collection": format!("{database}.orders"),
            "access": "public",
            "snapshot": true,
            "fullDocument": if random.bool() { "whenAvailable" } else { "updateLookup" },
            "fullDocumentBeforeChange": "whenAvailable",
            "match": Bson::Document(written.clone()).into_canonical_extjson(),
        });
        let text = text.to_string();
        let name = format!("s{}", streams.len());
        let Ok(filter) = parse_filter(&name, Path::new("s.yaml"), &text) else { continue };
        let Ok(bound) = filter.bind(&[], None) else { continue };
        // One of them at least, if it is the last, so that there is something to compare.
        matches_any |= documents.iter().any(|document| bound.predicate.matches(document));
        if !matches_any && streams.len() + 1 == STREAMS {
            continue;
        }
        filters.write(&name, &text);
        streams.push((name, written, bound.predicate));
    }
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut pages = Vec::new();
    let mut matching = 0;
    for (name, written, predicate) in &streams {
        let mut page = Page::open(sidecar.listen, &format!("/_events/{name}")).await;
        page.complete(1).await;
        let expected = found(&orders, (written, predicate)).await;
        assert_eq!(page.shown, expected, "seed {seed}: {written}");
        matching += expected.len();
        pages.push(page);
    }
    assert!(matching > 0, "seed {seed}: nothing matches anything");

    for _ in 0..CHANGES {
        let id = random.i64(0..IDS);
        let key = doc! { "_id": id };
        let document = numbered(id, generator.document());
        match random.u32(0..6) {
            0 => drop(orders.delete_one(key).await.unwrap()),
            1 => drop(orders.replace_one(key, document).upsert(true).await.unwrap()),
            _ => {
                let fields = document.into_iter().filter(|(name, _)| {
                    name != "_id"
                        && !name.starts_with('$')
                        && !name.contains('.')
                        && !name.is_empty()
                });
                let fields: Document = fields.collect();
                if !fields.is_empty() {
                    drop(
                        orders.update_one(key, doc! { "$set": fields }).upsert(true).await.unwrap(),
                    );
                }
            }
        }
    }
    for ((_, written, predicate), page) in streams.iter().zip(&mut pages) {
        let expected = found(&orders, (written, predicate)).await;
        let what = format!("seed {seed}: {written}\n{expected:?}");
        page.until(&what, |page| page.shown == expected).await;
        assert_eq!(page.reasons, ["new"], "seed {seed}: {written}");
    }
    sidecar.finish().await;
}
