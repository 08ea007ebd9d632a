//! Of access, what judges texts.

#[path = "../../src/access/claims.rs"]
pub mod claims;
#[path = "../../src/access/credentials.rs"]
pub mod credentials;
#[path = "../../src/access/token.rs"]
pub mod token;
