//! What an expression sees while it is computed: the document, variables, and what is left to spend.

use std::cell::Cell;

use super::item::{Failure, Item};
use crate::event::raw::Value;

/// Steps that one expression may take for one document, and so many times sixteen bytes that it
/// may make.
const MAX_STEPS: usize = 2 << 20;

/// What has been spent on a document.
#[derive(Default)]
pub(super) struct Work(Cell<usize>);

#[derive(Clone, Copy)]
pub(super) struct Scope<'s, 'a> {
    pub document: Value<'a>,
    innermost: Option<&'s Variable<'s, 'a>>,
    work: &'s Work,
}

/// A variable, and those outside of it.
pub(super) struct Variable<'s, 'a> {
    value: &'s Item<'a>,
    outer: Option<&'s Variable<'s, 'a>>,
}

impl<'s, 'a> Scope<'s, 'a> {
    /// The outermost scope, without variables. `work` adds up what one document costs.
    pub fn new(document: Value<'a>, work: &'s Work) -> Scope<'s, 'a> {
        Scope { document, innermost: None, work }
    }

    /// One more variable, for [`Scope::within`].
    pub fn with(&self, value: &'s Item<'a>) -> Variable<'s, 'a> {
        Variable { value, outer: self.innermost }
    }

    /// The scope inside a `$let`, `$map` or the like, where the variable is the innermost one.
    pub fn within<'t>(&self, variable: &'t Variable<'t, 'a>) -> Scope<'t, 'a>
    where
        's: 't,
    {
        Scope { document: self.document, innermost: Some(variable), work: self.work }
    }

    /// Counted from the innermost.
    pub fn variable(&self, index: usize) -> Option<&'s Item<'a>> {
        let mut variable = self.innermost?;
        for _ in 0..index {
            variable = variable.outer?;
        }
        Some(variable.value)
    }

    /// Counts steps: one for each expression that is computed, however often that is.
    ///
    /// # Errors
    /// When the document has used up its [`MAX_STEPS`].
    pub fn charge(&self, steps: usize) -> Result<(), Failure> {
        let spent = self.work.0.get().saturating_add(steps);
        self.work.0.set(spent);
        if spent > MAX_STEPS { Err(Failure) } else { Ok(()) }
    }

    /// Counts bytes that are made, sixteen of them as one step.
    ///
    /// # Errors
    /// As [`Scope::charge`].
    pub fn charge_bytes(&self, bytes: usize) -> Result<(), Failure> {
        self.charge(bytes / 16)
    }
}
