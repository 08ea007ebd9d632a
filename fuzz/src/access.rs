//! Of access, what judges texts.

#[path = "../../src/access/claims.rs"]
pub mod claims;
#[path = "../../src/access/token.rs"]
pub mod token;
