//! The rows of `tests/matcher_rows.txt`: filters, documents, and whether they match.
//!
//! ```text
//! # a heading
//! {"a": {"$gt": 1}}
//! + {"a": 2}
//! - {"a": 1}
//! ? {"a": 3}
//! ! {"a": {"$where": "x"}}
//! ```
//!
//! A filter, and under it documents that match (`+`) and documents that do not (`-`), all as
//! Extended JSON; `!` is a filter that is refused. Write `?` where you do not know, and run the
//! `mongod` test with `BLESS=1`: it writes down what the server says.

use bson::{Bson, Document};

pub const TEXT: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/matcher_rows.txt"));

/// One filter with its documents.
#[derive(Debug)]
pub struct Group {
    pub filter: Document,
    pub rows: Vec<Row>,
}

#[derive(Debug)]
pub struct Row {
    /// In the file, from 1 on.
    pub line: usize,
    pub document: Document,
    /// Nothing where the file has `?`.
    pub matches: Option<bool>,
}

/// A filter that is refused.
#[derive(Debug)]
pub struct Refused {
    pub line: usize,
    pub filter: Document,
}

/// The whole file; never empty.
pub fn all() -> (Vec<Group>, Vec<Refused>) {
    let (mut groups, mut refused) = (Vec::<Group>::new(), Vec::new());
    for (index, text) in TEXT.lines().enumerate() {
        let line = index + 1;
        let Some((mark, rest)) = text.split_at_checked(1) else { continue };
        match mark {
            "#" => {}
            "{" => groups.push(Group { filter: document(text, line), rows: Vec::new() }),
            "!" => refused.push(Refused { line, filter: document(rest, line) }),
            "+" | "-" | "?" => {
                let matches = (mark != "?").then_some(mark == "+");
                let row = Row { line, document: document(rest, line), matches };
                groups
                    .last_mut()
                    .unwrap_or_else(|| panic!("line {line}: no filter"))
                    .rows
                    .push(row);
            }
            _ => panic!("line {line}: starts with `{mark}`"),
        }
    }
    assert!(groups.iter().map(|group| group.rows.len()).sum::<usize>() > 500, "rows are missing");
    assert!(!refused.is_empty());
    (groups, refused)
}

fn document(json: &str, line: usize) -> Document {
    let value: serde_json::Value =
        serde_json::from_str(json).unwrap_or_else(|error| panic!("line {line}: {error}"));
    match Bson::try_from(value) {
        Ok(Bson::Document(document)) => document,
        other => panic!("line {line}: {other:?}"),
    }
}
