//! Placeholders, keys, mistakes and bounds. What matches what is in `tests/matcher_rows.txt`.

use bson::{Bson, Document, RawDocument, RawDocumentBuf, doc, rawdoc};

use super::*;

fn template(filter: Document) -> Template {
    Template::parse(&filter).unwrap_or_else(|errors| panic!("{filter}: {errors:?}"))
}

fn name_of(placeholder: &Placeholder) -> &str {
    let (Placeholder::Claim(Claim { path: name, .. }) | Placeholder::Param(name)) = placeholder;
    name
}

/// Binds parameters and claims by name, as those of a client; those not given are absent.
fn bound(filter: Document, values: Document) -> Predicate {
    let template = template(filter);
    let names: Vec<&str> = template.uses().iter().map(|used| name_of(&used.placeholder)).collect();
    let given = names.iter().map(|name| values.get(name).map(Owned::from_bson)).collect();
    let place_of =
        |placeholder: &Placeholder| names.iter().position(|name| *name == name_of(placeholder));
    template.bind_values(BoundValues::new(given), &place_of)
}

/// The same with the values in the condition itself.
fn alone(filter: Document, values: Document) -> Predicate {
    template(filter).bind(&mut |placeholder| values.get(name_of(placeholder)).cloned())
}

fn matches(predicate: &Predicate, document: Document) -> bool {
    predicate.matches(&RawDocumentBuf::try_from(&document).unwrap())
}

#[test]
fn placeholders_in_the_order_in_which_they_are_written() {
    let uses = template(doc! {
        "a": { "$claim": "org.id" },
        "b": { "$gte": { "$param": "min" }, "$ne": { "$param": "not" } },
        "c": { "$in": { "$param": "set" } },
        "d": { "$nin": [1, { "$param": "one" }] },
        "e": { "x": [{ "$claim": "deep" }] },
        "$or": [{ "f": { "$all": { "$claim": "all" } } }],
        "g": { "$elemMatch": { "h": { "$eq": { "$param": "element" } } } },
        "$expr": { "$eq": ["$i", { "$param": "expr" }] },
    })
    .placeholders();
    let short: Vec<String> = uses
        .iter()
        .map(|used| {
            let path: Vec<String> = used
                .path
                .iter()
                .map(|step| match step {
                    Step::Key(key) => key.to_string(),
                    Step::Index(index) => index.to_string(),
                })
                .collect();
            let name = match &used.placeholder {
                Placeholder::Claim(claim) => format!("claim {}", claim.path),
                Placeholder::Param(name) => format!("param {name}"),
            };
            format!("{name}: {:?} at {}", used.role, path.join("/"))
        })
        .collect();
    assert_eq!(
        short,
        [
            "claim org.id: Equality at a",
            "param min: Value at b/$gte",
            "param not: Equality at b/$ne",
            "param set: Set at c/$in",
            "param one: Value at d/$nin/1",
            "claim deep: Value at e/x/0",
            "claim all: Set at $or/0/f/$all",
            "param element: Equality at g/$elemMatch/h/$eq",
            "param expr: Value at $expr/$eq/1",
        ]
    );
}

#[test]
fn what_is_bound_is_data() {
    let equal = |value: Bson| bound(doc! { "a": { "$param": "p" } }, doc! { "p": value });
    let operator = equal(doc! { "$gt": "" }.into());
    assert!(!matches(&operator, doc! { "a": "x" }));
    assert!(matches(&operator, doc! { "a": { "$gt": "" } }));

    let nothing = equal(doc! { "$ne": Bson::Null }.into());
    assert!(!matches(&nothing, doc! { "a": 1 }));

    let regex = bson::Regex { pattern: ".*".try_into().unwrap(), options: "".try_into().unwrap() };
    let pattern = equal(regex.clone().into());
    assert!(!matches(&pattern, doc! { "a": "x" }));
    assert!(matches(&pattern, doc! { "a": regex.clone() }));
    let listed = bound(doc! { "a": { "$in": { "$param": "p" } } }, doc! { "p": [regex] });
    assert!(!matches(&listed, doc! { "a": "x" }));

    // A placeholder in what was bound stays what it is.
    let again = equal(doc! { "$param": "q" }.into());
    assert!(matches(&again, doc! { "a": { "$param": "q" } }));
    let path = bound(doc! { "$expr": { "$eq": ["$a", { "$param": "p" }] } }, doc! { "p": "$b" });
    assert!(!matches(&path, doc! { "a": 1, "b": 1 }));
    assert!(matches(&path, doc! { "a": "$b" }));
}

#[test]
fn a_value_that_bson_cannot_hold_equals_nothing() {
    let unsound: Bson = doc! { "a\0b": 1 }.into();
    let equal = bound(doc! { "a": { "$param": "p" } }, doc! { "p": unsound.clone() });
    assert!(!matches(&equal, doc! {}) && !matches(&equal, doc! { "a": Bson::Null }));
    let range = bound(doc! { "a": { "$gt": { "$param": "p" } } }, doc! { "p": unsound.clone() });
    assert!(!matches(&range, doc! { "a": { "b": 1 } }));
    let listed = bound(doc! { "a": { "$in": { "$param": "p" } } }, doc! { "p": [unsound] });
    assert!(!matches(&listed, doc! {}));
}

#[test]
fn an_array_under_an_equality_is_a_choice() {
    let one_of =
        |values: Bson| bound(doc! { "a": { "$claim": "groups" } }, doc! { "groups": values });
    let both = one_of(vec!["x", "y"].into());
    assert!(matches(&both, doc! { "a": "y" }) && matches(&both, doc! { "a": ["z", "x"] }));
    assert!(!matches(&both, doc! { "a": "z" }));
    let none = one_of(Bson::Array(vec![]));
    assert!(!matches(&none, doc! {}) && !matches(&none, doc! { "a": [] }));
    let but = bound(doc! { "a": { "$ne": { "$claim": "g" } } }, doc! { "g": ["x", "y"] });
    assert!(matches(&but, doc! { "a": "z" }) && !matches(&but, doc! { "a": "x" }));
    // Elsewhere an array is a value, and for a list one value is a list.
    let nested = bound(doc! { "a": { "b": { "$claim": "g" } } }, doc! { "g": [1] });
    assert!(
        matches(&nested, doc! { "a": { "b": [1] } }) && !matches(&nested, doc! { "a": { "b": 1 } })
    );
    let single = bound(doc! { "a": { "$in": { "$claim": "g" } } }, doc! { "g": "x" });
    assert!(matches(&single, doc! { "a": "x" }));
}

#[test]
fn an_absent_value_removes_its_condition() {
    let param = |name: &str| doc! { "$param": name };
    let row = |filter: Document, rest: Document| {
        let values = doc! { "p": 1 };
        let rest = alone(rest, doc! {});
        assert_eq!(alone(filter.clone(), values.clone()), rest, "{filter}");
        let client = bound(filter.clone(), values);
        for a in [1.into(), 2.into(), 7.into(), Bson::Null, doc! { "b": 1 }.into()] {
            for document in [
                doc! {},
                doc! { "b": 2 },
                doc! { "c": 3 },
                doc! { "a": [a.clone()], "b": 2, "c": 3 },
            ] {
                for document in [&document, &doc! { "a": a.clone(), "c": document.get("c") }] {
                    let verdicts = [&client, &rest].map(|it| matches(it, document.clone()));
                    assert_eq!(verdicts[0], verdicts[1], "{filter} {document}");
                }
            }
        }
    };
    row(doc! { "a": param("x"), "b": 2 }, doc! { "b": 2 });
    row(doc! { "a": { "$gte": param("x"), "$lt": 5 } }, doc! { "a": { "$lt": 5 } });
    row(doc! { "a": { "$gte": param("p"), "$lt": 5 } }, doc! { "a": { "$gte": 1, "$lt": 5 } });
    row(doc! { "a": param("x") }, doc! {});
    row(doc! { "$or": [{ "a": param("x") }, { "b": 2 }] }, doc! { "b": 2 });
    row(doc! { "$or": [{ "a": param("x") }, { "b": param("y") }], "c": 3 }, doc! { "c": 3 });
    row(doc! { "$nor": [{ "a": param("x") }] }, doc! {});
    row(doc! { "a": { "$not": { "$gt": param("x") } }, "c": 3 }, doc! { "c": 3 });
    row(doc! { "a": { "$elemMatch": { "b": param("x") } }, "c": 3 }, doc! { "c": 3 });
    row(doc! { "a": { "$in": param("x") }, "c": 3 }, doc! { "c": 3 });
    row(doc! { "a": { "$in": [2, param("x")] } }, doc! { "a": { "$in": [2] } });
    row(doc! { "a": { "$in": [2, param("p")] } }, doc! { "a": { "$in": [2, 1] } });
    row(doc! { "a": { "$in": [param("x")] }, "c": 3 }, doc! { "c": 3 });
    row(doc! { "a": { "b": 1, "c": param("x") }, "c": 3 }, doc! { "c": 3 });
    row(
        doc! { "$expr": { "$and": ["$a", { "$gt": ["$b", param("x")] }] }, "c": 3 },
        doc! { "c": 3 },
    );
    // A written branch without conditions is not a removed one.
    assert!(matches(&bound(doc! { "$or": [{}, { "a": param("x") }] }, doc! {}), doc! {}));
}

#[test]
fn predicates_are_equal_by_their_values() {
    let filter = doc! { "a": { "$param": "p" }, "b": { "$in": { "$param": "q" } } };
    let print = |values| alone(filter.clone(), values);
    let first = print(doc! { "p": 1, "q": [1, 2] });
    assert_eq!(first, print(doc! { "p": 1, "q": [2, 1, 1] }));
    assert_ne!(first, print(doc! { "p": 2, "q": [1, 2] }));
    assert_ne!(first, print(doc! { "p": 1, "q": [1, 3] }));
    assert_ne!(first, print(doc! { "p": 1 }));
    assert_ne!(print(doc! { "p": "ab" }), print(doc! { "p": "a" }));
}

#[test]
fn an_update_that_makes_no_difference() {
    let row = |filter: Document, path: &str, expected: bool| {
        let predicate = bound(filter.clone(), doc! {});
        for update in [
            doc! { "updatedFields": { path: 1 }, "removedFields": [] },
            doc! { "updatedFields": {}, "removedFields": [path] },
            doc! { "truncatedArrays": [{ "field": path, "newSize": 1 }] },
        ] {
            let update = RawDocumentBuf::try_from(&update).unwrap();
            assert_eq!(predicate.may_depend_on(&update), expected, "{filter} {path}");
        }
    };
    row(doc! {}, "a", false);
    row(doc! { "a": 1 }, "a", true);
    row(doc! { "a": 1 }, "ab", false);
    row(doc! { "a": 1 }, "a.b", true);
    row(doc! { "a.b": 1 }, "a", true);
    row(doc! { "a.b": 1 }, "a.0.b", true);
    row(doc! { "a.0.b": 1 }, "a.c", false);
    row(doc! { "a.b": 1 }, "a.c.b", false);
    row(doc! { "$nor": [{ "a": 1 }, { "b": { "$exists": true } }] }, "b", true);
    row(doc! { "$or": [{ "a": 1 }, { "b": { "$all": [1] } }] }, "b.0", true);
    row(doc! { "a": { "$elemMatch": { "b": 1 } } }, "a.3.c", true);
    row(doc! { "$expr": { "$eq": ["$a", "$b"] } }, "c", true);
}

#[test]
fn keys_decide_what_they_can() {
    let decide = |filter: Document, key: Document| {
        bound(filter, doc! {}).matches_key(&RawDocumentBuf::try_from(&key).unwrap())
    };
    assert_eq!(decide(doc! {}, doc! { "_id": 1 }), Some(true));
    assert_eq!(decide(doc! { "_id": 1 }, doc! { "_id": 1.0 }), Some(true));
    assert_eq!(decide(doc! { "_id": 2 }, doc! { "_id": 1 }), Some(false));
    assert_eq!(decide(doc! { "a": 1 }, doc! { "_id": 1 }), None);
    assert_eq!(decide(doc! { "a": 1, "_id": 2 }, doc! { "_id": 1 }), Some(false));
    assert_eq!(decide(doc! { "a": 1, "_id": 1 }, doc! { "_id": 1 }), None);
    assert_eq!(decide(doc! { "$or": [{ "a": 1 }, { "_id": 1 }] }, doc! { "_id": 1 }), Some(true));
    assert_eq!(decide(doc! { "$or": [{ "a": 1 }, { "_id": 2 }] }, doc! { "_id": 1 }), None);
    assert_eq!(decide(doc! { "$nor": [{ "a": 1 }, { "_id": 1 }] }, doc! { "_id": 1 }), Some(false));
    assert_eq!(decide(doc! { "_id.x": 1 }, doc! { "_id": { "x": 1 } }), Some(true));
    assert_eq!(decide(doc! { "_id.y": Bson::Null }, doc! { "_id": { "x": 1 } }), Some(true));
    assert_eq!(decide(doc! { "_id": { "$exists": true } }, doc! { "_id": Bson::Null }), Some(true));
    // Shard keys have dotted names, and null for what is missing.
    let key = doc! { "a.b": 5, "c": Bson::Null, "_id": 1 };
    assert_eq!(decide(doc! { "a.b": { "$gt": 3 } }, key.clone()), Some(true));
    assert_eq!(decide(doc! { "a": { "$exists": true } }, key.clone()), None);
    assert_eq!(decide(doc! { "a.bc": 5 }, key.clone()), None);
    assert_eq!(decide(doc! { "c": Bson::Null }, key.clone()), Some(true));
    assert_eq!(decide(doc! { "c": { "$exists": true } }, key.clone()), None);
    assert_eq!(decide(doc! { "c": { "$type": "null" } }, key.clone()), None);
    assert_eq!(decide(doc! { "$expr": { "$eq": ["$_id", 1] } }, key.clone()), Some(true));
    assert_eq!(decide(doc! { "$expr": { "$eq": ["$a.b", 5] } }, key.clone()), None);
    assert_eq!(decide(doc! { "$expr": { "$eq": ["$c", Bson::Null] } }, key), None);
}

#[test]
fn mistakes_tell_place_and_cure() {
    let row = |filter: Document, place: &str, message: &str, hint: &str| {
        let errors = Template::parse(&filter).expect_err(message);
        let found = errors.iter().any(|error| {
            let steps: Vec<String> = error
                .path
                .iter()
                .map(|step| match step {
                    Step::Key(key) => key.to_string(),
                    Step::Index(index) => index.to_string(),
                })
                .collect();
            steps.join("/") == place
                && error.message.contains(message)
                && error.hint.as_deref().unwrap_or("").contains(hint)
        });
        assert!(found, "{filter}: {errors:?}");
    };
    row(doc! { "a": { "$gtt": 1 } }, "a/$gtt", "unknown operator", "`$gt`");
    row(doc! { "$orr": [] }, "$orr", "unknown operator", "`$or`");
    row(doc! { "a": { "$where": "x" } }, "a/$where", "JavaScript", "$expr");
    row(doc! { "a": { "$near": [0, 0] } }, "a/$near", "distance", "");
    row(doc! { "$gt": 1 }, "$gt", "applies to a field", "field: { $gt");
    row(doc! { "a": { "$or": [] } }, "a/$or", "applied to a field", "around the field");
    row(doc! { "a": { "$gt": 1, "b": 2 } }, "a/b", "cannot be mixed", "dots");
    row(doc! { "a": { "b": { "$in": [1] } } }, "a/b", "as a whole", "`a.b`");
    row(
        doc! { "$and": [{ "a": { "$type": "strin" } }] },
        "$and/0/a/$type",
        "not a type",
        "`string`",
    );
    row(doc! { "a": { "$claim": 1 } }, "a", "takes a name", "$claim: sub");
    row(doc! { "a": { "$claim": "x", "b": 1 } }, "a", "only key", "");
    row(doc! { "$claim": "x" }, "$claim", "in the place of a value", "");
    row(doc! { "a": { "$regex": { "$param": "p" } } }, "a/$regex", "no placeholder", "code");
    row(doc! { "a": { "$exists": { "$param": "p" } } }, "a/$exists", "no placeholder", "");
    row(doc! { "a": { "$not": { "$claim": "p" } } }, "a/$not", "condition", "$ne");
    row(doc! { "a": { "$regex": "(?=x)" } }, "a/$regex", "ahead", "linear");
    row(doc! { "a": { "$regex": "(" } }, "a/$regex", "not a regular", "");
    row(doc! { "a": { "$regex": "(a{1000}){1000}" } }, "a/$regex", "too large", "");
    row(doc! { "$expr": { "$gtt": [1, 2] } }, "$expr/$gtt", "not supported", "`$gt");
    row(doc! { "$expr": "$$NOW" }, "$expr", "clock", "");
    let map =
        |inner: &str| doc! { "$expr": { "$map": { "input": "$a", "as": "it", "in": inner } } };
    row(map("$$its"), "$expr/$map/in", "unknown variable", "`$$it`");
    row(map("$$this"), "$expr/$map/in", "unknown variable", "");
    let hour = |zone: &str| doc! { "$expr": { "$hour": { "date": "$a", "timezone": zone } } };
    row(hour("Berlin"), "$expr/$hour/timezone", "not a time zone", "Europe/Berlin");
    row(hour("$zone"), "$expr/$hour/timezone", "written in the filter", "only dates");
    row(doc! { "$expr": { "$dateFromString": {} } }, "$expr/$dateFromString", "not supported", "");

    let errors = Template::parse(&doc! { "a": { "$x": 1 }, "$y": 1, "b": { "$size": -1 } });
    assert_eq!(errors.unwrap_err().len(), 3, "every mistake at once");
}

#[test]
fn filters_are_bounded() {
    let mut deep = doc! { "a": 1 };
    for _ in 0..100 {
        deep = doc! { "$and": [deep] };
    }
    assert!(Template::parse(&deep).unwrap_err()[0].message.contains("nested deeper"));
    let mut expression = Bson::from("$a");
    for _ in 0..100 {
        expression = doc! { "$not": [expression] }.into();
    }
    assert!(Template::parse(&doc! { "$expr": expression }).is_err());
    let many: Vec<i32> = (0..20_000).collect();
    let errors = Template::parse(&doc! { "a": { "$in": many } }).unwrap_err();
    assert!(errors.len() == 1 && errors[0].message.contains("more than"), "{errors:?}");
    let many: Vec<Document> = (0..600).map(|n| doc! { "a": n }).collect();
    let errors = Template::parse(&doc! { "$or": many }).unwrap_err();
    assert!(errors.len() == 1 && errors[0].message.contains("1000 conditions"), "{errors:?}");
    let many: Vec<Document> = (0..1_001).map(|_| doc! { "$param": "p" }).collect();
    let errors = Template::parse(&doc! { "a": { "$in": many } }).unwrap_err();
    assert!(errors.len() == 1 && errors[0].message.contains("1000 placeholders"), "{errors:?}");
    assert!(Template::parse(&doc! { "0.0.0.0.0.0.0.0.0": 1 }).is_err());
    assert!(Template::parse(&doc! { vec!["a"; 200].join("."): 1 }).is_err());
}

/// What multiplies within a filter is cut off, and does not match; what doubles, too.
#[test]
fn expressions_have_a_limit_of_work() {
    let array: Vec<i32> = (0..2_000).collect();
    let document = RawDocumentBuf::try_from(&doc! { "a": array }).unwrap();
    let asks =
        |expression: Document| bound(doc! { "$expr": expression }, doc! {}).matches(&document);
    let map = |inner: Bson| doc! { "$map": { "input": "$a", "in": inner } };
    assert!(asks(map(1.into())));
    assert!(!asks(map(map(map(1.into()).into()).into())));
    let twice = doc! { "$concatArrays": ["$$value", "$$value"] };
    assert!(!asks(doc! { "$reduce": { "input": "$a", "initialValue": [1], "in": twice } }));
    let twice = doc! { "$concat": ["$$value", "$$value"] };
    assert!(!asks(doc! { "$reduce": { "input": "$a", "initialValue": "x", "in": twice } }));
}

/// A key decides an expression only with what the expression reads, through variables too.
#[test]
fn keys_decide_expressions_with_variables() {
    let decide = |expression: Document, key: Document| {
        bound(doc! { "$expr": expression }, doc! {})
            .matches_key(&RawDocumentBuf::try_from(&key).unwrap())
    };
    let of = |path: &str| doc! { "$let": { "vars": { "x": path }, "in": { "$eq": ["$$x", 1] } } };
    assert_eq!(decide(of("$_id"), doc! { "_id": 1 }), Some(true));
    assert_eq!(decide(of("$a"), doc! { "_id": 1 }), None);
    assert_eq!(decide(of("$$ROOT"), doc! { "_id": 1 }), None);
    let map = |input: &str, inner: &str| doc! { "$map": { "input": [input], "in": inner } };
    assert_eq!(decide(map("$_id", "$$this"), doc! { "_id": 1 }), Some(true));
    assert_eq!(decide(map("$_id", "$a"), doc! { "_id": 1 }), None);
    let hour = |date: &str| doc! { "$hour": { "date": date, "timezone": "+01" } };
    assert_eq!(decide(hour("$_id"), doc! { "_id": bson::DateTime::from_millis(0) }), Some(true));
    assert_eq!(decide(hour("$a"), doc! { "_id": 1 }), None);
}

/// A list against an array must not cost their product.
#[test]
fn all_is_linear() {
    let time = |length: i32| {
        let values: Vec<i32> = (0..length).collect();
        let reversed: Vec<i32> = (0..length).rev().collect();
        let all = bound(doc! { "_id.a": { "$all": values } }, doc! {});
        let document = RawDocumentBuf::try_from(&doc! { "_id": { "a": reversed } }).unwrap();
        crate::cpu_time::of(|| {
            assert!(all.matches(&document));
            assert_eq!(all.matches_key(&document), Some(true));
        })
    };
    let (short, long) = (time(900), time(9_000));
    assert!(long < short * 30, "{short:?}, {long:?}");
}

#[test]
fn broken_documents_do_not_panic() {
    let document = rawdoc! {
        "a": [{ "b": 1, "c": [1.5, "text"] }, { "b": { "c": bson::oid::ObjectId::new() } }],
        "b": bson::Decimal128::from_bytes([0xff; 16]),
        "c": bson::DateTime::from_millis(i64::MIN),
        "d": "text",
    };
    let filters = [
        doc! { "a.b.c": { "$gt": 1 }, "d": { "$regex": "t$" } },
        doc! { "a": { "$elemMatch": { "b": { "$ne": 1 }, "c": { "$size": 2 } } } },
        doc! { "a.0.c.1": { "$type": "string" }, "b": { "$bitsAllSet": [1, 99] } },
        doc! { "b": { "$mod": [2, 0], "$lt": 1.5 }, "c": { "$lt": bson::DateTime::MAX } },
        doc! { "$expr": { "$lt": [{ "$add": ["$b", 1.5] }, { "$multiply": ["$b", "$b"] }] } },
        doc! { "$expr": { "$eq": [{ "$year": "$c" }, { "$strLenCP": "$d" }] } },
        doc! { "$expr": { "$eq": [{ "$toLower": "$c" }, { "$substr": ["$d", 1, -1] }] } },
        doc! { "a": [{ "b": 1 }], "$expr": { "$in": ["$a.b", "$a.c"] } },
    ];
    let predicates: Vec<Predicate> = filters.map(|filter| bound(filter, doc! {})).into();
    let bytes = document.as_bytes();
    let ask = |bytes: &[u8]| {
        if let Ok(broken) = RawDocument::from_bytes(bytes) {
            for predicate in &predicates {
                let _ = (predicate.matches(broken), predicate.matches_key(broken));
            }
        }
    };
    for at in 4..bytes.len() {
        for change in [0, 1, 2, 3, 4, 0x10, 0x7f, 0x80, 0xff, bytes[at] ^ 1] {
            let mut broken = bytes.to_vec();
            broken[at] = change;
            ask(&broken);
        }
    }
}

#[test]
fn predicates_cross_threads() {
    fn crosses<T: Send + Sync + Clone>() {}
    crosses::<Template>();
    crosses::<Predicate>();
    crosses::<projection::Projection>();
}

// There may be one for each of a million clients, whose condition has its counts in a piece of 64 bytes.
#[test]
fn a_predicate_is_small() {
    let size = size_of::<eval::BoundNode>();
    assert!(size + 2 * size_of::<usize>() <= 64, "{size}");
    assert_eq!(size_of::<Predicate>(), 32);
}
