//! Kubernetes: adds the sidecar to pods, on the command line and in the cluster.
//!
//! - [`injection`]: changes a pod, a manifest or an admission review; pure
//! - [`webhook`]: the server for admission reviews, its certificate and its leader; the only module
//!   that touches the Kubernetes API

pub mod injection;
pub mod webhook;

pub use injection::{Platform, Version, manifest, review};
