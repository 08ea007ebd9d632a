//! From a client's request to bound values: parameters, claims, and which callers may open a
//! stream.

pub(super) mod access;
pub(super) mod bind;
pub(super) mod claims;
pub(super) mod limits;
pub(super) mod params;
mod sample;
pub(super) mod value;
