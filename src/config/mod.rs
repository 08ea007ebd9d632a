//! Settings: layers of what is written, merged and resolved to one validated [`Config`].
//!
//! Two types, as written and as resolved: [`Declared`] is what the layers say, each value with its
//! place; [`Config`] is what the rest of the program uses. Resolving is the only step that fails,
//! and it reports every mistake at once. Layers, lowest first: built-in defaults, the file,
//! `SIDESTREAM_*` environment variables, flags. Each setting is declared once, in
//! `settings.rs`; flags, help, schema and the documentation's table come from that ([`SETTINGS`]).
//!
//! This room and no other reads the settings file and the environment. Relative paths, wherever
//! they are written, start at the working directory, not at the settings file.

mod address;
mod auth;
mod ids;
mod layers;
mod resolve;
mod schema;
mod secret;
mod setting;
mod settings;
mod tls;
mod token_source;
mod units;
mod value;

#[cfg(test)]
mod tests;

use std::fmt;

use crate::diagnostic::Diagnostic;

pub use address::AppAddress;
pub(crate) use address::parse_prefix;
pub use auth::{Auth, ClaimsFrom, ForwardAuth, Jwt, JwtKey, KeyFile};
pub use ids::Ids;
pub use layers::{Declared, Flags, Raw, Sources, Written};
pub use schema::schema;
pub use secret::{MongodbUri, Secret};
pub use setting::{SETTINGS, Setting, SettingKind};
pub use settings::{
    Clients, Compression, Config, Console, Log, LogFormat, LogLevel, Mongodb, Replay, Snapshot,
    Subjects, Trace,
};
pub use tls::Tls;
pub use token_source::{RESERVED_QUERY, TokenSource};
pub(crate) use units::show_duration;
pub use units::{Invalid, parse_duration, parse_size};
pub(crate) use value::Words;

/// Every mistake in the settings; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    pub diagnostics: Vec<Diagnostic>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.diagnostics.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{diagnostic}")?;
        }
        Ok(())
    }
}

impl Config {
    /// Reads all layers and resolves them.
    ///
    /// # Errors
    /// Every mistake of every layer at once, each with its key, its place and what to do. A secret
    /// never shows in an error.
    pub fn load(sources: Sources) -> Result<Config, ConfigErrors> {
        let (declared, problems) = layers::declare(&sources);
        resolve::resolve(&declared, &sources, problems)
    }
}
