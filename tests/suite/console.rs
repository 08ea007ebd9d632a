//! What the console and other programs ask the admin port for, to the letter: the members of its JSON,
//! what is refused and how, and what the log says of those who look.

use mongodb::Client;
use mongodb::bson::{Document, doc};
use serde_json::Value;

use crate::support::sidecar::{self, Filters, Program, nowhere};
use crate::support::sse::Stream;
use crate::support::{http, mongo, unique, until};

fn members(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[tokio::test]
async fn its_json_has_these_members() {
    let database = unique("console");
    let text = format!(
        "collection: {database}.a\naccess: authenticated\n\
         match: {{ owner: {{ $claim: sub }}, team: {{ $claim: org.team }}, x: {{ $param: x }} }}\n\
         params: {{ x: {{ type: int, required: false, min: 0 }} }}\n"
    );
    let filters = Filters::new(&[
        ("shop/a", &text),
        ("shop__b", "acess: public\n"),
        ("c", &format!("collection: {database}.c\naccess: public\n")),
    ]);
    let settings = [
        ("SIDESTREAM_AUTH__JWT__SECRET", "a secret of the test that is long enough"),
        ("SIDESTREAM_AUTH__JWT__ALGORITHMS", "HS256"),
    ];
    let sidecar = sidecar::start(&mongo::uri(), &filters, &settings).await;
    let get = async |target: &str| {
        let answer = http::get(sidecar.admin, target).await;
        assert_eq!(answer.head.status, 200, "{target}: {}", answer.text());
        assert_eq!(answer.head.field("content-type"), Some("application/json"), "{target}");
        assert_eq!(answer.head.field("cache-control"), Some("no-store"), "{target}");
        answer.json()
    };

    let told = get("/streams").await;
    assert_eq!(members(&told), ["streams", "upstreams"]);
    let streams = told["streams"].as_array().unwrap();
    let names: Vec<_> = streams.iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["c", "shop/a", "shop/b"]);
    for stream in streams {
        assert_eq!(
            members(stream),
            [
                "name",
                "state",
                "reason",
                "snapshot",
                "connections",
                "subscriptions",
                "events_sent",
                "last_event",
                "cost"
            ]
        );
    }
    let states: Vec<_> = streams.iter().map(|it| it["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["ready", "ready", "broken"]);
    assert!(streams[2]["reason"].as_str().unwrap().contains("acess"), "{told}");
    let upstream = &told["upstreams"][0];
    assert_eq!(
        members(upstream),
        [
            "database",
            "mode",
            "status",
            "lag_seconds",
            "position",
            "oplog_hours",
            "routes",
            "journal_bytes"
        ]
    );
    assert_eq!((&upstream["status"], &upstream["routes"]), (&"live".into(), &0.into()));

    let overview = get("/overview").await;
    for name in ["ready", "troubles", "lag_seconds", "oplog_hours", "cursors", "journal_bytes"] {
        assert!(members(&overview).contains(&name), "{name}: {overview}");
    }

    let told = get("/filters").await;
    assert_eq!(members(&told), ["filters", "diagnostics"]);
    let of = |name: &str| {
        let all = told["filters"].as_array().unwrap().iter();
        all.into_iter().find(|it| it["stream"] == name).expect("the stream").clone()
    };
    let declared = &of("shop/a")["declared"];
    assert_eq!(declared["claims"], serde_json::json!(["org.team", "sub"]));
    assert_eq!(declared["params"]["x"]["type"], "int");
    assert_eq!(of("c")["diagnostics"], Value::Array(Vec::new()));
    // A file of a ConfigMap is that of its stream as well.
    let broken = of("shop/b");
    let text = broken["diagnostics"][0]["text"].as_str().unwrap();
    assert!(text.contains("shop__b.yaml:1:1: error: ") && text.contains("\n    ^^^^^"), "{text}");
    assert_eq!(told["diagnostics"], Value::Array(Vec::new()), "{told}");

    // A name comes encoded, or as it is.
    for stream in ["shop%2Fa", "shop/a"] {
        let listening = get(&format!("/listeners?stream={stream}")).await;
        assert_eq!(members(&listening), ["stream", "total", "listeners"]);
        assert_eq!(listening["stream"], "shop/a");
        let target = format!("/explain?stream={stream}&param=x=1&claim=sub=ada&claim=org.team=red");
        let explained = get(&target).await;
        assert_eq!(explained["stream"], "shop/a");
        assert_eq!(explained["sidecar"]["values"]["x"], 1, "{explained}");
    }
    sidecar.finish().await;
}

#[tokio::test]
async fn what_it_does_not_answer_it_refuses_with_the_reason() {
    let database = unique("console");
    let text = format!(
        "collection: {database}.a\naccess: public\nmatch: {{ x: {{ $param: x }} }}\n\
         params: {{ x: {{ type: int }} }}\n"
    );
    let filters = Filters::new(&[("a", &text)]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let admin = sidecar.admin;
    for (target, status, detail) in [
        ("/listeners", 400, "stream"),
        ("/listeners?stream=b", 404, "no such stream"),
        ("/listeners?stream=a&limit=x", 400, "limit"),
        ("/listeners?name=a", 400, "`name`"),
        ("/explain", 400, "stream"),
        ("/explain?stream=b", 404, "no such stream"),
        ("/explain?stream=a", 400, "x"),
        ("/explain?stream=a&param=x", 400, "NAME=VALUE"),
        ("/explain?stream=a&param=x=one", 400, "x"),
        ("/explain?stream=a&param=x=1&param=y=1", 400, "y"),
        ("/explain?stream=a&x=1", 400, "`x`"),
    ] {
        let answer = http::get(admin, target).await;
        let kind = answer.head.field("content-type");
        assert_eq!((answer.head.status, kind), (status, Some("application/problem+json")));
        let problem = answer.json();
        assert_eq!(problem["status"], status, "{target}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(detail), "{target}: {problem}");
    }
    for (method, target, allowed) in [
        ("POST", "/streams", "GET, HEAD"),
        ("PUT", "/", "GET, HEAD"),
        ("DELETE", "/filters", "GET, HEAD"),
        ("OPTIONS", "/overview", "GET, HEAD"),
        ("PATCH", "/metrics", "GET, HEAD"),
        ("GET", "/drain", "POST"),
        ("GET", "/try?stream=a", "POST"),
        ("HEAD", "/tap?stream=a", "POST"),
    ] {
        let head = http::request(admin, method, target, "").await.head;
        assert_eq!((head.status, head.field("allow")), (405, Some(allowed)), "{method} {target}");
        assert_eq!(head.field("access-control-allow-origin"), None);
    }
    assert_eq!(http::get(admin, "/metrics/").await.head.status, 404);
    for target in ["/streams", "/", "/metrics", "/readyz"] {
        let mut connection = http::Connection::open(admin).await;
        let fields = format!("Host: {admin}\r\nConnection: close\r\n");
        connection.send(format!("HEAD {target} HTTP/1.1\r\n{fields}\r\n")).await;
        let head = connection.head().await.unwrap();
        assert_eq!(head.status, 200, "{target}");
        let length: usize = head.field("content-length").unwrap().parse().unwrap();
        assert!(length > 0, "{target}");
        assert_eq!(connection.rest().await, b"", "{target}");
    }
    sidecar.finish().await;
}

/// Every page of another origin, in the browser of somebody who reaches the port.
#[tokio::test]
async fn pages_of_other_origins_read_and_change_nothing() {
    let database = unique("console");
    let text = format!("collection: {database}.a\naccess: public\n");
    let filters = Filters::new(&[("a", &text)]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let admin = sidecar.admin;
    let own = format!("Origin: http://{admin}\r\nSec-Fetch-Site: same-origin\r\n");
    let link =
        "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n";
    for target in
        ["/", "/streams", "/listeners?stream=a", "/filters", "/metrics", "/explain?stream=a"]
    {
        for fields in ["", own.as_str(), link] {
            let head = http::request(admin, "GET", target, fields).await.head;
            assert_eq!(head.status, 200, "{target} {fields}");
            assert_eq!(head.field("access-control-allow-origin"), None);
            assert_eq!(head.field("cross-origin-resource-policy"), Some("same-origin"));
        }
        for fields in [
            "Origin: https://evil.example\r\n",
            "Origin: null\r\n",
            "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n",
            "Sec-Fetch-Site: same-site\r\nSec-Fetch-Mode: cors\r\n",
            "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: iframe\r\n",
        ] {
            let head = http::request(admin, "GET", target, fields).await.head;
            assert_eq!(head.status, 403, "{target} {fields}");
        }
    }
    // No form and no script of such a page makes a pod leave its Service.
    for fields in
        ["Origin: https://evil.example\r\n", "Sec-Fetch-Site: cross-site\r\n", own.as_str()]
    {
        assert_eq!(http::request(admin, "POST", "/drain", fields).await.head.status, 403);
    }
    assert_eq!(http::get(admin, "/readyz").await.head.status, 200);
    sidecar.finish().await;
}

/// Whoever looks at documents is in the log; the documents are not.
#[tokio::test]
async fn the_log_says_who_looked_at_events() {
    let database = unique("console");
    let text = format!("collection: {database}.a\nproject: {{ n: 1 }}\naccess: public\n");
    let filters = Filters::new(&[("a", &text)]);
    let (path, app) = (filters.path().display().to_string(), format!("http://{}", nowhere()));
    let uri = mongo::uri();
    let arguments = ["--app", &app, "--filters", &path, "--mongodb", &uri];
    let program = Program::start_ready(&arguments, &[("SIDESTREAM_CONSOLE__TAP", "true")]).await;
    let mut stream = Stream::open(program.listen, "/_events/a").await;
    stream.until_ready().await;
    let client = Client::with_uri_str(&uri).await.unwrap();
    let collection = client.database(&database).collection::<Document>("a");
    let document = doc! { "n": "planted-and-shown", "hidden": "planted-and-hidden" };
    collection.insert_one(document).await.unwrap();
    stream.event().await;

    let page = http::get(program.admin, "/").await.text();
    let token = page.split("name=\"sidestream-token\" content=\"").nth(1).unwrap();
    let token = token.split('"').next().unwrap();
    let looked = "the events of a stream are shown in the console";
    // Who may not look has not looked.
    let refused = http::request(program.admin, "POST", "/tap?stream=a&after=0", "").await;
    assert_eq!(refused.head.status, 403);
    let fields = format!("Sidestream-Token: {token}\r\n");
    let shown = http::request(program.admin, "POST", "/tap?stream=a&after=0", &fields).await.text();
    assert!(
        shown.contains("planted-and-shown") && !shown.contains("planted-and-hidden"),
        "{shown}"
    );
    until("it is in the log", || async { program.log().contains(looked) }).await;
    let log = program.log();
    let lines: Vec<Value> =
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let fields: Vec<&Value> =
        lines.iter().map(|it| &it["fields"]).filter(|it| it["message"] == looked).collect();
    assert_eq!(fields.len(), 1, "{log}");
    assert_eq!((&fields[0]["stream"], &fields[0]["by"]), (&"a".into(), &"127.0.0.1".into()));
    assert!(!log.contains("planted") && !log.contains(token), "{log}");
}

// pingora, which serves the port, has timers of its own: a thread that wakes a hundred times a second
// from then on, whether anybody asks or not.
#[tokio::test]
async fn a_console_that_was_closed_leaves_no_timer_behind() {
    let filters = Filters::new(&[]);
    let (path, uri) = (filters.path().display().to_string(), mongo::uri());
    let app = format!("http://{}", nowhere());
    let arguments = ["--app", &app, "--filters", &path, "--mongodb", &uri];
    let program = Program::start_ready(&arguments, &[]).await;
    // On a connection that goes on, as a browser's does.
    let mut page = http::Connection::open(program.admin).await;
    for target in ["/", "/overview", "/streams", "/filters"] {
        page.send(format!("GET {target} HTTP/1.1\r\nHost: {}\r\n\r\n", program.admin)).await;
        assert_eq!(page.answer("GET").await.expect("an answer").head.status, 200, "{target}");
    }
    drop(page);
    let threads = std::fs::read_dir(format!("/proc/{}/task", program.id())).unwrap();
    let name = |thread: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(thread.unwrap().path().join("comm")).unwrap_or_default()
    };
    let names: Vec<String> = threads.map(name).collect();
    assert!(names.iter().any(|name| name.starts_with("tokio")), "{names:?}");
    assert!(!names.iter().any(|name| name.starts_with("Timer")), "{names:?}");
}
