//! Change events.

pub mod json;
pub(crate) mod raw;
