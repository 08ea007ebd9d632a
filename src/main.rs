//! The process: its allocator, and the exit code of the command.

use std::process::ExitCode;

// glibc keeps the memory of connections that are gone; jemalloc gives it back.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    sidestream::cli::main()
}
