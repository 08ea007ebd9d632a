//! The index agrees with the matcher on every row, whatever other routes there are.

use std::collections::BTreeSet;

use bson::{Bson, Document, RawDocumentBuf, doc, oid::ObjectId};

use super::*;
use crate::matcher::Template;

#[path = "../../../tests/suite/rows.rs"]
mod rows;

fn predicate(filter: Document) -> Predicate {
    let template = Template::parse(&filter).unwrap_or_else(|e| panic!("{filter}: {e:?}"));
    template.bind(&mut |_| None)
}

fn raw(document: &Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(document).unwrap()
}

fn candidates(index: &Index<u32>, document: &Document) -> Vec<u32> {
    let mut out = Vec::new();
    index.candidates(&raw(document), &mut out);
    out
}

#[test]
fn every_row_beside_all_other_filters() {
    let (groups, _) = rows::all();
    let mut index = Index::new();
    let predicates: Vec<Predicate> =
        groups.iter().map(|group| predicate(group.filter.clone())).collect();
    for (id, predicate) in predicates.iter().enumerate() {
        index.insert(id as u32, predicate);
    }
    // Twice: with the many paths of all, and with few.
    for round in 0..2 {
        assert_eq!(index.active_paths > SCANNED_PATHS, round == 0);
        // Many rows share their documents: some of all tell as much.
        let documents = groups.iter().flat_map(|group| &group.rows).map(|row| &row.document);
        for document in documents.skip(round).step_by(7) {
            let document = raw(document);
            let mut found = Vec::new();
            index.candidates(&document, &mut found);
            let found: BTreeSet<u32> = {
                let set: BTreeSet<u32> = found.iter().copied().collect();
                assert_eq!(set.len(), found.len(), "a candidate twice");
                set
            };
            for (id, predicate) in predicates.iter().enumerate() {
                let is_there = index.by_id.contains_key(&(id as u32));
                if is_there && predicate.matches(&document) {
                    assert!(found.contains(&(id as u32)), "round {round}: {}", groups[id].filter);
                }
            }
        }
        for (id, group) in groups.iter().enumerate() {
            let is_plain = group.filter.keys().all(|key| key == "a" || key == "a.b");
            if !is_plain {
                index.remove(&(id as u32));
            }
        }
    }
}

#[test]
fn every_row_as_the_file_says() {
    let (groups, refused) = rows::all();
    for refused in refused {
        assert!(Template::parse(&refused.filter).is_err(), "line {}", refused.line);
    }
    for group in groups {
        let predicate = predicate(group.filter.clone());
        for row in group.rows {
            let verdict = Some(predicate.matches(&raw(&row.document)));
            assert_eq!(verdict, row.matches, "line {}: {}", row.line, group.filter);
        }
    }
}

#[test]
fn finds_few() {
    let mut index = Index::new();
    for id in 0..1000_u32 {
        let filter = doc! { "status": "paid", "customer": id as i64, "total": { "$gte": 1 } };
        index.insert(id, &predicate(filter));
    }
    let document = doc! { "status": "paid", "customer": 7.0, "total": 5 };
    let found = candidates(&index, &document);
    assert!(found.contains(&7) && found.len() <= 1 + CROWD, "{}", found.len());
    assert!(candidates(&index, &doc! { "status": "new", "customer": -1 }).is_empty());
}

#[test]
fn either_branch_of_an_or() {
    let mut index = Index::new();
    for id in 0..100_u32 {
        let mine = id as i32;
        index.insert(id, &predicate(doc! { "$or": [{ "owner": mine }, { "members": mine }] }));
    }
    assert_eq!(candidates(&index, &doc! { "owner": 1, "members": [2, 3, 1, 1] }), [1, 2, 3]);
    assert!(candidates(&index, &doc! { "owner": 200 }).is_empty());
}

#[test]
fn ranges_and_existence() {
    let mut index = Index::new();
    for id in 0..100_u32 {
        index.insert(id, &predicate(doc! { "n": { "$gt": id as i32 } }));
        index.insert(100 + id, &predicate(doc! { "n": { "$lte": id as f64 } }));
    }
    index.insert(1000, &predicate(doc! { "s": { "$regex": "x" } }));
    index.insert(1001, &predicate(doc! { "s": { "$ne": "x" } }));
    let found = candidates(&index, &doc! { "n": 10_i64 });
    assert!(found.contains(&9) && !found.contains(&11));
    assert!(found.contains(&110) && !found.contains(&109));
    assert!(!found.contains(&1000) && found.contains(&1001));
    assert_eq!(candidates(&index, &doc! { "n": "text", "s": 1 }), [1000, 1001]);
}

#[test]
fn nothing_is_left_behind() {
    let mut index = Index::new();
    let filters = [
        doc! { "a": 1 },
        doc! { "a": { "$in": [1, 1.0, 2, null] } },
        doc! { "$or": [{ "a": 1 }, { "b": 1 }, { "a": 1 }] },
        doc! { "a": { "$gt": 1 } },
        doc! { "a": { "$lt": 1 } },
        doc! { "a": { "$exists": true } },
        doc! { "a": { "$ne": 1 } },
        doc! { "a": { "$in": [] } },
        doc! {},
    ];
    let mut random = fastrand::Rng::with_seed(1);
    for round in 0..2000 {
        let id = random.u32(0..40);
        if random.bool() {
            index.insert(id, &predicate(random.choice(&filters).unwrap().clone()));
        } else {
            index.remove(&id);
        }
        if round % 100 == 0 {
            candidates(&index, &doc! { "a": [1, 2, Bson::Null], "b": 1 });
        }
    }
    for id in 0..40 {
        index.remove(&id);
    }
    assert!(index.is_empty() && index.equal.is_empty() && index.always.is_empty());
    assert!(index.null_paths.is_empty() && index.path_numbers.is_empty());
    assert!(index.by_first_part.is_empty() && index.active_paths == 0);
    assert!(!index.remove(&1));
}

#[test]
fn descriptions() {
    let describe = |filter| describe(&predicate(filter)).to_string();
    assert_eq!(describe(doc! { "open": true, "by": ObjectId::new() }), "equality on `by`");
    assert_eq!(describe(doc! { "a": { "$in": [1, 2] } }), "equality on `a`, 2 values");
    assert_eq!(
        describe(doc! { "$or": [{ "a": 1, "x": true }, { "b": { "$gt": 1 } }] }),
        "equality on `a`, or range on `b`"
    );
    assert_eq!(describe(doc! { "a": { "$elemMatch": { "b": 1 } } }), "equality on `a.b`");
    assert_eq!(describe(doc! { "a": { "$regex": "x" } }), "existence of `a`");
    assert_eq!(describe(doc! { "a": { "$ne": 1 } }), "asked about every document");
    assert_eq!(describe(doc! { "a": { "$in": [] } }), "no document can match");
}
