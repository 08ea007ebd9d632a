//! What can be said of the settings without opening a file that holds a secret: for commands that
//! look at filter files where the secrets are not, such as CI.

use std::path::PathBuf;

use super::layers::{self, Raw, Sources};
use crate::diagnostic::Diagnostic;

/// The settings that matter for filter files, as declared.
#[derive(Debug)]
pub struct Outline {
    /// The directory of filter files, as written: a relative one starts at the working directory.
    pub filters: PathBuf,
    /// Whether anybody could vouch for a caller.
    pub has_source: bool,
    /// What is wrong with the layers: a file that cannot be read, unknown keys. Values are judged
    /// when the sidecar starts.
    pub diagnostics: Vec<Diagnostic>,
}

/// The settings of which one makes that callers are known.
const SOURCES: [&str; 5] = [
    "auth.jwt.secret",
    "auth.jwt.secret_file",
    "auth.jwt.public_key_file",
    "auth.jwt.jwks_url",
    "auth.forward.url",
];

impl Outline {
    /// Reads the layers, and nothing that they point at.
    pub fn read(sources: &Sources) -> Outline {
        let (declared, problems) = layers::declare(sources);
        let filters = match declared.get("filters").map(|written| &written.raw) {
            Some(Raw::Text(text)) => PathBuf::from(text),
            _ => PathBuf::from("./filters"),
        };
        Outline {
            filters,
            has_source: SOURCES.iter().any(|key| declared.get(key).is_some()),
            diagnostics: declared.with_sources(problems),
        }
    }
}
