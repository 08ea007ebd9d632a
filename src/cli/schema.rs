//! `sidestream schema`: JSON Schemas, for editors and CI.

use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::print::print;
use crate::{config, filter};

/// Print a JSON Schema, for editors and CI.
#[derive(Args)]
pub struct SchemaArgs {
    /// The kind of file that the schema describes
    #[arg(value_enum, default_value = "filter")]
    of: Of,
}

#[derive(Clone, Copy, ValueEnum)]
enum Of {
    /// Filter files
    Filter,
    /// The settings file
    Config,
}

/// Prints the schema as JSON, indented.
pub fn schema(args: &SchemaArgs) -> ExitCode {
    let schema = match args.of {
        Of::Filter => filter::schema(),
        Of::Config => config::schema(),
    };
    print(format_args!("{schema:#}\n"), ExitCode::SUCCESS)
}
