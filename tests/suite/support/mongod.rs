//! Where the `mongod` of tests and benchmarks comes from.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The server's program: `MONGOD`, else what `scripts/fetch-mongod` finds or fetches.
pub fn program() -> &'static str {
    static PROGRAM: OnceLock<String> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Ok(named) = std::env::var("MONGOD") {
            return named;
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/fetch-mongod");
        let found = Command::new(&script).stderr(Stdio::inherit()).output();
        let found = found.unwrap_or_else(|error| panic!("{}: {error}", script.display()));
        assert!(found.status.success(), "no mongod: set MONGOD to one, or see the line above");
        String::from_utf8_lossy(&found.stdout).trim().to_owned()
    })
}
