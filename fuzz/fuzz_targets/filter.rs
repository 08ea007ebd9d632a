//! A filter file: any text is a filter or a list of mistakes, each with a place inside the text.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sidestream_fuzz::filter::parse_filter;

fuzz_target!(|text: &str| {
    match parse_filter("fuzzed", Path::new("fuzzed.yaml"), text) {
        Ok(filter) => {
            // No parameters: bound, or a refusal.
            let _ = filter.bind(&[]);
        }
        Err(mistakes) => {
            assert!(!mistakes.is_empty(), "refused without a reason");
            for mistake in mistakes {
                assert!(!mistake.to_string().is_empty());
            }
        }
    }
});
