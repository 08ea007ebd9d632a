//! Directories, ConfigMaps among them, and the report of `check`.

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

const GOOD: &str = "collection: shop.orders\naccess: public\n";

fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

fn names(loaded: &Loaded) -> Vec<&str> {
    loaded.filters.0.keys().map(String::as_str).collect()
}

fn messages(loaded: &Loaded) -> Vec<&str> {
    loaded.diagnostics.iter().map(|diagnostic| diagnostic.message.as_str()).collect()
}

#[test]
fn names_are_paths() {
    let dir = directory(&[
        ("orders.yaml", GOOD),
        ("shop/orders.yml", GOOD),
        ("shop/v1.2/a-b_c.json", "{\"collection\": \"a.b\", \"access\": \"public\"}"),
        (".hidden.yaml", "broken: ["),
        ("..data/x.yaml", "broken: ["),
        ("README.md", "not a filter"),
        ("orders.yaml~", "not a filter"),
    ]);
    let loaded = load_directory(dir.path());
    assert_eq!(names(&loaded), ["orders", "shop/orders", "shop/v1.2/a-b_c"]);
    assert_eq!(messages(&loaded), [""; 0]);
    assert!(!loaded.unlisted.may_hold("any") && loaded.broken.is_empty());
}

#[test]
fn a_file_that_is_too_large_is_not_read_whole() {
    // Cut inside a character, it is still its size that is wrong.
    let large = format!("{GOOD}# {}\n", "é".repeat(600_000));
    let dir = directory(&[("large.yaml", &large)]);
    let loaded = load_directory(dir.path());
    let expected = format!("the file has {} bytes, more than the 1048576 allowed", large.len());
    assert_eq!(messages(&loaded), [&expected]);
    assert!(loaded.diagnostics[0].to_string().contains("large.yaml:1:1: error"));
    assert!(loaded.broken.contains("large"));
}

#[test]
fn a_config_map_is_read_once() {
    let dir = directory(&[("..2026_01_31/orders.yaml", GOOD), ("..2026_01_31/a.yaml", GOOD)]);
    let at = |name: &str| dir.path().join(name);
    symlink("..2026_01_31", at("..data")).unwrap();
    symlink("..data/orders.yaml", at("orders.yaml")).unwrap();
    symlink("..data/a.yaml", at("a.yaml")).unwrap();
    let loaded = load_directory(dir.path());
    assert_eq!(names(&loaded), ["a", "orders"]);

    // The swap: a new directory, the link replaced by a rename.
    fs::create_dir(at("..2026_02_01")).unwrap();
    fs::write(at("..2026_02_01/orders.yaml"), format!("{GOOD}description: new\n")).unwrap();
    symlink("..2026_02_01", at("..data_tmp")).unwrap();
    fs::rename(at("..data_tmp"), at("..data")).unwrap();
    let loaded = load_directory(dir.path());
    assert_eq!(names(&loaded), ["orders"]);
    assert_eq!(loaded.filters.0["orders"].description.as_deref(), Some("new"));
    // The link of the file that went is dangling until the kubelet removes it.
    assert!(loaded.broken.contains("a"));
}

#[test]
fn what_is_wrong_with_files() {
    let dir = directory(&[
        ("good.yaml", GOOD),
        ("bad.yaml", "collection: shop.orders\n"),
        ("twice.yaml", GOOD),
        ("twice.json", "{}"),
        ("white space.yaml", GOOD),
        ("ä/a.yaml", GOOD),
        ("dir.yaml/inner.yaml", GOOD),
        ("latin.yaml", ""),
    ]);
    fs::write(dir.path().join("latin.yaml"), b"description: \xe4\n").unwrap();
    symlink("..", dir.path().join("dir.yaml/loop")).unwrap();
    symlink("nowhere", dir.path().join("dangling.yaml")).unwrap();
    let loaded = load_directory(dir.path());
    assert_eq!(names(&loaded), ["dir.yaml/inner", "good"]);
    assert_eq!(loaded.broken.iter().collect::<Vec<_>>(), ["bad", "dangling", "latin", "twice"]);
    let json = dir.path().join("twice.json").display().to_string();
    assert_eq!(
        messages(&loaded),
        [
            "the directory contains itself through a link",
            "`white space` cannot be a stream's name",
            "`ä` cannot be a stream's name",
            "`access` is missing: a filter says who may open its stream",
            "cannot read the file: No such file or directory (os error 2)",
            "the file is not UTF-8",
            &format!("the stream `twice` is also declared by {json}"),
        ]
    );
    assert!(!loaded.unlisted.may_hold("any"));
}

#[test]
fn a_directory_that_cannot_be_read_is_no_empty_one() {
    let dir = directory(&[]);
    let loaded = load_directory(&dir.path().join("nowhere"));
    assert!(loaded.unlisted.may_hold("any"));
    assert!(messages(&loaded)[0].starts_with("cannot read the directory: "));
}

#[test]
fn a_pipe_is_not_waited_for() {
    let dir = directory(&[]);
    let path = dir.path().join("pipe.yaml");
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    let loaded = load_directory(dir.path());
    assert!(loaded.broken.contains("pipe"));
    assert_eq!(messages(&loaded), ["cannot read the file: not a regular file"]);
}

#[test]
fn the_report() {
    let dir = directory(&[("a.yaml", GOOD)]);
    let report = check(dir.path(), true);
    assert!(report.is_good());
    assert_eq!(report.to_string(), "1 filter: all good\n");

    let unused = format!("{GOOD}params: {{ a: {{ type: string }} }}\n");
    let dir = directory(&[("a.yaml", GOOD), ("b.yaml", &unused)]);
    let report = check(dir.path(), true);
    assert!(report.is_good());
    let file = dir.path().join("b.yaml").display().to_string();
    assert_eq!(
        report.to_string(),
        format!(
            "{file}:3:11: warning: the parameter `a` is not used\n    \
             params: {{ a: {{ type: string }} }}\n    \
             \x20         ^\n  \
             hint: use it in `match` as {{ $param: a }}, or remove it\n\n\
             2 filters: 1 warning\n"
        )
    );

    fs::write(dir.path().join("c.yaml"), "x: 1\n").unwrap();
    let report = check(dir.path(), true);
    assert!(!report.is_good());
    assert!(report.to_string().ends_with("\n3 filters: 3 errors, 1 warning\n"));

    let dir = directory(&[]);
    let report = check(dir.path(), true);
    assert!(!report.is_good());
    assert!(report.to_string().contains("error: no filter files here"));
    assert!(report.to_string().ends_with("0 filters: 1 error\n"));
}

#[test]
fn nearly_a_filter_file() {
    let near = [
        ("Chat.YML", "Chat.yml"),
        ("orders.yaml.txt", "orders.yaml"),
        ("users.jsonc", "users.json"),
        ("users.json5", "users.json"),
        ("rooms.ymal", "rooms.yaml"),
        ("rooms.YAML", "rooms.yaml"),
        ("team.yml.TXT", "team.yml"),
    ];
    let others = [
        "README.md",
        "notes.txt",
        "old.yaml.bak",
        "a.yaml~",
        "#a.yaml#",
        "a.yaml___jb_tmp___",
        "a.yaml___jb_old___",
        "a.yaml-e",
        ".b.YML",
        "style.xml",
        "x.toml",
        "Makefile",
    ];
    let mut files = vec![("good.yaml", GOOD)];
    files.extend(near.iter().map(|(name, _)| (*name, GOOD)));
    files.extend(others.iter().map(|name| (*name, GOOD)));
    let dir = directory(&files);
    let loaded = load_directory(dir.path());
    assert_eq!(loaded.filters.0.keys().collect::<Vec<_>>(), ["good"]);
    let mut expected: Vec<String> = near
        .iter()
        .map(|(name, meant)| {
            format!(
                "{}:1:1: warning: `{name}` is not read: filter files end with .yaml, .yml or .json\n  \
                 hint: rename it to `{meant}`",
                dir.path().join(name).display()
            )
        })
        .collect();
    expected.sort();
    assert_eq!(loaded.diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
}

#[test]
fn two_underscores_are_a_slash() {
    let dir = directory(&[
        ("shop__orders.yaml", GOOD),
        ("team__a__b.json", "{\"collection\":\"a.b\",\"access\":\"public\"}"),
    ]);
    let loaded = load_directory(dir.path());
    assert_eq!(loaded.filters.0.keys().collect::<Vec<_>>(), ["shop/orders", "team/a/b"]);
    assert!(loaded.diagnostics.is_empty());

    fs::create_dir(dir.path().join("shop")).unwrap();
    fs::write(dir.path().join("shop/orders.yml"), GOOD).unwrap();
    for bad in ["__a.yaml", "a__.yaml", "a____b.yaml"] {
        fs::write(dir.path().join(bad), GOOD).unwrap();
    }
    let loaded = load_directory(dir.path());
    assert_eq!(loaded.filters.0.keys().collect::<Vec<_>>(), ["team/a/b"]);
    assert!(loaded.broken.contains("shop/orders"));
    let said = loaded.diagnostics.iter().map(|one| one.message.clone()).collect::<Vec<_>>();
    assert_eq!(
        said.iter().filter(|said| said.contains("cannot be a stream's name")).count(),
        3,
        "{said:?}"
    );
    assert!(said.iter().any(|said| said.starts_with("the stream `shop/orders` is also declared")));
}

#[test]
fn strict_makes_errors_of_warnings() {
    let dir = directory(&[(
        "a.yaml",
        &format!("{GOOD}match: {{ total: {{ $in: [] }} }}\noperations: [insert]\n"),
    )]);
    let report = check(dir.path(), true);
    assert!(report.is_good() && report.warning_count() == 1);
    let report = report.strict();
    assert!(!report.is_good() && report.error_count() == 1);
}
