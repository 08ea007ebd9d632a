//! What commands have in common that read the settings: `--config`, the environment, and the flags
//! that the settings declare.

use std::path::{Path, PathBuf};

use clap::error::Error;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

use crate::config::{Config, Flags, MongodbUri, SETTINGS, Setting, SettingKind, Sources};

/// The settings as `sidestream run` reads them, from the file and the environment.
#[derive(Args)]
pub struct SettingsFile {
    /// A settings file [default: sidestream.yaml in the working directory, where there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// One flag for each setting that declares one.
pub struct SettingFlags(Flags);

impl SettingsFile {
    /// Where the settings come from.
    ///
    /// # Errors
    /// The working directory cannot be read; the text says so.
    pub fn sources(self, flags: SettingFlags) -> Result<Sources, String> {
        let working_dir = std::env::current_dir()
            .map_err(|error| format!("error: the working directory cannot be read: {error}"))?;
        let sources = Sources {
            config_file: self.config,
            working_dir,
            env: environment(),
            flags: flags.0,
            leaves_secrets: false,
        };
        Ok(sources)
    }

    /// For a command that only looks at the settings: files with secrets are not opened.
    ///
    /// # Errors
    /// As for [`SettingsFile::sources`].
    pub fn to_look_at(&self) -> Result<Sources, String> {
        let file = SettingsFile { config: self.config.clone() };
        let sources = file.sources(SettingFlags(Flags::default()))?;
        Ok(Sources { leaves_secrets: true, ..sources })
    }

    /// The deployment of `--mongodb`: the one that was given, or that of the settings if it stands
    /// alone.
    ///
    /// # Errors
    /// What is wrong, and what to do about it.
    pub fn deployment(&self, given: &str) -> Result<MongodbUri, (String, Option<String>)> {
        if !given.is_empty() {
            return MongodbUri::parse(given)
                .map_err(|invalid| (invalid.message.to_string(), Some(invalid.hint.to_string())));
        }
        let sources = self.to_look_at().map_err(|error| (error, None))?;
        let config = Config::load(sources).map_err(|errors| (errors.to_string(), None))?;
        if config.mongodb.uri.is_unread() {
            let message =
                "the settings name a file, `mongodb.uri_file`, and secrets are not opened";
            return Err((message.to_owned(), Some("write --mongodb URI".to_owned())));
        }
        Ok(config.mongodb.uri)
    }

    /// The directory of filter files: the one that was given, or that of the settings.
    ///
    /// # Errors
    /// The settings are broken; the text says how.
    pub fn filters(&self, given: Option<&Path>) -> Result<PathBuf, String> {
        match given {
            Some(dir) => Ok(dir.to_owned()),
            None => {
                let config =
                    Config::load(self.to_look_at()?).map_err(|errors| errors.to_string())?;
                Ok(config.filters)
            }
        }
    }
}

/// A value that is not UTF-8 has U+FFFD in it, and is refused later: dropping it would mean the default.
fn environment() -> Vec<(String, String)> {
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect()
}

/// The settings with a flag, and its name without dashes.
fn with_flag() -> impl Iterator<Item = (&'static Setting, &'static str)> {
    SETTINGS.iter().filter_map(|setting| Some((setting, setting.flag?.trim_start_matches("--"))))
}

impl Args for SettingFlags {
    fn augment_args(command: Command) -> Command {
        command.args(with_flag().map(|(setting, name)| {
            let placeholder = match setting.kind {
                SettingKind::Address => "ADDRESS",
                SettingKind::App => "URL",
                SettingKind::Prefix => "PATH",
                SettingKind::Path => "DIR",
                SettingKind::Mongodb => "URI",
                _ => "VALUE",
            };
            // `clap` ends the help of an argument without a full stop.
            let about = setting.about.trim_end_matches('.').replace('`', "");
            let help = match setting.default {
                None | Some("") => about,
                Some(default) => format!("{about} [default: {default}]"),
            };
            Arg::new(name).long(name).value_name(placeholder).help(help)
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        SettingFlags::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<SettingFlags, Error> {
        let given = with_flag().filter_map(|(setting, name)| {
            Some((setting.key, matches.get_one::<String>(name)?.clone()))
        });
        Ok(SettingFlags(Flags(given.collect())))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = SettingFlags::from_arg_matches(matches)?;
        Ok(())
    }
}
