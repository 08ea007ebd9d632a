//! The tables of `sidestream top` as text, for pipes and scripts; and cells, for the screen too.

use std::fmt::Write as _;

use serde_json::Value;

pub(super) const UPSTREAM_HEADS: [&str; 6] =
    ["UPSTREAM", "STATUS", "LAG s", "OPLOG h", "JOURNAL MiB", "ROUTES"];
pub(super) const STREAM_HEADS: [&str; 6] =
    ["STREAM", "STATE", "LISTENERS", "EVENTS/s", "EVENTS", "TO KNOW"];

/// Both tables, below a line about the whole.
pub(super) fn table(report: &Value) -> String {
    let mut out = format!("{}\n", summary(report));
    for trouble in report["overview"]["troubles"].as_array().into_iter().flatten() {
        // Writing to a text does not fail.
        let _ = writeln!(out, "! {}", text(trouble));
    }
    let _ = write!(out, "\n{}", aligned(UPSTREAM_HEADS, &upstreams(report)));
    let _ = write!(out, "\n{}", aligned(STREAM_HEADS, &streams(report)));
    out
}

/// The line about the whole.
pub(super) fn summary(report: &Value) -> String {
    let overview = &report["overview"];
    let state = match (overview["ready"].as_bool(), overview["leaving"].as_bool()) {
        (_, Some(true)) => "leaving",
        (Some(true), _) => "ready",
        _ => "not ready",
    };
    format!(
        "sidestream {}: {state}, {} connections, {} events/s in, {} events/s out",
        text(&overview["version"]),
        text(&overview["connections"]),
        fixed(&overview["events_read_per_second"]),
        fixed(&overview["events_sent_per_second"]),
    )
}

pub(super) fn upstreams(report: &Value) -> Vec<[String; 6]> {
    rows(&report["upstreams"], |it| {
        let journal = it["journal_bytes"].as_f64().unwrap_or(0.0) / (1024.0 * 1024.0);
        [
            format!("{}/{}", text(&it["database"]), text(&it["mode"])),
            text(&it["status"]),
            fixed(&it["lag_seconds"]),
            fixed(&it["oplog_hours"]),
            format!("{journal:.1}"),
            text(&it["routes"]),
        ]
    })
}

pub(super) fn streams(report: &Value) -> Vec<[String; 6]> {
    rows(&report["streams"], |it| {
        [
            text(&it["name"]),
            text(&it["state"]),
            text(&it["subscriptions"]),
            fixed(&it["events_sent_per_second"]),
            text(&it["events_sent"]),
            text(&it["reason"]),
        ]
    })
}

pub(super) fn rows<const N: usize>(
    list: &Value,
    row: impl Fn(&Value) -> [String; N],
) -> Vec<[String; N]> {
    list.as_array().into_iter().flatten().map(row).collect()
}

/// Columns as wide as their widest cell; the last one as it comes.
fn aligned<const N: usize>(heads: [&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([heads[column].len()]).max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |cells: [&str; N]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", padded.collect::<Vec<_>>().join("  ").trim_end())
    };
    let body = rows.iter().map(|row| line(std::array::from_fn(|column| row[column].as_str())));
    std::iter::once(line(heads)).chain(body).collect()
}

/// For a cell: what a terminal would take for a command is left out.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.chars().filter(|c| !c.is_control()).collect(),
        other => other.to_string(),
    }
}

pub(super) fn fixed(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"))
}

#[cfg(test)]
mod tests {
    use super::super::sample::tests::sample;
    use super::*;

    #[test]
    fn no_name_moves_the_cursor() {
        let drawn = table(&sample(12.0, 30).since(&sample(10.0, 10)));
        assert!(drawn.contains("a[2J    ready  -          10.0      30      -\n"), "{drawn}");
        assert!(!drawn.contains('\u{1b}'), "{drawn:?}");
    }
}
