//! Adding the sidecar to a pod: pure, JSON or text in, JSON or text out.
//!
//! [`pod::inject`] is the one place where a pod is changed, so that `sidestream inject` and
//! `sidestream webhook` give the same result. Pods stay `serde_json` values throughout, so that
//! fields this version does not know come through unchanged.
//!
//! - [`version`], [`names`]: versions of Kubernetes; names and quantities, by its rules
//! - [`annotations`]: what an app team asks for
//! - [`platform`]: what the platform team decides for all pods
//! - [`ports`]: the port that is taken over, and those that are free
//! - [`sidecar`]: the container that is added
//! - [`earlier`]: a sidecar that is there already
//! - [`pod`]: whether, how and what is changed
//! - [`workload`]: where workloads have their pod templates
//! - [`manifest`]: the same for files, with their comments kept
//! - [`json_patch`], [`review`]: the same for admission reviews

pub mod annotations;
mod earlier;
pub mod json_patch;
pub mod manifest;
pub mod names;
pub mod platform;
pub mod pod;
mod ports;
pub mod review;
mod sidecar;
pub mod version;
mod workload;

pub use platform::Platform;
pub use version::Version;

/// The name of the container that is added, and the first part of what else is named.
pub const CONTAINER: &str = "sidestream";

/// The label by which a pod opts in (`"true"`) or out (`"false"`).
pub const INJECT_LABEL: &str = "sidestream/inject";

/// The label that an injected pod gets; its value is the mode.
pub const INJECTED_LABEL: &str = "sidestream/injected";

/// The annotation that an injected pod gets; its value says what was added.
pub const HASH_ANNOTATION: &str = "sidestream/sidecar-hash";

/// What is wrong with what was asked for: a sentence that also says how to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The annotation or label that is wrong; `None`: the pod itself.
    pub key: Option<String>,
    pub message: String,
}

impl Mistake {
    fn of_pod(message: impl Into<String>) -> Mistake {
        Mistake { key: None, message: message.into() }
    }

    fn of(key: &str, message: impl Into<String>) -> Mistake {
        Mistake { key: Some(key.to_owned()), message: message.into() }
    }
}

impl std::fmt::Display for Mistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{key}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// A value of the user's as it may be shown in a sentence: short and on one line.
fn shown(value: &str) -> String {
    const MAX_CHARS: usize = 60;
    // Files mark what YAML's versions read differently: see `manifest`.
    let value = value.trim_start_matches('\0');
    let mut text: String = value.chars().take(MAX_CHARS).flat_map(char::escape_debug).collect();
    if value.chars().nth(MAX_CHARS).is_some() {
        text.push('…');
    }
    format!("`{text}`")
}
