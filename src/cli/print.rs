//! Output of commands to a terminal or a pipe. The reader of a pipe may have gone, as with
//! `| head`: that is not an error, and `println!` would panic.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use super::BAD_INPUT;

/// Writes to standard output, and returns the command's exit code: `code`, unless it cannot be
/// written for another reason than that nobody reads any more.
pub(super) fn print(text: impl Display, code: ExitCode) -> ExitCode {
    let mut out = io::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            complain(format_args!("error: the output cannot be written: {error}"));
            ExitCode::from(BAD_INPUT)
        }
        _ => code,
    }
}

/// Writes a line to standard error. A failure cannot be reported anywhere.
pub(super) fn complain(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}
