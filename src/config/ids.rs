//! The settings of `ids`: sealed ids need keys.

use std::path::PathBuf;

use super::resolve::Resolver;
use super::setting::{Setting, SettingKind, declared, unset};
use super::value::{Group, Value, Words};

/// What clients see of positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ids {
    /// MongoDB's resume tokens, as they are.
    Token,
    /// Encrypted with keys from a file, which is read at the start.
    Sealed { keys_file: PathBuf },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Token,
    Sealed,
}

impl Words for Mode {
    const NAMES: &[&str] = &["token", "sealed"];
    const VALUES: &[Mode] = &[Mode::Token, Mode::Sealed];
}

const MODE: &str = "ids.mode";
const KEYS_FILE: &str = "ids.keys_file";

impl Group for Ids {
    fn declare(into: &mut Vec<Setting>) {
        let mode = declared(SettingKind::Word(Mode::NAMES), "token");
        let about = "The form of ids: `token`, MongoDB's resume tokens; or `sealed`, encrypted.";
        into.push(mode.named(MODE, &[about]));
        let about = "The keys of sealed ids, one per line in hexadecimal digits. The first \
                     encrypts; all decrypt.";
        into.push(unset(SettingKind::Path).named(KEYS_FILE, &[about]));
    }

    fn read(resolver: &mut Resolver<'_>) -> Option<Ids> {
        let mode = Mode::read(resolver, MODE)?;
        let has_keys = resolver.declared.get(KEYS_FILE).is_some();
        match (mode, has_keys) {
            (Mode::Token, false) => Some(Ids::Token),
            (Mode::Sealed, true) => {
                Some(Ids::Sealed { keys_file: PathBuf::read(resolver, KEYS_FILE)? })
            }
            (Mode::Sealed, false) => {
                let hint = "name a file with one key per line, as made by `openssl rand -hex 64`";
                resolver.problem_at(MODE, "needs `ids.keys_file` as well", hint);
                None
            }
            (Mode::Token, true) => {
                let hint = "write `mode: sealed`, or remove `keys_file`";
                let message = "is for sealed ids, and `ids.mode` is `token`";
                resolver.problem_at(KEYS_FILE, message, hint);
                None
            }
        }
    }
}
