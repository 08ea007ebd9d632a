//! How the types of settings are read: each type once, for all settings that have it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::address::{self, AppAddress};
use super::auth::text::parse_url;
use super::resolve::Resolver;
use super::secret::MongodbUri;
use super::setting::{Setting, SettingKind, find};
use super::units::{
    Invalid, invalid, parse_count, parse_duration, parse_host_name, parse_network, parse_size, show,
};
use crate::diagnostic::nearest;

/// Several settings that are declared and read together.
pub(super) trait Group: Sized {
    /// Adds the declarations of its members.
    fn declare(into: &mut Vec<Setting>);

    /// `None` only with a problem on the list.
    fn read(resolver: &mut Resolver<'_>) -> Option<Self>;
}

/// What one setting may be read as. `None` only with a problem on the list.
pub(super) trait Value: Sized {
    fn read(resolver: &mut Resolver<'_>, key: &'static str) -> Option<Self>;
}

/// A choice, whose words are those of its declaration.
pub(crate) trait Words: Copy + 'static {
    const NAMES: &[&str];
    /// One for each name.
    const VALUES: &[Self];
}

impl<T: Words> Value for T {
    fn read(resolver: &mut Resolver<'_>, key: &'static str) -> Option<T> {
        resolver.read(key, word)
    }
}

impl<T: Words> Value for Vec<T> {
    fn read(resolver: &mut Resolver<'_>, key: &'static str) -> Option<Vec<T>> {
        resolver.list(key, word)
    }
}

fn word<T: Words>(text: &str) -> Result<T, Invalid> {
    let found = T::NAMES.iter().zip(T::VALUES).find(|(name, _)| **name == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        invalid(
            format!("{} is not one of {}", show(text), T::NAMES.join(", ")),
            match nearest(text, T::NAMES.iter().copied()) {
                Some(name) => format!("did you mean {name}?"),
                None => format!("write {}", T::NAMES.join(" or ")),
            },
        )
    })
}

/// An address that something is sent to: `http://host[:port][/path]` or `https://…`, without
/// credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(String);

impl std::ops::Deref for Endpoint {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Value for Option<Endpoint> {
    fn read(resolver: &mut Resolver<'_>, key: &'static str) -> Option<Option<Endpoint>> {
        if !resolver.is_written(key) {
            return Some(None);
        }
        resolver.read(key, |text| parse_url(text).map(|_| Some(Endpoint(text.to_owned()))))
    }
}

impl Value for SocketAddr {
    fn read(resolver: &mut Resolver<'_>, key: &'static str) -> Option<SocketAddr> {
        resolver.read(key, address::parse_listen)
    }
}

/// Empty: none.
impl Value for Option<SocketAddr> {
    fn read(resolver: &mut Resolver<'_>, key: &'static str) -> Option<Option<SocketAddr>> {
        resolver.read(key, |text| match text {
            "" => Ok(None),
            text => address::parse_listen(text).map(Some),
        })
    }
}

impl Value for AppAddress {
    fn read(resolver: &mut Resolver<'_>, key: &'static str) -> Option<AppAddress> {
        let working_dir = resolver.working_dir;
        resolver.read(key, |text| AppAddress::parse(text, working_dir))
    }
}

impl Value for String {
    fn read(resolver: &mut Resolver<'_>, key: &'static str) -> Option<String> {
        let is_prefix = find(key).is_some_and(|setting| setting.kind == SettingKind::Prefix);
        resolver.read(key, |text| match text {
            text if is_prefix => address::parse_prefix(text),
            "" => Err(invalid("is empty", "give it a value, or remove the key")),
            text => Ok(text.to_owned()),
        })
    }
}

/// Text that need not be there.
impl Value for Option<String> {
    fn read(resolver: &mut Resolver<'_>, key: &'static str) -> Option<Option<String>> {
        if !resolver.is_written(key) {
            return Some(None);
        }
        String::read(resolver, key).map(Some)
    }
}

impl Value for PathBuf {
    fn read(resolver: &mut Resolver<'_>, key: &'static str) -> Option<PathBuf> {
        let working_dir = resolver.working_dir;
        resolver.read(key, |text| match text {
            "" => Err(invalid("is empty", "write a path")),
            // Without the `.` of `./filters`: messages name files below it.
            text => Ok(working_dir.join(text).components().collect()),
        })
    }
}

impl Value for Duration {
    fn read(resolver: &mut Resolver<'_>, key: &'static str) -> Option<Duration> {
        let setting = find(key)?;
        resolver.read(key, |text| {
            let duration = parse_duration(text)?;
            let SettingKind::Duration { least, most, zero_means_none } = setting.kind else {
                return Ok(duration);
            };
            let is_good =
                (least..=most).contains(&duration) || (zero_means_none && duration.is_zero());
            if is_good { Ok(duration) } else { Err(out_of_range(setting, text)) }
        })
    }
}

/// Zero: no limit.
impl Value for Option<Duration> {
    fn read(resolver: &mut Resolver<'_>, key: &'static str) -> Option<Option<Duration>> {
        Duration::read(resolver, key).map(|limit| Some(limit).filter(|limit| !limit.is_zero()))
    }
}

/// A number, or a size in bytes.
impl Value for usize {
    fn read(resolver: &mut Resolver<'_>, key: &'static str) -> Option<usize> {
        let setting = find(key)?;
        resolver.read(key, |text| {
            let (number, least, most) = match setting.kind {
                SettingKind::Size { least, most } => (parse_size(text)?, least, most),
                SettingKind::Count { least, most } => (parse_count(text)?, least, most),
                _ => (parse_count(text)?, 0, u64::MAX),
            };
            match usize::try_from(number) {
                Ok(value) if (least..=most).contains(&number) => Ok(value),
                _ => Err(out_of_range(setting, text)),
            }
        })
    }
}

/// Zero: no limit.
impl Value for Option<usize> {
    fn read(resolver: &mut Resolver<'_>, key: &'static str) -> Option<Option<usize>> {
        usize::read(resolver, key).map(|limit| Some(limit).filter(|limit| *limit > 0))
    }
}

impl Value for bool {
    fn read(resolver: &mut Resolver<'_>, key: &'static str) -> Option<bool> {
        resolver.read(key, |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(invalid(
                format!("{} is neither true nor false", show(other)),
                "write true or false",
            )),
        })
    }
}

impl Value for Vec<IpNet> {
    fn read(resolver: &mut Resolver<'_>, key: &'static str) -> Option<Vec<IpNet>> {
        resolver.list(key, parse_network)
    }
}

/// Host names.
impl Value for Vec<String> {
    fn read(resolver: &mut Resolver<'_>, key: &'static str) -> Option<Vec<String>> {
        resolver.list(key, parse_host_name)
    }
}

/// The connection string, or the file that holds it.
impl Value for MongodbUri {
    fn read(resolver: &mut Resolver<'_>, key: &'static str) -> Option<MongodbUri> {
        const FILE: &str = "mongodb.uri_file";
        let has_both = [key, FILE].iter().all(|key| resolver.declared.get(key).is_some());
        let is_direct = match has_both {
            true => resolver.winner(key, FILE)? == key,
            false => resolver.declared.get(FILE).is_none(),
        };
        if is_direct {
            return resolver.read(key, MongodbUri::parse);
        }
        if resolver.leaves_secrets {
            return Some(MongodbUri::unread());
        }
        let working_dir = resolver.working_dir;
        resolver.read(FILE, |text| MongodbUri::read(&working_dir.join(text)))
    }
}

fn out_of_range(setting: &Setting, text: &str) -> Invalid {
    let range = setting.range().unwrap_or_default();
    invalid(format!("{} is out of range", show(text)), format!("the range is {range}"))
}
