//! Kubernetes: adds the sidecar to pods, on the command line and in the cluster.
//!
//! - [`injection`]: what becomes of a pod, a manifest, an admission review; pure
//! - [`webhook`]: the server that is asked for reviews, its certificate and its leader; alone touches
//!   the Kubernetes API

pub mod injection;
pub mod webhook;

pub use injection::{Platform, Version, manifest, review};
