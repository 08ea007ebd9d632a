//! The source lines under a finding: cut where they are long, and, where a text may hold secrets,
//! only those parts that are known to hold none.

use std::collections::HashMap;
use std::ops::Range;

use crate::yaml::Place;

/// Longer lines (JSON on one line) are shown in part, this many characters of them.
pub(super) const MAX_SHOWN_CHARS: usize = 120;
/// So many of them before the column.
const SHOWN_BEFORE: usize = 40;
/// What stands for a part that is not shown.
const HIDDEN: &str = "***";

/// The lines of one text.
pub(crate) struct Lines<'a> {
    lines: Vec<&'a str>,
    visible: Visible,
}

/// What of a text may be shown.
enum Visible {
    Everything,
    /// By line, from 1: stretches of characters, from 0. All else is hidden but for white space
    /// and punctuation around it.
    Parts(HashMap<usize, Vec<Range<usize>>>),
}

impl<'a> Lines<'a> {
    /// Lines that may be shown as they are.
    pub fn new(text: &'a str) -> Lines<'a> {
        Lines { lines: text.lines().collect(), visible: Visible::Everything }
    }

    /// Lines of which only these places may be shown.
    pub fn with_secrets(text: &'a str, visible: impl IntoIterator<Item = Place>) -> Lines<'a> {
        let mut parts: HashMap<usize, Vec<Range<usize>>> = HashMap::new();
        for Place { line, column, width } in visible {
            let start = column.saturating_sub(1);
            parts.entry(line).or_default().push(start..start.saturating_add(width));
        }
        Lines { lines: text.lines().collect(), visible: Visible::Parts(parts) }
    }

    /// The part of a line to show, and where in it the place begins (from 1) and how wide it is.
    /// Cut at once: a finding must not cost the length of its line, of which there may be only one.
    pub fn excerpt(&self, place: Place) -> (String, usize, usize) {
        let Place { line, column, width } = place;
        let text = self.lines.get(line.saturating_sub(1)).copied().unwrap_or_default();
        match &self.visible {
            Visible::Everything => {
                let (shown, column) = cut(text, column);
                (shown, column, width)
            }
            Visible::Parts(parts) => {
                let parts = parts.get(&line).map(Vec::as_slice).unwrap_or_default();
                let (masked, column, width) = mask(text, parts, column, width);
                let (shown, column) = cut(&masked, column);
                (shown, column, width)
            }
        }
    }
}

fn cut(line: &str, column: usize) -> (String, usize) {
    // What a terminal would obey is not for showing.
    let safe = |c: char| if c.is_control() && c != '\t' { '�' } else { c };
    let start = match line.chars().nth(MAX_SHOWN_CHARS) {
        Some(_) => (column - 1).saturating_sub(SHOWN_BEFORE),
        None => 0,
    };
    let mut shown = String::new();
    if start > 0 {
        shown.push('…');
    }
    let mut rest = line.chars().skip(start);
    shown.extend(rest.by_ref().take(MAX_SHOWN_CHARS).map(safe));
    if rest.next().is_some() {
        shown.push('…');
    }
    (shown, column - start + usize::from(start > 0))
}

/// Replaces what is not visible by [`HIDDEN`], and finds the column and the width in the result.
fn mask(
    line: &str,
    visible: &[Range<usize>],
    column: usize,
    width: usize,
) -> (String, usize, usize) {
    let chars: Vec<char> = line.chars().collect();
    let mut is_hidden = vec![true; chars.len()];
    for part in visible {
        let end = part.end.min(chars.len());
        is_hidden[part.start.min(end)..end].fill(false);
    }
    let mut masked = String::new();
    // Where in the masked line each character of the line is, or what hides it.
    let mut places: Vec<Range<usize>> = Vec::with_capacity(chars.len());
    let mut length = 0;
    let mut at = 0;
    while at < chars.len() {
        if !is_hidden[at] {
            places.push(length..length + 1);
            masked.push(chars[at]);
            (length, at) = (length + 1, at + 1);
            continue;
        }
        let end = (at..chars.len()).find(|next| !is_hidden[*next]).unwrap_or(chars.len());
        let gap = &chars[at..end];
        let is_around = |c: &&char| c.is_whitespace() || ",{}[]:\"'".contains(**c);
        let before = match gap.iter().take_while(is_around).count() {
            // `- ` of a list's item.
            count if gap[count..].starts_with(&['-', ' ']) => count + 2,
            count => count,
        };
        let after = gap[before..].iter().rev().take_while(is_around).count();
        let hidden = gap.len() - before - after;
        for (index, character) in gap.iter().enumerate() {
            if (before..before + hidden).contains(&index) {
                if index == before {
                    masked.push_str(HIDDEN);
                    length += HIDDEN.len();
                }
                places.push(length - HIDDEN.len()..length);
            } else {
                masked.push(*character);
                places.push(length..length + 1);
                length += 1;
            }
        }
        at = end;
    }
    let place = |index: usize| places.get(index).cloned().unwrap_or(length..length + 1);
    let first = place(column - 1);
    let last = place((column - 1).saturating_add(width.max(1) - 1).min(chars.len()));
    (masked, first.start + 1, last.end.saturating_sub(first.start).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(line: &str, visible: &[&str], marked: &str) -> (String, String) {
        let place = |part: &str| Place {
            line: 1,
            column: line[..line.find(part).unwrap()].chars().count() + 1,
            width: part.chars().count(),
        };
        let lines = Lines::with_secrets(line, visible.iter().map(|part| place(part)));
        let (shown, column, width) = lines.excerpt(place(marked));
        let marked = shown.chars().skip(column - 1).take(width).collect();
        (shown, marked)
    }

    #[test]
    fn only_what_is_known_to_be_harmless_is_shown() {
        let rows: &[(&str, &[&str], &str, &str, &str)] = &[
            ("uri: x@y", &["uri"], "uri", "uri: ***", "uri"),
            ("uri: x@y", &["uri"], "x@y", "uri: ***", "***"),
            (
                "mongodb: { uri: 'hunter2', uri_file: é }",
                &["mongodb", "uri", "uri_file", "é"],
                "uri_file",
                "mongodb: { uri: '***', uri_file: é }",
                "uri_file",
            ),
            ("  - hunter2 # no", &[], "hunter2", "  - ***", "***"),
            ("  - a", &["a"], "a", "  - a", "a"),
            ("a: 'hunter2', b: c d", &["a", "b", "c d"], "c d", "a: '***', b: c d", "c d"),
            ("hunter2", &[], "2", "***", "***"),
            ("", &[], "", "", ""),
        ];
        for (line, visible, marked, shown, under) in rows {
            let found = masked(line, visible, marked);
            assert_eq!(found, ((*shown).to_owned(), (*under).to_owned()), "{line}");
        }
    }
}
