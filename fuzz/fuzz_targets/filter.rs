//! A filter file: any text is a filter or a list of mistakes, each with a place inside the text.

#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use bson::{RawDocumentBuf, rawdoc};
use libfuzzer_sys::fuzz_target;
use sidestream_fuzz::diagnostic::Source;
use sidestream_fuzz::filter::parse_filter;

/// Some of every kind, under the names that the seeds use.
static DOCUMENTS: LazyLock<[RawDocumentBuf; 3]> = LazyLock::new(|| {
    [
        rawdoc! {},
        rawdoc! { "_id": 1, "a": [1, 2.5, "x", { "b": [3] }], "b": null, "c": "xyz" },
        rawdoc! { "_id": "1", "a": { "b": 7_i64, "0": true }, "b": [[]], "c": f64::NAN },
    ]
});

static CLAIMS: LazyLock<RawDocumentBuf> =
    LazyLock::new(|| rawdoc! { "sub": "x", "a": ["b", 1], "org": { "id": 7, "b": null } });

fuzz_target!(|text: &str| {
    match parse_filter("fuzzed", Path::new("fuzzed.yaml"), text) {
        Ok(filter) => {
            // Without parameters: bound, or refused for one that is missing.
            let _ = (filter.bind(&[], None), filter.may_open(None));
            let _ = filter.may_open(Some(&CLAIMS));
            if let Ok(bound) = filter.bind(&[], Some(&CLAIMS)) {
                let again = filter.bind(&[], Some(&CLAIMS)).expect("bound before");
                assert_eq!(bound.predicate, again.predicate);
                for document in DOCUMENTS.iter() {
                    bound.predicate.matches(document);
                    bound.predicate.matches_key(document);
                }
            }
            let _ = filter.params.to_json().to_string();
        }
        Err(mistakes) => {
            assert!(mistakes.iter().any(|mistake| mistake.is_error()), "refused without a reason");
            let lines = text.lines().count().max(1);
            for mistake in &mistakes {
                let Source::File { place, .. } = &mistake.origin else { panic!("{mistake:?}") };
                assert!((1..=lines).contains(&place.line), "{mistake:?}");
                assert!(place.column >= 1 && place.width >= 1, "{mistake:?}");
                assert!(mistake.source_column <= mistake.source.chars().count() + 1, "{mistake:?}");
                assert!(!mistake.to_string().is_empty());
            }
        }
    }
});
