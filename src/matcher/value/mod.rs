//! BSON values by themselves: their types, numbers and order, and how they are written.

pub(crate) mod compare;
pub(in crate::matcher) mod decimal;
mod decimal_arithmetic;
pub(crate) mod number;
pub(in crate::matcher) mod types;
pub(in crate::matcher) mod write;
