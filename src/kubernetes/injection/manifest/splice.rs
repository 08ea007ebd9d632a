//! Applies the steps of a patch to a text, and changes no other line: the author's comments, order,
//! quotes and blank lines stay.
//!
//! It supports the layouts that people and tools write, not all of YAML. The caller therefore
//! parses the result and compares it with what it should be; if the two differ, it rewrites the
//! document.

use super::emit::{self, Style};
use crate::kubernetes::injection::json_patch::{Step, StepKind};
use crate::yaml::{Node, NodeKind, Place};

/// A change of the text.
enum Edit {
    /// Lines that come behind this line, counted from 0.
    Insert { behind: usize, indent: usize, lines: Vec<String> },
    /// Characters of one line, from 0.
    Replace { line: usize, from: usize, to: usize, with: String },
}

/// The text after these steps; `None` where a step meets a layout that it does not know.
pub fn splice(text: &str, root: &Node, steps: &[Step]) -> Option<String> {
    let end = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let style = Style { flat_lists: has_flat_lists(root, &lines) };
    let mut edits = Vec::new();
    for step in steps {
        edits.push(edit(step, root, &lines, style)?);
    }
    // From the bottom up, so that lines above keep their numbers. Of what goes to one place, the
    // inner comes first in the text, and otherwise the earlier step.
    let mut order: Vec<(usize, Edit)> = edits.into_iter().enumerate().collect();
    order.sort_by_key(|(index, edit)| match edit {
        Edit::Insert { behind, indent, .. } => (*behind, 1, usize::MAX - *indent, *index),
        Edit::Replace { line, from, .. } => (*line, 0, *from, *index),
    });
    for (_, edit) in order.into_iter().rev() {
        match edit {
            Edit::Insert { behind, lines: new, .. } => {
                let at = (behind + 1).min(lines.len());
                lines.splice(at..at, new);
            }
            Edit::Replace { line, from, to, with } => {
                let old: Vec<char> = lines.get(line)?.chars().collect();
                let kept = |range: &[char]| range.iter().collect::<String>();
                lines[line] = format!("{}{with}{}", kept(old.get(..from)?), kept(old.get(to..)?));
            }
        }
    }
    let mut out = lines.join(end);
    if text.ends_with('\n') || !text.is_empty() {
        out.push_str(end);
    }
    Some(out)
}

fn edit(step: &Step, root: &Node, lines: &[String], style: Style) -> Option<Edit> {
    let (key, parent_path) = step.path.split_last()?;
    match step.kind {
        StepKind::Remove => None,
        StepKind::Replace => {
            let node = find(root, &step.path)?;
            replace(node, &emit::flow(&step.value), lines)
        }
        StepKind::Add => {
            let parent = find(root, parent_path)?;
            match &parent.kind {
                NodeKind::Mapping(entries) => {
                    if is_flow(parent, lines) {
                        let new = format!("{}: {}", emit::text(key), emit::flow(&step.value));
                        return into_flow(parent.place, entries.is_empty(), &new, lines);
                    }
                    let own = entries.first()?.key_place;
                    // Where all entries are merged, the first is that of an anchor further up.
                    let first = if own.line < parent.place.line { parent.place } else { own };
                    let indent = first.column - 1;
                    let behind = block_end(lines, first.line - 1, indent, false);
                    let new = emit::entry(key, &step.value, indent, style);
                    Some(Edit::Insert { behind, indent, lines: new })
                }
                NodeKind::Sequence(items) => {
                    if is_flow(parent, lines) {
                        let new = emit::flow(&step.value);
                        return into_flow(parent.place, items.is_empty(), &new, lines);
                    }
                    let (line, indent) = dash_of(items.first()?, lines)?;
                    let behind = block_end(lines, line, indent, true);
                    let new = emit::item(&step.value, indent, style);
                    Some(Edit::Insert { behind, indent, lines: new })
                }
                NodeKind::Scalar(_) => None,
            }
        }
    }
}

/// The node at a path.
pub fn find<'a>(root: &'a Node, path: &[String]) -> Option<&'a Node> {
    path.iter().try_fold(root, |node, key| match &node.kind {
        NodeKind::Mapping(_) => Some(&node.get(key)?.value),
        NodeKind::Sequence(items) => items.get(key.parse::<usize>().ok()?),
        NodeKind::Scalar(_) => None,
    })
}

/// A scalar by another one, in the quotes of its author.
fn replace(node: &Node, new: &str, lines: &[String]) -> Option<Edit> {
    node.scalar()?;
    let Place { line, column, width } = node.place;
    let old: String = lines.get(line - 1)?.chars().skip(column - 1).take(width).collect();
    if old.starts_with(['*', '&', '|', '>']) {
        return None;
    }
    let is_bare = new.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let with = match old.chars().next() {
        Some(quote @ ('\'' | '"')) if is_bare => format!("{quote}{new}{quote}"),
        _ => new.to_owned(),
    };
    Some(Edit::Replace { line: line - 1, from: column - 1, to: column - 1 + width, with })
}

/// Before the closing bracket of a collection that stands on one line.
fn into_flow(place: Place, is_empty: bool, new: &str, lines: &[String]) -> Option<Edit> {
    let chars: Vec<char> = lines.get(place.line - 1)?.chars().collect();
    let close = place.column + place.width - 2;
    let bracket = *chars.get(close)?;
    if !matches!(bracket, '}' | ']') {
        return None;
    }
    let inner = chars.get(..close)?.iter().rposition(|c| *c != ' ')?;
    let is_padded = inner + 1 < close;
    let with = match (is_empty, bracket) {
        (true, '}') => format!(" {new} "),
        (true, _) => new.to_owned(),
        (false, _) => format!(", {new}{}", if is_padded { " " } else { "" }),
    };
    Some(Edit::Replace { line: place.line - 1, from: inner + 1, to: close, with })
}

fn is_flow(node: &Node, lines: &[String]) -> bool {
    let line = lines.get(node.place.line - 1);
    let first = line.and_then(|line| line.chars().nth(node.place.column - 1));
    matches!(first, Some('{' | '['))
}

/// The dash of a list's first item: its line, and its column from 0.
fn dash_of(first: &Node, lines: &[String]) -> Option<(usize, usize)> {
    let line = first.place.line - 1;
    let before: Vec<char> = lines.get(line)?.chars().take(first.place.column - 1).collect();
    let dash = before.iter().rposition(|c| *c == '-')?;
    before.iter().enumerate().all(|(at, c)| *c == ' ' || at == dash).then_some((line, dash))
}

/// The last line of a block whose lines are indented by at least this much, from 0. Comments at its
/// end that are indented as little as the block belong to what follows.
fn block_end(lines: &[String], first: usize, indent: usize, is_list: bool) -> usize {
    let mut last = first;
    for (at, line) in lines.iter().enumerate().skip(first + 1) {
        let content = line.trim_start_matches(' ');
        let depth = line.len() - content.len();
        let content = content.trim();
        if content.is_empty() {
            continue;
        }
        if content.starts_with('#') {
            if depth > indent {
                last = at;
            }
            continue;
        }
        let is_dash = content == "-" || content.starts_with("- ");
        let is_inside = depth > indent || (depth == indent && (!is_list || is_dash));
        if !is_inside {
            break;
        }
        last = at;
    }
    last
}

/// Whether the author writes the dashes of lists below their key: by the first list that says so.
fn has_flat_lists(root: &Node, lines: &[String]) -> bool {
    fn first_list(node: &Node, lines: &[String]) -> Option<bool> {
        match &node.kind {
            NodeKind::Mapping(entries) => entries.iter().find_map(|entry| {
                let list = entry.value.items().filter(|_| !is_flow(&entry.value, lines));
                let of_list = list.and_then(|items| {
                    let (line, dash) = dash_of(items.first()?, lines)?;
                    (line >= entry.key_place.line).then_some(dash < entry.key_place.column)
                });
                of_list.or_else(|| first_list(&entry.value, lines))
            }),
            NodeKind::Sequence(items) => items.iter().find_map(|item| first_list(item, lines)),
            NodeKind::Scalar(_) => None,
        }
    }
    first_list(root, lines).unwrap_or(false)
}
