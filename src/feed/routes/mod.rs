//! From an event to the subscriptions that want it, without evaluating each of them.
//!
//! Subscriptions with the same filter and the same bound values share one [`Route`]: its predicate
//! is evaluated once per event, its delivery encoded once, the bytes shared. The [`RouteTable`]
//! finds the routes that an event may concern through an [`Index`] of their predicates, so that an
//! event costs a few look-ups for any number of clients. This module touches neither sockets nor
//! MongoDB.

pub mod delivery;
mod describe;
mod finder;
mod hash;
#[cfg(test)]
mod images;
pub mod index;
mod large;
mod ordered;
mod postings;
pub mod route;
pub mod table;
mod tally;
mod terms;
mod wakers;

pub(crate) use delivery::DocumentWriter;
pub use delivery::{Delivery, DeliveryKind, ResetReason};
pub(crate) use finder::{Finder, Slot};
pub use index::{Description, Index};
pub(crate) use large::LargeDeliveries;
pub(crate) use route::READ_BYTES;
pub use route::{Read, Route};
pub(crate) use table::Offer;
pub use table::{Key as RouteKey, RouteId, RouteTable};
pub use tally::Tally;
pub use wakers::Seat;
