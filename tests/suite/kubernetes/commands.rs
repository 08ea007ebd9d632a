//! `sidestream inject` and `sidestream webhook` as programs: what goes where, and the exit codes.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use super::golden::{dir, inject};

fn run(arguments: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sidestream"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    // Who does not read its input may have ended before it is written.
    let _ = input.write_all(stdin.as_bytes());
    drop(input);
    child.wait_with_output().unwrap()
}

#[test]
fn manifests_go_to_standard_output_and_warnings_beside_it() {
    let text = std::fs::read_to_string(dir().join("list.yaml")).unwrap();
    let image = ["--image", "sidestream:test"];
    let output = run(&[&["inject", "--kubernetes-version", "1.31"], &image[..]].concat(), &text);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let expected = inject("stdin", &text, "1.31");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected.text);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("stdin:29:"), "{said}");
}

#[test]
fn what_is_refused_prints_no_manifest() {
    let file = dir().join("refused.yaml");
    let output = run(&["inject", "-f", file.to_str().unwrap()], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("refused.yaml:37:"), "{said}");

    let output = run(&["inject", "-f", "/nowhere.yaml"], "");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_wrong_command_line_is_told_at_once() {
    for arguments in [
        &["inject", "--kubernetes-version", "new"][..],
        &["inject", "--memory", "512"],
        &["inject", "--trusted-proxy", "everybody"],
        &["webhook"],
        &["webhook", "--certificate-file", "a"],
        &["webhook", "--certificate-file", "a", "--key-file", "b", "--api-server", "https://a"],
    ] {
        let output = run(arguments, "");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
    }
}
