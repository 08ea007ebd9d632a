//! Relaxed Extended JSON (version 2), straight from raw BSON to bytes.
//!
//! No tree is built in between. The output is one line: control characters are escaped, so that
//! it can stand behind `data:` as it is. Broken input never panics: text that is not UTF-8 gets
//! replacement characters, a value that makes no sense is null, a document that breaks off ends.

use std::io::Write;

use bson::{Decimal128, RawDocument};

use super::raw::{Value, tag};

/// Deeper than `mongod` stores: what is below is written as null.
const MAX_DEPTH: u32 = 250;

/// Appends one value.
pub(crate) fn write_relaxed_value(value: Value<'_>, out: &mut Vec<u8>) {
    write_value(value, MAX_DEPTH, out);
}

/// Appends a document.
pub fn write_relaxed_document(document: &RawDocument, out: &mut Vec<u8>) {
    write_value(Value::document(document), MAX_DEPTH, out);
}

fn write_value(value: Value<'_>, depth: u32, out: &mut Vec<u8>) {
    match value.tag {
        tag::DOCUMENT => write_fields(value, depth, out),
        tag::ARRAY => write_elements(value, depth, out),
        tag::STRING => write_text(value.text(), out),
        tag::INT32 => write_integer(i32::from_le_bytes(value.bytes()).into(), out),
        tag::INT64 => write_long(value.i64(), out),
        tag::DOUBLE => write_double(f64::from_le_bytes(value.bytes()), out),
        tag::BOOLEAN => write_display(value.boolean(), out),
        tag::DATE => write_date(value.i64(), out),
        tag::OBJECT_ID => write_object_id(value.data, out),
        tag::DECIMAL => {
            write_display(
                format_args!(r#"{{"$numberDecimal":"{}"}}"#, Decimal128::from_bytes(value.bytes())),
                out,
            );
        }
        tag::BINARY => write_binary(value, out),
        tag::TIMESTAMP => {
            let bits = value.i64().cast_unsigned();
            out.extend_from_slice(br#"{"$timestamp":{"t":"#);
            write_digits(bits >> 32, 1, out);
            out.extend_from_slice(br#","i":"#);
            write_digits(bits & 0xffff_ffff, 1, out);
            out.extend_from_slice(b"}}");
        }
        tag::REGEX => write_regex(value, out),
        tag::CODE => wrap(br#"{"$code":"#, value.text(), out),
        tag::SYMBOL => wrap(br#"{"$symbol":"#, value.text(), out),
        tag::CODE_WITH_SCOPE => match value.code_with_scope() {
            Some((code, scope)) => {
                out.extend_from_slice(br#"{"$code":"#);
                write_text(code.text(), out);
                out.extend_from_slice(br#","$scope":"#);
                write_value(scope, depth, out);
                out.push(b'}');
            }
            None => out.extend_from_slice(b"null"),
        },
        tag::DB_POINTER => {
            let (namespace, id) = value.db_pointer();
            out.extend_from_slice(br#"{"$dbPointer":{"$ref":"#);
            write_text(namespace, out);
            out.extend_from_slice(br#","$id":"#);
            write_object_id(id, out);
            out.extend_from_slice(b"}}");
        }
        tag::UNDEFINED => out.extend_from_slice(br#"{"$undefined":true}"#),
        tag::MIN_KEY => out.extend_from_slice(br#"{"$minKey":1}"#),
        tag::MAX_KEY => out.extend_from_slice(br#"{"$maxKey":1}"#),
        _ => out.extend_from_slice(b"null"),
    }
}

fn write_fields(document: Value<'_>, depth: u32, out: &mut Vec<u8>) {
    let Some(depth) = depth.checked_sub(1) else {
        out.extend_from_slice(b"null");
        return;
    };
    out.push(b'{');
    let mut is_first = true;
    for (key, value) in document.elements() {
        if !is_first {
            out.push(b',');
        }
        is_first = false;
        write_text(key, out);
        out.push(b':');
        write_value(value, depth, out);
    }
    out.push(b'}');
}

fn write_elements(array: Value<'_>, depth: u32, out: &mut Vec<u8>) {
    let Some(depth) = depth.checked_sub(1) else {
        out.extend_from_slice(b"null");
        return;
    };
    out.push(b'[');
    let mut is_first = true;
    for (_, value) in array.elements() {
        if !is_first {
            out.push(b',');
        }
        is_first = false;
        write_value(value, depth, out);
    }
    out.push(b']');
}

fn write_display(value: impl std::fmt::Display, out: &mut Vec<u8>) {
    // Writing to a vector does not fail.
    let _ = write!(out, "{value}");
}

/// Digits by hand: every event has some, and the formatter takes several times as long.
fn write_integer(integer: i64, out: &mut Vec<u8>) {
    if integer < 0 {
        out.push(b'-');
    }
    write_digits(integer.unsigned_abs(), 1, out);
}

/// At least so many digits, with zeros in front.
fn write_digits(mut number: u64, least: usize, out: &mut Vec<u8>) {
    // As many as the largest has.
    let mut digits = [b'0'; 20];
    let mut first = digits.len();
    while number > 0 {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&digits[first.min(digits.len() - least)..]);
}

/// Up to here, up and down, every integer is a double of its own.
const MAX_EXACT: u64 = 1 << 53;

/// Whether a browser reads this number as it is.
pub(crate) fn is_exact(long: i64) -> bool {
    long.unsigned_abs() <= MAX_EXACT
}

fn write_long(long: i64, out: &mut Vec<u8>) {
    match is_exact(long) {
        true => write_integer(long, out),
        false => write_display(format_args!(r#"{{"$numberLong":"{long}"}}"#), out),
    }
}

fn write_double(double: f64, out: &mut Vec<u8>) {
    if double.is_finite() {
        // Shortest digits that read back the same, and always with a point or an exponent.
        let _ = serde_json::to_writer(out, &double);
        return;
    }
    let name = match (double.is_nan(), double.is_sign_negative()) {
        (true, false) => "NaN",
        (true, true) => "-NaN",
        (false, false) => "Infinity",
        (false, true) => "-Infinity",
    };
    write_display(format_args!(r#"{{"$numberDouble":"{name}"}}"#), out);
}

/// A quoted text, with what ends lines for some readers of event streams escaped as within documents.
pub(crate) fn text(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    write_text(text.as_bytes(), &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// A quoted text.
fn write_text(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    if std::str::from_utf8(text).is_ok() {
        // Nearly always, and checked much faster than in chunks.
        write_escaped(text, out);
    } else {
        for chunk in text.utf8_chunks() {
            write_escaped(chunk.valid().as_bytes(), out);
            if !chunk.invalid().is_empty() {
                out.extend_from_slice("\u{fffd}".as_bytes());
            }
        }
    }
    out.push(b'"');
}

/// Bytes that may not stand in a text as they are, or that begin a character that may not.
const ESCAPED: [bool; 256] = {
    let mut escaped = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        escaped[byte] = byte < 0x20 || matches!(byte as u8, b'"' | b'\\' | 0xc2 | 0xe2);
        byte += 1;
    }
    escaped
};

fn write_escaped(text: &[u8], out: &mut Vec<u8>) {
    // Plain stretches are copied whole; escapes are rare.
    let (mut plain, mut at) = (0, 0);
    while let Some(byte) = text.get(at) {
        if let Some(eight) = text[at..].first_chunk()
            && are_plain(*eight)
        {
            at += eight.len();
            continue;
        }
        at += 1;
        if !ESCAPED[usize::from(*byte)] {
            continue;
        }
        let at = at - 1;
        let (escape, length): (&[u8], usize) = match byte {
            b'"' => (br#"\""#, 1),
            b'\\' => (br"\\", 1),
            b'\n' => (br"\n", 1),
            b'\r' => (br"\r", 1),
            b'\t' => (br"\t", 1),
            0x08 => (br"\b", 1),
            0x0c => (br"\f", 1),
            // What some readers of event streams take for the end of a line.
            0xc2 | 0xe2 => match &text[at..] {
                [0xc2, 0x85, ..] => (br"\u0085", 2),
                [0xe2, 0x80, 0xa8, ..] => (br"\u2028", 3),
                [0xe2, 0x80, 0xa9, ..] => (br"\u2029", 3),
                _ => continue,
            },
            _ => (b"", 1),
        };
        out.extend_from_slice(&text[plain..at]);
        if escape.is_empty() {
            write_display(format_args!("\\u{byte:04x}"), out);
        } else {
            out.extend_from_slice(escape);
        }
        plain = at + length;
    }
    out.extend_from_slice(&text[plain..]);
}

/// Whether eight bytes of text are ASCII and stand for themselves.
fn are_plain(bytes: [u8; 8]) -> bool {
    const EACH: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = EACH << 7;
    let word = u64::from_ne_bytes(bytes);
    // Where a byte is below `limit`, its highest bit is set, but for bytes that have it set anyway; bytes
    // above one that is may have it set as well.
    let below = |word: u64, limit: u64| word.wrapping_sub(EACH * limit) & !word;
    let is = |byte: u8| below(word ^ (EACH * u64::from(byte)), 1);
    (word | below(word, 0x20) | is(b'"') | is(b'\\')) & HIGH == 0
}

fn wrap(open: &[u8], text: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(open);
    write_text(text, out);
    out.push(b'}');
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn write_hex(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        out.push(HEX[usize::from(byte >> 4)]);
        out.push(HEX[usize::from(byte & 15)]);
    }
}

fn write_object_id(id: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"$oid":""#);
    write_hex(id, out);
    out.extend_from_slice(br#""}"#);
}

fn write_binary(value: Value<'_>, out: &mut Vec<u8>) {
    let (subtype, content) = value.binary();
    // The old subtype repeats its length inside.
    let content = if subtype == 2 { content.get(4..).unwrap_or_default() } else { content };
    out.extend_from_slice(br#"{"$binary":{"base64":""#);
    write_base64(content, out);
    out.extend_from_slice(br#"","subType":""#);
    write_hex(&[subtype], out);
    out.extend_from_slice(br#""}}"#);
}

fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for group in bytes.chunks(3) {
        let at = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            out.push(if digit <= group.len() {
                DIGITS[(bits >> (18 - 6 * digit) & 63) as usize]
            } else {
                b'='
            });
        }
    }
}

fn write_regex(value: Value<'_>, out: &mut Vec<u8>) {
    let (pattern, options) = value.regex();
    out.extend_from_slice(br#"{"$regularExpression":{"pattern":"#);
    write_text(pattern, out);
    out.extend_from_slice(br#","options":"#);
    if options.is_sorted() {
        write_text(options, out);
    } else {
        // Extended JSON wants them in alphabetical order; stored ones nearly always are.
        let mut sorted = options.to_vec();
        sorted.sort_unstable();
        write_text(&sorted, out);
    }
    out.extend_from_slice(b"}}");
}

/// Years 1970 to 9999 as text, others as milliseconds. Milliseconds have three digits, or none
/// where they are zero.
fn write_date(millis: i64, out: &mut Vec<u8>) {
    const END_OF_9999: i64 = 253_402_300_800_000;
    if !(0..END_OF_9999).contains(&millis) {
        write_display(format_args!(r#"{{"$date":{{"$numberLong":"{millis}"}}}}"#), out);
        return;
    }
    let (seconds, millis) = (millis / 1000, millis % 1000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let parts = [(year, 4), (month, 2), (day, 2), (second / 3600, 2), (second / 60 % 60, 2)];
    out.extend_from_slice(br#"{"$date":""#);
    for ((part, digits), separator) in parts.into_iter().zip(*b"--T::") {
        write_digits(part.unsigned_abs(), digits, out);
        out.push(separator);
    }
    write_digits((second % 60).unsigned_abs(), 2, out);
    if millis != 0 {
        out.push(b'.');
        write_digits(millis.unsigned_abs(), 3, out);
    }
    out.extend_from_slice(br#"Z"}"#);
}

/// Year, month and day of a day counted from 1970-01-01. Years are counted from March, so that the leap
/// day is the last; 400 of them always have 146,097 days.
pub(crate) fn civil(days: i64) -> (i64, i64, i64) {
    let since_march_0 = days + 719_468;
    let era = since_march_0.div_euclid(146_097);
    let day_of_era = since_march_0.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Bson, Document, RawDocumentBuf, doc};
    use proptest::prelude::*;

    use super::super::raw::Elements;

    fn written(document: &Document) -> String {
        let raw = RawDocumentBuf::try_from(document).unwrap();
        let mut out = Vec::new();
        write_relaxed_document(&raw, &mut out);
        String::from_utf8(out).unwrap()
    }

    /// The crate trims zeros of the milliseconds; the specification wants three digits or none. And
    /// it writes every long as a number.
    fn expected(value: Bson) -> String {
        fn exact(value: Bson) -> Bson {
            match value {
                Bson::Int64(long) if !is_exact(long) => {
                    Bson::Document(doc! { "$numberLong": long.to_string() })
                }
                Bson::Array(values) => Bson::Array(values.into_iter().map(exact).collect()),
                Bson::Document(fields) => Bson::Document(
                    fields.into_iter().map(|(name, value)| (name, exact(value))).collect(),
                ),
                other => other,
            }
        }
        fn three_digits(value: &mut serde_json::Value) {
            match value {
                serde_json::Value::Array(values) => values.iter_mut().for_each(three_digits),
                serde_json::Value::Object(fields) => {
                    if let Some(serde_json::Value::String(date)) = fields.get_mut("$date")
                        && let Some((whole, fraction)) = date.trim_end_matches('Z').split_once('.')
                    {
                        *date = format!("{whole}.{fraction:0<3}Z");
                    }
                    fields.values_mut().for_each(three_digits);
                }
                _ => {}
            }
        }
        let mut value = exact(value).into_relaxed_extjson();
        three_digits(&mut value);
        // Which the crate leaves as they are.
        let escaped = |text: String, c: char| text.replace(c, &format!("\\u{:04x}", u32::from(c)));
        ['\u{85}', '\u{2028}', '\u{2029}'].into_iter().fold(value.to_string(), escaped)
    }

    fn any_bson() -> impl Strategy<Value = Bson> {
        let leaf = prop_oneof![
            any::<i32>().prop_map(Bson::Int32),
            any::<i64>().prop_map(Bson::Int64),
            any::<f64>().prop_map(Bson::Double),
            prop_oneof![Just(1e16), Just(1.0), Just(-0.0), Just(1e-7), Just(5e-324)]
                .prop_map(Bson::Double),
            ".*".prop_map(Bson::String),
            "[\u{0}-\u{20}\"\\\\\u{7f}-\u{a0}\u{2027}-\u{2030}]*".prop_map(Bson::String),
            any::<bool>().prop_map(Bson::Boolean),
            Just(Bson::Null),
            Just(Bson::Undefined),
            Just(Bson::MinKey),
            Just(Bson::MaxKey),
            any::<[u8; 12]>().prop_map(|b| Bson::ObjectId(bson::oid::ObjectId::from_bytes(b))),
            any::<[u8; 16]>().prop_map(|b| Bson::Decimal128(Decimal128::from_bytes(b))),
            // Past 9999 the crate writes the wrong date.
            prop_oneof![i64::MIN..0, 0..253_402_300_800_000i64]
                .prop_map(|ms| Bson::DateTime(bson::DateTime::from_millis(ms))),
            any::<(u32, u32)>()
                .prop_map(|(time, increment)| Bson::Timestamp(bson::Timestamp { time, increment })),
            (any::<u8>(), proptest::collection::vec(any::<u8>(), 0..20)).prop_map(
                |(kind, bytes)| { Bson::Binary(bson::Binary { subtype: kind.into(), bytes }) }
            ),
            ".*".prop_map(Bson::JavaScriptCode),
            ".*".prop_map(Bson::Symbol),
            ".*".prop_map(|code| Bson::JavaScriptCodeWithScope(bson::JavaScriptCodeWithScope {
                code,
                scope: doc! { "a": 1 }
            })),
            ("[^\u{0}]*", "[imsx]{0,4}").prop_map(|(pattern, options)| {
                Bson::RegularExpression(bson::Regex {
                    pattern: pattern.try_into().unwrap(),
                    options: options.try_into().unwrap(),
                })
            }),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Bson::Array),
                proptest::collection::vec(("[^\u{0}]{0,6}", inner), 0..6)
                    .prop_map(|fields| Bson::Document(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn agrees_with_the_crate(value in any_bson()) {
            let line = written(&doc! { "v": value.clone() });
            prop_assert_eq!(&line, &expected(Bson::Document(doc! { "v": value.clone() })));
            prop_assert!(!line.bytes().any(|byte| byte < 0x20));
            let raw = RawDocumentBuf::try_from(&doc! { "v": value.clone() }).unwrap();
            let (_, field) = Elements::new(raw.as_bytes()).next().unwrap();
            let mut out = Vec::new();
            write_relaxed_value(field, &mut out);
            prop_assert_eq!(String::from_utf8(out).unwrap(), expected(value));
        }

        #[test]
        fn writes_json_whatever_the_bytes(
            value in any_bson(),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let raw = RawDocumentBuf::try_from(&doc! { "v": value, "w": [1, "x"] }).unwrap();
            let mut bytes = raw.into_bytes();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(broken) = RawDocument::from_bytes(&bytes) {
                let mut out = Vec::new();
                write_relaxed_document(broken, &mut out);
                prop_assert!(serde_json::from_slice::<serde_json::Value>(&out).is_ok());
            }
        }
    }

    #[test]
    fn every_byte_is_escaped_wherever_it_stands() {
        for byte in 0..=0x7f_u8 {
            for at in 0..20 {
                let mut text = [b'a'; 20];
                text[at] = byte;
                // Beside the highest and the lowest that are plain.
                text[(at + 1) % 20] = 0x7f;
                text[(at + 19) % 20] = b' ';
                let text = std::str::from_utf8(&text).unwrap();
                let line = written(&doc! { "v": text });
                assert_eq!(line, expected(Bson::Document(doc! { "v": text })), "{byte} {at}");
            }
        }
    }

    #[test]
    fn integers_that_a_browser_would_round_are_text() {
        const EDGE: i64 = 1 << 53;
        let line = written(&doc! { "a": [EDGE, -EDGE, EDGE + 1, -EDGE - 1, i64::MIN], "b": 5_i64 });
        let text = |long: i64| format!(r#"{{"$numberLong":"{long}"}}"#);
        let (above, below, least) = (text(EDGE + 1), text(-EDGE - 1), text(i64::MIN));
        let expected = format!(r#"{{"a":[{EDGE},-{EDGE},{above},{below},{least}],"b":5}}"#);
        assert_eq!(line, expected);
    }

    #[test]
    fn a_value_nested_too_deep_is_null() {
        let mut value = Bson::Int32(1);
        for _ in 0..400 {
            value = Bson::Array(vec![value]);
        }
        let line = written(&doc! { "v": value });
        assert!(line.contains("[null]") && line.len() < 600, "{line}");
    }
}
