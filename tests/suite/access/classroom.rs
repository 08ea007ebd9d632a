//! The classroom example, protected by its four lines of settings: the app itself, started as it
//! is, decides who listens.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mongodb::Client;
use mongodb::bson::doc;
use serde_json::json;

use super::knock;
use crate::support::http::request;
use crate::support::sidecar::Program;
use crate::support::sse::Stream;
use crate::support::{http, mongo};

struct Classroom {
    child: Child,
    address: SocketAddr,
}

impl Drop for Classroom {
    fn drop(&mut self) {
        // Ours, and perhaps gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn start_app() -> Classroom {
    let found = Command::new("python3")
        .args(["-c", "import devtools; print(devtools.use_pymongo())"])
        .current_dir(Path::new(ROOT).join("scripts"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("python3");
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    let pymongo = String::from_utf8_lossy(&found.stdout).lines().last().unwrap().to_owned();
    let mut child = Command::new("python3")
        .args(["examples/classroom/app.py", "--port", "0", "--mongodb", &mongo::uri()])
        .current_dir(ROOT)
        .env("PYTHONPATH", pymongo)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the app");
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("classroom on http://").expect("an address");
    Classroom { child, address: address.parse().unwrap() }
}

fn form(fields: &str, body: &str) -> String {
    format!(
        "{fields}Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Posts a form as a browser would, and gives the cookies that come back.
async fn post(address: SocketAddr, path: &str, cookies: &str, body: &str) -> String {
    let mut connection = http::Connection::open(address).await;
    let cookies = if cookies.is_empty() { String::new() } else { format!("Cookie: {cookies}\r\n") };
    let fields = form(&cookies, body);
    connection
        .send(format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{fields}"))
        .await;
    let answer = connection.answer("POST").await.expect("an answer");
    assert_eq!(answer.head.status, 303, "{}", answer.text());
    let set = answer.head.fields.iter().filter(|(name, _)| name == "set-cookie");
    let pairs = set.filter_map(|(_, value)| value.split(';').next());
    pairs.collect::<Vec<_>>().join("; ")
}

#[tokio::test(flavor = "multi_thread")]
async fn four_lines_of_settings_protect_the_classroom() {
    let app = tokio::task::spawn_blocking(start_app).await.unwrap();
    // As filters/answers.yaml asks whoever looks after the database.
    let images = doc! { "collMod": "answers", "changeStreamPreAndPostImages": { "enabled": true } };
    let client = Client::with_uri_str(mongo::uri()).await.expect("a client");
    client.database("classroom").run_command(images).await.unwrap();
    // The example's own file, with another port and less patience.
    let dir = tempfile::tempdir().unwrap();
    let text = Path::new(ROOT).join("examples/classroom/signed-in/sidestream.yaml");
    let text = std::fs::read_to_string(text)
        .unwrap()
        .replace("127.0.0.1:3000", &app.address.to_string())
        .replace("recheck: 30s", "recheck: 1s")
        .replace("filters: ", &format!("filters: {ROOT}/"));
    let auth = text.split_once("auth:").expect("auth").1;
    assert_eq!(auth.lines().filter(|line| !line.trim().is_empty()).count() + 1, 4);
    let settings = dir.path().join("sidestream.yaml");
    std::fs::write(&settings, &text).unwrap();
    let (url, uri) = (format!("http://{}", app.address), mongo::uri());
    let arguments = ["--config", settings.to_str().unwrap(), "--app", &url, "--mongodb", &uri];
    let program = Program::start_ready(&arguments, &[]).await;
    let listen = program.listen;

    assert_eq!(knock(listen, "/_events/mine", "").await.head.status, 401);
    let forged = "Cookie: student=Ada; session=made-up\r\n";
    assert_eq!(knock(listen, "/_events/mine", forged).await.head.status, 401);
    let ada = post(listen, "/join", "", "name=Ada").await;
    let bob = post(listen, "/join", "", "name=Bob").await;
    post(listen, "/teacher/ask", "", "text=Which+planet%3F").await;
    let page = request(listen, "GET", "/student", &format!("Cookie: {ada}\r\n")).await.text();
    let question = page.split_once("data-question=\"").unwrap().1.split_once('"').unwrap().0;

    let fields = |cookies: &str| format!("Cookie: {cookies}\r\n");
    let target = format!("/_events/answers?question={question}");
    let mut mine = Stream::open_with(listen, "/_events/mine", &fields(&ada)).await;
    let mut all = Stream::open_with(listen, &target, &fields(&bob)).await;
    mine.settled().await;
    all.settled().await;
    for (student, answer) in [(&bob, "Mars"), (&ada, "Venus")] {
        post(listen, "/answer", student, &format!("question={question}&answer={answer}")).await;
    }
    assert_eq!(mine.event().await.json()["fullDocument"]["answer"], "Venus");
    let answers: Vec<_> =
        all.events(2).await.iter().map(|e| e.json()["fullDocument"]["answer"].clone()).collect();
    assert_eq!(answers, [json!("Mars"), json!("Venus")]);

    post(listen, "/leave", &ada, "").await;
    let left = Instant::now();
    let end = mine.event().await;
    assert_eq!((end.name(), end.json()), ("end", json!({ "reason": "unauthorized" })));
    // A second, and what a loaded machine needs.
    assert!(left.elapsed() < Duration::from_secs(20), "{:?}", left.elapsed());
    // Bob is still there.
    post(listen, "/answer", &bob, &format!("question={question}&answer=Pluto")).await;
    assert_eq!(all.event().await.json()["fullDocument"]["answer"], "Pluto");
    crate::support::until("Ada is not let in again", || async {
        knock(listen, "/_events/mine", &fields(&ada)).await.head.status == 401
    })
    .await;
}
