//! What a projection shows and hides, row by row.

use bson::{Document, RawDocumentBuf, doc, rawdoc};

use super::{Images, Projection};

fn projection(project: Document) -> Projection {
    Projection::parse(&project).unwrap_or_else(|errors| panic!("{project}: {errors:?}"))
}

fn shown(project: Document, document: Document) -> Document {
    let raw = RawDocumentBuf::try_from(&document).unwrap();
    Document::try_from(projection(project).apply(&raw)).unwrap()
}

fn updated(project: Document, update: Document) -> Document {
    let raw = RawDocumentBuf::try_from(&update).unwrap();
    let shown = projection(project).apply_update_description(&raw, Images::default());
    Document::try_from(shown).unwrap()
}

/// The same with the document before and after; and whether all of it is surely hidden.
fn updated_of(
    project: &Document,
    update: &Document,
    before: &Document,
    after: &Document,
) -> (Document, bool) {
    let [update, before, after] =
        [update, before, after].map(|document| RawDocumentBuf::try_from(document).unwrap());
    let images = Images { before: Some(&before), after: Some(&after) };
    let projection = projection(project.clone());
    let shown = projection.apply_update_description(&update, images);
    (Document::try_from(shown).unwrap(), projection.hides_update(&update, images))
}

#[test]
fn documents() {
    let row = |project, document, expected: Document| {
        assert_eq!(shown(project, document), expected);
    };
    row(doc! {}, doc! { "_id": 1, "a": 1 }, doc! { "_id": 1, "a": 1 });
    row(doc! { "a": 1 }, doc! { "_id": 1, "a": 1, "b": 2 }, doc! { "_id": 1, "a": 1 });
    row(doc! { "a": 0 }, doc! { "_id": 1, "a": 1, "b": 2 }, doc! { "_id": 1, "b": 2 });
    row(doc! { "a": 1, "_id": 0 }, doc! { "_id": 1, "a": 1, "b": 2 }, doc! { "a": 1 });
    row(doc! { "a": 0, "_id": 1 }, doc! { "_id": 1, "a": 1, "b": 2 }, doc! { "_id": 1, "b": 2 });
    row(doc! { "_id": 1 }, doc! { "_id": 1, "a": 1 }, doc! { "_id": 1 });
    row(doc! { "_id": 0 }, doc! { "_id": 1, "a": 1 }, doc! { "a": 1 });
    row(
        doc! { "_id.x": 1 },
        doc! { "_id": { "x": 1, "y": 2 }, "a": 1 },
        doc! { "_id": { "x": 1 } },
    );
    row(
        doc! { "_id.x": 0 },
        doc! { "_id": { "x": 1, "y": 2 }, "a": 1 },
        doc! { "_id": { "y": 2 }, "a": 1 },
    );
    row(
        doc! { "a": { "b": 1, "c.d": 1 } },
        doc! { "a": { "b": 1, "c": { "d": 2, "e": 3 }, "x": 1 } },
        doc! { "a": { "b": 1, "c": { "d": 2 } } },
    );
    let mixed = doc! { "a": [1, { "b": 1, "c": 2 }, [{ "b": 1, "c": 1 }, 3], [], {}] };
    row(doc! { "a.b": 1 }, mixed.clone(), doc! { "a": [{ "b": 1 }, [{ "b": 1 }], [], {}] });
    row(doc! { "a.b": 0 }, mixed, doc! { "a": [1, { "c": 2 }, [{ "c": 1 }, 3], [], {}] });
    row(doc! { "a.0.b": 1 }, doc! { "a": [{ "b": 1 }, 2] }, doc! { "a": [{}] });
    row(doc! { "a.b": 1 }, doc! { "a": 5 }, doc! {});
    row(doc! { "a.b": 0 }, doc! { "a": 5 }, doc! { "a": 5 });
    row(doc! { "a.b": 1 }, doc! { "a": { "c": 1 } }, doc! { "a": {} });
}

#[test]
fn keys() {
    let row = |project, key: Document, expected: Document| {
        let raw = RawDocumentBuf::try_from(&key).unwrap();
        assert_eq!(Document::try_from(projection(project).apply_key(&raw)).unwrap(), expected);
    };
    row(doc! { "a": 1 }, doc! { "_id": 1 }, doc! { "_id": 1 });
    row(doc! { "a": 1, "_id": 0 }, doc! { "_id": 1 }, doc! {});
    row(doc! { "a": 1 }, doc! { "a": 2, "b.c": 3, "_id": 1 }, doc! { "a": 2, "_id": 1 });
    row(doc! { "b": 1 }, doc! { "a": 2, "b.c": 3, "_id": 1 }, doc! { "b.c": 3, "_id": 1 });
    row(doc! { "b.c": 0 }, doc! { "a": 2, "b.c": 3, "_id": 1 }, doc! { "a": 2, "_id": 1 });
    row(doc! { "_id.x": 1 }, doc! { "_id": { "x": 1, "y": 2 } }, doc! { "_id": { "x": 1 } });
}

#[test]
fn update_descriptions() {
    let item = doc! { "sku": "y", "cost": 8 };
    let update = doc! {
        "updatedFields": {
            "a": { "b": 1, "c": 2 },
            "items.0.sku": "x",
            "items.0.cost": 7,
            "items.1": item.clone(),
            "secret": 1,
            "secret.deep": 2,
        },
        "removedFields": ["z.c", "z.b", "items.0.cost", "secret.x", "gone"],
        "truncatedArrays": [{ "field": "secret.list", "newSize": 1 }, { "field": "items", "newSize": 2 }],
        "disambiguatedPaths": { "secret.0": ["secret", "0"], "items.0.sku": ["items", 0, "sku"] },
        "somethingNew": { "secret": 1 },
    };
    let before = doc! { "z": { "b": 1, "c": 1 }, "items": [{ "cost": 1 }], "gone": 1 };
    let after =
        doc! { "a": { "b": 1, "c": 2 }, "items": [{ "sku": "x", "cost": 7 }, item], "z": {} };
    let fields = doc! {
        "a": { "b": 1 },
        "items.0.sku": "x",
        "items.1": { "sku": "y" },
    };
    let seen = |removed: Vec<&str>| {
        doc! {
            "updatedFields": fields.clone(),
            "removedFields": removed,
            "truncatedArrays": [{ "field": "items", "newSize": 2 }],
            "disambiguatedPaths": { "items.0.sku": ["items", 0, "sku"] },
        }
    };
    let included = doc! { "items.sku": 1, "a.b": 1, "z.b": 1, "gone": 1 };
    let (shown, is_hidden) = updated_of(&included, &update, &before, &after);
    assert_eq!((shown, is_hidden), (seen(vec!["z.b", "gone"]), false));
    let excluded = doc! { "items.cost": 0, "secret": 0, "a.c": 0, "z.c": 0 };
    let (shown, is_hidden) = updated_of(&excluded, &update, &before, &after);
    assert_eq!((shown, is_hidden), (seen(vec!["z.b", "gone"]), false));
}

#[test]
fn paths_that_can_be_read_in_more_than_one_way() {
    let fields = |project: Document, update: Document| {
        updated(project, doc! { "updatedFields": update })
            .get_document("updatedFields")
            .unwrap()
            .clone()
    };
    let all = |project: Document, update: Document| {
        assert_eq!(fields(project, update.clone()), update);
    };
    let none = |project: Document, update: Document| assert_eq!(fields(project, update), doc! {});
    // Without the document, only what every reading shows: a name with dots is never included.
    none(doc! { "a.b": 1 }, doc! { "a.0.b": 1, "a.b": 1 });
    none(doc! { "a": 1 }, doc! { "a.b": 1, "0": 1, "0.a": 2 });
    none(doc! { "a.b": 0 }, doc! { "a.0.b": 1, "a.b.c": 1 });
    none(doc! { "a.0": 0 }, doc! { "a.0.b": 1 });
    all(doc! { "a.0": 0 }, doc! { "a.1.b": 1, "a.00": 1, "b.a": 1, "": 1, ".a": 2, "$a": 3 });
    all(doc! { "0": 1 }, doc! { "0": 1 });
    assert_eq!(
        fields(doc! { "a.b": 0 }, doc! { "a": { "b": 1, "c": 2 } }),
        doc! { "a": { "c": 2 } }
    );

    // The document tells, if it has the very value.
    let row = |project: Document, path: &str, after: Document, is_shown: bool| {
        let update = doc! { "updatedFields": { path: 5 } };
        let (shown, is_hidden) = updated_of(&project, &update, &doc! {}, &after);
        let shown = shown.get_document("updatedFields").unwrap().contains_key(path);
        assert_eq!((shown, is_hidden), (is_shown, !is_shown), "{project} {path} {after}");
    };
    row(doc! { "a.2024": 1 }, "a.2024", doc! { "a": { "2024": 5 } }, true);
    row(doc! { "a.b": 1 }, "a.0.b", doc! { "a": { "0": { "b": 5 } } }, false);
    row(doc! { "a.b": 1 }, "a.0.b", doc! { "a": [{ "b": 5 }] }, true);
    row(doc! { "a.b": 0 }, "a.0.b", doc! { "a": [{ "b": 5 }] }, false);
    row(doc! { "a.b": 0 }, "a.0.b", doc! { "a": { "0": { "b": 5 } } }, true);
    row(doc! { "a": 1 }, "a.x", doc! { "a": { "x": 5 } }, true);
    row(doc! { "a": 1 }, "a.x", doc! { "a.x": 5, "a": 1 }, false);
    row(doc! { "a": 1 }, "a..x", doc! { "a": { "": { "x": 5 } } }, true);
    row(doc! { "a": 1 }, "a..x", doc! { "a.": { "x": 5 } }, false);
    row(doc! { "a": 1 }, "a.$x", doc! { "a.$x": 5, "a": { "$x": 4 } }, false);
    // A number in an array of which fields of documents are shown: `find` leaves it out, but what
    // was in its place may have been seen.
    let update = doc! { "updatedFields": { "a.2": 5 } };
    for (before, is_hidden) in [
        (doc! { "a": [3, 4, { "2": 1 }] }, false),
        (doc! { "a": [3, 4, 6] }, true),
        (doc! { "a": [3, 4] }, true),
    ] {
        let seen = updated_of(&doc! { "a.2": 1 }, &update, &before, &doc! { "a": [3, 4, 5] });
        assert_eq!(seen, (doc! { "updatedFields": {} }, is_hidden), "{before}");
    }
    for (before, is_shown) in [(doc! { "a": { "b": 1 } }, true), (doc! { "a": 1 }, false)] {
        let update = doc! { "removedFields": ["a"] };
        let (shown, is_hidden) = updated_of(&doc! { "a.b": 1 }, &update, &before, &doc! {});
        let shown = !shown.get_array("removedFields").unwrap().is_empty();
        assert_eq!((shown, is_hidden), (is_shown, !is_shown), "{before}");
    }
    // In doubt: it is not shown, and not taken for hidden either.
    for after in [
        doc! { "a": { "x": 5 }, "a.x": 5 },
        doc! { "a": { "x": 4 } },
        doc! { "a": { "y": 5 } },
        doc! {},
    ] {
        let update = doc! { "updatedFields": { "a.x": 5 } };
        let (shown, is_hidden) = updated_of(&doc! { "a": 1 }, &update, &doc! {}, &after);
        assert_eq!((shown, is_hidden), (doc! { "updatedFields": {} }, false), "{after}");
    }
    let long = format!("a{}", ".0".repeat(100_000));
    none(doc! { "b": 0 }, doc! { long: 1 });
}

#[test]
fn an_update_that_is_hidden_as_a_whole() {
    let row = |project: Document, update: Document, expected: bool| {
        let raw = RawDocumentBuf::try_from(&update).unwrap();
        let hidden = projection(project.clone()).hides_update(&raw, Images::default());
        assert_eq!(hidden, expected, "{project} {update}");
    };
    let update = |fields: Document, removed: Vec<&str>| {
        doc! { "updatedFields": fields, "removedFields": removed, "truncatedArrays": [] }
    };
    row(doc! { "a": 1 }, update(doc! { "b": 1, "b.c": 2 }, vec!["c", "c.0.d"]), true);
    row(doc! { "a": 1 }, update(doc! { "b": 1 }, vec!["a"]), false);
    row(doc! { "a": 1 }, update(doc! { "b": 1, "a.c": 1 }, vec![]), false);
    row(doc! { "a": 0 }, update(doc! { "a": 1 }, vec!["a"]), true);
    row(doc! { "a": 0 }, update(doc! { "a.b": 1 }, vec![]), false);
    // Nothing that could be hidden.
    row(doc! { "a": 1 }, update(doc! {}, vec![]), false);
    row(doc! { "a": 1 }, doc! { "updatedFields": { "b": 1 }, "new": { "x": 1 } }, false);
    let truncated = doc! { "truncatedArrays": [{ "field": "b", "newSize": 1 }] };
    row(doc! { "a": 1 }, truncated.clone(), true);
    row(doc! { "b": 1 }, truncated, false);
}

#[test]
fn mistakes() {
    let row = |project: Document, expected: &str| {
        let errors = Projection::parse(&project).expect_err(expected);
        assert!(errors.iter().any(|e| e.message.contains(expected)), "{project}: {errors:?}");
    };
    row(doc! { "a": 1, "b": 0 }, "not both");
    row(doc! { "_id.x": 0, "a": 1 }, "not both");
    row(doc! { "a": { "b": 1, "c": 0 } }, "not both");
    row(doc! { "a": 1, "a.b": 1 }, "collides");
    row(doc! { "a.b": 1, "a": 1 }, "collides");
    row(doc! { "a.b": 1, "a": { "b": 1 } }, "collides");
    row(doc! { "_id": 1, "_id.x": 1 }, "_id");
    row(doc! { "_id.x": 1, "_id": 1 }, "_id");
    row(doc! { "a": {} }, "empty document");
    row(doc! { "a..b": 1 }, "empty part");
    row(doc! { "": 1 }, "empty part");
    row(doc! { "a.$": 1 }, "positional");
    row(doc! { "$a": 1 }, "not a field name");
    row(doc! { "a": { "$slice": 1 } }, "$slice");
    row(doc! { "a": { "$elemMatch": {} } }, "$elemMatch");
    row(doc! { "a": { "$meta": "textScore" } }, "$meta");
    row(doc! { "a": { "$add": [1, 2] } }, "expressions");
    row(doc! { "a": "x" }, "by 1");
    row(doc! { "a": bson::Bson::Null }, "by 1");
}

#[test]
fn broken_and_deep_documents_do_not_panic() {
    // By hand: the crate itself would follow it down.
    let mut deep = rawdoc! { "0": 1 };
    for _ in 0..5_000 {
        let mut outer = ((deep.as_bytes().len() + 8) as i32).to_le_bytes().to_vec();
        outer.extend_from_slice(b"\x04" as &[u8]);
        outer.extend_from_slice(b"0\0");
        outer.extend_from_slice(deep.as_bytes());
        outer.push(0);
        deep = RawDocumentBuf::from_bytes(outer).unwrap();
    }
    for project in [doc! { "0.a": 0 }, doc! { "0.a": 1 }] {
        assert!(projection(project).apply(&deep).as_bytes().len() < 3000);
    }
    let update = doc! {
        "updatedFields": { "a.0.b": { "c": 1 }, "d": [{ "e": 1 }] },
        "removedFields": ["a.x"],
        "truncatedArrays": [{ "field": "a", "newSize": 1 }],
        "disambiguatedPaths": { "a.0.b": ["a", 0, "b"] },
    };
    let bytes = RawDocumentBuf::try_from(&update).unwrap().into_bytes();
    let projections = [doc! { "a.b.c": 1, "d.e": 1 }, doc! { "a.b.c": 0, "updatedFields.d": 0 }];
    for projection in projections.map(projection) {
        for at in 4..bytes.len() {
            for change in [0, 1, 3, 4, 0x7f, 0xff] {
                let mut broken = bytes.clone();
                broken[at] = change;
                let Ok(broken) = RawDocumentBuf::from_bytes(broken) else { continue };
                let _ = projection.apply(&broken);
                let _ = projection.apply_key(&broken);
                let images = Images { before: Some(&broken), after: Some(&broken) };
                let _ = projection.apply_update_description(&broken, images);
                let _ = projection.hides_update(&broken, images);
            }
        }
    }
}

/// Many changed fields, each looked for among many.
#[test]
fn updates_are_linear() {
    let shown = projection(doc! { "a.b": 1, "a.0": 1 });
    let time = |fields: usize| {
        let (mut changed, mut parts, mut inside) = (Document::new(), Document::new(), doc! {});
        for field in 0..fields {
            changed.insert(format!("a.{field}.b"), 1);
            inside.insert(field.to_string(), doc! { "b": 1 });
            if field % 2 == 0 {
                parts.insert(format!("a.{field}.b"), vec!["a".to_owned(), field.to_string()]);
            }
        }
        let update = doc! { "updatedFields": changed, "disambiguatedPaths": parts };
        let update = RawDocumentBuf::try_from(&update).unwrap();
        let document = RawDocumentBuf::try_from(&doc! { "a": inside }).unwrap();
        crate::cpu_time::of(|| {
            let images = Images { before: None, after: Some(&document) };
            std::hint::black_box(shown.apply_update_description(&update, images));
        })
    };
    let (short, long) = (time(1_000), time(10_000));
    assert!(long < short * 30, "{short:?}, {long:?}");
}

#[test]
fn a_wide_projection_is_linear_and_bounded() {
    let wide = |fields: usize| -> Document {
        (0..fields).map(|n| (format!("k{n}"), bson::Bson::Int32(1))).collect()
    };
    let all = projection(wide(1_000));
    let time = |fields: usize| {
        let document = RawDocumentBuf::try_from(&wide(fields)).unwrap();
        crate::cpu_time::of(|| {
            std::hint::black_box(all.apply(&document));
        })
    };
    let (short, long) = (time(1_000), time(10_000));
    assert!(long < short * 30, "{short:?}, {long:?}");
    let errors = Projection::parse(&wide(2_000)).unwrap_err();
    assert!(errors.len() == 1 && errors[0].message.contains("more than 1000"), "{errors:?}");
}
