//! What a setting is: its declaration, from which its flag, its environment variable, the help,
//! the JSON Schema and the table in docs/operations.md come.
//!
//! A setting is declared once, as a field of its group in [`super::settings`]:
//!
//! ```text
//! settings! {
//!     /// Streams and requests of clients, and their limits.
//!     pub struct Clients in "clients" {
//!         /// The longest time in which a stream sends nothing.
//!         heartbeat: Duration = duration("15s", MILLISECOND * 100, HOUR),
//!     }
//! }
//! ```
//!
//! The type says how it is read ([`super::value`]), the declaration behind `=` which values are
//! good; the comment is what people read about it. A secret has a twin with `_file` at its end,
//! which needs no declaration.

use std::sync::LazyLock;
use std::time::Duration;

use super::units::{show_duration, show_size};

/// One setting.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Dotted: `clients.heartbeat`.
    pub key: &'static str,
    pub kind: SettingKind,
    /// As one would write it; `None`: unset.
    pub default: Option<&'static str>,
    /// The flag of `sidestream run` that sets it, with its dashes.
    pub flag: Option<&'static str>,
    /// One or two sentences for help, schema and docs.
    pub about: String,
}

/// What is declared of a setting besides its name and what it is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Declaration {
    kind: SettingKind,
    default: Option<&'static str>,
    flag: Option<&'static str>,
}

/// What a setting holds. Ranges include both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingKind {
    /// `host:port`, the host an IP address or `localhost`.
    Address,
    /// `http://host[:port]`, `https://…` or `unix:/path`.
    App,
    /// A path that starts with `/`.
    Prefix,
    /// A file or a directory.
    Path,
    /// A file that holds the secret named by the key without `_file`.
    SecretFile,
    /// A MongoDB connection string; a secret.
    Mongodb,
    /// `250ms`, `30s`, `5m`, `1h`. With `zero_means_none`, `0s` is also good and means no limit.
    Duration { least: Duration, most: Duration, zero_means_none: bool },
    /// `512B`, `64KiB`, `16MiB`, `1GiB`; in bytes.
    Size { least: u64, most: u64 },
    /// Text that must never be shown.
    Secret,
    /// Text.
    Text,
    /// `http://host[:port]/path` or `https://…`, without credentials.
    Url,
    /// A list of texts; the example is for hints.
    Texts { example: &'static str },
    /// A list of some of these words; the example is for hints.
    Words { words: &'static [&'static str], example: &'static str },
    /// A whole number.
    Count { least: u64, most: u64 },
    /// `true` or `false`.
    Switch,
    /// A list of networks in CIDR notation, or single addresses.
    Networks,
    /// One of these words.
    Word(&'static [&'static str]),
}

pub(super) const MILLISECOND: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

/// A setting with a default, written as in a file.
pub(super) const fn declared(kind: SettingKind, default: &'static str) -> Declaration {
    Declaration { kind, default: Some(default), flag: None }
}

/// A setting that is unset by default.
pub(super) const fn unset(kind: SettingKind) -> Declaration {
    Declaration { kind, default: None, flag: None }
}

/// A duration within this range, both ends included.
pub(super) const fn duration(
    default: &'static str,
    least: Duration,
    most: Duration,
) -> Declaration {
    declared(SettingKind::Duration { least, most, zero_means_none: false }, default)
}

/// A duration of which `0s` means that there is no limit.
pub(super) const fn limit(default: &'static str, least: Duration, most: Duration) -> Declaration {
    declared(SettingKind::Duration { least, most, zero_means_none: true }, default)
}

/// A whole number within this range, both ends included.
pub(super) const fn count(default: &'static str, least: u64, most: u64) -> Declaration {
    declared(SettingKind::Count { least, most }, default)
}

impl Declaration {
    /// It has a flag of `sidestream run`, too.
    pub(super) const fn flag(self, flag: &'static str) -> Declaration {
        Declaration { flag: Some(flag), ..self }
    }

    /// The setting with its name and its comment, of which each line is one text.
    pub(super) fn named(self, key: &'static str, about: &[&str]) -> Setting {
        let Declaration { kind, default, flag } = self;
        let lines: Vec<&str> = about.iter().map(|line| line.trim()).collect();
        Setting { key, kind, default, flag, about: lines.join(" ") }
    }
}

impl Setting {
    /// Whether its value must never be shown.
    pub fn is_secret(&self) -> bool {
        matches!(self.kind, SettingKind::Mongodb | SettingKind::Secret)
    }

    /// Whether it is written as a list; for a hint, how.
    pub(super) fn list_example(&self) -> Option<&'static str> {
        match self.kind {
            SettingKind::Networks => Some("[127.0.0.0/8]"),
            SettingKind::Texts { example } | SettingKind::Words { example, .. } => Some(example),
            _ => None,
        }
    }

    /// The environment variable: `clients.heartbeat` is `SIDESTREAM_CLIENTS__HEARTBEAT`.
    pub fn variable(&self) -> String {
        variable(self.key)
    }

    /// The last part of the key: `heartbeat`.
    pub fn name(&self) -> &'static str {
        self.key.rsplit('.').next().unwrap_or(self.key)
    }

    /// Which values are good, where there is more to say than what they look like: `1s to 1h`.
    pub fn range(&self) -> Option<String> {
        match self.kind {
            SettingKind::Duration { least, most, zero_means_none } => {
                let or_zero = if zero_means_none { "0s for no limit, or " } else { "" };
                Some(format!("{or_zero}{} to {}", show_duration(least), show_duration(most)))
            }
            SettingKind::Size { least, most } => {
                Some(format!("{} to {}", show_size(least), show_size(most)))
            }
            SettingKind::Count { least, most } => Some(format!("{least} to {most}")),
            SettingKind::Word(words) => Some(words.join(", ")),
            SettingKind::Words { words, .. } => Some(format!("some of {}", words.join(", "))),
            _ => None,
        }
    }

    /// The setting of the file that holds this secret.
    fn twin(&self) -> Option<Setting> {
        let key = format!("{}_file", self.key);
        let about = format!("A file that contains only `{}`.", self.key);
        self.is_secret().then(|| Setting {
            // Once for each secret, and for as long as the process runs.
            key: Box::leak(key.into_boxed_str()),
            kind: SettingKind::SecretFile,
            default: None,
            flag: None,
            about,
        })
    }
}

/// The environment variable of a key.
pub(super) fn variable(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.replace('.', "__").to_uppercase())
}

/// What names of environment variables begin with.
pub(super) const ENV_PREFIX: &str = "SIDESTREAM_";

/// Every setting, in the order of the documentation.
pub static SETTINGS: LazyLock<Vec<Setting>> = LazyLock::new(|| {
    let mut settings = Vec::new();
    for setting in super::settings::declarations() {
        let twin = setting.twin();
        settings.push(setting);
        settings.extend(twin);
    }
    settings
});

/// The setting with this key.
pub(super) fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// Whether the key stands for several settings: `clients`.
pub(super) fn is_group(key: &str) -> bool {
    SETTINGS
        .iter()
        .any(|setting| setting.key.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
}

/// The names in a group, each once; at the top level for an empty group.
pub(super) fn members(group: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for setting in SETTINGS.iter() {
        let rest = match group {
            "" => Some(setting.key),
            group => setting.key.strip_prefix(group).and_then(|rest| rest.strip_prefix('.')),
        };
        let Some(rest) = rest else { continue };
        let first = rest.split('.').next().unwrap_or(rest);
        if !found.iter().any(|known| known == first) {
            found.push(first.to_owned());
        }
    }
    found
}

/// Declares a group of settings: the struct that the program uses, and the table and the reading of
/// its members. See the head of this file.
macro_rules! settings {
    (
        $(#[$attribute:meta])*
        pub struct $group:ident in $prefix:literal {
            $(
                $(#[doc = $about:literal])+
                $field:ident: $type:ty = $declaration:expr,
            )*
            $(..$(
                $(#[doc = $inner_about:literal])+
                $inner:ident: $inner_type:ty,
            )*)?
        }
    ) => {
        $(#[$attribute])*
        #[derive(Debug, Clone)]
        pub struct $group {
            $($(#[doc = $about])+ pub $field: $type,)*
            $($($(#[doc = $inner_about])+ pub $inner: $inner_type,)*)?
        }

        impl $crate::config::value::Group for $group {
            fn declare(_into: &mut Vec<$crate::config::setting::Setting>) {
                $(_into.push($declaration.named(
                    concat!($prefix, stringify!($field)),
                    &[$($about),+],
                ));)*
                $($(<$inner_type as $crate::config::value::Group>::declare(_into);)*)?
            }

            fn read(resolver: &mut $crate::config::resolve::Resolver<'_>) -> Option<$group> {
                // Everything is read before the first `?`, so that one mistake does not hide the
                // next.
                $(let $field = <$type as $crate::config::value::Value>::read(
                    resolver,
                    concat!($prefix, stringify!($field)),
                );)*
                $($(let $inner = <$inner_type as $crate::config::value::Group>::read(resolver);)*)?
                Some($group {
                    $($field: $field?,)*
                    $($($inner: $inner?,)*)?
                })
            }
        }
    };
}
pub(super) use settings;
