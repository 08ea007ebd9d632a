//! Conditions on parts of a list in the claims that probably mean one of its elements, but do not
//! say so.
//!
//! If `teams` is a list, `{ teams.id: { $param: team }, teams.role: editor }` admits a caller who
//! is an editor of one team and has any role in another: each condition may match a different
//! element. With a parameter in one of them, the client chooses which.

use std::collections::BTreeMap;

use crate::diagnostic::Reporter;
use crate::yaml::{Entry, Node};

/// Advises `$elemMatch` for the conditions on the claims (`access: { match: … }`).
pub(in crate::filter) fn advise(conditions: &Node, reporter: &mut Reporter<'_>) {
    let mut found: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
    collect(conditions, &mut found);
    for (list, parts) in found {
        let [_, second, ..] = parts.as_slice() else { continue };
        if !parts.iter().any(|entry| has_param(&entry.value)) {
            continue;
        }
        let names: Vec<&str> = parts.iter().map(|entry| &entry.key[list.len() + 1..]).collect();
        let inner: Vec<String> = names.iter().map(|name| format!("{name}: …")).collect();
        reporter.warning(
            second.key_place,
            format!(
                "if the claim `{list}` is a list, these conditions may hold for different elements \
                 of it"
            ),
            format!("write {list}: {{ $elemMatch: {{ {} }} }}", inner.join(", ")),
        );
    }
}

/// The conditions on parts, by what they are parts of; those that all have to hold.
fn collect<'n>(conditions: &'n Node, found: &mut BTreeMap<&'n str, Vec<&'n Entry>>) {
    for entry in conditions.entries().unwrap_or_default() {
        if entry.key == "$and" {
            for branch in entry.value.items().unwrap_or_default() {
                collect(branch, found);
            }
        } else if !entry.key.starts_with('$')
            && let Some((list, part)) = entry.key.rsplit_once('.')
            // `teams.0.id` names its element.
            && !list.split('.').chain([part]).any(|name| name.parse::<usize>().is_ok())
        {
            found.entry(list).or_default().push(entry);
        }
    }
}

fn has_param(node: &Node) -> bool {
    node.entries()
        .unwrap_or_default()
        .iter()
        .any(|entry| entry.key == "$param" || has_param(&entry.value))
        || node.items().unwrap_or_default().iter().any(has_param)
}
