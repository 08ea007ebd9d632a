//! No event is delivered to a client whose claims do not match: made-up claims, filters and
//! changes, held against what the database itself says.
//!
//! For each client, the filter's `match` with its claims put in as literal values is asked of
//! `mongod`: what it finds among the inserted documents is exactly what the client may get.

use std::collections::BTreeSet;

use futures_util::TryStreamExt;
use mongodb::Client;
use mongodb::bson::{Bson, Document, doc};
use serde_json::{Value, json};

use super::SECRET;
use super::bearer;
use super::issuer::{claims, secret};
use crate::support::http::request;
use crate::support::sidecar::{self, Filters};
use crate::support::sse::Stream;
use crate::support::{mongo, unique};

const SEEDS: u64 = 6;
const CLIENTS: usize = 12;
const DOCUMENTS: i32 = 120;

struct Random(fastrand::Rng);

impl Random {
    fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.0.usize(..choices.len())].clone()
    }

    /// What a claim may hold, strange shapes included.
    fn claim(&mut self, depth: u8) -> Value {
        match self.0.u8(..if depth == 0 { 9 } else { 13 }) {
            0..=2 => json!(self.pick(&["a", "b", "c", ""])),
            3 | 4 => json!(self.0.i64(-1..3)),
            5 => json!(self.pick(&[0.5, 1.0, 2.5])),
            6 => json!(self.0.bool()),
            7 => json!(null),
            8 => json!(self.pick(&[4_294_967_296_i64, i64::MAX])),
            9 => json!({ "$ne": null }),
            10 => json!({ "$gt": "" }),
            11 => json!({ "x": self.claim(depth - 1) }),
            _ => (0..self.0.usize(..4)).map(|_| self.claim(depth - 1)).collect(),
        }
    }

    /// A document's value, out of the same small pool.
    fn value(&mut self, depth: u8) -> Bson {
        match self.0.u8(..if depth == 0 { 10 } else { 13 }) {
            0..=2 => self.pick(&["a", "b", "c", ""]).into(),
            3 => Bson::Int32(self.0.i32(-1..3)),
            4 => Bson::Int64(self.0.i64(-1..3)),
            5 => Bson::Double(self.pick(&[0.5, 1.0, 2.5])),
            6 => Bson::Boolean(self.0.bool()),
            7 => Bson::Null,
            8 => Bson::Int64(self.pick(&[4_294_967_296_i64, i64::MAX])),
            9 => Bson::Double(4_294_967_296.0),
            10 => Bson::Document(doc! { "x": self.value(depth - 1) }),
            11 => Bson::Document(doc! { "$gt": "" }),
            _ => Bson::Array((0..self.0.usize(..3)).map(|_| self.value(depth - 1)).collect()),
        }
    }

    fn document(&mut self, id: i32) -> Document {
        let mut document = doc! { "_id": id };
        for field in ["o", "t", "n"] {
            if self.0.u8(..8) > 0 {
                document.insert(field, self.value(2));
            }
        }
        document
    }
}

/// A filter as YAML, and as what `mongod` is asked; `None`: a claim that is needed is not there.
struct Case {
    text: &'static str,
    literal: fn(&Value) -> Option<Document>,
}

/// A field that equals a claim, as a literal condition, by the rules of the documentation: null is
/// no value, and an array is a set.
fn equal(field: &str, claim: &Value) -> Option<Document> {
    Some(match to_bson(claim) {
        Bson::Null => return None,
        Bson::Array(values) => {
            any_of(field, values.into_iter().filter(|value| *value != Bson::Null).collect())
        }
        value => any_of(field, vec![value]),
    })
}

/// Not by `$in`, which refuses values that look like operators.
fn any_of(field: &str, values: Vec<Bson>) -> Document {
    let one = |value: Bson| doc! { field: { "$eq": value } };
    match values.is_empty() {
        true => doc! { "$nor": [{}] },
        false => doc! { "$or": values.into_iter().map(one).collect::<Vec<_>>() },
    }
}

fn to_bson(value: &Value) -> Bson {
    match value {
        Value::Null => Bson::Null,
        Value::Bool(value) => Bson::Boolean(*value),
        Value::Number(number) => match number.as_i64() {
            Some(number) => Bson::Int64(number),
            None => Bson::Double(number.as_f64().expect("a number")),
        },
        Value::String(text) => Bson::String(text.clone()),
        Value::Array(values) => Bson::Array(values.iter().map(to_bson).collect()),
        Value::Object(fields) => {
            Bson::Document(fields.iter().map(|(k, v)| (k.clone(), to_bson(v))).collect())
        }
    }
}

const CASES: [Case; 5] = [
    Case { text: "match: { o: { $claim: c } }", literal: |c| equal("o", &c["c"]) },
    Case {
        text: "match: { o: { $claim: c }, t: { $claim: d } }",
        literal: |c| Some(doc! { "$and": [equal("o", &c["c"])?, equal("t", &c["d"])?] }),
    },
    Case {
        text: "match: { $or: [{ o: { $claim: c } }, { n: 1 }] }",
        literal: |c| Some(doc! { "$or": [equal("o", &c["c"])?, { "n": 1 }] }),
    },
    Case {
        text: "match: { o: { $in: [{ $claim: c }, x] } }",
        literal: |c| match to_bson(&c["c"]) {
            Bson::Null => None,
            // In a list of values, an array is one of them.
            Bson::Array(values) => {
                let values = values.into_iter().filter(|value| *value != Bson::Null).collect();
                Some(any_of("o", vec![Bson::Array(values), "x".into()]))
            }
            value => Some(any_of("o", vec![value, "x".into()])),
        },
    },
    Case { text: "match: { o.x: { $claim: c.x } }", literal: |c| equal("o.x", &c["c"]["x"]) },
];

#[tokio::test]
async fn nothing_reaches_a_client_that_its_claims_do_not_match() {
    let mut delivered = 0;
    for seed in 0..SEEDS {
        delivered += check(seed).await;
    }
    assert!(delivered > 200, "only {delivered} events say little");
}

async fn check(seed: u64) -> usize {
    let mut random = Random(fastrand::Rng::with_seed(seed));
    let database = unique("property");
    let texts: Vec<(String, String)> = CASES
        .iter()
        .enumerate()
        .map(|(index, case)| {
            let head = format!("collection: {database}.docs\naccess: authenticated\n");
            (
                format!("f{index}"),
                format!("{head}operations: [insert, replace, update]\n{}\n", case.text),
            )
        })
        .collect();
    let files: Vec<(&str, &str)> = texts.iter().map(|(n, t)| (n.as_str(), t.as_str())).collect();
    let filters = Filters::new(&files);
    let settings =
        [("SIDESTREAM_AUTH__JWT__SECRET", SECRET), ("SIDESTREAM_AUTH__JWT__ALGORITHMS", "HS256")];
    let sidecar = sidecar::start(&mongo::uri(), &filters, &settings).await;
    let key = secret(SECRET);
    let mut clients = Vec::new();
    for client in 0..CLIENTS {
        let index = client % CASES.len();
        let mut own = json!({ "sub": format!("client-{client}") });
        for name in ["c", "d"] {
            if random.0.u8(..8) > 0 {
                own[name] = random.claim(2);
            }
        }
        let expected = (CASES[index].literal)(&own);
        let fields = bearer(&key.sign(&{
            let mut all = claims(json!({}));
            all.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
            all
        }));
        let target = format!("/_events/f{index}");
        match expected {
            Some(filter) => {
                let mut stream = Stream::open_with(sidecar.listen, &target, &fields).await;
                stream.settled().await;
                clients.push((stream, filter, format!("{}: {own}", CASES[index].text)));
            }
            None => {
                let answer = request(sidecar.listen, "HEAD", &target, &fields).await;
                assert_eq!(answer.head.status, 403, "seed {seed}: {own}");
            }
        }
    }
    let mongodb = Client::with_uri_str(mongo::uri()).await.unwrap();
    let docs = mongodb.database(&database).collection::<Document>("docs");
    // Every version of every document, for the database to judge.
    let versions = mongodb.database(&database).collection::<Document>("versions");
    let mut all: Vec<Document> = (0..DOCUMENTS).map(|id| random.document(id)).collect();
    docs.insert_many(&all).await.unwrap();
    for id in 0..DOCUMENTS {
        let mut next = random.document(id);
        next.insert("_id", id);
        let version = i32::try_from(all.len()).unwrap();
        next.insert("v", version);
        // An update comes last: its document is looked up when the event is read.
        let key = doc! { "_id": id };
        if random.0.bool() {
            docs.replace_one(key, &next).await.unwrap();
        } else {
            let mut set = next.clone();
            set.remove("_id");
            docs.update_one(key.clone(), doc! { "$set": set }).await.unwrap();
            next = docs.find_one(key).await.unwrap().unwrap();
        }
        next.insert("_id", version);
        all.push(next);
    }
    for (version, document) in all.iter_mut().enumerate() {
        document.insert("_id", i32::try_from(version).unwrap());
    }
    versions.insert_many(&all).await.unwrap();

    let mut delivered = 0;
    for (mut stream, filter, what) in clients {
        let found: Vec<Document> =
            versions.find(filter.clone()).await.unwrap().try_collect().await.unwrap();
        let expected: BTreeSet<i64> =
            found.iter().map(|d| i64::from(d.get_i32("_id").unwrap())).collect();
        let mut got = BTreeSet::new();
        for event in stream.events(expected.len()).await {
            let document = &event.json()["fullDocument"];
            let version = document["v"].as_i64().or(document["_id"].as_i64());
            got.insert(version.unwrap());
        }
        assert_eq!(got, expected, "seed {seed}: {what} as {filter}");
        // Everything has been read by a position past the last write: nothing more comes.
        let position = stream.settled().await;
        while let Some(block) = stream.block().await {
            assert!(block.data.is_none(), "seed {seed}: {what}: {block:?}");
            if block.id.is_some_and(|id| id > position) {
                break;
            }
        }
        delivered += got.len();
    }
    sidecar.finish().await;
    delivered
}
