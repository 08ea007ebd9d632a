//! The filter files that clients listen under, and what each of them has to let through.
//!
//! Conditions look only at what never changes in a document, so that the verdict does not depend
//! on when somebody looked: `updateLookup` gives the document as it is now. One thing remains: an
//! update of a document that is gone by then carries none, and says nothing where the key alone
//! does not decide. [`Later`] knows which these may be.

use std::collections::HashMap;

use crate::history::{Change, Expect, Key, Op};

/// How many values the filters' parameter has.
pub const OWNERS: i64 = 8;
pub const DATABASE: &str = "torture";
/// Dropped as a whole.
pub const DOOMED: &str = "doomed";
/// What the writers write to.
pub const COLLECTIONS: [(&str, &str); 5] = [
    (DATABASE, "orders"),
    (DATABASE, "rooms"),
    (DATABASE, "images"),
    (DATABASE, "victims"),
    (DOOMED, "things"),
];

/// A filter file.
pub struct Stream {
    pub name: &'static str,
    pub text: &'static str,
    pub has_owner: bool,
    pub has_snapshot: bool,
    pub database: &'static str,
    /// `None`: all of the database.
    pub collection: Option<&'static str>,
    decides: Decides,
}

/// By what the filter decides.
enum Decides {
    /// Everything.
    All,
    /// These operations, whatever the document.
    Operations(&'static [Op]),
    /// The key alone.
    Key,
    /// A field of the document; a delete tells none.
    Document,
    /// The same, with the document before the change.
    Images,
}

/// Where those with snapshots begin.
pub const SNAPSHOTS: usize = 7;
pub const STREAMS: [Stream; SNAPSHOTS + 2] = [
    Stream {
        name: "orders",
        text: "collection: torture.orders\naccess: public\n\
               match: { owner: { $param: owner } }\nparams:\n  owner: { type: int }\n",
        has_owner: true,
        has_snapshot: false,
        database: DATABASE,
        collection: Some("orders"),
        decides: Decides::Document,
    },
    Stream {
        name: "rooms",
        text: "collection: torture.rooms\naccess: public\n\
               match: { _id.owner: { $param: owner } }\nparams:\n  owner: { type: int }\n",
        has_owner: true,
        has_snapshot: false,
        database: DATABASE,
        collection: Some("rooms"),
        decides: Decides::Key,
    },
    Stream {
        name: "images",
        text: "collection: torture.images\naccess: public\n\
               fullDocumentBeforeChange: whenAvailable\n\
               match: { owner: { $param: owner } }\nparams:\n  owner: { type: int }\n\
               project: { seq: 1, owner: 1 }\n",
        has_owner: true,
        has_snapshot: false,
        database: DATABASE,
        collection: Some("images"),
        decides: Decides::Images,
    },
    Stream {
        name: "all",
        // Another image mode, and so another cursor: one that reads named collections, and one that
        // reads them all.
        text: "collection: torture.*\naccess: public\nproject: { seq: 1 }\n\
               fullDocument: whenAvailable\n",
        has_owner: false,
        has_snapshot: false,
        database: DATABASE,
        collection: None,
        decides: Decides::All,
    },
    Stream {
        name: "ledger",
        text: "collection: torture.orders\naccess: public\noperations: [insert, delete]\n\
               project: { payload: 0 }\n",
        has_owner: false,
        has_snapshot: false,
        database: DATABASE,
        collection: Some("orders"),
        decides: Decides::Operations(&[Op::Insert, Op::Delete]),
    },
    Stream {
        name: "victims",
        text: "collection: torture.victims\naccess: public\n",
        has_owner: false,
        has_snapshot: false,
        database: DATABASE,
        collection: Some("victims"),
        decides: Decides::All,
    },
    Stream {
        name: "doomed/things",
        text: "collection: doomed.things\naccess: public\n\
               match: { owner: { $param: owner } }\nparams:\n  owner: { type: int }\n",
        has_owner: true,
        has_snapshot: false,
        database: DOOMED,
        collection: Some("things"),
        decides: Decides::Document,
    },
    Stream {
        name: "board",
        text: "collection: torture.images\naccess: public\nsnapshot: true\n\
               fullDocumentBeforeChange: whenAvailable\n\
               match: { owner: { $param: owner } }\nparams:\n  owner: { type: int }\n\
               project: { seq: 1, owner: 1 }\n",
        has_owner: true,
        has_snapshot: true,
        database: DATABASE,
        collection: Some("images"),
        decides: Decides::Images,
    },
    Stream {
        name: "shelf",
        // Of a collection that is dropped and renamed.
        text: "collection: torture.victims\naccess: public\nsnapshot: true\n",
        has_owner: false,
        has_snapshot: true,
        database: DATABASE,
        collection: Some("victims"),
        decides: Decides::All,
    },
];

/// Where in a phase documents and collections ended.
#[derive(Debug, Default)]
pub struct Later {
    deleted: HashMap<Key, String>,
    ended: HashMap<(String, String), String>,
}

impl Later {
    pub fn of(truth: &[Change]) -> Later {
        let mut later = Later::default();
        for change in truth {
            match change.op {
                Op::Delete => {
                    later.deleted.insert(change.key.clone(), change.token.clone());
                }
                Op::Drop | Op::Rename => {
                    let mut end = |collection: &str| {
                        let key = (change.database.clone(), collection.to_string());
                        later.ended.insert(key, change.token.clone());
                    };
                    end(&change.collection);
                    if let Some(to) = &change.to {
                        end(to);
                    }
                }
                _ => {}
            }
        }
        later
    }

    /// Whether whoever looked the document up may have found none.
    fn may_be_gone(&self, change: &Change) -> bool {
        let namespace = (change.database.clone(), change.collection.clone());
        let is_after = |end: &String| *end > change.token;
        self.deleted.get(&change.key).is_some_and(is_after)
            || self.ended.get(&namespace).is_some_and(is_after)
    }
}

impl Stream {
    pub fn target(&self, owner: i64) -> String {
        match self.has_owner {
            true => format!("/_events/{}?owner={owner}", self.name),
            false => format!("/_events/{}", self.name),
        }
    }

    /// Whether a client of this stream has to see this change.
    pub fn expect(&self, owner: i64, change: &Change, later: &Later) -> Expect {
        if change.database != self.database {
            return Expect::Never;
        }
        let is_ours = |name: &str| self.collection.is_none_or(|collection| collection == name);
        if matches!(change.op, Op::Drop | Op::Rename) {
            let is_of_it = is_ours(&change.collection) || change.to.as_deref().is_some_and(is_ours);
            return if is_of_it { Expect::Must } else { Expect::Never };
        }
        if !is_ours(&change.collection) {
            return Expect::Never;
        }
        let must_if = |it: bool| if it { Expect::Must } else { Expect::Never };
        let is_owned = change.key.owner == owner;
        match self.decides {
            Decides::All => Expect::Must,
            Decides::Operations(operations) => must_if(operations.contains(&change.op)),
            Decides::Key => must_if(is_owned),
            Decides::Document | Decides::Images if !is_owned => Expect::Never,
            Decides::Document if change.op == Op::Delete => Expect::Never,
            Decides::Document | Decides::Images => match change.op {
                Op::Update if later.may_be_gone(change) => Expect::May,
                _ => Expect::Must,
            },
        }
    }
}
