//! Claims: what is known about a caller, as BSON, so that filters compare it as MongoDB would.
//!
//! Claims are converted by their JSON types and nothing else: a claim `{"$oid": "…"}` is a document
//! with an unusual key, never an ObjectId or an operator. Pure; the input is hostile until its
//! signature is verified.

use std::fmt;

use bson::{Bson, Decimal128, Document, RawDocumentBuf};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};

/// More than any token or profile needs, in bytes of JSON.
pub const MAX_BYTES: usize = 64 * 1024;

/// The claims of one caller. Its `Debug` shows none: names and values may both be personal.
#[derive(Clone, PartialEq)]
pub struct Claims(RawDocumentBuf);

/// A claim that should be a time and is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoTime;

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Claims {
    /// The claims of a caller who is admitted without any.
    pub fn none() -> Claims {
        Claims(RawDocumentBuf::new())
    }

    /// Reads a JSON object.
    ///
    /// # Errors
    /// What is wrong, without quoting the text.
    pub fn from_json(json: &[u8]) -> Result<Claims, &'static str> {
        if json.len() > MAX_BYTES {
            return Err("the claims are larger than 64 KiB");
        }
        serde_json::from_slice(json).map_err(|_| "the claims are not a usable JSON object")
    }

    /// The claims of a caller of whom only the name is known.
    pub fn of_subject(subject: &str) -> Claims {
        let document = Document::from_iter([("sub".to_owned(), Bson::String(subject.to_owned()))]);
        // It fails for names that hold a NUL, and this one does not.
        Claims(RawDocumentBuf::try_from(&document).unwrap_or_default())
    }

    /// For trying things out: each value is JSON, otherwise text; dots select nested claims.
    pub fn of_pairs(pairs: &[(String, String)]) -> Claims {
        let mut document = Document::new();
        for (path, value) in pairs {
            let Value(value) =
                serde_json::from_str(value).unwrap_or_else(|_| Value(Bson::String(value.clone())));
            let (inner, name) = match path.rsplit_once('.') {
                None => (&mut document, path.as_str()),
                Some((outer, name)) => {
                    let inner = outer.split('.').fold(&mut document, |document, name| {
                        let inner = document.entry(name.to_owned());
                        let inner = inner.or_insert_with(|| Bson::Document(Document::new()));
                        if !matches!(inner, Bson::Document(_)) {
                            *inner = Bson::Document(Document::new());
                        }
                        inner.as_document_mut().expect("it was made one")
                    });
                    (inner, name)
                }
            };
            inner.insert(name, value);
        }
        Claims(RawDocumentBuf::try_from(&document).unwrap_or_default())
    }

    /// As BSON, by their JSON types.
    pub fn document(&self) -> &bson::RawDocument {
        &self.0
    }

    /// Text under a name.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get_str(name).ok()
    }

    /// The subject: `sub`, which may be text or a number.
    pub fn subject(&self) -> Option<String> {
        match self.0.get("sub").ok()?? {
            bson::RawBsonRef::String(text) if !text.is_empty() => Some(text.to_owned()),
            bson::RawBsonRef::Int32(number) => Some(number.to_string()),
            bson::RawBsonRef::Int64(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// The claims except those that change with each token, as bytes, independent of their order.
    pub fn lasting(&self) -> Vec<u8> {
        const PASSING: [&str; 5] = ["exp", "iat", "nbf", "jti", "auth_time"];
        let mut lasting: Vec<(String, Bson)> = Document::try_from(&*self.0)
            .unwrap_or_default()
            .into_iter()
            .filter(|(name, _)| !PASSING.contains(&name.as_str()))
            .collect();
        lasting.sort_by(|(a, _), (b, _)| a.cmp(b));
        let sorted = Document::from_iter(lasting);
        RawDocumentBuf::try_from(&sorted).unwrap_or_default().into_bytes()
    }

    /// A time in seconds since 1970, such as `exp`. `None`: not there; an error: there, and no
    /// time.
    pub fn seconds(&self, name: &str) -> Result<Option<f64>, NoTime> {
        use bson::RawBsonRef::{Double, Int32, Int64};
        // Within reach of a double without loss, and of any clock.
        const MOST: f64 = 9_007_199_254_740_992.0;
        let seconds = match self.0.get(name).map_err(|_| NoTime)? {
            None => return Ok(None),
            Some(Int32(value)) => f64::from(value),
            #[expect(clippy::cast_precision_loss, reason = "larger values are refused below")]
            Some(Int64(value)) => value as f64,
            Some(Double(value)) => value,
            Some(_) => return Err(NoTime),
        };
        if (-MOST..=MOST).contains(&seconds) { Ok(Some(seconds)) } else { Err(NoTime) }
    }

    /// Whether a name holds this text, or a list with it.
    pub fn has_text(&self, name: &str, text: &str) -> bool {
        match self.0.get(name) {
            Ok(Some(bson::RawBsonRef::String(value))) => value == text,
            Ok(Some(bson::RawBsonRef::Array(values))) => {
                values.into_iter().flatten().any(|value| value.as_str() == Some(text))
            }
            _ => false,
        }
    }
}

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Claims, D::Error> {
        let Value(Bson::Document(document)) = Value::deserialize(deserializer)? else {
            return Err(de::Error::custom("not an object"));
        };
        RawDocumentBuf::try_from(&document).map(Claims).map_err(de::Error::custom)
    }
}

/// A JSON value as the BSON value of the same type.
struct Value(Bson);

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(ValueVisitor).map(Value)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Bson;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Bson, E> {
        Ok(Bson::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Bson, E> {
        Ok(Bson::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Bson, E> {
        Ok(i32::try_from(value).map_or(Bson::Int64(value), Bson::Int32))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Bson, E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            // Exact; a double would make one of several.
            Err(_) => value
                .to_string()
                .parse::<Decimal128>()
                .map(Bson::Decimal128)
                .map_err(|_| E::custom("a number that is too large")),
        }
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Bson, E> {
        // A whole number that did not fit 64 bits comes as the nearest double: somebody else's.
        const TWO_TO_63: f64 = 9_223_372_036_854_775_808.0;
        if value.is_finite() && value.abs() < TWO_TO_63 {
            return Ok(Bson::Double(value));
        }
        Err(E::custom("a number that is too large"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Bson, E> {
        Ok(Bson::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Bson, A::Error> {
        let mut values = Vec::new();
        while let Some(Value(value)) = items.next_element()? {
            values.push(value);
        }
        Ok(Bson::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Bson, A::Error> {
        let mut document = Document::new();
        while let Some((name, Value(value))) = entries.next_entry::<String, Value>()? {
            // Which one is meant, the signer and we might see differently.
            if document.insert(name, value).is_some() {
                return Err(de::Error::custom("a repeated name"));
            }
        }
        Ok(Bson::Document(document))
    }
}

#[cfg(test)]
mod tests {
    use bson::{doc, rawdoc};

    use super::*;

    #[test]
    fn values_keep_the_types_of_json() {
        let json = br#"{"s":"a","i":1,"l":4294967296,"u":18446744073709551615,"d":1.5,"b":true,
            "n":null,"o":{"$oid":"507f1f77bcf86cd799439011"},"g":{"$gt":""},"a":[1,"x"]}"#;
        let claims = Claims::from_json(json).unwrap();
        let expected = doc! {
            "s": "a", "i": 1_i32, "l": 4_294_967_296_i64,
            "u": "18446744073709551615".parse::<Decimal128>().unwrap(), "d": 1.5, "b": true,
            "n": null, "o": { "$oid": "507f1f77bcf86cd799439011" }, "g": { "$gt": "" },
            "a": [1_i32, "x"],
        };
        assert_eq!(Document::try_from(claims.document()).unwrap(), expected);
    }

    #[test]
    fn what_is_read_in_two_ways_is_refused() {
        for json in [
            "[]",
            "null",
            "\"a\"",
            "",
            "{",
            "{} x",
            r#"{"a":1,"a":2}"#,
            r#"{"a":{"b":1,"b":1}}"#,
            r#"{"a":123456789012345678901234567890}"#,
            r#"{"a":1e300}"#,
            r#"{"a\u0000b":1}"#,
        ] {
            assert!(Claims::from_json(json.as_bytes()).is_err(), "{json}");
        }
        let large = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_BYTES));
        assert!(Claims::from_json(large.as_bytes()).is_err());
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(Claims::from_json(deep.as_bytes()).is_err());
    }

    #[test]
    fn subjects_and_times() {
        let claims = |json: &str| Claims::from_json(json.as_bytes()).unwrap();
        assert_eq!(claims(r#"{"sub":"ada"}"#).subject().as_deref(), Some("ada"));
        assert_eq!(claims(r#"{"sub":7}"#).subject().as_deref(), Some("7"));
        assert_eq!(claims(r#"{"sub":{"a":1}}"#).subject(), None);
        assert_eq!(claims(r#"{"exp":1.5}"#).seconds("exp"), Ok(Some(1.5)));
        assert_eq!(claims("{}").seconds("exp"), Ok(None));
        assert_eq!(claims(r#"{"exp":"1"}"#).seconds("exp"), Err(NoTime));
        assert_eq!(claims(r#"{"exp":9e18}"#).seconds("exp"), Err(NoTime));
        assert!(claims(r#"{"aud":["a","b"]}"#).has_text("aud", "b"));
        assert!(!claims(r#"{"aud":"ab"}"#).has_text("aud", "a"));
        assert_eq!(Claims::of_subject("ada").document(), &*rawdoc! { "sub": "ada" });
        assert_eq!(format!("{:?}", Claims::of_subject("ada")), "***");
    }
}
