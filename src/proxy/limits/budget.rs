//! Memory that traffic may use beyond the fixed state of each connection: a limit for the process.
//! A connection that finds nothing left continues with less.

pub use crate::api::capacity::Lease;

use crate::api::capacity::ByteBudget;

/// Large buffers for bodies: 68 connections at full speed. The others have small ones.
pub static BODIES: ByteBudget = ByteBudget::new(32 * 1024 * 1024);
/// What is read of uploads that the app does not take, to find out whether their clients are there.
pub static AHEAD: ByteBudget = ByteBudget::new(24 * 1024 * 1024);
/// Request heads over HTTP/2, which compression makes cheap to send.
pub static HEADS: ByteBudget = ByteBudget::new(16 * 1024 * 1024);
/// What HTTP/2 connections have been given to send, and have not sent.
pub static UNSENT: ByteBudget = ByteBudget::new(16 * 1024 * 1024);
/// Uploads over HTTP/2 that the app does not take.
pub static UPLOADS: ByteBudget = ByteBudget::new(32 * 1024 * 1024);
