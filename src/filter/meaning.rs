//! What a filter file means, as one number: equal for texts that differ only in comments, layout,
//! description, what is said by a default anyway, or an order that says nothing.
//!
//! What is known to the parser counts as it was understood, the rest as it is written. So two texts
//! of one meaning may get two numbers, but two meanings never get one, but for a collision of 64
//! bits.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::params::Param;
use super::{Access, FullDocument, FullDocumentBeforeChange, Namespace, Operations, Params};
use crate::matcher::projection::Projection;
use crate::yaml::{Entry, Node, NodeKind, Typed};

/// Keys of the file that say nothing about what is sent, and those that count as they were
/// understood, with their defaults.
const APART: [&str; 10] = [
    "description",
    "examples",
    "collection",
    "operations",
    "fullDocument",
    "fullDocumentBeforeChange",
    "match",
    "project",
    "params",
    "access",
];

/// What was understood of [`APART`].
pub(super) struct Understood<'a> {
    pub namespace: &'a Namespace,
    pub operations: Operations,
    pub full_document: FullDocument,
    pub before_image: FullDocumentBeforeChange,
    /// See [`crate::matcher::Template::meaning`].
    pub matching: u64,
    pub projection: Option<&'a Projection>,
    pub params: &'a Params,
    pub access: Option<&'a Access>,
}

impl Understood<'_> {
    fn hash(&self, hasher: &mut DefaultHasher) {
        self.namespace.hash(hasher);
        self.operations.hash(hasher);
        (self.full_document, self.before_image, self.matching).hash(hasher);
        // A tree of names in their order, whatever the order in the file.
        format!("{:?}", self.projection).hash(hasher);
        let mut params: Vec<String> = self.params.iter().map(declared).collect();
        params.sort_unstable();
        params.hash(hasher);
        match self.access {
            None => 0.hash(hasher),
            Some(Access::Public) => 1.hash(hasher),
            Some(Access::Authenticated) => 2.hash(hasher),
            Some(Access::Match(rule)) => (3, rule.template.meaning()).hash(hasher),
        }
    }
}

/// A parameter, with its defaults; the values of an `enum` and of a default are sets.
fn declared(param: &Param) -> String {
    let mut json = param.to_json();
    for key in ["enum", "default"] {
        if let Some(values) = json.get_mut(key).and_then(|values| values.as_array_mut()) {
            values.sort_by_cached_key(ToString::to_string);
            values.dedup();
        }
    }
    format!("{}: {json}", param.name)
}

/// Of this process only: not for storing.
pub(super) fn digest(root: &Node, understood: &Understood<'_>) -> u64 {
    let mut text = String::new();
    let entries = root.entries().unwrap_or_default().iter();
    let counted = entries.filter(|entry| !APART.contains(&entry.key.as_str()));
    for entry in sorted(counted.filter(|entry| !is_empty(&entry.value))) {
        write_entry(entry, &mut text);
    }
    let mut hasher = DefaultHasher::new();
    understood.hash(&mut hasher);
    text.hash(&mut hasher);
    hasher.finish()
}

/// A switch that is off might as well not be there.
fn is_empty(node: &Node) -> bool {
    match &node.kind {
        NodeKind::Mapping(entries) => entries.is_empty(),
        NodeKind::Scalar(scalar) => matches!(scalar.typed(), Ok(Typed::Bool(false))),
        NodeKind::Sequence(_) => false,
    }
}

fn write(node: &Node, out: &mut String) {
    match &node.kind {
        NodeKind::Scalar(scalar) => match scalar.typed() {
            Ok(typed) => out.push_str(&format!("{typed:?}")),
            Err(_) => out.push_str(&format!("{:?}", scalar.text)),
        },
        NodeKind::Sequence(items) => {
            out.push('[');
            for item in items {
                write(item, out);
                out.push(',');
            }
            out.push(']');
        }
        NodeKind::Mapping(entries) => {
            out.push('{');
            sorted(entries.iter()).for_each(|entry| write_entry(entry, out));
            out.push('}');
        }
    }
}

fn write_entry(entry: &Entry, out: &mut String) {
    out.push_str(&format!("{:?}:", entry.key));
    write(&entry.value, out);
    out.push(',');
}

fn sorted<'t>(entries: impl Iterator<Item = &'t Entry>) -> impl Iterator<Item = &'t Entry> {
    let mut sorted: Vec<&Entry> = entries.collect();
    sorted.sort_by(|a, b| a.key.cmp(&b.key));
    sorted.into_iter()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    fn meaning(text: &str) -> u64 {
        match super::super::parse_filter("orders", Path::new("orders.yaml"), text) {
            Ok(filter) => filter.meaning,
            Err(diagnostics) => panic!("{text}\n{diagnostics:?}"),
        }
    }

    const FILE: &str = "collection: shop.orders\naccess: public\n\
        match: { a: { $gte: 1, $lt: 5 }, b: { x: 1, y: 2 }, $or: [{ c: 1, d: 2 }, { e: { $param: p } }] }\n\
        params: { p: { type: int, min: 1 } }\n";

    #[test]
    fn texts_of_one_meaning_have_one_number() {
        for same in [
            FILE.to_owned(),
            format!("# said before\n{FILE}# and after\n"),
            format!("{FILE}description: of what customers do\n"),
            format!("{FILE}operations: [delete, update, insert, replace]\nfullDocument: updateLookup\n"),
            format!("{FILE}fullDocumentBeforeChange: off\nproject: {{}}\n"),
            FILE.replace("min: 1", "min: 1, required: true"),
            "params:\n  p:\n    min: 1\n    type: 'int'\nmatch:\n  $or:\n    - e: { $param: p }\n    \
             - d: 2\n      c: 1\n  b: { x: 1, y: 2 }\n  a: { $lt: 5, $gte: 1 }\naccess: \"public\"\n\
             collection: shop.orders\n"
                .to_owned(),
        ] {
            assert_eq!(meaning(FILE), meaning(&same), "{same}");
        }
    }

    #[test]
    fn other_meanings_have_other_numbers() {
        for (what, instead) in [
            ("shop.orders", "shop.bills"),
            ("$lt: 5", "$lte: 5"),
            ("$lt: 5", "$lt: 5.0"),
            ("$lt: 5", "$lt: '5'"),
            // A document that is compared as a value has an order.
            ("{ x: 1, y: 2 }", "{ y: 2, x: 1 }"),
            ("min: 1", "min: 2"),
            ("min: 1", "min: 1, required: false"),
            ("access: public", "access: authenticated"),
            ("access: public", "access: { match: { a: 1 } }"),
            ("access: public", "access: public\nproject: { a: 1 }"),
            (
                "access: public",
                "access: public\nfullDocumentBeforeChange: required\nsnapshot: true",
            ),
            ("access: public", "access: public\nfullDocument: default"),
            ("access: public", "access: public\noperations: [insert, update]"),
        ] {
            assert!(FILE.contains(what));
            assert_ne!(meaning(FILE), meaning(&FILE.replace(what, instead)), "{instead}");
        }
    }

    /// What stands in one file under `match`, with its meaning.
    fn of_match(conditions: &str) -> u64 {
        let params =
            ["p", "q"].into_iter().filter(|name| conditions.contains(&format!("$param: {name}")));
        let params: Vec<String> = params.map(|name| format!("{name}: {{ type: int }}")).collect();
        meaning(&format!(
            "collection: shop.orders\naccess: authenticated\nmatch: {conditions}\nparams: {{ {} }}\n",
            params.join(", ")
        ))
    }

    #[test]
    fn conditions_written_in_other_words_have_one_number() {
        for row in [
            &[
                "{ a: 1 }",
                "{ a: { $eq: 1 } }",
                "{ $and: [{ a: 1 }] }",
                "{ $or: [{ a: 1 }] }",
                "{ a: 1, $comment: why }",
                "{ $and: [{ a: 1 }, { a: 1 }] }",
                "{ a: { $numberInt: '1' } }",
            ][..],
            &["{}", "{ $and: [{}] }", "{ $comment: all }"],
            &[
                "{ a: { $in: [1, 2, 3] } }",
                "{ a: { $in: [3, 1, 2] } }",
                "{ a: { $in: [1, 2, 2, 3, 1] } }",
            ],
            &[
                "{ a: { $nin: [1, 2] } }",
                "{ a: { $nin: [2, 1, 1] } }",
                "{ a: { $not: { $in: [2, 1] } } }",
            ],
            &["{ a: { $all: [1, 2] } }", "{ a: { $all: [2, 1] } }"],
            &[
                "{ a: { $in: [{ $param: p }, { $param: q }] } }",
                "{ a: { $in: [{ $param: q }, { $param: p }] } }",
            ],
            &[
                "{ a: { $gt: 1, $lt: 9 } }",
                "{ a: { $lt: 9, $gt: 1 } }",
                "{ $and: [{ a: { $gt: 1 } }, { a: { $lt: 9 } }] }",
            ],
            &["{ a: 1, b: 2, c: 3 }", "{ c: 3, $and: [{ b: 2 }, { $and: [{ a: 1 }] }] }"],
            &[
                "{ $or: [{ a: 1 }, { b: 2 }, { c: 3 }] }",
                "{ $or: [{ c: 3 }, { $or: [{ b: 2 }, { a: 1 }] }] }",
            ],
            &[
                "{ $nor: [{ a: 1 }, { b: 2 }] }",
                "{ $nor: [{ b: 2 }, { a: 1 }] }",
                "{ $and: [{ $nor: [{ a: 1 }] }, { $nor: [{ b: 2 }] }] }",
                "{ a: { $ne: 1 }, b: { $ne: 2 } }",
            ],
            &[
                "{ a: { $elemMatch: { b: 1, c: { $in: [1, 2] } } } }",
                "{ a: { $elemMatch: { c: { $in: [2, 1] }, b: 1 } } }",
            ],
            &["{ a: { $type: [int, string] } }", "{ a: { $type: [string, int] } }"],
            &["{ a: { $exists: true } }", "{ a: { $exists: 1 } }"],
            &["{ $expr: { $gt: [$a, $b] }, c: 1 }", "{ c: 1, $expr: { $gt: [$a, $b] } }"],
        ] {
            for same in row {
                assert_eq!(of_match(row[0]), of_match(same), "{same}");
            }
        }
    }

    #[test]
    fn where_order_or_number_says_something_it_counts() {
        for (one, other) in [
            ("{ a: { x: 1, y: 2 } }", "{ a: { y: 2, x: 1 } }"),
            ("{ a: { $in: [{ x: 1, y: 2 }] } }", "{ a: { $in: [{ y: 2, x: 1 }] } }"),
            ("{ a: { $all: [{ x: 1, y: 2 }] } }", "{ a: { $all: [{ y: 2, x: 1 }] } }"),
            (
                "{ a: { $elemMatch: { b: { x: 1, y: 2 } } } }",
                "{ a: { $elemMatch: { b: { y: 2, x: 1 } } } }",
            ),
            // One element, or two.
            ("{ a: { $elemMatch: { b: 1, c: 1 } } }", "{ a.b: 1, a.c: 1 }"),
            ("{ a: [1, 2] }", "{ a: [2, 1] }"),
            ("{ a: [1, 1] }", "{ a: [1] }"),
            ("{ a: { $in: [[1, 2]] } }", "{ a: { $in: [[2, 1]] } }"),
            ("{ a: { $in: [1, 2] } }", "{ a: { $all: [1, 2] } }"),
            ("{ a: { $in: [1, 2] } }", "{ a: { $in: [1, 2, 3] } }"),
            ("{ a: { $in: [1, 2] } }", "{ a: { $nin: [1, 2] } }"),
            ("{ a: { $mod: [4, 1] } }", "{ a: { $mod: [1, 4] } }"),
            ("{ a: 1, b: 2 }", "{ a: 2, b: 1 }"),
            ("{ a: 1, b: 2 }", "{ $or: [{ a: 1 }, { b: 2 }] }"),
            ("{ $or: [{ a: 1, b: 2 }, { c: 3 }] }", "{ $or: [{ a: 1 }, { b: 2, c: 3 }] }"),
            ("{ $or: [{ a: 1 }, {}] }", "{ a: 1 }"),
            ("{ $nor: [{ a: 1, b: 2 }] }", "{ $nor: [{ a: 1 }, { b: 2 }] }"),
            ("{ $nor: [{ a: 1 }] }", "{ a: 1 }"),
            ("{ a: { $param: p } }", "{ a: { $claim: p } }"),
            ("{ a: { $claim: c } }", "{ a: { $claim: c, type: objectId } }"),
            ("{ $expr: { $gt: [$a, $b] } }", "{ $expr: { $gt: [$b, $a] } }"),
            // An expression that fails makes the whole filter false, if it is come to.
            (
                "{ $or: [{ c: 1 }, { $expr: { $gt: [{ $divide: [1, $a] }, 1] } }] }",
                "{ $or: [{ $expr: { $gt: [{ $divide: [1, $a] }, 1] } }, { c: 1 }] }",
            ),
            (
                "{ a: { $regularExpression: { pattern: b, options: i } } }",
                "{ a: { $regularExpression: { pattern: b, options: '' } } }",
            ),
        ] {
            assert_ne!(of_match(one), of_match(other), "{one} {other}");
        }
    }

    #[test]
    fn declarations_are_sets_where_their_order_says_nothing() {
        let of = |access: &str, rest: &str| {
            meaning(&format!("collection: shop.orders\naccess: {access}\n{rest}"))
        };
        let list = |params: &str| {
            of(
                "public",
                &format!("match: {{ a: {{ $in: {{ $param: p }} }} }}\nparams: {{ p: {params} }}\n"),
            )
        };
        let whole = "{ type: [string], enum: [a, b], default: [b, a] }";
        for same in [
            "{ enum: [b, a], default: [a, b], type: [string] }",
            "{ type: [string], enum: [a, b], default: [b, a], required: false }",
        ] {
            assert_eq!(list(whole), list(same), "{same}");
        }
        for other in [
            "{ type: [string], enum: [a, b] }",
            "{ type: [string], enum: [a, b, c], default: [a, b] }",
        ] {
            assert_ne!(list(whole), list(other), "{other}");
        }
        let two = "match: { a: { $param: p }, b: { $param: q } }\n";
        let params = ["p: { type: int }", "q: { type: string }"];
        let declared = |params: [&str; 2]| format!("{two}params: {{ {} }}\n", params.join(", "));
        assert_eq!(
            of("public", &declared(params)),
            of("public", &declared([params[1], params[0]]))
        );
        let access = |conditions: &str| of(&format!("{{ match: {conditions} }}"), "");
        assert_eq!(
            access("{ role: { $in: [a, b] }, x: 1 }"),
            access("{ x: 1, role: { $in: [b, a] } }")
        );
        assert_ne!(access("{ role: { $in: [a, b] } }"), access("{ role: { $in: [a, c] } }"));
        let project = |project: &str| of("public", &format!("project: {project}\n"));
        for same in ["{ b: 1, a: 1 }", "{ a: true, b: 1 }", "{ a: 1, b: 1, _id: 1 }"] {
            assert_eq!(project("{ a: 1, b: 1 }"), project(same), "{same}");
        }
        for other in ["{ a: 1 }", "{ a: 0, b: 0 }", "{ a: 1, b: 1, _id: 0 }", "{ a.b: 1 }"] {
            assert_ne!(project("{ a: 1, b: 1 }"), project(other), "{other}");
        }
    }
}
