//! The exact text of every diagnostic: the cases are in `diagnostics.txt`, each a filter file, a
//! line `---`, and what is said about it.

use super::*;

const CASES: &str = include_str!("diagnostics.txt");

/// `BLESS=1` writes what is said now into the file, to be read by eye before it is committed.
#[test]
fn exact_texts() {
    let (head, cases) = CASES.split_once("=== ").unwrap();
    let mut now = head.to_owned();
    let mut count = 0;
    for case in cases.split("\n=== ") {
        let (title, case) = case.split_once('\n').unwrap();
        let (text, _) = case.split_once("---\n").unwrap();
        let file = if title.ends_with("(json)") { "orders.json" } else { "orders.yaml" };
        let told = match parse_filter("orders", Path::new(file), text) {
            Ok(filter) => filter.warnings,
            Err(diagnostics) => diagnostics,
        };
        // Each says what to do, not only what is wrong.
        for one in &told {
            assert!(one.hint.is_some(), "{title}: {one}");
        }
        let found = shown(&told);
        let gap = if count == 0 { "" } else { "\n" };
        let end = if found.is_empty() { "" } else { "\n" };
        now.push_str(&format!("{gap}=== {title}\n{text}---\n{found}{end}"));
        count += 1;
    }
    assert!(count > 150, "only {count} cases were found");
    if std::env::var_os("BLESS").is_some() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/filter/tests/diagnostics.txt");
        std::fs::write(file, &now).unwrap();
        return;
    }
    for (now, written) in now.split("\n=== ").zip(CASES.split("\n=== ")) {
        assert_eq!(now.trim(), written.trim());
    }
}

#[test]
fn a_filter_with_warnings_is_good() {
    let filter = good("match: { a: 1 }\nfullDocument: default\n");
    assert_eq!(filter.warnings.len(), 2);
    assert!(!filter.warnings.iter().any(Diagnostic::is_error));
}

#[test]
fn an_error_is_never_without_a_diagnostic() {
    for text in ["", "[]", "x", "{", "a: 1", "access: public", "collection: a.b", "\0", "\u{feff}"]
    {
        assert!(parse(text).unwrap_err().iter().any(Diagnostic::is_error), "{text:?}");
    }
}

proptest::proptest! {
    /// Whatever the file, there is a filter or an error, and the error can be shown.
    #[test]
    fn any_text(
        lines in proptest::collection::vec(
            "(collection|access|match|params|project|operations|fullDocument): \
             (a\\.b|public|\\{ [a-z$]{1,5}: [a-z0-9$]{0,5} \\}|\\[[a-z]{0,3}\\]|\\PC{0,12})",
            0..6,
        ),
    ) {
        if let Err(diagnostics) = parse(&lines.join("\n")) {
            proptest::prop_assert!(diagnostics.iter().any(Diagnostic::is_error));
            shown(&diagnostics);
        }
    }
}
