//! The log: a line for each fact, names of fields that stay, and what happens when nobody reads it.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::app::App;
use crate::support::sidecar::{Filters, Program, metric, nowhere};
use crate::support::{http, mongo, unique, until};

fn lines(log: &str) -> Vec<Value> {
    log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// The names of fields that docs/operations.md lists.
fn documented() -> Vec<String> {
    let docs = include_str!("../../docs/operations.md");
    let (_, section) = docs.split_once("## Log").expect("the section");
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.flat_map(|row| {
        let names = row.split('|').next().unwrap_or_default();
        names.split('`').step_by(2).map(str::to_owned).collect::<Vec<_>>()
    })
    .collect()
}

#[tokio::test]
async fn requests_are_told_by_line_and_nothing_is_on_stdout() {
    let app = App::start().await;
    let database = unique("log");
    let text = format!("collection: {database}.a\naccess: public\n");
    let filters = Filters::new(&[("a", &text), ("broken", "acess: public\n")]);
    let (path, app) = (filters.path().display().to_string(), format!("http://{}", app.address));
    let uri = mongo::uri();
    let dir = tempfile::tempdir().unwrap();
    let stdout = dir.path().join("stdout");
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" \"$@\" >\"$STDOUT\"", env!("CARGO_BIN_EXE_sidestream")]);
    let arguments = ["--app", &app, "--filters", &path, "--mongodb", &uri];
    let env = [("SIDESTREAM_LOG__REQUESTS", "true"), ("STDOUT", stdout.to_str().unwrap())];
    let mut program = Program::spawn(command, &arguments, &env).await;
    until("it is ready", || async { http::get(program.admin, "/readyz").await.head.status == 200 })
        .await;
    http::get(program.listen, "/page?planted=secret").await;
    http::get(program.listen, "/_events/nothing?planted=secret").await;
    program.signal(rustix::process::Signal::TERM);
    assert_eq!(program.ended().await.code(), Some(0), "{}", program.log());
    assert_eq!(std::fs::read_to_string(&stdout).unwrap(), "");

    let log = program.log();
    assert!(!log.contains("planted"), "{log}");
    let lines = lines(&log);
    let mut requests: Vec<&Value> = lines
        .iter()
        .map(|line| &line["fields"])
        .filter(|fields| fields["message"] == "request")
        .collect();
    assert_eq!(requests.len(), 2, "{log}");
    // An answer has reached its client before it is told of, and the next request may be quicker.
    requests.sort_by_key(|request| request["path"] != "/page");
    for (request, path, status) in
        [(requests[0], "/page", 200), (requests[1], "/_events/nothing", 404)]
    {
        assert_eq!((&request["method"], &request["path"]), (&"GET".into(), &path.into()));
        assert_eq!((&request["status"], &request["client"]), (&status.into(), &"127.0.0.1".into()));
        assert!(request["seconds"].as_f64().is_some_and(|seconds| seconds < 60.0));
    }
    // What is wrong with a file is one line, with its place.
    let broken =
        lines.iter().find(|line| line["fields"]["place"].is_string()).expect("the mistake");
    assert_eq!(broken["level"], "ERROR");
    assert!(broken["fields"]["place"].as_str().unwrap().contains("broken.yaml:1:1"), "{broken}");
    let documented = documented();
    assert!(documented.len() > 10);
    for line in &lines {
        for name in line["fields"].as_object().unwrap().keys() {
            assert!(documented.contains(name), "`{name}` is in no table: {line}");
        }
    }
}

/// What reads the log is stuck, and then is not: the sidecar works all the while, and tells.
#[tokio::test]
async fn dropped_lines_are_counted_and_told() {
    let filters = Filters::new(&[]);
    let path = filters.path().display().to_string();
    let (app, uri) = (format!("http://{}", nowhere()), mongo::uri());
    let dir = tempfile::tempdir().unwrap();
    let gate = dir.path().join("gate");
    // The log goes into a pipe, whose reader begins when the gate is there.
    let mut command = Command::new("sh");
    let script = "(while read -r line && echo \"$line\"; do \
                  case $line in *'is listening'*) break; esac; done; \
                  until [ -e \"$GATE\" ]; do sleep 0.05; done; cat) <\"$PIPE\" >&2 & \
                  exec \"$0\" \"$@\" 2>\"$PIPE\"";
    let pipe = dir.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).stdout(Stdio::null()).status().unwrap();
    assert!(made.success());
    command.args(["-c", script, env!("CARGO_BIN_EXE_sidestream")]);
    let arguments = ["--app", &app, "--filters", &path, "--mongodb", &uri];
    let env = [
        ("GATE", gate.to_str().unwrap()),
        ("PIPE", pipe.to_str().unwrap()),
        ("SIDESTREAM_LOG__REQUESTS", "true"),
    ];
    let program = Program::spawn(command, &arguments, &env).await;
    let dropped = "sidestream_log_lines_dropped_total";
    // Each of these is a line: 8,192 wait, and a pipe takes some hundreds more.
    let request = "GET /_events/nothing HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100);
    let asking = async {
        let mut connection = http::Connection::open(program.listen).await;
        loop {
            connection.send(&request).await;
            for _ in 0..100 {
                assert_eq!(connection.answer("GET").await.expect("an answer").head.status, 404);
            }
        }
    };
    let counting =
        until("lines are dropped", || async { metric(program.admin, dropped).await > 0.0 });
    tokio::select! { () = asking => {}, () = counting => {} }
    std::fs::write(&gate, "").unwrap();
    until("the log tells", || async { program.log().contains("lines of this log were dropped") })
        .await;
}

/// Also of lines that no test causes: what the code writes is what the table of docs/operations.md lists.
#[test]
fn every_field_has_its_row() {
    let documented = documented();
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = std::collections::BTreeSet::new();
    for path in crate::house::rust_files(&source) {
        let text = std::fs::read_to_string(&path).unwrap();
        for level in ["error", "warn", "info", "debug", "trace"] {
            for rest in text.split(&format!("{level}!(")).skip(1) {
                // Fields come before the message, which is the first text.
                let fields = rest.split(['"', ';']).next().unwrap_or_default();
                found.extend(fields.split(',').filter_map(field_name));
            }
        }
    }
    assert!(found.len() > 15, "{found:?}");
    let missing: Vec<_> = found.iter().filter(|name| !documented.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?} are in no table");
}

/// The name in `name`, `%name`, `?name` or `name = value`.
fn field_name(text: &str) -> Option<String> {
    let text = text.trim();
    let name = text.split('=').next()?.trim().trim_start_matches(['%', '?']);
    let name = match text.contains('=') {
        true => name,
        // The name of a part is that of the part.
        false => name.rsplit('.').next()?,
    };
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    is_name.then(|| name.to_owned())
}
