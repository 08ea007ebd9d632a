//! `sidestream new`: writes a commented filter file, from the collection's name or from what is in
//! it. Never overwrites.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::print::{complain, print};
use super::settings::SettingsFile;
use super::{BAD_INPUT, UNAVAILABLE, runtime};
use crate::filter::{self, Namespace};
use crate::upstream::connect::ProbeError;
use crate::upstream::sample::{self, Sample};

/// Write a commented filter file; never overwrites a file.
#[derive(Args)]
pub struct NewArgs {
    /// The stream's name: the file's path below the filter directory, without .yaml
    stream: String,
    /// The collection to follow: database.collection, or database.* for the whole database
    #[arg(long, value_name = "DB.COLL")]
    collection: String,
    /// Examine the collection in this deployment: fields and types of a sample, indexes, pre-images
    /// [without URI: that of the settings]
    #[arg(long, value_name = "URI", num_args = 0..=1, default_missing_value = "")]
    mongodb: Option<String>,
    /// The directory of filter files [default: `filters` of the settings]
    #[arg(long, value_name = "DIR")]
    filters: Option<PathBuf>,
    #[command(flatten)]
    file: SettingsFile,
}

/// Prints the path of the file. Exit code 1: it cannot be written, or an argument is bad. 3:
/// MongoDB is unavailable.
pub fn new(args: &NewArgs) -> ExitCode {
    match try_new(args) {
        Ok(path) => {
            let said = format!("{}: written; `sidestream check` checks it\n", path.display());
            print(said, ExitCode::SUCCESS)
        }
        Err((code, message)) => {
            let head = if message.contains("error:") { "" } else { "error: " };
            complain(format_args!("{head}{message}"));
            ExitCode::from(code)
        }
    }
}

fn try_new(args: &NewArgs) -> Result<PathBuf, (u8, String)> {
    let bad = |message: String| (BAD_INPUT, message);
    let namespace = Namespace::read(&args.collection)
        .map_err(|(message, hint)| bad(format!("--collection: {message}; {hint}")))?;
    let dir = args.file.filters(args.filters.as_deref()).map_err(bad)?;
    // As short as it was written.
    let here = std::env::current_dir().unwrap_or_default();
    let dir = dir.strip_prefix(&here).map(PathBuf::from).unwrap_or(dir);
    if !filter::is_stream_name(&args.stream) {
        return Err(bad(format!(
            "`{}` cannot be a stream's name: use letters, digits and _ . -, with / between \
             directories",
            args.stream
        )));
    }
    let path = dir.join(format!("{}.yaml", args.stream));
    if let Some(other) = existing(&dir, &args.stream) {
        return Err(bad(format!(
            "the stream `{}` already exists: {}; choose another name, or edit that file",
            args.stream,
            other.display()
        )));
    }
    let sample = match &args.mongodb {
        Some(given) => Some(look(args, given, &namespace)?),
        None => None,
    };
    let text =
        filter::scaffold(&args.stream, &namespace, sample.as_ref().map(|sample| &sample.seen));
    write(&path, &text)
        .map_err(|error| bad(format!("cannot write {}: {error}", path.display())))?;
    Ok(path)
}

/// A file that already makes this stream, whatever its extension.
fn existing(dir: &Path, stream: &str) -> Option<PathBuf> {
    let flat = stream.replace('/', "__");
    let names = [stream, &flat].into_iter();
    let paths = names.flat_map(|name| {
        filter::EXTENSIONS.into_iter().map(move |extension| format!("{name}.{extension}"))
    });
    paths.map(|name| dir.join(name)).find(|path| path.exists())
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    // Fails where the file has come meanwhile.
    let mut file = fs::OpenOptions::new().write(true).create_new(true).open(path)?;
    match file.write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::Interrupted => Err(error),
        outcome => outcome,
    }
}

fn look(args: &NewArgs, given: &str, namespace: &Namespace) -> Result<Sample, (u8, String)> {
    let uri = args.file.deployment(given).map_err(|(message, hint)| {
        let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
        (BAD_INPUT, format!("--mongodb: {message}{hint}"))
    })?;
    let runtime = runtime()
        .map_err(|error| (UNAVAILABLE, format!("no runtime could be started: {error}")))?;
    runtime.block_on(sample::look(&uri, namespace)).map_err(|error| match error {
        ProbeError::Unavailable(reason) => {
            (UNAVAILABLE, format!("MongoDB is unavailable: {reason}"))
        }
        ProbeError::Unusable(reason) | ProbeError::Invalid(reason) => (BAD_INPUT, reason),
    })
}
