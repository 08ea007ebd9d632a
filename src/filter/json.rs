//! `.json` filter files are JSON, as their writers expect, and not whatever YAML makes of them.

use serde::de::IgnoredAny;

use crate::diagnostic::Reporter;
use crate::yaml::Place;

/// Whether a text is JSON. The first place where it is not is reported; the tree is then read by
/// the YAML reader, which knows the places of everything and takes all JSON.
pub(super) fn check(text: &str, reporter: &mut Reporter<'_>) -> bool {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let Err(error) = serde_json::from_str::<IgnoredAny>(text) else { return true };
    let line = text.lines().nth(error.line().saturating_sub(1)).unwrap_or_default();
    // Columns of serde_json count bytes, and stand behind what is wrong.
    let column =
        line.bytes().take(error.column().saturating_sub(1)).filter(|b| b & 0xc0 != 0x80).count();
    let place = Place { line: error.line().max(1), column: column + 1, width: 1 };
    let at = line.get(error.column().saturating_sub(1)..).unwrap_or_default().trim_start();
    let said = error.to_string();
    let said = said.split(" at line ").next().unwrap_or(&said);
    let before = line.get(..error.column().saturating_sub(1)).unwrap_or_default().trim_end();
    let above = text
        .lines()
        .take(error.line().saturating_sub(1))
        .map(str::trim_end)
        .filter(|line| !line.is_empty());
    let before = if before.trim().is_empty() { above.last().unwrap_or_default() } else { before };
    let hint = if at.starts_with(['}', ']']) && before.ends_with(',') {
        "remove the comma before the closing bracket"
    } else if at.starts_with("//") || at.starts_with("/*") || at.starts_with('#') {
        "JSON has no comments: use `description`, or a .yaml file"
    } else if at.starts_with('\'') {
        "JSON quotes with \", not with '"
    } else if said.contains("key must be a string") {
        "write keys in double quotes, or rename the file to .yaml"
    } else {
        "correct it, or rename the file to .yaml, where quotes and commas are optional"
    };
    reporter.error(place, format!("not valid JSON: {said}"), hint);
    false
}
