//! Of the settings, what reads one value.

#[path = "../../src/config/address.rs"]
pub mod address;
#[path = "../../src/config/token_source.rs"]
mod token_source;
#[path = "../../src/config/units.rs"]
pub mod units;

pub(crate) use address::parse_prefix;
pub use token_source::{RESERVED_QUERY, TokenSource};
pub use units::parse_duration;
pub(crate) use units::show_duration;
