//! What the documentation says of the settings, the metrics and the commands of this repository.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;
use sidestream::config::{Config, Flags, Sources};

/// The settings that docs/operations.md shows are said to be the defaults.
#[test]
fn the_settings_shown_are_the_defaults() {
    let text = include_str!("../../docs/operations.md");
    let (_, rest) = text.split_once("```yaml\n").expect("a block of settings");
    let (settings, _) = rest.split_once("```").expect("its end");
    let dir = tempfile::tempdir().expect("a directory");
    let load = |config_file| {
        let sources = Sources {
            config_file,
            leaves_secrets: false,
            working_dir: dir.path().to_path_buf(),
            env: Vec::new(),
            flags: Flags::default(),
        };
        Config::load(sources).unwrap_or_else(|errors| panic!("{errors}"))
    };
    let defaults = load(None);
    let path = dir.path().join("shown.yaml");
    std::fs::write(&path, settings).expect("a file");
    assert_eq!(format!("{:?}", load(Some(path))), format!("{defaults:?}"));
}

/// The metrics that the code has, and those that docs/operations.md explains, are the same.
#[test]
fn every_metric_is_explained() {
    let code = include_str!("../../src/metrics/mod.rs");
    let (_, fields) = code.split_once("pub struct Metrics {").expect("the struct");
    let (fields, _) = fields.split_once("\n}").expect("its end");
    let named = fields.lines().filter_map(|line| line.trim().strip_prefix("pub "));
    let coded: BTreeSet<&str> = named.filter_map(|line| line.split(':').next()).collect();
    assert!(coded.len() > 10, "{coded:?}");
    for name in &coded {
        assert!(code.contains(&format!("\"{name}\"")), "the metric of the field {name}");
    }

    let docs = include_str!("../../docs/operations.md");
    let (_, table) = docs.split_once("| `sidestream_` |").expect("the table of metrics");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let cells = rows.filter_map(|row| row.trim_start_matches('|').split('|').next());
    let explained: BTreeSet<&str> = cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .map(|name| name.split('{').next().unwrap_or(name))
        .collect();
    assert_eq!(explained, coded);
}

/// "Less than 60 lines together", as examples/quickstart/README.md says.
#[test]
fn each_quick_start_is_short() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart");
    let apps = [("node", "server.js"), ("python", "app.py"), ("php", "app.php"), ("go", "main.go")];
    for (language, app) in apps {
        let lines = |file: &str| {
            let path = root.join(language).join(file);
            let text =
                std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            text.lines().count()
        };
        let all = lines(app) + lines("index.html") + lines("filters/notes.yaml");
        assert!(all < 60, "{language}: {all} lines");
    }
}

/// The texts of documents, programs and tests, with their paths.
fn texts(dir: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && !matches!(name, "node_modules" | "results" | "__pycache__") {
            texts(&path, found);
        } else if let Ok(text) = fs::read_to_string(&path) {
            found.push((path, text));
        }
    }
}

/// Commands in documents and heads of files name what is there, and run where only this repository's
/// own cargo finds what the build needs.
#[test]
fn commands_name_what_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all =
        vec![(root.join("README.md"), fs::read_to_string(root.join("README.md")).unwrap())];
    for dir in ["benches", "docs", "examples", "fuzz/fuzz_targets", "scripts", "src", "tests"] {
        texts(&root.join(dir), &mut all);
    }
    let makefile = fs::read_to_string(root.join("Makefile")).unwrap();
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let target = Regex::new("(?m)(?:`|^(?://!|#)? {4,})make ([a-z][a-z-]*)").unwrap();
    let script = Regex::new(r"(?:^|[^\w/.-])scripts/([A-Za-z0-9._-]*[A-Za-z0-9_-])").unwrap();
    let bench = Regex::new(r"(\S*)cargo bench(?: --bench ([a-z]+))?").unwrap();
    let (mut seen, mut wrong) = (0, Vec::new());
    // But this one, which looks for them.
    for (path, text) in all.iter().filter(|(path, _)| !path.ends_with("suite/docs.rs")) {
        let mut check = |is_right: bool, what: &str| {
            seen += 1;
            if !is_right {
                wrong.push(format!("{}: {what}", path.display()));
            }
        };
        for found in target.captures_iter(text) {
            check(makefile.contains(&format!("\n{}: ", &found[1])), &found[0]);
        }
        for found in script.captures_iter(text) {
            check(root.join("scripts").join(&found[1]).is_file(), &found[0]);
        }
        for found in bench.captures_iter(text) {
            let is_ours = found[1].ends_with("scripts/");
            let is_known = found.get(2).is_none_or(|name| {
                manifest.contains(&format!("[[bench]]\nname = \"{}\"\n", name.as_str()))
            });
            check(is_ours && is_known, &found[0]);
        }
    }
    assert!(seen > 100, "only {seen} commands were seen");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
