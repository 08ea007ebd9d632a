//! Why a document does not match: the first condition that fails, and the values that it saw.
//!
//! For authors of filters (`explain`, examples). Events are evaluated by [`super::eval`], which
//! this uses for every verdict, so that the two cannot disagree.

use bson::RawDocument;

use super::Predicate;
use super::eval::{self, BoundNode, BoundTest, Subject};
use super::node::{Node, Set, Test};
use super::operator::Operator;
use super::path::{Leaf, Path};
use super::value::compare::Comparison;
use super::value::write::Writer;
use super::values::BoundValues;
use crate::event::json::write_relaxed_document;
use crate::event::raw::{Elements, Value};

/// So many values of a list are shown.
const MAX_SHOWN: usize = 5;
/// A longer value is cut, in characters.
const MAX_CHARS: usize = 200;

/// A condition that says no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Objection {
    /// In the query language, as JSON: `{"status":"paid"}`.
    pub condition: String,
    /// The values at its path, as relaxed Extended JSON; none where the field is missing.
    pub saw: Vec<String>,
    /// Whether it is about the values of one field, so that `saw` says something.
    pub is_of_field: bool,
    /// Of an `$or`, what each of its branches has against the document.
    pub branches: Vec<Objection>,
}

impl Predicate {
    /// The first condition that says no to a document; `None` where it matches.
    pub fn objection(&self, document: &RawDocument) -> Option<Objection> {
        objection(&self.root, &self.values, Value::document(document))
    }
}

fn objection(node: &BoundNode, bound: &BoundValues, document: Value<'_>) -> Option<Objection> {
    if eval::holds(node, bound, Subject::Fields(document)) {
        return None;
    }
    let condition = condition(node, bound);
    Some(match node {
        Node::And(nodes) => return nodes.iter().find_map(|node| objection(node, bound, document)),
        Node::Or(nodes) => {
            let branches =
                nodes.iter().filter_map(|node| objection(node, bound, document)).collect();
            Objection { condition, saw: Vec::new(), is_of_field: false, branches }
        }
        node => {
            let path = path_of(node);
            let saw = path.map(|path| values_at(path, document)).unwrap_or_default();
            Objection { condition, saw, is_of_field: path.is_some(), branches: Vec::new() }
        }
    })
}

fn path_of(node: &BoundNode) -> Option<&Path> {
    match node {
        Node::Field { path, .. } | Node::All { path, .. } => Some(path),
        Node::Not(inner) => path_of(inner),
        _ => None,
    }
}

fn values_at(path: &Path, document: Value<'_>) -> Vec<String> {
    let mut values = Vec::new();
    path.any(Elements::new(document.data), Leaf::Whole, &mut |value| {
        values.extend(value.map(json));
        values.len() >= MAX_SHOWN
    });
    values
}

/// A condition as JSON.
fn condition(node: &BoundNode, bound: &BoundValues) -> String {
    match node {
        Node::Constant(verdict) => {
            format!("{{\"$always{}\":1}}", if *verdict { "True" } else { "False" })
        }
        Node::And(nodes) => listed("$and", nodes, bound),
        Node::Or(nodes) => listed("$or", nodes, bound),
        Node::Field { path, test } => of_field(path, &operator(test, bound)),
        Node::All { path, members } => of_field(path, &format!("{{\"$all\":{}}}", set(members))),
        Node::Expression(_) => "{\"$expr\":…}".to_owned(),
        Node::Schema(_) => "{\"$jsonSchema\":…}".to_owned(),
        Node::Not(inner) => match inner.as_ref() {
            Node::Field { path, test: Test::Compare(Comparison::Equal, value) } => {
                of_field(path, &format!("{{\"$ne\":{}}}", json(value.get(bound))))
            }
            Node::Field { path, test: Test::In(members) } => {
                of_field(path, &format!("{{\"$nin\":{}}}", set(members)))
            }
            Node::Field { path, test: Test::Operator(Operator::Exists) } => {
                of_field(path, "{\"$exists\":false}")
            }
            Node::Field { path, test } => {
                of_field(path, &format!("{{\"$not\":{}}}", operator(test, bound)))
            }
            Node::Or(nodes) => listed("$nor", nodes, bound),
            inner => format!("{{\"$nor\":[{}]}}", condition(inner, bound)),
        },
    }
}

fn listed(operator: &str, nodes: &[BoundNode], bound: &BoundValues) -> String {
    let mut shown: Vec<String> =
        nodes.iter().take(MAX_SHOWN).map(|node| condition(node, bound)).collect();
    if nodes.len() > MAX_SHOWN {
        shown.push("…".to_owned());
    }
    format!("{{\"{operator}\":[{}]}}", shown.join(","))
}

/// Without a path it is about a value itself, inside `$elemMatch`.
fn of_field(path: &Path, operator: &str) -> String {
    if path.parts().is_empty() {
        return operator.to_owned();
    }
    format!("{{{}:{operator}}}", serde_json::Value::String(path.dotted()))
}

fn operator(test: &BoundTest, bound: &BoundValues) -> String {
    let compared = |operator: &str, value: Value<'_>| format!("{{\"{operator}\":{}}}", json(value));
    match test {
        Test::Compare(Comparison::Equal, value) => json(value.get(bound)),
        Test::Compare(Comparison::Less, value) => compared("$lt", value.get(bound)),
        Test::Compare(Comparison::LessOrEqual, value) => compared("$lte", value.get(bound)),
        Test::Compare(Comparison::Greater, value) => compared("$gt", value.get(bound)),
        Test::Compare(Comparison::GreaterOrEqual, value) => compared("$gte", value.get(bound)),
        Test::In(members) => format!("{{\"$in\":{}}}", set(members)),
        Test::Operator(operator) => operator.text(),
        Test::ElementDocument(node) | Test::ElementValue(node) => {
            format!("{{\"$elemMatch\":{}}}", condition(node, bound))
        }
    }
}

fn set(members: &Set) -> String {
    let values = members.values().iter().map(|value| json(value.get()));
    let regexes = members.regexes().iter().map(|regex| format!("/{}/", regex.source()));
    let mut shown: Vec<String> = values.chain(regexes).take(MAX_SHOWN + 1).collect();
    if shown.len() > MAX_SHOWN {
        shown[MAX_SHOWN] = "…".to_owned();
    }
    format!("[{}]", shown.join(","))
}

/// A value as relaxed Extended JSON, cut where it is long.
fn json(value: Value<'_>) -> String {
    const NAME: &str = "{\"v\":";
    let mut holder = Writer::document();
    holder.element(b"v", value);
    let mut text = Vec::new();
    write_relaxed_document(&holder.finish(), &mut text);
    let text = String::from_utf8_lossy(&text);
    let text = text.strip_prefix(NAME).and_then(|text| text.strip_suffix('}')).unwrap_or("null");
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use bson::{doc, rawdoc};

    use super::super::Template;
    use super::*;

    fn predicate(conditions: bson::Document) -> Predicate {
        Template::parse(&conditions).unwrap().bind(&mut |_| None)
    }

    #[test]
    fn the_first_condition_that_says_no() {
        let document = rawdoc! { "status": "new", "total": 3, "tags": ["a", "b"], "items": [{ "n": 1 }, { "n": 2 }] };
        let rows = [
            (doc! { "total": 3, "status": "paid" }, "{\"status\":\"paid\"}", vec!["\"new\""]),
            (
                doc! { "status": { "$regex": "^P", "$options": "si" } },
                "{\"status\":{\"$regex\":\"^P\",\"$options\":\"is\"}}",
                vec!["\"new\""],
            ),
            (
                doc! { "total": { "$type": ["string", "date"] } },
                "{\"total\":{\"$type\":[\"string\",\"date\"]}}",
                vec!["3"],
            ),
            (
                doc! { "total": { "$bitsAllSet": 6 } },
                "{\"total\":{\"$bitsAllSet\":[1,2]}}",
                vec!["3"],
            ),
            (doc! { "total": { "$gte": 1, "$lt": 3 } }, "{\"total\":{\"$lt\":3}}", vec!["3"]),
            (doc! { "owner": "ada" }, "{\"owner\":\"ada\"}", vec![]),
            (
                doc! { "status": { "$ne": "new" } },
                "{\"status\":{\"$ne\":\"new\"}}",
                vec!["\"new\""],
            ),
            (
                doc! { "status": { "$in": ["b", "a"] } },
                "{\"status\":{\"$in\":[\"a\",\"b\"]}}",
                vec!["\"new\""],
            ),
            (
                doc! { "status": { "$nin": ["new"] } },
                "{\"status\":{\"$nin\":[\"new\"]}}",
                vec!["\"new\""],
            ),
            (
                doc! { "tags": { "$all": ["a", "c"] } },
                "{\"tags\":{\"$all\":[\"a\",\"c\"]}}",
                vec!["[\"a\",\"b\"]"],
            ),
            (doc! { "items.n": 5 }, "{\"items.n\":5}", vec!["1", "2"]),
            (
                doc! { "items": { "$elemMatch": { "n": { "$gt": 2 } } } },
                "{\"items\":{\"$elemMatch\":{\"n\":{\"$gt\":2}}}}",
                vec!["[{\"n\":1},{\"n\":2}]"],
            ),
            (
                doc! { "status": { "$exists": false } },
                "{\"status\":{\"$exists\":false}}",
                vec!["\"new\""],
            ),
            (
                doc! { "status": { "$regex": "^p" } },
                "{\"status\":{\"$regex\":\"^p\"}}",
                vec!["\"new\""],
            ),
            (
                doc! { "status": { "$not": { "$regex": "^n" } } },
                "{\"status\":{\"$not\":{\"$regex\":\"^n\"}}}",
                vec!["\"new\""],
            ),
            (doc! { "$expr": { "$gt": ["$total", 5] } }, "{\"$expr\":…}", vec![]),
            (doc! { "$nor": [{ "total": 3 }] }, "{\"total\":{\"$ne\":3}}", vec!["3"]),
        ];
        for (conditions, condition, saw) in rows {
            let found = predicate(conditions.clone()).objection(&document).unwrap();
            assert_eq!(
                (found.condition.as_str(), &found.saw),
                (condition, &saw.iter().map(ToString::to_string).collect()),
                "{conditions}"
            );
        }
        let either = predicate(doc! { "$or": [{ "status": "paid" }, { "total": 5 }] });
        let branches = either.objection(&document).unwrap().branches;
        assert_eq!(
            branches.iter().map(|branch| branch.saw[0].as_str()).collect::<Vec<_>>(),
            ["\"new\"", "3"]
        );
        assert_eq!(predicate(doc! { "status": "new" }).objection(&document), None);
    }
}
