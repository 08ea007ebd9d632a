//! From a path in a document back to where it is written.

use std::collections::HashMap;

use crate::matcher::Step;
use crate::yaml::{Entry, Node, Place};

/// Mappings up to this length are searched, longer ones are indexed once.
const SEARCHED_ENTRIES: usize = 16;

/// The tree below an entry. There may be many paths to follow through one long mapping.
pub(super) struct Tree<'t> {
    root: &'t Entry,
    /// By the address of the mapping's node.
    indexed: HashMap<*const Node, HashMap<&'t str, &'t Entry>>,
}

impl<'t> Tree<'t> {
    /// `root` is the key whose value the paths start from, such as `match`.
    pub fn new(root: &'t Entry) -> Tree<'t> {
        Tree { root, indexed: HashMap::new() }
    }

    /// The place of a path: of the key where it ends with one, else of the value. As far as it
    /// goes, where Extended JSON has become one value.
    pub fn locate(&mut self, path: &[Step]) -> Place {
        let mut node = &self.root.value;
        let mut place = self.root.key_place;
        for step in path {
            let next = match step {
                Step::Key(key) => {
                    self.entry(node, key).map(|entry| (&entry.value, entry.key_place))
                }
                Step::Index(index) => item(node, *index).map(|item| (item, item.place)),
            };
            let Some(next) = next else { return place };
            (node, place) = next;
        }
        place
    }

    /// The node at a path, as far as it goes.
    pub fn node_at(&mut self, path: &[Step]) -> &'t Node {
        let mut node = &self.root.value;
        for step in path {
            let next = match step {
                Step::Key(key) => self.entry(node, key).map(|entry| &entry.value),
                Step::Index(index) => item(node, *index),
            };
            let Some(next) = next else { break };
            node = next;
        }
        node
    }

    fn entry(&mut self, node: &'t Node, key: &str) -> Option<&'t Entry> {
        let entries = node.entries()?;
        if entries.len() <= SEARCHED_ENTRIES {
            return node.get(key);
        }
        let index = self
            .indexed
            .entry(node)
            .or_insert_with(|| entries.iter().map(|entry| (entry.key.as_str(), entry)).collect());
        index.get(key).copied()
    }
}

fn item(node: &Node, index: usize) -> Option<&Node> {
    node.items().and_then(|items| items.get(index))
}
