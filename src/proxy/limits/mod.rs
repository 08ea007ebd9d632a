//! What bounds forwarded traffic: memory, time without progress, requests on their way at once.

pub(in crate::proxy) mod budget;
pub mod pause;
pub mod requests;
