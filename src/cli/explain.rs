//! `sidestream explain`: what a filter becomes.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::settings::SettingsFile;
use super::{BAD_INPUT, Output};
use crate::access::claims::Claims;
use crate::config::Config;
use crate::filter::{self, BindError};
use crate::session::explain::Explanation;

#[derive(Args)]
pub struct ExplainArgs {
    /// The stream's name.
    stream: String,
    /// A parameter's value; may be repeated.
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = parse_pair)]
    params: Vec<(String, String)>,
    /// A claim's value: JSON, or else text. Dots lead into nested claims; may be repeated.
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = parse_pair)]
    claims: Vec<(String, String)>,
    /// The directory of filter files [default: `filters` of the settings]
    #[arg(long, value_name = "DIR")]
    filters: Option<PathBuf>,
    #[command(flatten)]
    file: SettingsFile,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    Ok((name.to_string(), value.to_string()))
}

/// The directory that was given, or that of the settings.
fn directory(given: Option<&PathBuf>, file: &SettingsFile) -> Result<PathBuf, String> {
    match given {
        Some(dir) => Ok(dir.clone()),
        None => {
            let config = Config::load(file.to_look_at()?).map_err(|errors| errors.to_string())?;
            Ok(config.filters)
        }
    }
}

pub fn explain(args: &ExplainArgs) -> ExitCode {
    let ExplainArgs { stream, params, claims, filters, file, output } = args;
    let dir = match directory(filters.as_ref(), file) {
        Ok(dir) => dir,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(BAD_INPUT);
        }
    };
    let claims = Claims::of_pairs(claims);
    let loaded = filter::load_directory(&dir);
    let Some(found) = loaded.filters.0.get(stream) else {
        let errors = loaded.diagnostics.iter().filter(|diagnostic| diagnostic.is_error());
        errors.for_each(|diagnostic| eprintln!("{diagnostic}"));
        let names: Vec<&str> = loaded.filters.0.keys().map(String::as_str).collect();
        eprintln!(
            "error: no good filter file makes a stream `{stream}` in {}; there are: {}",
            dir.display(),
            names.join(", ")
        );
        return ExitCode::from(BAD_INPUT);
    };
    match Explanation::of(found, &loaded.filters, params, claims.document()) {
        Ok(explanation) if *output == Output::Json => println!("{:#}", explanation.to_json()),
        Ok(explanation) => print!("{explanation}"),
        Err(error) => {
            let flag = match error {
                BindError::Parameter(_) => "--param",
                _ => "--claim",
            };
            eprintln!("error: {error}; give it with {flag} NAME=VALUE");
            return ExitCode::from(BAD_INPUT);
        }
    }
    ExitCode::SUCCESS
}
