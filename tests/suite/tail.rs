//! `sidestream tail`, as a process.

use std::io::BufRead;
use std::process::{Child, Command, Stdio};

use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::access::issuer::{claims, secret};
use crate::commands::{PROGRAM, database, err, run_beside};
use crate::support::sidecar::{self, Filters};
use crate::support::{mongo, unique, until};

/// `tail` as a process, whose lines go to a file.
struct Tail {
    child: Child,
    dir: tempfile::TempDir,
}

impl Tail {
    fn start(arguments: &[&str]) -> Tail {
        Tail::run(Command::new(PROGRAM).arg("tail").args(arguments))
    }

    /// On a terminal, which `script` of util-linux makes.
    fn on_a_terminal(url: &str, no_color: &str) -> Tail {
        let command = format!("'{PROGRAM}' tail --count 2 '{url}'");
        Tail::run(
            Command::new("script")
                .args(["--quiet", "--return", "--command", &command, "/dev/null"])
                .env("NO_COLOR", no_color),
        )
    }

    fn run(command: &mut Command) -> Tail {
        let dir = tempfile::tempdir().unwrap();
        let out = std::fs::File::create(dir.path().join("out")).unwrap();
        Tail::within(dir, command, out.into())
    }

    fn run_into(command: &mut Command, out: Stdio) -> Tail {
        Tail::within(tempfile::tempdir().unwrap(), command, out)
    }

    fn within(dir: tempfile::TempDir, command: &mut Command, out: Stdio) -> Tail {
        let err = std::fs::File::create(dir.path().join("err")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().unwrap();
        Tail { child, dir }
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("out")).unwrap()
    }

    /// The lines that are complete.
    fn lines(&self) -> Vec<Value> {
        let text = self.text();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    fn numbers(&self) -> Vec<i64> {
        let lines = self.lines();
        lines.iter().filter_map(|line| line["data"]["fullDocument"]["n"].as_i64()).collect()
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("err")).unwrap()
    }

    async fn code(&mut self) -> Option<i32> {
        let mut code = None;
        until("tail ends", || {
            code = self.child.try_wait().unwrap();
            let ended = code.is_some();
            async move { ended }
        })
        .await;
        code.unwrap().code()
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        // Ours, and perhaps gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn tail_follows_and_comes_back_like_a_browser() {
    let name = unique("tail");
    let filters = Filters::new(&[(
        "orders",
        &format!("collection: {name}.orders\naccess: public\noperations: [insert]\n"),
    )]);
    let quick = [("SIDESTREAM_CLIENTS__RETRY", "100ms"), ("SIDESTREAM_DRAIN", "100ms")];
    let sidecar = sidecar::start(&mongo::uri(), &filters, &quick).await;
    let address = sidecar.listen;
    let url = format!("http://{address}/_events/orders");
    let collection = database(&name).await.collection::<Document>("orders");
    let insert = async |n: i32| {
        collection.insert_one(doc! { "n": n }).await.unwrap();
    };
    let opened = async |count: usize| {
        let admin = sidecar.admin;
        let name = "sidestream_connections{transport=\"sse\"}";
        until("the streams are open", || async move {
            sidecar::metric(admin, name).await >= count as f64
        })
        .await;
    };

    let mut follower = Tail::start(&[&url, "--count", "3"]);
    opened(1).await;
    insert(1).await;
    until("the first event", || {
        let has = follower.numbers() == [1];
        async move { has }
    })
    .await;
    let first = follower.lines().into_iter().find(|line| line["event"] == "insert").unwrap();
    assert!(first["id"].as_str().unwrap().len() > 20, "{first}");

    // What happens while nobody is there comes when it is back.
    sidecar.finish().await;
    insert(2).await;
    let listen = address.to_string();
    let again = [quick[0], quick[1], ("SIDESTREAM_CLIENTS__HEARTBEAT", "200ms")];
    let config =
        sidecar::settings_on(&listen, &mongo::uri(), filters.path(), sidecar::nowhere(), &again);
    let sidecar = sidestream::Sidecar::start(config).await.expect("it starts again");
    insert(3).await;
    assert_eq!(follower.code().await, Some(0), "{}", follower.said());
    assert_eq!(follower.numbers(), [1, 2, 3]);
    assert!(follower.said().contains("reconnecting"), "{}", follower.said());

    // From an id, and in JSON for a pipe.
    let id = first["id"].as_str().unwrap().to_owned();
    let mut resumed = Tail::start(&[&url, "--last-event-id", &id, "--count", "2"]);
    assert_eq!(resumed.code().await, Some(0));
    assert_eq!(resumed.numbers(), [2, 3]);
    // A reset is shown.
    let mut lost = Tail::start(&[&url, "--last-event-id", "nonsense", "--count", "1"]);
    assert_eq!(lost.code().await, Some(0));
    let reset = lost.lines().into_iter().find(|line| line["event"] == "reset").unwrap();
    assert_eq!(reset["data"], json!({ "reason": "invalid-token" }));
    sidecar.finish().await;
}

#[tokio::test]
async fn tail_writes_for_people_on_a_terminal() {
    let name = unique("tail");
    let file = format!("collection: {name}.orders\naccess: public\n");
    let filters = Filters::new(&[("orders", &file)]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let url = format!("http://{}/_events/orders", sidecar.listen);
    let mut tails = [Tail::on_a_terminal(&url, ""), Tail::on_a_terminal(&url, "1")];
    for tail in &tails {
        until("it is ready", || async { tail.text().contains("ready") }).await;
    }
    let orders = database(&name).await.collection::<Document>("orders");
    orders.insert_one(doc! { "_id": 1 }).await.unwrap();
    orders.delete_one(doc! { "_id": 1 }).await.unwrap();
    for tail in &mut tails {
        assert_eq!(tail.code().await, Some(0), "{}", tail.text());
    }
    let [colours, plain] = tails.map(|tail| tail.text());
    for (kind, colour) in [("ready   ", "2"), ("insert  ", "32"), ("delete  ", "31")] {
        let coloured = format!("\u{1b}[{colour}m{kind}\u{1b}[0m {{");
        assert!(colours.contains(&coloured), "{kind}: {colours:?}");
        assert!(plain.contains(&format!("{kind} {{")), "{kind}: {plain:?}");
    }
    assert!(!plain.contains('\u{1b}'), "{plain:?}");
    sidecar.finish().await;
}

// `sidestream tail … | head -1`, of a stream on which nothing more happens.
#[tokio::test]
async fn tail_ends_with_its_reader() {
    let file = format!("collection: {}.orders\naccess: public\n", unique("tail"));
    let filters = Filters::new(&[("orders", &file)]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let url = format!("http://{}/_events/orders", sidecar.listen);
    let (reader, writer) = std::io::pipe().unwrap();
    let mut tail = Tail::run_into(Command::new(PROGRAM).args(["tail", &url]), Stdio::from(writer));
    let mut reader = std::io::BufReader::new(reader);
    let first = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        reader.read_line(&mut line).map(|_| line)
    });
    let first: Value = serde_json::from_str(&first.await.unwrap().unwrap()).unwrap();
    assert_eq!(first["event"], "ready");
    assert_eq!(tail.code().await, Some(0));
    assert_eq!(tail.said(), "");
    sidecar.finish().await;
}

#[tokio::test]
async fn tail_tells_what_the_sidecar_says() {
    let name = unique("tail");
    let file = |access: &str| {
        format!("collection: {name}.orders\naccess: {access}\noperations: [insert]\n")
    };
    let filters = Filters::new(&[("public", &file("public")), ("mine", &file("authenticated"))]);
    let auth = [
        ("SIDESTREAM_AUTH__JWT__SECRET", "0123456789abcdef0123456789abcdef"),
        ("SIDESTREAM_AUTH__JWT__ALGORITHMS", "HS256"),
    ];
    let sidecar = sidecar::start(&mongo::uri(), &filters, &auth).await;
    let url = |stream: &str| format!("http://{}/_events/{stream}", sidecar.listen);
    let bearer = format!(
        "Authorization: Bearer {}",
        secret("0123456789abcdef0123456789abcdef").sign(&claims(json!({})))
    );
    let dir = filters.path();
    for (arguments, code, said) in [
        (vec!["tail".to_owned(), url("nothing")], 1, "404: there is no stream `nothing`"),
        (vec!["tail".to_owned(), url("mine")], 1, "401: "),
        (vec!["tail".to_owned(), url("public?x=1")], 1, "400: parameter `x`"),
        (
            vec!["tail".to_owned(), "http://127.0.0.1:9/_events/x".to_owned()],
            3,
            "cannot connect to http://127.0.0.1:9/_events/x",
        ),
        (vec!["tail".to_owned(), "orders".to_owned()], 2, "is not an address"),
        (
            vec!["tail".to_owned(), url("public"), "--header".to_owned(), "x".to_owned()],
            2,
            "write it as 'Name: value'",
        ),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = run_beside(dir, &arguments).await;
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", err(&output));
        assert!(err(&output).contains(said), "{arguments:?}: {}", err(&output));
        assert!(output.stdout.is_empty());
    }
    let admin = sidecar.admin;
    let mut mine = Tail::start(&[&url("mine"), "--header", &bearer, "--count", "1"]);
    until("the stream is open", || async move {
        sidecar::metric(admin, "sidestream_connections{transport=\"sse\"}").await >= 1.0
    })
    .await;
    database(&name)
        .await
        .collection::<Document>("orders")
        .insert_one(doc! { "n": 1 })
        .await
        .unwrap();
    assert_eq!(mine.code().await, Some(0), "{}", mine.said());
    sidecar.finish().await;
}
