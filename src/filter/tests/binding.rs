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
    let values: Vec<_> = bound.values.iter().map(|(name, value)| (name, value.cloned())).collect();
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
    assert_eq!(one.values, other.values);
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
    let pairs = [("status", "new"), ("lastEventId", "x"), ("wait", "20s"), ("stream", "a")];
    orders().bind(&query(&pairs), None).unwrap();
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
            "parameter `status[$ne]`: brackets have no meaning here: write `status=a`, and \
             `status=a&status=b` for a list",
        ),
        (
            &[("status", "new"), ("kinds[]", "x")],
            "parameter `kinds[]`: brackets have no meaning here: write `kinds=a`, and \
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
                proptest::prop_assert_eq!(first.values, second.values);
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
        assert!(shown(&diagnostics).contains("`$claim: sub` with the whole condition"));
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
