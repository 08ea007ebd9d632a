//! The settings of `tls`: both files, or neither.

use std::path::PathBuf;

use super::resolve::Resolver;
use super::setting::{Setting, SettingKind, unset};
use super::value::{Group, Value};

/// Certificate and key, as PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

const KEYS: [&str; 2] = ["tls.cert_file", "tls.key_file"];

/// The outer `None` is a problem, the inner one no TLS.
impl Group for Option<Tls> {
    fn declare(into: &mut Vec<Setting>) {
        let abouts = ["The certificate chain of the public port, PEM.", "Its private key, PEM."];
        for (key, about) in KEYS.into_iter().zip(abouts) {
            into.push(unset(SettingKind::Path).named(key, &[about]));
        }
    }

    fn read(resolver: &mut Resolver<'_>) -> Option<Option<Tls>> {
        let [has_cert, has_key] = KEYS.map(|key| resolver.declared.get(key).is_some());
        let given = match (has_cert, has_key) {
            (false, false) => return Some(None),
            (true, true) => None,
            (true, false) => Some((KEYS[0], KEYS[1])),
            (false, true) => Some((KEYS[1], KEYS[0])),
        };
        if let Some((given, missing)) = given {
            let message = format!("needs `{missing}` as well");
            resolver.problem_at(given, &message, "give both files, or neither for plain HTTP");
            return None;
        }
        let [cert_file, key_file] = KEYS.map(|key| {
            let path = PathBuf::read(resolver, key)?;
            if resolver.leaves_secrets {
                return Some(path);
            }
            // Opened, not just looked at: what counts is whether we may read it.
            if let Err(error) = std::fs::File::open(&path) {
                let message = format!("cannot read {}: {error}", path.display());
                resolver.problem_at(key, &message, "name a readable PEM file");
                return None;
            }
            Some(path)
        });
        Some(Some(Tls { cert_file: cert_file?, key_file: key_file? }))
    }
}
