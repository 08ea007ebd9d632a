//! What the documentation says of the settings.

use std::collections::BTreeSet;

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
