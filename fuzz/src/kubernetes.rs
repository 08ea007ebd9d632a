//! Of Kubernetes, what changes pods.

#[path = "../../src/kubernetes/injection/mod.rs"]
pub mod injection;
