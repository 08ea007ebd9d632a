//! BSON types by name and number, as `$type` takes them.

use crate::diagnostic::nearest;
use crate::event::raw::tag;

/// A set of BSON types, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct TypeSet(u32);

const NAMES: [(&str, i32, u8); 21] = [
    ("double", 1, tag::DOUBLE),
    ("string", 2, tag::STRING),
    ("object", 3, tag::DOCUMENT),
    ("array", 4, tag::ARRAY),
    ("binData", 5, tag::BINARY),
    ("undefined", 6, tag::UNDEFINED),
    ("objectId", 7, tag::OBJECT_ID),
    ("bool", 8, tag::BOOLEAN),
    ("date", 9, tag::DATE),
    ("null", 10, tag::NULL),
    ("regex", 11, tag::REGEX),
    ("dbPointer", 12, tag::DB_POINTER),
    ("javascript", 13, tag::CODE),
    ("symbol", 14, tag::SYMBOL),
    ("javascriptWithScope", 15, tag::CODE_WITH_SCOPE),
    ("int", 16, tag::INT32),
    ("timestamp", 17, tag::TIMESTAMP),
    ("long", 18, tag::INT64),
    ("decimal", 19, tag::DECIMAL),
    ("minKey", -1, tag::MIN_KEY),
    ("maxKey", 127, tag::MAX_KEY),
];

fn bit(kind: u8) -> u32 {
    match kind {
        tag::MIN_KEY => 1 << 30,
        tag::MAX_KEY => 1 << 31,
        1..=19 => 1 << kind,
        _ => 0,
    }
}

impl TypeSet {
    /// By name.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.iter().filter(move |(_, _, kind)| self.0 & bit(*kind) != 0).map(|(name, ..)| *name)
    }

    /// Whether the type (`kind`, from [`tag`]) is one of the set.
    pub fn contains(self, kind: u8) -> bool {
        self.0 & bit(kind) != 0
    }

    /// # Errors
    /// The name is none of a type; the nearest one is, where one is near.
    pub fn add_name(&mut self, name: &str) -> Result<(), Option<&'static str>> {
        if name == "number" {
            for kind in [tag::DOUBLE, tag::INT32, tag::INT64, tag::DECIMAL] {
                self.0 |= bit(kind);
            }
            return Ok(());
        }
        match NAMES.iter().find(|(known, ..)| *known == name) {
            Some((_, _, kind)) => {
                self.0 |= bit(*kind);
                Ok(())
            }
            None => Err(nearest(name, NAMES.iter().map(|(known, ..)| *known).chain(["number"]))),
        }
    }

    /// False where no type has that number.
    pub fn add_number(&mut self, number: i64) -> bool {
        let found = NAMES.iter().find(|(_, known, _)| i64::from(*known) == number);
        if let Some((_, _, kind)) = found {
            self.0 |= bit(*kind);
        }
        found.is_some()
    }
}

/// The name of a type as the aggregation operator `$type` gives it.
pub(crate) fn name_of(kind: u8) -> &'static str {
    NAMES.iter().find(|(.., known)| *known == kind).map_or("missing", |(name, ..)| name)
}
