//! JSON values as YAML in block style: what is inserted into a file, and whole documents where an
//! insertion cannot be made.

use serde_json::Value;

use super::PLAIN;
use crate::yaml::{Scalar, Typed};

/// How nested lists are laid out.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// Whether the dashes of a list stand below its key, and not two columns further in.
    pub flat_lists: bool,
}

/// `key: value`, as lines without ends, the key in this column from 0.
pub fn entry(key: &str, value: &Value, indent: usize, style: Style) -> Vec<String> {
    let mut lines = Vec::new();
    put_entry(key, value, indent, style, &mut lines);
    lines
}

/// `- value`, as lines without ends, the dash in this column from 0.
pub fn item(value: &Value, indent: usize, style: Style) -> Vec<String> {
    let mut lines = Vec::new();
    put_item(value, indent, style, &mut lines);
    lines
}

/// A whole document.
pub fn document(value: &Value, style: Style) -> Vec<String> {
    let mut lines = Vec::new();
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                put_entry(key, value, 0, style, &mut lines);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for value in items {
                put_item(value, 0, style, &mut lines);
            }
        }
        other => lines.push(flow(other)),
    }
    lines
}

fn put_entry(key: &str, value: &Value, indent: usize, style: Style, lines: &mut Vec<String>) {
    let blank = " ".repeat(indent);
    let key = text(key);
    match value {
        Value::Object(map) if !map.is_empty() => {
            lines.push(format!("{blank}{key}:"));
            for (key, value) in map {
                put_entry(key, value, indent + 2, style, lines);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            lines.push(format!("{blank}{key}:"));
            let dashes = if style.flat_lists { indent } else { indent + 2 };
            for value in items {
                put_item(value, dashes, style, lines);
            }
        }
        other => lines.push(format!("{blank}{key}: {}", flow(other))),
    }
}

fn put_item(value: &Value, indent: usize, style: Style, lines: &mut Vec<String>) {
    let first = lines.len();
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                put_entry(key, value, indent + 2, style, lines);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for value in items {
                put_item(value, indent + 2, style, lines);
            }
        }
        other => lines.push(format!("{}{}", " ".repeat(indent + 2), flow(other))),
    }
    // The first line begins with at least that many blanks: it was made so above.
    if let Some(line) = lines.get_mut(first) {
        line.replace_range(indent..indent + 1, "-");
    }
}

/// A value on one line: a scalar, or a collection in flow style.
pub fn flow(value: &Value) -> String {
    match value {
        Value::String(string) => text(string),
        Value::Object(map) => {
            let entries: Vec<String> =
                map.iter().map(|(key, value)| format!("{}: {}", text(key), flow(value))).collect();
            if entries.is_empty() {
                "{}".to_owned()
            } else {
                format!("{{ {} }}", entries.join(", "))
            }
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// Text, in quotes unless no reader of YAML 1.1 or 1.2 could take it for anything else.
pub fn text(string: &str) -> String {
    if let Some(written) = string.strip_prefix(PLAIN) {
        return written.to_owned();
    }
    let is_safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '.' | '-' | ':');
    let is_plain = string.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && string.chars().all(is_safe)
        && !string.ends_with(':')
        // YAML 1.1 has these for true and false.
        && !matches!(string, "y" | "Y" | "n" | "N")
        && Scalar { text: string.to_owned(), is_plain: true, is_tagged: false }.typed() == Ok(Typed::String(string));
    if is_plain { string.to_owned() } else { Value::from(string).to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kubernetes::injection::manifest::to_value;
    use crate::yaml;

    #[test]
    fn what_is_written_reads_as_it_was() {
        let value = json!({
            "a": [{ "b": 1, "c": [] }, [[1, 2], "x"], "no", "y", "1", "", " ", "é: #", "a\nb", null],
            "key with: blank": { "d": {}, "e": { "f": true }, "g": -3 },
            "~": "~", "time": "12:30", "address": "0.0.0.0:18080", "quote\"": "'",
        });
        for flat_lists in [false, true] {
            let lines = document(&value, Style { flat_lists });
            let text = lines.join("\n");
            let tree = yaml::parse(&text).unwrap_or_else(|error| panic!("{error:?}\n{text}"));
            assert_eq!(to_value(&tree.unwrap()), value, "{text}");
        }
        let tree = yaml::parse(&flow(&value)).unwrap().unwrap();
        assert_eq!(to_value(&tree), value);
    }
}
