//! One condition for all clients of a template: each has its values beside it.
//!
//! That is so where every placeholder stands for a value that is compared, as nearly always. What a
//! client leaves out changes the condition, and so does a list where one of its values is meant: then
//! it is bound for this client alone.

use std::cell::Cell;
use std::sync::Arc;

use super::{OpenNode, OpenTest};
use crate::matcher::eval::{BoundNode, BoundTest};
use crate::matcher::node::{Node, Test};
use crate::matcher::operand::{Filled, Lookup, Operand};
use crate::matcher::values::BoundValues;
use crate::matcher::{Placeholder, Role};

/// The condition, and which values it needs.
#[derive(Debug)]
pub(crate) struct Shared {
    pub root: Arc<BoundNode>,
    needs: Vec<Need>,
}

#[derive(Debug)]
struct Need {
    place: u16,
    /// Whether a list there would mean one of its values.
    spreads_list: bool,
}

impl Shared {
    /// The condition of a template; `place_of` says which of the bound values a placeholder stands
    /// for. `None`: there is none that is the same for all clients.
    pub fn of(root: &OpenNode, place_of: PlaceOf<'_>) -> Option<Shared> {
        let mut sharing = Sharing { place_of, needs: Vec::new() };
        let root = Arc::new(sharing.node(root)?);
        Some(Shared { root, needs: sharing.needs })
    }

    /// Whether it is the condition of a client with these values.
    pub fn fits(&self, values: &BoundValues) -> bool {
        self.needs.iter().all(|need| {
            let value = values.get(usize::from(need.place));
            value.is_some_and(|value| !(need.spreads_list && value.is_array()))
        })
    }
}

/// At which place of the bound values a placeholder's is.
pub(crate) type PlaceOf<'p> = &'p dyn Fn(&Placeholder) -> Option<usize>;

struct Sharing<'p> {
    place_of: PlaceOf<'p>,
    needs: Vec<Need>,
}

impl Sharing<'_> {
    fn node(&mut self, node: &OpenNode) -> Option<BoundNode> {
        Some(match node {
            Node::And(nodes) => super::join(self.nodes(nodes)?, Node::And),
            Node::Or(nodes) => super::join(self.nodes(nodes)?, Node::Or),
            Node::Not(node) => Node::Not(Box::new(self.node(node)?)),
            Node::Field { path, test } => {
                Node::Field { path: Arc::clone(path), test: self.test(test)? }
            }
            Node::Constant(_) | Node::All { .. } | Node::Schema(_) | Node::Expression(_) => {
                without_values(|lookup| super::bind(node, lookup))?
            }
        })
    }

    fn nodes(&mut self, nodes: &[OpenNode]) -> Option<Vec<BoundNode>> {
        nodes.iter().map(|node| self.node(node)).collect()
    }

    fn test(&mut self, test: &OpenTest) -> Option<BoundTest> {
        Some(match test {
            Test::Compare(comparison, Operand::Open(placeholder, role)) => {
                let place = u16::try_from((self.place_of)(placeholder)?).ok()?;
                self.needs.push(Need { place, spreads_list: *role == Role::Equality });
                Test::Compare(*comparison, Filled::Bound(place))
            }
            Test::ElementDocument(node) => Test::ElementDocument(Box::new(self.node(node)?)),
            Test::ElementValue(node) => Test::ElementValue(Box::new(self.node(node)?)),
            Test::Compare(..) | Test::In(_) | Test::Operator(_) => {
                without_values(|lookup| super::bind_test(test, lookup))?
            }
        })
    }
}

/// What needs no value of a client, bound; else `None`.
fn without_values<T>(bind: impl FnOnce(Lookup<'_>) -> Option<T>) -> Option<T> {
    let needs_none = Cell::new(true);
    let bound = bind(&mut |_| {
        needs_none.set(false);
        None
    });
    bound.filter(|_| needs_none.get())
}
