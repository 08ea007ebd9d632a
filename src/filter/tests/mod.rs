//! Whole files: what becomes of good ones, and the exact text about bad ones.

mod binding;
mod diagnostics;
mod directory;
mod growth;

use std::path::Path;

use super::*;

pub(super) fn parse(text: &str) -> Result<Filter, Vec<Diagnostic>> {
    parse_filter("orders", Path::new("orders.yaml"), text)
}

/// A filter on `shop.orders` that everyone may open, with the rest of its file.
pub(crate) fn good(text: &str) -> Filter {
    let text = format!("collection: shop.orders\naccess: public\n{text}");
    parse(&text).unwrap_or_else(|diagnostics| panic!("{text}\n{}", shown(&diagnostics)))
}

pub(super) fn shown(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_least_filter() {
    let filter = good("");
    assert_eq!(filter.name, "orders");
    assert_eq!(filter.description, None);
    assert_eq!(filter.namespace.to_string(), "shop.orders");
    assert_eq!(filter.operations, Operations::ALL);
    assert!(filter.template.is_empty());
    assert!(filter.params.is_empty());
    assert!(filter.projection.is_none());
    assert_eq!(filter.full_document, FullDocument::UpdateLookup);
    assert_eq!(filter.before_image, FullDocumentBeforeChange::Off);
    assert!(matches!(filter.access, Access::Public));
    assert_eq!(filter.snapshot(), None);
    assert_eq!(good("snapshot: true\n").snapshot(), Some("orders"));
    assert!(filter.warnings.is_empty());
}

#[test]
fn everything() {
    let filter = parse(
        "description: Orders\n\
         collection: shop.*\n\
         operations: [insert, delete]\n\
         match: { customer: { $param: who }, total: { $gte: 0 } }\n\
         params: { who: { type: objectId } }\n\
         project: { status: 1, items.sku: 1 }\n\
         fullDocument: required\n\
         fullDocumentBeforeChange: whenAvailable\n\
         access: public\n",
    )
    .unwrap();
    assert_eq!(filter.description.as_deref(), Some("Orders"));
    assert_eq!(filter.namespace.collection, None);
    assert_eq!(filter.operations.names().collect::<Vec<_>>(), ["insert", "delete"]);
    assert!(filter.operations.contains(OperationType::Delete));
    assert!(!filter.operations.contains(OperationType::Update));
    assert!(!filter.operations.contains(OperationType::Drop));
    assert!(filter.projection.is_some());
    assert_eq!(filter.full_document, FullDocument::Required);
    assert_eq!(filter.before_image, FullDocumentBeforeChange::WhenAvailable);
    assert!(filter.warnings.is_empty());
}

#[test]
fn off_is_a_word_here() {
    assert_eq!(good("fullDocumentBeforeChange: off\n").before_image, FullDocumentBeforeChange::Off);
}

#[test]
fn json_is_the_same() {
    let text = "{\n\t\"collection\": \"shop.orders\",\n\t\"access\": \"public\",\n\
                \t\"match\": {\"_id\": {\"$oid\": \"0123456789abcdef01234567\"}}\n}\n";
    assert!(parse(text).unwrap().warnings.is_empty());
}

#[test]
fn other_editors_are_welcome() {
    for text in [
        "\u{feff}collection: shop.orders\naccess: public\n",
        "collection: shop.orders\r\naccess: public\r\n",
        "collection: shop.orders\raccess: public",
        "---\ncollection: shop.orders\naccess: public\n...\n",
    ] {
        parse(text).unwrap_or_else(|diagnostics| panic!("{text:?}\n{}", shown(&diagnostics)));
    }
}

#[test]
fn extended_json_in_match() {
    use bson::{Bson, doc, oid::ObjectId};
    let id = ObjectId::parse_str("0123456789abcdef01234567").unwrap();
    let rows: &[(&str, Bson)] = &[
        ("{ $oid: 0123456789abcdef01234567 }", Bson::ObjectId(id)),
        ("{ $date: 2026-01-31T00:00:00Z }", {
            Bson::DateTime(bson::DateTime::parse_rfc3339_str("2026-01-31T00:00:00Z").unwrap())
        }),
        ("{ $date: 5 }", Bson::DateTime(bson::DateTime::from_millis(5))),
        ("{ $date: { $numberLong: '-5' } }", Bson::DateTime(bson::DateTime::from_millis(-5))),
        ("{ $numberInt: '5' }", Bson::Int32(5)),
        ("{ $numberLong: '5' }", Bson::Int64(5)),
        ("{ $numberDouble: '5' }", Bson::Double(5.0)),
        ("{ $numberDecimal: '1.50' }", Bson::Decimal128("1.50".parse().unwrap())),
        ("{ $timestamp: { t: 1, i: 2 } }", {
            Bson::Timestamp(bson::Timestamp { time: 1, increment: 2 })
        }),
        ("{ $minKey: 1 }", Bson::MinKey),
        ("{ $binary: { base64: AQI=, subType: '80' } }", {
            Bson::Binary(bson::Binary {
                subtype: bson::spec::BinarySubtype::UserDefined(0x80),
                bytes: vec![1, 2],
            })
        }),
        ("5", Bson::Int32(5)),
        ("2147483648", Bson::Int64(2_147_483_648)),
        ("5.0", Bson::Double(5.0)),
        ("'5'", Bson::String("5".into())),
        ("true", Bson::Boolean(true)),
        ("[a, { b: 1 }]", Bson::Array(vec!["a".into(), doc! { "b": 1 }.into()])),
    ];
    for (text, expected) in rows {
        let node = crate::yaml::parse(text).unwrap().unwrap();
        let mut reporter = crate::diagnostic::Reporter::new(Path::new("a"), text);
        assert_eq!(literal::any(&node, &mut reporter).as_ref(), Some(expected), "{text}");
        assert!(reporter.diagnostics.is_empty());
    }
}
