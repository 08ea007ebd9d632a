//! The rooms of `src/`: what `lib.rs` says of them is what the code does.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Every Rust file below `dir`.
fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The rooms in the order of the map at the head of `lib.rs`.
fn rooms(lib: &str) -> Vec<String> {
    let listed = lib.lines().filter_map(|line| line.strip_prefix("//! - "));
    listed
        .flat_map(|line| {
            let names = line.split(':').next().unwrap_or_default();
            names.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}

/// The rooms that a line of code names after `crate::`.
fn named(line: &str) -> impl Iterator<Item = &str> {
    line.split("crate::").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        &rest[..end]
    })
}

#[test]
fn the_map_names_every_room() {
    let lib = fs::read_to_string(source().join("lib.rs")).unwrap();
    let modules: BTreeSet<String> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';').map(str::to_owned))
        .collect();
    let listed: BTreeSet<String> = rooms(&lib).into_iter().collect();
    assert!(!listed.is_empty());
    assert_eq!(listed, modules);
}

#[test]
fn a_room_uses_those_above_it_and_none_below() {
    let lib = fs::read_to_string(source().join("lib.rs")).unwrap();
    let rooms = rooms(&lib);
    let rank = |room: &str| rooms.iter().position(|known| known == room);
    let (mut against, mut seen) = (Vec::new(), 0);
    for path in rust_files(&source()) {
        let inside = path.strip_prefix(source()).unwrap();
        let room = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        // The crate's own head wires the rooms.
        let Some(own) = rank(room) else { continue };
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("//") {
                continue;
            }
            for used in named(line) {
                seen += 1;
                if rank(used).is_some_and(|used| used > own) {
                    against.push(format!("src/{}:{}: {line}", inside.display(), number + 1));
                }
            }
        }
    }
    assert!(seen > 100, "only {seen} imports were seen");
    assert!(against.is_empty(), "imports against the flow:\n{}", against.join("\n"));
}
