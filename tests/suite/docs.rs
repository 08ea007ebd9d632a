//! What the documentation says of the settings.

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
