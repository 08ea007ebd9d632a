//! Examples in filter files, and `explain --event`: what is said of a change is what a client gets.

use std::path::Path;
use std::process::{Command, Output};

use sidestream::filter;
use sidestream::session::examples;

use crate::support::sidecar::Filters;

const ORDERS: &str = "\
collection: shop.orders
match: { customer: { $claim: sub, type: objectId }, status: { $param: status }, total: { $gte: 0 } }
params: { status: { type: string, enum: [new, paid, shipped], required: false } }
project: { status: 1, total: 1, items.sku: 1 }
fullDocumentBeforeChange: whenAvailable
access: authenticated
examples:
";

const ADA: &str = "507f1f77bcf86cd799439011";

fn run(directory: &Path, arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_sidestream");
    Command::new(program).args(arguments).current_dir(directory).output().unwrap()
}

/// What `check` says of a file with these examples, from the first line that is about them.
fn checked(examples: &str) -> (bool, String) {
    let filters = Filters::new(&[("orders", &format!("{ORDERS}{examples}"))]);
    let output = run(filters.path(), &["check", "."]);
    let said = String::from_utf8(output.stdout).unwrap();
    let without_auth =
        said.split("\n\n").filter(|said| !said.contains("no caller can be authenticated"));
    (output.status.success(), without_auth.collect::<Vec<_>>().join("\n\n"))
}

#[test]
fn good_examples() {
    let examples = format!(
        "  - name: a paid order of the caller
    claims: {{ sub: {ADA} }}
    params: {{ status: paid }}
    after: {{ _id: 1, customer: {{ $oid: {ADA} }}, status: paid, total: 3, secret: x, items: [{{ sku: a, price: 1 }}] }}
    expect: enter
    shows: {{ _id: 1, status: paid, total: 3, items: [{{ sku: a }}] }}
  - name: it is shipped
    claims: {{ sub: {ADA} }}
    params: {{ status: paid }}
    before: {{ _id: 1, customer: {{ $oid: {ADA} }}, status: paid, total: 3 }}
    after: {{ _id: 1, customer: {{ $oid: {ADA} }}, status: shipped, total: 3 }}
    expect: leave
    shows: {{ _id: 1, status: paid, total: 3 }}
  - name: its total changes
    claims: {{ sub: {ADA} }}
    before: {{ _id: 1, customer: {{ $oid: {ADA} }}, status: paid, total: 3 }}
    after: {{ _id: 1, customer: {{ $oid: {ADA} }}, status: paid, total: 4 }}
    expect: stay
  - name: it is deleted
    claims: {{ sub: {ADA} }}
    before: {{ _id: 1, customer: {{ $oid: {ADA} }}, status: paid, total: 3 }}
    expect: leave
  - name: of somebody else
    claims: {{ sub: 507f1f77bcf86cd799439012 }}
    after: {{ _id: 1, customer: {{ $oid: {ADA} }}, status: paid, total: 3 }}
    expect: none
  - name: nobody is signed in
    after: {{ _id: 1, customer: {{ $oid: {ADA} }}, status: paid, total: 3 }}
    expect: none
  - claims: {{ sub: {ADA} }}
    operation: replace
    before: {{ _id: 1 }}
    after: {{ _id: 1, customer: {{ $oid: {ADA} }}, total: 0 }}
    expect: enter
"
    );
    assert_eq!(checked(&examples), (true, "1 filter, 7 examples: 1 warning\n".to_owned()));
}

#[test]
fn a_failing_example_shows_what_decided_and_a_difference() {
    let rows: &[(String, &str)] = &[
        (
            format!(
                "  - {{ name: other status, claims: {{ sub: {ADA} }}, params: {{ status: paid }}, after: {{ _id: 1, customer: {{ $oid: {ADA} }}, status: new, total: 1 }}, expect: enter }}\n"
            ),
            "error: other status: expected enter, got none\n",
        ),
        (
            format!(
                "  - {{ claims: {{ sub: {ADA} }}, params: {{ status: paid }}, after: {{ _id: 1, customer: {{ $oid: {ADA} }}, status: new, total: 1 }}, expect: enter }}\n"
            ),
            "hint: {\"status\":\"paid\"} does not hold: the value is \"new\"\n",
        ),
        (
            format!(
                "  - {{ claims: {{ sub: {ADA} }}, after: {{ _id: 1, customer: {ADA}, total: 1 }}, expect: enter }}\n"
            ),
            "hint: {\"customer\":{\"$oid\":\"507f1f77bcf86cd799439011\"}} does not hold: the value is \"507f1f77bcf86cd799439011\"\n",
        ),
        (
            format!(
                "  - {{ claims: {{ sub: {ADA} }}, after: {{ _id: 1, customer: {{ $oid: {ADA} }} }}, expect: enter }}\n"
            ),
            "hint: {\"total\":{\"$gte\":0}} does not hold: the field is missing\n",
        ),
        (
            format!(
                "  - {{ claims: {{ sub: {ADA} }}, before: {{ _id: 1 }}, after: {{ _id: 1, customer: {{ $oid: {ADA} }}, total: 1 }}, expect: stay }}\n"
            ),
            "error: example 1: expected stay, got enter\n",
        ),
        (
            format!(
                "  - {{ claims: {{ sub: {ADA} }}, after: {{ _id: 1, customer: {{ $oid: {ADA} }}, total: 1 }}, expect: none }}\n"
            ),
            "hint: all conditions hold, so the insert is sent\n",
        ),
        (
            "  - { after: { _id: 1 }, expect: enter }\n".to_owned(),
            "error: example 1: expected enter, but the caller is refused: this stream is for \
             signed-in users only\n",
        ),
        (
            format!(
                "  - {{ claims: {{ sub: ada }}, after: {{ _id: 1, customer: {{ $oid: {ADA} }} }}, expect: enter }}\n"
            ),
            "the caller is refused: this stream needs an ObjectId of 24 hexadecimal digits in the claim `sub`",
        ),
        (
            format!(
                "  - {{ claims: {{ sub: {ADA} }}, params: {{ status: lost }}, after: {{ _id: 1 }}, expect: none }}\n"
            ),
            "error: example 1: parameter `status`: `lost` is not one of new, paid, shipped\n",
        ),
        (
            format!(
                "  - claims: {{ sub: {ADA} }}\n    after: {{ _id: 1, customer: {{ $oid: {ADA} }}, total: 1, status: new }}\n    expect: enter\n    shows: {{ _id: 1, total: 2, customer: x }}\n"
            ),
            "hint: - expected, + sent\n    - total: 2\n    + total: 1\n    - customer: \"x\"\n    + status: \"new\"\n",
        ),
        (
            format!(
                "  - {{ claims: {{ sub: {{ $oid: {ADA} }} }}, after: {{ _id: 1 }}, expect: none }}\n"
            ),
            "error: claims are JSON, which has no such type\n",
        ),
        ("  - { after: { _id: 1 }, expect: entre }\n".to_owned(), "hint: did you mean `enter`?\n"),
        ("  - { after: { _id: 1 } }\n".to_owned(), "error: the example has no `expect`\n"),
        ("  - { expect: none }\n".to_owned(), "error: the example has no document\n"),
        (
            "  - { operation: delete, after: { _id: 1 }, expect: none }\n".to_owned(),
            "error: a delete needs `before`\n",
        ),
        ("  - { aftr: { _id: 1 }, expect: none }\n".to_owned(), "hint: did you mean `after`?\n"),
        (
            "  { after: { _id: 1 } }\n".to_owned(),
            "error: `examples` must be a list, not a mapping\n",
        ),
    ];
    for (examples, expected) in rows {
        let (is_good, said) = checked(examples);
        assert!(!is_good && said.contains(expected), "{examples}\n{said}");
    }
}

/// The files that are shown and shipped keep what their examples say.
#[test]
fn shipped_files_keep_their_examples() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let loaded = filter::load_directory(&root.join("filters"));
    assert!(loaded.broken.is_empty() && loaded.filters.0.len() >= 2);
    let (count, failed) = examples::run(&loaded.filters);
    assert!(count >= 4, "{count} examples");
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn one_event_is_explained() {
    let filters = Filters::new(&[("orders", ORDERS.trim_end_matches("examples:\n"))]);
    std::fs::write(filters.path().join("event.txt"), "").unwrap();
    let explain = |event: &str, more: &[&str]| {
        std::fs::write(filters.path().join("event.txt"), event).unwrap();
        let claim = format!("sub={ADA}");
        let fixed =
            ["explain", "orders", "--filters", ".", "--claim", &claim, "--event", "event.txt"];
        let output = run(filters.path(), &[&fixed[..], more].concat());
        let said = if output.status.success() { output.stdout } else { output.stderr };
        String::from_utf8(said).unwrap()
    };
    let order = format!("{{ _id: 1, customer: {{ $oid: {ADA} }}, status: new, total: 1 }}");
    let said = explain(&order, &[]);
    assert!(said.starts_with("sent: insert, view enter\n{\n"), "{said}");
    assert_eq!(
        explain(&order, &["--param", "status=paid"]),
        "not sent: {\"status\":\"paid\"} does not hold: the value is \"new\"\n"
    );
    let pair = format!(
        "before: {order}\nafter: {{ _id: 1, customer: {{ $oid: {ADA} }}, status: paid, total: 1 }}\n"
    );
    assert!(explain(&pair, &[]).starts_with("sent: update, view stay\n"));
    assert!(explain(&pair, &["--param", "status=new"]).starts_with("sent: update, view leave\n"));
    let hidden = format!(
        "before: {order}\nafter: {{ _id: 1, customer: {{ $oid: {ADA} }}, status: new, total: -1 }}\n"
    );
    assert!(explain(&hidden, &[]).starts_with("sent: update, view leave\n"));
    assert!(explain(&format!("before: {order}\n"), &[]).starts_with("sent: delete, view leave\n"));

    // As `tail` prints it.
    let event = format!(
        r#"{{"id":"8266","event":"update","data":{{"operationType":"update","ns":{{"db":"shop","coll":"orders"}},"documentKey":{{"_id":1}},"fullDocument":{{"_id":1,"customer":{{"$oid":"{ADA}"}},"status":"new","total":1}},"updateDescription":{{"updatedFields":{{"status":"new"}},"removedFields":[]}},"clusterTime":{{"$timestamp":{{"t":1,"i":1}}}},"wallTime":{{"$date":"2026-01-31T00:00:00Z"}}}}}}"#
    );
    assert!(explain(&event, &[]).starts_with("sent: update\n"));
    // Of which `project` has hidden what the conditions need.
    let owner = format!(r#""customer":{{"$oid":"{ADA}"}},"#);
    let said = explain(&event.replace(&owner, ""), &[]);
    assert!(
        said.contains("the field is missing\nnote: `tail` prints what `project` shows"),
        "{said}"
    );
    let other = event.replace("\"coll\":\"orders\"", "\"coll\":\"bills\"");
    assert_eq!(explain(&other, &[]), "not sent: the event is about the collection `bills`\n");
    let delete = r#"{"operationType":"delete","documentKey":{"_id":1}}"#;
    assert_eq!(
        explain(delete, &[]),
        "not sent: a delete carries no document, and its key alone does not decide\n"
    );
    let told: serde_json::Value =
        serde_json::from_str(&explain(&order, &["--param", "status=paid", "--output", "json"]))
            .unwrap();
    assert_eq!(told["sent"], false);
    assert_eq!(told["condition"], "{\"status\":\"paid\"}");
    assert_eq!(told["saw"], serde_json::json!(["\"new\""]));
    let told: serde_json::Value =
        serde_json::from_str(&explain(&order, &["--output", "json"])).unwrap();
    assert_eq!(
        (&told["sent"], &told["view"]),
        (&serde_json::json!(true), &serde_json::json!("enter"))
    );

    // Nothing is sent to a caller who may not open the stream.
    let staff = "collection: shop.orders\naccess: { match: { role: admin } }\n";
    filters.write("staff", staff);
    let of = |claims: &[&str]| {
        std::fs::write(filters.path().join("order.txt"), &order).unwrap();
        let fixed = ["explain", "staff", "--filters", ".", "--event", "order.txt"];
        let output = run(filters.path(), &[&fixed[..], claims].concat());
        String::from_utf8(output.stdout).unwrap()
    };
    let refused = "not sent: the caller may not open the stream: `access` does not hold\n";
    assert_eq!(of(&["--claim", "role=user"]), refused);
    assert!(of(&["--claim", "role=admin"]).starts_with("sent: insert\n"));
    assert!(of(&[]).starts_with("sent: insert\n"));

    for (event, said) in [
        ("", "the file is empty"),
        ("[1]", "not a document"),
        ("{ a: yes }", "`yes` is a truth value"),
        (r#"{"operationType":"drop"}"#, "an event of the type `drop` is not judged by a filter"),
    ] {
        let found = explain(event, &[]);
        assert!(found.contains(said), "{event}: {found}");
    }
}

// A file as the first one that somebody writes: with the word for a document that comes into view, and without
// the images that would tell of views.
#[test]
fn a_view_that_nobody_is_told_of_is_an_event() {
    let order = |expect: &str| {
        format!(
            "collection: shop.orders\nmatch: {{ status: paid }}\naccess: public\n\
             operations: [insert, update, replace]\nexamples:\n  \
             - {{ after: {{ _id: 1, status: paid }}, expect: {expect} }}\n"
        )
    };
    let check = |expect: &str, more: &[&str]| {
        let filters = Filters::new(&[("orders", &order(expect))]);
        let output = run(filters.path(), &[&["check", "."], more].concat());
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    for view in ["enter", "stay"] {
        let (code, said) = check(view, &[]);
        assert_eq!(code, Some(0), "{said}");
        let told = format!("warning: `{view}` needs before-images, and means `sent` without\n");
        assert!(said.contains(&told), "{said}");
        assert!(said.ends_with("1 filter, 1 example: 1 warning\n"), "{said}");
        assert_eq!(check(view, &["--strict"]).0, Some(1));
    }
    assert_eq!(check("sent", &["--strict"]).0, Some(0));
    let (code, said) = check("leave", &[]);
    assert!(code == Some(1) && said.contains("error: `leave` needs before-images\n"), "{said}");
}
