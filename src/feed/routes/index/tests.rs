//! The index agrees with the matcher on every row, whatever other routes there are.

use std::collections::BTreeSet;

use bson::{Bson, Document, RawDocumentBuf, doc, oid::ObjectId};

use super::*;
use crate::event::raw::Owned;
use crate::matcher::{BoundValues, Placeholder, Template};

#[path = "../../../../tests/suite/rows.rs"]
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

/// Routes by ids of the test's own, which may be given again.
#[derive(Default)]
struct Routes {
    index: Index<u32>,
    slots: HashMap<u32, IndexSlot>,
}

impl Routes {
    /// One with that id is replaced.
    fn insert(&mut self, id: u32, predicate: &Predicate) {
        self.remove(id);
        self.slots.insert(id, self.index.insert(id, predicate));
    }

    fn remove(&mut self, id: u32) {
        if let Some(slot) = self.slots.remove(&id) {
            assert!(self.index.remove(slot) && !self.index.remove(slot));
        }
    }
}

impl std::ops::Deref for Routes {
    type Target = Index<u32>;

    fn deref(&self) -> &Index<u32> {
        &self.index
    }
}

/// So many routes stand beside each row.
const BESIDE: usize = 100;

/// Every row of the file, through the index: its filter and the hundred of other rows are routes
/// at once. What the index names and the matcher confirms is compared with what `mongod` says, and
/// what the index does not name must not match.
#[test]
fn every_row_beside_a_hundred_other_routes() {
    let (groups, _) = rows::all();
    let predicates: Vec<Predicate> =
        groups.iter().map(|group| predicate(group.filter.clone())).collect();
    let count = groups.len();
    assert!(count > 2 * BESIDE);
    // Taken from all over the file, so that many kinds of conditions stand beside each other.
    let stride = count / (BESIDE + 1);
    let (mut asked, mut wrong) = (0, Vec::new());
    for first in 0..stride {
        let members: Vec<usize> = (first..count).step_by(stride).collect();
        assert!(members.len() > BESIDE);
        let mut index = Routes::default();
        for id in &members {
            index.insert(*id as u32, &predicates[*id]);
        }
        for id in &members {
            for row in &groups[*id].rows {
                asked += 1;
                let document = raw(&row.document);
                let found = distinct(&index, &document);
                let verdict = found.contains(&(*id as u32)) && predicates[*id].matches(&document);
                if Some(verdict) != row.matches {
                    wrong.push(format!("line {}: {verdict}: {}", row.line, groups[*id].filter));
                }
            }
        }
    }
    assert_eq!(asked, groups.iter().map(|group| group.rows.len()).sum::<usize>());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The same filter with a placeholder for each value that is compared. No list: one would be a choice.
fn open(key: &str, value: &Bson, values: &mut Vec<Option<Owned>>) -> Bson {
    let mut each = |document: &Document| -> Document {
        document.iter().map(|(key, value)| (key.clone(), open(key, value, values))).collect()
    };
    match value {
        Bson::Document(inner) if ["$elemMatch", "$not"].contains(&key) => each(inner).into(),
        Bson::Document(inner)
            if !key.starts_with('$')
                && inner.keys().next().is_some_and(|it| it.starts_with('$')) =>
        {
            each(inner).into()
        }
        Bson::Array(branches) if ["$and", "$or", "$nor"].contains(&key) => {
            let branches = branches.iter().filter_map(Bson::as_document);
            Bson::Array(branches.map(|branch| each(branch).into()).collect())
        }
        Bson::Document(_) | Bson::Array(_) | Bson::RegularExpression(_) => value.clone(),
        value
            if !key.starts_with('$')
                || ["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"].contains(&key) =>
        {
            values.push(Some(Owned::from_bson(value)));
            doc! { "$param": (values.len() - 1).to_string() }.into()
        }
        value => value.clone(),
    }
}

fn place_of(placeholder: &Placeholder) -> Option<usize> {
    let Placeholder::Param(number) = placeholder else { return None };
    number.parse().ok()
}

/// Every row with its values beside a condition that clients share: as with the values in it.
#[test]
fn a_shared_condition_decides_as_one_of_its_own() {
    let (groups, _) = rows::all();
    let (mut shared, mut wrong) = (0, Vec::new());
    for group in &groups {
        let mut values = Vec::new();
        let opened = open("$and", &vec![group.filter.clone()].into(), &mut values);
        let opened = opened.as_array().and_then(|branches| branches[0].as_document()).unwrap();
        let template = Template::parse(opened).unwrap_or_else(|e| panic!("{opened}: {e:?}"));
        let bind = || template.bind_values(BoundValues::new(values.clone()), &place_of);
        let (one, other, literal) = (bind(), bind(), predicate(group.filter.clone()));
        shared += usize::from(!values.is_empty() && std::ptr::eq(one.root(), other.root()));
        assert_eq!(one.query().to_string(), literal.query().to_string(), "{}", group.filter);
        assert_eq!(describe(&one), describe(&literal), "{}", group.filter);
        let mut index = Index::new();
        index.insert(1, &one);
        for row in &group.rows {
            let document = raw(&row.document);
            let verdict = one.matches(&document) && candidates(&index, &row.document) == [1];
            let agrees = one.matches_key(&document) == literal.matches_key(&document)
                && one.objection(&document) == literal.objection(&document);
            if Some(verdict) != row.matches || !agrees {
                wrong.push(format!("line {}: {verdict}, {agrees}: {opened}", row.line));
            }
        }
    }
    assert!(shared > 100, "{shared}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn distinct(index: &Index<u32>, document: &RawDocument) -> BTreeSet<u32> {
    let mut found = Vec::new();
    index.candidates(document, &mut found);
    let set: BTreeSet<u32> = found.iter().copied().collect();
    assert_eq!(set.len(), found.len(), "a candidate twice");
    set
}

/// All filters of the file at once, where documents of others find them, too.
#[test]
fn every_filter_beside_all_other_filters() {
    let (groups, _) = rows::all();
    let mut index = Routes::default();
    let predicates: Vec<Predicate> =
        groups.iter().map(|group| predicate(group.filter.clone())).collect();
    for (id, predicate) in predicates.iter().enumerate() {
        index.insert(id as u32, predicate);
    }
    // Many rows share their documents.
    let mut seen = BTreeSet::new();
    let documents: Vec<RawDocumentBuf> = groups
        .iter()
        .flat_map(|group| &group.rows)
        .map(|row| raw(&row.document))
        .filter(|document| seen.insert(document.as_bytes().to_vec()))
        .collect();
    // Twice: with the many paths of all, and with few.
    for round in 0..2 {
        assert_eq!(index.active_paths > SCANNED_PATHS, round == 0);
        for document in &documents {
            let found = distinct(&index, document);
            for (id, predicate) in predicates.iter().enumerate() {
                let is_there = index.slots.contains_key(&(id as u32));
                if is_there && !found.contains(&(id as u32)) {
                    assert!(!predicate.matches(document), "round {round}: {}", groups[id].filter);
                }
            }
        }
        for (id, group) in groups.iter().enumerate() {
            let is_plain = group.filter.keys().all(|key| key == "a" || key == "a.b");
            if !is_plain {
                index.remove(id as u32);
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
    let mut index = Routes::default();
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
    let mut index = Routes::default();
    for id in 0..100_u32 {
        let mine = id as i32;
        index.insert(id, &predicate(doc! { "$or": [{ "owner": mine }, { "members": mine }] }));
    }
    assert_eq!(candidates(&index, &doc! { "owner": 1, "members": [2, 3, 1, 1] }), [1, 2, 3]);
    assert!(candidates(&index, &doc! { "owner": 200 }).is_empty());
}

#[test]
fn ranges_and_existence() {
    let mut index = Routes::default();
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
    let mut index = Routes::default();
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
            index.remove(id);
        }
        if round % 100 == 0 {
            candidates(&index, &doc! { "a": [1, 2, Bson::Null], "b": 1 });
        }
    }
    for id in 0..40 {
        index.remove(id);
    }
    assert!(index.is_empty() && index.equal.is_empty() && index.always.is_empty());
    assert!(index.null_paths.is_empty() && index.path_numbers.is_empty());
    assert!(index.by_first_part.is_empty() && index.active_paths == 0);
}

// There may be a million routes, and most have one term.
#[test]
fn what_is_kept_of_a_route_is_small() {
    assert_eq!(size_of::<Filed>(), 24);
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
    assert_eq!(describe(doc! { "a": { "$ne": 1 } }), "evaluated for every document");
    assert_eq!(describe(doc! { "a": { "$in": [] } }), "no document can match");
}
