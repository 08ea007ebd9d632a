//! What a scalar means, by the core schema of YAML 1.2 and no other.
//!
//! If YAML 1.1 and 1.2 disagree (`yes`, `007`), the text is refused where a typed value is needed:
//! with either interpretation, half of the authors would have meant the other one.

/// A scalar as written: its text, and whether it stood without quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalar {
    pub text: String,
    pub is_plain: bool,
    /// Whether it was said to be text, by the tag `!!str`.
    pub is_tagged: bool,
}

/// A scalar with its type.
#[derive(Debug, Clone, PartialEq)]
pub enum Typed<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    String(&'a str),
}

/// A plain scalar that different YAML readers read differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ambiguous {
    pub message: String,
    pub hint: String,
}

impl Scalar {
    /// The value with its type. Quoted text is always a string.
    pub fn typed(&self) -> Result<Typed<'_>, Ambiguous> {
        let text = self.text.as_str();
        if !self.is_plain {
            return Ok(Typed::String(text));
        }
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Ok(Typed::Null),
            "true" | "True" | "TRUE" => return Ok(Typed::Bool(true)),
            "false" | "False" | "FALSE" => return Ok(Typed::Bool(false)),
            ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => {
                return Ok(Typed::Double(f64::INFINITY));
            }
            "-.inf" | "-.Inf" | "-.INF" => return Ok(Typed::Double(f64::NEG_INFINITY)),
            ".nan" | ".NaN" | ".NAN" => return Ok(Typed::Double(f64::NAN)),
            _ => {}
        }
        if ["yes", "no", "on", "off"].iter().any(|word| text.eq_ignore_ascii_case(word)) {
            let meant = text.eq_ignore_ascii_case("yes") || text.eq_ignore_ascii_case("on");
            return Err(Ambiguous {
                message: format!(
                    "`{text}` is a truth value to some YAML readers and a word to others"
                ),
                hint: format!("write {meant} for the truth value, or \"{text}\" for the word"),
            });
        }
        number(text)
    }

    /// What it is, for a sentence: `a number`.
    pub(super) fn noun(&self) -> &'static str {
        match self.typed() {
            Ok(Typed::Null) => "nothing",
            Ok(Typed::Bool(_)) => "a truth value",
            Ok(Typed::Int(_) | Typed::Double(_)) => "a number",
            Ok(Typed::String(_)) | Err(_) => "text",
        }
    }
}

/// A plain scalar that is none of the words: a number, or text.
fn number(text: &str) -> Result<Typed<'_>, Ambiguous> {
    let radix = match text.get(..2) {
        Some("0x") => Some(16),
        Some("0o") => Some(8),
        _ => None,
    };
    if let Some(radix) = radix {
        let digits = &text[2..];
        // `from_str_radix` takes a sign, YAML does not.
        if digits.starts_with(['+', '-']) {
            return Ok(Typed::String(text));
        }
        return match i64::from_str_radix(digits, radix) {
            Ok(value) => Ok(Typed::Int(value)),
            Err(_) if !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix)) => {
                Err(too_large(text))
            }
            Err(_) => Ok(Typed::String(text)),
        };
    }

    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let is_decimal = !unsigned.is_empty() && unsigned.bytes().all(|b| b.is_ascii_digit());
    if is_decimal {
        if unsigned.len() > 1 && unsigned.starts_with('0') {
            return Err(Ambiguous {
                message: format!("`{text}` starts with a zero: some YAML readers take it as octal"),
                hint: format!("drop the zeros for a number, or write \"{text}\" for text"),
            });
        }
        return text.parse().map(Typed::Int).map_err(|_| too_large(text));
    }
    // Rust's own float syntax also has `inf`, `nan` and `infinity`, which are words in YAML.
    let starts_like_number = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    if starts_like_number && let Ok(value) = text.parse::<f64>() {
        if value.is_infinite() {
            return Err(too_large(text));
        }
        return Ok(Typed::Double(value));
    }
    Ok(Typed::String(text))
}

fn too_large(text: &str) -> Ambiguous {
    Ambiguous {
        message: format!("`{text}` is beyond the range of a 64-bit number"),
        hint: format!(
            "write {{ $numberDecimal: \"{text}\" }} for a number, or \"{text}\" for text"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Scalar {
        Scalar { text: text.into(), is_plain: true, is_tagged: false }
    }

    #[test]
    fn core_schema() {
        let rows: &[(&str, Typed<'_>)] = &[
            ("", Typed::Null),
            ("~", Typed::Null),
            ("null", Typed::Null),
            ("true", Typed::Bool(true)),
            ("FALSE", Typed::Bool(false)),
            ("tRue", Typed::String("tRue")),
            ("0", Typed::Int(0)),
            ("-12", Typed::Int(-12)),
            ("+12", Typed::Int(12)),
            ("0x1F", Typed::Int(31)),
            ("0o17", Typed::Int(15)),
            ("0x", Typed::String("0x")),
            ("0x-1", Typed::String("0x-1")),
            ("9223372036854775807", Typed::Int(i64::MAX)),
            ("-9223372036854775808", Typed::Int(i64::MIN)),
            ("1.5", Typed::Double(1.5)),
            (".5", Typed::Double(0.5)),
            ("1e3", Typed::Double(1000.0)),
            (".inf", Typed::Double(f64::INFINITY)),
            ("inf", Typed::String("inf")),
            ("nan", Typed::String("nan")),
            ("1_000", Typed::String("1_000")),
            ("2026-01-01", Typed::String("2026-01-01")),
            ("1.2.3", Typed::String("1.2.3")),
            (".", Typed::String(".")),
            ("-", Typed::String("-")),
            ("y", Typed::String("y")),
        ];
        for (text, expected) in rows {
            assert_eq!(plain(text).typed().as_ref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_readers_disagree_about_is_refused() {
        for text in ["yes", "No", "ON", "off", "007", "-08", "9223372036854775808", "1e999"] {
            assert!(plain(text).typed().is_err(), "{text}");
            let quoted = Scalar { text: text.into(), is_plain: false, is_tagged: false };
            assert_eq!(quoted.typed(), Ok(Typed::String(text)));
        }
    }
}
