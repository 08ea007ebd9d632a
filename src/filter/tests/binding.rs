//! What a client's query becomes.

use bson::{Bson, rawdoc};

use super::*;

fn query(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn orders() -> Filter {
    good(
        "match: { status: { $param: status }, total: { $gte: { $param: total } }, \
                   kind: { $in: { $param: kinds } } }\n\
          params:\n\
          \x20 status: { type: string, enum: [new, paid, shipped] }\n\
          \x20 total: { type: int, min: 0, max: 100, default: 10 }\n\
          \x20 kinds: { type: [string], required: false, maxLength: 4, pattern: '[a-z]+' }\n\
          fullDocumentBeforeChange: required\n",
    )
}

#[test]
fn values_come_in() {
    let filter = orders();
    let bound = filter.bind(&query(&[("status", "paid")]), None).unwrap();
    let values: Vec<_> = bound.values().iter(&filter).collect();
    assert_eq!(
        values,
        [
            ("status", Some(Bson::String("paid".into()))),
            ("total", Some(Bson::Int32(10))),
            ("kinds", None),
        ]
    );
    assert!(bound.predicate.matches(&rawdoc! { "status": "paid", "total": 10 }));
    assert!(!bound.predicate.matches(&rawdoc! { "status": "paid", "total": 9 }));
    assert!(!bound.predicate.matches(&rawdoc! { "status": "new", "total": 10 }));
}

#[test]
fn sets_are_sorted_and_hold_nothing_twice() {
    let filter = orders();
    let one =
        filter.bind(&query(&[("status", "new"), ("kinds", "b"), ("kinds", "a")]), None).unwrap();
    let other = [("kinds", "a"), ("kinds", "b"), ("kinds", "a"), ("status", "new")];
    let other = filter.bind(&query(&other), None).unwrap();
    assert_eq!(one.values(), other.values());
    assert_eq!(one.predicate, other.predicate);
    assert!(one.predicate.matches(&rawdoc! { "status": "new", "total": 10, "kind": "b" }));
    assert!(!one.predicate.matches(&rawdoc! { "status": "new", "total": 10, "kind": "c" }));
}

#[test]
fn a_value_is_never_an_operator() {
    let filter = good("match: { name: { $param: name } }\nparams: { name: { type: string } }\n");
    for value in ["{\"$ne\": null}", "$ne", "{ $gt: '' }", "\0"] {
        let bound = filter.bind(&query(&[("name", value)]), None).unwrap();
        assert!(!bound.predicate.matches(&rawdoc! { "name": "other" }));
        assert!(bound.predicate.matches(&rawdoc! { "name": value }));
    }
}

#[test]
fn names_with_a_meaning_are_passed_over() {
    for name in crate::config::RESERVED_QUERY {
        orders().bind(&query(&[("status", "new"), (name, "x")]), None).unwrap();
    }
}

#[test]
fn refusals() {
    let filter = orders();
    let long = "x".repeat(2000);
    let rows: &[(&[(&str, &str)], &str)] = &[
        (&[], "parameter `status`: missing"),
        (&[("status", "lost")], "parameter `status`: `lost` is not one of new, paid, shipped"),
        (&[("status", "")], "parameter `status`: `` is not one of new, paid, shipped"),
        (&[("status", &long)], "parameter `status`: longer than 1024 bytes"),
        (&[("status", "new"), ("status", "new")], "parameter `status`: given more than once"),
        (
            &[("status[$ne]", "x")],
            "parameter `status[$ne]`: brackets are not supported: write `status=a`, and \
             `status=a&status=b` for a list",
        ),
        (
            &[("status", "new"), ("kinds[]", "x")],
            "parameter `kinds[]`: brackets are not supported: write `kinds=a`, and \
             `kinds=a&kinds=b` for a list",
        ),
        (&[("staus", "new")], "parameter `staus`: not declared; did you mean `status`?"),
        (
            &[("status", "new"), ("$where", "1")],
            "parameter `$where`: not declared; this stream has status, total, kinds",
        ),
        (
            &[("status", "new"), ("total", "x")],
            "parameter `total`: `x` is not a whole number in the range of 32 bits",
        ),
        (&[("status", "new"), ("total", "-1")], "parameter `total`: `-1` is less than 0"),
        (&[("status", "new"), ("total", "101")], "parameter `total`: `101` is more than 100"),
        (
            &[("status", "new"), ("kinds", "abcde")],
            "parameter `kinds`: `abcde` is longer than 4 characters",
        ),
        (&[("status", "new"), ("kinds", &long)], "parameter `kinds`: longer than 4 characters"),
        (
            &[("status", "new"), ("kinds", "a"), ("kinds", "a1")],
            "parameter `kinds`: `a1` does not match [a-z]+",
        ),
    ];
    for (pairs, expected) in rows {
        assert_eq!(filter.bind(&query(pairs), None).unwrap_err().to_string(), *expected);
    }
    let many = vec![("kinds", "a"); 101];
    let pairs = [vec![("status", "new")], many].concat();
    assert_eq!(
        filter.bind(&query(&pairs), None).unwrap_err().to_string(),
        "parameter `kinds`: more than 100 values"
    );
    let name = "n".repeat(5000);
    assert!(filter.bind(&query(&[(&name, "x")]), None).unwrap_err().to_string().len() < 200);
    let without = good("");
    assert_eq!(
        without.bind(&query(&[("a", "b")]), None).unwrap_err().to_string(),
        "parameter `a`: this stream has no parameters"
    );
}

#[test]
fn the_pattern_is_for_the_whole_value() {
    let filter = good(
        "match: { a: { $param: a } }\n\
                       params: { a: { type: string, pattern: 'x|y' } }\n",
    );
    for (value, is_good) in [("x", true), ("y", true), ("xy", false), ("ax", false), ("x\n", false)]
    {
        assert_eq!(filter.bind(&query(&[("a", value)]), None).is_ok(), is_good, "{value:?}");
    }
}

#[test]
fn limits_compare_as_mongodb_does() {
    let filter = good(
        "match: { a: { $param: a }, b: { $param: b } }\n\
                       params:\n\
                       \x20 a: { type: decimal, min: 1.5, max: '10', default: { $numberDecimal: '2' } }\n\
                       \x20 b: { type: date, min: 2026-01-01T00:00:00Z, required: false }\n",
    );
    for (value, is_good) in [("1.50", true), ("1.49", false), ("9.99", true), ("1E1", true)] {
        assert_eq!(filter.bind(&query(&[("a", value)]), None).is_ok(), is_good, "{value}");
    }
    assert!(filter.bind(&query(&[("b", "2026-01-01T00:00:00Z")]), None).is_ok());
    assert!(filter.bind(&query(&[("b", "2025-12-31T23:59:59Z")]), None).is_err());
}

#[test]
fn the_declaration_as_json() {
    let json = orders().params.to_json().to_string();
    assert_eq!(
        json,
        r#"{"status":{"type":"string","required":true,"enum":["new","paid","shipped"]},"#
            .to_owned()
            + r#""total":{"type":"int","required":false,"default":10,"min":0,"max":100},"#
            + r#""kinds":{"type":["string"],"required":false,"maxLength":4,"pattern":"[a-z]+"}}"#
    );
}

proptest::proptest! {
    /// Whatever a client sends is bound or refused, and what is bound is bound the same again.
    #[test]
    fn any_query(
        pairs in proptest::collection::vec(
            (
                proptest::sample::select(vec!["status", "total", "kinds", "wait", "x", "kinds[]"]),
                "new|paid|[a-z]{1,4}|-?[0-9]{1,4}|\\PC{0,20}",
            ),
            0..6,
        ),
    ) {
        let filter = orders();
        let pairs: Vec<(String, String)> =
            pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let first = filter.bind(&pairs, None);
        let second = filter.bind(&pairs, None);
        match (first, second) {
            (Ok(first), Ok(second)) => {
                proptest::prop_assert_eq!(first.values(), second.values());
                proptest::prop_assert_eq!(first.predicate, second.predicate);
            }
            (first, second) => proptest::prop_assert_eq!(first.err(), second.err()),
        }
    }
}

#[test]
fn leaving_a_parameter_out_never_takes_a_claim_along() {
    let file = |matching: &str, param: &str| {
        format!(
            "collection: shop.orders\naccess: authenticated\nmatch: {matching}\n\
             params: {{ status: {{ type: string{param} }} }}\n"
        )
    };
    let of_claim = "{ $eq: [$customer, { $claim: sub }] }";
    let of_param = "{ $eq: [$status, { $param: status }] }";
    let together = [
        format!("{{ $expr: {{ $and: [{of_claim}, {of_param}] }} }}"),
        format!("{{ $expr: {{ $and: [{of_param}, {of_claim}] }} }}"),
        "{ owner: { is: { $claim: sub }, at: { $param: status } } }".to_owned(),
        "{ a: { $elemMatch: { b: { $in: [[{ $claim: sub }, { $param: status }]] } } } }".to_owned(),
    ];
    for matching in &together {
        let diagnostics = parse(&file(matching, ", required: false")).unwrap_err();
        assert!(shown(&diagnostics).contains("drops the whole condition, with `$claim: sub`"));
        parse(&file(matching, "")).unwrap();
        parse(&file(matching, ", default: new")).unwrap();
    }
    let apart = format!("{{ $and: [{{ $expr: {of_claim} }}, {{ $expr: {of_param} }}] }}");
    let filter = parse(&file(&apart, ", required: false")).unwrap();
    let claims = rawdoc! { "sub": "ada" };
    let bound = filter.bind(&[], Some(&claims)).unwrap();
    assert!(bound.predicate.matches(&rawdoc! { "customer": "ada", "status": "new" }));
    assert!(!bound.predicate.matches(&rawdoc! { "customer": "bob", "status": "new" }));
}

#[test]
fn claims_are_read_as_the_type_that_is_asked_for() {
    const HEX: &str = "507f1f77bcf86cd799439011";
    const OTHER: &str = "507f1f77bcf86cd799439012";
    let id = bson::oid::ObjectId::parse_str(HEX).unwrap();
    let uuid = "123e4567-e89b-42d3-a456-426614174000";
    let uuid_value = bson::Binary::from(bson::Uuid::parse_str(uuid).unwrap());
    let date = bson::DateTime::parse_rfc3339_str("2026-01-31T00:00:00Z").unwrap();
    let large = "18446744073709551615".parse::<bson::Decimal128>().unwrap();
    let file = |kind: &str| {
        parse(&format!(
            "collection: shop.orders\naccess: authenticated\n\
             match: {{ owner: {{ type: {kind}, $claim: org.id }} }}\n"
        ))
        .unwrap()
    };
    // The type, the claim, and a document that it matches: else a 403.
    let rows: &[(&str, Bson, Option<bson::RawDocumentBuf>)] = &[
        ("objectId", HEX.into(), Some(rawdoc! { "owner": id })),
        ("objectId", HEX.to_uppercase().into(), Some(rawdoc! { "owner": id })),
        ("objectId", vec![OTHER, HEX].into(), Some(rawdoc! { "owner": [id] })),
        ("objectId", vec![HEX, "x"].into(), None),
        ("objectId", Bson::Array(vec![HEX.into(), Bson::Null]), None),
        ("objectId", Bson::Array(vec![vec![HEX].into()]), None),
        ("objectId", "ada".into(), None),
        ("objectId", "".into(), None),
        ("objectId", Bson::Int32(7), None),
        ("objectId", bson::bson!({ "$oid": HEX }), None),
        ("objectId", bson::bson!({ "$gt": "" }), None),
        ("objectId", Bson::Null, None),
        ("uuid", uuid.into(), Some(rawdoc! { "owner": uuid_value })),
        ("uuid", HEX.into(), None),
        ("date", "2026-01-31T00:00:00Z".into(), Some(rawdoc! { "owner": date })),
        ("date", Bson::Int64(date.timestamp_millis()), Some(rawdoc! { "owner": date })),
        ("date", "yesterday".into(), None),
        ("int", "7".into(), Some(rawdoc! { "owner": 7 })),
        ("int", Bson::Double(7.0), Some(rawdoc! { "owner": 7 })),
        ("int", Bson::Double(7.5), None),
        ("int", Bson::Boolean(true), None),
        ("long", "4294967296".into(), Some(rawdoc! { "owner": 4_294_967_296_i64 })),
        ("long", Bson::Decimal128(large), None),
        ("double", "0.5".into(), Some(rawdoc! { "owner": 0.5 })),
        ("decimal", Bson::Decimal128(large), Some(rawdoc! { "owner": large })),
        (
            "decimal",
            Bson::Double(0.1),
            Some(rawdoc! { "owner": "0.1".parse::<bson::Decimal128>().unwrap() }),
        ),
        ("bool", "true".into(), Some(rawdoc! { "owner": true })),
        ("bool", Bson::Boolean(true), Some(rawdoc! { "owner": true })),
        ("bool", Bson::Int32(1), None),
        ("string", Bson::Int32(7), Some(rawdoc! { "owner": "7" })),
        ("string", Bson::Boolean(true), None),
        ("string", Bson::Array(vec![]), Some(rawdoc! {})),
    ];
    for (kind, claim, document) in rows {
        let filter = file(kind);
        let claims =
            rawdoc! { "org": { "id": bson::raw::RawBson::try_from(claim.clone()).unwrap() } };
        assert_eq!(filter.may_open(Some(&claims)), document.is_some(), "{kind} {claim}");
        match (filter.bind(&[], Some(&claims)), document) {
            (Ok(bound), Some(document)) if document.is_empty() => {
                assert!(!bound.predicate.matches(document), "{kind} {claim}");
            }
            (Ok(bound), Some(document)) => {
                assert!(bound.predicate.matches(document), "{kind} {claim}");
                assert!(!bound.predicate.matches(&rawdoc! {}), "{kind} {claim}");
            }
            (Err(error), None) => {
                assert_eq!(error.status(), 403, "{kind} {claim}");
                let said = error.to_string();
                assert!(said.contains("`org.id`") && !said.contains("ada"), "{said}");
            }
            (outcome, _) => panic!("{kind} {claim}: {outcome:?}"),
        }
    }
}

#[test]
fn a_typed_list_fits_where_a_set_does() {
    let claims = rawdoc! { "teams": ["507f1f77bcf86cd799439011", "507f1f77bcf86cd799439012"] };
    let team = bson::oid::ObjectId::parse_str("507f1f77bcf86cd799439012").unwrap();
    let claim = "{ $claim: teams, type: objectId }";
    let rows = [
        (format!("{{ team: {claim} }}"), Some(true)),
        (format!("{{ team: {{ $in: {claim} }} }}"), Some(true)),
        (format!("{{ team: {{ $nin: {claim} }} }}"), Some(false)),
        (format!("{{ team: {{ $ne: {claim} }} }}"), Some(false)),
        (format!("{{ team: {{ $gte: {claim} }} }}"), None),
        (format!("{{ team: {{ $in: [{claim}] }} }}"), None),
        (format!("{{ $expr: {{ $eq: [$team, {claim}] }} }}"), None),
    ];
    for (matching, expected) in rows {
        let text = format!("collection: shop.orders\naccess: authenticated\nmatch: {matching}\n");
        let filter = parse(&text).unwrap_or_else(|found| panic!("{text}\n{}", shown(&found)));
        let bound = filter.bind(&[], Some(&claims));
        let found =
            bound.as_ref().ok().map(|bound| bound.predicate.matches(&rawdoc! { "team": team }));
        assert_eq!(found, expected, "{matching}: {bound:?}");
    }
}

/// Different readings of one claim are different values: nobody shares a route with another type.
#[test]
fn a_claim_and_its_reading_are_told_apart() {
    let file = |kind: &str| {
        parse(&format!(
            "collection: shop.orders\naccess: authenticated\nmatch: {{ a: {{ $claim: sub{kind} }} }}\n"
        ))
        .unwrap()
    };
    let claims = rawdoc! { "sub": "507f1f77bcf86cd799439011" };
    let bind = |filter: &Filter| filter.bind(&[], Some(&claims)).unwrap();
    let (text, id) = (file(""), file(", type: objectId"));
    assert_ne!(bind(&text).values(), bind(&id).values());
    assert_eq!(bind(&id).values().iter(&id).next().unwrap().0, "$claim sub as objectId");
}

/// Who listens by a file that says the same in another order shares the routes, and gets no others.
#[test]
fn the_order_in_a_file_is_none_of_the_values() {
    let file = |conditions: [&str; 3], params: [&str; 2]| {
        parse(&format!(
            "collection: shop.orders\naccess: authenticated\nmatch: {{ {} }}\nparams: {{ {} }}\n",
            conditions.join(", "),
            params.join(", ")
        ))
        .unwrap()
    };
    let [p, q] = ["p: { type: int }", "q: { type: int }"];
    let [a, b, c] =
        ["a: { $param: p }", "b: { $param: q }", "c: { $in: [{ $claim: x }, { $claim: y }] }"];
    let swapped = "c: { $in: [{ $claim: y }, { $claim: x }] }";
    let (one, other) = (file([a, b, c], [p, q]), file([swapped, b, a], [q, p]));
    assert_eq!(one.meaning, other.meaning);
    let bind = |filter: &Filter, pairs: [(&str, &str); 2], x: i32, y: i32| {
        filter.bind(&query(&pairs), Some(&rawdoc! { "x": x, "y": y })).unwrap().values().clone()
    };
    let bound = bind(&one, [("p", "1"), ("q", "2")], 3, 4);
    assert_eq!(bound, bind(&other, [("p", "1"), ("q", "2")], 3, 4));
    assert_ne!(bound, bind(&other, [("p", "2"), ("q", "1")], 3, 4));
    assert_ne!(bound, bind(&other, [("p", "1"), ("q", "2")], 4, 3));
    assert_eq!(bound.query(&one), query(&[("p", "1"), ("q", "2")]));
}

#[test]
fn access_reads_claims_as_what_they_are_compared_with() {
    const ROOM: &str = "507f1f77bcf86cd799439011";
    const TENANT: &str = "123e4567-e89b-42d3-a456-426614174000";
    let file = |access: &str| {
        parse(&format!(
            "collection: chat.messages\noperations: [insert]\nmatch: {{ room: {{ $param: room }} }}\n\
             params: {{ room: {{ type: objectId }} }}\naccess: {{ match: {access} }}\n"
        ))
        .unwrap_or_else(|found| panic!("{}", shown(&found)))
    };
    let member = rawdoc! { "rooms": [ROOM, "lobby"], "org": { "tenant": TENANT }, "teams": [{ "id": ROOM }] };
    let stranger = rawdoc! { "rooms": ["lobby", 7, null], "org": { "tenant": "x" } };
    let nobody = rawdoc! {};
    let operator = rawdoc! { "rooms": { "$ne": null } };
    for access in [
        "{ rooms: { $param: room } }",
        "{ rooms: { $in: [{ $param: room }] } }",
        "{ $or: [{ rooms: { $param: room } }, { role: admin }] }",
        "{ teams: { $elemMatch: { id: { $param: room } } } }",
        "{ teams.id: { $param: room } }",
        "{ org.tenant: { $uuid: 123e4567-e89b-42d3-a456-426614174000 } }",
        "{ org: { tenant: { $uuid: 123e4567-e89b-42d3-a456-426614174000 } } }",
        "{ rooms: { $oid: 507f1f77bcf86cd799439011 } }",
    ] {
        let filter = file(access);
        let bind = |claims| filter.bind(&query(&[("room", ROOM)]), Some(claims)).map(|_| ());
        assert_eq!(bind(&member), Ok(()), "{access}");
        for claims in [&stranger, &nobody, &operator] {
            assert_eq!(bind(claims), Err(BindError::NotAdmitted), "{access} {claims:?}");
        }
    }
    let excluded = file("{ rooms: { $nin: [{ $param: room }] } }");
    assert!(excluded.bind(&query(&[("room", ROOM)]), Some(&member)).is_err());
}
