//! The real program: its signals, its exit codes, its log.

use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use mongodb::bson::{Document, doc};
use rustix::process::Signal;

use crate::support::http::Connection;
use crate::support::mongo::{Own, ROOT, Setup};
use crate::support::sidecar::{Filters, Program, metric};
use crate::support::sse::Stream;
use crate::support::{free_port, http, mongo, unique, until};

fn filters(database: &str) -> Filters {
    let text = format!("collection: {database}.orders\naccess: public\n");
    Filters::new(&[("orders", &text)])
}

/// Runs the program to its end, in an empty directory.
fn run(arguments: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_sidestream");
    Command::new(program).args(arguments).current_dir(dir.path()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

const LISTEN: [&str; 5] = ["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];

fn run_with(more: &[&str]) -> Output {
    run(&[&LISTEN[..], more].concat())
}

#[test]
fn every_command_explains_itself_with_an_example() {
    let help = text(&run(&["--help"]).stdout);
    let (_, listed) = help.split_once("Commands:\n").expect("the commands");
    let commands = listed.lines().take_while(|line| line.starts_with("  "));
    let names = commands.filter_map(|line| line.split_whitespace().next());
    let names: Vec<&str> = names.filter(|name| *name != "help").collect();
    assert!(names.len() >= 10 && names.contains(&"explain"), "{names:?}");
    assert!(help.contains("Example:\n  sidestream "), "{help}");
    for name in names {
        let output = run(&[name, "--help"]);
        assert!(output.status.success());
        let help = text(&output.stdout);
        let (_, example) = help.split_once("\nExample").unwrap_or_else(|| panic!("{help}"));
        assert!(example.contains(&format!("sidestream {name}")), "{help}");
    }
    assert!(text(&run(&["run", "--help"]).stdout).contains("exits with code 3"));
}

/// Runs the program in a directory with these files.
fn run_with_files(arguments: &[&str], files: &[(&str, &str)]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let program = env!("CARGO_BIN_EXE_sidestream");
    Command::new(program).args(arguments).current_dir(dir.path()).output().unwrap()
}

#[test]
fn check_and_explain_read_the_settings_as_run_does() {
    const MINE: &str = "collection: a.b\naccess: authenticated\n";
    // A secret's file is not opened: there is none.
    const GOOD: &str = "filters: mine\nauth: { jwt: { secret_file: no, algorithms: [HS256] } }\n";
    let files = [("mine/orders.yaml", MINE), ("s.yaml", GOOD), ("bad.yaml", "drain: 10\n")];
    let output = run_with_files(&["check", "--config", "s.yaml"], &files);
    let said = text(&output.stdout);
    assert_eq!((output.status.code(), said.as_str()), (Some(0), "1 filter: all good\n"));
    let output = run_with_files(&["explain", "orders", "--config", "s.yaml"], &files);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let output = run_with_files(&["check", "mine"], &files);
    assert!(text(&output.stdout).contains("no caller can be authenticated"));

    let bad = ["check", "mine", "--config", "bad.yaml", "--output"];
    let said = |format| {
        let output = run_with_files(&[&bad[..], &[format]].concat(), &files);
        assert_eq!(output.status.code(), Some(1));
        text(&output.stdout)
    };
    assert!(said("human").contains("bad.yaml:1:8: error: drain: `10` has no unit\n    drain: 10"));
    let github = said("github");
    assert!(github.starts_with("::error file=bad.yaml,line=1,col=8,endColumn=10::drain: "));
    let json: serde_json::Value = serde_json::from_str(&said("json")).unwrap();
    assert_eq!(json["diagnostics"][0]["file"], "bad.yaml");
    assert_eq!((&json["errors"], &json["warnings"]), (&1.into(), &0.into()));
}

#[test]
fn the_schema_of_the_settings_is_printed() {
    let output = run(&["schema", "config"]);
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(schema["properties"]["listen"]["$comment"], "SIDESTREAM_LISTEN --listen");
}

#[test]
fn exit_codes_tell_whose_turn_it_is() {
    assert_eq!(run(&["run", "--no-such-flag"]).status.code(), Some(2));
    assert_eq!(run(&["no-such-command"]).status.code(), Some(2));
    assert_eq!(run(&[]).status.code(), Some(2));
    assert_eq!(run_with(&["--app", "not a url"]).status.code(), Some(2));

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("settings.yaml");
    std::fs::write(&file, "drain: 10\nlissten: 1\n").unwrap();
    let output = run_with(&["--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("lissten"));

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(&["run", "--listen", &address, "--admin", "127.0.0.1:0"]);
    assert_eq!(output.status.code(), Some(3));
    let log = text(&output.stderr);
    assert!(log.contains(&address) && log.contains("choose another address"), "{log}");
}

#[test]
fn a_connection_string_that_the_driver_refuses_is_bad_input() {
    let uri = "mongodb://user:s3cret@127.0.0.1:1/?replicaSet=rs0&authMechanism=NO-SUCH";
    // As any other flag, and as any other setting.
    let by_flag = run_with(&["--mongodb", uri]);
    let mut by_variable = Command::new(env!("CARGO_BIN_EXE_sidestream"));
    let by_variable = by_variable.arg("run").env("SIDESTREAM_MONGODB__URI", uri).output().unwrap();
    for (output, code) in [(by_flag, 2), (by_variable, 1)] {
        let log = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{log}");
        assert!(log.contains("mongodb.uri: ") && log.contains("NO-SUCH"), "{log}");
        assert!(!log.contains("s3cret"), "{log}");
    }
}

#[test]
fn without_mongodb_it_gives_up_soon_and_says_why() {
    let uri = format!("mongodb://name:s3cret@127.0.0.1:{}/?replicaSet=rs0", free_port());
    let began = Instant::now();
    let output = run_with(&["--mongodb", &uri]);
    assert_eq!(output.status.code(), Some(3));
    // The driver's own patience is 30 s.
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    let log = text(&output.stderr);
    for part in ["MongoDB is unavailable", "nothing answers at 127.0.0.1:", "--wait"] {
        assert!(log.contains(part), "{log}");
    }
    assert!(!log.contains("s3cret"), "{log}");
}

// A machine that hangs, and a server that does not speak TLS: what takes connections and says nothing is as
// far away as what does not take them.
#[tokio::test]
async fn who_gives_no_answer_is_unavailable_too() {
    let [plain, hung] = [Own::start(Setup::default()).await, Own::start(Setup::default()).await];
    hung.freeze(0);
    let by_tls = format!("{}&tls=true", plain.uri());
    let rows =
        [(hung.uri(), "hangs, or wants TLS"), (by_tls, "by TLS, which mongodb.uri asks for")];
    let runs = rows.map(|(uri, part)| {
        tokio::task::spawn_blocking(move || (run_with(&["--mongodb", &uri]), part))
    });
    for run in runs {
        let (output, part) = run.await.unwrap();
        let log = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{log}");
        assert!(log.contains("MongoDB is unavailable") && log.contains(part), "{log}");
    }
    hung.thaw(0);
}

#[tokio::test]
async fn with_wait_it_stays_until_mongodb_comes() {
    let mut own = Own::start(Setup::default()).await;
    own.kill(0);
    let filters = filters("shop");
    let path = filters.path().to_str().unwrap();
    let uri = own.uri();
    let program = Program::start(&["--wait", "--mongodb", &uri, "--filters", path], &[]).await;
    until("it says that it waits", || async { program.log().contains("MongoDB cannot be used") })
        .await;
    let answer = http::get(program.listen, "/_events/orders").await;
    assert_eq!(answer.head.status, 503);
    own.restart(0);
    let admin = program.admin;
    until("it is ready", || async move { http::get(admin, "/readyz").await.head.status == 200 })
        .await;
    let mut stream = Stream::open(program.listen, "/_events/orders").await;
    stream.settled().await;
    let orders = own.client().await.database("shop").collection::<Document>("orders");
    orders.insert_one(doc! { "_id": 1 }).await.unwrap();
    assert_eq!(stream.event().await.name(), "insert");
}

// It answers, so it is there; and an app that runs is worth more than an exit code.
#[tokio::test]
async fn a_mongodb_that_needs_a_person_is_waited_for_and_named() {
    let own = Own::start(Setup { is_initiated: false, ..Setup::default() }).await;
    let filters = filters("shop");
    let path = filters.path().to_str().unwrap();
    let uri = format!("mongodb://{}/?replicaSet=rs0", own.host(0));
    let arguments = ["--mongodb", &uri, "--filters", path, "--app", "http://127.0.0.1:9"];
    let mut program = Program::start(&arguments, &[]).await;
    until("the log names it", || async { program.log().contains("rs.initiate()") }).await;
    assert_eq!(http::get(program.listen, "/page").await.head.status, 502);
    program.signal(Signal::TERM);
    assert_eq!(program.ended().await.code(), Some(0));
}

/// Reads a stream whose end must not look like a cut connection.
async fn ends_with_the_last_chunk(stream: &mut Connection) {
    loop {
        let line = stream.line().await.expect("a chunk, and no cut");
        let length = usize::from_str_radix(&line, 16).expect("a length");
        stream.exactly(length).await.expect("the chunk");
        assert_eq!(stream.line().await.as_deref(), Some(""));
        if length == 0 {
            return;
        }
    }
}

async fn says_goodbye(signal: Signal) {
    let database = unique("goodbye");
    let filters = filters(&database);
    let path = filters.path().to_str().unwrap();
    let uri = mongo::uri();
    let arguments = ["--mongodb", &uri, "--filters", path];
    // Long enough for a loaded machine to be asked all of this meanwhile.
    let drain = Duration::from_secs(8);
    let mut program = Program::start_ready(&arguments, &[("SIDESTREAM_DRAIN", "8s")]).await;
    let mut streams = Vec::new();
    for _ in 0..10 {
        let mut connection = Connection::open(program.listen).await;
        connection.send("GET /_events/orders HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert_eq!(connection.head().await.expect("a head").status, 200);
        streams.push(connection);
    }
    let began = Instant::now();
    program.signal(signal);
    // Others have to notice first that it is no longer ready: it still answers.
    let (listen, admin) = (program.listen, program.admin);
    until("it is no longer ready", || async move {
        http::get(admin, "/readyz").await.head.status == 503
    })
    .await;
    let late = http::get(listen, "/_events/orders").await;
    assert_eq!(late.head.status, 503);
    assert!(late.head.field("retry-after").is_some());
    let accept = "Accept: text/event-stream\r\n";
    let late = http::request(listen, "GET", "/_events/orders", accept).await;
    assert_eq!(late.head.status, 200);
    assert_eq!(late.head.field("content-type"), Some("text/event-stream"));
    assert_eq!(late.head.field("cache-control"), Some("no-store, no-transform"));
    assert!(late.head.field("retry-after").is_some());
    let text = late.text();
    let (retry, why) = text.split_once('\n').expect("two lines");
    let millis: u32 = retry.strip_prefix("retry: ").expect("a retry").parse().expect("a number");
    assert!((2000..=10_000).contains(&millis), "{millis}");
    assert_eq!(why, ": this sidecar is shutting down\n");
    let refused = "sidestream_connections_total{outcome=\"503\",transport=\"sse\"}";
    assert_eq!(metric(admin, refused).await, 2.0);
    for stream in &mut streams {
        ends_with_the_last_chunk(stream).await;
    }
    assert_eq!(program.ended().await.code(), Some(0), "{}", program.log());
    assert!(began.elapsed() < drain + Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(TcpStream::connect(listen).is_err(), "nobody listens any more");
    assert!(!program.log().contains("panicked"), "{}", program.log());
    for line in program.log().lines() {
        let line: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        assert!(line["level"].is_string() && line["timestamp"].is_string(), "{line}");
    }
}

#[tokio::test]
async fn sigterm_ends_streams_cleanly() {
    says_goodbye(Signal::TERM).await;
}

#[tokio::test]
async fn sigint_is_the_same() {
    says_goodbye(Signal::INT).await;
}

#[tokio::test]
async fn no_secret_is_logged_at_any_level() {
    let own = Own::start(Setup { auth: true, ..Setup::default() }).await;
    let filters = filters("shop");
    let path = filters.path().to_str().unwrap();
    let uri = own.uri();
    let wrong = uri.replace(ROOT.1, "wr0ng-secret");
    let trace = [("SIDESTREAM_LOG__LEVEL", "trace")];
    for (uri, said) in [(&uri, "\"ready\""), (&wrong, "Authentication failed")] {
        let mut program = Program::start(&["--mongodb", uri, "--filters", path], &trace).await;
        let admin = program.admin;
        until("it has met MongoDB", || async move {
            http::get(admin, "/streams").await.text().contains(said)
        })
        .await;
        program.signal(Signal::TERM);
        assert_eq!(program.ended().await.code(), Some(0));
        let log = program.log();
        assert!(log.contains("\"TRACE\"") || log.contains("\"DEBUG\""), "a talkative log");
        for secret in [ROOT.1, "wr0ng-secret"] {
            assert!(!log.contains(secret), "{log}");
        }
    }
}
