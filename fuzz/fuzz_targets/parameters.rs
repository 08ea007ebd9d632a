//! What clients send: any query is bound to typed values, or refused; any id is a position, or none.

#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sidestream_fuzz::event::Position;
use sidestream_fuzz::filter::{Filter, parse_filter};
use sidestream_fuzz::path;

const FILTER: &str = r#"
collection: shop.orders
access: public
operations: [insert]
match:
  a: { $param: text }
  b: { $gte: { $param: whole } }
  c: { $in: { $param: many } }
  d: { $param: real }
  e: { $param: exact }
  f: { $param: flag }
  g: { $lt: { $param: day } }
  h: { $param: key }
  i: { $param: unique }
params:
  text: { type: string, required: false, maxLength: 20, pattern: "[a-z]*" }
  whole: { type: int, required: false, min: -5, max: 100000 }
  many: { type: [long], required: false }
  real: { type: double, required: false }
  exact: { type: decimal, required: false }
  flag: { type: bool, required: false }
  day: { type: date, required: false }
  key: { type: objectId, required: false }
  unique: { type: uuid, required: false }
"#;

static BOUND: LazyLock<Filter> =
    LazyLock::new(|| match parse_filter("fuzzed", Path::new("fuzzed.yaml"), FILTER) {
        Ok(filter) => filter,
        Err(mistakes) => panic!("{}", mistakes[0]),
    });

fuzz_target!(|target: &[u8]| {
    let query = path::pairs_of(path::query_of(target));
    match BOUND.bind(&query, None) {
        Ok(bound) => {
            // Clients with the same values share a route.
            let again = BOUND.bind(&query, None).expect("bound before");
            assert_eq!(bound.values(), again.values());
            assert_eq!(bound.predicate, again.predicate);
            for (_, value) in bound.values().iter(&BOUND) {
                let _ = format!("{value:?}");
            }
            // Sets have no order, and other names come once.
            let backwards: Vec<_> = query.into_iter().rev().collect();
            assert_eq!(
                BOUND.bind(&backwards, None).expect("the same pairs").values(),
                bound.values()
            );
        }
        Err(refusal) => assert!(refusal.to_string().len() < 4096, "echoes too much"),
    }
    if let Ok(text) = std::str::from_utf8(target)
        && let Ok(position) = Position::parse(text)
    {
        let _ = (position.time(), position.names_document(), position.past_event());
    }
});
