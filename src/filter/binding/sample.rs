//! A filter with sample values, to ask MongoDB how it would find the matching documents. The answer
//! depends on the places and the types of the values, not on the values themselves.

use bson::{Bson, oid::ObjectId};

use super::value::ParamType;
use crate::filter::Filter;
use crate::matcher::{Placeholder, Predicate};

impl Filter {
    /// The predicate of some client: one that leaves out what it may, or one that gives everything.
    pub fn sample(&self, gives_all: bool) -> Predicate {
        self.template.bind(&mut |placeholder| match placeholder {
            Placeholder::Param(name) => {
                let param = self.params.get(name)?;
                if param.is_optional() && !gives_all {
                    return None;
                }
                // Where a set fits, one value is a set of one.
                Some(param.default.clone().unwrap_or_else(|| some(param.kind)))
            }
            Placeholder::Claim(claim) => {
                let kind = claim.kind.as_deref().and_then(ParamType::named);
                Some(some(kind.unwrap_or(ParamType::String)))
            }
        })
    }

    /// Whether what matches depends on who asks, and for what.
    pub fn has_values(&self) -> bool {
        !self.template.uses().is_empty()
    }
}

/// Some value of a type.
fn some(kind: ParamType) -> Bson {
    match kind {
        ParamType::ObjectId => Bson::ObjectId(ObjectId::from_bytes([0; 12])),
        kind => {
            let texts = ["x", "0", "true", "2026-01-01T00:00:00Z", NO_UUID];
            let value = texts.into_iter().find_map(|text| kind.parse(text).ok());
            // Every type reads one of them: see the test.
            value.unwrap_or(Bson::Null)
        }
    }
}

const NO_UUID: &str = "00000000-0000-4000-8000-000000000000";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_some_value_of_each_type() {
        for name in
            ["string", "int", "long", "double", "decimal", "bool", "date", "objectId", "uuid"]
        {
            let kind = ParamType::named(name).expect("a type");
            assert_ne!(some(kind), Bson::Null, "{name}");
        }
    }

    #[test]
    fn what_a_client_may_leave_out_is_left_out_or_not() {
        let text = "collection: shop.orders\naccess: authenticated\n\
                    match: { customer: { $claim: sub, type: objectId }, team: { $in: { $claim: teams } }, \
                    status: { $param: status } }\n\
                    params: { status: { type: [string], required: false } }\n";
        let filter =
            crate::filter::parse_filter("a", std::path::Path::new("a.yaml"), text).unwrap();
        let [least, all] = [false, true].map(|all| filter.sample(all).query().to_string());
        for field in ["customer", "team"] {
            assert!(least.contains(field) && all.contains(field), "{least} {all}");
        }
        assert!(!least.contains("status") && all.contains("status"), "{least} {all}");
    }
}
