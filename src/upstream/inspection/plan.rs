//! How MongoDB executes the `find` of a snapshot: with which index, how many documents, how long.

use std::time::Duration;

use bson::{Bson, Document, doc};
use mongodb::Client;
use mongodb::error::Error;

use super::{command, limits, whole};

/// What `explain` says of a `find`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The indexes that it goes by.
    pub indexes: Vec<String>,
    /// Whether every document of the collection is looked at.
    pub reads_all: bool,
    /// Whether the collection has a default collation, which an index would get and snapshots do not use.
    pub has_collation: bool,
    /// Where the query was carried out, too.
    pub run: Option<Run>,
}

/// What running the query took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Found.
    pub documents: u64,
    /// Looked at.
    pub examined: u64,
    pub time: Duration,
}

impl Plan {
    /// In words: how many documents, and how long it took.
    pub fn cost(&self) -> Option<String> {
        let Run { documents, examined, time } = self.run?;
        let noun = if documents == 1 { "document" } else { "documents" };
        let looked = if examined > documents { format!(" of {examined}") } else { String::new() };
        Some(format!("{documents} {noun}{looked} in {} ms", time.as_millis()))
    }

    /// By which index.
    pub fn way(&self) -> String {
        match (self.reads_all, self.indexes.as_slice()) {
            (true, _) => "no index: the whole collection is read".to_owned(),
            (false, []) => "nothing: there can be no such document".to_owned(),
            (false, indexes) => format!("the index {}", indexes.join(", ")),
        }
    }
}

/// Asks for the plan, and with `most_time` also carries the query out, for at most so long.
///
/// # Errors
/// Those of the driver.
pub(super) async fn explain(
    client: &Client,
    (database, collection): (&str, &str),
    query: &Document,
    most_time: Option<Duration>,
) -> Result<Plan, Error> {
    let mut find = doc! {
        "find": collection,
        "filter": query.clone(),
        // As the snapshot asks.
        "collation": { "locale": "simple" },
    };
    let mut explain = doc! { "verbosity": "queryPlanner", "maxTimeMS": limits::max_time_millis() };
    if let Some(time) = most_time {
        let milliseconds = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        find.insert("maxTimeMS", milliseconds);
        explain.insert("verbosity", "executionStats");
        explain.insert("maxTimeMS", milliseconds);
    }
    let mut asked = doc! { "explain": find };
    asked.extend(explain);
    command(client, database, asked).await.map(|answer| read(&answer))
}

fn read(answer: &Document) -> Plan {
    let mut plan = Plan::default();
    // A sharded cluster's has one of each shard within.
    if let Some(chosen) =
        answer.get_document("queryPlanner").ok().and_then(|it| it.get("winningPlan"))
    {
        walk(chosen, &mut plan);
    }
    plan.indexes.sort();
    plan.indexes.dedup();
    plan.run = answer.get_document("executionStats").ok().and_then(|stats| {
        Some(Run {
            documents: whole(stats, "nReturned")?,
            examined: whole(stats, "totalDocsExamined")?,
            time: Duration::from_millis(whole(stats, "executionTimeMillis")?),
        })
    });
    plan
}

/// Plans are stages within stages, under names that differ between versions.
fn walk(plan: &Bson, found: &mut Plan) {
    match plan {
        Bson::Document(stage) => {
            match stage.get_str("stage") {
                Ok("COLLSCAN") => found.reads_all = true,
                Ok("IDHACK" | "CLUSTERED_IXSCAN" | "EXPRESS_IXSCAN") => {
                    let name = stage.get_str("indexName").unwrap_or("_id_");
                    found.indexes.push(name.to_owned());
                }
                Ok(_) => {
                    found.indexes.extend(stage.get_str("indexName").ok().map(str::to_owned));
                }
                Err(_) => {}
            }
            stage.values().for_each(|inner| walk(inner, found));
        }
        Bson::Array(stages) => stages.iter().for_each(|inner| walk(inner, found)),
        _ => {}
    }
}

/// The keys of indexes that would carry a query: one, or one for each branch of an `$or`. Fields that
/// are asked to equal something come first, then one that is asked for a range.
pub fn helpful_indexes(query: &Document) -> Vec<Document> {
    let (mut equal, mut ranges, mut branches) = (Vec::new(), Vec::new(), Vec::new());
    conditions(query, &mut equal, &mut ranges, &mut branches);
    equal.extend(ranges.into_iter().take(1));
    let mut keys = Document::new();
    for field in equal {
        keys.insert(field, 1);
    }
    if !keys.is_empty() {
        return vec![keys];
    }
    let mut all: Vec<Document> = Vec::new();
    for keys in branches.into_iter().flat_map(helpful_indexes) {
        if !all.contains(&keys) {
            all.push(keys);
        }
    }
    all
}

fn conditions<'q>(
    query: &'q Document,
    equal: &mut Vec<&'q str>,
    ranges: &mut Vec<&'q str>,
    branches: &mut Vec<&'q Document>,
) {
    for (key, value) in query {
        match (key.as_str(), value) {
            ("$and", Bson::Array(all)) => {
                for one in all.iter().filter_map(Bson::as_document) {
                    conditions(one, equal, ranges, branches);
                }
            }
            ("$or", Bson::Array(all)) => branches.extend(all.iter().filter_map(Bson::as_document)),
            (field, Bson::Document(test)) => {
                let is_equality = ["$eq", "$in", "$all"].iter().any(|it| test.contains_key(it));
                if is_equality { equal.push(field) } else { ranges.push(field) }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equalities_come_before_a_range() {
        let rows = [
            (doc! {}, vec![]),
            (doc! { "a": { "$eq": 1 } }, vec![doc! { "a": 1 }]),
            (
                doc! { "$and": [{ "t": { "$gte": 0 } }, { "s": { "$in": [1] } }, { "u": { "$lt": 3 } }] },
                vec![doc! { "s": 1, "t": 1 }],
            ),
            (
                doc! { "$and": [{ "t": { "$gte": 0 } }, { "t": { "$lt": 9 } }] },
                vec![doc! { "t": 1 }],
            ),
            (
                doc! { "$or": [{ "a": { "$eq": 1 } }, { "b": { "$eq": 1 } }, { "a": { "$eq": 2 } }] },
                vec![doc! { "a": 1 }, doc! { "b": 1 }],
            ),
        ];
        for (query, expected) in rows {
            assert_eq!(helpful_indexes(&query), expected, "{query}");
        }
    }

    #[test]
    fn plans_of_several_versions() {
        let classic = doc! { "queryPlanner": { "winningPlan": { "stage": "FETCH", "inputStage": {
        "stage": "IXSCAN", "indexName": "a_1" } } } };
        let slots = doc! { "queryPlanner": { "winningPlan": { "queryPlan": { "stage": "FETCH",
        "inputStage": { "stage": "IXSCAN", "indexName": "a_1" } }, "slotBasedPlan": {} } } };
        for answer in [classic, slots] {
            let plan = read(&answer);
            assert_eq!((plan.indexes, plan.reads_all), (vec!["a_1".to_owned()], false));
        }
        let either = doc! { "queryPlanner": { "winningPlan": { "stage": "SUBPLAN", "inputStages": [
        { "stage": "IXSCAN", "indexName": "a_1" }, { "stage": "COLLSCAN" } ] } },
        "executionStats": { "nReturned": 3, "totalDocsExamined": 9_i64,
            "executionTimeMillis": 2 } };
        let plan = read(&either);
        assert!(plan.reads_all);
        let time = Duration::from_millis(2);
        assert_eq!(plan.run, Some(Run { documents: 3, examined: 9, time }));
        let key = doc! { "queryPlanner": { "winningPlan": { "stage": "IDHACK" } } };
        assert_eq!(read(&key).indexes, ["_id_"]);
    }
}
