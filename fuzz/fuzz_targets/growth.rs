//! Filter files that are long: no mistake and no repetition may cost the square of their number.
//!
//! The input is `head FF unit FF tail`, which no text contains. The unit is repeated until the file
//! has 64 KiB; in it, FE stands for the number of the repetition. What takes too long or too much
//! memory is for libFuzzer's limits to say.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sidestream_fuzz::filter::parse_filter;

const LENGTH: usize = 64 * 1024;

fuzz_target!(|input: &[u8]| {
    let mut parts = input.splitn(3, |byte| *byte == 0xff);
    let (Some(head), Some(unit), Some(tail)) = (parts.next(), parts.next(), parts.next()) else {
        return;
    };
    if unit.is_empty() {
        return;
    }
    let mut text = head.to_vec();
    for number in 0.. {
        if text.len() + unit.len() + tail.len() > LENGTH {
            break;
        }
        for byte in unit {
            match byte {
                0xfe => text.extend_from_slice(number.to_string().as_bytes()),
                byte => text.push(*byte),
            }
        }
    }
    text.extend_from_slice(tail);
    let Ok(text) = String::from_utf8(text) else { return };
    match parse_filter("fuzzed", Path::new("fuzzed.yaml"), &text) {
        Ok(filter) => {
            let _ = filter.bind(&[], None);
        }
        Err(mistakes) => {
            for mistake in mistakes {
                let _ = mistake.to_string();
            }
        }
    }
});
