//! What a phase found, in a few lines; and all of it, in files.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use crate::clients::Client;
use crate::history::{Change, Violation};
use crate::memory::Figures;

/// How many broken promises are printed of each phase; the files have them all.
const SHOWN: usize = 12;

#[derive(Debug, Default)]
pub struct Report {
    pub written: usize,
    pub events: usize,
    pub reconnects: usize,
    pub resets: BTreeMap<String, usize>,
    /// Snapshots whose documents were held against the history.
    pub snapshots: usize,
    pub forgotten: usize,
    pub replays: (f64, f64),
    /// Whom it concerns, and what it is.
    pub violations: Vec<(String, Violation)>,
    /// Of each sidecar.
    pub memory: Vec<Figures>,
    /// Of the harness itself: the check cannot be believed.
    pub broken: Vec<String>,
}

impl Report {
    pub fn is_kept(&self) -> bool {
        self.violations.is_empty() && self.broken.is_empty()
    }

    /// Whether a sidecar took more memory than its settings allow.
    pub fn is_bloated(&self) -> bool {
        self.memory.iter().any(Figures::is_over)
    }

    pub fn print(&self, name: &str, seconds: f64, verdict: &str) {
        let resets: Vec<String> =
            self.resets.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        let resets = if resets.is_empty() { "none".to_string() } else { resets.join(", ") };
        println!(
            "{name:<18} {seconds:>5.1} s  {:>6} written  {:>7} delivered  {:>5} connections  \
             replays {} memory, {} oplog  {} snapshots  resets: {resets}  {verdict}",
            self.written,
            self.events,
            self.reconnects,
            self.replays.0,
            self.replays.1,
            self.snapshots,
        );
        if self.forgotten > 0 {
            println!("{:<18} {} writes given up by their writers", "", self.forgotten);
        }
        for (index, figures) in self.memory.iter().enumerate() {
            let verdict = if figures.is_over() { "  TOO MUCH" } else { "" };
            println!("{:<18} memory of sidecar {index}: {figures}{verdict}", "");
        }
        for broken in &self.broken {
            println!("  the check itself: {broken}");
        }
        for (client, violation) in self.violations.iter().take(SHOWN) {
            println!("  {client}: {violation}");
        }
        if let more @ 1.. = self.violations.len().saturating_sub(SHOWN) {
            println!("  and {more} more");
        }
    }

    /// Writes the histories of those who were wronged, and the truth beside them.
    pub fn save(
        &self,
        dir: &Path,
        phase: usize,
        name: &str,
        clients: &[Client],
        truth: &[Change],
        logs: &str,
    ) -> std::io::Result<()> {
        let dir = dir.join(format!("{phase:02}-{name}"));
        std::fs::create_dir_all(&dir)?;
        let mut all = String::new();
        for (client, violation) in &self.violations {
            // Writing to a string never fails.
            let _ = writeln!(all, "{client}: {violation}");
        }
        std::fs::write(dir.join("violations.txt"), all)?;
        let mut history = String::new();
        for change in truth {
            let _ = writeln!(history, "{change:?}");
        }
        std::fs::write(dir.join("truth.txt"), history)?;
        std::fs::write(dir.join("sidecars.log"), logs)?;
        for client in clients {
            if !self.violations.iter().any(|(name, _)| *name == client.name) {
                continue;
            }
            let mut text = String::new();
            for (at, record) in &client.log.lock().records {
                let _ = writeln!(text, "{:>10.3} {record:?}", at.as_secs_f64());
            }
            let file = client.name.replace(['/', ' ', '?', '='], "-");
            std::fs::write(dir.join(format!("{file}.txt")), text)?;
        }
        Ok(())
    }
}
