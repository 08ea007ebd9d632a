//! Merge keys: `<<: *defaults` gives a mapping the keys of another one that it does not have itself.
//! They are of YAML 1.1, and Kubernetes reads them.

use std::collections::HashSet;

use super::{Node, NodeKind, YamlError};

/// A plain `<<` as a key of the tree; a `<<` in quotes is a key like any other.
pub(super) const KEY: &str = "\0<<";

/// Puts the entries of merged mappings in the place of merge keys, behind those that are written out.
/// Nothing is copied: aliases were, and were counted.
pub(super) fn expand(node: &mut Node) -> Result<(), YamlError> {
    let entries = match &mut node.kind {
        NodeKind::Scalar(_) => return Ok(()),
        NodeKind::Sequence(items) => return items.iter_mut().try_for_each(expand),
        NodeKind::Mapping(entries) => entries,
    };
    entries.iter_mut().try_for_each(|entry| expand(&mut entry.value))?;
    let Some(at) = entries.iter().position(|entry| entry.key == KEY) else { return Ok(()) };
    let merged = entries.remove(at);
    let sources = match merged.value {
        Node { kind: NodeKind::Sequence(items), .. } => items,
        one => vec![one],
    };
    let mut known: HashSet<String> = entries.iter().map(|entry| entry.key.clone()).collect();
    for source in sources {
        let NodeKind::Mapping(more) = source.kind else {
            return Err(YamlError {
                place: merged.key_place,
                message: "a merge key (`<<`) without a mapping".to_owned(),
                hint: Some("write an alias of a mapping, or a list of such aliases".to_owned()),
            });
        };
        entries.extend(more.into_iter().filter(|entry| known.insert(entry.key.clone())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::yaml::{Node, NodeKind, parse, parse_merging};

    fn shown(node: &Node) -> String {
        match &node.kind {
            NodeKind::Scalar(scalar) => scalar.text.clone(),
            NodeKind::Sequence(items) => {
                format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(" "))
            }
            NodeKind::Mapping(entries) => {
                let entries =
                    entries.iter().map(|entry| format!("{}:{}", entry.key, shown(&entry.value)));
                format!("{{{}}}", entries.collect::<Vec<_>>().join(" "))
            }
        }
    }

    #[test]
    fn own_keys_win_and_earlier_mappings_before_later_ones() {
        let rows = [
            ("a: &a {x: 1}\nb: {<<: *a, y: 2}\n", "{a:{x:1} b:{y:2 x:1}}"),
            ("a: &a {x: 1, y: 1}\nb:\n  y: 2\n  <<: *a\n", "{a:{x:1 y:1} b:{y:2 x:1}}"),
            ("- &a {x: 1}\n- &b {x: 2, y: 2}\n- <<: [*a, *b]\n", "[{x:1} {x:2 y:2} {x:1 y:2}]"),
            ("- &a {x: 1}\n- &b {<<: *a, y: 2}\n- <<: *b\n", "[{x:1} {y:2 x:1} {y:2 x:1}]"),
            ("- <<: {x: 1}\n", "[{x:1}]"),
            ("a: {'<<': 1}\n", "{a:{<<:1}}"),
        ];
        for (text, expected) in rows {
            let tree = parse_merging(text).unwrap_or_else(|problems| panic!("{text}{problems:?}"));
            assert_eq!(shown(&tree.unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_merged() {
        for (text, expected) in [
            ("a: 1\n<<: 2\n", "2:1 a merge key (`<<`) without a mapping"),
            ("<<: [{x: 1}, 2]\n", "1:1 a merge key (`<<`) without a mapping"),
            ("<<: {x: 1}\n<<: {y: 1}\n", "2:1 `<<` is written twice"),
        ] {
            let problems = parse_merging(text).unwrap_err();
            let first = &problems[0];
            let place = first.place;
            assert_eq!(format!("{}:{} {}", place.line, place.column, first.message), expected);
            assert!(parse(text).is_err());
        }
    }
}
