//! The program does not start: the exit code says what kind of trouble it is, the last line which one.

use std::net::TcpListener;
use std::process::Command;

use super::*;

const PAGE: &str = "start.md";

/// Starts it with these and waits for its end: the exit code, and what it said.
fn ends_with(arguments: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().unwrap();
    let ended = Command::new(env!("CARGO_BIN_EXE_sidestream"))
        .args(["run", "--admin", "127.0.0.1:0"])
        .args(arguments)
        .envs(env.iter().copied())
        .env("NO_COLOR", "1")
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "");
    (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
}

#[tokio::test]
async fn it_does_not_start() {
    let setting = [("SIDESTREAM_CLIENTS__HEARTBEET", "1s")];
    let typo = ends_with(&["--listen", "127.0.0.1:0"], &setting);
    let nobody = ends_with(&["--listen", "127.0.0.1:0", "--mongodb", "mongodb://127.0.0.1:1"], &[]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = ends_with(&["--listen", &taken.local_addr().unwrap().to_string()], &[]);
    let mut said = String::new();
    for (title, code, (status, text)) in
        [("a setting", 1, typo), ("MongoDB", 3, nobody), ("a port", 3, port)]
    {
        println!("== {title}\n{text}");
        assert_eq!(status, Some(code), "{title}: {text}");
        said += &text;
    }
    hold(PAGE, "# It does not start", &said);
}
