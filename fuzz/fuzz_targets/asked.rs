//! What a request on the reserved path asks for: streams under names that differ, as many as may be, each
//! with parameters of its own.
//!
//! The input is what follows the prefix, the query, `Last-Event-ID` and `Accept`, a line each.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sidestream_fuzz::api::negotiation;
use sidestream_fuzz::api::wanted::{self, Wanted};
use sidestream_fuzz::event::seal::Ids;
use sidestream_fuzz::path;

const MOST: usize = 100;
/// So many share an id.
const SHARED: usize = 32;

fuzz_target!(|input: &[u8]| {
    let mut lines = input.splitn(4, |byte| *byte == b'\n');
    let mut next = || lines.next().unwrap_or_default();
    let (rest, query, id, accept) = (next(), next(), next(), next());
    if let Some(chosen) = negotiation::choose(&[accept]) {
        // The same in two fields.
        let all: Vec<&[u8]> = accept.split(|byte| *byte == b',').collect();
        assert_eq!(negotiation::choose(&all), Some(chosen));
    }
    let Ok(rest) = std::str::from_utf8(rest) else { return };
    let pairs = path::pairs_of(query);
    let count = pairs.len();
    let id = (!id.is_empty()).then_some(id);
    let Ok(wanted) = wanted::of(rest, pairs.clone(), id, MOST, &Ids::Token) else { return };
    match wanted {
        Wanted::One(stream) => {
            assert_eq!((stream.label.stream(), stream.query), (rest, pairs));
            assert!(id.is_none() || !stream.is_since);
        }
        Wanted::Many(streams) => {
            assert!(rest.is_empty() && (1..=SHARED).contains(&streams.len()));
            let mut names: Vec<&str> = streams.iter().map(|stream| stream.label.name()).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), streams.len(), "a name stands for two");
            let values: usize = streams.iter().map(|stream| stream.query.len()).sum();
            assert!(values + streams.len() <= count, "parameters come out of nowhere");
        }
    }
});
