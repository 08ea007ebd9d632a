//! From a document to the routes that may want it, without asking each.
//!
//! A route is a predicate with an id. [`Index`] files every predicate under the term that tells
//! most, so that a document costs a few look-ups, however many routes there are. It may name too
//! many candidates, never too few; the caller asks each candidate's predicate.

mod describe;
mod hash;
pub mod index;
mod ordered;
mod postings;
mod terms;

pub use index::{Description, Index};
