//! How a change is sent, depending on the images that came with it. No case may be silent if a
//! client could have the document.

use std::sync::Arc;

use bson::rawdoc;

use super::route::Read;
use super::{DeliveryKind, RouteTable};
use crate::event::ChangeEvent;
use crate::filter::tests::good;

/// What a client of this filter is told of a change of document 1, through the index.
fn told(filter: &str, operation: &str, before: Option<&str>, after: Option<&str>) -> String {
    let filter = Arc::new(good(filter));
    let mut table = RouteTable::new(1 << 20, 16);
    let route = table.join(&filter, filter.bind(&[], None).unwrap(), 0);
    let mut raw = rawdoc! {
        "_id": { "_data": "8200000014000000012B022C0100296E04" },
        "operationType": operation,
        "ns": { "db": "shop", "coll": "orders" },
        "documentKey": { "_id": 1 },
    };
    let document = |status: &str| rawdoc! { "_id": 1, "status": status };
    if let Some(status) = after {
        raw.append(bson::raw::cstr!("fullDocument"), document(status));
    }
    if let Some(status) = before {
        raw.append(bson::raw::cstr!("fullDocumentBeforeChange"), document(status));
    }
    let offer = table.offer(0, Arc::new(ChangeEvent::parse(raw).unwrap()));
    table.hand_out(offer.make());
    match route.read(&mut 0, 16) {
        Read::UpToDate => "nothing".to_owned(),
        Read::Deliveries { found, .. } => match found[0].kind {
            DeliveryKind::Reset(_) => "reset".to_owned(),
            DeliveryKind::Event(_) => {
                let json: serde_json::Value = serde_json::from_slice(&found[0].json).unwrap();
                json["view"].as_str().unwrap_or("sent").to_owned()
            }
        },
        Read::Behind => panic!("kept"),
    }
}

#[test]
fn a_change_is_told_or_is_a_reset_where_a_client_may_have_the_document() {
    const NEW: Option<&str> = Some("new");
    const OLD: Option<&str> = Some("old");
    let conditions = "match: { status: new }\n";
    for (after, before, rows) in [
        // What the server did not keep may have come, stayed or left.
        (
            "whenAvailable",
            "whenAvailable",
            [
                (NEW, NEW, "stay"),
                (NEW, OLD, "leave"),
                (OLD, NEW, "enter"),
                (OLD, OLD, "nothing"),
                (NEW, None, "reset"),
                (OLD, None, "reset"),
                (None, None, "reset"),
                (None, NEW, "sent"),
            ],
        ),
        (
            "required",
            "whenAvailable",
            [
                (NEW, NEW, "stay"),
                (NEW, OLD, "leave"),
                (OLD, NEW, "enter"),
                (OLD, OLD, "nothing"),
                (NEW, None, "reset"),
                (OLD, None, "reset"),
                (None, None, "reset"),
                (None, NEW, "sent"),
            ],
        ),
        // Gone when it was looked up. The delete behind it is judged by its own image.
        (
            "updateLookup",
            "whenAvailable",
            [
                (NEW, NEW, "stay"),
                (NEW, OLD, "leave"),
                (OLD, NEW, "enter"),
                (OLD, OLD, "nothing"),
                (NEW, None, "leave"),
                (OLD, None, "nothing"),
                (None, None, "nothing"),
                (None, NEW, "sent"),
            ],
        ),
        (
            "updateLookup",
            "required",
            [
                (NEW, NEW, "stay"),
                (NEW, OLD, "leave"),
                (OLD, NEW, "enter"),
                (OLD, OLD, "nothing"),
                (NEW, None, "leave"),
                (OLD, None, "nothing"),
                (None, None, "reset"),
                (None, NEW, "reset"),
            ],
        ),
    ] {
        let filter =
            format!("{conditions}fullDocument: {after}\nfullDocumentBeforeChange: {before}\n");
        for (was, is, expected) in rows {
            let told = told(&filter, "update", was, is);
            assert_eq!(told, expected, "{after}, {before}: {was:?} to {is:?}");
        }
    }
    // Without an image before.
    for (mode, expected) in
        [("whenAvailable", "reset"), ("required", "reset"), ("updateLookup", "nothing")]
    {
        let filter = format!("{conditions}fullDocument: {mode}\n");
        assert_eq!(told(&filter, "update", None, None), expected, "{mode}");
    }
}

#[test]
fn the_key_may_decide_where_an_image_is_missing() {
    let told = |conditions: &str, operation: &str| {
        let filter = format!("match: {conditions}\nfullDocument: whenAvailable\n");
        told(&filter, operation, None, None)
    };
    for (conditions, update, delete) in [
        ("{ _id: 1 }", "sent", "sent"),
        ("{}", "sent", "sent"),
        ("{ _id: 2 }", "nothing", "nothing"),
        ("{ _id: 2, status: new }", "nothing", "nothing"),
        // A delete of a document that may never have been theirs is not told.
        ("{ _id: 1, status: new }", "reset", "nothing"),
    ] {
        assert_eq!(told(conditions, "update"), update, "{conditions}");
        assert_eq!(told(conditions, "delete"), delete, "{conditions}");
    }
}
