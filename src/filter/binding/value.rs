//! One parameter value: from text to BSON of the declared type, and back.

use bson::oid::ObjectId;
use bson::{Binary, Bson, DateTime, Decimal128, Uuid};

/// The type of a parameter, or of its items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ParamType {
    String,
    /// 32 bits.
    Int,
    /// 64 bits.
    Long,
    /// Finite.
    Double,
    /// Decimal128, finite.
    Decimal,
    Bool,
    /// RFC 3339, or milliseconds since 1970.
    Date,
    /// 24 hexadecimal digits.
    ObjectId,
    /// 32 hexadecimal digits with hyphens; binary subtype 4.
    Uuid,
}

impl ParamType {
    pub(in crate::filter) const KNOWN: [(ParamType, &'static str); 9] = [
        (ParamType::String, "string"),
        (ParamType::Int, "int"),
        (ParamType::Long, "long"),
        (ParamType::Double, "double"),
        (ParamType::Decimal, "decimal"),
        (ParamType::Bool, "bool"),
        (ParamType::Date, "date"),
        (ParamType::ObjectId, "objectId"),
        (ParamType::Uuid, "uuid"),
    ];

    /// As written in a filter file.
    pub fn name(self) -> &'static str {
        match self {
            ParamType::String => "string",
            ParamType::Int => "int",
            ParamType::Long => "long",
            ParamType::Double => "double",
            ParamType::Decimal => "decimal",
            ParamType::Bool => "bool",
            ParamType::Date => "date",
            ParamType::ObjectId => "objectId",
            ParamType::Uuid => "uuid",
        }
    }

    /// The type of this name.
    pub(in crate::filter) fn named(name: &str) -> Option<ParamType> {
        ParamType::KNOWN.into_iter().find(|(_, known)| *known == name).map(|(kind, _)| kind)
    }

    /// What its values are, for "is not …".
    pub(in crate::filter) fn wants(self) -> &'static str {
        match self.parse("") {
            Err(wants) => wants,
            Ok(_) => "text",
        }
    }

    /// Whether `min` and `max` make sense.
    pub(in crate::filter) fn is_ordered(self) -> bool {
        matches!(
            self,
            ParamType::Int
                | ParamType::Long
                | ParamType::Double
                | ParamType::Decimal
                | ParamType::Date
        )
    }

    /// Reads a value. The error is what the type wants, for `is not …`.
    pub(in crate::filter) fn parse(self, text: &str) -> Result<Bson, &'static str> {
        match self {
            ParamType::String => Ok(Bson::String(text.to_owned())),
            ParamType::Int => {
                text.parse().map(Bson::Int32).map_err(|_| "a whole number in the range of 32 bits")
            }
            ParamType::Long => {
                text.parse().map(Bson::Int64).map_err(|_| "a whole number in the range of 64 bits")
            }
            ParamType::Double => match text.parse::<f64>() {
                Ok(value) if value.is_finite() => Ok(Bson::Double(value)),
                _ => Err("a finite number"),
            },
            ParamType::Decimal => decimal(text).map(Bson::Decimal128).ok_or("a decimal number"),
            ParamType::Bool => match text {
                "true" => Ok(Bson::Boolean(true)),
                "false" => Ok(Bson::Boolean(false)),
                _ => Err("true or false"),
            },
            ParamType::Date => date(text)
                .map(Bson::DateTime)
                .ok_or("a date as 2026-01-31T00:00:00Z, or in milliseconds since 1970"),
            ParamType::ObjectId => {
                // `parse_str` also takes what is no ObjectId as text elsewhere: be exact.
                let is_hex = text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit());
                let parsed = is_hex.then(|| ObjectId::parse_str(text).ok()).flatten();
                parsed.map(Bson::ObjectId).ok_or("an ObjectId of 24 hexadecimal digits")
            }
            ParamType::Uuid => {
                // One spelling only: braces and URNs are not what anybody puts into a query.
                let parsed = (text.len() == 36).then(|| Uuid::parse_str(text).ok()).flatten();
                parsed
                    .map(|uuid| Bson::Binary(Binary::from(uuid)))
                    .ok_or("a UUID as 123e4567-e89b-42d3-a456-426614174000")
            }
        }
    }

    /// Whether the value is of this type.
    pub(in crate::filter) fn holds(self, value: &Bson) -> bool {
        match (self, value) {
            (ParamType::String, Bson::String(_))
            | (ParamType::Int, Bson::Int32(_))
            | (ParamType::Long, Bson::Int64(_))
            | (ParamType::Bool, Bson::Boolean(_))
            | (ParamType::Date, Bson::DateTime(_))
            | (ParamType::ObjectId, Bson::ObjectId(_)) => true,
            (ParamType::Decimal, Bson::Decimal128(value)) => is_finite(value),
            (ParamType::Double, Bson::Double(value)) => value.is_finite(),
            (ParamType::Uuid, Bson::Binary(binary)) => {
                binary.subtype == bson::spec::BinarySubtype::Uuid
            }
            _ => false,
        }
    }
}

/// What RFC 3339 can write, in milliseconds since 1970.
const YEARS_1_TO_9999: std::ops::RangeInclusive<i64> = -62_135_596_800_000..=253_402_300_799_999;

/// A parameter value as one would write it in a query.
pub(in crate::filter) fn text(value: &Bson) -> String {
    match value {
        Bson::String(text) => text.clone(),
        Bson::Int32(value) => value.to_string(),
        Bson::Int64(value) => value.to_string(),
        Bson::Double(value) => value.to_string(),
        Bson::Decimal128(value) => value.to_string(),
        Bson::Boolean(value) => value.to_string(),
        Bson::DateTime(value) => match value.try_to_rfc3339_string() {
            Ok(text) if YEARS_1_TO_9999.contains(&value.timestamp_millis()) => text,
            _ => value.timestamp_millis().to_string(),
        },
        Bson::ObjectId(value) => value.to_hex(),
        Bson::Binary(binary) => match binary.to_uuid() {
            Ok(uuid) => uuid.to_string(),
            Err(_) => String::new(),
        },
        // No parameter has another type.
        _ => String::new(),
    }
}

/// A finite decimal number of at most 34 digits.
pub(in crate::filter) fn decimal(text: &str) -> Option<Decimal128> {
    // bson's own parser takes the empty string for a zero, and more of that kind.
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let are_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_number = are_digits(whole)
        && are_digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent.is_none_or(|exponent| {
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            // More digits cannot be in range, and must not overflow on the way to that finding.
            !digits.is_empty() && digits.len() <= 5 && are_digits(digits)
        });
    is_number.then(|| text.parse::<Decimal128>().ok()).flatten().filter(is_finite)
}

fn is_finite(value: &Decimal128) -> bool {
    // Only the two infinities and NaN show themselves with a letter other than the exponent's.
    !value.to_string().contains(['I', 'N', 'i', 'n'])
}

fn date(text: &str) -> Option<DateTime> {
    match text.parse() {
        Ok(milliseconds) => Some(DateTime::from_millis(milliseconds)),
        Err(_) => DateTime::parse_rfc3339_str(text).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let rows: &[(ParamType, &[&str], &[&str])] = &[
            (ParamType::String, &["", "x", "{$ne: 1}", "é"], &[]),
            (
                ParamType::Int,
                &["0", "-1", "2147483647", "-2147483648"],
                &["", "2147483648", "1.0", " 1", "1e3", "0x1", "one"],
            ),
            (
                ParamType::Long,
                &["2147483648", "-9223372036854775808"],
                &["", "9223372036854775808", "1.5"],
            ),
            (ParamType::Double, &["1.5", "-0.25", "1000"], &["", "inf", "NaN", "1e999", "1,5"]),
            (
                ParamType::Decimal,
                &["1.50", "-0.1", "9999999999999999999999999999999999"],
                &["", "NaN", "Infinity", "-inf", "sNaN", "1,5", "x"],
            ),
            (ParamType::Bool, &["true", "false"], &["", "True", "1", "yes"]),
            (
                ParamType::Date,
                &["2026-01-31T00:00:00Z", "2026-01-31T12:30:00.25Z"],
                &["", "2026-01-31", "2026-13-01T00:00:00Z", "now", "2026-01-31T00:00:00 02:00"],
            ),
            (
                ParamType::ObjectId,
                &["0123456789abcdef01234567"],
                &["", "0123456789abcdef0123456", "0123456789abcdef0123456g", "éééééééééééé"],
            ),
            (
                ParamType::Uuid,
                &["123e4567-e89b-42d3-a456-426614174000"],
                &["", "123e4567e89b42d3a456426614174000", "{123e4567-e89b-42d3-a456-426614174000}"],
            ),
        ];
        for (kind, good, bad) in rows {
            for written in *good {
                let value = kind.parse(written).unwrap();
                assert!(kind.holds(&value), "{kind:?} {written}");
                assert_eq!(text(&value), *written, "{kind:?}");
            }
            for written in *bad {
                assert!(kind.parse(written).is_err(), "{kind:?} {written}");
            }
        }
        assert_eq!(ParamType::Date.parse("-1"), Ok(Bson::DateTime(DateTime::from_millis(-1))));
        let with_zone = ParamType::Date.parse("2026-01-31T02:00:00+02:00").unwrap();
        assert_eq!(text(&with_zone), "2026-01-31T00:00:00Z");
    }

    const KINDS: [ParamType; 9] = [
        ParamType::String,
        ParamType::Int,
        ParamType::Long,
        ParamType::Double,
        ParamType::Decimal,
        ParamType::Bool,
        ParamType::Date,
        ParamType::ObjectId,
        ParamType::Uuid,
    ];

    proptest::proptest! {
        /// Whatever is read can be written, and reads as the same again.
        #[test]
        fn round_trip(
            index in 0..KINDS.len(),
            written in "\\PC{0,40}|[-+0-9.eE:TZ]{0,30}|-?[0-9]{1,20}(\\.[0-9]{0,20})?(e[0-9]{1,4})?",
        ) {
            let kind = KINDS[index];
            if let Ok(value) = kind.parse(&written) {
                proptest::prop_assert!(kind.holds(&value));
                proptest::prop_assert_eq!(kind.parse(&text(&value)), Ok(value));
            }
        }

        #[test]
        fn numbers_round_trip(int: i32, long: i64, double in proptest::num::f64::NORMAL) {
            for value in [Bson::Int32(int), Bson::Int64(long), Bson::Double(double)] {
                let kind = match value {
                    Bson::Int32(_) => ParamType::Int,
                    Bson::Int64(_) => ParamType::Long,
                    _ => ParamType::Double,
                };
                proptest::prop_assert_eq!(kind.parse(&text(&value)), Ok(value));
            }
            let date = Bson::DateTime(DateTime::from_millis(long));
            proptest::prop_assert_eq!(ParamType::Date.parse(&text(&date)), Ok(date));
        }
    }
}
