//! From an event to the subscriptions that want it.
//!
//! Subscriptions with the same filter and the same bound values share one [`Route`]: its predicate
//! is evaluated once per event, its delivery encoded once, the bytes shared. This room touches
//! neither sockets nor MongoDB.

pub mod delivery;
pub mod route;
pub mod table;

pub use delivery::{Delivery, Kind, ResetReason};
pub use route::{Read, Route};
pub use table::RouteTable;
