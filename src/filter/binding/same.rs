//! When two bound values are the same value: as strict as the matcher, since whoever shares a route
//! is sent the same events.

use bson::Bson;

/// Like `==`, but the order of a document's fields counts, as it does for `mongod`; and a NaN is
/// the same as itself.
pub(in crate::filter) fn is_same(one: &Bson, other: &Bson) -> bool {
    match (one, other) {
        (Bson::Document(one), Bson::Document(other)) => {
            one.len() == other.len()
                && one.iter().zip(other).all(|((name, value), (other_name, other_value))| {
                    name == other_name && is_same(value, other_value)
                })
        }
        (Bson::Array(one), Bson::Array(other)) => {
            one.len() == other.len()
                && one.iter().zip(other).all(|(one, other)| is_same(one, other))
        }
        (Bson::Double(one), Bson::Double(other)) => {
            one == other || one.to_bits() == other.to_bits()
        }
        // With a document in it. None comes in by a query or by claims.
        (Bson::JavaScriptCodeWithScope(_), _) => false,
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use bson::{Bson, bson};

    use super::is_same;

    #[test]
    fn fields_have_an_order() {
        let row = |one: Bson, other: Bson, expected: bool| {
            assert_eq!(is_same(&one, &other), expected, "{one} {other}");
        };
        row(bson!({ "a": 1, "b": [{ "c": 1 }] }), bson!({ "a": 1, "b": [{ "c": 1 }] }), true);
        row(bson!({ "a": 1, "b": 2 }), bson!({ "b": 2, "a": 1 }), false);
        row(bson!([{ "a": 1, "b": 2 }]), bson!([{ "b": 2, "a": 1 }]), false);
        row(bson!([1, 2]), bson!([2, 1]), false);
        row(bson!({ "a": 1 }), bson!({ "a": 1, "b": 2 }), false);
        row(bson!(f64::NAN), bson!(f64::NAN), true);
        row(bson!(0.0), bson!(-0.0), true);
    }
}
