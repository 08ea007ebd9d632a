//! Dotted paths, and all values that a path leads to.
//!
//! A path goes through arrays: `items.sku` leads to the `sku` of every element, `items.0.sku` to
//! that of the first one (and, as in `mongod`, to the field `0` of every element, should it have
//! one).

use std::fmt;

use crate::event::raw::{Elements, Value, tag};

/// A dotted path, taken apart once.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Path {
    parts: Box<[Box<str>]>,
}

/// Whether an array at the end of a path stands for its elements too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaf {
    /// Each element, then the array itself.
    Spread,
    /// Only the array itself.
    Whole,
}

impl Path {
    /// Splits at the dots. Any text is a path here; the parser checks what is written.
    pub fn new(dotted: &str) -> Path {
        Path { parts: dotted.split('.').map(Box::from).collect() }
    }

    /// The path of a condition on a value itself, inside `$elemMatch`.
    pub fn itself() -> Path {
        Path { parts: Box::default() }
    }

    /// The names between the dots, the outermost first; none for [`Path::itself`].
    pub fn parts(&self) -> &[Box<str>] {
        &self.parts
    }

    /// This path, and that one below it.
    pub fn join(&self, below: &Path) -> Path {
        Path { parts: self.parts.iter().chain(&below.parts).cloned().collect() }
    }

    /// As written in a filter file; empty for [`Path::itself`].
    pub fn dotted(&self) -> String {
        self.parts.join(".")
    }

    /// Whether any value that the path leads to passes. A path that leads nowhere is asked once
    /// with `None`; one that ends in an array without matching elements is not asked at all.
    pub fn any(
        &self,
        fields: Elements<'_>,
        leaf: Leaf,
        passes: &mut dyn FnMut(Option<Value<'_>>) -> bool,
    ) -> bool {
        any_in_fields(fields, &self.parts, leaf, passes)
    }

    /// The same below a value that is already found.
    pub fn any_below(
        parts: &[Box<str>],
        value: Value<'_>,
        leaf: Leaf,
        passes: &mut dyn FnMut(Option<Value<'_>>) -> bool,
    ) -> bool {
        any_in_value(value, parts, leaf, passes)
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Path({:?})", self.dotted())
    }
}

type Passes<'f> = &'f mut dyn FnMut(Option<Value<'_>>) -> bool;

fn any_in_fields(fields: Elements<'_>, parts: &[Box<str>], leaf: Leaf, passes: Passes<'_>) -> bool {
    let Some((first, rest)) = parts.split_first() else { return passes(None) };
    match fields.find_key(first.as_bytes()) {
        None => passes(None),
        Some(value) => any_in_value(value, rest, leaf, passes),
    }
}

fn any_in_value(value: Value<'_>, rest: &[Box<str>], leaf: Leaf, passes: Passes<'_>) -> bool {
    if rest.is_empty() {
        if value.is_array() && leaf == Leaf::Spread {
            return value.elements().any(|(_, element)| passes(Some(element)))
                || passes(Some(value));
        }
        return passes(Some(value));
    }
    match value.tag {
        tag::DOCUMENT => any_in_fields(value.elements(), rest, leaf, passes),
        tag::ARRAY => any_in_array(value, rest, leaf, passes),
        _ => passes(None),
    }
}

/// The path goes on below an array: through its documents, and through the element whose index is
/// the next part. Arrays directly in an array are entered by index only.
fn any_in_array(array: Value<'_>, rest: &[Box<str>], leaf: Leaf, passes: Passes<'_>) -> bool {
    let Some((first, after)) = rest.split_first() else { return false };
    let is_index = !first.is_empty() && first.bytes().all(|byte| byte.is_ascii_digit());
    for (key, element) in array.elements() {
        if element.tag == tag::DOCUMENT && any_in_fields(element.elements(), rest, leaf, passes) {
            return true;
        }
        if !is_index || key != first.as_bytes() {
            continue;
        }
        let found = match element.tag {
            // At the end an index names one element, and an array there is not spread again.
            _ if after.is_empty() => passes(Some(element)),
            tag::DOCUMENT => any_in_fields(element.elements(), after, leaf, passes),
            tag::ARRAY => any_in_array(element, after, leaf, passes),
            _ => false,
        };
        if found {
            return true;
        }
    }
    false
}
