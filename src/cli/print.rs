//! Output of commands to a terminal or a pipe. The reader of a pipe may have gone, as with
//! `| head`: that is not an error, and `println!` would panic.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

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

/// Ends the process when nobody reads its standard output any more, with exit code 0. For a command
/// that may have nothing to write for hours: until then, it would not notice.
pub(super) fn end_with_reader() {
    std::thread::spawn(|| {
        let out = io::stdout();
        // That the other end is closed is told without being asked for.
        let mut watched = [PollFd::new(&out, PollFlags::empty())];
        while poll(&mut watched, None) == Err(Errno::INTR) {}
        if watched[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
            std::process::exit(0);
        }
    });
}
